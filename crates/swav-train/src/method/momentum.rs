//! A network that follows another one slowly.

use std::any::Any;
use std::collections::HashMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use swav_model::{Network, weights};

use crate::TrainError;
use crate::forward::untracked;

/// The exponential moving average of the weights of a network (He et al., CVPR 2020, equation 2).
#[derive(Debug)]
pub struct Momentum {
    network: Network,
    /// m: what is kept of the old weights in each step.
    keep: f64,
}

impl Momentum {
    /// A copy of `network`, without gradients, that keeps the share `keep` of itself in each step.
    pub fn new(network: &Network, keep: f64) -> Self {
        Self {
            network: network.valid(),
            keep,
        }
    }

    /// The network as it is used: with the statistics of its own batches, without a graph.
    pub fn network(&self) -> Network {
        untracked(&self.network)
    }

    /// θ ← m·θ + (1 − m)·θ' with θ' the weights of `leader`.
    ///
    /// # Panics
    /// If the leader is another network than the one this is a copy of.
    pub fn follow(&mut self, leader: &Network) {
        let mut weights = Weights::default();
        leader.visit(&mut weights);
        self.network = self.network.clone().map(&mut Follow {
            leader: weights.0,
            keep: self.keep,
        });
    }

    /// Writes the weights.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), TrainError> {
        Ok(weights::save(&self.network, &directory.join(FILE))?)
    }

    /// Reads what [`save`](Self::save) wrote.
    pub(crate) fn load(&mut self, directory: &Path) -> Result<(), TrainError> {
        self.network = weights::load(self.network.clone(), &directory.join(FILE))?;
        Ok(())
    }
}

const FILE: &str = "momentum.bpk";

/// The weights of a network by their ids; a `Tensor<D>` each, of whatever D.
#[derive(Default)]
struct Weights(HashMap<ParamId, Box<dyn Any>>);

impl ModuleVisitor for Weights {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.insert(param.id, Box::new(param.val().inner()));
    }
}

struct Follow {
    leader: HashMap<ParamId, Box<dyn Any>>,
    keep: f64,
}

impl ModuleMapper for Follow {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let leader = self.leader.remove(&param.id);
        let leader = leader.and_then(|any| any.downcast::<Tensor<D>>().ok());
        let Some(leader) = leader else {
            panic!("{:?} is no parameter of the leader", param.id)
        };
        param.map(|own| own * self.keep + *leader * (1.0 - self.keep))
    }
}
