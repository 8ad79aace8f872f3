//! Backbones, projection heads and prototypes of SwAV, on [Burn].
//!
//! # What is here
//!
//! SwAV (Caron et al., *Unsupervised Learning of Visual Features by Contrasting Cluster
//! Assignments*, NeurIPS 2020) trains a network without labels. This crate is the network, and
//! nothing of the training:
//!
//! | piece | what it does |
//! |---|---|
//! | [`Backbone`] | ResNet and ResNeXt of any depth and width: an image becomes `dim` features |
//! | [`ProjectionHead`] | Linear, batch norm, ReLU, Linear: features become an embedding |
//! | [`Prototypes`] | one or more sets of K unit vectors: an embedding becomes K scores |
//! | [`Network`] | the three together, and the multi-crop forward |
//! | [`BatchNorm`] | batch normalisation with PyTorch's running statistics |
//! | [`weights`] | files: Burn's own format, and SafeTensors under torchvision's names |
//!
//! # The maths
//!
//! Let f be the backbone and g the head. A crop x has the embedding
//!
//! ```text
//! z = g(f(x)) / ‖g(f(x))‖₂            in R^d, d = 128 in the paper
//! ```
//!
//! and, for prototypes c₁ … c_K of unit length, the scores `zᵀc_k`: cosines between −1 and 1.
//! The trainer turns scores into codes and asks one crop to predict the codes of another.
//!
//! An image gives two large crops and several small ones (multi-crop, section 3.2 of the paper).
//! Crops of one size go through the backbone in one pass, so batch norm sees one batch per
//! *resolution*. The features of all crops are then put one below the other, crop by crop, and the
//! head and the prototypes run once over all of them. With C crops and B images row `c·B + b` of the
//! result is crop c of image b.
//!
//! # Example
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use swav_model::{BackboneConfig, NetworkConfig, Stem};
//!
//! let device = Device::flex();
//! let network = NetworkConfig {
//!     backbone: BackboneConfig { name: "resnet18".parse()?, width: 0.25, stem: Stem::Cifar },
//!     hidden: 64,
//!     head_norm: true,
//!     dim: 16,
//!     prototypes: vec![10],
//! }
//! .init(7, &device);
//!
//! // Two crops of 32 pixels and one of 16, for a batch of two images.
//! let large = Tensor::random([4, 3, 32, 32], Distribution::Default, &device);
//! let small = Tensor::random([2, 3, 16, 16], Distribution::Default, &device);
//! let outputs = network.forward(vec![large, small]);
//! assert_eq!(outputs.embeddings.dims(), [6, 16]);
//! assert_eq!(outputs.scores[0].dims(), [6, 10]);
//! # Ok::<(), swav_model::UnknownArchitecture>(())
//! ```
//!
//! # Devices
//!
//! But for its kernels ([`ops`]) the crate names no backend: everything takes a
//! [`Device`](burn::tensor::Device) and runs wherever that is. A network built on `device.autodiff()` trains; [`Module::valid`] of it, or a
//! network built on the bare device, evaluates, and batch norm then uses its running statistics.
//! [`NetworkConfig::init`] draws weights on the host, so that a seed means the same weights on every device.
//!
//! # Features
//!
//! | feature | effect |
//! |---|---|
//! | none | the backends are chosen by the features of `burn` in the final binary |
//! | `flex` | kernels for the CPU behind [`ops`], on Burn's Flex backend |
//! | `cube` | kernels for GPUs behind [`ops`], on whatever CubeCL runs on |
//! | `fusion` | the GPUs' kernels wait in the queue in which Burn fuses operations |
//! | `wgpu`, `cuda` | `cube` and a backend of Burn's, for the tests of this crate alone |
//!
//! [Burn]: https://burn.dev
//! [`Module::valid`]: burn::module::Module::valid

#![warn(clippy::unwrap_used, clippy::expect_used)]

mod backbone;
mod batch_norm;
mod conv;
mod draw;
mod head;
mod network;
#[cfg(all(test, feature = "nvrtc"))]
#[path = "../../../tests/nvrtc/mod.rs"]
mod nvrtc;
pub mod ops;
mod prototypes;
mod ranks;
pub mod weights;

pub use backbone::{Architecture, Backbone, BackboneConfig, Block, Stem, UnknownArchitecture};
pub use batch_norm::{BatchNorm, RunningStatistic};
pub use conv::Conv;
pub use draw::Draw;
pub use head::{HeadConfig, ProjectionHead};
pub use network::{Network, NetworkConfig, Outputs};
pub use prototypes::{Prototypes, PrototypesConfig};
pub use ranks::{Ranks, SumOverRanks};
