//! The rows that a linear classifier learns from: taken from features that were extracted once, or extracted anew, from
//! other crops, in every epoch.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use swav_data::{
    Augment, CropSpec, Cursor, Loader, LoaderConfig, Order, Permutation, Source, View,
};
use swav_model::Network;

use super::features::Features;
use swav_train::Plan;
use swav_train::TrainError;
use swav_train::{Normalisation, Uploader};

/// Labelled rows of features, in a new order in each epoch.
pub trait Batches {
    /// Rows of an epoch.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Batch `step` of `epoch`, both from 0: rows `[B, dim]` and their labels. The batches are asked for in order,
    /// beginning with the first of any epoch.
    ///
    /// # Errors
    /// If data or device fail.
    fn batch(
        &mut self,
        epoch: usize,
        step: usize,
        size: usize,
    ) -> Result<(Tensor<2>, Vec<u32>), TrainError>;
}

/// Features that were extracted once, on the device.
pub struct Cached {
    /// `[rows, dim]`
    values: Tensor<2>,
    labels: Vec<u32>,
    seed: u64,
}

impl Cached {
    /// The labelled rows of `features`, in orders by `seed`.
    pub fn new(features: &Features, seed: u64, device: &Device) -> Self {
        let (values, labels) = features.labelled();
        let shape = [labels.len(), features.dim];
        Self {
            values: Tensor::from_data(TensorData::new(values, shape), device),
            labels,
            seed,
        }
    }
}

impl Batches for Cached {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn batch(
        &mut self,
        epoch: usize,
        step: usize,
        size: usize,
    ) -> Result<(Tensor<2>, Vec<u32>), TrainError> {
        let order = Permutation::new(self.len() as u64, self.seed, epoch as u64);
        let rows = step * size..self.len().min((step + 1) * size);
        let rows: Vec<usize> = rows.map(|i| order.at(i as u64) as usize).collect();
        let labels = rows.iter().map(|&row| self.labels[row]).collect();
        let rows: Vec<i32> = rows.into_iter().map(|row| row as i32).collect();
        let shape = [rows.len()];
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, shape), &self.values.device());
        Ok((self.values.clone().select(0, rows), labels))
    }
}

/// Features of random crops, which a frozen network extracts when they are asked for.
pub struct Augmented<'a> {
    /// Resolution, limits and threads.
    plan: &'a Plan,
    /// To where the network runs, without gradients.
    uploader: Uploader,
    /// The frozen network.
    network: &'a Network,
    /// Images with one label each.
    source: Arc<dyn Source>,
    /// Of order and crops.
    seed: u64,
    /// Opened with the first batch.
    loader: Option<Loader>,
}

impl<'a> Augmented<'a> {
    /// The images of `source`, in orders and crops by `seed`.
    pub fn new(
        plan: &'a Plan,
        device: &'a Device,
        network: &'a Network,
        source: Arc<dyn Source>,
        seed: u64,
    ) -> Self {
        Self {
            plan,
            uploader: Uploader::new(&Normalisation::TRAINING, device),
            network,
            source,
            seed,
            loader: None,
        }
    }
}

impl Batches for Augmented<'_> {
    fn len(&self) -> usize {
        self.source.len()
    }

    fn batch(
        &mut self,
        epoch: usize,
        _step: usize,
        size: usize,
    ) -> Result<(Tensor<2>, Vec<u32>), TrainError> {
        let loader = match &mut self.loader {
            Some(loader) => loader,
            none => {
                let start = Cursor {
                    epoch: epoch as u64,
                    position: 0,
                };
                let config = random_crops(self.plan, size, self.seed);
                none.insert(Loader::new(self.source.clone(), config, start)?)
            }
        };
        let shown = loader.next_batch()?.ok_or_else(|| {
            TrainError::Recipe("the images to learn from have come to an end".to_string())
        })?;
        let images = self.uploader.group(&shown.groups[0]);
        let labels = shown.labels.iter().map(|labels| labels[0]).collect();
        loader.recycle(shown);
        Ok((self.network.features(images), labels))
    }
}

/// The least share of an image that a crop shows, as in torchvision's random resized crop.
const LEAST: f32 = 0.08;

/// Random resized crops and mirror images of the evaluation's size, the augmentation that classifiers are trained with
/// (Caron et al., NeurIPS 2020, appendix A.6 and A.7).
pub(super) fn random_crops(plan: &Plan, batch_size: usize, seed: u64) -> LoaderConfig {
    let data = &plan.data;
    LoaderConfig {
        batch_size,
        view: View::MultiCrop {
            crops: vec![CropSpec {
                count: 1,
                size: plan.evaluation.size,
                scale: [LEAST, 1.0],
            }],
            augment: Augment {
                flip: 0.5,
                ..Augment::none()
            },
        },
        order: Order::Shuffled { seed },
        workers: data.workers,
        prefetch: data.prefetch,
        drop_last: true,
        corrupt_budget: data.corrupt_budget,
        max_pixels: data.max_pixels,
        seed,
        ..LoaderConfig::default()
    }
}
