//! Adam, in one pass over each parameter where there are kernels for it.

#[cfg(any(feature = "flex", feature = "cube"))]
use burn::optim::AdaptiveMomentumState;
use burn::optim::{AdamConfig, AdamState, LearningRate, Optimizer, decay::WeightDecayConfig};
use burn::tensor::{Device, Tensor};

#[cfg(any(feature = "flex", feature = "cube"))]
use super::passes;

/// Adam with L2 regularisation (Kingma and Ba, 2015), as Burn has it.
///
/// With the gradient g of a parameter p, decay λ, and the number t of the step:
///
/// ```text
/// g ← g + λp     m ← β₁m + (1 − β₁)g     v ← β₂v + (1 − β₂)g²
/// p ← p − lr · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)
/// ```
#[derive(Clone)]
pub struct Adam {
    plain: burn::optim::Adam,
    #[cfg_attr(
        not(any(feature = "flex", feature = "cube")),
        expect(dead_code, reason = "for the kernels")
    )]
    constants: Constants,
}

#[derive(Clone, Copy)]
struct Constants {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    decay: f32,
}

#[cfg(any(feature = "flex", feature = "cube"))]
impl Constants {
    /// The numbers of the step `time`, counted from 1. As in Burn, the correction of the bias is in the rate and in ε.
    fn at(&self, time: usize, lr: f64) -> passes::Moments {
        let &Self {
            beta_1,
            beta_2,
            epsilon,
            decay,
        } = self;
        let exponent = i32::try_from(time).unwrap_or(i32::MAX);
        let root = (1.0 - beta_2.powi(exponent)).sqrt();
        passes::Moments {
            rate: lr as f32 * root / (1.0 - beta_1.powi(exponent)),
            beta_1,
            beta_2,
            floor: epsilon * root,
            decay,
        }
    }
}

impl Adam {
    const BETA_2: f32 = 0.999;
    /// PyTorch's default, which the small-scale recipes were measured with.
    const EPSILON: f32 = super::ADAM_EPSILON;

    /// With β₁ and λ; β₂ and ε are PyTorch's.
    pub fn new(beta_1: f64, decay: f64) -> Self {
        let constants = Constants {
            beta_1: beta_1 as f32,
            beta_2: Self::BETA_2,
            epsilon: Self::EPSILON,
            decay: decay as f32,
        };
        let plain = AdamConfig::new()
            .with_beta_1(constants.beta_1)
            .with_beta_2(constants.beta_2)
            .with_epsilon(constants.epsilon)
            .with_weight_decay(Some(WeightDecayConfig::new(constants.decay)))
            .build();
        Self { plain, constants }
    }
}

impl Optimizer for Adam {
    type State<const D: usize> = AdamState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamState<D>>,
    ) -> (Tensor<D>, Option<AdamState<D>>) {
        #[cfg(any(feature = "flex", feature = "cube"))]
        if passes::serve(&param) {
            let (time, moments) = match state.map(|state| state.momentum) {
                Some(momentum) => (momentum.time, [momentum.moment_1, momentum.moment_2]),
                None => (0, [param.zeros_like(), param.zeros_like()]),
            };
            let time = time + 1;
            let numbers = self.constants.at(time, lr);
            let (param, [first, second]) = passes::adam_step(param, grad, moments, numbers);
            let momentum = AdaptiveMomentumState::new(time, first, second);
            return (param, Some(AdamState::new(momentum)));
        }
        self.plain.step(lr, param, grad, state)
    }

    fn to_device<const D: usize>(state: AdamState<D>, device: &Device) -> AdamState<D> {
        burn::optim::Adam::to_device(state, device)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    #[test]
    fn one_pass_is_burns_dozen() {
        let device = Device::flex();
        let adam = Adam::new(0.9, 0.01);
        let random = || Tensor::<2>::random([300, 70], Distribution::Default, &device);
        let start = random();
        let (mut ours, mut burns) = ((start.clone(), None), (start, None));
        for _ in 0..4 {
            let grad = random() - 0.5;
            ours = adam.step(0.01, ours.0, grad.clone(), ours.1);
            burns = adam.plain.step(0.01, burns.0, grad, burns.1);
        }
        let tolerance = Tolerance::<f32>::rel_abs(1e-5, 1e-6);
        ours.0
            .into_data()
            .assert_approx_eq(&burns.0.into_data(), tolerance);
        let (Some(ours), Some(burns)) = (ours.1, burns.1) else {
            panic!("a step leaves a state");
        };
        assert_eq!(ours.momentum.time, burns.momentum.time);
        let [ours, burns] = [ours, burns].map(|s| s.momentum.moment_2.into_data());
        ours.assert_approx_eq(&burns, tolerance);
    }

    #[test]
    fn a_transposed_gradient_and_shared_moments_are_no_trouble() {
        let device = Device::flex();
        let adam = Adam::new(0.9, 0.0);
        let param = Tensor::<2>::ones([2, 3], &device);
        let grad = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], &device);
        let (param, state) = adam.step(0.1, param, grad.clone().transpose(), None);
        let held = state.clone();
        let (ours, _) = adam.step(0.1, param.clone(), grad.clone().transpose(), state);
        let (burns, _) = adam.plain.step(0.1, param, grad.transpose(), held);
        let tolerance = Tolerance::<f32>::rel_abs(1e-5, 1e-6);
        ours.into_data()
            .assert_approx_eq(&burns.into_data(), tolerance);
    }
}
