//! The plan: what will run, derived from the recipe, the data and the device, and held to what
//! can work.
//!
//! A [`Recipe`] says what the user wants; [`Plan::derive`] fills in the rest and says why, and
//! refuses combinations that cannot train, each with the reason. The plan is saved with the run
//! (`plan.toml`), so that a resumed run derives nothing anew.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use swav_data::{Augment, CropSpec, DEFAULT_MAX_PIXELS, Format, Source, View, decode};
use swav_model::{BackboneConfig, NetworkConfig, Stem};

use crate::TrainError;
use crate::config::{OnCollapse, OptimizerName, Precision, Recipe, Span};
use crate::method::{QueuePlan, SwavPlan};
use crate::optim::{OptimizerPlan, Schedule};

/// What is known about the data and the device before anything is planned.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Training images.
    pub images: usize,
    /// Classes of the training images; 0 where there are no labels.
    pub classes: usize,
    /// Median short side of a few images, in pixels.
    pub side: usize,
    /// Whether the device is a GPU.
    pub accelerated: bool,
}

impl Facts {
    /// Looks at `source`, decoding a few images spread over it.
    ///
    /// # Errors
    /// If none of the images looked at can be decoded.
    pub fn look(source: &dyn Source, accelerated: bool) -> Result<Self, TrainError> {
        const SAMPLES: usize = 9;
        let images = source.len();
        let mut sides = Vec::new();
        let mut last = None;
        for i in 0..SAMPLES.min(images) {
            let index = i * images / SAMPLES.min(images);
            let name = source.name(index);
            let image = source
                .read(index)
                .and_then(|sample| decode(&sample, &name, DEFAULT_MAX_PIXELS));
            match image {
                Ok(image) => sides.push(image.width.min(image.height) as usize),
                Err(error) => last = Some(error),
            }
        }
        sides.sort_unstable();
        match (sides.get(sides.len() / 2), last) {
            (Some(&side), _) => Ok(Self {
                images,
                classes: source.classes().len(),
                side,
                accelerated,
            }),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(TrainError::Recipe("the data set is empty".to_string())),
        }
    }
}

/// What will run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of this file's layout.
    pub version: u32,
    /// The images.
    pub data: DataPlan,
    /// The backbone, head and prototypes.
    pub model: NetworkConfig,
    /// The method and its constants.
    pub method: SwavPlan,
    /// The optimizer and its schedule.
    pub optimizer: OptimizerPlan,
    /// Length, batch, seed, checkpoints and monitors.
    pub train: TrainPlan,
    /// How images are seen in evaluation.
    pub evaluation: EvaluationPlan,
    /// The colour augmentation of every crop.
    pub augment: Augment,
    /// The crops taken from each image.
    pub crops: Vec<CropSpec>,
    /// What was derived, and why; shown, not saved.
    #[serde(skip)]
    pub notes: Vec<Note>,
}

/// The images, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPlan {
    /// The training images.
    pub path: PathBuf,
    /// Held-out images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// How `path` is laid out.
    pub format: Format,
    /// Training images when the plan was made; a resumed run must find as many.
    pub images: usize,
    /// Classes, 0 without labels.
    pub classes: usize,
    /// Decoding threads, 0: one per core.
    pub workers: usize,
    /// Batches kept ready.
    pub prefetch: usize,
    /// Share of the files that may be corrupt.
    pub corrupt_budget: f64,
    /// Pixel limit of one image.
    pub max_pixels: u64,
}

/// Length, batch, seed, checkpoints and monitors, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainPlan {
    /// Passes over the data.
    pub epochs: u64,
    /// Images per optimizer step.
    pub batch_size: usize,
    /// Micro-batches per step.
    pub accumulate: usize,
    /// Number format.
    pub precision: Precision,
    /// Seed of the weights, the order and the augmentation.
    pub seed: u64,
    /// Optimizer steps of one epoch.
    pub steps_per_epoch: u64,
    /// Optimizer steps of the run.
    pub steps: u64,
    /// Steps between two checkpoints.
    pub checkpoint_steps: u64,
    /// Checkpoints kept.
    pub keep: usize,
    /// Steps between two lines of `metrics.jsonl`.
    pub log_steps: u64,
    /// Steps between two measurements of kNN accuracy; 0: never.
    pub knn_steps: u64,
    /// What happens when the features collapse.
    pub on_collapse: OnCollapse,
}

