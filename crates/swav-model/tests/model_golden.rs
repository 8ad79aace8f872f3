//! What PyTorch computes, from tests/golden/model.py: networks whose weights are a formula.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use common::{backbone, gradients, host, image, relative, uniform};
use swav_model::weights::{self, Tensors};
use swav_model::{BackboneConfig, Network, NetworkConfig, Stem};

/// ‖ours − PyTorch's‖ / ‖PyTorch's‖ may be this much. Single precision alone is good for 1e-5.
const TOLERANCE: f64 = 1e-4;

struct Golden {
    name: &'static str,
    tensors: BTreeMap<String, Vec<f32>>,
}

impl Golden {
    fn read(name: &'static str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        let path = dir.join(format!("model_{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let values = |data: &[u8]| {
            let chunks = data.chunks_exact(4);
            chunks
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect()
        };
        let tensors = file
            .iter()
            .map(|(name, view)| (name.to_owned(), values(view.data())));
        let tensors = tensors.collect();
        Self { name, tensors }
    }

    fn check(&self, key: &str, ours: &[f32]) {
        let error = relative(ours, &self.tensors[key]);
        println!("{:10} {key:20} {error:.1e}", self.name);
        assert!(error <= TOLERANCE, "{} {key}: {error:.1e}", self.name);
    }
}

/// The formula of model.py's `parameter`.
fn parameter(name: &str, shape: &[usize], margin: f64) -> TensorData {
    let count = shape.iter().product();
    let linear_bias = ["projection_head.0.bias", "projection_head.3.bias"].contains(&name);
    let fan_in = shape[1..].iter().product::<usize>() as f64;
    let scale = |u: f64| {
        if name.ends_with("running_var") {
            0.5 + u
        } else if name.ends_with("running_mean") || linear_bias {
            0.1 * (2.0 * u - 1.0)
        } else if name.ends_with("bias") {
            let v = 2.0 * u - 1.0;
            if v < 0.0 { v - margin } else { v + margin }
        } else if shape.len() == 4 {
            (2.0 * u - 1.0) * (6.0 / fan_in).sqrt()
        } else if shape.len() == 2 {
            (2.0 * u - 1.0) * (1.0 / fan_in).sqrt()
        } else {
            0.25 + 0.5 * u
        }
    };
    let values: Vec<f32> = uniform(name, count).map(|u| scale(u) as f32).collect();
    TensorData::new(values, shape.to_vec())
}

/// A network on an autodiff device whose every tensor is the formula's.
fn network(config: &NetworkConfig, margin: f64) -> Network {
    let device = Device::flex().autodiff();
    let network = common::init(config, 0, &device);
    let filled = weights::export(&network).into_iter().map(|(name, data)| {
        let data = parameter(&name, data.shape().as_slice(), margin);
        (name, data)
    });
    weights::import(network, filled.collect()).unwrap()
}

fn probe(name: &str, like: &Tensor<2>) -> Tensor<2> {
    let [rows, columns] = like.dims();
    let values = uniform(name, rows * columns).map(|u| (2.0 * u - 1.0) as f32);
    let values: Vec<f32> = values.collect();
    Tensor::<1>::from_floats(values.as_slice(), &like.device()).reshape([rows, columns])
}

/// Every stride-th value of some tensors, one after the other by torchvision's name.
fn strided(tensors: &Tensors, stride: usize, keep: impl Fn(&str) -> bool) -> Vec<f32> {
    let kept = tensors.iter().filter(|(name, _)| keep(name));
    let values = kept.flat_map(|(_, data)| data.try_to_vec::<f32>().unwrap());
    values.step_by(stride).collect()
}

/// A backbone by itself, and which of its numbers model.py keeps.
struct Case {
    name: &'static str,
    config: BackboneConfig,
    size: usize,
    /// Distance of the batch norms' biases from zero.
    margin: f64,
    /// Every how manyth value is kept.
    inputs: usize,
    gradients: usize,
    statistics: usize,
}

