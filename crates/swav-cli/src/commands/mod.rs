//! One file per command.

mod assign;
mod bench;
mod check;
mod classifier;
mod data;
mod devices;
mod embed;
mod eval;
mod eval_finetune;
mod eval_linear;
mod export;
mod plan;
mod quickstart;
mod report;
mod setup;
mod train;

pub use assign::assign;
pub use bench::bench;
pub use data::{data_pack, data_scan};
pub use devices::devices;
pub use embed::embed;
pub use eval::eval_knn;
pub use eval_finetune::eval_finetune;
pub use eval_linear::eval_linear;
pub use export::export;
pub use plan::plan;
pub use quickstart::quickstart;
pub use report::report;
pub use train::train;
