//! MoCo-v2: telling a key from a queue of others, with a momentum encoder for the keys (He et al., CVPR 2020; Chen
//! et al., "Improved Baselines with Momentum Contrastive Learning", 2020).

use std::ops::Range;
use std::path::Path;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};
use swav_data::Permutation;
use swav_model::{Draw, Network, Outputs};

use super::checks::{check_no_prototypes, check_several_crops, check_temperature};
use super::momentum::Momentum;
use super::tensor_file::{SavedTensors, TensorFile};
use super::{
    Chance, Defaults, Method, MethodContext, MethodName, MethodPlan, Metric, OptimizerDefaults,
    PlanSettings, Queue, QueueRecipe, RecipeSettings, TargetInputs, Targets,
};
use crate::TrainError;
use crate::comm::{Communicator, share};
use crate::facts::Facts;
use crate::ledger::Ledger;
use crate::optim::OptimizerName;

/// What `[method]` can tell MoCo-v2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MocoV2Recipe {
    /// τ of the softmax over similarities.
    pub temperature: Option<f64>,
    /// What the encoder of the keys keeps of itself in each step.
    pub momentum: Option<f64>,
    /// Keys of earlier batches.
    pub queue: Option<QueueRecipe>,
    /// Groups that the keys are passed in, each with batch statistics of its own.
    pub key_groups: Option<usize>,
}

/// Everything MoCo-v2 is told, with every constant resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MocoV2Plan {
    /// τ of the softmax over similarities.
    pub temperature: f64,
    /// m: what the encoder of the keys keeps of itself in each step.
    pub momentum: f64,
    /// Keys of earlier batches, a multiple of the batch.
    pub queue: usize,
    /// Groups that the keys are passed in, each with batch statistics of its own.
    pub key_groups: usize,
}

/// Keys that the queue holds at most where nobody says how many, as on ImageNet.
const LONGEST_QUEUE: usize = 65_536;

impl RecipeSettings for MocoV2Recipe {
    fn defaults(&self, _: &Facts) -> Defaults {
        Defaults {
            head_norm: false,
            optimizer: Some(OptimizerDefaults {
                name: OptimizerName::Sgd,
                weight_decay: 1e-4,
                why: "MoCo's own",
            }),
            ..Defaults::default()
        }
    }

    fn derive(&self, context: &MethodContext<'_>, ledger: &mut Ledger) -> MethodPlan {
        let batch = context.batch.max(1);
        let queue = self.queue.clone().unwrap_or_default();
        let half = (context.images / 2).min(LONGEST_QUEUE) / batch * batch;
        if queue.start.is_some() {
            let problem =
                "method.queue.start: MoCo's queue is full from the first step; leave it out";
            ledger.problems.push(problem.to_string());
        }
        let length = ledger.or(
            queue.length.map(|length| length / batch * batch),
            "method.queue.length",
            half,
            "65,536, at most half of the images, in whole batches",
        );
        let groups = (batch / 32).clamp(2, 8).min((batch / 2).max(1));
        let groups = groups.next_multiple_of(context.ranks);
        MethodPlan::MocoV2(MocoV2Plan {
            temperature: self.temperature.unwrap_or(0.2),
            momentum: self.momentum.unwrap_or(0.999),
            queue: length,
            key_groups: ledger.or(
                self.key_groups,
                "method.key_groups",
                groups,
                "at most 8 of 32 images each, as on the paper's devices, 2 at least, since one group of all would share \
                 its statistics with the queries, and as many for each rank",
            ),
        })
    }
}

