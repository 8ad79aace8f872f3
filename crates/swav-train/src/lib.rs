//! Training with swapped assignments: from a recipe and a folder of images to features.
//!
//! # The way of a run
//!
//! A [`Recipe`] is what the user wrote. With what is known of the data and the device ([`Facts`])
//! it becomes a [`Plan`], in which nothing is left open and which is saved with the run. A
//! [`Trainer`] carries the plan out, step by step, on a [`State`] that holds all that changes; a
//! checkpoint is that state on disk, and a run that continues from one gives the same losses, to
//! the bit, as a run that was never stopped.
//!
//! What differs between methods lives behind [`Method`]; the trainer does not know which one runs.
//! [`Extraction`] and [`knn`] measure what was learned.
//!
//! # Example
//!
//! ```
//! use swav_train::{Facts, Plan, Recipe};
//!
//! let recipe = Recipe::from_toml("[train]\nepochs = 200\n[data]\npath = \"photos\"\n", "example")?;
//! let facts = Facts { images: 50_000, classes: 0, single_labels: false, side: 32, accelerated: false, memory: None, digest: None };
//! let plan = Plan::derive(&recipe, &facts)?;
//! assert_eq!(plan.train.steps_per_epoch, 195);
//! assert_eq!(plan.model.prototypes, [593]);
//! for note in &plan.notes {
//!     println!("{note}");
//! }
//! # Ok::<(), swav_train::TrainError>(())
//! ```
//!
//! # Features
//!
//! None: the crate names no backend. Whoever builds a binary enables Burn's (`flex`, `wgpu`, `cuda`)
//! and hands over a [`Device`](burn::tensor::Device).

#![warn(clippy::unwrap_used, clippy::expect_used)]

pub mod check;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod display;
mod error;
pub mod eval;
mod feed;
pub mod files;
mod forward;
pub mod method;
pub mod metrics;
pub mod monitor;
#[cfg(all(test, feature = "nvrtc"))]
#[path = "../../../tests/nvrtc/mod.rs"]
mod nvrtc;
pub mod optim;
mod pass;
mod plan;
pub mod pretrained;
pub mod report;
mod state;
mod stop;
pub mod tensorboard;
mod trainer;
mod upload;

pub use checkpoint::RunDirectory;
pub use config::Recipe;
pub use error::TrainError;
pub use eval::{
    AssignmentWriter, Augmented, Batches, Cached, Classification, Clusters, Extraction, Features,
    FinetuneConfig, Finetuning, KnnAccuracy, KnnConfig, Layer, LinearConfig, LinearEpoch,
    LinearResult, Origin, Queries, RowFormat, RowWriter, Scores, Share, Subset, TableFormat, knn,
};
pub use method::Method;
pub use plan::{DataPlan, EvaluationPlan, Facts, Memory, Note, Plan, TrainPlan, readable_bytes};
pub use state::State;
pub use stop::Stop;
pub use trainer::{Outcome, Parts, Trainer};
pub use upload::{Normalisation, Uploader};
