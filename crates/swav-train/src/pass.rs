//! A look at all images of an epoch without learning from them.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use swav_data::{CropSpec, Cursor, Loader, LoaderConfig, Order, Source, View};
use swav_model::Network;

use crate::display::Display;
use crate::forward::{by_crop, untracked};
use crate::plan::Plan;
use crate::upload::{Normalisation, Uploader};
use crate::{Stop, TrainError};

/// One look at all images of an epoch, as the training will see them but without learning from them.
pub(crate) struct Pass<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) source: &'a Arc<dyn Source>,
    pub(crate) epoch: u64,
    pub(crate) device: &'a Device,
    pub(crate) stop: &'a Stop,
    pub(crate) display: &'a mut dyn Display,
}

impl Pass<'_> {
    /// Hands on each batch's indices and the embeddings, `[B, dim]`, of each of the first `crops` crops.
    pub(crate) fn run(
        &mut self,
        network: &Network,
        crops: usize,
        sink: &mut dyn FnMut(&[usize], &[Tensor<2>]),
    ) -> Result<(), TrainError> {
        let network = untracked(network);
        let start = Cursor {
            epoch: self.epoch,
            position: 0,
        };
        let config = loader_config(self.plan, first(&self.plan.crops, crops));
        let mut loader = Loader::new(self.source.clone(), config, start)?;
        let uploader = Uploader::new(&Normalisation::TRAINING, self.device);
        let total = self.plan.data.images;
        for done in 1..=loader.batches_per_epoch() {
            if self.stop.requested() || self.display.stop_requested() {
                return Err(TrainError::Interrupted);
            }
            let Some(batch) = loader.next_batch()? else {
                break;
            };
            let samples = batch.indices.len();
            let rows = samples / self.plan.train.accumulate;
            let outputs: Vec<_> = (0..self.plan.train.accumulate)
                .map(|part| {
                    let rows = part * rows..(part + 1) * rows;
                    let packer = uploader.packer();
                    let crops = packer.rows(&batch.groups, samples, rows, |_| true);
                    let crops = crops.into_iter().map(|packed| uploader.images(packed));
                    network.forward(crops.collect())
                })
                .collect();
            sink(&batch.indices, &by_crop(&outputs, rows)[..crops]);
            loader.recycle(batch);
            let seen = (done as usize * samples).min(total);
            self.display.progress("looking at all images", seen, total);
        }
        Ok(())
    }
}

/// The groups that hold the first `count` crops.
fn first(crops: &[CropSpec], count: usize) -> Vec<CropSpec> {
    let mut before = 0;
    crops
        .iter()
        .take_while(|group| {
            let wanted = before < count;
            before += group.count;
            wanted
        })
        .cloned()
        .collect()
}

/// How `crops` of the training images come, in the order of training.
pub(crate) fn loader_config(plan: &Plan, crops: Vec<CropSpec>) -> LoaderConfig {
    LoaderConfig {
        batch_size: plan.train.batch_size,
        view: View::MultiCrop {
            crops,
            augment: plan.augment.clone(),
        },
        order: Order::Shuffled {
            seed: plan.train.seed,
        },
        workers: plan.data.workers,
        prefetch: plan.data.prefetch,
        drop_last: true,
        corrupt_budget: plan.data.corrupt_budget,
        max_pixels: plan.data.max_pixels,
        seed: plan.train.seed,
        ..LoaderConfig::default()
    }
}
