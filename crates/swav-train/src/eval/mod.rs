//! Measuring features and carrying them away: extraction, kNN, files.

mod features;
mod knn;
mod rows;

pub(crate) use features::read;
pub use features::{Extraction, Features, Layer, Subset};
pub use knn::{KnnAccuracy, KnnConfig, Queries, knn};
pub use rows::{RowFormat, RowWriter};
