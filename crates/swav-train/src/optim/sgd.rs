//! SGD with momentum, in one pass over each parameter where its values are at hand.

use burn::optim::{LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, Tensor};

/// Stochastic gradient descent with momentum as PyTorch has it, without dampening.
///
/// With the gradient g of a parameter p, decay λ and momentum μ:
///
/// ```text
/// v ← μv + (g + λp)     p ← p − lr · v
/// ```
///
/// where v begins as the first g + λp. On the CPU (crate feature `flex`) this is one pass, into the memory of the gradient.
#[derive(Clone, Copy, Debug)]
pub struct Sgd {
    /// μ.
    pub momentum: f64,
    /// λ.
    pub weight_decay: f64,
}

impl Optimizer for Sgd {
    type State<const D: usize> = SgdState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<SgdState<D>>,
    ) -> (Tensor<D>, Option<SgdState<D>>) {
        #[cfg(feature = "flex")]
        if flex::serves(&param, &grad, state.as_ref()) {
            let scaling = flex::Scaling {
                ratio: 1.0,
                decay: self.weight_decay as f32,
            };
            return flex::step(self.momentum, scaling, lr, param, grad, state);
        }
        let grad = if self.weight_decay == 0.0 {
            grad
        } else {
            grad + param.clone() * self.weight_decay
        };
        let velocity = match state {
            Some(state) => state.velocity * self.momentum + grad,
            None => grad,
        };
        let param = param - velocity.clone() * lr;
        (param, Some(SgdState { velocity }))
    }

    fn to_device<const D: usize>(state: SgdState<D>, device: &Device) -> SgdState<D> {
        SgdState {
            velocity: state.velocity.to_device(device),
        }
    }
}

/// What [`Sgd`] remembers of a parameter.
#[derive(Clone, Debug)]
pub struct SgdState<const D: usize> {
    /// v, in the shape of the parameter.
    pub velocity: Tensor<D>,
}

/// By hand, and under the name of Burn's own: the derivation is for Burn's own crates.
impl<const D: usize> RecordState for SgdState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        out.push_tensor(prefix, VELOCITY, self.velocity.clone().into_data());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, device: &Device) -> Option<Self> {
        let velocity = Tensor::from_data(src.take_tensor(prefix, VELOCITY)?, device);
        Some(Self { velocity })
    }
}

const VELOCITY: &str = "momentum.velocity";

#[cfg(feature = "flex")]
pub(super) mod flex {
    use burn::tensor::Tensor;
    use rayon::prelude::*;

    use super::SgdState;
    use crate::optim::flex::{self, CHUNK, primitive, tensor};

    /// What becomes of a gradient: `ratio · (g + decay · p)`.
    #[derive(Clone, Copy)]
    pub(in crate::optim) struct Scaling {
        pub(in crate::optim) ratio: f32,
        pub(in crate::optim) decay: f32,
    }

    pub(in crate::optim) fn serves<const D: usize>(
        param: &Tensor<D>,
        grad: &Tensor<D>,
        state: Option<&SgdState<D>>,
    ) -> bool {
        flex::serves(&[param, grad, state.map_or(param, |state| &state.velocity)])
    }

    /// A step with the gradient scaled.
    pub(in crate::optim) fn step<const D: usize>(
        momentum: f64,
        scaling: Scaling,
        lr: f64,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<SgdState<D>>,
    ) -> (Tensor<D>, Option<SgdState<D>>) {
        let Scaling { ratio, decay } = scaling;
        let (rate, momentum) = (lr as f32, momentum as f32);
        let (mut velocity, momentum) = match state {
            Some(state) => (primitive(state.velocity), momentum),
            // Of numbers that count for nothing.
            None => (primitive(param.zeros_like()), 0.0),
        };
        let (param, mut grad) = (primitive(param), primitive(grad));
        let values: &[f32] = param.storage();
        // Written over where nobody else holds them: only then does `storage_mut` not copy.
        let new = grad.storage_mut::<f32>().par_chunks_mut(CHUNK);
        let velocities = velocity.storage_mut::<f32>().par_chunks_mut(CHUNK);
        new.zip(velocities)
            .zip(values.par_chunks(CHUNK))
            .for_each(|((new, velocity), values)| {
                for ((new, v), &p) in new.iter_mut().zip(velocity).zip(values) {
                    *v = momentum * *v + ratio * (*new + decay * p);
                    *new = p - rate * *v;
                }
            });
        let velocity = tensor(velocity);
        (tensor(grad), Some(SgdState { velocity }))
    }
}
