//! SwAV: swapping assignments between views (Caron et al., NeurIPS 2020).

use std::collections::HashMap;
use std::path::Path;

use burn::module::ParamId;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use swav_model::{Network, Outputs};
use swav_ot::{CodeReport, CodeStatistics, Form, Local, SinkhornConfig, sinkhorn_with};

use super::{Method, Queue, Targets};
use crate::TrainError;

/// Everything SwAV is told, with every constant resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwavPlan {
    /// τ of the softmax over prototype scores.
    pub temperature: f64,
    /// ε, the weight of the entropy in the assignment.
    pub epsilon: f64,
    /// Sinkhorn-Knopp iterations.
    pub iterations: usize,
    /// The crops that codes are computed for.
    pub assign: Vec<usize>,
    /// Steps for which the prototypes stay as they were initialised.
    pub freeze_steps: u64,
    /// Earlier embeddings that take part in the assignment.
    pub queue: Option<QueuePlan>,
}

/// The queue, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueuePlan {
    /// Embeddings kept per assigning crop, a multiple of the batch.
    pub length: usize,
    /// The step at which it begins to fill.
    pub start_step: u64,
}

/// SwAV with its queue.
#[derive(Debug)]
pub struct Swav {
    plan: SwavPlan,
    prototypes: Vec<usize>,
    queue: Option<Queue>,
}

impl Swav {
    /// SwAV for heads of `prototypes` prototypes over embeddings of `dim` numbers.
    pub fn new(plan: SwavPlan, prototypes: &[usize], dim: usize, device: &Device) -> Self {
        let queue = plan
            .queue
            .map(|queue| Queue::new(plan.assign.len(), queue.length, dim, device));
        Self {
            plan,
            prototypes: prototypes.to_vec(),
            queue,
        }
    }

    /// The queue, if the plan has one.
    pub fn queue(&self) -> Option<&Queue> {
        self.queue.as_ref()
    }

    /// What each assigning crop is assigned with, `[A·R, d]`: `R` rows of each of `A` crops, of which the last are
    /// its own `embeddings` `[B, d]`. Before them come the rows of the queue: they make the partition an
    /// equal one over more samples than the batch has.
    fn rows(&self, assigning: &[Tensor<2>]) -> Tensor<2> {
        let queued = |ring| self.queue.as_ref().and_then(|queue| queue.ready(ring));
        let rows = assigning.iter().enumerate().flat_map(|(ring, embeddings)| {
            let own = std::iter::once(embeddings.clone());
            queued(ring).into_iter().chain(own)
        });
        Tensor::cat(rows.collect(), 0)
    }

    /// The codes of each assigning crop, `[B, K]`, by the prototypes of one head, `[d, K]`. The crops do not
    /// know of each other, but are assigned in one go.
    fn assign(&self, rows: Tensor<2>, prototypes: Tensor<2>, batch: usize) -> Vec<Tensor<2>> {
        let crops = self.plan.assign.len();
        let config = SinkhornConfig {
            epsilon: self.plan.epsilon,
            iterations: self.plan.iterations,
        };
        let [all, _] = rows.dims();
        let [_, prototypes_of_head] = prototypes.dims();
        let (all, scores) = (all / crops, rows.matmul(prototypes));
        let scores = scores.reshape([crops, all, prototypes_of_head]);
        let codes = sinkhorn_with(scores, &config, Form::Fused, &mut Local)
            .unwrap_or_else(|error| unreachable!("the plan has been checked: {error}"));
        let own = codes.narrow(1, all - batch, batch);
        (0..crops)
            .map(|crop| own.clone().narrow(0, crop, 1).squeeze_dim(0))
            .collect()
    }
}

impl Method for Swav {
    fn prepare(&mut self, mut network: Network) -> Network {
        network.prototypes = network.prototypes.normalise();
        network
    }

    fn targets(&mut self, step: u64, network: &Network, embeddings: &[Tensor<2>]) -> Targets {
        let assigning: Vec<Tensor<2>> = self
            .plan
            .assign
            .iter()
            .map(|&crop| embeddings[crop].clone())
            .collect();
        let [batch, _] = assigning[0].dims();
        let rows = self.rows(&assigning);
        let by_head: Vec<_> = network
            .prototypes
            .weights()
            .into_iter()
            .map(|head| self.assign(rows.clone(), head, batch))
            .collect();
        let codes = (0..assigning.len())
            .map(|crop| by_head.iter().map(|head| head[crop].clone()).collect())
            .collect();

        // Only now: the batch is never assigned against itself twice.
        if let (Some(queue), Some(plan)) = (&mut self.queue, self.plan.queue)
            && step >= plan.start_step
        {
            queue.push(&assigning);
        }
        Targets { codes }
    }

    fn loss(&self, outputs: &Outputs, targets: &Targets) -> Tensor<1> {
        let heads = outputs.scores.len();
        let losses = (0..heads).map(|head| {
            let codes: Vec<_> = targets.codes.iter().map(|c| c[head].clone()).collect();
            swapped_loss(
                outputs.scores[head].clone(),
                &codes,
                &self.plan.assign,
                self.plan.temperature,
            )
        });
        losses.reduce(|a, b| a + b).map_or_else(
            || unreachable!("a network has at least one head of prototypes"),
            |sum| sum / heads as f64,
        )
    }

