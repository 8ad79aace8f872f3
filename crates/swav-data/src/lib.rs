//! Images in, batches of augmented crops out: the data side of self-supervised pre-training.
//!
//! Multi-crop training looks at every image eight times in each epoch, each time cut, coloured and
//! blurred in another way, so the data side decides how fast a training run can be. This crate is
//! that side alone, in Rust (unsafe only where functions compiled for AVX2 and AVX-512 are called). It knows nothing of tensors, devices or models: what leaves it are
//! bytes, `[crops · B, size, size, 3]`, ready to be uploaded and normalised elsewhere.
//!
//! # One image's way
//!
//! ```text
//! Source ──▶ sampler ──▶ decode ──▶ View: crop, flip, jitter, grey, blur ──▶ Batch
//! bytes,     which one,  RGB u8     u8 crops, from random numbers keyed      crop-major
//! a label?   in order               by (seed, epoch, sample, crop)           u8 buffers, reused
//! ```
//!
//! * A [`Source`] is a fixed list of images: class folders, a flat or nested folder, tar shards with
//!   folders or with WebDataset's keys, Parquet, a list of paths, CIFAR or IDX files. [`open`] finds out which.
//! * [`Order`] and [`Cursor`] say which sample comes where: a keyed permutation for each epoch,
//!   shared out among ranks, enterable at any position.
//! * [`decode`] turns file contents into pixels, as Pillow's `convert("RGB")` does, or says what is
//!   wrong with them.
//! * A [`View`] makes crops of an image: SwAV's multi-crop ([`CropSpec`], [`Augment`]; Caron et al.,
//!   NeurIPS 2020) or the centre crop of an evaluation. The transforms stand in [`augment`], the
//!   random numbers in [`random`].
//! * A [`Loader`] runs it all on threads of its own and delivers [`Batch`]es in order. Small images it
//!   keeps decoded where they fit ([`LoaderConfig::cache`]); large JPEGs it decodes at a half or a
//!   quarter where every crop drawn shrinks them at least twice as far anyway.
//! * A [`HealthReport`] lists the files that are corrupt. A few are replaced, too many are an error,
//!   and [`scan`] finds corrupt, duplicate and undersized images ahead of time.
//! * [`pack`](pack()) writes any source as tar shards, which give the same samples in the same order.
//!
//! # Example
//!
//! ```
//! use swav_data::{Augment, CropSpec, Cursor, Format, Loader, LoaderConfig, View};
//!
//! // Twelve pictures in two folders.
//! let root = tempfile::tempdir()?;
//! for class in ["dawn", "dusk"] {
//!     std::fs::create_dir(root.path().join(class))?;
//!     for number in 0..6u8 {
//!         let sky = |x, y| image::Rgb([x as u8 * 4, y as u8 * 5, number * 40]);
//!         let picture = image::RgbImage::from_fn(60, 48, sky);
//!         picture.save(root.path().join(class).join(format!("{number}.png")))?;
//!     }
//! }
//!
//! let source = swav_data::open(root.path(), Format::Auto)?;
//! assert_eq!(source.classes(), ["dawn", "dusk"]);
//!
//! let crops = vec![
//!     CropSpec { count: 2, size: 32, scale: [0.14, 1.0] },
//!     CropSpec { count: 4, size: 16, scale: [0.05, 0.14] },
//! ];
//! let config = LoaderConfig {
//!     batch_size: 4,
//!     view: View::MultiCrop { crops, augment: Augment::default() },
//!     ..LoaderConfig::default()
//! };
//! let mut loader = Loader::new(source.clone(), config.clone(), Cursor::default())?;
//! let first = loader.next_batch()?.expect("a shuffled order has no end");
//! assert_eq!(first.groups[0].pixels.len(), 2 * 4 * 32 * 32 * 3);
//! assert_eq!(first.groups[1].pixels.len(), 4 * 4 * 16 * 16 * 3);
//!
//! // What comes next is the same after a restart.
//! let mut resumed = Loader::new(source, config, first.cursor)?;
//! let (one, other) = (loader.next_batch()?, resumed.next_batch()?);
//! let (one, other) = (one.expect("no end"), other.expect("no end"));
//! assert_eq!(one.groups[0].pixels, other.groups[0].pixels);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The determinism contract
//!
//! *The same source, configuration and cursor give the same bytes.* The number of workers, their
//! timing, the prefetch depth and where a run was interrupted have no part in it:
//!
//! * Indices mean the same image each time, since names are sorted bytewise.
//! * The order of an epoch is a function of (seed, epoch); a cursor is two numbers and stores all.
//! * The crops of a sample are a function of (seed, epoch, sample, crop): random numbers come from a
//!   counter-based generator ([`random`]), each transform has its own stream, and no state is shared.
//! * A corrupt file is replaced by a rule that looks at the epoch's order alone.
//!
//! The contract holds on one machine and one version of this crate. Between machines the last bit of
//! a logarithm or a decoder's vector code may differ, and between versions a changed algorithm is
//! announced.
//!
//! # Features
//!
//! None: every format is always there.

#![warn(clippy::unwrap_used, clippy::expect_used)]
#![deny(unsafe_code)]

pub mod augment;
mod cache;
mod decode;
mod digest;
mod dispatch;
mod error;
mod health;
mod loader;
mod multicrop;
mod pack;
pub mod random;
mod reduced;
mod sample;
mod sampler;
mod scan;
mod source;
mod threads;
mod try_decode;

pub use augment::{Augment, Blur, Jitter};
pub use decode::{DEFAULT_MAX_PIXELS, EXTENSIONS, decode, decode_into};
pub use digest::Digest;
pub use error::DataError;
pub use health::{BadFile, BadKind, HealthReport};
pub use loader::{Batch, CropGroup, Loader, LoaderConfig, Memory};
pub use multicrop::{CropSpec, View};
pub use pack::{Packed, ShardSize, pack};
pub use sample::{Image, Sample};
pub use sampler::{Cursor, Order, Permutation};
pub use scan::{Finding, Problem, ScanConfig, ScanReport, scan};
pub use source::{
    CifarSource, FolderSource, Format, IdxSource, ListSource, ParquetSource, Source, TagSource,
    TarSource, open,
};