/// How images are seen in evaluation: short side to `resize`, then the centre `size`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationPlan {
    /// Short side after resizing, in pixels.
    pub resize: usize,
    /// Side of the centre crop, in pixels.
    pub size: usize,
}

impl EvaluationPlan {
    /// As a view of the loader.
    pub fn view(&self) -> View {
        View::Centre {
            resize: self.resize,
            size: self.size,
        }
    }
}

/// One derived setting and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The field of the recipe.
    pub field: &'static str,
    /// The value it got.
    pub value: String,
    /// Why.
    pub why: String,
}

impl Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24} {:<22} {}", self.field, self.value, self.why)
    }
}

/// Collects what is derived and what is wrong while a plan takes shape.
#[derive(Default)]
struct Ledger {
    notes: Vec<Note>,
    problems: Vec<String>,
}

impl Ledger {
    /// The user's value, or else the derived one with a note.
    fn or<T: Display>(
        &mut self,
        given: Option<T>,
        field: &'static str,
        derived: T,
        why: impl Into<String>,
    ) -> T {
        if let Some(given) = given {
            return given;
        }
        self.note(field, &derived, why);
        derived
    }

    fn note(&mut self, field: &'static str, value: impl Display, why: impl Into<String>) {
        self.notes.push(Note {
            field,
            value: value.to_string(),
            why: why.into(),
        });
    }

    fn require(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }
}

impl Plan {
    /// Version of the layout of `plan.toml`.
    pub const VERSION: u32 = 1;

    /// Derives everything that `recipe` leaves out and refuses what cannot work.
    ///
    /// # Errors
    /// Lists every problem found, each with what to change.
    pub fn derive(recipe: &Recipe, facts: &Facts) -> Result<Self, TrainError> {
        let mut ledger = Ledger::default();
        let path = recipe.data.path.clone().ok_or_else(|| {
            TrainError::Recipe("no data: give --data or [data] path in the recipe".to_string())
        })?;
        check_names(recipe, &mut ledger);

        let crops = derive_crops(recipe, facts, &mut ledger);
        let train = derive_train(recipe, facts, &mut ledger);
        let model = derive_model(recipe, facts, &mut ledger)?;
        let method = derive_method(recipe, facts, &train, &crops, &model, &mut ledger);
        let optimizer = derive_optimizer(recipe, facts, &train, &mut ledger);

        let largest = crops.iter().map(|crop| crop.size).max().unwrap_or(0);
        let evaluation = EvaluationPlan {
            resize: match model.backbone.stem {
                Stem::Cifar => largest,
                Stem::Imagenet => (largest as f64 * 256.0 / 224.0).round() as usize,
            },
            size: largest,
        };
        let plan = Self {
            version: Self::VERSION,
            data: DataPlan {
                path,
                test: recipe.data.test.clone(),
                format: recipe.data.format.unwrap_or(Format::Auto),
                images: facts.images,
                classes: facts.classes,
                workers: recipe.data.workers.unwrap_or(0),
                prefetch: recipe.data.prefetch.unwrap_or(4),
                corrupt_budget: recipe.data.corrupt_budget.unwrap_or(0.01),
                max_pixels: recipe.data.max_pixels.unwrap_or(DEFAULT_MAX_PIXELS),
            },
            model,
            method,
            optimizer,
            train,
            evaluation,
            augment: recipe.augment.clone(),
            crops,
            notes: ledger.notes,
        };
        let mut problems = ledger.problems;
        problems.extend(plan.problems());
        match problems.as_slice() {
            [] => Ok(plan),
            [one] => Err(TrainError::Recipe(one.clone())),
            many => Err(TrainError::Recipe(format!(
                "this cannot work, for {} reasons:\n  - {}",
                many.len(),
                many.join("\n  - ")
            ))),
        }
    }

