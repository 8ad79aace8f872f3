//! The methods that SwAV is compared with, against `tests/golden/methods.py`.

mod common;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Tensor};
use common::{Golden, relative_error};
use swav_model::{BackboneConfig, Network, NetworkConfig, Outputs, Stem};
use swav_train::comm::Local;
use swav_train::method::{
    DeepclusterV2, DeepclusterV2Plan, EmbeddedBatch, EpochStart, LabelKind, Method, MocoV2,
    MocoV2Plan, Momentum, SelaV2, SelaV2Plan, Simclr, Supervised, TargetInputs, Targets,
    contrastive_loss, key_loss,
};

/// The largest relative error that 32-bit floats are allowed against PyTorch's 64-bit ones.
const TOLERANCE: f64 = 1e-4;

fn unit(raw: Tensor<2>) -> Tensor<2> {
    let lengths = raw.clone().square().sum_dim(1).sqrt();
    raw / lengths
}

fn network(dim: usize, prototypes: &[usize], device: &Device) -> Network {
    let config = NetworkConfig {
        backbone: BackboneConfig {
            name: "resnet18".parse().unwrap(),
            width: 0.0625,
            stem: Stem::Cifar,
        },
        hidden: 8,
        head_norm: true,
        dim,
        prototypes: prototypes.to_vec(),
    };
    config.init(3, device)
}

fn check(what: &str, found: Tensor<2>, expected: &[f64]) {
    let error = relative_error(found, expected);
    assert!(error < TOLERANCE, "{what} is off by {error:.2e}");
}

fn check_loss(what: &str, found: &Tensor<1>, expected: f64) {
    let found: f64 = found.clone().into_scalar();
    let error = (found - expected).abs() / expected.abs();
    assert!(
        error < TOLERANCE,
        "{what}: the loss {found} should be {expected}"
    );
}

#[test]
fn simclr_is_pytorchs() {
    let golden = Golden::open("method_simclr.safetensors");
    let device = Device::flex().autodiff();
    for case in ["two", "five"] {
        let crops = golden.number(&format!("{case}.crops")) as usize;
        let raw = golden
            .tensor::<2>(&format!("{case}.raw"), &device)
            .require_grad();
        let loss = contrastive_loss(
            unit(raw.clone()).chunk(crops, 0),
            golden.number("temperature"),
        );
        check_loss(case, &loss, golden.number(&format!("{case}.loss")));
        let gradient = raw.grad(&loss.backward()).unwrap();
        check(case, gradient, &golden.values(&format!("{case}.grad")).0);
    }
}

#[test]
fn simclr_in_parts_has_the_loss_and_the_gradient_of_the_whole_batch() {
    let method = Simclr {
        temperature: 0.1,
        batch: 6,
        crops: 3,
    };
    let values = Tensor::<2>::random([18, 8], Distribution::Normal(0.0, 1.0), &Device::flex());
    // The loss and its gradient, with the batch in so many parts.
    let learn = |parts: usize| {
        let raw = values.clone().autodiff().require_grad();
        let crops = unit(raw.clone()).chunk(3, 0);
        let targets = Targets(crops.iter().map(|crop| crop.clone().inner()).collect());
        let losses = (0..parts).map(|part| {
            let rows = part * 6 / parts..(part + 1) * 6 / parts;
            let live = crops.iter().map(|crop| crop.clone().slice(rows.clone()));
            let embeddings = Tensor::cat(live.collect(), 0);
            let outputs = Outputs {
                projections: embeddings.clone(),
                embeddings,
                scores: Vec::new(),
            };
            method.loss(&outputs, &targets, rows)
        });
        let loss = Tensor::cat(losses.collect(), 0).mean();
        let gradient = raw.grad(&loss.backward()).unwrap();
        (loss, gradient)
    };
    let (whole, gradient) = learn(1);
    let gradient: Vec<f64> = gradient.into_data().iter().collect();
    for parts in [2, 3] {
        let (loss, in_parts) = learn(parts);
        check_loss("in parts", &loss, whole.clone().into_scalar());
        check("the gradient in parts", in_parts, &gradient);
    }
}

