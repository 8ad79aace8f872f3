//! `swav train`

use std::cell::Cell;
use std::fmt;
use std::path::Path;
use std::rc::Rc;

use serde::Serialize;
use swav_eval::OnlineKnn;
use swav_eval::report::ReportWriter;
use swav_train::Span;
use swav_train::comm::{Communicator, agree, on_first};
use swav_train::observe::display::{Dashboard, Lines, say};
use swav_train::observe::{self, Event, Observer, Watched};
use swav_train::{Outcome, Parts, Plan, Recipe, RunDirectory, Stop, TrainError, Trainer};

use super::plan::summary;
use super::setup::{self, Prepared};
use crate::args::Train;
use crate::device::Found;
use crate::output::{note, print, print_json};
use crate::ranks::Ranks;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    run: &'a Path,
    knn: Option<f64>,
}

/// Trains, from the beginning or from where it was left.
pub fn train(args: &Train, ranks: &Ranks, stop: &Stop) -> anyhow::Result<()> {
    let mut talk = ranks.communicator();
    let found = agree(args.device.device.open_for(ranks), talk.as_mut())?;
    let existing = match &args.out {
        Some(out) if args.resume && out.join("plan.toml").is_file() => Some(out),
        _ => None,
    };
    // Of a directory that several machines share, not all may see the same at a time.
    let continues = talk
        .gather_texts(existing.map_or("", |_| "yes"))
        .swap_remove(0);
    let existing = args.out.as_ref().filter(|_| !continues.is_empty());
    let (run, outcome, knn) = match existing {
        Some(out) => {
            let run = RunDirectory::open(out)?;
            let prepared = agree(continued(args, &run, &found, ranks.world()), talk.as_mut())?;
            require_same(&prepared.plan, talk.as_mut())?;
            let (recipe, plan) = (prepared.recipe.clone(), prepared.plan.clone());
            let knn = LastKnn::default();
            let parts = parts(prepared, &found, args.watch(), &knn, ranks, stop);
            let trainer = Trainer::resume(recipe, plan, run.clone(), parts)?;
            (run, trainer.run()?, knn.0.get())
        }
        None => {
            let recipe = setup::recipe(&args.recipe)?;
            if args.resume && recipe.data.path.is_none() {
                let out = args.out.as_deref().unwrap_or(Path::new("."));
                RunDirectory::open(out)?;
            }
            let prepared = setup::prepare(&recipe, &found, None, ranks.world());
            let prepared = agree(prepared, talk.as_mut())?;
            require_same(&prepared.plan, talk.as_mut())?;
            let name = args
                .recipe
                .config
                .as_deref()
                .or(recipe.data.path.as_deref())
                .and_then(Path::file_stem)
                .map_or("run".into(), |stem| stem.to_string_lossy());
            let path = setup::run_path(args.out.as_deref(), &name);
            start(prepared, &path, &found, args.watch(), ranks, stop)?
        }
    };
    match outcome {
        _ if ranks.rank() > 0 && outcome == Outcome::Finished => Ok(()),
        Outcome::Interrupted => {
            say_how_to_continue(&run);
            Err(TrainError::Interrupted.into())
        }
        Outcome::Finished if args.json => print_json(&Report {
            run: run.path(),
            knn,
        }),
        Outcome::Finished => {
            let knn = knn.map_or(String::new(), |knn| format!("  kNN {:.1} %", 100.0 * knn));
            print(&format!("{}{knn}", run.path().display()))
        }
    }
}

/// What a user needs who has interrupted a run.
pub fn say_how_to_continue(run: &RunDirectory) {
    say(format_args!(
        "continue with: swav train --resume --out {}",
        run.path().display()
    ));
}

/// Starts a run in the new directory `path` and trains it. Returns its last kNN accuracy too.
pub fn start(
    prepared: Prepared,
    path: &Path,
    found: &Found,
    watch: Watch,
    ranks: &Ranks,
    stop: &Stop,
) -> Result<(RunDirectory, Outcome, Option<f64>), TrainError> {
    let run = create(path, ranks.communicator().as_mut())?;
    say(format_args!(
        "{}run       {}",
        summary(&prepared.plan, &prepared.source.describe(), found),
        run.path().display()
    ));
    let (recipe, plan) = (prepared.recipe.clone(), prepared.plan.clone());
    let knn = LastKnn::default();
    let parts = parts(prepared, found, watch, &knn, ranks, stop);
    let trainer = Trainer::start(recipe, plan, run.clone(), parts)?;
    let outcome = trainer.run()?;
    Ok((run, outcome, knn.0.get()))
}

