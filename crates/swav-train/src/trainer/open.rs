//! Where a run begins, and where it goes on.

use swav_data::{Digest, Loader, Source};

use super::{Parts, Trainer};
use crate::checkpoint;
use crate::epoch::loader_config;
use crate::feed::{Feed, Portions};
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
        parts: Parts,
    ) -> Result<Self, TrainError> {
        let lock = run.lock()?;
        let mut notes = Vec::new();
        let device = parts.device.clone().autodiff();
        let state = State::first(&plan, &device, &mut |note| notes.push(note))?;
        recipe.save(&run.recipe())?;
        plan.save(&run.plan())?;
        if plan.init.is_some() {
            checkpoint::save(&run, &state, plan.train.keep)?;
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
        parts: Parts,
    ) -> Result<Self, TrainError> {
        require_same(&plan, parts.source.as_ref())?;
        let lock = run.lock()?;
        run.clean()?;
        if plan != Plan::load(&run.plan())? {
            recipe.save(&run.recipe())?;
            plan.save(&run.plan())?;
        }
        let mut notes = Vec::new();
        let device = parts.device.clone().autodiff();
        let state = match run.list()?.pop() {
            Some((_, newest)) => checkpoint::load(&newest, &plan, &device)?,
            None => State::first(&plan, &device, &mut |note| notes.push(note))?,
        };
        Self::assemble(plan, run, lock, state, parts, notes)
    }

    fn assemble(
        plan: Plan,
        directory: RunDirectory,
        lock: RunLock,
        state: State,
        parts: Parts,
        notes: Vec<String>,
    ) -> Result<Self, TrainError> {
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
