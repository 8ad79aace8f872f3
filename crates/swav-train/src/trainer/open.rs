//! Where a run begins, and where it goes on.

use swav_data::{Digest, Loader, Source};

use super::{Parts, Trainer};
use crate::checkpoint;
use crate::comm::Communicator;
use crate::epoch::loader_config;
use crate::feed::{Feed, Portions};
use crate::health::Health;
use crate::observe::Observers;
use crate::plan::Plan;
use crate::run::{RunDirectory, RunLock};
use crate::state::State;
use crate::upload::{Normalisation, Uploader};
use crate::{Recipe, TrainError};

impl Trainer {
    /// A new run in the empty directory `run`. Where it begins with weights from elsewhere, they are its first checkpoint:
    /// continued, it needs their file no more.
    ///
    /// # Errors
    /// If the data, the directory or the weights cannot be used, or another process trains in the directory.
    pub fn start(
        recipe: Recipe,
        plan: Plan,
        run: RunDirectory,
        mut parts: Parts,
    ) -> Result<Self, TrainError> {
        let lock = lock(&run, parts.ranks.as_ref())?;
        let mut notes = Vec::new();
        let device = parts.device.clone().autodiff();
        let state = State::first(&plan, &device, &mut |note| notes.push(note))?;
        if lock.is_some() {
            recipe.save(&run.recipe())?;
            plan.save(&run.plan())?;
        }
        if plan.init.is_some() {
            checkpoint::save(&run, &state, plan.train.keep, parts.ranks.as_mut())?;
        }
        Self::assemble(plan, run, lock, state, parts, notes)
    }

    /// Continues `run` from its newest checkpoint, or from its beginning if there is none, with a plan that gives the same
    /// numbers as the run's own.
    ///
    /// # Errors
    /// If the checkpoint is damaged, the data is not what it was, or another process trains in the directory.
    pub fn resume(
        recipe: Recipe,
        plan: Plan,
        run: RunDirectory,
        mut parts: Parts,
    ) -> Result<Self, TrainError> {
        require_same(&plan, parts.source.as_ref())?;
        let lock = lock(&run, parts.ranks.as_ref())?;
        if lock.is_some() {
            run.clean()?;
            if plan != Plan::load(&run.plan())? {
                recipe.save(&run.recipe())?;
                plan.save(&run.plan())?;
            }
        }
        let newest = run.newest_of_all(parts.ranks.as_mut())?;
        let mut notes = Vec::new();
        let device = parts.device.clone().autodiff();
        let state = match newest {
            Some(newest) => checkpoint::load(&newest, &plan, &device, parts.ranks.as_ref())?,
            None => State::first(&plan, &device, &mut |note| notes.push(note))?,
        };
        Self::assemble(plan, run, lock, state, parts, notes)
    }

    fn assemble(
        plan: Plan,
        directory: RunDirectory,
        lock: Option<RunLock>,
        mut state: State,
        parts: Parts,
        notes: Vec<String>,
    ) -> Result<Self, TrainError> {
        if let Some(ranks) = plan.train.ranks {
            let size = ranks.sync_bn.size(ranks.count);
            state.network.synchronise(&parts.ranks.batch_norm(size));
        }
        let config = loader_config(&plan, plan.crops.clone(), parts.ranks.as_ref());
        let loader = Loader::new(parts.source.clone(), config, state.cursor)?;
        let device = parts.device.autodiff();
        let uploader = Uploader::new(&Normalisation::TRAINING, &device);
        let crops = 0..plan.crops_per_image();
        let portions = Portions {
            parts: plan.train.accumulate,
            shown: crops.map(|crop| state.method.shows(crop)).collect(),
        };
        Ok(Self {
            feed: Feed::start(loader, portions, uploader.packer().clone()),
            uploader,
            device,
            health: Health::new(&plan),
            plan,
            directory,
            _lock: lock,
            state,
            source: parts.source,
            ranks: parts.ranks,
            stop: parts.stop,
            observers: Observers::new(parts.observers),
            losses: None,
            notes,
        })
    }
}

/// Holds the run for all its ranks: the first one does.
fn lock(run: &RunDirectory, ranks: &dyn Communicator) -> Result<Option<RunLock>, TrainError> {
    match ranks.rank() {
        0 => run.lock().map(Some),
        _ => Ok(None),
    }
}

/// Refuses images that are not those that a run was planned for.
fn require_same(plan: &Plan, source: &dyn Source) -> Result<(), TrainError> {
    let images = source.len();
    if images != plan.data.images {
        return Err(TrainError::Recipe(format!(
            "the run was started on {} images, {} now holds {images}: the same images cannot \
             be met again; restore them or start a new run",
            plan.data.images,
            plan.data.path.display()
        )));
    }
    let classes = source.classes().len();
    if classes != plan.data.classes {
        return Err(TrainError::Recipe(format!(
            "the run was started with {} classes, now there are {classes}: labels would mean other things; restore \
             {} or start a new run",
            plan.data.classes,
            plan.data
                .labels
                .as_ref()
                .unwrap_or(&plan.data.path)
                .display()
        )));
    }
    let Some(digest) = &plan.data.digest else {
        return Ok(());
    };
    let differ = digest.differences(&Digest::of(source));
    match differ.is_empty() {
        true => Ok(()),
        false => Err(TrainError::Recipe(format!(
            "{} is not the set that the run was started on: other {}. The same images cannot be met again; restore \
             them or start a new run",
            plan.data.path.display(),
            differ.join(" and ")
        ))),
    }
}
