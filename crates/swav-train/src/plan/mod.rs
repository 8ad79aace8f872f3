//! The plan: what will run, derived from the recipe, the data and the device, and held to what
//! can work.
//!
//! A [`Recipe`] says what the user wants; [`Plan::derive`] fills in the rest and says why, and
//! refuses combinations that cannot train, each with the reason. The plan is saved with the run
//! (`plan.toml`), so that a resumed run derives nothing anew.

mod check;
mod derive;
mod memory;
mod weights;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use swav_data::{Augment, CropSpec, DEFAULT_MAX_PIXELS, Digest, Format, View};
use swav_model::{NetworkConfig, Stem};

pub use memory::{MemoryEstimate, readable as readable_bytes};

use crate::TrainError;
use crate::config::{self, OnCollapse, Recipe, SyncBn};
use crate::facts::Facts;
use crate::ledger::{Ledger, Note};
use crate::method::{MethodContext, MethodPlan};
use crate::optim::OptimizerPlan;
use crate::precision::Precision;
use crate::span::Interval;

/// What will run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of this file's layout.
    pub version: u32,
    /// Weights that the run begins with, in place of drawn ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// The images.
    pub data: DataPlan,
    /// The backbone, head and prototypes.
    pub model: NetworkConfig,
    /// The method and its constants.
    pub method: MethodPlan,
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
    /// A text file with the labels of each training image, in place of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Training images when the plan was made; a resumed run must find as many.
    pub images: usize,
    /// Classes, 0 without labels.
    pub classes: usize,
    /// What tells the set from others; a resumed run must find the same. Earlier versions kept none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Median short side of a few images, in pixels; 0 in plans that did not look.
    #[serde(default)]
    pub side: usize,
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
    /// Images per optimizer step, of all ranks together.
    pub batch_size: usize,
    /// How they are shared out, where the run has several ranks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<RanksPlan>,
    /// Micro-batches per step.
    pub accumulate: usize,
    /// Number format.
    pub precision: Precision,
    /// Whether only the inputs of the backbone's stages are kept from the forward to the backward pass, which computes the
    /// activations within a stage once more: less memory for about a third more computation, and the same numbers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checkpoint_activations: bool,
    /// Seed of the weights, the order and the augmentation.
    pub seed: u64,
    /// Optimizer steps of one epoch.
    pub steps_per_epoch: u64,
    /// Optimizer steps of the run.
    pub steps: u64,
    /// Steps between two checkpoints; 0: only at the end.
    pub checkpoint_steps: Interval,
    /// Checkpoints kept.
    pub keep: usize,
    /// Steps between two lines of `metrics.jsonl`; 0: only at the end.
    pub log_steps: Interval,
    /// Steps between two measurements of kNN accuracy; 0: never.
    pub knn_steps: Interval,
    /// What happens when the features collapse.
    pub on_collapse: OnCollapse,
    /// Whether the run also writes event files for TensorBoard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tensorboard: bool,
}

/// The ranks of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RanksPlan {
    /// How many there are.
    pub count: usize,
    /// Images of a step that are one rank's.
    pub batch_size: usize,
    /// Over which of them batch norm takes its statistics.
    pub sync_bn: SyncBn,
}

impl TrainPlan {
    /// Processes that share the run.
    pub fn rank_count(&self) -> usize {
        self.ranks.map_or(1, |ranks| ranks.count)
    }

    /// Images of a step that are one rank's.
    pub fn rank_batch(&self) -> usize {
        self.batch_size / self.rank_count()
    }

    /// Shares a batch out among `count` ranks.
    pub fn share_out(&mut self, count: usize, sync_bn: SyncBn) {
        self.ranks = (count > 1).then(|| RanksPlan {
            count,
            batch_size: self.batch_size / count,
            sync_bn,
        });
    }
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
    /// The whole of an image for small ones, an eighth less than its short side for others, as is usual on ImageNet.
    fn of(size: usize, stem: Stem) -> Self {
        let resize = match stem {
            Stem::Cifar => size,
            Stem::Imagenet => (size as f64 * 256.0 / 224.0).round() as usize,
        };
        Self { resize, size }
    }

    /// As a view of the loader.
    pub fn view(&self) -> View {
        View::Centre {
            resize: self.resize,
            size: self.size,
        }
    }
}

impl Plan {
    /// Version of the layout of `plan.toml`.
    pub const VERSION: u32 = 2;

