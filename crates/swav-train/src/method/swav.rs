//! SwAV: swapping assignments between views (Caron et al., NeurIPS 2020).

use std::ops::Range;
use std::path::Path;

use burn::module::ParamId;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use swav_model::{Network, Outputs};
use swav_ot::{CodeStatistics, Implementation, SinkhornConfig, sinkhorn_with};

use super::checks::{check_prototypes, check_several_crops, check_sinkhorn, check_temperature};
use super::tensor_file::{SavedTensors, TensorFile};
use super::{
    Chance, Defaults, Method, MethodContext, MethodPlan, Metric, PlanSettings, Queue, QueueRecipe,
    RecipeSettings, TargetInputs, Targets,
};
use crate::TrainError;
use crate::comm::Communicator;
use crate::facts::Facts;
use crate::ledger::Ledger;
use crate::span::Span;

/// What `[method]` can tell SwAV.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SwavRecipe {
    /// τ of the softmax over scores.
    pub temperature: Option<f64>,
    /// ε, the weight of the entropy in the assignment.
    pub epsilon: Option<f64>,
    /// Sinkhorn-Knopp iterations.
    pub iterations: Option<usize>,
    /// The crops that codes are computed for.
    pub assign: Option<Vec<usize>>,
    /// How long the prototypes stay as they were initialised.
    pub freeze: Option<Span>,
    /// Earlier embeddings that take part in the assignment.
    pub queue: Option<QueueRecipe>,
}

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

impl SwavPlan {
    /// Returns the paper's settings (Caron et al., NeurIPS 2020, section 4 and appendix A.1): codes of the first two crops, no
    /// queue, and prototypes that learn from the first step.
    pub fn paper() -> Self {
        Self {
            temperature: 0.1,
            epsilon: 0.05,
            iterations: 3,
            assign: vec![0, 1],
            freeze_steps: 0,
            queue: None,
        }
    }
}

impl RecipeSettings for SwavRecipe {
    fn defaults(&self, _: &Facts) -> Defaults {
        Defaults {
            heads: 1,
            ..Defaults::default()
        }
    }

    fn derive(&self, context: &MethodContext<'_>, ledger: &mut Ledger) -> MethodPlan {
        let paper = SwavPlan::paper();
        let freeze = ledger.or(
            self.freeze,
            "method.freeze",
            Span::Steps(context.steps_per_epoch),
            "one epoch: the first features would drag the prototypes along",
        );
        let first_two = || (0..context.crops_per_image().min(2)).collect();
        MethodPlan::Swav(SwavPlan {
            temperature: self.temperature.unwrap_or(paper.temperature),
            epsilon: self.epsilon.unwrap_or(paper.epsilon),
            iterations: self.iterations.unwrap_or(paper.iterations),
            assign: self.assign.clone().unwrap_or_else(first_two),
            freeze_steps: freeze.steps(context.steps_per_epoch).min(context.steps),
            queue: derive_queue(self.queue.as_ref(), context, ledger),
        })
    }
}

impl PlanSettings for SwavPlan {
    fn check(&self, context: &MethodContext<'_>, ledger: &mut Ledger) {
        check_several_crops(context, ledger);
        check_temperature(self.temperature, ledger);
        check_sinkhorn(self.epsilon, self.iterations, ledger);
        let crops = context.crops_per_image();
        ledger.require(!self.assign.is_empty(), || {
            "method.assign is empty: at least one crop must give the codes".to_string()
        });
        for &crop in &self.assign {
            ledger.require(crop < crops, || {
                format!(
                    "method.assign names crop {crop}, but there are only {crops}, counted from 0"
                )
            });
        }
        let queued = self.queue.map_or(0, |queue| queue.length);
        check_prototypes(context, ledger);
        for &prototypes in &context.model.prototypes {
            check_share(prototypes, queued, context, ledger);
        }
        if let Some(queue) = self.queue {
            ledger.require(queue.length <= context.images, || {
                format!(
                    "method.queue.length = {} is longer than the {} images: every image would be \
                     assigned beside older copies of itself; shorten it",
                    queue.length, context.images
                )
            });
            ledger.require(queue.start_step < context.steps, || {
                format!(
                    "method.queue.start lies at step {} of a run of {} steps: it would never be used",
                    queue.start_step, context.steps
                )
            });
        }
    }

    fn build(&self, context: &MethodContext<'_>, _: &Network, device: &Device) -> Box<dyn Method> {
        let (prototypes, dim) = (&context.model.prototypes, context.model.dim);
        let mut settings = self.clone();
        if let Some(queue) = &mut settings.queue {
            queue.length /= context.ranks;
        }
        Box::new(Swav::new(settings, prototypes, dim, device))
    }

