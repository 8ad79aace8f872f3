//! Random: weights as they are drawn, to compare the trained ones with.

use std::ops::Range;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use swav_model::{Network, Outputs};

use super::{Chance, Draft, Method, MethodSettings, Metric, Seen, Targets};
use crate::plan::{Ledger, Plan, check_no_prototypes};

/// Random has no settings: its plan has no steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomPlan {}

impl RandomPlan {
    pub(crate) const HEADS: usize = 0;
    pub(crate) const FIELDS: &[&str] = &[];

    pub(crate) fn derive(_: &mut Draft<'_>) -> Self {
        Self {}
    }
}

impl MethodSettings for RandomPlan {
    fn check(&self, plan: &Plan, ledger: &mut Ledger) {
        check_no_prototypes(plan, ledger);
    }

    fn build(&self, _: &Plan, _: &Network, _: &Device) -> Box<dyn Method> {
        Box::new(Random)
    }

    fn describe(&self) -> String {
        "weights as they are drawn, not trained".to_string()
    }
}

/// Learns nothing.
#[derive(Debug)]
struct Random;

impl Method for Random {
    fn targets(&mut self, _: &Seen<'_>) -> Targets {
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

    fn metrics(&self, _: &Targets) -> Vec<Metric> {
        Vec::new()
    }
}
