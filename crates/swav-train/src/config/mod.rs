//! The recipe: what the user wrote, before anything is derived from it.
//!
//! Every field is optional. What is left out is derived from the data set, the batch and the
//! device when the recipe becomes a [`Plan`](crate::Plan). Unknown fields are refused with the
//! nearest known name, and an override from the command line (`--set train.epochs=2`) is held to
//! the same rules as the file.

mod bounds;
mod parse;
mod sync_bn;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use swav_data::{Augment, CropSpec, Format};
use swav_model::Stem;

pub(crate) use bounds::problems;
pub use sync_bn::SyncBn;

use crate::method::MethodRecipe;
use crate::optim::OptimizerName;
use crate::precision::Precision;
use crate::span::Span;

/// A recipe as written in TOML. See `configs/` for complete ones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Where the images are and how they are read.
    pub data: DataRecipe,
    /// The crops taken from each image. Empty: derived from the size of the images.
    pub crops: Vec<CropSpec>,
    /// The colour augmentation of every crop.
    pub augment: Augment,
    /// Backbone, head and prototypes.
    pub model: ModelRecipe,
    /// How features become a loss.
    pub method: MethodRecipe,
    /// How gradients become updates.
    pub optimizer: OptimizerRecipe,
    /// Length, batch, seed, checkpoints and monitors.
    pub train: TrainRecipe,
    /// How images are seen in evaluation.
    pub evaluation: EvaluationRecipe,
}

/// `[evaluation]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationRecipe {
    /// Side of the centre crop, in pixels; absent: that of the largest crop trained on.
    pub size: Option<usize>,
}

/// `[data]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataRecipe {
    /// Folder, tar file or folder of tar shards with the training images.
    pub path: Option<PathBuf>,
    /// Held-out images with the same classes; used by the online kNN alone.
    pub test: Option<PathBuf>,
    /// How `path` is laid out; `auto` looks.
    pub format: Option<Format>,
    /// A text file with the labels of each training image, in place of their own.
    pub labels: Option<PathBuf>,
    /// Decoding threads; 0 or absent: one per core.
    pub workers: Option<usize>,
    /// Batches kept ready ahead of the device.
    pub prefetch: Option<usize>,
    /// Share of the files that may be corrupt before the run stops.
    pub corrupt_budget: Option<f64>,
    /// Images with more pixels are refused before they are decoded.
    pub max_pixels: Option<u64>,
}

/// `[model]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelRecipe {
    /// Weights to begin with: a checkpoint of PyTorch, SafeTensors, or a run.
    pub init: Option<PathBuf>,
    /// `resnet18` … `resnet152`, `resnet50w2`, `resnext101_32x8d`, …
    pub backbone: Option<String>,
    /// Multiplies every width of the backbone; a fraction makes it slim.
    pub width: Option<f64>,
    /// `imagenet` (7×7 stride 2 and max-pool) or `cifar` (3×3, no pool).
    pub stem: Option<Stem>,
    /// Width of the projection head's hidden layer; 0: a single linear layer.
    pub hidden: Option<usize>,
    /// Whether batch norm follows the hidden layer.
    pub head_norm: Option<bool>,
    /// Length of an embedding.
    pub dim: Option<usize>,
    /// Number of prototypes of each head.
    pub prototypes: Option<Vec<usize>>,
    /// Over which ranks batch norm takes its statistics: `all`, `none`, or groups of so many.
    pub sync_bn: Option<SyncBn>,
}

/// `[optimizer]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerRecipe {
    /// `larc`, `sgd`, `adam` or `adamw`.
    pub name: Option<OptimizerName>,
    /// Learning rate after the warm-up.
    pub lr: Option<f64>,
    /// Learning rate at the end of the cosine.
    pub final_lr: Option<f64>,
    /// Length of the linear warm-up.
    pub warmup: Option<Span>,
    /// Learning rate at the first step of the warm-up.
    pub start_lr: Option<f64>,
    /// Momentum of SGD, β₁ of Adam.
    pub momentum: Option<f64>,
    /// Weight decay.
    pub weight_decay: Option<f64>,
    /// Leave biases and batch norms out of decay and of LARC's scaling.
    pub exclude_bias_and_norm: Option<bool>,
}

/// `[train]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainRecipe {
    /// Passes over the data.
    pub epochs: Option<u64>,
    /// Images per optimizer step.
    pub batch_size: Option<usize>,
    /// Micro-batches that a batch is cut into where memory is short.
    pub accumulate: Option<usize>,
    /// `f32` or `bf16`.
    pub precision: Option<Precision>,
    /// Whether the backward pass computes activations once more, to save memory.
    pub checkpoint_activations: Option<bool>,
    /// Seed of the weights, the order and the augmentation.
    pub seed: Option<u64>,
    /// How often everything is saved.
    pub checkpoint: Option<Span>,
    /// How many checkpoints are kept.
    pub keep: Option<usize>,
    /// How often a line is written to `metrics.jsonl`.
    pub log: Option<Span>,
    /// How often kNN accuracy is measured where labels exist.
    pub knn: Option<Span>,
    /// What happens when the features collapse.
    pub on_collapse: Option<OnCollapse>,
    /// Whether the run also writes event files for TensorBoard.
    pub tensorboard: Option<bool>,
}

/// What happens when the features collapse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCollapse {
    /// Save the state and stop with the remedies.
    Stop,
    /// Say so and go on.
    Warn,
}
