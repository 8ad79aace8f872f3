//! SwAV: swapping assignments between views (Caron et al., NeurIPS 2020).

use std::ops::Range;
use std::path::Path;

use burn::module::ParamId;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use swav_model::{Network, Outputs};
use swav_ot::{CodeStatistics, Form, Local, SinkhornConfig, sinkhorn_with};

use super::memory::{Memory, Remembered};
use super::{Chance, Draft, Method, MethodSettings, Metric, Queue, Seen, Targets};
use crate::TrainError;
use crate::config::Span;
use crate::plan::{Ledger, Plan, check_prototypes, check_several_crops};

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
    pub(crate) const HEADS: usize = 1;
    pub(crate) const FIELDS: &[&str] = &[
        "temperature",
        "epsilon",
        "iterations",
        "assign",
        "freeze",
        "queue",
    ];

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

    pub(crate) fn derive(draft: &mut Draft<'_>) -> Self {
        let paper = Self::paper();
        let (wanted, train) = (&draft.recipe.method, draft.train);
        let freeze = draft.ledger.or(
            wanted.freeze,
            "method.freeze",
            Span::Steps(train.steps_per_epoch),
            "one epoch: the first features would drag the prototypes along",
        );
        let first_two = || (0..draft.crops_per_image().min(2)).collect();
        Self {
            temperature: wanted.temperature.unwrap_or(paper.temperature),
            epsilon: wanted.epsilon.unwrap_or(paper.epsilon),
            iterations: wanted.iterations.unwrap_or(paper.iterations),
            assign: wanted.assign.clone().unwrap_or_else(first_two),
            freeze_steps: freeze.steps(train.steps_per_epoch).min(train.steps),
            queue: derive_queue(draft),
        }
    }
}

impl MethodSettings for SwavPlan {
    fn check(&self, plan: &Plan, ledger: &mut Ledger) {
        check_several_crops(plan, ledger);
        check_temperature(self.temperature, ledger);
        check_sinkhorn(self.epsilon, self.iterations, ledger);
        let crops = plan.crops_per_image();
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
        check_prototypes(plan, ledger);
        for &prototypes in &plan.model.prototypes {
            check_share(prototypes, queued, plan, ledger);
        }
        if let Some(queue) = self.queue {
            ledger.require(queue.length <= plan.data.images, || {
                format!(
                    "method.queue.length = {} is longer than the {} images: every image would be \
                     assigned beside older copies of itself; shorten it",
                    queue.length, plan.data.images
                )
            });
            ledger.require(queue.start_step < plan.train.steps, || {
                format!(
                    "method.queue.start lies at step {} of a run of {} steps: it would never be used",
                    queue.start_step, plan.train.steps
                )
            });
        }
    }

    fn build(&self, plan: &Plan, _: &Network, device: &Device) -> Box<dyn Method> {
        let (prototypes, dim) = (&plan.model.prototypes, plan.model.dim);
        Box::new(Swav::new(self.clone(), prototypes, dim, device))
    }

    fn memory(&self, plan: &Plan) -> u64 {
        let length = self.queue.map_or(0, |queue| queue.length);
        4 * (self.assign.len() * length * plan.model.dim) as u64
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
}

/// Holds the temperature of a softmax to what can be computed with.
pub(super) fn check_temperature(temperature: f64, ledger: &mut Ledger) {
    ledger.require(temperature > 0.0 && temperature.is_finite(), || {
        format!("method.temperature = {temperature} must be above 0")
    });
}

/// Holds an assignment's settings to what can be computed with.
pub(super) fn check_sinkhorn(epsilon: f64, iterations: usize, ledger: &mut Ledger) {
    ledger.require(epsilon >= 0.001, || {
        format!("method.epsilon = {epsilon} is below 0.001, where 32-bit floats give out")
    });
    ledger.require(iterations > 0, || {
        "method.iterations = 0 leaves the partition unequal, which ends in collapse; 3 is usual"
            .to_string()
    });
}

/// Samples that a prototype must at least be able to expect in one assignment.
const LEAST_SHARE: usize = 8;

/// Holds a head to what batch and queue can fill.
fn check_share(prototypes: usize, queued: usize, plan: &Plan, ledger: &mut Ledger) {
    let batch = plan.train.batch_size;
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
fn derive_queue(draft: &mut Draft<'_>) -> Option<QueuePlan> {
    let (train, model, facts) = (draft.train, draft.model, draft.facts);
    let ledger = &mut *draft.ledger;
    let wanted = draft.recipe.method.queue.clone().unwrap_or_default();
    let batch = train.batch_size.max(1);
    let prototypes = model.prototypes.iter().copied().max().unwrap_or(0);
    let missing = (prototypes + prototypes / 4).saturating_sub(batch);
    let fits = facts.images / 2 / batch * batch;
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
    let share = Span::Epochs((train.epochs as f64 * 0.075).ceil());
    let start = wanted.start.unwrap_or(share);
    let is_derived = wanted.length.is_none() && wanted.start.is_none();
    if is_derived && start.steps(train.steps_per_epoch) >= train.steps {
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
        start_step: start.steps(train.steps_per_epoch),
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
    fn before_step(&mut self, mut network: Network) -> Network {
        network.prototypes = network.prototypes.normalise();
        network
    }

    /// The codes of each assigning crop by each head, crop by crop.
    fn targets(&mut self, seen: &Seen<'_>) -> Targets {
        let assigning: Vec<Tensor<2>> = self
            .plan
            .assign
            .iter()
            .map(|&crop| seen.embeddings[crop].clone())
            .collect();
        let [batch, _] = assigning[0].dims();
        let rows = self.rows(&assigning);
        let by_head: Vec<_> = seen
            .network
            .prototypes
            .weights()
            .into_iter()
            .map(|head| self.assign(rows.clone(), head, batch))
            .collect();
        let codes = (0..assigning.len())
            .flat_map(|crop| by_head.iter().map(move |head| head[crop].clone()))
            .collect();

        // Only now: the batch is never assigned against itself twice.
        if let (Some(queue), Some(plan)) = (&mut self.queue, self.plan.queue)
            && seen.step >= plan.start_step
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

    fn metrics(&self, targets: &Targets) -> Vec<Metric> {
        let first_head = targets.0.iter().step_by(self.prototypes.len());
        code_metrics(Tensor::cat(first_head.cloned().collect(), 0))
    }

    fn save(&self, directory: &Path) -> Result<(), TrainError> {
        let Some(queue) = &self.queue else {
            return Ok(());
        };
        let mut memory = Memory::default();
        for (i, ring) in queue.rings().iter().enumerate() {
            memory.tensor(format!("ring{i}"), ring);
        }
        memory.number("filled", queue.filled() as u64);
        memory.save(&directory.join(QUEUE_FILE))
    }

    fn load(&mut self, directory: &Path, device: &Device) -> Result<(), TrainError> {
        let Some(queue) = &mut self.queue else {
            return Ok(());
        };
        let found = Remembered::open(&directory.join(QUEUE_FILE))?;
        let rings = queue.rings().iter().enumerate();
        let rings = rings.map(|(i, ring)| found.tensor(&format!("ring{i}"), ring.dims(), device));
        *queue = Queue::restore(
            rings.collect::<Result<_, _>>()?,
            found.number("filled")? as usize,
        );
        Ok(())
    }
}

const QUEUE_FILE: &str = "queue.safetensors";

/// How sure, and how evenly spread, `[N, K]` distributions over prototypes are.
pub(super) fn code_metrics(codes: Tensor<2>) -> Vec<Metric> {
    let report = CodeStatistics::of(&codes).read();
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
