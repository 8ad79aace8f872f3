//! What is watched while a run goes on: the codes, the spread of the embeddings, collapse, and
//! kNN accuracy.

mod collapse;
mod knn;
mod spread;

pub use collapse::{Collapse, Verdict};
pub use knn::OnlineKnn;
pub use spread::spread;
