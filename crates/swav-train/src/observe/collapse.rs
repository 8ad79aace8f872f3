//! What is done about a collapse.

use super::{Event, Observer, StepRecord, Watched};
use crate::TrainError;
use crate::checkpoint;
use crate::collapse::Verdict;
use crate::config::OnCollapse;

/// Judges each record, warns, and ends the run where the plan wants that.
#[derive(Clone, Copy, Debug)]
pub struct CollapseMonitor;

impl CollapseMonitor {
    fn judge(record: &StepRecord, run: &mut Watched<'_>) -> Result<(), TrainError> {
        let remedies = run.state.method.chance().remedies;
        let collapse = &mut run.state.collapse;
        match collapse.observe(record.step, record.loss, record.spread) {
            Verdict::Healthy => Ok(()),
            Verdict::Warning(sign) => {
                let note = format!("this may be a collapse: {sign}. {remedies}");
                run.tell(Event::Note(&note))
            }
            Verdict::Collapsed(sign) if run.plan.train.on_collapse == OnCollapse::Warn => {
                run.tell(Event::Note(&format!("collapsed: {sign}. {remedies}")))
            }
            Verdict::Collapsed(sign) => {
                let dump = checkpoint::dump(run.directory, run.state, "collapsed", run.ranks)?;
                Err(TrainError::Stopped(format!(
                    "training stopped at step {}: {sign}. {remedies}. The state is in {}; \
                     train.on_collapse=warn goes on regardless",
                    record.step,
                    dump.display()
                )))
            }
        }
    }
}

impl Observer for CollapseMonitor {
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError> {
        match event {
            Event::Logged(record) => Self::judge(record, run),
            _ => Ok(()),
        }
    }
}
