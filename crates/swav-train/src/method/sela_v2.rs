//! SeLa-v2: predicting labels that an equal partition of all images gave before the epoch (Asano et al., "Self-labelling
//! via simultaneous clustering and representation learning", ICLR 2020, with the improvements of Caron et al., NeurIPS
//! 2020, section 4 and appendix A.4).

use std::ops::Range;
use std::path::Path;

use burn::module::ParamId;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use swav_model::{Network, Outputs};
use swav_ot::{PrototypePotentials, SinkhornConfig};

use super::bank::Bank;
use super::checks::{
    check_clusters, check_prototypes, check_several_crops, check_sinkhorn, check_temperature,
};
use super::deepcluster_v2::{BANKS, bank_memory, heads_loss, load_epoch, save_epoch};
use super::labels::{Labels, weights};
use super::swav::code_metrics;
use super::tensor_file::TensorFile;
use super::{
    Chance, Defaults, EpochStart, Method, MethodContext, MethodPlan, Metric, PlanSettings,
    RecipeSettings, TargetInputs, Targets,
};
use crate::TrainError;
use crate::comm::Communicator;
use crate::facts::Facts;
use crate::ledger::Ledger;
use crate::span::Span;

/// What the partition leaves of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelKind {
    /// The prototype that most of it went to. The paper does not say which kind it takes; this is what the method
    /// that it comes from takes (Asano et al., section 3.2), and it costs one number an image.
    #[default]
    Hard,
    /// All of it, as a distribution over prototypes. The banks of the last epoch are kept until the next one.
    Soft,
}

/// What `[method]` can tell SeLa-v2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelaV2Recipe {
    /// τ of the softmax over scores.
    pub temperature: Option<f64>,
    /// ε, the weight of the entropy in the assignment.
    pub epsilon: Option<f64>,
    /// Sinkhorn-Knopp iterations before an epoch.
    pub iterations: Option<usize>,
    /// `hard` or `soft`.
    pub labels: Option<LabelKind>,
    /// How long the prototypes stay as they were initialised.
    pub freeze: Option<Span>,
}

/// Everything SeLa-v2 is told, with every constant resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelaV2Plan {
    /// τ of the softmax over scores.
    pub temperature: f64,
    /// ε, the weight of the entropy in the partition.
    pub epsilon: f64,
    /// Sinkhorn-Knopp iterations before an epoch.
    pub iterations: usize,
    /// Hard or soft.
    pub labels: LabelKind,
    /// Steps for which the prototypes stay as they were initialised.
    pub freeze_steps: u64,
}

impl RecipeSettings for SelaV2Recipe {
    fn defaults(&self, _: &Facts) -> Defaults {
        Defaults {
            heads: 3,
            ..Defaults::default()
        }
    }

    fn derive(&self, context: &MethodContext<'_>, ledger: &mut Ledger) -> MethodPlan {
        let freeze = ledger.or(
            self.freeze,
            "method.freeze",
            Span::Steps(context.steps_per_epoch),
            "one epoch: the first features would drag the prototypes along",
        );
        MethodPlan::SelaV2(SelaV2Plan {
            temperature: self.temperature.unwrap_or(0.1),
            epsilon: self.epsilon.unwrap_or(0.05),
            iterations: self.iterations.unwrap_or(3),
            labels: self.labels.unwrap_or_default(),
            freeze_steps: freeze.steps(context.steps_per_epoch).min(context.steps),
        })
    }
}

impl PlanSettings for SelaV2Plan {
    fn check(&self, context: &MethodContext<'_>, ledger: &mut Ledger) {
        check_several_crops(context, ledger);
        check_temperature(self.temperature, ledger);
        check_sinkhorn(self.epsilon, self.iterations, ledger);
        check_prototypes(context, ledger);
        check_clusters(context, ledger);
    }

    fn build(&self, context: &MethodContext<'_>, _: &Network, device: &Device) -> Box<dyn Method> {
        Box::new(SelaV2::new(
            self.clone(),
            &context.model.prototypes,
            context.images,
            context.steps_per_epoch as usize,
            [context.batch / context.ranks, context.model.dim],
            device,
        ))
    }

    fn memory(&self, context: &MethodContext<'_>) -> u64 {
        match self.labels {
            LabelKind::Hard => bank_memory(context),
            // And the banks of the last epoch.
            LabelKind::Soft => 2 * bank_memory(context),
        }
    }

    fn describe(&self) -> String {
        format!(
            "τ {}, ε {}, {} iterations, {:?} labels",
            self.temperature, self.epsilon, self.iterations, self.labels
        )
    }

    fn temperature(&self) -> Option<f64> {
        Some(self.temperature)
    }
}

/// What soft labels are told from: the epoch's snapshot.
#[derive(Debug)]
struct Snapshot {
    /// The banks as they were, `[N, dim]` each.
    banks: Vec<Tensor<2>>,
    /// The row of each image, −1 where it has none.
    rows: Vec<i32>,
    /// Of each head, the prototypes as they were, `[dim, K]`, and their potentials.
    heads: Vec<(Tensor<2>, PrototypePotentials)>,
}