impl PlanSettings for MocoV2Plan {
    fn check(&self, context: &MethodContext<'_>, ledger: &mut Ledger) {
        check_several_crops(context, ledger);
        check_no_prototypes(MethodName::MocoV2, context, ledger);
        check_temperature(self.temperature, ledger);
        ledger.require((0.0..=1.0).contains(&self.momentum), || {
            format!(
                "method.momentum = {} must lie in [0, 1]: it is the share of its weights that the encoder of the keys \
                 keeps in each step",
                self.momentum
            )
        });
        ledger.require(self.queue > 0, || {
            format!(
                "method.queue.length is shorter than a batch of {}: nothing is left to tell keys from; lengthen it or \
                 lower the batch",
                context.batch
            )
        });
        ledger.require(self.queue <= context.images, || {
            format!(
                "method.queue.length = {} is longer than the {} images: every image would be told from older copies \
                 of itself; shorten it",
                self.queue, context.images
            )
        });
        ledger.require(self.key_groups.is_multiple_of(context.ranks), || {
            format!(
                "method.key_groups = {} cannot be shared out among {} ranks: take a multiple of their number",
                self.key_groups, context.ranks
            )
        });
        ledger.require(
            self.key_groups >= 1 && 2 * self.key_groups <= context.batch,
            || {
                format!(
                    "method.key_groups = {} must leave at least two of the {} images of a batch in each group",
                    self.key_groups, context.batch
                )
            },
        );
    }

    fn build(
        &self,
        context: &MethodContext<'_>,
        network: &Network,
        device: &Device,
    ) -> Box<dyn Method> {
        Box::new(MocoV2::new(self.clone(), context.seed, network, device))
    }

    fn memory(&self, context: &MethodContext<'_>) -> u64 {
        4 * (context.model.parameters() + (self.queue * context.model.dim) as u64)
    }

    fn describe(&self) -> String {
        format!(
            "τ {}, momentum {}, {} keys in the queue",
            self.temperature, self.momentum, self.queue
        )
    }
}

/// MoCo-v2 with its queue and the encoder of the keys. The second crop of an image is the key, the others are
/// queries.
#[derive(Debug)]
pub struct MocoV2 {
    plan: MocoV2Plan,
    seed: u64,
    momentum: Momentum,
    queue: Queue,
}

/// The crop that keys are made of.
const KEY: usize = 1;

impl MocoV2 {
    /// MoCo-v2 of `network`; the queue begins with random directions.
    pub fn new(plan: MocoV2Plan, seed: u64, network: &Network, device: &Device) -> Self {
        let shape = [plan.queue, network.config().dim];
        // A stream beside that of the weights.
        let random = Draw::new(!seed, device).normal::<2>(1.0, shape);
        let lengths = random.clone().square().sum_dim(1).sqrt();
        Self {
            momentum: Momentum::new(network, plan.momentum),
            queue: Queue::restore(vec![random / lengths], plan.queue),
            plan,
            seed,
        }
    }

    /// The queue, `[length, dim]`, newest first.
    pub fn queue(&self) -> &Tensor<2> {
        &self.queue.rings()[0]
    }

    /// The encoder of the keys.
    pub fn momentum(&self) -> &Momentum {
        &self.momentum
    }

    /// The unit keys of the batch of all ranks, `[B, dim]`, of which this one has `images`. The images are shuffled and passed in
    /// groups, so that a query cannot know its key by statistics that they share (He et al., section 3.3). Each rank takes some
    /// of the groups: their images come from all ranks.
    fn keys(&self, images: Tensor<4>, step: u64, ranks: &mut dyn Communicator) -> Tensor<2> {
        let [own, channels, height, width] = images.dims();
        let (rank, world) = (ranks.rank(), ranks.world());
        let batch = own * world;
        let device = images.device();
        let order = Permutation::new(batch as u64, self.seed, step);
        let shuffled: Vec<i64> = (0..batch as u64).map(|i| order.at(i) as i64).collect();
        let mut places = vec![0_i64; batch];
        for (place, &image) in shuffled.iter().enumerate() {
            places[image as usize] = place as i64;
        }
        let index = |values: Vec<i64>| Tensor::<1, Int>::from_data(&values[..], &device);

        let network = self.momentum.network();
        let groups = self.plan.key_groups;
        let images = ranks.gather(images.flatten(1, 3));
        let images = images.select(0, index(shuffled));
        let images = images.reshape([batch, channels, height, width]);
        let keys = (rank * groups / world..(rank + 1) * groups / world).map(|group| {
            let rows = group * batch / groups..(group + 1) * batch / groups;
            let outputs = network.forward(vec![images.clone().slice(rows)]);
            outputs.embeddings.detach().inner()
        });
        // Row i of rank r is row i·W + r of what was gathered, and the key of place r·B/W + i.
        let keys = ranks.gather(Tensor::cat(keys.collect(), 0));
        let of_place = |place: i64| place % own as i64 * world as i64 + place / own as i64;
        keys.select(0, index(places.into_iter().map(of_place).collect()))
    }
}

