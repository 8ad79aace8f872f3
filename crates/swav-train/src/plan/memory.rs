//! How much memory a run takes, part by part, before it begins.

use super::Plan;
use crate::TrainError;
use crate::ledger::Ledger;
use crate::optim::OptimizerName;

/// Bytes that training takes at its peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights with their gradients and moments.
    pub weights: u64,
    /// What a micro-batch keeps from its forward to its backward pass: the maps of the backbone or, where these are computed
    /// once more, the inputs of its stages and the maps of one; the crops, and what the backward pass works with.
    pub activations: u64,
    /// Scores of the prototypes and what is made of them.
    pub scores: u64,
    /// What the method remembers: queue, banks, momentum encoder.
    pub method: u64,
    /// Images on the host, in bytes: batches that lie ready, and small images that are kept decoded.
    pub host: u64,
    /// The program itself.
    pub program: u64,
}

const FLOAT: u64 = 4;

/// The program with its threads, as measured on the CPU.
const PROGRAM: u64 = 24 << 20;

/// Side of the images that the loader keeps decoded, at most, and the bytes for them.
const KEPT_SIDE: usize = 128;
const KEPT: u64 = 1 << 30;

/// Maps of the largest layer that the backward pass has in its hands: the gradient of its output, that of its input, and
/// that of the shortcut.
const IN_HAND: u64 = 3;

impl MemoryEstimate {
    /// What the device holds; on the CPU all of it is one memory, and [`total`](Self::total) counts.
    pub fn device(&self) -> u64 {
        self.weights + self.activations + self.scores + self.method
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.device() + self.host + self.program
    }

    /// Of a plan, with its activations kept, or `checkpointed`.
    fn of(plan: &Plan, checkpointed: bool) -> Self {
        let train = &plan.train;
        let micro_batch = (train.rank_batch() / train.accumulate.max(1)).max(1) as u64;
        let moments = match plan.optimizer.name {
            OptimizerName::Larc | OptimizerName::Sgd => 1,
            OptimizerName::Adam | OptimizerName::Adamw => 2,
        };
        // Of a batch in parts, the sum of the gradients and those of one part.
        let gradients = if train.accumulate > 1 { 2 } else { 1 };
        let backbone = &plan.model.backbone;
        let of_crops = |floats: &dyn Fn(usize) -> u64| -> u64 {
            let crops = plan.crops.iter();
            crops
                .map(|crop| crop.count as u64 * floats(crop.size))
                .sum()
        };
        let kept = match checkpointed {
            false => of_crops(&|size| backbone.activations(size)),
            true => checkpointed_activations(plan),
        };
        let largest = plan
            .crops
            .iter()
            .map(|crop| crop.count as u64 * backbone.largest_map(crop.size))
            .max()
            .unwrap_or(0);
        let prototypes: usize = plan.model.prototypes.iter().sum();
        let crops = plan.crops_per_image() as u64;
        // Scores, their log-softmax, its gradient and the codes.
        let scores = 4 * crops * prototypes as u64;
        let pixels = of_crops(&|size| 3 * (size * size) as u64);
        // Ready ones, the one that is being filled, and two packed for the device: the one in use and the next.
        let batches = (plan.data.prefetch as u64 + 4) * train.rank_batch() as u64 * pixels;
        Self {
            weights: FLOAT * plan.model.parameters() * (1 + gradients + moments),
            activations: train.precision.bytes() * micro_batch * (kept + IN_HAND * largest),
            scores: FLOAT * micro_batch * scores,
            method: plan.method.memory(&plan.context()),
            host: batches + plan.kept_images(),
            program: PROGRAM,
        }
    }
}

/// Floats that an image keeps where the activations of a stage are computed once more: the backward pass takes the last
/// resolution first, while the inputs of all before it are kept.
fn checkpointed_activations(plan: &Plan) -> u64 {
    let backbone = &plan.model.backbone;
    let (mut before, mut most) = (0, 0);
    for crop in &plan.crops {
        let count = crop.count as u64;
        most = most.max(before + count * backbone.checkpointed_activations(crop.size));
        before += count * backbone.stage_inputs(crop.size);
    }
    most
}

