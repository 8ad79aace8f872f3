//! The processes that train one network together.

use burn::optim::GradientsParams;
pub use swav_ot::Local;
use swav_ot::Reduce;

/// The ranks of a run, each a process with a device and a part of every batch.
///
/// Every rank makes the same calls in the same order, and each gets the same bits back. What crosses the ranks for an
/// assignment is in [`Reduce`].
pub trait Communicator: Reduce + Send {
    /// Which of the ranks this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn world(&self) -> usize;

    /// The mean of each gradient over the ranks.
    fn average(&mut self, gradients: GradientsParams) -> GradientsParams;
}

impl Communicator for Local {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn average(&mut self, gradients: GradientsParams) -> GradientsParams {
        gradients
    }
}