    /// What cannot work in the plan as it stands.
    fn problems(&self) -> Vec<String> {
        let mut ledger = Ledger::default();
        check_data(self, &mut ledger);
        check_crops(self, &mut ledger);
        check_batch(self, &mut ledger);
        check_method(self, &mut ledger);
        check_optimizer(self, &mut ledger);
        ledger.problems
    }

    /// Crops of one image.
    pub fn crops_per_image(&self) -> usize {
        self.crops.iter().map(|crop| crop.count).sum()
    }

    /// Bytes that training will need, roughly: weights with their gradients and optimizer state,
    /// and the activations that the backward pass keeps.
    pub fn memory_estimate(&self) -> u64 {
        const FLOAT: u64 = 4;
        let moments = match self.optimizer.name {
            OptimizerName::Larc | OptimizerName::Sgd => 1,
            OptimizerName::Adam | OptimizerName::Adamw => 2,
        };
        let micro_batch = (self.train.batch_size / self.train.accumulate) as u64;
        let backbone = &self.model.backbone;
        let activations: u64 = self
            .crops
            .iter()
            .map(|crop| crop.count as u64 * backbone.activations(crop.size))
            .sum();
        let prototypes: usize = self.model.prototypes.iter().sum();
        // Scores, their log-softmax, its gradient and the codes, for every crop.
        let scores = 4 * (self.crops_per_image() * prototypes) as u64;
        FLOAT * (self.model.parameters() * (2 + moments) + micro_batch * (activations + scores))
    }

    /// Multiply-adds of one training step: forward, and twice as much backward.
    pub fn macs_per_step(&self) -> u64 {
        let backbone = &self.model.backbone;
        let forward: u64 = self
            .crops
            .iter()
            .map(|crop| crop.count as u64 * backbone.macs(crop.size))
            .sum();
        3 * forward * self.train.batch_size as u64
    }

    /// Writes `plan.toml`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let text = toml::to_string_pretty(self)
            .map_err(|error| TrainError::checkpoint(path, error.to_string()))?;
        crate::files::write_atomic(path, text.as_bytes())
    }

    /// Reads a `plan.toml`.
    ///
    /// # Errors
    /// If the file is missing, damaged or of another version.
    pub fn load(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
        let plan: Self = toml::from_str(&text).map_err(|error| {
            TrainError::checkpoint(path, format!("is no plan of a run: {}", error.message()))
        })?;
        if plan.version != Self::VERSION {
            return Err(TrainError::checkpoint(
                path,
                format!(
                    "is of version {}, this program reads version {}",
                    plan.version,
                    Self::VERSION
                ),
            ));
        }
        Ok(plan)
    }
}

fn check_names(recipe: &Recipe, ledger: &mut Ledger) {
    if let Some(name) = &recipe.method.name {
        ledger.require(name == "swav", || {
            format!("method.name = \"{name}\" is not known; this version trains \"swav\"")
        });
    }
}

/// Small images keep their size in two crops; larger ones get small crops besides.
fn derive_crops(recipe: &Recipe, facts: &Facts, ledger: &mut Ledger) -> Vec<CropSpec> {
    if !recipe.crops.is_empty() {
        return recipe.crops.clone();
    }
    let crop = |count, size, scale| CropSpec { count, size, scale };
    let (crops, why) = match facts.side {
        0..=48 => (
            vec![crop(2, facts.side.max(16), [0.14, 1.0])],
            format!("images of {} px: two crops of the whole size", facts.side),
        ),
        side @ 49..=160 => {
            let large = (side.min(96) / 8) * 8;
            (
                vec![
                    crop(2, large, [0.14, 1.0]),
                    crop(4, (large / 16) * 8, [0.05, 0.14]),
                ],
                format!("images of {side} px: two large crops and four small ones"),
            )
        }
        side if facts.accelerated => (
            vec![crop(2, 224, [0.14, 1.0]), crop(6, 96, [0.05, 0.14])],
            format!("images of {side} px on a GPU: the paper's 2×224 + 6×96"),
        ),
        side => (
            vec![crop(2, 96, [0.14, 1.0]), crop(4, 48, [0.05, 0.14])],
            format!("images of {side} px on the CPU: 2×224 would take days"),
        ),
    };
    let text: Vec<_> = crops
        .iter()
        .map(|crop| format!("{}x{}", crop.count, crop.size))
        .collect();
    ledger.note("crops", text.join("+"), why);
    crops
}

