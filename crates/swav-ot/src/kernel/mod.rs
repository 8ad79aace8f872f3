//! The passes over the scores that everything is made of, as a device implements them.
//!
//! A pass reads the scores once. It takes and leaves a number per prototype, or one per sample, and no matrix of
//! its own: the [essay](crate) says why that is enough.
//!
//! | implementation | where |
//! |---|---|
//! | native, with vector instructions chosen at run time | Burn's Flex, with the feature `flex` |
//! | CubeCL | wgpu, CUDA and the rest, with the feature `cube` |
//! | Burn's own operations | any other device |

#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
pub(crate) mod nearest;
#[cfg(all(feature = "flex", target_arch = "x86_64"))]
mod screen;
mod tensor_ops;
#[cfg(feature = "flex")]
mod vectors;

use burn::tensor::Tensor;

/// Which implementation computes: kernels of this crate, or Burn's operations. There are kernels for the CPU (Burn's Flex) with the feature
/// `flex`, and for whatever CubeCL runs on with the feature `cube`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Implementation {
    /// Fused kernels of this crate where the device has them, and else Burn's operations.
    #[default]
    Fused,
    /// Burn's tensor operations everywhere: slower, and what the kernels are compared with.
    TensorOps,
}

#[cfg(any(feature = "flex", feature = "cube"))]
mod extension {
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Backend, Dispatch, backend_extension};
    #[cfg(feature = "fusion")]
    use burn::tensor::Shape;
    use burn::tensor::{Device, Tensor};

    use super::Potentials;

    /// What is added to the backends. Scores are `[N, B, K]`, centres `[N, 1]`, offsets `[N, K]`.
    #[backend_extension(
        Flex: cfg(feature = "flex"),
        Cube: cfg(feature = "cube"),
        Fusion: cfg(feature = "fusion"),
    )]
    pub trait Kernels: Backend {
        /// The scores with each sample's row in one piece, as the passes want them: a copy, or themselves.
        #[fusion(dtype = scores, shape = scores)]
        fn with_contiguous_rows(scores: FloatTensor<Self>) -> FloatTensor<Self>;

        /// See [`Scores::prototype_potentials`](super::Scores::prototype_potentials).
        #[fusion(dtype = scores, shape = without(scores, 1))]
        fn prototype_potentials(
            scores: FloatTensor<Self>,
            centres: FloatTensor<Self>,
            epsilon: f64,
        ) -> FloatTensor<Self>;

        /// See [`Scores::sample_potentials`](super::Scores::sample_potentials).
        #[fusion(dtype = scores, shape = without(scores, 2))]
        fn sample_potentials(
            scores: FloatTensor<Self>,
            centres: FloatTensor<Self>,
            offsets: FloatTensor<Self>,
            epsilon: f64,
        ) -> FloatTensor<Self>;

        /// See [`Scores::shares`](super::Scores::shares).
        #[fusion(dtype = scores, shape = without(scores, 1))]
        fn shares(
            scores: FloatTensor<Self>,
            centres: FloatTensor<Self>,
            offsets: FloatTensor<Self>,
            epsilon: f64,
        ) -> FloatTensor<Self>;

        /// See [`Scores::codes`](super::Scores::codes).
        #[fusion(dtype = scores, shape = scores)]
        fn codes(
            scores: FloatTensor<Self>,
            centres: FloatTensor<Self>,
            offsets: FloatTensor<Self>,
            epsilon: f64,
        ) -> FloatTensor<Self>;
    }

    #[cfg(feature = "fusion")]
    fn without(shape: &Shape, dim: usize) -> Shape {
        let kept = shape.iter().enumerate().filter(|(at, _)| *at != dim);
        Shape::from(kept.map(|(_, size)| *size).collect::<Vec<_>>())
    }

    /// Whether the device has kernels.
    pub(super) fn serves(device: &Device, _shape: [usize; 3]) -> bool {
        #[cfg(feature = "flex")]
        if *device == Device::flex() {
            return true;
        }
        #[cfg(feature = "cube")]
        if super::cube::serves(device, _shape) {
            return true;
        }
        false
    }

    pub(super) fn with_contiguous_rows(scores: Tensor<3>) -> Tensor<3> {
        Tensor::from_dispatch(Dispatch::with_contiguous_rows(scores.into_dispatch()))
    }

    pub(super) fn prototype_potentials(s: Tensor<3>, c: Tensor<2>, epsilon: f64) -> Tensor<2> {
        let (scores, centres) = (s.into_dispatch(), c.into_dispatch());
        Tensor::from_dispatch(Dispatch::prototype_potentials(scores, centres, epsilon))
    }

    pub(super) fn sample_potentials(s: Tensor<3>, f: Potentials, epsilon: f64) -> Tensor<2> {
        let (centres, offsets) = (f.centres.into_dispatch(), f.offsets.into_dispatch());
        let found = Dispatch::sample_potentials(s.into_dispatch(), centres, offsets, epsilon);
        Tensor::from_dispatch(found)
    }

    pub(super) fn shares(s: Tensor<3>, f: Potentials, epsilon: f64) -> Tensor<2> {
        let (centres, offsets) = (f.centres.into_dispatch(), f.offsets.into_dispatch());
        Tensor::from_dispatch(Dispatch::shares(
            s.into_dispatch(),
            centres,
            offsets,
            epsilon,
        ))
    }

    pub(super) fn codes(s: Tensor<3>, f: Potentials, epsilon: f64) -> Tensor<3> {
        let (centres, offsets) = (f.centres.into_dispatch(), f.offsets.into_dispatch());
        Tensor::from_dispatch(Dispatch::codes(
            s.into_dispatch(),
            centres,
            offsets,
            epsilon,
        ))
    }
}

