//! Adam, in one pass over each parameter where its values are at hand.

use burn::optim::{AdamConfig, AdamState, LearningRate, Optimizer, decay::WeightDecayConfig};
use burn::tensor::{Device, Tensor};

/// Adam with L2 regularisation (Kingma and Ba, 2015), as Burn has it.
///
/// With the gradient g of a parameter p, decay λ, and the number t of the step:
///
/// ```text
/// g ← g + λp     m ← β₁m + (1 − β₁)g     v ← β₂v + (1 − β₂)g²
/// p ← p − lr · m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε)
/// ```
///
/// Burn goes over the parameter a dozen times for this, with a tensor in between each time. On the
/// CPU (crate feature `flex`) it is done here in one pass, into the memory of the gradient.
#[derive(Clone)]
pub struct Adam {
    plain: burn::optim::Adam,
    #[cfg_attr(not(feature = "flex"), expect(dead_code, reason = "for the CPU"))]
    constants: Constants,
}

#[derive(Clone, Copy)]
struct Constants {
    beta_1: f32,
    beta_2: f32,
    epsilon: f32,
    decay: f32,
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
        #[cfg(feature = "flex")]
        if let Some(state) = state {
            if flex::serves(&[&param, &grad, &state.momentum.moment_1]) {
                let (param, state) = flex::step(&self.constants, lr, param, grad, state);
                return (param, Some(state));
            }
            return self.plain.step(lr, param, grad, Some(state));
        }
        // The first step makes the state.
        self.plain.step(lr, param, grad, state)
    }

    fn to_device<const D: usize>(state: AdamState<D>, device: &Device) -> AdamState<D> {
        burn::optim::Adam::to_device(state, device)
    }
}

#[cfg(feature = "flex")]
mod flex {
    use burn::optim::{AdamState, AdaptiveMomentumState};
    use burn::tensor::Tensor;
    use rayon::prelude::*;

    use super::Constants;
    pub(super) use crate::optim::flex::serves;
    use crate::optim::flex::{CHUNK, primitive, tensor};

    /// A step after the first.
    pub(super) fn step<const D: usize>(
        constants: &Constants,
        lr: f64,
        param: Tensor<D>,
        grad: Tensor<D>,
        state: AdamState<D>,
    ) -> (Tensor<D>, AdamState<D>) {
        let &Constants {
            beta_1,
            beta_2,
            epsilon,
            decay,
        } = constants;
        let time = state.momentum.time + 1;
        // As Burn takes the corrections: both are in the factor and in ε.
        let exponent = i32::try_from(time).unwrap_or(i32::MAX);
        let root = (1.0 - beta_2.powi(exponent)).sqrt();
        let rate = lr as f32 * root / (1.0 - beta_1.powi(exponent));
        let floor = epsilon * root;

        let param = primitive(param);
        let mut grad = primitive(grad);
        let mut first = primitive(state.momentum.moment_1);
        let mut second = primitive(state.momentum.moment_2);
        let values: &[f32] = param.storage();
        // Written over where nobody else holds them: only then does `storage_mut` not copy.
        let new = grad.storage_mut::<f32>().par_chunks_mut(CHUNK);
        let moments = first.storage_mut::<f32>().par_chunks_mut(CHUNK);
        let moments = moments.zip(second.storage_mut::<f32>().par_chunks_mut(CHUNK));
        new.zip(moments).zip(values.par_chunks(CHUNK)).for_each(
            |((new, (first, second)), values)| {
                let moments = first.iter_mut().zip(second);
                for ((new, (m, v)), &p) in new.iter_mut().zip(moments).zip(values) {
                    let g = *new + decay * p;
                    *m = beta_1 * *m + (1.0 - beta_1) * g;
                    *v = beta_2 * *v + (1.0 - beta_2) * g * g;
                    *new = p - rate * *m / (v.sqrt() + floor);
                }
            },
        );
        let momentum = AdaptiveMomentumState::new(time, tensor(first), tensor(second));
        (tensor(grad), AdamState::new(momentum))
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
