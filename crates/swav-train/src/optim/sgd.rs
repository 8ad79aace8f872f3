//! SGD with momentum, in one pass over each parameter where there are kernels for it.

use burn::optim::{LearningRate, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{Device, Tensor};

#[cfg(any(feature = "flex", feature = "cube"))]
use super::passes;

/// Stochastic gradient descent with momentum as PyTorch has it, without dampening.
///
/// With the gradient g of a parameter p, decay λ and momentum μ:
///
/// ```text
/// v ← μv + (g + λp)     p ← p − lr · v
/// ```
///
/// where v begins as the first g + λp.
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
        #[cfg(any(feature = "flex", feature = "cube"))]
        if passes::serve(&param) {
            let numbers = passes::Momentum {
                rate: lr,
                momentum: self.momentum,
                decay: self.weight_decay,
                trust: None,
            };
            return SgdState::after(param, grad, state, numbers);
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

#[cfg(any(feature = "flex", feature = "cube"))]
impl<const D: usize> SgdState<D> {
    /// The new parameter, and the state after a step by a kernel.
    pub(super) fn after(
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<Self>,
        numbers: passes::Momentum,
    ) -> (Tensor<D>, Option<Self>) {
        let velocity = state.map(|state| state.velocity);
        let (param, velocity) = passes::momentum_step(param, grad, velocity, numbers);
        (param, Some(Self { velocity }))
    }
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