#[test]
fn simclr_stays_finite_and_right_at_temperatures_far_below_the_usual() {
    let (crops, batch, dim) = (2, 4, 6);
    let values = Tensor::<2>::random([8, dim], Distribution::Normal(0.0, 1.0), &Device::flex());
    let z: Vec<f64> = unit(values.clone()).into_data().iter().collect();
    let dot =
        |i: usize, j: usize| -> f64 { (0..dim).map(|d| z[i * dim + d] * z[j * dim + d]).sum() };
    for temperature in [0.001, 0.01, 10.0] {
        let raw = values.clone().autodiff().require_grad();
        let loss = contrastive_loss(unit(raw.clone()).chunk(crops, 0), temperature);
        // The positive's share, relative to the largest exponent, in 64 bits.
        let of_row = |i: usize| {
            let positive = dot(i, (i + batch) % (2 * batch)) / temperature;
            let others = (0..2 * batch).filter(|j| j % batch != i % batch);
            let logits: Vec<f64> = others
                .map(|j| dot(i, j) / temperature)
                .chain([positive])
                .collect();
            let most = logits.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = logits.iter().map(|logit| (logit - most).exp()).sum();
            most + sum.ln() - positive
        };
        let expected = (0..2 * batch).map(of_row).sum::<f64>() / (2 * batch) as f64;
        check_loss(&format!("τ {temperature}"), &loss, expected);
        let gradient = raw.grad(&loss.backward()).unwrap().into_data();
        assert!(
            gradient.iter::<f64>().all(f64::is_finite),
            "τ {temperature}"
        );
    }
}

#[test]
fn mocos_loss_is_pytorchs() {
    let golden = Golden::open("method_moco.safetensors");
    let device = Device::flex().autodiff();
    let queries = golden.tensor::<2>("queries", &device).require_grad();
    let other = |name: &str| unit(golden.tensor::<2>(name, &Device::flex()));
    let loss = key_loss(
        unit(queries.clone()),
        other("keys"),
        other("queue"),
        golden.number("temperature"),
    );
    check_loss("moco", &loss, golden.number("loss"));
    let gradient = queries.grad(&loss.backward()).unwrap();
    check("moco's gradient", gradient, &golden.values("grad").0);
}

struct Scale(f32);

impl ModuleMapper for Scale {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weights| weights * self.0)
    }
}

/// All weights of a network, one after the other.
fn weights(network: &Network) -> Vec<f64> {
    struct All(Vec<f64>);
    impl burn::module::ModuleVisitor for All {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f64>());
        }
    }
    let mut all = All(Vec::new());
    network.visit(&mut all);
    all.0
}

#[test]
fn a_momentum_copy_goes_a_part_of_the_way_each_time() {
    let device = Device::flex().autodiff();
    let leader = network(8, &[], &device);
    let mut copy = Momentum::new(&leader, 0.9);
    let leader = leader.map(&mut Scale(3.0));
    let start = weights(&copy.network());
    copy.follow(&leader);
    copy.follow(&leader);
    let share = 0.9_f64.powi(2);
    for (now, then) in weights(&copy.network()).iter().zip(&start) {
        let expected = share * then + (1.0 - share) * 3.0 * then;
        assert!(
            (now - expected).abs() <= 1e-5 * (1.0 + then.abs()),
            "{now} {expected}"
        );
    }
}

#[test]
fn mocos_keys_are_those_of_the_momentum_network_in_the_order_of_the_images_and_become_its_queue() {
    let device = Device::flex().autodiff();
    let network = network(8, &[], &device);
    let plan = |key_groups| MocoV2Plan {
        temperature: 0.2,
        momentum: 0.9,
        queue: 12,
        key_groups,
    };
    let crops = Tensor::<4>::random([12, 3, 16, 16], Distribution::Default, &device);
    let embeddings = vec![Tensor::<2>::zeros([6, 8], &Device::flex())];
    for groups in [1, 3] {
        let mut method = MocoV2::new(plan(groups), 5, &network, &Device::flex());
        let before = method.queue().clone();
        let lengths: Vec<f32> = before
            .clone()
            .square()
            .sum_dim(1)
            .into_data()
            .iter()
            .collect();
        assert!(lengths.iter().all(|length| (length - 1.0).abs() < 1e-5));

        assert_eq!(
            [0, 1, 2].map(|crop| method.shows(crop)),
            [true, false, true]
        );
        let targets = method.targets(
            &TargetInputs {
                step: 4,
                network: &network,
                crop: &|crop| crops.clone().inner().slice(crop * 6..(crop + 1) * 6),
                embeddings: &embeddings,
                indices: &[],
                labels: &[],
            },
            &mut Local,
        );
        if groups == 1 {
            // In one group the shuffle changes nothing but the order of sums.
            let keys = Momentum::new(&network, 0.9).network();
            let expected = keys.forward(vec![crops.clone().slice(6..12)]).embeddings;
            let expected: Vec<f64> = expected.into_data().iter().collect();
            check("the keys", targets.0[0].clone(), &expected);
        }
        method.after_step(&network, &targets);
        let after = method.queue().clone();
        assert_eq!(after.clone().slice(0..6).to_data(), targets.0[0].to_data());
        assert_eq!(after.slice(6..12).to_data(), before.slice(0..6).to_data());
    }
}

