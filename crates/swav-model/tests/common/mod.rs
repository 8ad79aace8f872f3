//! What the integration tests share.

#![allow(dead_code)] // each test binary uses a part

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use swav_model::weights::{self, Tensors};
use swav_model::{BackboneConfig, Network, NetworkConfig, Stem};

pub fn backbone(name: &str, width: f64, stem: Stem) -> BackboneConfig {
    let name = name.parse().unwrap();
    BackboneConfig { name, width, stem }
}

/// A network small enough for a test.
pub fn small() -> NetworkConfig {
    NetworkConfig {
        backbone: backbone("resnet18", 0.125, Stem::Cifar),
        hidden: 24,
        head_norm: true,
        dim: 12,
        prototypes: vec![10, 7],
    }
}

pub fn init(config: &NetworkConfig, seed: u64, device: &Device) -> Network {
    config.init(seed, device)
}

/// Images that depend on the name alone.
pub fn image<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let scale = 3f64.sqrt();
    let values = uniform(name, shape.iter().product());
    let values: Vec<f32> = values.map(|u| ((2.0 * u - 1.0) * scale) as f32).collect();
    Tensor::<1>::from_floats(values.as_slice(), device).reshape(shape)
}

/// Uniform numbers in [0, 1): the formula of tests/golden/model.py.
pub fn uniform(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let fnv = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    (1..=count as u64).map(move |i| {
        let mut z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f64 / (1u64 << 24) as f64
    })
}

pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// ‖a − b‖ / ‖b‖.
pub fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "as many values");
    let norm = |it: &mut dyn Iterator<Item = f64>| it.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut b.iter().map(|&b| f64::from(b)))
}

/// The gradients of a network under torchvision's names: put in the place of the weights, so that
/// the export names and transposes them.
pub fn gradients(network: &Network, gradients: &Gradients) -> Tensors {
    struct Collect<'a>(&'a Gradients, BTreeMap<ParamId, TensorData>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.0) {
                self.1.insert(param.id, gradient.into_data());
            }
        }
    }
    struct Replace(BTreeMap<ParamId, TensorData>);
    impl ModuleMapper for Replace {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match self.0.remove(&param.id) {
                Some(gradient) => param.map(|w| Tensor::from_data(gradient, &w.device())),
                None => param,
            }
        }
    }
    let mut collect = Collect(gradients, BTreeMap::new());
    network.visit(&mut collect);
    let network = network.clone().map(&mut Replace(collect.1));
    let mut gradients = weights::export(&network);
    gradients.retain(|name, _| !name.contains("running_"));
    gradients
}
