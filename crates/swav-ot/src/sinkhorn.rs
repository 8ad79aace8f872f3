use burn::tensor::{FloatDType, Tensor};

use crate::{Local, OtError, Reduce};

/// Every so many rounds the codes are computed anew, from the scores and the potentials.
///
/// Between two such rounds the codes are rescaled in place, which cannot bring back what was rounded to zero.
/// A round lets an entry grow by at most `K·B²` (a prototype's sum is at least `1/(K·B)`, and a sample's sum
/// after that at least `1/B`), so two of them lift nothing from below 1e-38 to above 1e-8 while `K·B²`
/// is below 1e15. With three rounds, SwAV's number, one exponential is enough.
const REFRESH: usize = 3;

/// The smallest accepted epsilon.
///
/// The rounding of a score of size one is 6e-8, and what codes are made of is the score divided by epsilon:
/// below this, codes would be made of rounding.
const MIN_EPSILON: f64 = 1e-6;

/// The two numbers that shape the codes (Caron et al. 2020, section 3.1 and appendix A.1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SinkhornConfig {
    /// Weight of the entropy, in units of the scores. Large: every code is uniform. Small: codes are
    /// nearly hard. 0.05 for cosine scores; 0.03 where training collapses.
    pub epsilon: f64,
    /// How many times the prototypes' and then the samples' shares are made equal. Default: 3.
    ///
    /// With 0 the scores are only exponentiated and divided by their total: rows do *not* sum to one then,
    /// their average does.
    pub iterations: usize,
}

impl Default for SinkhornConfig {
    fn default() -> Self {
        Self {
            epsilon: 0.05,
            iterations: 3,
        }
    }
}

impl SinkhornConfig {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`OtError::Epsilon`] if epsilon is not finite or less than 1e-6.
    pub fn validate(&self) -> Result<(), OtError> {
        if self.epsilon.is_finite() && self.epsilon >= MIN_EPSILON {
            Ok(())
        } else {
            Err(OtError::Epsilon(self.epsilon))
        }
    }
}

/// Scores `[B, K]` to codes `[B, K]`: each row is a distribution over the prototypes, and over the batch
/// each prototype receives about the same share.
///
/// Equal to `config.iterations` rounds of Sinkhorn-Knopp (Caron et al. 2020, equations 3 to 5; see the
/// [crate's page](crate)), each ending with the samples, so rows sum to one.
///
/// - **Precision**: scores of any float type are cast to `f32`, and codes are `f32`. After three rounds on
///   cosines they agree with an `f64` computation to 1e-6 down to an epsilon of 0.01, and to `3e-8/ε` below: half
///   a rounding of a score of size one, which is then what codes are made of.
/// - **Gradient**: none. Codes are constants, outside of any autodiff graph, as the method wants; in a
///   product with a tensor that has one they count as such.
/// - **Order**: permuting samples or prototypes permutes the codes. Adding a constant to all scores changes nothing.
/// - **Not-a-number**: one such score, or a positive infinite one, makes every code not-a-number, as every
///   sample counts for every other. Nothing is checked here, since that would wait for the device: guard the loss.
///
/// # Panics
///
/// If `B` or `K` is 0, or if the configuration is not [valid](SinkhornConfig::validate).
pub fn sinkhorn(scores: Tensor<2>, config: &SinkhornConfig) -> Tensor<2> {
    let shape = scores.dims();
    assert!(
        !shape.contains(&0),
        "sinkhorn: scores are [B, K] = {shape:?}, and neither may be 0"
    );
    sinkhorn_batched(scores.unsqueeze_dim(0), config).squeeze_dim(0)
}

/// [`sinkhorn`] for `N` independent problems of one size: scores `[N, B, K]` to codes `[N, B, K]`.
///
/// For several prototype heads, or for both assigning crops at once.
///
/// # Panics
///
/// As [`sinkhorn`], and if `N` is 0.
pub fn sinkhorn_batched(scores: Tensor<3>, config: &SinkhornConfig) -> Tensor<3> {
    sinkhorn_with(scores, config, &mut Local)
}

