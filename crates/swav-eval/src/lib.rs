//! What a trained network is worth, and what it has found: features, kNN accuracy, linear classification, fine-tuning,
//! assignments, files of rows, and the report of a run.
//!
//! Everything here takes a network and a [`Plan`](swav_train::Plan) that says how it sees images; [`Extraction`] turns
//! images into rows, and the rest works on rows. Two [observers](swav_train::observe::Observer) measure and report while a
//! run goes on: [`OnlineKnn`] and [`report::ReportWriter`].

#![warn(clippy::unwrap_used, clippy::expect_used)]

mod array;
mod assign;
mod batches;
mod classifier_state;
mod features;
mod finetune;
mod knn;
mod linear;
mod online;
pub mod report;
mod rows;
mod scores;
mod share;
mod table;

pub use array::ArrayFormat;
pub use assign::{Assignment, AssignmentWriter, Clusters};
pub use batches::{Augmented, Batches, Cached};
pub use classifier_state::Origin;
pub use features::{Extraction, Features, Layer, Subset};
pub use finetune::{FinetuneConfig, Finetuning};
pub use knn::{KnnAccuracy, KnnConfig, Queries, knn};
pub use linear::{Classification, LinearConfig};
pub use online::OnlineKnn;
pub use rows::{RowFormat, RowWriter};
pub use scores::{LinearEpoch, LinearResult, Scores};
pub use share::Share;
pub use table::TableFormat;