fn derive_train(recipe: &Recipe, facts: &Facts, ledger: &mut Ledger) -> TrainPlan {
    let wanted = &recipe.train;
    let sixteenth = (facts.images / 16).max(1);
    let batch_size = ledger.or(
        wanted.batch_size,
        "train.batch_size",
        (1 << sixteenth.ilog2()).clamp(2.min(facts.images), 256),
        "a power of two, at most 256 and a sixteenth of the images",
    );
    let accumulate = wanted.accumulate.unwrap_or(1).max(1);
    let steps_per_epoch = (facts.images / batch_size.max(1)) as u64;
    let epochs = ledger.or(
        wanted.epochs,
        "train.epochs",
        3000_u64.div_ceil(steps_per_epoch.max(1)).clamp(100, 800),
        "at least 100 and 3,000 steps, at most 800",
    );
    let steps = epochs.checked_mul(steps_per_epoch).unwrap_or_else(|| {
        let problem = format!("train.epochs = {epochs} is more than can be counted");
        ledger.problems.push(problem);
        0
    });
    let every = |span: Option<Span>, default: u64| match span {
        Some(Span::Never) => 0,
        Some(span) => span.steps(steps_per_epoch).max(1),
        None => default,
    };
    let log_steps = if facts.accelerated { 10 } else { 1 };
    TrainPlan {
        epochs,
        batch_size,
        accumulate,
        precision: wanted.precision.unwrap_or(Precision::F32),
        seed: wanted.seed.unwrap_or(0),
        steps_per_epoch,
        steps,
        checkpoint_steps: match every(wanted.checkpoint, 500) {
            0 => u64::MAX,
            steps => steps,
        },
        keep: wanted.keep.unwrap_or(3),
        log_steps: every(wanted.log, log_steps).max(1),
        knn_steps: match facts.classes {
            0 => 0,
            _ => every(wanted.knn, steps_per_epoch.max(1)),
        },
        on_collapse: wanted.on_collapse.unwrap_or(OnCollapse::Stop),
    }
}

fn derive_model(
    recipe: &Recipe,
    facts: &Facts,
    ledger: &mut Ledger,
) -> Result<NetworkConfig, TrainError> {
    let wanted = &recipe.model;
    let small = facts.side <= 48;
    let (backbone, why) = if facts.accelerated && !small {
        ("resnet50", "a GPU and images of some size")
    } else {
        (
            "resnet18",
            "the smallest backbone, for the CPU or for small images",
        )
    };
    let name = ledger.or(
        wanted.backbone.clone(),
        "model.backbone",
        backbone.to_string(),
        why,
    );
    let stem = match (wanted.stem, small) {
        (Some(stem), _) => stem,
        (None, true) => {
            ledger.note("model.stem", "cifar", "small images: 3×3 stem, no pooling");
            Stem::Cifar
        }
        (None, false) => Stem::Imagenet,
    };
    let width = wanted.width.unwrap_or(1.0);
    if !(width > 0.0 && width <= 16.0) {
        return Err(TrainError::Recipe(format!(
            "model.width = {width} must lie above 0 and at most at 16"
        )));
    }
    let backbone = BackboneConfig {
        name: name
            .parse()
            .map_err(|error| TrainError::Recipe(format!("model.backbone: {error}")))?,
        width,
        stem,
    };
    let hidden = ledger.or(
        wanted.hidden,
        "model.hidden",
        backbone.dim().min(2048),
        "as wide as the features, at most 2048",
    );
    let derived = derive_prototypes(facts);
    let prototypes = match &wanted.prototypes {
        Some(counts) => counts.clone(),
        None => {
            ledger.note(
                "model.prototypes",
                derived,
                "2.65 √images, at least 10 × the classes, at most 3000 and a quarter of the images",
            );
            vec![derived]
        }
    };
    Ok(NetworkConfig {
        backbone,
        hidden,
        dim: wanted.dim.unwrap_or(128),
        prototypes,
    })
}

