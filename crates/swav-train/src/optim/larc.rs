//! Layer-wise adaptive rate control over SGD with momentum.

use burn::optim::{LearningRate, Optimizer};
use burn::tensor::{Device, Tensor};

#[cfg(any(feature = "flex", feature = "cube"))]
use super::passes;
use super::sgd::{Sgd, SgdState};

/// LARC without clipping, as the paper trains with (You et al., "Large Batch Training of
/// Convolutional Networks", 2017; Caron et al., NeurIPS 2020, section 4 and appendix A.1).
///
/// For each parameter p with gradient g, if neither norm is zero:
///
/// ```text
/// g ← (g + λp) · η‖p‖ / (‖g‖ + λ‖p‖ + 1e-8)
/// ```
///
/// and otherwise g stays as it is, without decay: a bias that starts at zero takes its first step
/// unscaled. Then a step of SGD. The ratio never leaves the device.
#[derive(Clone, Copy, Debug)]
pub struct Larc {
    /// η, how far a step may go relative to the length of the parameter.
    pub trust: f64,
    /// λ.
    pub weight_decay: f64,
    /// What takes the scaled gradient: SGD with momentum and without decay of its own.
    pub sgd: Sgd,
}

impl Larc {
    /// η of the paper's runs.
    pub const TRUST: f64 = 0.001;
    /// Added to the length of a gradient, so that none divides by zero.
    pub(super) const FLOOR: f64 = 1e-8;

    /// The gradient after decay and scaling.
    fn adapt<const D: usize>(&self, param: &Tensor<D>, grad: Tensor<D>) -> Tensor<D> {
        let param_norm = norm(param.clone());
        let grad_norm = norm(grad.clone());
        let usable = param_norm
            .clone()
            .greater_scalar(0.0)
            .bool_and(grad_norm.clone().greater_scalar(0.0));

        let limit = grad_norm + param_norm.clone() * self.weight_decay + Self::FLOOR;
        let ratio = param_norm * self.trust / limit;
        let ratio = ratio.ones_like().mask_where(usable.clone(), ratio);
        let decay = usable.float() * self.weight_decay;

        (grad + param.clone() * decay.unsqueeze()) * ratio.unsqueeze()
    }
}

impl Optimizer for Larc {
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
                momentum: self.sgd.momentum,
                decay: self.weight_decay,
                trust: Some(self.trust),
            };
            return SgdState::after(param, grad, state, numbers);
        }
        let grad = self.adapt(&param, grad);
        self.sgd.step(lr, param, grad, state)
    }

    fn to_device<const D: usize>(state: SgdState<D>, device: &Device) -> SgdState<D> {
        Sgd::to_device(state, device)
    }
}

/// Euclidean norm over all elements, `[1]`.
fn norm<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    tensor.square().sum().sqrt()
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    const LARC: Larc = Larc {
        trust: Larc::TRUST,
        weight_decay: 0.01,
        sgd: Sgd {
            momentum: 0.9,
            weight_decay: 0.0,
        },
    };

    /// Some steps by passes over the values, and by operations on tensors.
    fn both_ways(start: Tensor<2>, gradients: Vec<Tensor<2>>) -> [Tensor<2>; 2] {
        let (mut fused, mut plain) = ((start.clone(), None), (start, None::<SgdState<2>>));
        for grad in gradients {
            fused = LARC.step(4.8, fused.0, grad.clone(), fused.1);
            let adapted = LARC.adapt(&plain.0, grad);
            let velocity = match plain.1 {
                Some(state) => state.velocity * LARC.sgd.momentum + adapted,
                None => adapted,
            };
            plain.0 = plain.0 - velocity.clone() * 4.8;
            plain.1 = Some(SgdState { velocity });
        }
        [fused.0, plain.0]
    }

    #[test]
    fn two_passes_are_the_operations_on_tensors() {
        let device = Device::flex();
        let random = |scale: f64| {
            Tensor::<2>::random([300, 70], Distribution::Uniform(-scale, scale), &device)
        };
        let zeros = random(1.0).zeros_like();
        let gradients = || vec![random(1.0), random(1e-3), zeros.clone(), random(30.0)];
        for start in [random(1.0), zeros.clone()] {
            let [fused, plain] = both_ways(start, gradients());
            let tolerance = Tolerance::<f32>::rel_abs(1e-5, 1e-6);
            fused
                .into_data()
                .assert_approx_eq(&plain.into_data(), tolerance);
        }
    }

    #[test]
    fn a_transposed_gradient_and_a_shared_parameter_are_no_trouble() {
        let device = Device::flex();
        let start = Tensor::<2>::from_floats([[1.0, -2.0, 3.0], [0.5, 4.0, 6.0]], &device);
        let grad = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], &device);
        let held = start.clone();
        let gradients = vec![grad.clone().transpose(), grad.transpose()];
        let [fused, plain] = both_ways(start, gradients);
        let tolerance = Tolerance::<f32>::rel_abs(1e-5, 1e-6);
        fused
            .into_data()
            .assert_approx_eq(&plain.into_data(), tolerance);
        let kept = held.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(kept, [1.0, -2.0, 3.0, 0.5, 4.0, 6.0]);
    }
}