/// [`sinkhorn_batched`] for a batch that is spread over ranks, each with samples of its own: `reduce` says
/// how sums cross them. Every rank gets the codes `[N, B, K]` of its own samples, where `B` may differ
/// from rank to rank.
///
/// # Panics
///
/// As [`sinkhorn_batched`].
pub fn sinkhorn_with(
    scores: Tensor<3>,
    config: &SinkhornConfig,
    reduce: &mut impl Reduce,
) -> Tensor<3> {
    let shape = scores.dims();
    assert!(
        !shape.contains(&0),
        "sinkhorn: scores are [N, B, K] = {shape:?}, and none may be 0"
    );
    if let Err(error) = config.validate() {
        panic!("sinkhorn: {error}");
    }

    let scores = scores.without_autodiff().cast(FloatDType::F32);
    match config.iterations {
        0 => unbalanced(scores, config.epsilon, reduce),
        iterations => balanced(scores, config.epsilon, iterations, reduce),
    }
}

/// At least one round.
fn balanced(
    scores: Tensor<3>,
    epsilon: f64,
    iterations: usize,
    reduce: &mut impl Reduce,
) -> Tensor<3> {
    let mut potentials = potentials(scores.clone(), epsilon, reduce);
    let mut codes = assign(scores.clone(), potentials.clone(), epsilon);

    for round in 1..iterations {
        if round.is_multiple_of(REFRESH) {
            codes = assign(scores.clone(), potentials.clone(), epsilon);
        }
        // Giving a prototype more or less is a factor common to it: dividing its column by its sum, and
        // adding the sum's logarithm to its potential, are the same thing.
        let shares = across_ranks(codes.clone().sum_dim(1), |shares| reduce.sum(shares));
        potentials = potentials + shares.clone().log() * epsilon;
        codes = each_sums_to_one(codes / shares);
    }
    codes
}

/// The prototypes' half of a round: `f_k = ε ln Σ_i exp(s_ik/ε)`, as `[N, 1, K]`. Subtracted from the
/// scores, it leaves every prototype with the same share.
fn potentials(scores: Tensor<3>, epsilon: f64, reduce: &mut impl Reduce) -> Tensor<3> {
    let largest = across_ranks(scores.clone().max_dim(1), |largest| reduce.max(largest));
    let shares = ((scores - largest.clone()) / epsilon).exp().sum_dim(1);
    let shares = across_ranks(shares, |shares| reduce.sum(shares));
    largest + shares.log() * epsilon
}

/// The samples' half of a round: each one's code sums to one.
fn assign(scores: Tensor<3>, potentials: Tensor<3>, epsilon: f64) -> Tensor<3> {
    let scores = scores - potentials;
    // Taken out before the division, so that what is small after it, and counts the most, is rounded the least.
    let largest = scores.clone().max_dim(2);
    each_sums_to_one(((scores - largest) / epsilon).exp())
}

/// Divides each sample's row by its sum.
fn each_sums_to_one(codes: Tensor<3>) -> Tensor<3> {
    let sums = codes.clone().sum_dim(2);
    codes / sums
}

/// No round at all: `B·exp(s/ε)/total`, with the batch and the total taken over all ranks.
fn unbalanced(scores: Tensor<3>, epsilon: f64, reduce: &mut impl Reduce) -> Tensor<3> {
    let [_, samples, _] = scores.dims();
    let largest = scores.clone().max_dims(&[1, 2]);
    let largest = across_ranks(largest, |largest| reduce.max(largest));
    let mass = ((scores - largest) / epsilon).exp();

    let total = mass.clone().sum_dims(&[1, 2]);
    let samples = total.full_like(samples as f64);
    let sums = across_ranks(Tensor::cat(vec![total, samples], 2), |sums| {
        reduce.sum(sums)
    });
    let [total, samples] = [0, 1].map(|at| sums.clone().narrow(2, at, 1));
    mass * (samples / total)
}

/// Hands a `[N, 1, K]` tensor to a reduction over `[N, K]`.
fn across_ranks(partial: Tensor<3>, reduce: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<3> {
    reduce(partial.squeeze_dim(1)).unsqueeze_dim(1)
}
