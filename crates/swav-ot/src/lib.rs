//! Entropic optimal transport on [Burn](burn) tensors: from scores to codes.
//!
//! Clustering a data set and learning from the clusters at the same time has a trivial solution: put
//! everything into one cluster. SwAV (Caron et al., *Unsupervised Learning of Visual Features by
//! Contrasting Cluster Assignments*, NeurIPS 2020, section 3.1) forbids it by *how* it assigns: within
//! each batch every prototype receives the same share of the samples. Such an assignment is the answer
//! to a transport problem, and this crate solves it.
//!
//! # The problem
//!
//! Let `Z` be the `B` embeddings of a batch and `C` the `K` prototypes, all of unit length, and let
//! `S = CᵀZ` be their scores, `K × B`. Among all ways `Q ≥ 0` to spread the samples over the prototypes,
//! look for
//!
//! ```text
//! max ⟨Q, S⟩ + ε·H(Q)     subject to     Q·1 = 1/K     (each prototype gets an equal share)
//!  Q                                     Qᵀ·1 = 1/B    (each sample is spent, and counts the same)
//! ```
//!
//! where `H(Q) = −Σ Q ln Q`. Without the entropy this is a linear programme, with assignments that are
//! nearly hard. With it the problem is strictly concave, and its only solution has a closed form,
//!
//! ```text
//! Q* = diag(u) · exp(S/ε) · diag(v)
//! ```
//!
//! with one positive number for each prototype and one for each sample (Cuturi, *Sinkhorn Distances*,
//! NeurIPS 2013, lemma 2). The *codes* are `B·Q*ᵀ`: one row for each sample, summing to one, used as the
//! soft label that another view of the same image has to predict.
//!
//! # Sinkhorn-Knopp
//!
//! `u` and `v` are found by making one constraint true at a time. Start with `exp(S/ε)`, divided by its
//! sum; then, again and again, give each prototype its share `1/K` and each sample its share `1/B`. SwAV
//! stops after three rounds, of which the last step is the samples', so the codes of a sample sum to one
//! exactly and the prototypes' shares are equal up to the error that is left. That error never grows from one
//! round to the next, and shrinks fast once the scores are small against `ε`. Three rounds are
//! part of the method, not a tolerance: results are meant to equal those of three rounds.
//!
//! # Why it does not overflow, and is still the same number
//!
//! `exp(S/ε)` leaves the range of `f32` for unit vectors once `ε < 0.0113`, and with the largest score taken
//! out, whole samples vanish to zero once `ε` is below 0.02. In logarithms nothing does. Write `u = exp(−f/ε)` and
//! `v = exp(−g/ε)`: the *potentials* `f` and `g` are in units of the scores, a round sets
//!
//! ```text
//! f_k = ε ln Σ_i exp((S_ki − g_i)/ε)          (each prototype's sum becomes one)
//! g_i = ε ln Σ_k exp((S_ki − f_k)/ε)          (each sample's sum becomes one)
//! ```
//!
//! starting from `g = 0`, and the codes are `exp((S − f − g)/ε)`. Factors `1/K` and `1/B` are common to all prototypes or
//! all samples, and cancel. Each sum has its largest term taken out, over all ranks where there are several. (A
//! sample's largest *score* must not be taken out beforehand: it is a factor the prototypes' sums do depend on, and
//! after three rounds the codes are other ones.)
//!
//! The samples' half is a softmax, and needs no number kept: `codes = softmax_k((S − f)/ε)`. So the second and each later
//! round is
//!
//! ```text
//! share_k = Σ_i codes_ik          f_k += ε ln share_k
//! ```
//!
//! and what `f` was rounded to, the next round corrects.
//!
//! # Why it is fast
//!
//! Only `f` changes from round to round: `K` numbers. So nothing is ever written but the codes, at the end. One pass over
//! the scores makes the first `f`; each further round is one pass, in which a sample's exponentials are summed and, still
//! in the cache, added to the prototypes' shares; and a last pass writes the codes. With three rounds the scores
//! are read four times. Dividing the matrix in place, as it is usually written, reads and writes it some twenty-five
//! times. The exponentials are computed anew in every pass: that is cheaper than storing them would be.
//!
//! [`Implementation`] says where there are kernels for this; elsewhere the same passes are made of Burn's operations.
//!
//! The slow way to say the same, in `f64` and the log domain throughout, is in [`mod@reference`]; the tests
//! hold it and all implementations together.
//!
//! # Example
//!
//! Six samples, two prototypes. Every sample is closer to the first one, so picking the largest score would
//! leave the second prototype empty. The codes share them out, three each, and pick those for which the
//! second prototype is the lesser loss.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use swav_ot::{CodeStatistics, SinkhornConfig, sinkhorn};
//!
//! let device = Device::flex();
//! let scores = Tensor::<2>::from_floats(
//!     [[0.9, 0.1], [0.9, 0.2], [0.9, 0.1], [0.9, 0.8], [0.9, 0.7], [0.9, 0.8]],
//!     &device,
//! );
//! let codes = sinkhorn(scores, &SinkhornConfig::default())?;
//!
//! let chosen: Vec<i64> = codes.clone().argmax(1).into_data().iter().collect();
//! assert_eq!(chosen, [0, 0, 0, 1, 1, 1]);
//!
//! let report = CodeStatistics::of(&codes).read();
//! assert_eq!(report.dead, 0);
//! assert!(report.marginal_error < 0.2);
//! # Ok::<(), swav_ot::OtError>(())
//! ```
//!
//! # What is here
//!
//! | | |
//! |---|---|
//! | [`sinkhorn`] | scores to codes |
//! | [`sinkhorn_with`], [`Reduce`] | the same for several sets of prototypes, with the samples spread over several ranks, and without waiting for the device |
//! | [`PrototypePotentials`] | the same over more samples than scores can be kept of |
//! | [`spherical_kmeans`] | each sample to its nearest centroid, and the centroids to their samples |
//! | [`transport`], [`Transport`] | on its own: until the marginals are met, with marginals of one's own, with dual potentials and cost |
//! | [`hard_codes`], [`balanced_assignment`] | each sample to one prototype, by rounding or with equal shares to the sample |
//! | [`CodeStatistics`], [`code_entropy`], [`marginal_error`], [`assignment_counts`] | is training collapsing? |
//! | [`dead_prototypes`], [`duplicate_prototypes`] | which prototypes are of no use? |
//! | [`mod@reference`] | the slow and obvious form, which the rest is tested against |
//!
//! # Features
//!
//! | feature | what it does |
//! |---|---|
//! | none | The crate names no backend. It runs on whatever [`Device`](burn::tensor::Device) its tensors are on, in Burn's operations; the program that uses it picks backends with Burn's features. |
//! | `flex` | kernels for the CPU, on Burn's Flex |
//! | `cube` | kernels for GPUs, on whatever of CubeCL's backends Burn is built with; with Burn's `fusion`, turn on `fusion` here too |
//! | `wgpu`, `cuda` | `cube`, and that backend of Burn's |
//!
//! Codes are computed in `f32` whatever the scores come in, and carry no gradient: they are targets.

#![warn(clippy::unwrap_used, clippy::expect_used)]

mod blockwise;
mod diagnostics;
mod error;
mod hard;
mod kernel;
mod kmeans;
#[cfg(all(test, feature = "nvrtc"))]
#[path = "../../../tests/nvrtc/mod.rs"]
mod nvrtc;
mod reduce;
pub mod reference;
mod sinkhorn;
mod transport;

pub use blockwise::PrototypePotentials;
pub use diagnostics::{
    CodeReport, CodeStatistics, Duplicate, assignment_counts, code_entropy, dead_prototypes,
    duplicate_prototypes, marginal_error, usage_entropy,
};
pub use error::OtError;
pub use hard::{balanced_assignment, hard_codes};
pub use kernel::Implementation;
pub use kmeans::{Clusters, centroids_from, spherical_kmeans, spherical_kmeans_with};
pub use reduce::{Local, Reduce, max_by_sum};
pub use sinkhorn::{SinkhornConfig, sinkhorn, sinkhorn_with};
pub use transport::{Stop, Transport, TransportConfig, transport};
