//! SeLa-v2: predicting labels that an equal partition of all images gave before the epoch (Asano et al., "Self-labelling
//! via simultaneous clustering and representation learning", ICLR 2020, with the improvements of Caron et al., NeurIPS
//! 2020, section 4 and appendix A.4).

use std::ops::Range;
use std::path::Path;

use burn::module::ParamId;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use swav_model::{Network, Outputs};
use swav_ot::{Local, PrototypePotentials, SinkhornConfig};

use super::bank::Bank;
use super::deepcluster_v2::{
    BANKS, bank_memory, check_clusters, heads_loss, load_epoch, save_epoch,
};
use super::labels::Labels;
use super::memory::Memory;
use super::swav::{check_sinkhorn, check_temperature, code_metrics};
use super::{Chance, Draft, Epoch, Method, MethodSettings, Metric, Seen, Targets};
use crate::TrainError;
use crate::config::Span;
use crate::plan::{Ledger, Plan, check_prototypes, check_several_crops};

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

impl SelaV2Plan {
    pub(crate) const HEADS: usize = 3;
    pub(crate) const FIELDS: &[&str] =
        &["temperature", "epsilon", "iterations", "labels", "freeze"];

    pub(crate) fn derive(draft: &mut Draft<'_>) -> Self {
        let (wanted, train) = (&draft.recipe.method, draft.train);
        let freeze = draft.ledger.or(
            wanted.freeze,
            "method.freeze",
            Span::Steps(train.steps_per_epoch),
            "one epoch: the first features would drag the prototypes along",
        );
        Self {
            temperature: wanted.temperature.unwrap_or(0.1),
            epsilon: wanted.epsilon.unwrap_or(0.05),
            iterations: wanted.iterations.unwrap_or(3),
            labels: wanted.labels.unwrap_or_default(),
            freeze_steps: freeze.steps(train.steps_per_epoch).min(train.steps),
        }
    }
}

impl MethodSettings for SelaV2Plan {
    fn check(&self, plan: &Plan, ledger: &mut Ledger) {
        check_several_crops(plan, ledger);
        check_temperature(self.temperature, ledger);
        check_sinkhorn(self.epsilon, self.iterations, ledger);
        check_prototypes(plan, ledger);
        check_clusters(plan, ledger);
    }

    fn build(&self, plan: &Plan, _: &Network, device: &Device) -> Box<dyn Method> {
        Box::new(SelaV2::new(
            self.clone(),
            &plan.model.prototypes,
            plan.data.images,
            [plan.train.batch_size, plan.model.dim],
            device,
        ))
    }

    fn memory(&self, plan: &Plan) -> u64 {
        match self.labels {
            LabelKind::Hard => bank_memory(plan),
            // And the banks of the last epoch.
            LabelKind::Soft => 2 * bank_memory(plan),
        }
    }

    fn describe(&self) -> String {
        format!(
            "τ {}, ε {}, {} iterations, {:?} labels",
            self.temperature, self.epsilon, self.iterations, self.labels
        )
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
    /// Images of a batch, numbers of an embedding.
    shape: [usize; 2],
    bank: Bank,
    labels: Labels,
    soft: Option<Snapshot>,
    metrics: Vec<Metric>,
    batches: usize,
    device: Device,
}

impl SelaV2 {
    /// For heads of `clusters` prototypes over `images` images, in batches and of embeddings of the given `shape`.
    pub fn new(
        plan: SelaV2Plan,
        clusters: &[usize],
        images: usize,
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
            batches: (images / shape[0].max(1)).max(1),
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
    ) -> Result<(PrototypePotentials, Vec<u32>), swav_ot::OtError> {
        let batches = self.bank.batches(bank);
        let scores = |block: usize| batches[block].clone().matmul(prototypes.clone());
        let config = SinkhornConfig {
            epsilon: self.plan.epsilon,
            iterations: self.plan.iterations,
        };
        let potentials =
            PrototypePotentials::of_blocks(batches.len(), scores, &config, &mut Local)?;
        let mut labels = Vec::new();
        for block in 0..batches.len() {
            let best: Tensor<2, Int> = potentials.codes(scores(block))?.argmax(1);
            labels.extend(best.into_data().iter::<u32>());
        }
        Ok((potentials, labels))
    }