    fn frozen(&self, step: u64, network: &Network) -> Vec<ParamId> {
        if step < self.plan.freeze_steps {
            network.prototypes.param_ids()
        } else {
            Vec::new()
        }
    }

    fn chance_loss(&self) -> f64 {
        let heads = self.prototypes.len() as f64;
        self.prototypes
            .iter()
            .map(|&k| (k as f64).ln())
            .sum::<f64>()
            / heads
    }

    fn statistics(&self, targets: &Targets) -> CodeReport {
        let first_head: Vec<_> = targets.codes.iter().map(|heads| heads[0].clone()).collect();
        CodeStatistics::of(&Tensor::cat(first_head, 0)).read()
    }

    fn save(&self, directory: &Path) -> Result<(), TrainError> {
        let Some(queue) = &self.queue else {
            return Ok(());
        };
        let path = directory.join(QUEUE_FILE);
        let rings: Vec<(String, [usize; 2], Vec<u8>)> = queue
            .rings()
            .iter()
            .enumerate()
            .map(|(i, ring)| {
                let data = ring.to_data();
                (format!("ring{i}"), ring.dims(), data.bytes().to_vec())
            })
            .collect();
        let views = rings.iter().filter_map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes).ok()?;
            Some((name.clone(), view))
        });
        let filled = HashMap::from([("filled".to_string(), queue.filled().to_string())]);
        safetensors::serialize_to_file(views.collect::<Vec<_>>(), Some(filled), &path)
            .map_err(|error| TrainError::checkpoint(path, error.to_string()))
    }

    fn load(&mut self, directory: &Path, device: &Device) -> Result<(), TrainError> {
        let Some(queue) = &mut self.queue else {
            return Ok(());
        };
        let path = directory.join(QUEUE_FILE);
        let damaged = |reason: String| TrainError::checkpoint(&path, reason);
        let bytes = std::fs::read(&path).map_err(TrainError::io(&path))?;
        let (_, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| damaged(error.to_string()))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
        let filled = metadata
            .metadata()
            .as_ref()
            .and_then(|entries| entries.get("filled"))
            .and_then(|text| text.parse::<usize>().ok())
            .ok_or_else(|| damaged("the number of filled rows is missing".to_string()))?;

        let mut rings = Vec::new();
        for (i, current) in queue.rings().iter().enumerate() {
            let view = file
                .tensor(&format!("ring{i}"))
                .map_err(|error| damaged(error.to_string()))?;
            if view.shape() != current.dims() || view.dtype() != Dtype::F32 {
                return Err(damaged(format!(
                    "the queue is {:?} of {:?}, the plan wants {:?} of F32",
                    view.shape(),
                    view.dtype(),
                    current.dims()
                )));
            }
            let values: Vec<f32> = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            let data = TensorData::new(values, current.dims());
            rings.push(Tensor::from_data(data, device));
        }
        *queue = Queue::restore(rings, filled);
        Ok(())
    }
}

const QUEUE_FILE: &str = "queue.safetensors";

/// The swapped prediction: every crop predicts the codes of the assigning crops other than itself.
///
/// `scores` is `[C·B, K]`, crop-major; `codes[i]`, `[B, K]`, belongs to crop `assign[i]`. Returns
///
/// ```text
/// mean over i of  1/(C − 1) Σ_{v ≠ assign[i]}  −mean_b Σ_k codes[i]_bk log softmax(scores_v/τ)_bk
/// ```
///
/// as `[1]` (Caron et al., NeurIPS 2020, equations 1, 2 and 6). The inner sum over crops is taken
/// before the product with the codes, so that K·B products per assigning crop suffice.
///
/// # Panics
/// If the rows of `scores` are not a multiple of the rows of the codes.
pub fn swapped_loss(
    scores: Tensor<2>,
    codes: &[Tensor<2>],
    assign: &[usize],
    temperature: f64,
) -> Tensor<1> {
    let [rows, prototypes] = scores.dims();
    let [batch, _] = codes[0].dims();
    assert_eq!(
        rows % batch,
        0,
        "scores of {rows} rows are no whole number of crops of {batch} samples"
    );
    let crops = rows / batch;

    let log_p = log_softmax(scores / temperature, 1);
    let log_p_all = log_p
        .clone()
        .reshape([crops, batch, prototypes])
        .sum_dim(0)
        .reshape([batch, prototypes]);

    let agreement = codes
        .iter()
        .zip(assign)
        .map(|(codes, &crop)| {
            let own = log_p.clone().narrow(0, crop * batch, batch);
            (codes.clone() * (log_p_all.clone() - own)).sum()
        })
        .reduce(|a, b| a + b);
    let terms = (codes.len() * (crops - 1) * batch) as f64;
    match agreement {
        Some(agreement) => agreement / -terms,
        None => unreachable!("codes[0] exists"),
    }
}
