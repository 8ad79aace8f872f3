//! Supervised: cross-entropy of every crop with the labels, for comparison; with several labels an image, weak
//! supervision by tags (Mahajan et al., ECCV 2018: each label of an image has the same share).

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use swav_model::{Network, Outputs};

use super::checks::check_no_prototypes;
use super::labels::weights;
use super::{
    Chance, Defaults, Method, MethodContext, MethodName, MethodPlan, Metric, PlanSettings,
    RecipeSettings, TargetInputs, Targets, prediction_loss,
};
use crate::comm::Communicator;
use crate::facts::Facts;
use crate::ledger::Ledger;

/// What `[method]` can tell the classifier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupervisedRecipe {
    /// Share of a label's weight that goes to all classes alike.
    pub smoothing: Option<f64>,
}

/// Everything the classifier is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupervisedPlan {
    /// Classes to tell apart.
    pub classes: usize,
    /// Share of a label's weight that goes to all classes alike.
    pub smoothing: f64,
}

impl RecipeSettings for SupervisedRecipe {
    fn defaults(&self, facts: &Facts) -> Defaults {
        Defaults {
            hidden: Some(0),
            dim: Some((facts.classes, "a logit for each class")),
            ..Defaults::default()
        }
    }

    fn derive(&self, context: &MethodContext<'_>, _: &mut Ledger) -> MethodPlan {
        MethodPlan::Supervised(SupervisedPlan {
            classes: context.classes,
            smoothing: self.smoothing.unwrap_or(0.0),
        })
    }
}

impl PlanSettings for SupervisedPlan {
    fn check(&self, context: &MethodContext<'_>, ledger: &mut Ledger) {
        check_no_prototypes(MethodName::Supervised, context, ledger);
        ledger.require(self.classes >= 2, || {
            format!(
                "method.name = \"supervised\" needs images of two classes or more, {} has {}: put each class into \
                 a folder of its own, name a file with labels in data.labels, or take a method that needs none",
                context.data.display(),
                match self.classes {
                    0 => "no labels".to_string(),
                    _ => "one class".to_string(),
                }
            )
        });
        ledger.require(
            self.classes < 2 || context.model.dim == self.classes,
            || {
                format!(
                    "model.dim = {}: the head is the classifier of {} classes; leave the field out",
                    context.model.dim, self.classes
                )
            },
        );
        ledger.require((0.0..1.0).contains(&self.smoothing), || {
            format!("method.smoothing = {} must lie in [0, 1)", self.smoothing)
        });
    }

    fn build(&self, _: &MethodContext<'_>, _: &Network, _: &Device) -> Box<dyn Method> {
        Box::new(Supervised {
            classes: self.classes,
            smoothing: self.smoothing,
        })
    }

    fn describe(&self) -> String {
        format!(
            "{} classes, label smoothing {}",
            self.classes, self.smoothing
        )
    }
}

/// A classifier: what the head gives are its logits.
#[derive(Clone, Copy, Debug)]
pub struct Supervised {
    /// Classes to tell apart.
    pub classes: usize,
    /// Share of a label's weight that goes to all classes alike.
    pub smoothing: f64,
}

impl Supervised {
    /// The wanted distributions, `[B, classes]`: an image without labels has zeros, and the others weigh so much
    /// more that a mean over all of all ranks is the mean over those with labels.
    fn wanted(&self, labels: &[Vec<u32>], ranks: &mut dyn Communicator) -> Vec<f32> {
        let labelled = labels.iter().filter(|labels| !labels.is_empty()).count();
        let weight = weights(labels.len(), std::iter::once(labelled), ranks)[0];
        let floor = weight * self.smoothing / self.classes as f64;
        let mut wanted = vec![0.0; labels.len() * self.classes];
        for (row, labels) in wanted.chunks_exact_mut(self.classes).zip(labels) {
            if labels.is_empty() {
                continue;
            }
            row.fill(floor as f32);
            let share = weight * (1.0 - self.smoothing) / labels.len() as f64;
            for &label in labels {
                row[label as usize] += share as f32;
            }
        }
        wanted
    }
}

impl Method for Supervised {
    fn targets(&mut self, inputs: &TargetInputs<'_>, ranks: &mut dyn Communicator) -> Targets {
        let shape = [inputs.labels.len(), self.classes];
        let wanted = TensorData::new(self.wanted(inputs.labels, ranks), shape);
        let device = inputs.embeddings[0].device();
        Targets(vec![Tensor::from_data(wanted, &device)])
    }

    fn loss(&self, outputs: &Outputs, targets: &Targets, rows: Range<usize>) -> Tensor<1> {
        let wanted = targets.0[0].clone().slice(rows);
        prediction_loss(outputs.projections.clone(), wanted, 1.0)
    }

    fn chance(&self) -> Chance {
        Chance {
            loss: Some((self.classes as f64).ln()),
            from_step: 0,
            remedies: "Look whether the labels belong to the images, then try a smaller optimizer.lr or a warm-up",
        }
    }

    fn metrics(&self, _: &Targets, _: &mut dyn Communicator) -> Vec<Metric> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Local;

    fn wanted(smoothing: f64, labels: &[Vec<u32>]) -> Vec<f32> {
        let method = Supervised {
            classes: 4,
            smoothing,
        };
        method.wanted(labels, &mut Local)
    }

    #[test]
    fn labels_share_the_weight_of_their_image() {
        let rows = wanted(0.0, &[vec![2], vec![0, 3]]);
        assert_eq!(rows, [0.0, 0.0, 1.0, 0.0, 0.5, 0.0, 0.0, 0.5]);
    }

    #[test]
    fn smoothing_gives_a_part_to_every_class_and_keeps_the_sum() {
        let rows = wanted(0.1, &[vec![1]]);
        let expected = [0.025, 0.925, 0.025, 0.025];
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
        assert!(rows.iter().zip(&expected).all(near), "{rows:?}");
    }

    #[test]
    fn an_image_without_labels_is_left_out_of_the_mean() {
        let rows = wanted(0.2, &[vec![1], vec![], vec![0], vec![]]);
        assert_eq!(rows[4..8], [0.0; 4]);
        let sum: f32 = rows.iter().sum();
        assert!((sum - 4.0).abs() < 1e-6, "{rows:?}");
    }
}