/// The paper's 3000 at ImageNet's 1.28 million images, growing with the square root of their
/// number, and never so many that a prototype could not expect four images.
fn derive_prototypes(facts: &Facts) -> usize {
    let by_images = (2.65 * (facts.images as f64).sqrt()).round() as usize;
    let limit = (facts.images / 4).clamp(2, 3000);
    by_images.max(10 * facts.classes).clamp(2, limit)
}

fn derive_method(
    recipe: &Recipe,
    facts: &Facts,
    train: &TrainPlan,
    crops: &[CropSpec],
    model: &NetworkConfig,
    ledger: &mut Ledger,
) -> SwavPlan {
    let wanted = &recipe.method;
    let freeze = ledger.or(
        wanted.freeze,
        "method.freeze",
        Span::Steps(train.steps_per_epoch),
        "one epoch: the first features would drag the prototypes along",
    );
    let available: usize = crops.iter().map(|crop| crop.count).sum();
    SwavPlan {
        temperature: wanted.temperature.unwrap_or(0.1),
        epsilon: wanted.epsilon.unwrap_or(0.05),
        iterations: wanted.iterations.unwrap_or(3),
        assign: wanted
            .assign
            .clone()
            .unwrap_or_else(|| (0..available.min(2)).collect()),
        freeze_steps: freeze.steps(train.steps_per_epoch).min(train.steps),
        queue: derive_queue(recipe, facts, train, model, ledger),
    }
}

/// A queue only where the batch alone has fewer samples than there are prototypes.
fn derive_queue(
    recipe: &Recipe,
    facts: &Facts,
    train: &TrainPlan,
    model: &NetworkConfig,
    ledger: &mut Ledger,
) -> Option<QueuePlan> {
    let wanted = recipe.method.queue.clone().unwrap_or_default();
    let batch = train.batch_size.max(1);
    let prototypes = model.prototypes.iter().copied().max().unwrap_or(0);
    let missing = (prototypes + prototypes / 4).saturating_sub(batch);
    let fits = facts.images / 2 / batch * batch;
    let derived = (missing.div_ceil(batch) * batch).min(fits);
    let length = match wanted.length {
        Some(length) => length / batch * batch,
        None if prototypes <= batch => 0,
        None => derived,
    };
    if wanted.length.is_some_and(|wanted| wanted > 0) && length == 0 {
        ledger.problems.push(format!(
            "method.queue.length = {} is shorter than a batch of {batch}: rounded down to a \
             multiple of the batch nothing is left; lengthen it, or set 0 for no queue",
            wanted.length.unwrap_or(0)
        ));
    }
    if length == 0 {
        return None;
    }
    let share = Span::Epochs((train.epochs as f64 * 0.075).ceil());
    let start = wanted.start.unwrap_or(share);
    let is_derived = wanted.length.is_none() && wanted.start.is_none();
    if is_derived && start.steps(train.steps_per_epoch) >= train.steps {
        ledger.note("method.queue.length", 0, "the run is over before one helps");
        return None;
    }
    if wanted.length.is_none() {
        ledger.note(
            "method.queue.length",
            length,
            format!("{prototypes} prototypes want more samples than a batch of {batch}"),
        );
    }
    if wanted.start.is_none() {
        ledger.note(
            "method.queue.start",
            start,
            "7.5 % of the run: started earlier, a queue of poor features destabilises",
        );
    }
    Some(QueuePlan {
        length,
        start_step: start.steps(train.steps_per_epoch),
    })
}

