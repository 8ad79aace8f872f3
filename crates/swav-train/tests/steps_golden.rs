//! Three whole steps of `step` against PyTorch's, from crops to weights (`tests/golden/steps.py`).

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{Golden, relative_error};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use swav_model::{BackboneConfig, Network, NetworkConfig, Stem, weights};
use swav_train::batch::DeviceBatch;
use swav_train::comm::Local;
use swav_train::method::{
    DeepclusterV2, DeepclusterV2Plan, EmbeddedBatch, EpochStart, Method, MocoV2, MocoV2Plan,
    QueuePlan, Swav, SwavPlan,
};
use swav_train::optim::{OptimizerName, OptimizerPlan, Schedule};
use swav_train::precision::Precision;
use swav_train::step::{Compute, Learner, Phase, step};

const BATCH: usize = 8;
const DIM: usize = 8;
const STEPS: u64 = 3;
const TOLERANCE: f64 = 2e-4;

/// The network of `steps.py` with the weights that the file begins with.
fn network(golden: &Golden, heads: &[usize], device: &Device) -> Network {
    let config = NetworkConfig {
        backbone: BackboneConfig {
            name: "resnet18".parse().unwrap(),
            width: 1.0 / 32.0,
            stem: Stem::Cifar,
        },
        hidden: 8,
        head_norm: true,
        dim: DIM,
        prototypes: heads.to_vec(),
    };
    let network = config.init(0, device);
    let names = weights::export(&network).into_keys();
    let tensors = names.map(|name| {
        let (values, shape) = golden.values(&format!("start.{name}"));
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        (name, TensorData::new(values, shape))
    });
    weights::import(network, tensors.collect()).unwrap()
}

/// How far the weights are from where the file begins, every seventh, by name.
fn moved(network: &Network, golden: &Golden) -> Tensor<2> {
    let learned = weights::export(network).into_iter();
    let learned = learned.filter(|(name, _)| !name.contains("running_"));
    let distances = learned.flat_map(|(name, data)| {
        let start = golden.values(&format!("start.{name}")).0;
        let now = data.iter::<f64>().collect::<Vec<_>>();
        now.into_iter().zip(start).map(|(now, start)| now - start)
    });
    let kept: Vec<f64> = distances.step_by(7).collect();
    Tensor::<1>::from_data(&kept[..], &Device::flex()).unsqueeze()
}

fn optimizer(golden: &Golden, name: OptimizerName) -> OptimizerPlan {
    let rate = golden.number("rate");
    OptimizerPlan {
        name,
        momentum: 0.9,
        weight_decay: golden.number("decay"),
        exclude_bias_and_norm: false,
        schedule: Schedule::constant(rate, STEPS),
    }
}

/// The crops of a step: two large ones and a small one.
fn crops(golden: &Golden, number: u64, device: &Device) -> [Tensor<4>; 2] {
    ["large", "small"].map(|name| golden.tensor(&format!("{number}.{name}"), device))
}

fn check(what: &str, found: Tensor<2>, expected: &[f64]) {
    let error = relative_error(found, expected);
    assert!(error < TOLERANCE, "{what} is off by {error:.2e}");
}

/// Takes the steps of the file in `parts`, through a checkpoint of the method after each.
fn three_steps(
    golden: &Golden,
    mut network: Network,
    method: &mut dyn Method,
    plan: &OptimizerPlan,
    parts: usize,
    batch: impl Fn(u64) -> DeviceBatch,
    mut after: impl FnMut(u64, &dyn Method),
) {
    let mut optimizer = plan.init(&network);
    for number in 0..STEPS {
        let mut phases = Vec::new();
        let learner = Learner {
            network: &mut network,
            optimizer: &mut optimizer,
            method,
        };
        let mut compute = Compute {
            parts,
            precision: Precision::F32,
            checkpoint_activations: false,
            ranks: &mut Local,
            phase: &mut |phase| phases.push(phase),
        };
        let rate = plan.schedule.at(number);
        let done = step(learner, &mut batch(number), number, rate, &mut compute);

        let expected = golden.number(&format!("{number}.loss"));
        let loss: f64 = done.loss.into_scalar();
        let error = (loss - expected).abs() / expected.abs();
        assert!(
            error < TOLERANCE,
            "step {number}: the loss {loss} should be {expected}"
        );
        let expected = golden.values(&format!("{number}.moved")).0;
        check(
            &format!("step {number}: the way of the weights"),
            moved(&network, golden),
            &expected,
        );
        let [forward, update] = [Phase::Forward, Phase::Update].map(Some);
        assert_eq!(
            (phases.first().copied(), phases.last().copied()),
            (forward, update)
        );
        assert_eq!(phases.len(), 3 + 2 * parts);

        let directory = tempfile::tempdir().unwrap();
        method.save(directory.path(), &mut Local).unwrap();
        method
            .load(directory.path(), &Device::flex(), &Local)
            .unwrap();
        after(number, method);
    }
}

