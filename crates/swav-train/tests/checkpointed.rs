//! Steps whose backward pass computes activations once more against steps that keep them: the same to the bit on the CPU.

use std::collections::BTreeMap;

use burn::tensor::{Device, Distribution, Tensor, TensorData};
use swav_model::{BackboneConfig, Network, NetworkConfig, Stem, weights};
use swav_train::batch::DeviceBatch;
use swav_train::comm::Local;
use swav_train::method::{Method, MocoV2, MocoV2Plan, QueuePlan, Simclr, Swav, SwavPlan};
use swav_train::optim::{OptimizerName, OptimizerPlan, Schedule};
use swav_train::precision::Precision;
use swav_train::step::{Compute, Learner, step};

const BATCH: usize = 8;
const DIM: usize = 8;
const STEPS: u64 = 3;

/// The crops of a resolution: how many of an image, and their side.
type Group = (usize, usize);

/// What is trained, and in how many parts of a batch.
struct Case {
    backbone: &'static str,
    stem: Stem,
    prototypes: &'static [usize],
    groups: &'static [Group],
    parts: usize,
    optimizer: OptimizerName,
    method: fn(&Network) -> Box<dyn Method>,
}

const CASE: Case = Case {
    backbone: "resnet18",
    stem: Stem::Imagenet,
    prototypes: &[12],
    groups: &[(2, 32), (2, 24)],
    parts: 1,
    optimizer: OptimizerName::Larc,
    method: swav,
};

fn swav(_: &Network) -> Box<dyn Method> {
    let plan = SwavPlan {
        freeze_steps: 1,
        queue: Some(QueuePlan {
            length: 2 * BATCH,
            start_step: 1,
        }),
        ..SwavPlan::paper()
    };
    Box::new(Swav::new(plan, CASE.prototypes, DIM, &Device::flex()))
}

/// The second crop of an image is the key, and no crop that the network is shown.
fn moco(network: &Network) -> Box<dyn Method> {
    let plan = MocoV2Plan {
        temperature: 0.2,
        momentum: 0.9,
        queue: 2 * BATCH,
        key_groups: 2,
    };
    Box::new(MocoV2::new(plan, 5, network, &Device::flex()))
}

fn simclr(_: &Network) -> Box<dyn Method> {
    Box::new(Simclr {
        temperature: 0.1,
        batch: BATCH,
        crops: 4,
    })
}

/// What three steps leave: the losses, and weights and running statistics by name.
type Left = (Vec<TensorData>, BTreeMap<String, TensorData>);

impl Case {
    fn network(&self, device: &Device) -> Network {
        let config = NetworkConfig {
            backbone: BackboneConfig {
                name: self.backbone.parse().unwrap(),
                width: 0.0625,
                stem: self.stem,
            },
            hidden: 8,
            head_norm: true,
            dim: DIM,
            prototypes: self.prototypes.to_vec(),
        };
        config.init(1, device)
    }

    fn optimizer(&self) -> OptimizerPlan {
        let rate = 0.1;
        OptimizerPlan {
            name: self.optimizer,
            momentum: 0.9,
            weight_decay: 1e-4,
            exclude_bias_and_norm: false,
            schedule: Schedule::constant(rate, STEPS),
        }
    }

    fn three_steps(&self, batches: &[DeviceBatch], checkpoint_activations: bool) -> Left {
        let mut network = self.network(&Device::flex().autodiff());
        let plan = self.optimizer();
        let mut optimizer = plan.init(&network);
        let mut method = (self.method)(&network);
        let losses = batches.iter().zip(0..).map(|(batch, number)| {
            let learner = Learner {
                network: &mut network,
                optimizer: &mut optimizer,
                method: method.as_mut(),
            };
            let mut compute = Compute {
                parts: self.parts,
                precision: Precision::F32,
                checkpoint_activations,
                ranks: &mut Local,
                phase: &mut |_| {},
            };
            let rate = plan.schedule.at(number);
            let mut batch = batch.clone();
            step(learner, &mut batch, number, rate, &mut compute)
                .loss
                .into_data()
        });
        let losses = losses.collect();
        (losses, weights::export(&network).into_iter().collect())
    }

    /// Random crops for three steps, and a key of each image.
    fn batches(&self) -> Vec<DeviceBatch> {
        let device = Device::flex().autodiff();
        let crops = |count, size| {
            let shape = [count * BATCH, 3, size, size];
            Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device)
        };
        let of_step = |_| {
            let groups = self.groups.iter().map(|&(count, size)| crops(count, size));
            DeviceBatch {
                kept: vec![(1, crops(1, 32))],
                ..DeviceBatch::new(BATCH, groups.collect())
            }
        };
        (0..STEPS).map(of_step).collect()
    }

    fn is_the_same_to_the_bit(&self) {
        let batches = self.batches();
        let (losses, learned) = self.three_steps(&batches, false);
        let (same_losses, same) = self.three_steps(&batches, true);
        assert_eq!(losses, same_losses);
        let start = weights::export(&self.network(&Device::flex()));
        for (name, values) in &learned {
            assert_eq!(values, &same[name], "{name}");
            assert_ne!(values, &start[name], "{name} has not been learned");
        }
    }
}

#[test]
fn swav_with_two_resolutions_learns_the_same() {
    CASE.is_the_same_to_the_bit();
}

/// Three sums may be rounded in two ways; their order is the graph's.
#[test]
fn swav_with_three_resolutions_learns_the_same() {
    Case {
        groups: &[(2, 32), (1, 28), (2, 24)],
        ..CASE
    }
    .is_the_same_to_the_bit();
}

#[test]
fn swav_in_two_parts_learns_the_same() {
    Case { parts: 2, ..CASE }.is_the_same_to_the_bit();
}

#[test]
fn bottlenecks_learn_the_same() {
    Case {
        backbone: "resnet50",
        optimizer: OptimizerName::Sgd,
        ..CASE
    }
    .is_the_same_to_the_bit();
}

#[test]
fn simclr_in_two_parts_behind_a_stem_without_pooling_learns_the_same() {
    Case {
        stem: Stem::Cifar,
        prototypes: &[],
        parts: 2,
        optimizer: OptimizerName::Adam,
        method: simclr,
        ..CASE
    }
    .is_the_same_to_the_bit();
}

#[test]
fn moco_learns_the_same() {
    Case {
        prototypes: &[],
        groups: &[(1, 32), (1, 24)],
        optimizer: OptimizerName::Sgd,
        method: moco,
        ..CASE
    }
    .is_the_same_to_the_bit();
}