    fn memory(&self, context: &MethodContext<'_>) -> u64 {
        let length = self.queue.map_or(0, |queue| queue.length);
        4 * (self.assign.len() * length / context.ranks * context.model.dim) as u64
    }

    fn describe(&self) -> String {
        let queue = match self.queue {
            Some(queue) => format!(", queue {} from step {}", queue.length, queue.start_step),
            None => String::new(),
        };
        format!(
            "τ {}, ε {}, {} iterations{queue}",
            self.temperature, self.epsilon, self.iterations
        )
    }

    fn temperature(&self) -> Option<f64> {
        Some(self.temperature)
    }
}

/// Samples that a prototype must at least be able to expect in one assignment.
const LEAST_SHARE: usize = 8;

/// Holds a head to what batch and queue can fill.
fn check_share(prototypes: usize, queued: usize, context: &MethodContext<'_>, ledger: &mut Ledger) {
    let batch = context.batch;
    let rows = batch + queued;
    ledger.require(prototypes <= LEAST_SHARE * rows, || {
        format!(
            "model.prototypes = {prototypes} cannot be filled by the {rows} samples of batch and \
             queue: an equal partition gives each less than 1/{LEAST_SHARE} of a sample; take at \
             most {}, a larger batch, or method.queue.length = {}",
            LEAST_SHARE * rows,
            prototypes.div_ceil(batch.max(1)) * batch
        )
    });
}

/// Prototypes for each sample of a batch up to which codes need no queue beside it.
const WITHOUT_QUEUE: usize = 4;

/// A queue only where a batch is small beside the prototypes. Features of earlier steps cost more
/// than they give as long as features move fast (`docs/results.md`), so it is none to have in doubt.
fn derive_queue(
    wanted: Option<&QueueRecipe>,
    context: &MethodContext<'_>,
    ledger: &mut Ledger,
) -> Option<QueuePlan> {
    let wanted = wanted.cloned().unwrap_or_default();
    let batch = context.batch.max(1);
    let prototypes = context.model.prototypes.iter().copied().max().unwrap_or(0);
    let missing = (prototypes + prototypes / 4).saturating_sub(batch);
    let fits = context.images / 2 / batch * batch;
    let derived = (missing.div_ceil(batch) * batch).min(fits);
    let length = match wanted.length {
        Some(length) => length / batch * batch,
        None if prototypes <= WITHOUT_QUEUE * batch => 0,
        None => derived,
    };
    if wanted.length.is_some_and(|wanted| wanted > 0) && length == 0 {
        ledger.problems.push(format!(
            "method.queue.length = {} is shorter than a batch of {batch}: rounded down to a \
             multiple of the batch nothing is left; lengthen it, or set 0 for no queue",
            wanted.length.unwrap_or(0)
        ));
    }
    if length == 0 {
        return None;
    }
    let share = Span::Epochs((context.epochs as f64 * 0.075).ceil());
    let start = wanted.start.unwrap_or(share);
    let is_derived = wanted.length.is_none() && wanted.start.is_none();
    if is_derived && start.steps(context.steps_per_epoch) >= context.steps {
        ledger.note("method.queue.length", 0, "the run is over before one helps");
        return None;
    }
    if wanted.length.is_none() {
        ledger.note(
            "method.queue.length",
            length,
            format!("{prototypes} prototypes want more samples than a batch of {batch}"),
        );
    }
    if wanted.start.is_none() {
        ledger.note(
            "method.queue.start",
            start,
            "7.5 % of the run: started earlier, a queue of poor features destabilises",
        );
    }
    Some(QueuePlan {
        length,
        start_step: start.steps(context.steps_per_epoch),
    })
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
    fn assign(
        &self,
        rows: Tensor<2>,
        prototypes: Tensor<2>,
        batch: usize,
        ranks: &mut dyn Communicator,
    ) -> Vec<Tensor<2>> {
        let crops = self.plan.assign.len();
        let config = SinkhornConfig {
            epsilon: self.plan.epsilon,
            iterations: self.plan.iterations,
        };
        let [all, _] = rows.dims();
        let [_, prototypes_of_head] = prototypes.dims();
        let (all, scores) = (all / crops, rows.matmul(prototypes));
        let scores = scores.reshape([crops, all, prototypes_of_head]);
        let codes = sinkhorn_with(scores, &config, Implementation::Fused, ranks)
            .unwrap_or_else(|error| unreachable!("the plan has been checked: {error}"));
        let own = codes.narrow(1, all - batch, batch);
        (0..crops)
            .map(|crop| own.clone().narrow(0, crop, 1).squeeze_dim(0))
            .collect()
    }
}

impl Method for Swav {
    fn before_step(&mut self, mut network: Network) -> Network {
        network.prototypes = network.prototypes.normalise();
        network
    }

