use burn::tensor::Tensor;

/// How the few numbers that Sinkhorn and k-means need from every sample cross ranks.
///
/// When samples are spread over ranks, each holds its own, and codes or clusters are to come out as if one rank held them
/// all. An implementation combines numbers elementwise over the ranks, whatever their shape. Sinkhorn sends, however many
/// samples there are, at the start a number per set, `[N, 1]`, then two per prototype, `[N, K]`, and in each later round
/// one per prototype. (Without any round it is `[N, 1]` and then `[N, 2]`.) K-means sends the sums of its clusters,
/// `[K, d]`, once a round. The ranks need not have equally many samples.
///
/// Every rank has to make the same calls in the same order, with the same settings, and each has to get the *same bits*
/// back: a collective that adds in another order on each rank would let the ranks' codes drift apart. A call that fails
/// on one rank alone, because it has no samples, leaves the others waiting.
///
/// [`Local`] is the implementation for a single rank.
pub trait Reduce {
    /// Sums `partial` elementwise over the ranks. The shape is kept.
    fn sum(&mut self, partial: Tensor<2>) -> Tensor<2>;

    /// The largest value of each element of `partial` over the ranks. The shape is kept.
    ///
    /// Where a collective offers sums only (Burn's own `all_reduce` is one), [`max_by_sum`] makes a maximum of one.
    fn max(&mut self, partial: Tensor<2>) -> Tensor<2>;

    /// `ε ln Σ exp(partial/ε)` of each element over the ranks. The shape is kept.
    ///
    /// Made of a [`max`](Self::max) and a [`sum`](Self::sum), once at the start.
    fn log_sum_exp(&mut self, partial: Tensor<2>, epsilon: f64) -> Tensor<2> {
        let largest = self.max(partial.clone());
        let sum = self.sum(((partial - largest.clone()) / epsilon).exp());
        largest + sum.log() * epsilon
    }
}

/// A single rank: what it has is all there is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local;

impl Reduce for Local {
    fn sum(&mut self, partial: Tensor<2>) -> Tensor<2> {
        partial
    }

    fn max(&mut self, partial: Tensor<2>) -> Tensor<2> {
        partial
    }

    fn log_sum_exp(&mut self, partial: Tensor<2>, _epsilon: f64) -> Tensor<2> {
        partial
    }
}

/// An elementwise maximum over ranks, made of an elementwise sum: each rank writes into a slot of its own,
/// where the others add zeros.
///
/// `partial` is `[N, K]`; `sum` is called once with `[N, world·K]` and has to return its sum over the
/// ranks, in that shape.
///
/// # Panics
///
/// If `rank` is not below `world`.
pub fn max_by_sum(
    partial: Tensor<2>,
    rank: usize,
    world: usize,
    sum: impl FnOnce(Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    assert!(rank < world, "max_by_sum: rank {rank} of {world}");
    let [sets, width] = partial.dims();
    let slots = partial
        .zeros_like()
        .repeat_dim(1, world)
        .slice_assign([0..sets, rank * width..(rank + 1) * width], partial);
    sum(slots)
        .reshape([sets, world, width])
        .max_dim(1)
        .squeeze_dim(1)
}
