//! DeepCluster-v2: predicting the clusters that k-means found before the epoch (Caron et al., NeurIPS 2020, section
//! 4 and appendix A.4).

use std::ops::Range;
use std::path::Path;

use burn::module::ParamId;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use swav_data::Permutation;
use swav_model::{Network, Outputs};
use swav_ot::{centroids_from, spherical_kmeans};

use super::bank::Bank;
use super::checks::{check_clusters, check_prototypes, check_several_crops, check_temperature};
use super::labels::Labels;
use super::tensor_file::{SavedTensors, TensorFile};
use super::{
    Chance, Defaults, EpochStart, Method, MethodContext, MethodPlan, Metric, PlanSettings,
    RecipeSettings, TargetInputs, Targets, prediction_loss,
};
use crate::TrainError;
use crate::comm::Communicator;
use crate::facts::Facts;
use crate::ledger::Ledger;

/// What `[method]` can tell DeepCluster-v2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeepclusterV2Recipe {
    /// τ of the softmax over scores.
    pub temperature: Option<f64>,
    /// Rounds of k-means before an epoch.
    pub iterations: Option<usize>,
}

/// Everything DeepCluster-v2 is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeepclusterV2Plan {
    /// τ of the softmax over scores.
    pub temperature: f64,
    /// Rounds of k-means before an epoch.
    pub iterations: usize,
}

impl RecipeSettings for DeepclusterV2Recipe {
    fn defaults(&self, _: &Facts) -> Defaults {
        Defaults {
            heads: 3,
            ..Defaults::default()
        }
    }

    fn derive(&self, _: &MethodContext<'_>, _: &mut Ledger) -> MethodPlan {
        MethodPlan::DeepclusterV2(DeepclusterV2Plan {
            temperature: self.temperature.unwrap_or(0.1),
            iterations: self.iterations.unwrap_or(10),
        })
    }
}

impl PlanSettings for DeepclusterV2Plan {
    fn check(&self, context: &MethodContext<'_>, ledger: &mut Ledger) {
        check_several_crops(context, ledger);
        check_temperature(self.temperature, ledger);
        check_prototypes(context, ledger);
        check_clusters(context, ledger);
        ledger.require(self.iterations > 0, || {
            "method.iterations = 0 would leave the clusters at random; 10 is usual".to_string()
        });
    }

    fn build(&self, context: &MethodContext<'_>, _: &Network, _: &Device) -> Box<dyn Method> {
        Box::new(DeepclusterV2::new(
            self.clone(),
            &context.model.prototypes,
            context.images,
            context.steps_per_epoch as usize,
            [context.batch / context.ranks, context.model.dim],
        ))
    }

    fn memory(&self, context: &MethodContext<'_>) -> u64 {
        bank_memory(context)
    }

    fn describe(&self) -> String {
        format!(
            "τ {}, {} rounds of k-means",
            self.temperature, self.iterations
        )
    }

    fn temperature(&self) -> Option<f64> {
        Some(self.temperature)
    }
}

/// Bytes of the banks and the labels.
pub(super) fn bank_memory(context: &MethodContext<'_>) -> u64 {
    let rows = context.steps_per_epoch * (context.batch / context.ranks) as u64;
    let labels = (context.model.prototypes.len() * context.images) as u64;
    4 * (BANKS as u64 * rows * context.model.dim as u64 + labels)
}

/// DeepCluster-v2 with its banks and the labels of the epoch.
#[derive(Debug)]
pub struct DeepclusterV2 {
    plan: DeepclusterV2Plan,
    clusters: Vec<usize>,
    /// Images of a batch that are this rank's, numbers of an embedding.
    shape: [usize; 2],
    bank: Bank,
    labels: Labels,
    metrics: Vec<Metric>,
    batches: usize,
}

/// Banks that heads take turns with.
pub(super) const BANKS: usize = 2;

impl DeepclusterV2 {
    /// For heads of `clusters` clusters over `images` images, in epochs of `batches` batches. Of each this rank has as many images,
    /// with embeddings of as many numbers, as `shape` says.
    pub fn new(
        plan: DeepclusterV2Plan,
        clusters: &[usize],
        images: usize,
        batches: usize,
        shape: [usize; 2],
    ) -> Self {
        Self {
            plan,
            clusters: clusters.to_vec(),
            shape,
            bank: Bank::new(BANKS),
            labels: Labels::none(clusters.len(), images),
            metrics: Vec::new(),
            batches: batches.max(1),
        }
    }

    /// The banks.
    pub fn bank(&self) -> &Bank {
        &self.bank
    }

    /// The clusters of the images in this epoch.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }
}

impl Method for DeepclusterV2 {
    /// Those of the banks, as long as they are empty.
    fn crops_before_epoch(&self) -> usize {
        if self.bank.is_empty() { BANKS } else { 0 }
    }

    /// Clusters the banks anew; the centroids become the prototypes.
    fn before_epoch(
        &mut self,
        epoch: EpochStart,
        mut network: Network,
        ranks: &mut dyn Communicator,
    ) -> Result<Network, TrainError> {
        self.bank.fill(epoch.embedded);
        let mut found = Vec::new();
        for (head, &clusters) in self.clusters.iter().enumerate() {
            let samples = self.bank.whole(head % BANKS);
            // Different samples at random, others in each epoch and for each head.
            let draw = epoch.number * self.clusters.len() as u64 + head as u64;
            let all = (self.bank.len() * ranks.world()) as u64;
            let order = Permutation::new(all, epoch.seed, draw);
            let chosen: Vec<usize> = (0..clusters as u64).map(|k| order.at(k) as usize).collect();
            let start = start_from(&samples, &chosen, ranks);
            let result = spherical_kmeans(samples, start, self.plan.iterations, ranks);
            let result = result.map_err(|error| {
                TrainError::Stopped(format!(
                    "the clusters of epoch {} failed: {error}",
                    epoch.number
                ))
            })?;
            let prototypes = result.centroids.transpose();
            network.prototypes = network.prototypes.replace(head, prototypes);
            found.push(result.assignment);
        }
        let before = self.labels.clone();
        self.labels.assign_all(&self.bank, &found, ranks);
        self.metrics = self.labels.metrics(&before, &self.clusters);
        Ok(network)
    }

