//! Records of steps.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::spread::spread;
use super::{Event, Observer, StepRecord, Watched};
use crate::TrainError;
use crate::device::read;
use crate::step::Step;

/// Reads a step back from the device whenever one is to be logged, and tells the others what came of it. Speed is that of
/// training alone: what else takes time is not counted.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    waited: Duration,
    images: usize,
    /// The indices of the files without an image.
    bad: HashSet<usize>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            waited: Duration::ZERO,
            images: 0,
            bad: HashSet::new(),
        }
    }
}

impl Recorder {
    fn begin(&mut self, run: &Watched<'_>) {
        self.began = Instant::now();
        self.waited = run.waited;
        self.images = 0;
    }

    fn record(&self, step: &Step, run: &mut Watched<'_>) -> Result<StepRecord, TrainError> {
        run.require_finite()?;
        let loss = f64::from(read(step.loss.clone())?[0]);
        let metrics = run
            .state
            .method
            .metrics(&step.targets, run.ranks)
            .into_iter();
        let metrics = metrics.map(|metric| (metric.name.to_string(), metric.value));
        let seconds = self.began.elapsed().as_secs_f64().max(1e-9);
        Ok(StepRecord {
            step: run.state.step,
            epoch: run.epoch(),
            loss,
            lr: step.lr,
            images_per_s: self.images as f64 / seconds,
            wait_share: ((run.waited - self.waited).as_secs_f64() / seconds).min(1.0),
            spread: spread(&step.embeddings, run.ranks),
            bad_files: self.bad.len(),
            method: metrics.collect(),
        })
    }
}

impl Observer for Recorder {
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError> {
        match event {
            Event::Begin | Event::Knn(_) | Event::Saved | Event::Reported => self.begin(run),
            Event::BadFile(file) if self.bad.insert(file.index) => {
                run.tell(Event::Note(&format!("skipped {file}")))?;
            }
            Event::Step(step) => {
                self.images += step.images;
                if run.is_due(run.plan.train.log_steps) {
                    let record = self.record(step, run)?;
                    run.tell(Event::Logged(&record))?;
                    self.begin(run);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
