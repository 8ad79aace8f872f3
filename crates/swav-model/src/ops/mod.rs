//! Operations with a fast path of their own.
//!
//! Each function here takes any tensor on any device. On a device where this crate has a kernel the
//! kernel runs; elsewhere Burn's operation does. That is the CPU so far (Burn's Flex), with the crate
//! feature `flex`: there Burn has no backward pass of convolution, and makes do with a convolution
//! whose kernel is as large as a map.

#[cfg(feature = "flex")]
mod conv;
#[cfg(feature = "flex")]
mod extension;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, module};

/// A convolution without bias, with a square kernel: `[N, C, H, W]` with weights
/// `[O, C / groups, k, k]` to `[N, O, (H + 2·padding − k) / stride + 1, …]`.
///
/// # Panics
/// If the channels of `x` are not `C`, if `groups` does not divide `C` and `O`, if the stride is 0, if
/// the kernel is not square, or if it is larger than the padded map.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    stride: usize,
    padding: usize,
    groups: usize,
) -> Tensor<4> {
    let ([_, c, h, w], [o, i, k, k2]) = (x.dims(), weight.dims());
    assert!(
        stride > 0 && groups > 0 && c == i * groups && o % groups == 0 && k == k2,
        "no convolution of {:?} with {:?}, stride {stride} and {groups} groups",
        x.dims(),
        weight.dims(),
    );
    assert!(
        k <= h.min(w) + 2 * padding,
        "a kernel of {k} does not fit into {h}×{w} padded by {padding}"
    );
    #[cfg(feature = "flex")]
    if std::env::var_os("TMP_PLAIN").is_none() && extension::serves(&x) && extension::serves(&weight) {
        return extension::conv2d(x, weight, stride, padding, groups);
    }
    let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], groups);
    module::conv2d(x, weight, None, options)
}