    /// The cluster of each image by each head.
    fn targets(&mut self, inputs: &TargetInputs<'_>, ranks: &mut dyn Communicator) -> Targets {
        let device = inputs.embeddings[0].device();
        let clusters = &self.clusters;
        let targets = Targets(
            self.labels
                .distributions(inputs.indices, clusters, &device, ranks),
        );
        let place = inputs.step as usize % self.batches;
        self.bank
            .put(place, inputs.indices, &inputs.embeddings[..BANKS]);
        targets
    }

    fn loss(&self, outputs: &Outputs, targets: &Targets, rows: Range<usize>) -> Tensor<1> {
        heads_loss(outputs, targets, rows, self.plan.temperature)
    }

    /// The prototypes are the centroids of the epoch.
    fn frozen(&self, _: u64, network: &Network) -> Vec<ParamId> {
        network.prototypes.param_ids()
    }

    fn chance(&self) -> Chance {
        let entropies = self.clusters.iter().map(|&k| (k as f64).ln());
        Chance {
            loss: Some(entropies.sum::<f64>() / self.clusters.len() as f64),
            from_step: self.batches as u64,
            remedies: "Try softer augmentation (augment.jitter, larger crop scales), fewer model.prototypes or a \
                       smaller optimizer.lr",
        }
    }

    fn metrics(&self, _: &Targets, _: &mut dyn Communicator) -> Vec<Metric> {
        self.metrics.clone()
    }

    fn save(&self, directory: &Path, ranks: &mut dyn Communicator) -> Result<(), TrainError> {
        save_epoch(
            directory,
            &self.bank,
            &self.labels,
            &self.metrics,
            TensorFile::default(),
            ranks,
        )
    }

    fn load(
        &mut self,
        directory: &Path,
        device: &Device,
        ranks: &dyn Communicator,
    ) -> Result<(), TrainError> {
        let found = load_epoch(
            directory,
            &mut self.bank,
            &mut self.labels,
            &self.clusters,
            self.shape,
            device,
            ranks,
        )?;
        self.metrics = found.0;
        Ok(())
    }
}

/// The centroids that k-means starts from: of the samples of all ranks those `chosen` by their rows in the whole, of which this
/// rank has `samples`.
fn start_from(samples: &Tensor<2>, chosen: &[usize], ranks: &mut dyn Communicator) -> Tensor<2> {
    let (rank, world) = (ranks.rank(), ranks.world());
    if world == 1 {
        return centroids_from(samples, chosen);
    }
    let own = |&row: &usize| row % world == rank;
    // Each rank fills in those that it has.
    let rows: Vec<usize> = chosen.iter().map(|row| row / world).collect();
    let known: Vec<f32> = chosen
        .iter()
        .map(|row| f32::from(u8::from(own(row))))
        .collect();
    let known = TensorData::new(known, [chosen.len(), 1]);
    let known = Tensor::<2>::from_data(known, &samples.device());
    ranks.sum(centroids_from(samples, &rows) * known)
}

/// The mean over the heads of what it costs that every crop predicts the targets of its image.
pub(super) fn heads_loss(
    outputs: &Outputs,
    targets: &Targets,
    rows: Range<usize>,
    temperature: f64,
) -> Tensor<1> {
    let heads = outputs.scores.iter().zip(&targets.0);
    let losses = heads.map(|(scores, wanted)| {
        prediction_loss(
            scores.clone(),
            wanted.clone().slice(rows.clone()),
            temperature,
        )
    });
    Tensor::cat(losses.collect(), 0).mean()
}

const LABELS_FILE: &str = "labels.safetensors";

/// Writes what the epoch goes by.
pub(super) fn save_epoch(
    directory: &Path,
    bank: &Bank,
    labels: &Labels,
    metrics: &[Metric],
    mut memory: TensorFile,
    ranks: &mut dyn Communicator,
) -> Result<(), TrainError> {
    for (head, labels) in labels.heads().iter().enumerate() {
        memory.integers(format!("head{head}"), labels);
    }
    for metric in metrics {
        memory.number(metric.name, metric.value.to_bits());
    }
    memory.save(&directory.join(LABELS_FILE), ranks)?;
    bank.save(directory, ranks)
}

/// Reads what [`save_epoch`] wrote.
pub(super) fn load_epoch(
    directory: &Path,
    bank: &mut Bank,
    labels: &mut Labels,
    clusters: &[usize],
    shape: [usize; 2],
    device: &Device,
    ranks: &dyn Communicator,
) -> Result<(Vec<Metric>, SavedTensors), TrainError> {
    let found = SavedTensors::open(&directory.join(LABELS_FILE))?;
    let images = labels.heads().first().map_or(0, Vec::len);
    let heads = clusters.iter().enumerate().map(|(head, &clusters)| {
        let range = i64::from(Labels::NONE)..clusters as i64;
        found.integers_in(&format!("head{head}"), images, range)
    });
    *labels = Labels::restore(heads.collect::<Result<_, _>>()?);
    let numbers = Labels::METRICS.iter().filter_map(|&name| {
        let bits = found.number(name).ok()?;
        Some(Metric::new(name, f64::from_bits(bits)))
    });
    let metrics = numbers.collect();
    bank.load(directory, shape, images, device, ranks)?;
    Ok((metrics, found))
}
