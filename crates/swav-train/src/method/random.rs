//! Random: weights as they are drawn, to compare the trained ones with.

use std::ops::Range;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use swav_model::{Network, Outputs};

use super::checks::check_no_prototypes;
use super::{
    Chance, Defaults, Method, MethodContext, MethodName, MethodPlan, Metric, PlanSettings,
    RecipeSettings, TargetInputs, Targets,
};
use crate::comm::Communicator;
use crate::facts::Facts;
use crate::ledger::Ledger;

/// Random weights are told nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomRecipe {}

/// Random has no settings: its plan has no steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomPlan {}

impl RecipeSettings for RandomRecipe {
    fn defaults(&self, _: &Facts) -> Defaults {
        Defaults {
            trains: false,
            ..Defaults::default()
        }
    }

    fn derive(&self, _: &MethodContext<'_>, _: &mut Ledger) -> MethodPlan {
        MethodPlan::Random(RandomPlan {})
    }
}

impl PlanSettings for RandomPlan {
    fn check(&self, context: &MethodContext<'_>, ledger: &mut Ledger) {
        check_no_prototypes(MethodName::Random, context, ledger);
    }

    fn build(&self, _: &MethodContext<'_>, _: &Network, _: &Device) -> Box<dyn Method> {
        Box::new(Random)
    }

    fn describe(&self) -> String {
        "weights as they are drawn, not trained".to_string()
    }

    fn trains(&self) -> bool {
        false
    }
}

/// Learns nothing.
#[derive(Debug)]
struct Random;

impl Method for Random {
    fn targets(&mut self, _: &TargetInputs<'_>, _: &mut dyn Communicator) -> Targets {
        Targets::default()
    }

    /// 0, whose gradient is 0.
    fn loss(&self, outputs: &Outputs, _: &Targets, _: Range<usize>) -> Tensor<1> {
        outputs.embeddings.clone().sum() * 0.0
    }

    fn chance(&self) -> Chance {
        Chance {
            loss: None,
            from_step: 0,
            remedies: "",
        }
    }

    fn metrics(&self, _: &Targets, _: &mut dyn Communicator) -> Vec<Metric> {
        Vec::new()
    }
}
