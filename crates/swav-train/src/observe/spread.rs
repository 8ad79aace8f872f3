//! How far apart the embeddings of a batch lie.

use burn::tensor::Tensor;

use crate::comm::Communicator;

/// Spread of unit embeddings `[B, dim]`, of which each rank has B: √dim times the mean standard deviation of a coordinate.
/// 1 where they point every way alike, 0 where they are all the same.
pub(super) fn spread(embeddings: &Tensor<2>, ranks: &mut dyn Communicator) -> f64 {
    let [rows, dim] = embeddings.dims();
    let rows = rows * ranks.world();
    if rows < 2 {
        return 1.0;
    }
    let mut mean = |values: Tensor<2>| ranks.sum(values.sum_dim(0)) / rows as f64;
    let centre = mean(embeddings.clone());
    let variance = mean((embeddings.clone() - centre).square());
    let std = variance.sqrt().mean().into_scalar::<f32>();
    f64::from(std) * (dim as f64).sqrt()
}