fn derive_optimizer(
    recipe: &Recipe,
    facts: &Facts,
    train: &TrainPlan,
    ledger: &mut Ledger,
) -> OptimizerPlan {
    let wanted = &recipe.optimizer;
    let name = wanted.name.unwrap_or_else(|| {
        let (name, shown, why) = if facts.images >= 100_000 {
            (OptimizerName::Larc, "larc", "the paper's, for large sets")
        } else {
            (
                OptimizerName::Adam,
                "adam",
                "small sets see too few steps for LARC",
            )
        };
        ledger.note("optimizer.name", shown, why);
        name
    });
    let batch = train.batch_size as f64;
    let (rate, why) = match name {
        OptimizerName::Larc => {
            let small = (0.6 * batch / 256.0).min(4.8);
            (
                small.max(4.8 * batch / 4096.0),
                "linear in the batch: 0.6 at 256, 4.8 from 2048 to 4096",
            )
        }
        OptimizerName::Sgd => (0.03 * batch / 256.0, "linear in the batch: 0.03 at 256"),
        OptimizerName::Adam | OptimizerName::Adamw => {
            (1e-3 * batch / 128.0, "linear in the batch: 0.001 at 128")
        }
    };
    let lr = ledger.or(wanted.lr, "optimizer.lr", rate, why);
    let final_lr = ledger.or(
        wanted.final_lr,
        "optimizer.final_lr",
        lr / 1000.0,
        "a thousandth of the learning rate",
    );
    let warmup = match wanted.warmup {
        Some(span) => span.steps(train.steps_per_epoch),
        None if train.batch_size >= 2048 => {
            ledger.note("optimizer.warmup", "10 epochs", "a large batch");
            train.steps_per_epoch.saturating_mul(10)
        }
        None => 0,
    };
    OptimizerPlan {
        name,
        momentum: wanted.momentum.unwrap_or(0.9),
        weight_decay: wanted.weight_decay.unwrap_or(1e-6),
        exclude_bias_and_norm: wanted.exclude_bias_and_norm.unwrap_or(false),
        schedule: Schedule {
            start: wanted.start_lr.unwrap_or(lr / 16.0),
            base: lr,
            end: final_lr,
            warmup,
            steps: train.steps,
        },
    }
}

fn check_data(plan: &Plan, ledger: &mut Ledger) {
    let data = &plan.data;
    ledger.require(data.images >= 2, || {
        format!(
            "{} holds one image; training compares images and needs many",
            data.path.display()
        )
    });
    ledger.require((0.0..=1.0).contains(&data.corrupt_budget), || {
        format!(
            "data.corrupt_budget = {} is a share of the files, between 0 and 1",
            data.corrupt_budget
        )
    });
    ledger.require(data.prefetch > 0, || {
        "data.prefetch = 0: at least one batch must be kept ready".to_string()
    });
}

fn check_crops(plan: &Plan, ledger: &mut Ledger) {
    for (i, crop) in plan.crops.iter().enumerate() {
        if let Err(reason) = crop.validate() {
            ledger.problems.push(format!("crops[{i}]: {reason}"));
        }
        let least = plan.model.backbone.min_size();
        ledger.require(crop.size >= least, || {
            format!(
                "crops[{i}].size = {}: the backbone needs at least {least} px",
                crop.size
            )
        });
    }
    if let Err(reason) = plan.augment.validate() {
        ledger.problems.push(format!("augment.{reason}"));
    }
    ledger.require(plan.crops_per_image() >= 2, || {
        "crops: one crop has no other to predict; take at least two of each image".to_string()
    });
}

fn check_batch(plan: &Plan, ledger: &mut Ledger) {
    let train = &plan.train;
    let (batch, micro) = (train.batch_size, train.batch_size / train.accumulate);
    ledger.require(batch >= 1, || "train.batch_size = 0".to_string());
    ledger.require(batch <= plan.data.images, || {
        format!(
            "train.batch_size = {batch} is more than the {} images there are; lower it",
            plan.data.images
        )
    });
    ledger.require(batch.is_multiple_of(train.accumulate), || {
        format!(
            "train.batch_size = {batch} is no multiple of train.accumulate = {}",
            train.accumulate
        )
    });
    ledger.require(batch < 1 || micro >= 2, || {
        format!(
            "train.batch_size = {batch} leaves {micro} image per forward pass: batch \
             normalisation and the assignment need at least two; raise it to 2 or more"
        )
    });
    ledger.require(train.epochs > 0, || "train.epochs = 0".to_string());
    ledger.require(train.keep > 0, || {
        "train.keep = 0 would delete the checkpoint just written; keep at least 1".to_string()
    });
}

