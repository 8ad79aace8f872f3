//! From gradients to updates: [`Larc`], [`Sgd`], [`Adam`] and Burn's AdamW behind one description, and the
//! [`Schedule`] of the learning rate.

mod adam;
mod larc;
#[cfg(any(feature = "flex", feature = "cube"))]
mod passes;
mod schedule;
mod sgd;

use burn::module::{Module, ModuleVisitor, Param, ParamGroup, ParamId};
use burn::optim::{AdamW, AdamWConfig, ModuleOptimizer, Optimizer};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub use adam::Adam;
pub use larc::Larc;
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdState};

/// The optimizers on offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// SGD with layer-wise adaptive rate control, the paper's.
    Larc,
    /// SGD with momentum.
    Sgd,
    /// Adam with L2 regularisation.
    Adam,
    /// Adam with decoupled weight decay.
    Adamw,
}

impl OptimizerName {
    /// The name as it stands in a recipe.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Larc => "larc",
            Self::Sgd => "sgd",
            Self::Adam => "adam",
            Self::Adamw => "adamw",
        }
    }
}

/// Which optimizer runs, with every constant resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerPlan {
    /// The rule.
    pub name: OptimizerName,
    /// Momentum of SGD and LARC, β₁ of Adam and AdamW.
    pub momentum: f64,
    /// Weight decay: L2 in LARC, SGD and Adam, decoupled in AdamW.
    pub weight_decay: f64,
    /// Biases and batch norms see neither decay nor LARC's scaling.
    pub exclude_bias_and_norm: bool,
    /// Learning rate of each step.
    pub schedule: Schedule,
}

impl OptimizerPlan {
    /// The optimizer of `module`, without any state yet.
    pub fn init<M: Module>(&self, module: &M) -> ModuleOptimizer {
        let decay = self.weight_decay;
        match self.name {
            OptimizerName::Larc => self.grouped(module, self.larc(), self.sgd(0.0)),
            OptimizerName::Sgd => self.grouped(module, self.sgd(decay), self.sgd(0.0)),
            OptimizerName::Adam => self.grouped(module, self.adam(decay), self.adam(0.0)),
            OptimizerName::Adamw => self.grouped(module, self.adamw(decay), self.adamw(0.0)),
        }
    }

    /// `rule` for every parameter, but `plain` for biases and batch norms where they are excluded.
    fn grouped<M: Module, O: Optimizer, P: Optimizer>(
        &self,
        module: &M,
        rule: O,
        plain: P,
    ) -> ModuleOptimizer {
        let optimizer = ModuleOptimizer::from(rule);
        if !self.exclude_bias_and_norm {
            return optimizer;
        }
        let mut vectors = Vectors::default();
        module.visit(&mut vectors);
        optimizer.with_group(ParamGroup::from_ids(vectors.ids), plain, None)
    }

    fn larc(&self) -> Larc {
        Larc {
            trust: Larc::TRUST,
            weight_decay: self.weight_decay,
            sgd: self.sgd(0.0),
        }
    }

    fn sgd(&self, decay: f64) -> Sgd {
        Sgd {
            momentum: self.momentum,
            weight_decay: decay,
        }
    }

    fn adam(&self, decay: f64) -> Adam {
        Adam::new(self.momentum, decay)
    }

    fn adamw(&self, decay: f64) -> AdamW {
        AdamWConfig::new()
            .with_beta_1(self.momentum as f32)
            .with_epsilon(ADAM_EPSILON)
            .with_weight_decay(decay as f32)
            .build()
    }
}

/// Collects the parameters of rank one: biases, and the scale and shift of batch norms.
#[derive(Default)]
struct Vectors {
    ids: Vec<ParamId>,
}

impl ModuleVisitor for Vectors {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if D == 1 {
            self.ids.push(param.id);
        }
    }
}

/// PyTorch's default, which the small-scale recipes were measured with.
const ADAM_EPSILON: f32 = 1e-8;
