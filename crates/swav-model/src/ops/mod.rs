//! Operations with a fast path of their own.
//!
//! Each function here takes any tensor on any device. On a device where this crate has a kernel the
//! kernel runs; elsewhere Burn's operations do.
//!
//! Convolution has kernels on the CPU (Burn's Flex, crate feature `flex`): there Burn has no backward pass of it, and
//! makes do with a convolution whose kernel is as large as a map. On NVIDIA GPUs with tensor cores for `bf16` (feature `cube`)
//! it is computed by kernels that need not be tuned, and so are linear layers. Batch norm has kernels on the CPU and on whatever
//! CubeCL runs on (feature `cube`): Burn's goes two dozen times over the map, and turns it around on the way.

#[cfg(feature = "flex")]
mod conv;
#[cfg(any(feature = "flex", feature = "cube"))]
mod convolution;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod element;
#[cfg(any(feature = "flex", feature = "cube"))]
mod norm;
#[cfg(feature = "flex")]
mod vectors;

use std::cell::Cell;
use std::thread::LocalKey;

#[cfg(feature = "cube")]
use burn::backend::DispatchDevice;
use burn::nn::Linear;
use burn::tensor::activation::relu;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, module};

use crate::Ranks;

thread_local! {
    static PLAIN: Cell<bool> = const { Cell::new(false) };
    #[cfg(feature = "cube")]
    static AS_ON_TENSOR_CORES: Cell<bool> = const { Cell::new(false) };
}

/// Runs `compute` with Burn's own operations on this thread, whether or not there are kernels: the slow way that the kernels
/// are compared with.
pub fn plainly<T>(compute: impl FnOnce() -> T) -> T {
    with(&PLAIN, compute)
}

/// Runs `compute` while `flag` is set on this thread.
fn with<T>(flag: &'static LocalKey<Cell<bool>>, compute: impl FnOnce() -> T) -> T {
    /// Puts back what was, also when `compute` panics.
    struct Restore(&'static LocalKey<Cell<bool>>, bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(flag, flag.replace(true));
    compute()
}

/// Returns whether this thread computes [`plainly`].
pub fn is_plain() -> bool {
    PLAIN.get()
}

/// Returns whether there are kernels for tensors of so many values on this device: those of this crate, and those of the crates
/// above it with the same features.
pub fn has_kernels(device: &Device, values: usize) -> bool {
    #[cfg(feature = "flex")]
    if *device == Device::flex() {
        return true;
    }
    // Kernels for GPUs count with 32 bits.
    #[cfg(feature = "cube")]
    if u32::try_from(values).is_ok() {
        let device = device.clone().inner();
        return matches!(device.as_dispatch(), DispatchDevice::Cube(_));
    }
    let _ = (device, values);
    false
}

/// Returns whether maps of this type can be computed with on this device: whether [`conv2d`] and [`batch_norm`] take them there.
///
/// Maps of `f32` can be on every device. Maps of `bf16` can be on the CPU and on GPUs with CUDA; WGSL does not have the type, and Vulkan has no
/// arithmetic of it.
pub fn has_maps_of(device: &Device, dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::BF16) && device.supports_dtype(dtype)
}

/// A convolution without bias, with a square kernel: `[N, C, H, W]` with weights
/// `[O, C / groups, k, k]` to `[N, O, (H + 2·padding − k) / stride + 1, …]`.
///
/// Maps are `f32` or `bf16`, in and out. Weights and their gradient are `f32`; they are rounded to what the maps are before they
/// are multiplied.
///
/// # Panics
/// If the channels of `x` are not `C`, if `groups` does not divide `C` and `O`, if the stride is 0, if
/// the kernel is not square, or if it is larger than the padded map. Where this crate has a kernel, if maps are of another type.
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
    if !is_plain() && x.device() == Device::flex() {
        return convolution::conv2d(x, weight, stride, padding, groups);
    }
    #[cfg(feature = "cube")]
    if groups == 1 && o % TENSOR_CORES == 0 && stride <= 2 && padding < k && on_tensor_cores(&x) {
        return convolution::conv2d_on_tensor_cores(x, weight, stride, padding);
    }
    let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], groups);
    let maps = x.dtype();
    // Rounded as the maps are, then perhaps widened.
    let weight = weight.cast(maps);
    let inside = if groups == 1 && i >= MIN_INPUTS {
        maps
    } else {
        DType::F32
    };
    module::conv2d(x.cast(inside), weight.cast(inside), None, options).cast(maps)
}

/// From so many inputs of a group on, tensor cores are of use to a convolution.
///
/// Burn times several kernels and takes the fastest. Those for tensor cores add up in `f32`, but its direct kernels in the type of the
/// maps, and a weight's gradient is a sum over all pixels of a batch: in `bf16` its error may be as large as the sum. A direct kernel may be
/// the fastest for the colours of an image, and is the only one for groups, so these are computed in `f32`.
const MIN_INPUTS: usize = 8;

/// A linear layer: `[N, I]` to `[N, O]`.
///
/// # Panics
/// If `x` has not as many columns as the layer has inputs.
pub(crate) fn linear(x: Tensor<2>, layer: &Linear) -> Tensor<2> {
    #[cfg(feature = "cube")]
    {
        let ([n, i], [_, o]) = (x.dims(), layer.weight.dims());
        let maps = x.clone().reshape([n, i, 1, 1]);
        if o % TENSOR_CORES == 0 && on_tensor_cores(&maps) {
            // A product whose kernel need not be looked for.
            let weight = layer.weight.val().transpose().reshape([o, i, 1, 1]);
            let y = convolution::conv2d_on_tensor_cores(maps, weight, 1, 0).reshape([n, o]);
            return match &layer.bias {
                Some(bias) => y + bias.val().unsqueeze(),
                None => y,
            };
        }
    }
    layer.forward(x)
}