fn check_method(plan: &Plan, ledger: &mut Ledger) {
    let (method, train) = (&plan.method, &plan.train);
    ledger.require(method.temperature > 0.0, || {
        format!(
            "method.temperature = {} must be above 0",
            method.temperature
        )
    });
    ledger.require(method.epsilon >= 0.001, || {
        format!(
            "method.epsilon = {} is below 0.001, where 32-bit floats give out",
            method.epsilon
        )
    });
    ledger.require(method.iterations > 0, || {
        "method.iterations = 0 leaves the partition unequal, which ends in collapse; 3 is usual"
            .to_string()
    });
    let crops = plan.crops_per_image();
    ledger.require(!method.assign.is_empty(), || {
        "method.assign is empty: at least one crop must give the codes".to_string()
    });
    for &crop in &method.assign {
        ledger.require(crop < crops, || {
            format!("method.assign names crop {crop}, but there are only {crops}, counted from 0")
        });
    }
    ledger.require(
        !plan.model.prototypes.is_empty() && plan.model.dim > 0,
        || "model.prototypes and model.dim must not be empty or 0".to_string(),
    );
    for &prototypes in &plan.model.prototypes {
        check_prototypes(plan, prototypes, ledger);
    }
    if let Some(queue) = method.queue {
        ledger.require(queue.length <= plan.data.images, || {
            format!(
                "method.queue.length = {} is longer than the {} images: every image would be \
                 assigned beside older copies of itself; shorten it",
                queue.length, plan.data.images
            )
        });
        ledger.require(queue.start_step < train.steps, || {
            format!(
                "method.queue.start lies at step {} of a run of {} steps: it would never be used",
                queue.start_step, train.steps
            )
        });
    }
}

/// Samples that a prototype must at least be able to expect in one assignment.
const LEAST_SHARE: usize = 8;

fn check_prototypes(plan: &Plan, prototypes: usize, ledger: &mut Ledger) {
    let queue = plan.method.queue.map_or(0, |queue| queue.length);
    let rows = plan.train.batch_size + queue;
    ledger.require(prototypes >= 2, || {
        format!("model.prototypes = {prototypes}: at least two are needed to tell images apart")
    });
    ledger.require(prototypes <= plan.data.images, || {
        format!(
            "model.prototypes = {prototypes} is more than the {} images: most would stay empty; \
             about 10 × the classes is a good number",
            plan.data.images
        )
    });
    ledger.require(prototypes <= LEAST_SHARE * rows, || {
        format!(
            "model.prototypes = {prototypes} cannot be filled by the {rows} samples of batch and \
             queue: an equal partition gives each less than 1/{LEAST_SHARE} of a sample; take at \
             most {}, a larger batch, or method.queue.length = {}",
            LEAST_SHARE * rows,
            prototypes.div_ceil(plan.train.batch_size.max(1)) * plan.train.batch_size
        )
    });
}

fn check_optimizer(plan: &Plan, ledger: &mut Ledger) {
    let (optimizer, steps) = (&plan.optimizer, plan.train.steps);
    let schedule = &optimizer.schedule;
    for (field, rate) in [
        ("lr", schedule.base),
        ("final_lr", schedule.end),
        ("start_lr", schedule.start),
    ] {
        ledger.require(rate.is_finite() && rate >= 0.0, || {
            format!("optimizer.{field} = {rate} must be a number of at least 0")
        });
    }
    ledger.require((0.0..1.0).contains(&optimizer.momentum), || {
        format!(
            "optimizer.momentum = {} must lie in [0, 1)",
            optimizer.momentum
        )
    });
    ledger.require(optimizer.weight_decay >= 0.0, || {
        format!(
            "optimizer.weight_decay = {} must not be negative",
            optimizer.weight_decay
        )
    });
    ledger.require(steps == 0 || schedule.warmup < steps, || {
        format!(
            "optimizer.warmup lasts {} steps of a run of {steps}: nothing is left to train; \
             shorten it or train longer",
            schedule.warmup
        )
    });
}
