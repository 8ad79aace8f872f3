//! The loop: steps, epochs, and an end. Whoever is to know of it is an [`Observer`].

mod open;

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use swav_data::Source;

use crate::comm::{Communicator, agree};
use crate::epoch::EpochEmbeddings;
use crate::feed::{Fed, Feed};
use crate::health::Health;
use crate::method::{EmbeddedBatch, EpochStart};
use crate::observe::{Event, Observer, Observers, Outcome, Watched};
use crate::plan::Plan;
use crate::run::{RunDirectory, RunLock};
use crate::state::State;
use crate::step::{Compute, Learner, Step, step};
use crate::upload::Uploader;
use crate::{Stop, TrainError};

/// Trains by a plan, from a state, into a run directory.
pub struct Trainer {
    plan: Plan,
    directory: RunDirectory,
    /// Of rank 0.
    _lock: Option<RunLock>,
    state: State,
    source: Arc<dyn Source>,
    feed: Feed,
    uploader: Uploader,
    device: Device,
    ranks: Box<dyn Communicator>,
    stop: Stop,
    health: Health,
    observers: Observers,
    /// The sum of the losses that nobody has looked at yet, `[1]`.
    losses: Option<Tensor<1>>,
    /// What is to be said when the run begins.
    notes: Vec<String>,
}

/// What a trainer is made of besides the plan.
pub struct Parts {
    /// The training images.
    pub source: Arc<dyn Source>,
    /// Where it runs, without gradients; the trainer turns them on.
    pub device: Device,
    /// The processes that share the run.
    pub ranks: Box<dyn Communicator>,
    /// By whom it is stopped.
    pub stop: Stop,
    /// Who watches, in the order in which they are told.
    pub observers: Vec<Box<dyn Observer>>,
}

impl Trainer {
    /// Trains until the last step, an interruption or an error. Where the state is good, observers may still save it.
    ///
    /// # Errors
    /// If data, device or disk fail, or training stops itself.
    pub fn run(mut self) -> Result<Outcome, TrainError> {
        let outcome = match self.train() {
            Err(TrainError::Interrupted) => Ok(Outcome::Interrupted),
            other => other.map(|()| Outcome::Finished),
        };
        let leaves = match &outcome {
            Ok(outcome) => *outcome == Outcome::Interrupted,
            Err(error) => error.spares_state(),
        };
        if leaves {
            self.tell(Event::Leave)?;
        }
        self.tell(Event::End(outcome.as_ref()))?;
        outcome
    }

    fn train(&mut self) -> Result<(), TrainError> {
        self.tell(Event::Begin)?;
        for note in std::mem::take(&mut self.notes) {
            self.tell(Event::Note(&note))?;
        }
        while self.state.step < self.plan.train.steps {
            let steps_per_epoch = self.plan.train.steps_per_epoch;
            if self.state.step.is_multiple_of(steps_per_epoch) {
                self.before_epoch()?;
            }
            let batch = self.next_batch()?;
            let step = self.step(batch);
            self.tell(Event::Step(&step))?;
        }
        Ok(())
    }

    /// Lets the method look at all images, where it wants to.
    fn before_epoch(&mut self) -> Result<(), TrainError> {
        agree(self.stop.heeded(), self.ranks.as_mut())?;
        let number = self.state.step / self.plan.train.steps_per_epoch;
        let start = EpochStart {
            number,
            seed: self.plan.train.seed,
            embedded: match self.state.method.crops_before_epoch() {
                0 => Vec::new(),
                crops => self.embed(number, crops)?,
            },
        };
        let network = self.state.network.clone();
        let method = &mut self.state.method;
        self.state.network = method.before_epoch(start, network, self.ranks.as_mut())?;
        Ok(())
    }

    /// The embeddings of the first `crops` crops of all images, as the epoch of that `number` will see them.
    fn embed(&mut self, number: u64, crops: usize) -> Result<Vec<EmbeddedBatch>, TrainError> {
        let mut embeddings = EpochEmbeddings::new(
            &self.plan,
            self.source.clone(),
            &self.state.network,
            number,
            crops,
            &self.device.clone().inner(),
            self.ranks.as_ref(),
        )?;
        let (mut found, mut done) = (Vec::new(), 0);
        loop {
            let batch = self.stop.heeded().and_then(|()| embeddings.next());
            let Some(batch) = agree(batch, self.ranks.as_mut())? else {
                return Ok(found);
            };
            done += batch.indices.len() * self.ranks.world();
            found.push(batch);
            self.tell(Event::Progress {
                what: "looking at all images",
                done,
                total: self.plan.data.images,
            })?;
        }
    }

    /// The next batch, unless a rank is to stop or has failed.
    fn next_batch(&mut self) -> Result<Fed, TrainError> {
        let batch = self.stop.heeded().and_then(|()| self.feed.next());
        let batch = agree(batch, self.ranks.as_mut())?;
        for bad in self.health.meet(&batch.bad, self.ranks.as_mut())? {
            self.tell(Event::BadFile(&bad))?;
        }
        Ok(batch)
    }

    fn step(&mut self, mut batch: Fed) -> Step {
        let State {
            network,
            optimizer,
            method,
            step: done,
            ..
        } = &mut self.state;
        let learner = Learner {
            network,
            optimizer,
            method: method.as_mut(),
        };
        let mut compute = Compute {
            parts: self.plan.train.accumulate,
            precision: self.plan.train.precision,
            checkpoint_activations: self.plan.train.checkpoint_activations,
            ranks: self.ranks.as_mut(),
            phase: &mut |_| {},
        };
        let lr = self.plan.optimizer.schedule.at(*done);
        let mut uploading = batch.onto(&self.uploader);
        let step = step(learner, &mut uploading, *done, lr, &mut compute);
        *done += 1;
        self.state.cursor = batch.cursor;
        self.losses = Some(match self.losses.take() {
            Some(sum) => sum + step.loss.clone(),
            None => step.loss.clone(),
        });
        step
    }

    fn tell(&mut self, event: Event<'_>) -> Result<(), TrainError> {
        let mut watched = Watched {
            plan: &self.plan,
            directory: &self.directory,
            state: &mut self.state,
            source: &self.source,
            device: &self.device.clone().inner(),
            ranks: self.ranks.as_mut(),
            stop: &self.stop,
            waited: self.feed.waited(),
            losses: &mut self.losses,
            observers: &mut self.observers,
        };
        watched.tell(event)
    }
}
