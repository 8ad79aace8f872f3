//! All that a run is: with a state and the plan, training goes on as if it had never stopped.

use burn::optim::ModuleOptimizer;
use burn::tensor::Device;
use swav_data::Cursor;
use swav_model::Network;

use crate::TrainError;
use crate::method::Method;
use crate::monitor::Collapse;
use crate::plan::Plan;
use crate::pretrained;

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
    /// The state before the first step. `device` has gradients turned on.
    ///
    /// # Errors
    /// If the plan names weights to begin with, and they cannot be read or are of another backbone.
    pub fn first(plan: &Plan, device: &Device) -> Result<Self, TrainError> {
        Ok(Self::of(Self::initial(plan, device)?, plan, device))
    }

    /// The network before the first step: with the weights that the plan begins with, or those that its seed draws.
    ///
    /// # Errors
    /// If the plan names weights to begin with, and they cannot be read or are of another backbone.
    pub fn initial(plan: &Plan, device: &Device) -> Result<Network, TrainError> {
        let network = Self::drawn(plan, device);
        match &plan.init {
            Some(init) => pretrained::begin(network, init),
            None => Ok(network),
        }
    }

    /// A state around a network of which nothing is known but the weights.
    pub(crate) fn of(network: Network, plan: &Plan, device: &Device) -> Self {
        let method = plan.method.build(plan, &network, &device.clone().inner());
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
