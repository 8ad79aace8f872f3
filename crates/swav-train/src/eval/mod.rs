//! Measuring features and carrying them away: extraction, kNN, linear classification, fine-tuning,
//! assignments, files.

mod array;
mod assign;
mod batches;
mod features;
mod finetune;
mod kept;
mod knn;
mod linear;
mod rows;
mod scores;
mod share;
mod table;

pub use array::ArrayFormat;
pub use assign::{Assignment, AssignmentWriter, Clusters};
pub use batches::{Augmented, Batches, Cached};
pub(crate) use features::read;
pub use features::{Extraction, Features, Layer, Subset};
pub use finetune::{FinetuneConfig, Finetuning};
pub use kept::Origin;
pub use knn::{KnnAccuracy, KnnConfig, Queries, knn};
pub use linear::{Classification, LinearConfig};
pub use rows::{RowFormat, RowWriter};
pub use scores::{LinearEpoch, LinearResult, Scores};
pub use share::Share;
pub use table::TableFormat;
