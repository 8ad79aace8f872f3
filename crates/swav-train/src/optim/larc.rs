//! Layer-wise adaptive rate control over SGD with momentum.

use burn::optim::{LearningRate, Optimizer, Sgd, SgdState};
use burn::tensor::{Device, Tensor};

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
#[derive(Clone)]
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
    const FLOOR: f64 = 1e-8;

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