#[cfg(any(feature = "flex", feature = "cube"))]
use extension::Kernels;

/// A potential `f` of each prototype, in two parts whose sum it is. Only their differences matter to a code, and the
/// scores that count in it lie near them: so they are kept as what they differ from a common number.
#[derive(Debug, Clone)]
pub(crate) struct Potentials {
    /// `[N, 1]`.
    pub(crate) centres: Tensor<2>,
    /// `[N, K]`.
    pub(crate) offsets: Tensor<2>,
}

impl Potentials {
    /// The same, with the middle of the offsets moved into the centre. (Not their mean: a sum's last bits can depend on
    /// the number of threads.)
    pub(crate) fn centred(self) -> Self {
        let ends = self.offsets.clone().max_dim(1) + self.offsets.clone().min_dim(1);
        let centres = ends / 2.0 + self.centres.clone();
        Self {
            offsets: self.offsets - (centres.clone() - self.centres),
            centres,
        }
    }

    /// The sum of the parts, `[N, K]`.
    pub(crate) fn sum(&self) -> Tensor<2> {
        self.offsets.clone() + self.centres.clone()
    }
}

/// Scores in `f32`, without a gradient, on a device of which it is known how it makes the passes.
#[derive(Debug, Clone)]
pub(crate) struct Scores {
    values: Tensor<3>,
    epsilon: f64,
    #[cfg_attr(not(any(feature = "flex", feature = "cube")), expect(dead_code))]
    fused: bool,
}

/// Picks the kernel where there is one.
macro_rules! pass {
    ($self:ident, $name:ident($($argument:expr),*)) => {{
        #[cfg(any(feature = "flex", feature = "cube"))]
        if $self.fused {
            return extension::$name($($argument),*);
        }
        tensor_ops::$name($($argument),*)
    }};
}

impl Scores {
    /// `values` are `[N, B, K]`, of `f32`, and on no autodiff device.
    pub(crate) fn new(values: Tensor<3>, epsilon: f64, implementation: Implementation) -> Self {
        #[cfg(any(feature = "flex", feature = "cube"))]
        let fused = implementation == Implementation::Fused
            && extension::serves(&values.device(), values.dims());
        // Once, and not in every pass.
        #[cfg(any(feature = "flex", feature = "cube"))]
        let values = if fused {
            extension::with_contiguous_rows(values)
        } else {
            values
        };
        #[cfg(not(any(feature = "flex", feature = "cube")))]
        let fused = implementation == Implementation::Fused && false;
        Self {
            values,
            epsilon,
            fused,
        }
    }

    /// A number of the size of a large score: the largest of the first sample, `[N, 1]`.
    pub(crate) fn typical(&self) -> Tensor<2> {
        let first = self.values.clone().narrow(1, 0, 1);
        first.max_dim(2).squeeze_dim(1)
    }

    /// The prototypes' half of the first round, less the `centres` `c` `[N, 1]`: `ε ln Σ_i exp((s_ik − c)/ε)`,
    /// `[N, K]`. Not-a-number where a score is not finite.
    pub(crate) fn prototype_potentials(&self, centres: Tensor<2>) -> Tensor<2> {
        pass!(
            self,
            prototype_potentials(self.values.clone(), centres, self.epsilon)
        )
    }

    /// What the samples' half of a round divides by, as a potential: `g_i = ε ln Σ_k exp((s_ik − f_k)/ε)`, `[N, B]`.
    pub(crate) fn sample_potentials(&self, potentials: Potentials) -> Tensor<2> {
        pass!(
            self,
            sample_potentials(self.values.clone(), potentials, self.epsilon)
        )
    }

    /// What the [codes](Self::codes) give to each prototype, their sum over the samples: `[N, K]`.
    pub(crate) fn shares(&self, potentials: Potentials) -> Tensor<2> {
        pass!(self, shares(self.values.clone(), potentials, self.epsilon))
    }

    /// A round ends with the samples: `softmax_k((s_ik − f_k)/ε)`, `[N, B, K]`.
    pub(crate) fn codes(&self, potentials: Potentials) -> Tensor<3> {
        pass!(self, codes(self.values.clone(), potentials, self.epsilon))
    }
}