/// Makes the directory of a run: the first rank does, and the others are told which one it is.
fn create(path: &Path, ranks: &mut dyn Communicator) -> Result<RunDirectory, TrainError> {
    let run = on_first(|| RunDirectory::create(path), ranks)?;
    let path = ranks.gather_texts(&path.to_string_lossy()).swap_remove(0);
    Ok(run.unwrap_or_else(|| RunDirectory::of_first_rank(Path::new(&path))))
}

/// Refuses to train where ranks have come to different plans.
fn require_same(plan: &Plan, ranks: &mut dyn Communicator) -> Result<(), TrainError> {
    let same = match ranks.world() {
        1 => Ok(()),
        _ => {
            let own = serde_json::to_string(plan).unwrap_or_default();
            let first = ranks.gather_texts(&own).swap_remove(0);
            match serde_json::from_str::<Plan>(&first) {
                Ok(first) if differences(&first, plan).is_empty() => Ok(()),
                Ok(first) => {
                    let differences = differences(&first, plan).into_iter();
                    let differences: Vec<_> = differences.map(|d| d.of_ranks()).collect();
                    Err(TrainError::Recipe(format!(
                        "this rank has come to another plan than rank 0: {}. All ranks need the same arguments and the same \
                         images",
                        differences.join("; ")
                    )))
                }
                Err(error) => Err(TrainError::Device(format!("a message of rank 0: {error}"))),
            }
        }
    };
    agree(same, ranks)
}

/// The data of a run to be continued. Settings may be given again, so that one command line both
/// starts and continues. Those that do not change the numbers may be others now; the rest must be what the run was started
/// with.
fn continued(
    args: &Train,
    run: &RunDirectory,
    found: &Found,
    ranks: usize,
) -> Result<Prepared, TrainError> {
    let saved = Plan::load(&run.plan())?;
    let begun_with = match run.recipe() {
        path if path.is_file() => Recipe::from_file(&path)?,
        // Runs of earlier versions kept the plan alone.
        _ => Recipe::default(),
    };
    if args.recipe.is_empty() {
        let sync_bn = begun_with.model.sync_bn.unwrap_or_default();
        return setup::reopen(begun_with, saved.with_ranks(ranks, sync_bn)?, found);
    }
    let recipe = setup::recipe_over(begun_with, &args.recipe)?;
    if recipe.data.path.is_none() {
        return Err(TrainError::Recipe(format!(
            "the run in {} was made by an earlier version, which kept no recipe: give all that it was started with \
             (--config, --data, --set), or nothing",
            run.path().display()
        )));
    }
    // Derived from the memory that there was, which may be another now.
    let mut wanted = recipe.clone();
    let train = &mut wanted.train;
    train.accumulate.get_or_insert(saved.train.accumulate);
    // And from the device, likewise.
    train.precision.get_or_insert(saved.train.precision);
    // The file of the weights that it began with may be gone.
    let known = (recipe.model.init == saved.init).then_some(&saved.model);
    let mut prepared = setup::prepare(&wanted, found, known, ranks)?;
    prepared.recipe = recipe;
    // What the images are is not a setting; whether they are the same is asked when the run goes on.
    prepared.plan.data.side = saved.data.side;
    prepared.plan.data.digest = saved.data.digest.clone();
    prepared.plan.notes.clear();
    let (free, fixed): (Vec<_>, Vec<_>) = differences(&saved, &prepared.plan)
        .into_iter()
        .partition(|difference| {
            let field = difference.field.as_str();
            // Data may have moved where it can be told that they are the same.
            FREE.contains(&field) || field == "data.path" && saved.data.digest.is_some()
        });
    let told = |differences: &[Difference]| {
        let texts: Vec<_> = differences.iter().map(ToString::to_string).collect();
        texts.join("; ")
    };
    if !fixed.is_empty() {
        return Err(TrainError::Recipe(format!(
            "the run in {} was started with other settings: {}. Leave them as they were to continue it, or start a new \
             run in another --out. May be changed: {}, and data.path where the images have moved",
            run.path().display(),
            told(&fixed),
            FREE.join(", ")
        )));
    }
    if !free.is_empty() {
        note(format_args!("continued with {}", told(&free)));
    }
    Ok(prepared)
}

