//! What differs between the methods, and nothing else.
//!
//! The trainer does not know which method it runs. It asks the method for the *targets* of a step
//! (for SwAV: the codes), which need no gradient and see the whole batch, then for the *loss* of
//! each micro-batch against its part of the targets.

mod queue;
mod swav;

use std::path::Path;

use burn::module::ParamId;
use burn::tensor::{Device, Tensor};
use swav_model::{Network, Outputs};
use swav_ot::CodeReport;

pub use queue::Queue;
pub use swav::{QueuePlan, Swav, SwavPlan, swapped_loss};

use crate::TrainError;

/// The targets of one step: for each assigning crop and each prototype head a distribution over
/// prototypes, `[B, K]`, without gradient.
#[derive(Clone, Debug)]
pub struct Targets {
    /// `codes[i][h]`: of the i-th assigning crop, for head h.
    pub codes: Vec<Vec<Tensor<2>>>,
}

impl Targets {
    /// The rows `start .. start + rows` of every target.
    pub fn rows(&self, start: usize, rows: usize) -> Self {
        let part = |codes: &Tensor<2>| codes.clone().narrow(0, start, rows);
        Self {
            codes: self
                .codes
                .iter()
                .map(|heads| heads.iter().map(part).collect())
                .collect(),
        }
    }
}

/// How features become a loss.
pub trait Method: Send {
    /// Called before the forward pass: SwAV brings its prototypes back to unit length.
    fn prepare(&mut self, network: Network) -> Network;

    /// The targets of the batch. `embeddings[v]` are the unit embeddings of crop v, `[B, dim]`,
    /// of the whole batch; whatever the method remembers of the batch it remembers here.
    fn targets(&mut self, step: u64, network: &Network, embeddings: &[Tensor<2>]) -> Targets;

    /// The loss of `outputs` against targets of the same rows, `[1]`.
    fn loss(&self, outputs: &Outputs, targets: &Targets) -> Tensor<1>;

    /// Parameters that keep their values at `step`: neither gradient, decay nor momentum.
    fn frozen(&self, step: u64, network: &Network) -> Vec<ParamId>;

    /// The loss of features that tell nothing apart, by which a collapse is recognised.
    fn chance_loss(&self) -> f64;

    /// What the last targets looked like, read back from the device.
    fn statistics(&self, targets: &Targets) -> CodeReport;

    /// Writes what the method remembers into the directory of a checkpoint.
    ///
    /// # Errors
    /// If the directory cannot be written.
    fn save(&self, directory: &Path) -> Result<(), TrainError>;

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// If a file is missing, damaged or of another shape.
    fn load(&mut self, directory: &Path, device: &Device) -> Result<(), TrainError>;
}
