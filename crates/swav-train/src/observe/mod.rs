//! Who watches a run: the loop tells them what happens, and one may tell the others what it has found.

mod checkpoints;
mod collapse;
pub mod display;
mod metrics;
mod record;
mod spread;
mod tensorboard;

use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{Device, Tensor};
use swav_data::{BadFile, Source};

pub use checkpoints::Checkpoints;
pub use collapse::CollapseMonitor;
pub use metrics::{KnnRecord, Metrics, StepRecord, holds_knn};
pub use record::Recorder;
pub use tensorboard::TensorBoard;

use crate::checkpoint;
use crate::comm::Communicator;
use crate::device::read;
use crate::plan::Plan;
use crate::run::RunDirectory;
use crate::span::Interval;
use crate::state::{State, sum_of_squares};
use crate::step::Step;
use crate::{Stop, TrainError};

/// How a run ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// The user asked for an end; the state is saved.
    Interrupted,
}

/// What happens in a run.
#[derive(Clone, Copy)]
pub enum Event<'a> {
    /// It begins, or continues, with the state as it stands.
    Begin,
    /// A file without an image was met.
    BadFile(&'a BadFile),
    /// A step is done.
    Step(&'a Step),
    /// A step was read back from the device.
    Logged(&'a StepRecord),
    /// kNN accuracy was measured.
    Knn(&'a KnnRecord),
    /// A checkpoint is complete.
    Saved,
    /// The report was written anew.
    Reported,
    /// The user should know something.
    Note(&'a str),
    /// A wait that is not a step.
    Progress {
        /// What is being done.
        what: &'a str,
        /// Images that are through.
        done: usize,
        /// All images.
        total: usize,
    },
    /// It ends before its last step, with a state that is good.
    Leave,
    /// It is over.
    End(Result<&'a Outcome, &'a TrainError>),
}

/// Watches a run. What it does changes no number of the run; it may end it by an error, or ask for its end.
pub trait Observer {
    /// Something happens.
    ///
    /// # Errors
    /// What is to end the run.
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError>;
}

/// A run as its observers see it.
pub struct Watched<'a> {
    /// What is carried out.
    pub plan: &'a Plan,
    /// Where it is written down.
    pub directory: &'a RunDirectory,
    /// How far it is.
    pub state: &'a mut State,
    /// The training images.
    pub source: &'a Arc<dyn Source>,
    /// Where it runs, without gradients.
    pub device: &'a Device,
    /// The ranks that share it.
    pub ranks: &'a mut dyn Communicator,
    /// By whom it is stopped.
    pub stop: &'a Stop,
    /// How long steps have waited for data, in all.
    pub waited: Duration,
    /// The sum of the losses since it was last looked at, `[1]`.
    pub(crate) losses: &'a mut Option<Tensor<1>>,
    pub(crate) observers: &'a mut Observers,
}

impl Watched<'_> {
    /// Tells all observers of an event, but those that are busy with one.
    ///
    /// # Errors
    /// The first of any of them; those behind it are not told.
    pub fn tell(&mut self, event: Event<'_>) -> Result<(), TrainError> {
        for i in 0..self.observers.0.len() {
            if let Some(mut observer) = self.observers.0[i].take() {
                let noticed = observer.notice(event, self);
                self.observers.0[i] = Some(observer);
                noticed?;
            }
        }
        Ok(())
    }

    /// Steps done, in epochs.
    pub fn epoch(&self) -> f64 {
        self.state.step as f64 / self.plan.train.steps_per_epoch as f64
    }

    /// Whether all steps are done.
    pub fn is_last(&self) -> bool {
        self.state.step == self.plan.train.steps
    }

    /// Whether what happens at this interval, and at the end, happens now.
    pub fn is_due(&self, interval: Interval) -> bool {
        self.is_last() || interval.is_due(self.state.step)
    }

    /// Never goes on, and never saves over a good state, once a number is none any more.
    ///
    /// # Errors
    /// If a loss or a weight is not finite; the state is then dumped for a look.
    pub fn require_finite(&mut self) -> Result<(), TrainError> {
        let sums = [
            self.losses.take(),
            Some(sum_of_squares(&self.state.network)),
        ];
        for sum in sums.into_iter().flatten() {
            if !read(sum)?[0].is_finite() {
                let dump = checkpoint::dump(self.directory, self.state, "non-finite", self.ranks)?;
                return Err(TrainError::Stopped(format!(
                    "training stopped at step {}: the loss or a weight is no finite number any \
                     more. The state is in {} for a look, the checkpoints before it are good. \
                     Start a new run with a smaller optimizer.lr, a longer optimizer.warmup, or a \
                     larger method.epsilon",
                    self.state.step,
                    dump.display()
                )));
            }
        }
        Ok(())
    }
}

/// The observers of a run, in the order in which they are told. One that is busy is missing.
pub(crate) struct Observers(Vec<Option<Box<dyn Observer>>>);

impl Observers {
    pub(crate) fn new(observers: Vec<Box<dyn Observer>>) -> Self {
        Self(observers.into_iter().map(Some).collect())
    }
}

/// The observers of a rank that is not the first: they take part in what all ranks compute together, judge as the first does,
/// and write nothing.
pub fn followers() -> Vec<Box<dyn Observer>> {
    vec![
        Box::new(Recorder::default()),
        Box::new(CollapseMonitor),
        Box::new(Checkpoints::default()),
    ]
}

/// The observers that every run has: records of its steps, in `metrics.jsonl` and for TensorBoard where the plan asks for
/// it, the watch for a collapse, and checkpoints.
pub fn standard() -> Vec<Box<dyn Observer>> {
    vec![
        Box::new(Recorder::default()),
        Box::new(Metrics::default()),
        Box::new(TensorBoard::default()),
        Box::new(CollapseMonitor),
        Box::new(Checkpoints::default()),
    ]
}
