//! How far apart the embeddings of a batch lie.

use burn::tensor::Tensor;

/// Spread of unit embeddings `[B, dim]`: √dim times the mean standard deviation of a coordinate.
/// 1 where they point every way alike, 0 where they are all the same.
pub fn spread(embeddings: &Tensor<2>) -> f64 {
    let [rows, dim] = embeddings.dims();
    if rows < 2 {
        return 1.0;
    }
    let mean = embeddings.clone().mean_dim(0);
    let variance = (embeddings.clone() - mean).square().mean_dim(0);
    let std = variance.sqrt().mean().into_scalar::<f32>();
    f64::from(std) * (dim as f64).sqrt()
}
