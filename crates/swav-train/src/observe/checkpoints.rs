//! When a run is saved.

use super::{Event, Observer, Watched};
use crate::TrainError;
use crate::checkpoint;
use crate::files;

/// Saves the state as often as the plan says, at the end, and when the run is left before it.
#[derive(Debug, Default)]
pub struct Checkpoints {
    /// The step of the state that the run began with, or that was saved last.
    saved: u64,
}

impl Checkpoints {
    fn save(&mut self, run: &mut Watched<'_>) -> Result<(), TrainError> {
        run.require_finite()?;
        let metrics = run.directory.metrics();
        if run.ranks.rank() == 0 && metrics.is_file() {
            files::sync(&metrics)?;
        }
        checkpoint::save(run.directory, run.state, run.plan.train.keep, run.ranks)?;
        self.saved = run.state.step;
        run.tell(Event::Saved)
    }
}

impl Observer for Checkpoints {
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError> {
        match event {
            // An untrained network is a result too: what the others are compared with.
            Event::Begin if run.plan.train.steps == 0 => self.save(run),
            Event::Begin => {
                self.saved = run.state.step;
                Ok(())
            }
            Event::Step(_) if run.is_due(run.plan.train.checkpoint_steps) => self.save(run),
            Event::Leave if self.saved != run.state.step => self.save(run),
            _ => Ok(()),
        }
    }
}