/// SeLa-v2 with its banks and the labels of the epoch.
#[derive(Debug)]
pub struct SelaV2 {
    plan: SelaV2Plan,
    clusters: Vec<usize>,
    /// Images of a batch that are this rank's, numbers of an embedding.
    shape: [usize; 2],
    bank: Bank,
    labels: Labels,
    soft: Option<Snapshot>,
    metrics: Vec<Metric>,
    batches: usize,
    device: Device,
}

impl SelaV2 {
    /// For heads of `clusters` prototypes over `images` images, in epochs of `batches` batches. Of each this rank has as many images,
    /// with embeddings of as many numbers, as `shape` says.
    pub fn new(
        plan: SelaV2Plan,
        clusters: &[usize],
        images: usize,
        batches: usize,
        shape: [usize; 2],
        device: &Device,
    ) -> Self {
        Self {
            plan,
            clusters: clusters.to_vec(),
            shape,
            bank: Bank::new(BANKS),
            labels: Labels::none(clusters.len(), images),
            soft: None,
            metrics: Vec::new(),
            batches: batches.max(1),
            device: device.clone(),
        }
    }

    /// The banks.
    pub fn bank(&self) -> &Bank {
        &self.bank
    }

    /// The prototype that most of each image went to in this epoch.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The partition of a bank among `prototypes` `[dim, K]`: a block of scores at a time, so that a million images
    /// need no more memory than their embeddings.
    fn partition(
        &self,
        bank: usize,
        prototypes: &Tensor<2>,
        ranks: &mut dyn Communicator,
    ) -> Result<(PrototypePotentials, Vec<u32>), swav_ot::OtError> {
        let batches = self.bank.batches(bank);
        let scores = |block: usize| batches[block].clone().matmul(prototypes.clone());
        let config = SinkhornConfig {
            epsilon: self.plan.epsilon,
            iterations: self.plan.iterations,
        };
        let potentials = PrototypePotentials::of_blocks(batches.len(), scores, &config, ranks)?;
        let mut labels = Vec::new();
        for block in 0..batches.len() {
            let best: Tensor<2, Int> = potentials.codes(scores(block))?.argmax(1);
            labels.extend(best.into_data().iter::<u32>());
        }
        Ok((potentials, labels))
    }

    /// The soft labels of images by a head, `[B, K]`, those without one zero.
    fn soft_labels(
        &self,
        snapshot: &Snapshot,
        head: usize,
        indices: &[usize],
        ranks: &mut dyn Communicator,
    ) -> Tensor<2> {
        let rows: Vec<i32> = indices.iter().map(|&index| snapshot.rows[index]).collect();
        let known: Vec<f32> = rows
            .iter()
            .map(|&row| f32::from(u8::from(row >= 0)))
            .collect();
        let labelled = known.iter().filter(|&&known| known > 0.0).count();
        let weight = weights(rows.len(), std::iter::once(labelled), ranks)[0];
        let rows: Vec<i32> = rows.into_iter().map(|row| row.max(0)).collect();
        let count = rows.len();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &self.device);
        let known = Tensor::<2>::from_data(TensorData::new(known, [count, 1]), &self.device);
        let (prototypes, potentials) = &snapshot.heads[head];
        let embeddings = snapshot.banks[head % BANKS].clone().select(0, rows);
        let codes = potentials
            .codes(embeddings.matmul(prototypes.clone()))
            .unwrap_or_else(|error| unreachable!("a batch and its prototypes are there: {error}"));
        codes * known * weight
    }

    /// The snapshot of the banks of all ranks as they are, for potentials found with `prototypes`.
    fn snapshot(
        &self,
        heads: Vec<(Tensor<2>, PrototypePotentials)>,
        ranks: &mut dyn Communicator,
    ) -> Snapshot {
        let mut rows = vec![-1; self.labels.heads()[0].len()];
        for (row, index) in self.bank.indices_of_all(ranks).into_iter().enumerate() {
            rows[index] = row as i32;
        }
        Snapshot {
            banks: (0..BANKS)
                .map(|bank| ranks.gather(self.bank.whole(bank)))
                .collect(),
            rows,
            heads,
        }
    }
}

impl Method for SelaV2 {
    /// Those of the banks, as long as they are empty.
    fn crops_before_epoch(&self) -> usize {
        if self.bank.is_empty() { BANKS } else { 0 }
    }

    /// Labels all images anew, by the features of the last epoch and today's prototypes.
    fn before_epoch(
        &mut self,
        epoch: EpochStart,
        mut network: Network,
        ranks: &mut dyn Communicator,
    ) -> Result<Network, TrainError> {
        self.bank.fill(epoch.embedded);
        network.prototypes = network.prototypes.normalise();
        let mut found = Vec::new();
        let mut heads = Vec::new();
        for (head, prototypes) in network.prototypes.weights().into_iter().enumerate() {
            let prototypes = prototypes.inner();
            let (potentials, labels) =
                self.partition(head % BANKS, &prototypes, ranks)
                    .map_err(|error| {
                        TrainError::Stopped(format!(
                            "the labels of epoch {} failed: {error}",
                            epoch.number
                        ))
                    })?;
            heads.push((prototypes, potentials));
            found.push(labels);
        }
        let before = self.labels.clone();
        self.labels.assign_all(&self.bank, &found, ranks);
        self.metrics = self.labels.metrics(&before, &self.clusters);
        self.soft = (self.plan.labels == LabelKind::Soft).then(|| self.snapshot(heads, ranks));
        Ok(network)
    }

