//! What differs between the methods, and nothing else.
//!
//! The trainer does not know which method it runs. Before an epoch it lets the method look at all images
//! (DeepCluster-v2 clusters them). In each step it asks for the *targets* of the whole batch, which need
//! no gradient (for SwAV: the codes), then for the *loss* of each micro-batch against its rows of the
//! targets, and tells the method when the network has been updated.

mod bank;
mod checks;
mod deepcluster_v2;
mod labels;
mod loss;
mod moco_v2;
mod momentum;
mod queue;
mod random;
mod sela_v2;
mod settings;
mod simclr;
mod supervised;
mod swav;
mod tensor_file;

use std::ops::Range;
use std::path::Path;

use burn::module::ParamId;
use burn::tensor::{Device, Tensor};
use swav_model::{Network, Outputs};

pub use bank::Bank;
pub use deepcluster_v2::{DeepclusterV2, DeepclusterV2Plan, DeepclusterV2Recipe};
pub use labels::{Labels, one_hot};
pub use loss::prediction_loss;
pub use moco_v2::{MocoV2, MocoV2Plan, MocoV2Recipe, key_loss};
pub use momentum::Momentum;
pub use queue::{Queue, QueueRecipe};
pub use random::{RandomPlan, RandomRecipe};
pub use sela_v2::{LabelKind, SelaV2, SelaV2Plan, SelaV2Recipe};
pub(crate) use settings::{
    Defaults, MethodContext, OptimizerDefaults, PlanSettings, RecipeSettings,
};
pub use settings::{MethodName, MethodPlan, MethodRecipe};
pub use simclr::{Simclr, SimclrPlan, SimclrRecipe, contrastive_loss};
pub use supervised::{Supervised, SupervisedPlan, SupervisedRecipe};
pub use swav::{QueuePlan, Swav, SwavPlan, SwavRecipe, swapped_loss};

use crate::TrainError;
use crate::comm::Communicator;

/// How features become a loss.
pub trait Method: Send {
    /// Of how many of the first crops of every image the method wants embeddings before the epoch that is about to begin.
    fn crops_before_epoch(&self) -> usize {
        0
    }

    /// Called before the first step of every epoch, with those embeddings.
    ///
    /// # Errors
    /// If nothing can be made of them.
    fn before_epoch(
        &mut self,
        _start: EpochStart,
        network: Network,
        _ranks: &mut dyn Communicator,
    ) -> Result<Network, TrainError> {
        Ok(network)
    }

    /// Called before each forward pass: SwAV brings its prototypes back to unit length.
    fn before_step(&mut self, network: Network) -> Network {
        network
    }

    /// Whether the network is shown the crop of that number of each image: all of them, but where a method keeps one to
    /// itself.
    fn shows(&self, _crop: usize) -> bool {
        true
    }

    /// The targets of the batch; whatever the method remembers of the batch it remembers here.
    fn targets(&mut self, inputs: &TargetInputs<'_>, ranks: &mut dyn Communicator) -> Targets;

    /// The loss of the samples `rows` of the batch, `[1]`: `outputs` are theirs, the targets are the whole
    /// batch's. The mean over equal parts of a batch is the batch's loss, and so are the gradients.
    fn loss(&self, outputs: &Outputs, targets: &Targets, rows: Range<usize>) -> Tensor<1>;

    /// Parameters that keep their values at `step`: neither gradient, decay nor momentum.
    fn frozen(&self, _step: u64, _network: &Network) -> Vec<ParamId> {
        Vec::new()
    }

    /// Called after each update: a momentum encoder follows, a queue takes in the batch.
    fn after_step(&mut self, _network: &Network, _targets: &Targets) {}

    /// By what a collapse is recognised.
    fn chance(&self) -> Chance;

    /// What the last targets of all ranks looked like, read back from the device.
    fn metrics(&self, targets: &Targets, ranks: &mut dyn Communicator) -> Vec<Metric>;

    /// Writes what the method remembers into the directory of a checkpoint, in a layout that is the same for any number of
    /// ranks. All ranks are asked to, and rank 0 alone writes.
    ///
    /// # Errors
    /// If the directory cannot be written.
    fn save(&self, _directory: &Path, _ranks: &mut dyn Communicator) -> Result<(), TrainError> {
        Ok(())
    }

    /// Reads what is this rank's of what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// If a file is missing, damaged or of another shape.
    fn load(
        &mut self,
        _directory: &Path,
        _device: &Device,
        _ranks: &dyn Communicator,
    ) -> Result<(), TrainError> {
        Ok(())
    }
}

/// The targets of one step: tensors without gradient for all images of this rank, in an order that is the method's own.
#[derive(Clone, Debug, Default)]
pub struct Targets(pub Vec<Tensor<2>>);

/// What the targets of the B images of a batch that are this rank's are made of.
#[derive(Clone, Copy)]
pub struct TargetInputs<'a> {
    /// Steps done before this one.
    pub step: u64,
    /// The network that will be updated.
    pub network: &'a Network,
    /// Returns the crop of that number of all images, `[B, 3, S, S]`, without gradient.
    pub crop: &'a dyn Fn(usize) -> Tensor<4>,
    /// Of each crop that the network was shown, unit embeddings `[B, dim]`, without gradient.
    pub embeddings: &'a [Tensor<2>],
    /// Of each image, its index in the source.
    pub indices: &'a [usize],
    /// Of each image, its labels; none where the source has none.
    pub labels: &'a [Vec<u32>],
}

/// An epoch that is about to begin, as far as it is this rank's.
#[derive(Clone, Debug)]
pub struct EpochStart {
    /// Which one, from 0.
    pub number: u64,
    /// The seed of the run.
    pub seed: u64,
    /// The images of the epoch in its order, where the method [wants](Method::crops_before_epoch) them.
    pub embedded: Vec<EmbeddedBatch>,
}

/// A batch of B images as the network sees it.
#[derive(Clone, Debug)]
pub struct EmbeddedBatch {
    /// Of each image, its index in the source.
    pub indices: Vec<usize>,
    /// Of each of the first crops, unit embeddings `[B, dim]`, without gradient.
    pub embeddings: Vec<Tensor<2>>,
}

/// By what it is recognised that features tell nothing apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chance {
    /// The loss of such features, where it is known.
    pub loss: Option<f64>,
    /// The step from which on it counts.
    pub from_step: u64,
    /// What has helped others, most often first.
    pub remedies: &'static str,
}

/// A number of a method's own, for `metrics.jsonl` and the display.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its key, such as `code_entropy`.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
}

impl Metric {
    /// `name` of `value`.
    pub fn new(name: &'static str, value: f64) -> Self {
        Self { name, value }
    }
}