    /// The soft labels of images by a head, `[B, K]`, those without one zero.
    fn soft_labels(&self, snapshot: &Snapshot, head: usize, indices: &[usize]) -> Tensor<2> {
        let rows: Vec<i32> = indices.iter().map(|&index| snapshot.rows[index]).collect();
        let known: Vec<f32> = rows
            .iter()
            .map(|&row| f32::from(u8::from(row >= 0)))
            .collect();
        let weight = rows.len() as f32 / known.iter().sum::<f32>().max(1.0);
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

    /// The snapshot of the banks as they are, for potentials found with `prototypes`.
    fn snapshot(&self, heads: Vec<(Tensor<2>, PrototypePotentials)>) -> Snapshot {
        let mut rows = vec![-1; self.labels.heads()[0].len()];
        for (row, index) in self.bank.indices().enumerate() {
            rows[index] = row as i32;
        }
        Snapshot {
            banks: (0..BANKS).map(|bank| self.bank.whole(bank)).collect(),
            rows,
            heads,
        }
    }
}

impl Method for SelaV2 {
    /// Labels all images anew, by the features of the last epoch and today's prototypes.
    fn before_epoch(
        &mut self,
        epoch: &mut Epoch<'_>,
        mut network: Network,
    ) -> Result<Network, TrainError> {
        self.bank.fill(epoch, &network)?;
        network.prototypes = network.prototypes.normalise();
        let mut found = Vec::new();
        let mut heads = Vec::new();
        for (head, prototypes) in network.prototypes.weights().into_iter().enumerate() {
            let prototypes = prototypes.inner();
            let (potentials, labels) =
                self.partition(head % BANKS, &prototypes).map_err(|error| {
                    TrainError::Stopped(format!(
                        "the labels of epoch {} failed: {error}",
                        epoch.number
                    ))
                })?;
            heads.push((prototypes, potentials));
            found.push(labels);
        }
        let before = self.labels.clone();
        self.labels.assign(self.bank.indices(), &found);
        self.metrics = self.labels.metrics(&before, &self.clusters);
        self.soft = (self.plan.labels == LabelKind::Soft).then(|| self.snapshot(heads));
        Ok(network)
    }

    fn before_step(&mut self, mut network: Network) -> Network {
        network.prototypes = network.prototypes.normalise();
        network
    }

    /// The label of each image by each head.
    fn targets(&mut self, seen: &Seen<'_>) -> Targets {
        let heads = self.clusters.iter().enumerate();
        let targets = heads.map(|(head, &clusters)| match &self.soft {
            Some(snapshot) => self.soft_labels(snapshot, head, seen.indices),
            None => self
                .labels
                .distributions(head, seen.indices, clusters, &self.device),
        });
        let targets = Targets(targets.collect());
        let place = seen.step as usize % self.batches;
        self.bank
            .put(place, seen.indices, &seen.embeddings[..BANKS]);
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

    fn metrics(&self, targets: &Targets) -> Vec<Metric> {
        let mut metrics = self.metrics.clone();
        if self.soft.is_some() {
            metrics.extend(code_metrics(targets.0[0].clone()));
        }
        metrics
    }

    fn save(&self, directory: &Path) -> Result<(), TrainError> {
        let mut memory = Memory::default();
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
        save_epoch(directory, &self.bank, &self.labels, &self.metrics, memory)
    }

    fn load(&mut self, directory: &Path, device: &Device) -> Result<(), TrainError> {
        let (metrics, found) = load_epoch(
            directory,
            &mut self.bank,
            &mut self.labels,
            &self.clusters,
            self.shape,
            device,
        )?;
        self.metrics = metrics;
        self.soft = None;
        if self.plan.labels == LabelKind::Hard || self.bank.is_empty() {
            return Ok(());
        }
        let [_, dim] = self.shape;
        let banks = (0..BANKS)
            .map(|bank| found.tensor(&format!("snapshot{bank}"), [self.bank.len(), dim], device));
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
            rows: found.integers_in(
                "rows",
                self.labels.heads()[0].len(),
                -1..self.bank.len() as i64,
            )?,
            heads: heads.collect::<Result<_, TrainError>>()?,
        });
        Ok(())
    }
}
