//! kNN accuracy while training goes on: the loss predicts quality badly.

use std::sync::Arc;

use burn::tensor::Device;
use swav_data::Source;
use swav_model::Network;

use crate::eval::{Extraction, KnnConfig, Layer, Queries, Subset, knn};
use crate::plan::Plan;
use crate::{Stop, TrainError};

/// Measures kNN accuracy on a part of the data that is quick to go through.
pub struct OnlineKnn {
    bank: Arc<dyn Source>,
    queries: Option<Arc<dyn Source>>,
    config: KnnConfig,
}

impl OnlineKnn {
    /// Images that may be neighbours.
    pub const BANK: usize = 5000;
    /// Images that are judged, where there is a test set.
    pub const QUERIES: usize = 2000;

    /// Over labelled training images; without a test set each is judged by the others.
    pub fn new(train: Arc<dyn Source>, test: Option<Arc<dyn Source>>) -> Self {
        let bank = Subset::spread(train, Self::BANK);
        // 200 neighbours are usual, 20 where 200 would be much of the set.
        let k = if bank.len() >= 2000 { 200 } else { 20 };
        Self {
            bank: Arc::new(bank),
            queries: test.map(|test| Arc::new(Subset::spread(test, Self::QUERIES)) as _),
            config: KnnConfig {
                k,
                temperature: 0.1,
            },
        }
    }

    /// Neighbours that vote.
    pub fn k(&self) -> usize {
        self.config.k
    }

    /// Accuracy of the network's features, 0–1; `progress` is told images done and all images.
    ///
    /// # Errors
    /// If the data or the device fails, or the run is interrupted.
    pub fn measure(
        &self,
        network: &Network,
        plan: &Plan,
        device: &Device,
        stop: &Stop,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<f64, TrainError> {
        let extraction = Extraction {
            plan,
            device,
            layer: Layer::Features,
        };
        let total = self.bank.len() + self.queries.as_ref().map_or(0, |q| q.len());
        let bank = extraction.collect(network, self.bank.clone(), stop, |done| {
            progress(done, total);
        })?;
        let queries = match &self.queries {
            Some(source) => {
                let first = self.bank.len();
                let rows = extraction.collect(network, source.clone(), stop, |done| {
                    progress(first + done, total);
                })?;
                Some(rows)
            }
            None => None,
        };
        let queries = queries.as_ref().map_or(Queries::LeaveOneOut, Queries::Of);
        Ok(knn(&bank, queries, &[self.config], device)?[0].accuracy)
    }
}
