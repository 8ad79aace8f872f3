//! Plain lines on stderr, a few a minute: for logs, pipes and batch systems.

use std::time::{Duration, Instant};

use super::{Progress, readable, say, short, spoken};
use crate::TrainError;
use crate::observe::{Event, KnnRecord, Observer, Outcome, StepRecord, Watched};
use crate::plan::Plan;

/// One line every few seconds and one for whatever matters.
#[derive(Debug)]
pub struct Lines {
    steps: u64,
    epochs: u64,
    first_step: u64,
    began: Instant,
    shown: Option<Instant>,
    wait: Option<Progress>,
}

impl Lines {
    const INTERVAL: Duration = Duration::from_secs(10);

    /// A display that has shown nothing yet.
    pub fn new() -> Self {
        Self {
            steps: 0,
            epochs: 0,
            first_step: 0,
            began: Instant::now(),
            shown: None,
            wait: None,
        }
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Lines {
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError> {
        match event {
            Event::Begin => self.begin(run.plan, run.state.step),
            Event::Logged(record) => self.step(record),
            Event::Knn(record) => self.knn(record),
            Event::Note(message) => say(message),
            Event::Progress { what, done, total } => self.progress(what, done, total),
            Event::End(outcome) => self.end(outcome),
            _ => {}
        }
        Ok(())
    }
}

impl Lines {
    fn begin(&mut self, plan: &Plan, step: u64) {
        self.steps = plan.train.steps;
        self.epochs = plan.train.epochs;
        self.first_step = step;
        self.began = Instant::now();
        match step {
            0 => say(format_args!(
                "training {} steps, {} epochs",
                self.steps, self.epochs
            )),
            _ => say(format_args!("continuing at step {step} of {}", self.steps)),
        }
    }

    fn step(&mut self, record: &StepRecord) {
        self.wait = None;
        let last = record.step == self.steps;
        if !last && self.shown.is_some_and(|at| at.elapsed() < Self::INTERVAL) {
            return;
        }
        self.shown = Some(Instant::now());
        let done = (record.step - self.first_step).max(1) as f64;
        let left = (self.steps - record.step) as f64;
        let metrics: String = record
            .method
            .iter()
            .map(|(name, value)| format!("  {} {}", spoken(name), short(*value)))
            .collect();
        say(format_args!(
            "step {}/{}  epoch {:.2}/{}  loss {:.4}  lr {:.2e}  {:.0} images/s  waiting {:.0} %{}  left {}",
            record.step,
            self.steps,
            record.epoch,
            self.epochs,
            record.loss,
            record.lr,
            record.images_per_s,
            100.0 * record.wait_share,
            metrics,
            readable(self.began.elapsed().mul_f64(left / done)),
        ));
    }

    fn knn(&mut self, record: &KnnRecord) {
        self.wait = None;
        say(format_args!(
            "step {}/{}  epoch {:.2}/{}  kNN-{} {:.1} %",
            record.step,
            self.steps,
            record.epoch,
            self.epochs,
            record.k,
            100.0 * record.knn
        ));
    }

    fn progress(&mut self, what: &str, done: usize, total: usize) {
        self.wait.take_if(|wait| wait.what() != what);
        self.wait
            .get_or_insert_with(|| Progress::new(what))
            .update(done, total);
    }

    fn end(&mut self, outcome: Result<&Outcome, &TrainError>) {
        self.wait = None;
        let took = readable(self.began.elapsed());
        match outcome {
            Ok(Outcome::Finished) => say(format_args!("finished after {took}")),
            Ok(Outcome::Interrupted) => {
                say(format_args!("interrupted after {took}; the state is saved"))
            }
            Err(_) => {}
        }
    }
}
