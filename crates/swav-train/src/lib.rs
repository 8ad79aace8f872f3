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
//! What differs between methods lives behind [`Method`]; the trainer does not know which one runs. Whoever is to know of
//! a run is an [observer](observe::Observer).
//!
//! # Example
//!
//! ```
//! use swav_train::precision::Bf16;
//! use swav_train::{Facts, Plan, Recipe};
//!
//! let recipe = Recipe::from_toml("[train]\nepochs = 200\n[data]\npath = \"photos\"\n", "example")?;
//! let facts = Facts { images: 50_000, classes: 0, single_labels: false, side: 32, accelerated: false, bf16: Bf16::Smaller, memory: None, ranks: 1, digest: None };
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

pub mod batch;
pub mod check;
pub mod checkpoint;
pub mod collapse;
pub mod comm;
pub mod config;
pub mod data;
pub mod device;
mod epoch;
mod error;
pub mod facts;
mod feed;
pub mod files;
mod forward;
pub mod health;
mod ledger;
pub mod method;
#[cfg(all(test, feature = "nvrtc"))]
#[path = "../../../tests/nvrtc/mod.rs"]
mod nvrtc;
pub mod observe;
pub mod optim;
mod pass;
mod plan;
pub mod precision;
mod run;
mod span;
mod state;
pub mod step;
mod stop;
pub mod trained;
mod trainer;
mod upload;
pub mod weights_file;

pub use config::Recipe;
pub use error::TrainError;
pub use facts::Facts;
pub use ledger::Note;
pub use method::Method;
pub use observe::Outcome;
pub use plan::{DataPlan, EvaluationPlan, MemoryEstimate, Plan, TrainPlan, readable_bytes};
pub use run::RunDirectory;
pub use span::{Interval, Span};
pub use state::State;
pub use stop::Stop;
pub use trainer::{Parts, Trainer};
pub use upload::{Normalisation, Uploader};
