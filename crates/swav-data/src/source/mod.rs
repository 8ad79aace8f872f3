//! Where images come from: folders, lists, tar shards, Parquet, CIFAR and IDX files, behind one trait.
//!
//! A source knows how many samples it has, hands out any of them by index from any thread, and is
//! always in the same order: names are sorted bytewise, so an index means the same image in every run.

mod catalogue;
mod cifar;
mod classes;
mod compression;
mod describe;
mod files;
mod filesystem;
mod folder;
mod format;
mod idx;
mod index;
mod list;
mod marker;
mod members;
mod names;
mod open;
mod pages;
mod parquet;
mod pattern;
mod remarks;
mod shard;
mod skipped;
mod split;
mod table;
mod tags;
mod tar;
mod traits;
mod webdataset;

pub use self::cifar::CifarSource;
pub use self::folder::FolderSource;
pub use self::format::Format;
pub use self::idx::IdxSource;
pub use self::list::ListSource;
pub(crate) use self::marker::{MARKER, Marker};
pub use self::open::open;
pub use self::parquet::ParquetSource;
pub use self::tags::TagSource;
pub use self::tar::TarSource;
pub use self::traits::Source;