    /// Derives everything that `recipe` leaves out and refuses what cannot work.
    ///
    /// # Errors
    /// Lists every problem found, each with what to change.
    pub fn derive(recipe: &Recipe, facts: &Facts) -> Result<Self, TrainError> {
        refuse(config::problems(recipe))?;
        let mut ledger = Ledger::default();
        let path = recipe.data.path.clone().ok_or_else(|| {
            TrainError::Recipe("no data: give --data or [data] path in the recipe".to_string())
        })?;

        let defaults = recipe.method.defaults(facts);
        let crops = derive::crops(recipe, facts, &mut ledger);
        let train = derive::train(recipe, &defaults, facts, &mut ledger);
        let model = derive::model(recipe, &defaults, facts, &mut ledger)?;
        let context = context(&path, [facts.images, facts.classes], &crops, &model, &train);
        let method = recipe.method.derive(&context, &mut ledger);
        let optimizer = derive::optimizer(recipe, &defaults, facts, &train, &mut ledger);

        let largest = crops.iter().map(|crop| crop.size).max().unwrap_or(0);
        let size = recipe.evaluation.size.unwrap_or(largest);
        let evaluation = EvaluationPlan::of(size, model.backbone.stem);
        let mut plan = Self {
            version: Self::VERSION,
            init: recipe.model.init.clone(),
            data: DataPlan {
                path,
                test: recipe.data.test.clone(),
                format: recipe.data.format.unwrap_or(Format::Auto),
                labels: recipe.data.labels.clone(),
                images: facts.images,
                classes: facts.classes,
                digest: facts.digest.clone(),
                side: facts.side,
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
            notes: Vec::new(),
        };
        let mut problems = std::mem::take(&mut ledger.problems);
        problems.extend(plan.problems());
        // What is wrong otherwise comes first: its size may be what is wrong.
        if problems.is_empty()
            && let Some(available) = facts.memory
        {
            plan.fit(available, recipe.train.accumulate.is_none(), &mut ledger);
            problems.append(&mut ledger.problems);
        }
        plan.notes = ledger.notes;
        refuse(problems)?;
        Ok(plan)
    }

    /// The plan of a run that goes on with `count` ranks.
    ///
    /// # Errors
    /// If its batch cannot be shared out among them.
    pub fn with_ranks(mut self, count: usize, sync_bn: SyncBn) -> Result<Self, TrainError> {
        self.train.share_out(count, sync_bn);
        let mut ledger = Ledger::default();
        check::check_ranks(&self, &mut ledger);
        self.method.check(&self.context(), &mut ledger);
        refuse(ledger.problems)?;
        Ok(self)
    }

    /// What cannot work in the plan as it stands.
    fn problems(&self) -> Vec<String> {
        let mut ledger = Ledger::default();
        check::check(self, &mut ledger);
        ledger.problems
    }

    /// The run as far as its method is concerned with it.
    pub(crate) fn context(&self) -> MethodContext<'_> {
        let data = &self.data;
        context(
            &data.path,
            [data.images, data.classes],
            &self.crops,
            &self.model,
            &self.train,
        )
    }

    /// Crops of one image.
    pub fn crops_per_image(&self) -> usize {
        self.crops.iter().map(|crop| crop.count).sum()
    }

    /// Multiply-adds of one training step: forward, and twice as much backward; where activations are computed once more, that
    /// is another forward.
    pub fn macs_per_step(&self) -> u64 {
        let backbone = &self.model.backbone;
        let forward: u64 = self
            .crops
            .iter()
            .map(|crop| crop.count as u64 * backbone.macs(crop.size))
            .sum();
        let passes = if self.train.checkpoint_activations {
            4
        } else {
            3
        };
        passes * forward * self.train.batch_size as u64
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
        let no_plan = |error: toml::de::Error| {
            TrainError::checkpoint(path, format!("is no plan of a run: {}", error.message()))
        };
        // The version first: what an older one means by its fields is nobody's guess.
        let table: toml::Table = toml::from_str(&text).map_err(no_plan)?;
        match table.get("version").and_then(toml::Value::as_integer) {
            Some(version) if version != i64::from(Self::VERSION) => {
                let ours = Self::VERSION;
                let reason = format!("is of version {version}, this program reads version {ours}");
                Err(TrainError::checkpoint(path, reason))
            }
            _ => table.try_into().map_err(no_plan),
        }
    }
}

fn context<'a>(
    data: &'a Path,
    [images, classes]: [usize; 2],
    crops: &'a [CropSpec],
    model: &'a NetworkConfig,
    train: &TrainPlan,
) -> MethodContext<'a> {
    MethodContext {
        data,
        images,
        classes,
        crops,
        model,
        batch: train.batch_size,
        ranks: train.rank_count(),
        epochs: train.epochs,
        steps_per_epoch: train.steps_per_epoch,
        steps: train.steps,
        seed: train.seed,
    }
}

/// Refuses a recipe that has problems, with all of them.
fn refuse(problems: Vec<String>) -> Result<(), TrainError> {
    match problems.as_slice() {
        [] => Ok(()),
        [one] => Err(TrainError::Recipe(one.clone())),
        many => Err(TrainError::Recipe(format!(
            "this cannot work, for {} reasons:\n  - {}",
            many.len(),
            many.join("\n  - ")
        ))),
    }
}
