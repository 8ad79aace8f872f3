//! The passes on any device, in Burn's own operations. Also what the kernels are compared with.

use burn::tensor::Tensor;

use super::Potentials;

/// See [`super::Scores::prototype_potentials`].
pub(super) fn prototype_potentials(
    scores: Tensor<3>,
    centres: Tensor<2>,
    epsilon: f64,
) -> Tensor<2> {
    log_sum_exp(scores - centres.unsqueeze_dim(1), 1, epsilon).squeeze_dim(1)
}

/// See [`super::Scores::sample_potentials`].
pub(super) fn sample_potentials(
    scores: Tensor<3>,
    potentials: Potentials,
    epsilon: f64,
) -> Tensor<2> {
    log_sum_exp(less(scores, potentials), 2, epsilon).squeeze_dim(2)
}

/// See [`super::Scores::shares`].
pub(super) fn shares(scores: Tensor<3>, potentials: Potentials, epsilon: f64) -> Tensor<2> {
    codes(scores, potentials, epsilon).sum_dim(1).squeeze_dim(1)
}

/// See [`super::Scores::codes`].
pub(super) fn codes(scores: Tensor<3>, potentials: Potentials, epsilon: f64) -> Tensor<3> {
    let scores = less(scores, potentials);
    // Taken out before the division, so that what is small after it, and counts the most, is rounded the least.
    let largest = scores.clone().max_dim(2);
    let codes = ((scores - largest) / epsilon).exp();
    let sums = codes.clone().sum_dim(2);
    codes / sums
}

/// What is left of the scores when each prototype's potential is taken from them.
fn less(scores: Tensor<3>, potentials: Potentials) -> Tensor<3> {
    scores - potentials.centres.unsqueeze_dim(1) - potentials.offsets.unsqueeze_dim(1)
}

/// `ε ln Σ exp(s/ε)` over a dimension, which is kept; not-a-number where a score is not finite.
fn log_sum_exp(scores: Tensor<3>, dim: usize, epsilon: f64) -> Tensor<3> {
    let largest = scores.clone().max_dim(dim);
    // Zero, unless there is a score that a sum would swallow: minus infinity.
    let poison = scores.clone().min_dim(dim) * 0.0;
    let sums = ((scores - largest.clone()) / epsilon).exp().sum_dim(dim);
    largest + sums.log() * epsilon + poison
}
