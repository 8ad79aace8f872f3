//! kNN accuracy while training goes on: the loss predicts quality badly.

use std::sync::Arc;

use swav_data::Source;
use swav_model::Network;
use swav_train::facts::JUDGED;
use swav_train::observe::{Event, KnnRecord, Observer, Watched, holds_knn};
use swav_train::{Plan, Stop, TrainError};

use burn::module::Module;
use burn::tensor::Device;

use crate::{Extraction, KnnConfig, Layer, Queries, Subset, knn};

/// Measures kNN accuracy as often as the plan says, on a part of the data that is quick to go through.
pub struct OnlineKnn {
    bank: Arc<dyn Source>,
    queries: Option<Arc<dyn Source>>,
    config: KnnConfig,
}

impl OnlineKnn {
    /// Images that are judged, where there is a test set.
    pub const QUERIES: usize = 2000;

    /// Over labelled training images; without a test set each is judged by the others.
    pub fn new(train: Arc<dyn Source>, test: Option<Arc<dyn Source>>) -> Self {
        let bank = Subset::spread(train, JUDGED);
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

    fn record(&self, run: &mut Watched<'_>) -> Result<(), TrainError> {
        let network = run.state.network.valid();
        let (plan, device, stop) = (run.plan, run.device, run.stop);
        let mut told = Ok(());
        let accuracy = self.measure(&network, plan, device, stop, |done, total| {
            let what = "kNN";
            let progress = run.tell(Event::Progress { what, done, total });
            told = std::mem::replace(&mut told, Ok(())).and(progress);
        })?;
        told?;
        let record = KnnRecord {
            step: run.state.step,
            epoch: run.epoch(),
            knn: accuracy,
            k: self.config.k,
        };
        run.tell(Event::Knn(&record))
    }
}

impl Observer for OnlineKnn {
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError> {
        let interval = run.plan.train.knn_steps;
        if interval.is_never() {
            return Ok(());
        }
        let step = run.state.step;
        match event {
            // A run that was stopped while measuring has saved the step but not the result. Of one without steps the
            // untrained network is judged.
            Event::Begin if run.is_due(interval) && (step > 0 || run.is_last()) => {
                match holds_knn(&run.directory.metrics(), step) {
                    true => Ok(()),
                    false => self.record(run),
                }
            }
            Event::Step(_) if run.is_due(interval) => self.record(run),
            _ => Ok(()),
        }
    }
}