/// What may be another when a run is continued: no weight depends on it, or, of the precision, only as rounding goes.
const FREE: [&str; 15] = [
    "data.workers",
    "data.prefetch",
    "data.corrupt_budget",
    "train.checkpoint_activations",
    "train.checkpoint",
    "train.keep",
    "train.log",
    "train.knn",
    "train.on_collapse",
    "train.tensorboard",
    "train.precision",
    "data.test",
    "train.ranks",
    "train.ranks.count",
    "train.ranks.batch_size",
];

/// A field in which two plans differ.
struct Difference {
    field: String,
    was: serde_json::Value,
    is: serde_json::Value,
}

impl Difference {
    /// In which the plan of a rank differs from that of the first.
    fn of_ranks(&self) -> String {
        format!("{} is {} there, and {} here", self.field, self.was, self.is)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |value: &serde_json::Value| match value {
            serde_json::Value::Null => "not set".to_string(),
            value => value.to_string(),
        };
        let (was, is) = (told(&self.was), told(&self.is));
        write!(f, "{} was {was}, is now {is}", self.field)
    }
}

fn differences(saved: &Plan, given: &Plan) -> Vec<Difference> {
    /// What the user can set for a field of the plan.
    fn known_as(path: &str) -> &str {
        match path {
            "init" => "model.init",
            "optimizer.schedule.base" => "optimizer.lr",
            "optimizer.schedule.final" => "optimizer.final_lr",
            "optimizer.schedule.start" => "optimizer.start_lr",
            "optimizer.schedule.warmup" => "optimizer.warmup",
            "method.freeze_steps" => "method.freeze",
            "method.queue.start_step" => "method.queue.start",
            "train.checkpoint_steps" => "train.checkpoint",
            "train.log_steps" => "train.log",
            "train.knn_steps" => "train.knn",
            _ => path,
        }
    }
    fn walk(path: &str, a: &serde_json::Value, b: &serde_json::Value, found: &mut Vec<Difference>) {
        match (a, b) {
            (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
                for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                    let path = match path {
                        "" => key.clone(),
                        _ => format!("{path}.{key}"),
                    };
                    let null = serde_json::Value::Null;
                    walk(
                        &path,
                        a.get(key).unwrap_or(&null),
                        b.get(key).unwrap_or(&null),
                        found,
                    );
                }
            }
            _ if a == b => {}
            _ => found.push(Difference {
                field: known_as(path).to_string(),
                was: a.clone(),
                is: b.clone(),
            }),
        }
    }
    let mut found = Vec::new();
    if let (Ok(saved), Ok(given)) = (serde_json::to_value(saved), serde_json::to_value(given)) {
        walk("", &saved, &given, &mut found);
    }
    found
}

/// How a run is watched.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// In plain lines instead of the dashboard.
    pub plain: bool,
    /// How often its report is written anew.
    pub report_every: Span,
}

impl Train {
    fn watch(&self) -> Watch {
        Watch {
            plain: self.plain,
            report_every: self.report_every,
        }
    }
}

/// The last kNN accuracy of a run.
#[derive(Clone, Default)]
struct LastKnn(Rc<Cell<Option<f64>>>);

impl Observer for LastKnn {
    fn notice(&mut self, event: Event<'_>, _: &mut Watched<'_>) -> Result<(), TrainError> {
        if let Event::Knn(record) = event {
            self.0.set(Some(record.knn));
        }
        Ok(())
    }
}

fn parts(
    prepared: Prepared,
    found: &Found,
    watch: Watch,
    knn: &LastKnn,
    ranks: &Ranks,
    stop: &Stop,
) -> Parts {
    if ranks.rank() > 0 {
        return Parts {
            source: prepared.source,
            device: found.device.clone(),
            ranks: ranks.communicator(),
            stop: stop.clone(),
            observers: observe::followers(),
        };
    }
    let display: Box<dyn Observer> = if !watch.plain && Dashboard::possible() {
        // The terminal has to be given back at the end.
        stop.heed();
        Box::new(Dashboard::new())
    } else {
        Box::new(Lines::new())
    };
    let mut observers = vec![display, Box::new(knn.clone())];
    observers.extend(observe::standard());
    observers.push(Box::new(OnlineKnn::new(
        prepared.source.clone(),
        prepared.test,
    )));
    observers.push(Box::new(ReportWriter {
        every: watch.report_every,
    }));
    Parts {
        source: prepared.source,
        device: found.device.clone(),
        ranks: ranks.communicator(),
        stop: stop.clone(),
        observers,
    }
}