    fn before_step(&mut self, mut network: Network) -> Network {
        network.prototypes = network.prototypes.normalise();
        network
    }

    /// The label of each image by each head.
    fn targets(&mut self, inputs: &TargetInputs<'_>, ranks: &mut dyn Communicator) -> Targets {
        let (indices, clusters) = (inputs.indices, &self.clusters);
        let targets = match &self.soft {
            Some(snapshot) => (0..clusters.len())
                .map(|head| self.soft_labels(snapshot, head, indices, ranks))
                .collect(),
            None => self
                .labels
                .distributions(indices, clusters, &self.device, ranks),
        };
        let targets = Targets(targets);
        let place = inputs.step as usize % self.batches;
        self.bank
            .put(place, inputs.indices, &inputs.embeddings[..BANKS]);
        targets
    }

    fn loss(&self, outputs: &Outputs, targets: &Targets, rows: Range<usize>) -> Tensor<1> {
        heads_loss(outputs, targets, rows, self.plan.temperature)
    }

    fn frozen(&self, step: u64, network: &Network) -> Vec<ParamId> {
        if step < self.plan.freeze_steps {
            network.prototypes.param_ids()
        } else {
            Vec::new()
        }
    }

    fn chance(&self) -> Chance {
        let entropies = self.clusters.iter().map(|&k| (k as f64).ln());
        Chance {
            loss: Some(entropies.sum::<f64>() / self.clusters.len() as f64),
            from_step: self.plan.freeze_steps.max(self.batches as u64),
            remedies: "Try, in this order: a longer method.freeze, softer augmentation (augment.jitter, larger crop \
                       scales), fewer model.prototypes or a smaller optimizer.lr",
        }
    }

    fn metrics(&self, targets: &Targets, ranks: &mut dyn Communicator) -> Vec<Metric> {
        let mut metrics = self.metrics.clone();
        if self.soft.is_some() {
            metrics.extend(code_metrics(targets.0[0].clone(), ranks));
        }
        metrics
    }

    fn save(&self, directory: &Path, ranks: &mut dyn Communicator) -> Result<(), TrainError> {
        let mut memory = TensorFile::default();
        if let Some(soft) = &self.soft {
            for (number, bank) in soft.banks.iter().enumerate() {
                memory.tensor(format!("snapshot{number}"), bank);
            }
            memory.integers("rows", &soft.rows);
            for (head, (prototypes, potentials)) in soft.heads.iter().enumerate() {
                memory.tensor(format!("prototypes{head}"), prototypes);
                let numbers = potentials.numbers();
                let bits: Vec<i32> = numbers.iter().map(|n| n.to_bits().cast_signed()).collect();
                memory.integers(format!("potentials{head}"), &bits);
            }
        }
        save_epoch(
            directory,
            &self.bank,
            &self.labels,
            &self.metrics,
            memory,
            ranks,
        )
    }

    fn load(
        &mut self,
        directory: &Path,
        device: &Device,
        ranks: &dyn Communicator,
    ) -> Result<(), TrainError> {
        let (metrics, found) = load_epoch(
            directory,
            &mut self.bank,
            &mut self.labels,
            &self.clusters,
            self.shape,
            device,
            ranks,
        )?;
        self.metrics = metrics;
        self.soft = None;
        if self.plan.labels == LabelKind::Hard || self.bank.is_empty() {
            return Ok(());
        }
        let [_, dim] = self.shape;
        let all = self.bank.len() * ranks.world();
        let banks =
            (0..BANKS).map(|bank| found.tensor(&format!("snapshot{bank}"), [all, dim], device));
        let heads = self.clusters.iter().enumerate().map(|(head, &clusters)| {
            let prototypes = found.tensor(&format!("prototypes{head}"), [dim, clusters], device)?;
            let bits = found.integers(&format!("potentials{head}"), clusters + 1)?;
            let numbers: Vec<f32> = bits
                .into_iter()
                .map(|bits| f32::from_bits(bits.cast_unsigned()))
                .collect();
            let potentials = PrototypePotentials::from_numbers(&numbers, self.plan.epsilon, device)
                .map_err(|error| TrainError::checkpoint(directory, error.to_string()))?;
            Ok((prototypes, potentials))
        });
        self.soft = Some(Snapshot {
            banks: banks.collect::<Result<_, _>>()?,
            rows: found.integers_in("rows", self.labels.heads()[0].len(), -1..all as i64)?,
            heads: heads.collect::<Result<_, TrainError>>()?,
        });
        Ok(())
    }
}