/// Channels that tensor cores take at a time.
#[cfg(feature = "cube")]
const TENSOR_CORES: usize = 8;

/// Whether convolutions are products on tensor cores on this device: on NVIDIA GPUs that compute with `bf16`.
#[cfg(feature = "cube")]
fn on_tensor_cores(x: &Tensor<4>) -> bool {
    let device = x.device().inner();
    !is_plain()
        && matches!(device.as_dispatch(), DispatchDevice::Cube(_))
        && has_kernels(&device, x.shape().num_elements())
        && (AS_ON_TENSOR_CORES.get() || device.supports_dtype(DType::BF16))
}

/// Runs `compute` with convolutions on this thread as they are on GPUs with tensor cores, for tests on others: the same way with
/// products that every GPU has.
#[cfg(feature = "cube")]
#[doc(hidden)]
pub fn as_on_tensor_cores<T>(compute: impl FnOnce() -> T) -> T {
    with(&AS_ON_TENSOR_CORES, compute)
}

/// What follows a batch normalisation and is fused with it: done in the same pass over the map.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made for one call, and never kept"
)]
pub enum Epilogue<const D: usize> {
    /// Nothing.
    None,
    /// The ReLU.
    Relu,
    /// The addition of a shortcut of the same shape, and then the ReLU.
    AddRelu(Tensor<D>),
}

impl<const D: usize> Epilogue<D> {
    fn apply(self, y: Tensor<D>) -> Tensor<D> {
        match self {
            Self::None => y,
            Self::Relu => relu(y),
            Self::AddRelu(shortcut) => relu(y + shortcut.cast(DType::F32)),
        }
    }

    #[cfg(any(feature = "flex", feature = "cube"))]
    fn is_served(&self) -> bool {
        match self {
            Self::None | Self::Relu => true,
            Self::AddRelu(shortcut) => norm::serves(shortcut),
        }
    }

    fn check(&self, shape: [usize; D]) {
        if let Self::AddRelu(shortcut) = self {
            assert_eq!(
                shortcut.dims(),
                shape,
                "a shortcut has the shape of what it is added to"
            );
        }
    }
}

/// What [`batch_norm_train`] yields.
#[derive(Clone, Debug)]
pub struct Normalised<const D: usize> {
    /// The normalised map, after the epilogue.
    pub output: Tensor<D>,
    /// Mean of each channel of the batch.
    pub mean: Tensor<1>,
    /// Biased variance of each channel of the batch.
    pub variance: Tensor<1>,
}

/// Batch normalisation of `[N, C, …]` with the statistics of the batch:
/// `(x − mean) / √(variance + epsilon) · weight + bias`, and an epilogue.
///
/// Maps are `f32` or `bf16`, in and out; all else is `f32`, also what happens in between. The statistics are those of the images
/// of all `ranks`, and the gradients of `weight` and `bias` what this one adds to them.
///
/// # Panics
/// If `weight` or `bias` have not C values, or the shortcut not the shape of `x`. Where this crate has a kernel, if maps are of
/// another type; where it has none, if there are several ranks.
pub fn batch_norm_train<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
    epilogue: Epilogue<D>,
    ranks: &Ranks,
) -> Normalised<D> {
    check_channels(&x, &[&weight, &bias]);
    epilogue.check(x.dims());
    #[cfg(any(feature = "flex", feature = "cube"))]
    if norm::serves(&x) && norm::serves(&weight) && norm::serves(&bias) && epilogue.is_served() {
        return norm::batch_norm_train(x, weight, bias, epsilon, epilogue, ranks.clone());
    }
    assert!(
        ranks.is_alone(),
        "batch norm over several ranks needs a kernel for maps of {:?}",
        x.dims()
    );
    let dtype = x.dtype();
    let batch = module::batch_norm_train(x.cast(DType::F32), weight, bias, epsilon);
    Normalised {
        output: epilogue.apply(batch.output).cast(dtype),
        mean: batch.mean,
        variance: batch.variance,
    }
}

/// Batch normalisation of `[N, C, …]` with given statistics, and an epilogue. Formats are those of [`batch_norm_train`].
///
/// # Panics
/// If `weight`, `bias`, `mean` or `variance` have not C values, or the shortcut not the shape of `x`. Where this crate has a
/// kernel, if maps are of another type.
pub fn batch_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    mean: Tensor<1>,
    variance: Tensor<1>,
    epsilon: f64,
    epilogue: Epilogue<D>,
) -> Tensor<D> {
    check_channels(&x, &[&weight, &bias, &mean, &variance]);
    epilogue.check(x.dims());
    #[cfg(any(feature = "flex", feature = "cube"))]
    {
        let numbers = [&weight, &bias, &mean, &variance];
        let plain = numbers
            .iter()
            .all(|n| !n.device().is_autodiff() && norm::serves(n));
        let plain = plain && !x.device().is_autodiff() && norm::serves(&x) && epilogue.is_served();
        if plain {
            return norm::batch_norm(x, [weight, bias, mean, variance], epsilon, epilogue);
        }
    }
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let y = module::batch_norm(x, weight, bias, mean, variance, epsilon);
    epilogue.apply(y).cast(dtype)
}

fn check_channels<const D: usize>(x: &Tensor<D>, numbers: &[&Tensor<1>]) {
    let shape = x.dims();
    assert!(
        D >= 2 && numbers.iter().all(|n| n.dims() == [shape[1]]),
        "batch norm of {shape:?} with {} channels",
        numbers[0].dims()[0],
    );
}
