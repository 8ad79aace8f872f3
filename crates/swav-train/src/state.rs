//! All that a run is: with a state and the plan, training goes on as if it had never stopped.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::ModuleOptimizer;
use burn::tensor::{Device, Tensor};
use swav_data::Cursor;
use swav_model::Network;

use crate::TrainError;
use crate::collapse::Collapse;
use crate::method::Method;
use crate::plan::Plan;
use crate::weights_file::{self, Notes};

/// Everything that changes from step to step.
///
/// There is no random state in it beyond the seed in the plan: the order of the images and the
/// augmentation of each crop are functions of (seed, epoch, sample, crop), and the device's own
/// random stream is used for what a run begins with alone: the weights, and the first keys of MoCo.
pub struct State {
    /// Weights and batch-norm statistics.
    pub network: Network,
    /// Velocities or moments.
    pub optimizer: ModuleOptimizer,
    /// The method with its queue or banks.
    pub method: Box<dyn Method>,
    /// Steps done.
    pub step: u64,
    /// Where the next batch begins.
    pub cursor: Cursor,
    /// The collapse monitor with its patience.
    pub collapse: Collapse,
}

impl State {
    /// The state before the first step. `device` has gradients turned on; `notes` is told of the weights that the plan
    /// begins with.
    ///
    /// # Errors
    /// If the plan names weights to begin with, and they cannot be read or are of another backbone.
    pub fn first(plan: &Plan, device: &Device, notes: &mut Notes<'_>) -> Result<Self, TrainError> {
        Ok(Self::of(Self::initial(plan, device, notes)?, plan, device))
    }

    /// The network before the first step: with the weights that the plan begins with, or those that its seed draws.
    ///
    /// # Errors
    /// If the plan names weights to begin with, and they cannot be read or are of another backbone.
    pub fn initial(
        plan: &Plan,
        device: &Device,
        notes: &mut Notes<'_>,
    ) -> Result<Network, TrainError> {
        let network = Self::drawn(plan, device);
        match &plan.init {
            Some(init) => weights_file::begin(network, init, notes),
            None => Ok(network),
        }
    }

    /// A state around a network of which nothing is known but the weights.
    pub(crate) fn of(network: Network, plan: &Plan, device: &Device) -> Self {
        let method = plan
            .method
            .build(&plan.context(), &network, &device.clone().inner());
        let collapse = Collapse::new(method.chance(), plan.train.steps_per_epoch);
        Self {
            optimizer: plan.optimizer.init(&network),
            network,
            method,
            step: 0,
            cursor: Cursor {
                epoch: 0,
                position: 0,
            },
            collapse,
        }
    }

    /// The network with the weights that the plan's seed draws.
    pub(crate) fn drawn(plan: &Plan, device: &Device) -> Network {
        plan.model.init(plan.train.seed, device)
    }
}

/// The sum of the squares of all weights, `[1]`: finite only if each of them is a number of a size that something can still be
/// computed with.
pub(crate) fn sum_of_squares(network: &Network) -> Tensor<1> {
    #[derive(Default)]
    struct Sum(Option<Tensor<1>>);

    impl ModuleVisitor for Sum {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let sum = param.val().inner().square().sum();
            self.0 = Some(match self.0.take() {
                Some(total) => total + sum,
                None => sum,
            });
        }
    }

    let mut sum = Sum::default();
    network.visit(&mut sum);
    match sum.0 {
        Some(total) => total,
        None => unreachable!("a network has weights"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::read;
    use crate::forward::tests::network;

    #[test]
    fn one_weight_that_is_no_number_or_absurdly_large_shows_in_the_sum() {
        let device = Device::flex();
        let mut network = network(&device);
        assert!(read(sum_of_squares(&network)).unwrap()[0].is_finite());
        struct Break(f32);
        impl burn::module::ModuleMapper for Break {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|weights| weights * self.0)
            }
        }
        for factor in [1e30, f32::NAN] {
            network.prototypes = network.prototypes.map(&mut Break(factor));
            assert!(!read(sum_of_squares(&network)).unwrap()[0].is_finite());
        }
    }
}