fn check(case: Case) {
    let golden = Golden::read(case.name);
    let (plain, device) = (Device::flex(), Device::flex().autodiff());
    // The smallest head there is, and no prototypes: the numbers are the backbone's.
    let config = NetworkConfig {
        backbone: case.config,
        hidden: 0,
        head_norm: true,
        dim: 1,
        prototypes: vec![],
    };
    let network = network(&config, case.margin);
    let shape = [4, 3, case.size, case.size];
    let x = |i: usize, device: &Device| image(&format!("input.{i}"), shape, device);

    golden.check("eval", &host(network.valid().features(x(0, &plain))));

    let input = x(0, &device).require_grad();
    let features = network.features(input.clone());
    golden.check("train", &host(features.clone()));
    let probe = probe("probe", &features);
    let grads = (features * probe).sum().backward();
    let gradient = host(input.grad(&grads).unwrap());
    let gradient: Vec<f32> = gradient.into_iter().step_by(case.inputs).collect();
    golden.check("input_gradient", &gradient);
    let grads = gradients(&network, &grads);
    let of_backbone = |name: &str| !name.starts_with("pro");
    golden.check("gradients", &strided(&grads, case.gradients, of_backbone));

    network.features(x(1, &device));
    network.features(x(2, &device));
    let statistics = |name: &str| name.contains("running_");
    let tensors = weights::export(&network);
    golden.check(
        "statistics",
        &strided(&tensors, case.statistics, statistics),
    );
    golden.check("eval_after", &host(network.valid().features(x(0, &plain))));
}

#[test]
fn resnet18_is_pytorchs() {
    check(Case {
        name: "resnet18",
        config: backbone("resnet18", 1.0, Stem::Imagenet),
        size: 64,
        margin: 1.0,
        inputs: 7,
        gradients: 2003,
        statistics: 1,
    });
}

#[test]
fn resnet50_is_pytorchs() {
    check(Case {
        name: "resnet50",
        config: backbone("resnet50", 1.0, Stem::Imagenet),
        size: 64,
        margin: 3.0,
        inputs: 7,
        gradients: 4001,
        statistics: 7,
    });
}

#[test]
fn resnext50_is_pytorchs() {
    check(Case {
        name: "resnext50",
        config: backbone("resnext50_32x4d", 1.0, Stem::Imagenet),
        size: 64,
        margin: 3.0,
        inputs: 13,
        gradients: 8009,
        statistics: 13,
    });
}

#[test]
fn a_resnet50_of_quarter_width_is_pytorchs() {
    check(Case {
        name: "slim50",
        config: backbone("resnet50", 0.25, Stem::Imagenet),
        size: 64,
        margin: 3.0,
        inputs: 13,
        gradients: 499,
        statistics: 13,
    });
}

#[test]
fn the_cifar_stem_is_pytorchs() {
    check(Case {
        name: "cifar18",
        config: backbone("resnet18", 1.0, Stem::Cifar),
        size: 32,
        margin: 1.0,
        inputs: 5,
        gradients: 4001,
        statistics: 7,
    });
}

#[test]
fn head_prototypes_and_the_multi_crop_forward_are_pytorchs() {
    let golden = Golden::read("network");
    let config = NetworkConfig {
        backbone: backbone("resnet18", 0.25, Stem::Cifar),
        hidden: 64,
        head_norm: true,
        dim: 16,
        prototypes: vec![10, 7],
    };
    let mut network = network(&config, 1.0);
    network.prototypes = network.prototypes.normalise();
    let device = Device::flex().autodiff();
    let outputs = network.forward(vec![
        image("input.large", [8, 3, 32, 32], &device),
        image("input.small", [12, 3, 16, 16], &device),
    ]);
    golden.check("embeddings", &host(outputs.embeddings.clone()));
    let mut loss = Tensor::<1>::zeros([1], &device);
    for (i, scores) in outputs.scores.into_iter().enumerate() {
        golden.check(&format!("scores.{i}"), &host(scores.clone()));
        let probe = probe(&format!("probe.{i}"), &scores);
        loss = loss + (scores * probe).sum();
    }
    let grads = gradients(&network, &loss.backward());
    let of_head = |name: &str| name.starts_with("pro");
    golden.check("head_gradients", &strided(&grads, 1, of_head));
    golden.check(
        "backbone_gradients",
        &strided(&grads, 97, |name| !of_head(name)),
    );
    let statistics = |name: &str| name.contains("running_");
    golden.check(
        "statistics",
        &strided(&weights::export(&network), 1, statistics),
    );
}