impl Plan {
    /// Bytes of small images that the loader keeps decoded.
    fn kept_images(&self) -> u64 {
        let side = self.data.side;
        let all = (self.data.images * 3) as u64 * (side * side) as u64;
        let kept = (1..=KEPT_SIDE).contains(&side) && all <= KEPT;
        if kept { all } else { 0 }
    }

    /// The memory that training takes at its peak.
    pub fn memory(&self) -> MemoryEstimate {
        MemoryEstimate::of(self, self.train.checkpoint_activations)
    }

    /// What training would take if activations were computed once more, where it fits into `available` bytes with that and
    /// does not do so yet.
    fn checkpointed_within(&self, available: u64) -> Option<u64> {
        let total = MemoryEstimate::of(self, true).total();
        (!self.train.checkpoint_activations && total <= available).then_some(total)
    }

    /// Refuses the plan where it takes more than `available` bytes.
    ///
    /// # Errors
    /// With the numbers and the remedies.
    pub fn require_memory(&self, available: u64) -> Result<(), TrainError> {
        match self.train.steps > 0 && self.memory().total() > available {
            true => Err(TrainError::Recipe(self.too_large(available))),
            false => Ok(()),
        }
    }

    /// Makes the plan fit into `available` bytes, where the recipe leaves `accumulate` open: batches are then learned from in
    /// as few parts as fit. What cannot fit is a problem, with the numbers and the remedies.
    pub(super) fn fit(&mut self, available: u64, open: bool, ledger: &mut Ledger) {
        let whole = self.memory().total();
        if whole <= available || self.train.steps == 0 {
            return;
        }
        let batch = self.train.rank_batch();
        let at_once = match self.checkpointed_within(available) {
            Some(total) => format!(
                "; with train.checkpoint_activations = true it fits at once, in {}, for about a third more computation",
                readable(total)
            ),
            None => String::new(),
        };
        if open {
            for parts in (2..=batch / 2).filter(|&parts| batch.is_multiple_of(parts)) {
                self.train.accumulate = parts;
                if self.memory().total() <= available {
                    let (whole, available) = (readable(whole), readable(available));
                    let why = format!(
                        "a batch of {batch} at once takes {whole} of memory, there are {available}; batch norm sees \
                         {} images at a time{at_once}",
                        batch / parts
                    );
                    ledger.note("train.accumulate", parts, why);
                    return;
                }
            }
            self.train.accumulate = 1;
        }
        ledger.problems.push(self.too_large(available));
    }

    /// Why the plan does not fit, with the remedies.
    fn too_large(&self, available: u64) -> String {
        let memory = self.memory();
        let remedy = match self.checkpointed_within(available) {
            Some(total) => format!(
                "Set train.checkpoint_activations = true: it takes about {} and learns the same, for about a third more \
                 computation. Or lower",
                readable(total)
            ),
            None => "Lower".to_string(),
        };
        format!(
            "training would take about {} of memory, there are {}: {} for weights, gradients and moments, {} for the \
             maps of {} images at a time, {} for scores, {} for what the method remembers, {} for images on the host. \
             {remedy} train.batch_size, raise train.accumulate, or take fewer or smaller crops, a smaller model.width or \
             fewer model.prototypes",
            readable(memory.total()),
            readable(available),
            readable(memory.weights),
            readable(memory.activations),
            self.train.rank_batch() / self.train.accumulate.max(1),
            readable(memory.scores),
            readable(memory.method),
            readable(memory.host),
        )
    }
}

/// `480 MiB`, `92.4 GiB`
pub fn readable(bytes: u64) -> String {
    match bytes >> 20 {
        mib @ 0..10_240 => format!("{mib} MiB"),
        mib => format!("{:.1} GiB", mib as f64 / 1024.0),
    }
}
