//! One step of training, whoever takes it: the trainer, a benchmark, a test.

use burn::optim::{GradientsAccumulator, ModuleOptimizer};
use burn::tensor::Tensor;
use swav_model::Network;

use crate::batch::{Batch, rows};
use crate::comm::Communicator;
use crate::forward::{by_crop, forward, untracked};
use crate::method::{Method, TargetInputs, Targets};
use crate::pass::Pass;
use crate::precision::Precision;

/// What a step changes.
pub struct Learner<'a> {
    /// Weights and batch-norm statistics.
    pub network: &'a mut Network,
    /// Velocities or moments.
    pub optimizer: &'a mut ModuleOptimizer,
    /// The method with what it remembers.
    pub method: &'a mut dyn Method,
}

/// How a step is computed.
pub struct Compute<'a> {
    /// Parts of a batch that are learned from one after the other, to save memory.
    pub parts: usize,
    /// What crops and activations are computed in.
    pub precision: Precision,
    /// Whether the backward pass computes activations once more, to save memory; see
    /// [`TrainPlan`](crate::TrainPlan::checkpoint_activations).
    pub checkpoint_activations: bool,
    /// The ranks that share the batch.
    pub ranks: &'a mut dyn Communicator,
    /// Told at the end of each phase, in the order of [`Phase`]; with several parts, more than once.
    pub phase: &'a mut dyn FnMut(Phase),
}

/// A part of a step that can be timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From crops to scores.
    Forward,
    /// From scores to targets.
    Targets,
    /// From scores and targets to the loss.
    Loss,
    /// From the loss to gradients.
    Backward,
    /// From gradients to weights.
    Update,
}

/// What a step leaves to look at. Nothing is read back from the device before it is asked for.
#[derive(Clone, Debug)]
pub struct Step {
    /// The mean loss of the batch over all ranks, `[1]`.
    pub loss: Tensor<1>,
    /// What was to be predicted of the images of this rank.
    pub targets: Targets,
    /// The unit embeddings of the first crop of the images of this rank, `[B, dim]`.
    pub embeddings: Tensor<2>,
    /// The learning rate.
    pub lr: f64,
    /// Images of the batch of all ranks.
    pub images: usize,
}

/// Takes the step that follows `done` others, with the learning rate `lr`. `batch` is this rank's part of the batch.
///
/// # Panics
/// If the batch does not hold a multiple of `compute.parts` images.
pub fn step(
    learner: Learner<'_>,
    batch: &mut dyn Batch,
    done: u64,
    lr: f64,
    compute: &mut Compute<'_>,
) -> Step {
    let Learner {
        network,
        optimizer,
        method,
    } = learner;
    let (images, parts) = (batch.indices().len(), compute.parts);
    assert_eq!(images % parts, 0, "{images} images in {parts} parts");
    let (precision, checkpointed) = (compute.precision, compute.checkpoint_activations);
    let pass_of =
        |network: &mut Network, crops| Pass::forward(network, crops, precision, checkpointed);
    let mut current = method.before_step(network.clone());

    let mut whole = (parts == 1).then(|| pass_of(&mut current, batch.take_part(0, parts)));
    let embeddings = match &whole {
        Some(pass) => by_crop(std::slice::from_ref(&pass.outputs), images),
        None => {
            // The targets are taken over the whole batch before any part of it is learned from.
            let silent = untracked(&current);
            let outputs: Vec<_> = (0..parts)
                .map(|part| forward(&silent, batch.part(part, parts), precision))
                .collect();
            by_crop(&outputs, images / parts)
        }
    };
    (compute.phase)(Phase::Forward);

    let inputs = TargetInputs {
        step: done,
        network: &current,
        crop: &|crop| batch.kept(crop).cast(precision.dtype()),
        embeddings: &embeddings,
        indices: batch.indices(),
        labels: batch.labels(),
    };
    let targets = method.targets(&inputs, compute.ranks);
    (compute.phase)(Phase::Targets);

    // The batch's loss is the mean of those of all parts of all ranks.
    let shares = parts * compute.ranks.world();
    let mut gradients = GradientsAccumulator::new();
    let mut loss = Tensor::<1>::zeros([1], &embeddings[0].device());
    for part in 0..parts {
        // Only the part of a batch that is being learned from is on the device.
        let pass = whole
            .take()
            .unwrap_or_else(|| pass_of(&mut current, batch.take_part(part, parts)));
        let rows = rows(part, parts, images);
        let partial = method.loss(&pass.outputs, &targets, rows) / shares as f64;
        loss = loss + partial.clone().inner();
        (compute.phase)(Phase::Loss);
        gradients.accumulate(&current, pass.backward(&partial, &current));
        (compute.phase)(Phase::Backward);
    }

    let (mut gradients, loss) = compute
        .ranks
        .sum_gradients(&current, gradients.grads(), loss);
    for id in method.frozen(done, &current) {
        gradients.remove::<2>(id);
    }
    *network = optimizer.step(lr, current, gradients);
    method.after_step(network, &targets);
    (compute.phase)(Phase::Update);
    Step {
        loss,
        targets,
        embeddings: embeddings[0].clone(),
        lr,
        images: images * compute.ranks.world(),
    }
}
