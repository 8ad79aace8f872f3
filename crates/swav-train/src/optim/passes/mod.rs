//! A step of an optimizer in one pass over a parameter, where there are kernels for it.
//!
//! Burn's operations go over a parameter up to a dozen times a step, with a tensor in between each time; on a GPU each is a
//! launch, and a ResNet-50 has 161 parameters. Here LARC is two passes, one for the norms and one for the step, and SGD and
//! Adam are one. New values are written where the gradient and the moments were, if nobody else holds those.
//!
//! | file | |
//! |---|---|
//! | this | what a backend has to bring |
//! | `flex.rs` | the CPU |
//! | `cube.rs` | whatever CubeCL runs on: wgpu, CUDA and the rest |

#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{DType, Tensor};
use swav_model::ops::{has_kernels, is_plain};

/// Returns whether there are kernels for this parameter.
pub(super) fn serve<const D: usize>(param: &Tensor<D>) -> bool {
    !is_plain()
        && param.dtype() == DType::F32
        && has_kernels(&param.device(), param.shape().num_elements())
}

/// Numbers of a step with momentum. What they mean is said in [`Sgd`](super::Sgd) and [`Larc`](super::Larc).
#[derive(Clone, Copy, Debug)]
pub struct Momentum {
    /// The learning rate.
    pub rate: f64,
    /// μ.
    pub momentum: f64,
    /// λ.
    pub decay: f64,
    /// LARC's η; without it the gradient is not scaled.
    pub trust: Option<f64>,
}

/// Numbers of a step of Adam, with the correction of its bias in `rate` and `floor`:
/// `p ← p − rate · m / (√v + floor)`.
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// The learning rate times `√(1 − β₂ᵗ) / (1 − β₁ᵗ)`.
    pub rate: f32,
    /// β₁.
    pub beta_1: f32,
    /// β₂.
    pub beta_2: f32,
    /// `ε · √(1 − β₂ᵗ)`.
    pub floor: f32,
    /// λ.
    pub decay: f32,
}

/// The passes that a backend brings. All tensors of a call have the shape of the parameter.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion"),
)]
pub trait Passes: Backend {
    /// A step of SGD or LARC: the new parameter and the new velocity.
    #[fusion(meta = |param, _, _, _| (param.clone(), param.clone()))]
    fn momentum_step(
        param: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        numbers: Momentum,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// A step of Adam: the new parameter and its new moments.
    #[fusion(meta = |param, _, _, _, _| (param.clone(), param.clone(), param.clone()))]
    fn adam_step(
        param: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        numbers: Moments,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// The new parameter and the new velocity. Without a velocity it is the first step.
pub(super) fn momentum_step<const D: usize>(
    param: Tensor<D>,
    gradient: Tensor<D>,
    velocity: Option<Tensor<D>>,
    numbers: Momentum,
) -> (Tensor<D>, Tensor<D>) {
    let velocity = velocity.unwrap_or_else(|| param.zeros_like());
    let (param, velocity) = Dispatch::momentum_step(
        param.into_dispatch(),
        gradient.into_dispatch(),
        velocity.into_dispatch(),
        numbers,
    );
    (
        Tensor::from_dispatch(param),
        Tensor::from_dispatch(velocity),
    )
}

/// The new parameter and its new moments.
pub(super) fn adam_step<const D: usize>(
    param: Tensor<D>,
    gradient: Tensor<D>,
    moments: [Tensor<D>; 2],
    numbers: Moments,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let [first, second] = moments;
    let (param, first, second) = Dispatch::adam_step(
        param.into_dispatch(),
        gradient.into_dispatch(),
        first.into_dispatch(),
        second.into_dispatch(),
        numbers,
    );
    (
        Tensor::from_dispatch(param),
        [first, second].map(Tensor::from_dispatch),
    )
}
