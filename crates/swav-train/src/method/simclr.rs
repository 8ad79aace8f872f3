//! SimCLR: telling the crops of an image from those of all others (Chen et al., ICML 2020), with the multi-crop
//! loss of the SwAV paper (Caron et al., NeurIPS 2020, appendix A.8).

use std::ops::Range;

use burn::tensor::activation::log_sigmoid;
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};
use swav_model::{Network, Outputs};

use super::checks::{check_no_prototypes, check_several_crops, check_temperature};
use super::{
    Chance, Method, MethodContext, MethodName, MethodPlan, Metric, PlanSettings, RecipeSettings,
    TargetInputs, Targets,
};
use crate::comm::Communicator;
use crate::ledger::Ledger;

/// What `[method]` can tell SimCLR.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimclrRecipe {
    /// τ of the softmax over similarities.
    pub temperature: Option<f64>,
}

/// Everything SimCLR is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimclrPlan {
    /// τ of the softmax over similarities.
    pub temperature: f64,
}

impl RecipeSettings for SimclrRecipe {
    fn derive(&self, _: &MethodContext<'_>, _: &mut Ledger) -> MethodPlan {
        MethodPlan::Simclr(SimclrPlan {
            temperature: self.temperature.unwrap_or(0.1),
        })
    }
}

impl PlanSettings for SimclrPlan {
    fn check(&self, context: &MethodContext<'_>, ledger: &mut Ledger) {
        check_several_crops(context, ledger);
        check_no_prototypes(MethodName::Simclr, context, ledger);
        check_temperature(self.temperature, ledger);
    }

    fn build(&self, context: &MethodContext<'_>, _: &Network, _: &Device) -> Box<dyn Method> {
        Box::new(Simclr {
            temperature: self.temperature,
            batch: context.batch,
            crops: context.crops_per_image(),
        })
    }

    fn describe(&self) -> String {
        format!("τ {}", self.temperature)
    }
}

/// SimCLR. It remembers nothing from batch to batch.
#[derive(Clone, Copy, Debug)]
pub struct Simclr {
    /// τ.
    pub temperature: f64,
    /// Images of a batch.
    pub batch: usize,
    /// Crops of an image.
    pub crops: usize,
}

impl Method for Simclr {
    /// The embeddings of the whole batch of all ranks, crop by crop: what each part of it is held against. The images of this
    /// rank come first.
    fn targets(&mut self, inputs: &TargetInputs<'_>, ranks: &mut dyn Communicator) -> Targets {
        let crops = inputs.embeddings.iter();
        Targets(crops.map(|own| own_first(own, ranks)).collect())
    }

    fn loss(&self, outputs: &Outputs, targets: &Targets, rows: Range<usize>) -> Tensor<1> {
        let parts = (self.batch / rows.len()) as f64;
        let live = outputs.embeddings.clone().chunk(targets.0.len(), 0);
        if parts == 1.0 {
            return contrastive_loss(live, self.temperature);
        }
        // The live rows take their places in the batch, whose order is of no account. Each part then has the loss of the whole batch, and of
        // its gradient the share of its own rows, where the mean over the parts wants it times their number
        // (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021).
        let crops = targets.0.iter().zip(live).map(|(batch, live)| {
            let before = batch.clone().slice(0..rows.start);
            let after = batch.clone().slice(rows.end..self.batch);
            let parts = [before, live, after].into_iter();
            Tensor::cat(parts.filter(|part| part.dims()[0] > 0).collect(), 0)
        });
        let whole = contrastive_loss(crops.collect(), self.temperature);
        let value = whole.clone().detach();
        (whole - value.clone()) * parts + value
    }

    fn chance(&self) -> Chance {
        let negatives = (self.batch - 1) * self.crops;
        Chance {
            loss: Some((1.0 + negatives as f64).ln()),
            from_step: 0,
            remedies: "Try a smaller optimizer.lr, a warm-up, softer augmentation (augment.jitter, larger crop \
                       scales) or a larger batch",
        }
    }

    /// How alike the first two crops of an image are, by the cosine.
    fn metrics(&self, targets: &Targets, _: &mut dyn Communicator) -> Vec<Metric> {
        let [first, second, ..] = targets.0.as_slice() else {
            return Vec::new();
        };
        let cosine = (first.clone() * second.clone()).sum_dim(1).mean();
        let cosine = cosine.into_scalar::<f32>();
        vec![Metric::new("alignment", f64::from(cosine))]
    }
}

/// The rows of all ranks, `[W·B, dim]`, with the `[B, dim]` of this one in front.
fn own_first(own: &Tensor<2>, ranks: &mut dyn Communicator) -> Tensor<2> {
    if ranks.world() == 1 {
        return own.clone();
    }
    let (rank, world) = (ranks.rank(), ranks.world());
    let all = ranks.gather(own.clone());
    let others = (0..all.dims()[0]).filter(|row| row % world != rank);
    let others: Vec<i64> = others.map(|row| row as i64).collect();
    let others = Tensor::<1, Int>::from_data(&others[..], &own.device());
    Tensor::cat(vec![own.clone(), all.select(0, others)], 0)
}

/// The loss of M crops of B images, unit embeddings `[B, dim]` each, as `[1]`:
///
/// ```text
/// −1/(N(M − 1)) Σ_z Σ_v⁺ log[ exp(z·v⁺/τ) / (exp(z·v⁺/τ) + Σ_v⁻ exp(z·v⁻/τ)) ],     N = B·M
/// ```
///
/// where v⁺ are the other crops of the image of z, and v⁻ all crops of the other images.
///
/// # Panics
/// If there are fewer than two crops or two images.
pub fn contrastive_loss(crops: Vec<Tensor<2>>, temperature: f64) -> Tensor<1> {
    let count = crops.len();
    let embeddings = Tensor::cat(crops, 0);
    let [rows, dim] = embeddings.dims();
    let batch = rows / count;
    assert!(count > 1 && batch > 1, "{count} crops of {batch} images");
    let device = embeddings.device();

    let similarity = embeddings.clone().matmul(embeddings.clone().transpose()) / temperature;
    let image = Tensor::<1, Int>::arange(0..rows as i64, &device) % batch as i64;
    let same = image
        .clone()
        .unsqueeze_dim::<2>(0)
        .equal(image.unsqueeze_dim(1));
    let negatives = similarity.mask_fill(same, f32::MIN);
    let most = negatives.clone().detach().max_dim(1);
    let negatives = (negatives - most.clone()).exp().sum_dim(1).log() + most;

    // From here on image by image: the positives are `[B, M, M]`, the negatives of each crop one sum.
    let by_image = embeddings.reshape([count, batch, dim]).swap_dims(0, 1);
    let positives = by_image.clone().matmul(by_image.swap_dims(1, 2)) / temperature;
    let negatives = negatives.reshape([count, batch, 1]).swap_dims(0, 1);
    // log[e⁺/(e⁺ + Σe⁻)] is the log of a sigmoid, which never overflows.
    let log_p = log_sigmoid(positives - negatives);
    let others = Tensor::<2>::ones([count, count], &device) - Tensor::eye(count, &device);
    (log_p * others.unsqueeze()).sum() / -((rows * (count - 1)) as f64)
}