#[test]
fn swav_in_two_parts_with_a_queue_frozen_prototypes_and_larc_is_pytorchs() {
    let golden = Golden::open("method_steps_swav.safetensors");
    let device = Device::flex().autodiff();
    let network = network(&golden, &[12], &device);
    let plan = SwavPlan {
        temperature: golden.number("temperature"),
        epsilon: golden.number("epsilon"),
        freeze_steps: 1,
        queue: Some(QueuePlan {
            length: 2 * BATCH,
            start_step: 0,
        }),
        ..SwavPlan::paper()
    };
    let mut method = Swav::new(plan, &[12], DIM, &Device::flex());
    let batch = |number| DeviceBatch::new(BATCH, crops(&golden, number, &device).to_vec());
    let plan = optimizer(&golden, OptimizerName::Larc);
    three_steps(&golden, network, &mut method, &plan, 2, batch, |_, _| {});
}

#[test]
fn deepcluster_with_the_prototypes_of_its_epoch_is_pytorchs() {
    let golden = Golden::open("method_steps_deepcluster.safetensors");
    let (device, inner) = (Device::flex().autodiff(), Device::flex());
    let heads = [4, 5];
    let images = STEPS as usize * BATCH;
    let plan = DeepclusterV2Plan {
        temperature: golden.number("temperature"),
        iterations: 10,
    };
    let mut method = DeepclusterV2::new(plan, &heads, images, images / BATCH, [BATCH, DIM]);
    let banks = [0, 1].map(|bank| {
        let raw = golden.tensor::<2>(&format!("bank_raw.{bank}"), &inner);
        let lengths = raw.clone().square().sum_dim(1).sqrt();
        (raw / lengths).split(BATCH, 0)
    });
    let indices = whole_numbers(&golden, "bank_indices");
    let embedded = indices
        .chunks(BATCH)
        .enumerate()
        .map(|(i, indices)| EmbeddedBatch {
            indices: indices.to_vec(),
            embeddings: banks.iter().map(|bank| bank[i].clone()).collect(),
        });
    let start = EpochStart {
        number: 0,
        seed: golden.number("seed") as u64,
        embedded: embedded.collect(),
    };
    let network = network(&golden, &heads, &device);
    let network = method.before_epoch(start, network, &mut Local).unwrap();
    let batch = |number| DeviceBatch {
        indices: whole_numbers(&golden, &format!("{number}.indices")),
        ..DeviceBatch::new(BATCH, crops(&golden, number, &device).to_vec())
    };
    let plan = optimizer(&golden, OptimizerName::Sgd);
    three_steps(&golden, network, &mut method, &plan, 1, batch, |_, _| {});
}

fn whole_numbers(golden: &Golden, name: &str) -> Vec<usize> {
    let (values, _) = golden.values(name);
    values.into_iter().map(|value| value as usize).collect()
}

#[test]
fn moco_with_its_queue_and_its_momentum_network_is_pytorchs() {
    let golden = Golden::open("method_steps_moco.safetensors");
    let (device, inner) = (Device::flex().autodiff(), Device::flex());
    let network = network(&golden, &[], &device);
    let plan = MocoV2Plan {
        temperature: golden.number("temperature"),
        momentum: golden.number("momentum"),
        queue: 3 * BATCH,
        key_groups: golden.number("key_groups") as usize,
    };
    let mut method = MocoV2::new(plan, golden.number("seed") as u64, &network, &inner);
    // The queue of the file takes the place of the random one by way of a checkpoint.
    let directory = tempfile::tempdir().unwrap();
    method.save(directory.path(), &mut Local).unwrap();
    let raw = golden.tensor::<2>("queue_raw", &inner);
    let lengths = raw.clone().square().sum_dim(1).sqrt();
    let keys = (raw / lengths).into_data();
    let keys = TensorView::new(Dtype::F32, vec![3 * BATCH, DIM], keys.bytes()).unwrap();
    let path = directory.path().join("queue.safetensors");
    safetensors::serialize_to_file([("keys", keys)], None, &path).unwrap();
    method.load(directory.path(), &inner, &Local).unwrap();

    // Crop 1 is the key.
    let batch = |number| {
        let [large, small] = crops(&golden, number, &device);
        let [query, key] = [0, 1].map(|crop| large.clone().slice(crop * BATCH..(crop + 1) * BATCH));
        DeviceBatch {
            kept: vec![(1, key)],
            ..DeviceBatch::new(BATCH, vec![query, small])
        }
    };
    let plan = optimizer(&golden, OptimizerName::Sgd);
    // What a checkpoint holds of the momentum network and of the queue.
    let like = network.clone();
    let after = |number: u64, method: &dyn Method| {
        let directory = tempfile::tempdir().unwrap();
        method.save(directory.path(), &mut Local).unwrap();
        let momentum = weights::load(like.clone(), &directory.path().join("momentum.bpk")).unwrap();
        let expected = golden.values(&format!("{number}.key_moved")).0;
        let what = format!("step {number}: the way of the momentum network");
        check(&what, moved(&momentum, &golden), &expected);
        let bytes = std::fs::read(directory.path().join("queue.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let keys = file.tensor("keys").unwrap();
        let (words, _) = keys.data().as_chunks::<4>();
        let keys: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let keys = Tensor::<1>::from_data(&keys[..], &Device::flex()).unsqueeze();
        let expected = golden.values(&format!("{number}.queue")).0;
        check(&format!("step {number}: the queue"), keys, &expected);
    };
    three_steps(&golden, network, &mut method, &plan, 1, batch, after);
}
