//! The loss that clustering and classifying have in common.

use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

/// Every crop predicts the distribution of its image: the cross-entropy
///
/// ```text
/// −1/(C·B) Σ_v Σ_b Σ_k q_bk log softmax(scores_v/τ)_bk
/// ```
///
/// of `scores`, `[C·B, K]`, crop-major, with `q`, `[B, K]`, as `[1]`. A row of zeros leaves its image out.
///
/// # Panics
/// If the rows of `scores` are not a multiple of those of `q`.
pub fn prediction_loss(scores: Tensor<2>, q: Tensor<2>, temperature: f64) -> Tensor<1> {
    let [rows, classes] = scores.dims();
    let [batch, _] = q.dims();
    assert_eq!(
        rows % batch,
        0,
        "scores of {rows} rows are no whole number of crops of {batch} samples"
    );
    let log_p = log_softmax(scores / temperature, 1);
    // The sum over crops first: then K·B products do.
    let log_p = log_p.reshape([rows / batch, batch, classes]).sum_dim(0);
    (q * log_p.reshape([batch, classes])).sum() / -(rows as f64)
}