#[test]
fn cross_entropy_with_several_labels_and_smoothing_is_pytorchs() {
    let golden = Golden::open("method_supervised.safetensors");
    let device = Device::flex().autodiff();
    let logits = golden.tensor::<2>("logits", &device).require_grad();
    let mut method = Supervised {
        classes: 4,
        smoothing: golden.number("smoothing"),
    };
    let labels = [vec![2], vec![0, 3], vec![1], vec![], vec![3]];
    let targets = method.targets(
        &TargetInputs {
            step: 0,
            network: &network(4, &[], &device),
            crop: &common::no_crop,
            embeddings: &[logits.clone().inner()],
            indices: &[],
            labels: &labels,
        },
        &mut Local,
    );
    let outputs = Outputs {
        projections: logits.clone(),
        embeddings: logits.clone(),
        scores: Vec::new(),
    };
    let loss = method.loss(&outputs, &targets, 0..5);
    check_loss("supervised", &loss, golden.number("loss"));
    let gradient = logits.grad(&loss.backward()).unwrap();
    check("its gradient", gradient, &golden.values("grad").0);
}

#[test]
fn a_classifier_in_parts_has_the_loss_and_the_gradient_of_the_whole_batch() {
    let values = Tensor::<2>::random([12, 4], Distribution::Normal(0.0, 1.0), &Device::flex());
    let labels = [vec![2], vec![0, 3], vec![], vec![], vec![], vec![1, 2, 3]];
    // The second of three parts has no label at all.
    let learn = |parts: usize| {
        let logits = values.clone().autodiff().require_grad();
        let mut method = Supervised {
            classes: 4,
            smoothing: 0.1,
        };
        let targets = method.targets(
            &TargetInputs {
                step: 0,
                network: &network(4, &[], &Device::flex().autodiff()),
                crop: &common::no_crop,
                embeddings: std::slice::from_ref(&values),
                indices: &[],
                labels: &labels,
            },
            &mut Local,
        );
        let losses = (0..parts).map(|part| {
            let rows = part * 6 / parts..(part + 1) * 6 / parts;
            let crops = logits.clone().chunk(2, 0).into_iter();
            let live = Tensor::cat(crops.map(|crop| crop.slice(rows.clone())).collect(), 0);
            let outputs = Outputs {
                projections: live.clone(),
                embeddings: live,
                scores: Vec::new(),
            };
            method.loss(&outputs, &targets, rows)
        });
        let loss = Tensor::cat(losses.collect(), 0).mean();
        let gradient = logits.grad(&loss.backward()).unwrap();
        (loss, gradient)
    };
    let (whole, gradient) = learn(1);
    let gradient: Vec<f64> = gradient.into_data().iter().collect();
    for parts in [2, 3] {
        let (loss, in_parts) = learn(parts);
        check_loss("in parts", &loss, whole.clone().into_scalar());
        check("the gradient in parts", in_parts, &gradient);
    }
}

const IMAGES: usize = 20;
const BATCH: usize = 6;
const CROPS: usize = 3;
const DIM: usize = 8;
const CLUSTERS: [usize; 3] = [4, 5, 4];

/// Batches as the file has them.
struct Batches {
    indices: Vec<Vec<usize>>,
    /// `[CROPS·BATCH, DIM]` each, crop-major.
    raw: Vec<Tensor<2>>,
}

impl Batches {
    fn new(golden: &Golden, name: &str, device: &Device) -> Self {
        let (indices, _) = golden.values(&format!("{name}.indices"));
        let indices: Vec<usize> = indices.into_iter().map(|index| index as usize).collect();
        let raw = golden.tensor::<3>(&format!("{name}.raw"), device);
        Self {
            indices: indices.chunks(BATCH).map(<[usize]>::to_vec).collect(),
            raw: raw.iter_dim(0).map(|batch| batch.squeeze_dim(0)).collect(),
        }
    }
}

