use burn::tensor::{FloatDType, Tensor};

use crate::kernel::{Implementation, Potentials, Scores};
use crate::{Local, OtError, Reduce};

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
        check_epsilon(self.epsilon)
    }
}

/// Scores `[B, K]` to codes `[B, K]`: each row is a distribution over the prototypes, and over the batch
/// each prototype receives about the same share.
///
/// Equal to `config.iterations` rounds of Sinkhorn-Knopp (Caron et al. 2020, equations 3 to 5; see the
/// [crate's page](crate)), each ending with the samples, so rows sum to one.
///
/// - **Precision**: scores of any float type are cast to `f32`, and codes are `f32`. On cosines they agree with an `f64`
///   computation to 1e-5 of each code down to an epsilon of 0.01, and below to `6e-8/ε`: the rounding of a score of size
///   one, which is then what codes are made of. Scores should be of that size, give or take some orders of magnitude.
/// - **Memory**: less than 1 MiB beside scores and codes, and some vectors of a number per prototype or sample. Scores of
///   another type, or whose rows are not in one piece, are copied once.
/// - **Gradient**: none. Codes are constants, outside of any autodiff graph, as the method wants; in a
///   product with a tensor that has one they count as such.
/// - **Order**: permuting samples or prototypes permutes the codes. Adding a constant to all scores changes nothing.
///
/// # Errors
///
/// [`OtError::NotFinite`] if a score is infinite or not a number; [`OtError::Empty`] if `B` or `K` is 0; and if the
/// configuration is not [valid](SinkhornConfig::validate). To know the first, one number is read: this
/// waits for the device. [`sinkhorn_with`] does not.
pub fn sinkhorn(scores: Tensor<2>, config: &SinkhornConfig) -> Result<Tensor<2>, OtError> {
    let [samples, prototypes] = scores.dims();
    // Unsqueezing an empty tensor is no reshape that Burn knows.
    if samples * prototypes == 0 {
        return Err(OtError::Empty([1, samples, prototypes]));
    }
    let scores = scores.unsqueeze_dim(0);
    let codes: Tensor<2> =
        sinkhorn_with(scores, config, Implementation::Fused, &mut Local)?.squeeze_dim(0);
    // A score that is not finite has left no code, so one sample says enough.
    let some: f64 = codes.clone().narrow(0, samples - 1, 1).sum().into_scalar();
    if some.is_finite() {
        Ok(codes)
    } else {
        Err(OtError::NotFinite)
    }
}

/// [`sinkhorn`] for `N` independent problems of one size, such as several prototype heads or both assigning crops, and for
/// a batch that is spread over ranks: scores `[N, B, K]` to codes `[N, B, K]`.
///
/// Each rank has samples of its own, and `reduce` says how sums cross the ranks. Every rank gets the codes of its own
/// samples, where `B` may differ from rank to rank.
///
/// The scores are not looked at, since that would wait for the device: where one is infinite or not a number,
/// every code of its set is not-a-number. Guard the loss.
///
/// # Errors
///
/// [`OtError::Empty`] if `N`, `B` or `K` is 0, and if the configuration is not
/// [valid](SinkhornConfig::validate). Nothing has crossed the ranks then.
pub fn sinkhorn_with(
    scores: Tensor<3>,
    config: &SinkhornConfig,
    implementation: Implementation,
    reduce: &mut (impl Reduce + ?Sized),
) -> Result<Tensor<3>, OtError> {
    config.validate()?;
    let scores = detached(scores)?;
    if config.iterations == 0 {
        return Ok(unbalanced(scores, config.epsilon, reduce));
    }

    let scores = Scores::new(scores, config.epsilon, implementation);
    let mut potentials = first_potentials(&scores, config.epsilon, reduce);
    for _ in 1..config.iterations {
        let shares = reduce.sum(scores.shares(potentials.clone()));
        potentials = next_potentials(potentials, shares, config.epsilon);
    }
    Ok(scores.codes(potentials))
}

/// The prototypes' half of the first round, over all ranks: `f_k = ε ln Σ_i exp(s_ik/ε)`. Subtracted from the
/// scores, it leaves every prototype with the same share.
pub(crate) fn first_potentials(
    scores: &Scores,
    epsilon: f64,
    reduce: &mut (impl Reduce + ?Sized),
) -> Potentials {
    let centres = reduce.max(scores.typical());
    let offsets = scores.prototype_potentials(centres.clone());
    let offsets = reduce.log_sum_exp(offsets, epsilon);
    Potentials { centres, offsets }.centred()
}

/// The prototypes' half of a later round. `shares`, over all ranks, are what the samples' half has left to each
/// prototype; the more than others one has, the less it gets. (A factor common to all prototypes changes no code: that
/// of the largest share keeps the potentials from drifting.)
pub(crate) fn next_potentials(
    potentials: Potentials,
    shares: Tensor<2>,
    epsilon: f64,
) -> Potentials {
    let largest = shares.clone().max_dim(1);
    Potentials {
        offsets: potentials.offsets + (shares / largest).log() * epsilon,
        ..potentials
    }
}

/// In `f32`, without a gradient, and not empty.
pub(crate) fn detached(scores: Tensor<3>) -> Result<Tensor<3>, OtError> {
    let shape = scores.dims();
    if shape.contains(&0) {
        return Err(OtError::Empty(shape));
    }
    Ok(scores.without_autodiff().cast(FloatDType::F32))
}

pub(crate) fn check_epsilon(epsilon: f64) -> Result<(), OtError> {
    if epsilon.is_finite() && epsilon >= MIN_EPSILON {
        Ok(())
    } else {
        Err(OtError::Epsilon(epsilon))
    }
}

/// No round at all: `B·exp(s/ε)/total`, with the batch and the total taken over all ranks.
fn unbalanced(scores: Tensor<3>, epsilon: f64, reduce: &mut (impl Reduce + ?Sized)) -> Tensor<3> {
    let [_, samples, _] = scores.dims();
    let largest = scores.clone().max_dims(&[1, 2]);
    // Zero, unless there is a score that the total would swallow: minus infinity.
    let poison = scores.clone().min_dims(&[1, 2]) * 0.0;
    let largest = across_ranks(largest, |largest| reduce.max(largest));
    let mass = ((scores - largest) / epsilon).exp();

    let total = mass.clone().sum_dims(&[1, 2]) + poison;
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
