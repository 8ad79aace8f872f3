//! Looking at all images of an epoch without learning from them.

use std::sync::Arc;

use burn::tensor::Device;
use swav_data::{CropSpec, Cursor, Loader, LoaderConfig, Order, Source, View};
use swav_model::Network;

use crate::TrainError;
use crate::batch::rows;
use crate::comm::Communicator;
use crate::forward::{by_crop, forward, untracked};
use crate::method::EmbeddedBatch;
use crate::plan::Plan;
use crate::precision::Precision;
use crate::upload::{Normalisation, Uploader};

/// What a network makes of the images of an epoch, seen as training will see them.
pub(crate) struct EpochEmbeddings {
    network: Network,
    loader: Loader,
    uploader: Uploader,
    /// How many of the first crops are embedded.
    crops: usize,
    /// Parts of a batch that go through the network one after the other.
    parts: usize,
    precision: Precision,
    batches_left: u64,
}

impl EpochEmbeddings {
    /// Those of the first `crops` crops of each image in the epoch of that `number`; `device` is without gradients.
    pub(crate) fn new(
        plan: &Plan,
        source: Arc<dyn Source>,
        network: &Network,
        number: u64,
        crops: usize,
        device: &Device,
        ranks: &dyn Communicator,
    ) -> Result<Self, TrainError> {
        let start = Cursor {
            epoch: number,
            position: 0,
        };
        let config = loader_config(plan, first(&plan.crops, crops), ranks);
        let loader = Loader::new(source, config, start)?;
        Ok(Self {
            network: untracked(network),
            batches_left: loader.batches_per_epoch(),
            loader,
            uploader: Uploader::new(&Normalisation::TRAINING, device),
            crops,
            parts: plan.train.accumulate,
            precision: plan.train.precision,
        })
    }

    /// The next batch, until there is none.
    ///
    /// # Errors
    /// If the data fails.
    pub(crate) fn next(&mut self) -> Result<Option<EmbeddedBatch>, TrainError> {
        if self.batches_left == 0 {
            return Ok(None);
        }
        self.batches_left -= 1;
        let Some(batch) = self.loader.next_batch()? else {
            return Ok(None);
        };
        let (images, parts) = (batch.indices.len(), self.parts);
        let outputs: Vec<_> = (0..parts)
            .map(|part| {
                let packer = self.uploader.packer();
                let crops = packer.rows(&batch.groups, images, rows(part, parts, images), |_| true);
                let crops = crops.into_iter().map(|packed| self.uploader.images(packed));
                forward(&self.network, crops.collect(), self.precision)
            })
            .collect();
        let mut embeddings = by_crop(&outputs, images / parts);
        embeddings.truncate(self.crops);
        let embedded = EmbeddedBatch {
            indices: batch.indices.clone(),
            embeddings,
        };
        self.loader.recycle(batch);
        Ok(Some(embedded))
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

/// How `crops` of a rank's training images come, in the order of training.
pub(crate) fn loader_config(
    plan: &Plan,
    crops: Vec<CropSpec>,
    ranks: &dyn Communicator,
) -> LoaderConfig {
    LoaderConfig {
        batch_size: plan.train.batch_size / ranks.world(),
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
        rank: ranks.rank(),
        world: ranks.world(),
        ..LoaderConfig::default()
    }
}