/// Two epochs of a method that labels all images before each, from an empty bank on; between the epochs it goes
/// through a checkpoint.
fn two_epochs(
    golden: &Golden,
    prefix: &str,
    method: &mut dyn Method,
    mut network: Network,
    seed: u64,
) {
    let device = Device::flex().autodiff();
    let inner = Device::flex();
    let mut step = 0;
    for epoch in 0..2 {
        let fill = Batches::new(golden, &format!("{prefix}fill"), &inner);
        let batches = fill.indices.iter().zip(&fill.raw);
        let embedded = batches.map(|(indices, raw)| EmbeddedBatch {
            indices: indices.clone(),
            embeddings: unit(raw.clone()).chunk(CROPS, 0),
        });
        // Only empty banks are filled.
        assert_eq!(method.crops_before_epoch(), if epoch == 0 { 2 } else { 0 });
        let start = EpochStart {
            number: epoch,
            seed,
            embedded: match epoch {
                0 => embedded.collect(),
                _ => Vec::new(),
            },
        };
        network = method.before_epoch(start, network, &mut Local).unwrap();
        let expected = golden.values(&format!("{prefix}{epoch}.losses")).0;
        let batches = Batches::new(golden, &format!("{prefix}{epoch}"), &device);
        for (number, (indices, raw)) in batches.indices.iter().zip(batches.raw).enumerate() {
            let raw = raw.require_grad();
            let embeddings = unit(raw.clone());
            network = method.before_step(network);
            let outputs = Outputs {
                projections: raw.clone(),
                scores: network.prototypes.forward(embeddings.clone()),
                embeddings: embeddings.clone(),
            };
            let targets = method.targets(
                &TargetInputs {
                    step,
                    network: &network,
                    crop: &common::no_crop,
                    embeddings: &embeddings.inner().chunk(CROPS, 0),
                    indices,
                    labels: &[],
                },
                &mut Local,
            );
            let loss = method.loss(&outputs, &targets, 0..BATCH);
            check_loss(
                &format!("epoch {epoch}, step {number}"),
                &loss,
                expected[number],
            );
            let gradient = raw.grad(&loss.backward()).unwrap();
            let name = format!("{prefix}{epoch}.{number}.grad");
            check(&name, gradient, &golden.values(&name).0);
            method.after_step(&network, &targets);
            step += 1;
            // What is remembered in the middle of an epoch is all that the rest of it needs.
            let directory = tempfile::tempdir().unwrap();
            method.save(directory.path(), &mut Local).unwrap();
            method.load(directory.path(), &inner, &Local).unwrap();
        }
    }
}

#[test]
fn two_epochs_of_deepcluster_are_pytorchs() {
    let golden = Golden::open("method_deepcluster.safetensors");
    let device = Device::flex().autodiff();
    let plan = DeepclusterV2Plan {
        temperature: golden.number("temperature"),
        iterations: 10,
    };
    let mut method = DeepclusterV2::new(plan, &CLUSTERS, IMAGES, IMAGES / BATCH, [BATCH, DIM]);
    let network = network(DIM, &CLUSTERS, &device);
    assert_eq!(
        method.frozen(1_000_000, &network),
        network.prototypes.param_ids()
    );
    two_epochs(
        &golden,
        "",
        &mut method,
        network,
        golden.number("seed") as u64,
    );

    let labels = golden.values("1.labels.2").0;
    let found = &method.labels().heads()[2];
    let fill = Batches::new(&golden, "0", &Device::flex());
    for (index, expected) in fill.indices.iter().flatten().zip(labels) {
        assert_eq!(f64::from(found[*index]), expected, "image {index}");
    }
    assert_eq!(found.iter().filter(|&&label| label < 0).count(), 2);
}

#[test]
fn two_epochs_of_sela_are_pytorchs_with_hard_and_with_soft_labels() {
    let golden = Golden::open("method_sela.safetensors");
    let device = Device::flex().autodiff();
    for (prefix, labels) in [("hard.", LabelKind::Hard), ("soft.", LabelKind::Soft)] {
        let plan = SelaV2Plan {
            temperature: 0.1,
            epsilon: golden.number("epsilon"),
            iterations: golden.number("iterations") as usize,
            labels,
            freeze_steps: 5,
        };
        let mut method = SelaV2::new(
            plan,
            &CLUSTERS,
            IMAGES,
            IMAGES / BATCH,
            [BATCH, DIM],
            &Device::flex(),
        );
        let mut network = network(DIM, &CLUSTERS, &device);
        for head in 0..CLUSTERS.len() {
            let raw = golden.tensor::<2>(&format!("prototypes_raw.{head}"), &Device::flex());
            network.prototypes = network.prototypes.replace(head, raw.transpose());
        }
        assert_eq!(method.frozen(4, &network), network.prototypes.param_ids());
        assert!(method.frozen(5, &network).is_empty());
        two_epochs(&golden, prefix, &mut method, network, 0);
    }
}