impl Method for MocoV2 {
    /// All crops but the key.
    fn shows(&self, crop: usize) -> bool {
        crop != KEY
    }

    /// The keys of this rank's images, and those of all ranks.
    fn targets(&mut self, inputs: &TargetInputs<'_>, ranks: &mut dyn Communicator) -> Targets {
        let all = self.keys((inputs.crop)(KEY), inputs.step, ranks);
        Targets(vec![share(all.clone(), ranks), all])
    }

    fn loss(&self, outputs: &Outputs, targets: &Targets, rows: Range<usize>) -> Tensor<1> {
        let keys = targets.0[0].clone().slice(rows);
        let queries = outputs.embeddings.clone();
        key_loss(queries, keys, self.queue().clone(), self.plan.temperature)
    }

    fn after_step(&mut self, network: &Network, targets: &Targets) {
        self.queue.push(&targets.0[1..]);
        self.momentum.follow(network);
    }

    fn chance(&self) -> Chance {
        Chance {
            loss: Some((1.0 + self.plan.queue as f64).ln()),
            from_step: 0,
            remedies: "Try a smaller optimizer.lr, a method.momentum nearer to 1, softer augmentation \
                       (augment.jitter, larger crop scales) or a shorter method.queue",
        }
    }

    fn metrics(&self, _: &Targets, _: &mut dyn Communicator) -> Vec<Metric> {
        Vec::new()
    }

    fn save(&self, directory: &Path, ranks: &mut dyn Communicator) -> Result<(), TrainError> {
        let mut memory = TensorFile::default();
        memory.tensor("keys", self.queue());
        memory.save(&directory.join(QUEUE_FILE), ranks)?;
        match ranks.rank() {
            0 => self.momentum.save(directory),
            _ => Ok(()),
        }
    }

    fn load(
        &mut self,
        directory: &Path,
        device: &Device,
        _: &dyn Communicator,
    ) -> Result<(), TrainError> {
        let found = SavedTensors::open(&directory.join(QUEUE_FILE))?;
        let keys = found.tensor("keys", self.queue().dims(), device)?;
        self.queue = Queue::restore(vec![keys], self.plan.queue);
        self.momentum.load(directory)
    }
}

const QUEUE_FILE: &str = "queue.safetensors";

/// How well queries tell their keys from others: with unit `queries` `[C·B, dim]`, crop-major, `keys` `[B, dim]` and
/// others in the `queue` `[L, dim]`, the mean of
///
/// ```text
/// −log[ exp(q·k⁺/τ) / (exp(q·k⁺/τ) + Σ_l exp(q·k_l/τ)) ]
/// ```
///
/// as `[1]` (He et al., CVPR 2020, equation 1).
///
/// # Panics
/// If the rows of the queries are not a multiple of those of the keys.
pub fn key_loss(
    queries: Tensor<2>,
    keys: Tensor<2>,
    queue: Tensor<2>,
    temperature: f64,
) -> Tensor<1> {
    let ([rows, dim], [batch, _]) = (queries.dims(), keys.dims());
    assert_eq!(rows % batch, 0, "{rows} queries for {batch} keys");
    let own = queries.clone().reshape([rows / batch, batch, dim]) * keys.unsqueeze();
    let own = own.sum_dim(2).reshape([rows, 1]);
    let others = queries.matmul(queue.transpose());
    let logits = Tensor::cat(vec![own, others], 1) / temperature;
    -log_softmax(logits, 1).narrow(1, 0, 1).mean()
}