    /// The codes of each assigning crop by each head, crop by crop.
    fn targets(&mut self, inputs: &TargetInputs<'_>, ranks: &mut dyn Communicator) -> Targets {
        let assigning: Vec<Tensor<2>> = self
            .plan
            .assign
            .iter()
            .map(|&crop| inputs.embeddings[crop].clone())
            .collect();
        let [batch, _] = assigning[0].dims();
        let rows = self.rows(&assigning);
        let by_head: Vec<_> = inputs
            .network
            .prototypes
            .weights()
            .into_iter()
            .map(|head| self.assign(rows.clone(), head, batch, ranks))
            .collect();
        let codes = (0..assigning.len())
            .flat_map(|crop| by_head.iter().map(move |head| head[crop].clone()))
            .collect();

        // Only now: the batch is never assigned against itself twice.
        if let (Some(queue), Some(plan)) = (&mut self.queue, self.plan.queue)
            && inputs.step >= plan.start_step
        {
            queue.push(&assigning);
        }
        Targets(codes)
    }

    fn loss(&self, outputs: &Outputs, targets: &Targets, rows: Range<usize>) -> Tensor<1> {
        let heads = outputs.scores.len();
        let losses = outputs.scores.iter().enumerate().map(|(head, scores)| {
            let codes = targets.0.iter().skip(head).step_by(heads);
            let codes: Vec<_> = codes.map(|c| c.clone().slice(rows.clone())).collect();
            swapped_loss(
                scores.clone(),
                &codes,
                &self.plan.assign,
                self.plan.temperature,
            )
        });
        Tensor::cat(losses.collect(), 0).mean()
    }

    fn frozen(&self, step: u64, network: &Network) -> Vec<ParamId> {
        if step < self.plan.freeze_steps {
            network.prototypes.param_ids()
        } else {
            Vec::new()
        }
    }

    fn chance(&self) -> Chance {
        let entropies = self.prototypes.iter().map(|&k| (k as f64).ln());
        Chance {
            loss: Some(entropies.sum::<f64>() / self.prototypes.len() as f64),
            from_step: self.plan.freeze_steps,
            remedies: "Try, in this order: method.epsilon=0.03, a longer method.freeze, softer augmentation \
                       (augment.jitter, larger crop scales), fewer model.prototypes, a smaller optimizer.lr, or \
                       a later method.queue.start",
        }
    }

    fn metrics(&self, targets: &Targets, ranks: &mut dyn Communicator) -> Vec<Metric> {
        let first_head = targets.0.iter().step_by(self.prototypes.len());
        code_metrics(Tensor::cat(first_head.cloned().collect(), 0), ranks)
    }

    fn save(&self, directory: &Path, ranks: &mut dyn Communicator) -> Result<(), TrainError> {
        let Some(queue) = &self.queue else {
            return Ok(());
        };
        let mut memory = TensorFile::default();
        for (i, ring) in queue.rings().iter().enumerate() {
            memory.rows(format!("ring{i}"), ring, ranks);
        }
        memory.number("filled", (queue.filled() * ranks.world()) as u64);
        memory.save(&directory.join(QUEUE_FILE), ranks)
    }

    fn load(
        &mut self,
        directory: &Path,
        device: &Device,
        ranks: &dyn Communicator,
    ) -> Result<(), TrainError> {
        let Some(queue) = &mut self.queue else {
            return Ok(());
        };
        let found = SavedTensors::open(&directory.join(QUEUE_FILE))?;
        let rings = queue.rings().iter().enumerate();
        let rings =
            rings.map(|(i, ring)| found.rows(&format!("ring{i}"), ring.dims(), device, ranks));
        *queue = Queue::restore(
            rings.collect::<Result<_, _>>()?,
            found.number("filled")? as usize / ranks.world(),
        );
        Ok(())
    }
}

const QUEUE_FILE: &str = "queue.safetensors";

/// How sure, and how evenly spread, `[N, K]` distributions over prototypes are, over all ranks.
pub(super) fn code_metrics(codes: Tensor<2>, ranks: &mut dyn Communicator) -> Vec<Metric> {
    let mut statistics = CodeStatistics::of(&codes);
    if ranks.world() > 1 {
        let entropy = statistics.entropy.unsqueeze();
        let counts = statistics.counts.float().unsqueeze();
        statistics.entropy = ranks.sum(entropy).squeeze_dim(0) / ranks.world() as f64;
        statistics.counts = ranks.sum(counts).squeeze_dim::<1>(0).int();
    }
    let report = statistics.read();
    vec![
        Metric::new("code_entropy", report.entropy),
        Metric::new("used_prototypes", report.used as f64),
    ]
}

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
