//! A network whose maps are `bf16`, against the same with maps of `f32`.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor};
use common::{gradients, image, relative};
use swav_model::ops::plainly;
use swav_model::{Network, NetworkConfig, Stem};

const BATCH: usize = 16;

fn network(name: &str, width: f64, stem: Stem) -> NetworkConfig {
    NetworkConfig {
        backbone: common::backbone(name, width, stem),
        hidden: 32,
        head_norm: true,
        dim: 16,
        prototypes: vec![20],
    }
}

/// The loss of a batch, and its gradients.
fn learn(network: &Network, dtype: DType, device: &Device) -> (f64, BTreeMap<String, Vec<f32>>) {
    let crops = [("large", 2, 32), ("small", 3, 24)];
    let crops = crops.map(|(name, count, side)| {
        let crops: Tensor<4> = image(name, [count * BATCH, 3, side, side], device);
        crops.cast(dtype)
    });
    let outputs = network.forward(crops.to_vec());
    for tensor in [
        &outputs.projections,
        &outputs.embeddings,
        &outputs.scores[0],
    ] {
        assert_eq!(tensor.dtype(), DType::F32);
    }
    let scores = outputs.scores[0].clone() / 0.1;
    let wanted: Tensor<2> = image("wanted", scores.dims(), device);
    let loss = (scores - wanted).square().mean();
    let found = gradients(network, &loss.backward()).into_iter();
    let found = found.map(|(name, values)| (name, values.try_to_vec().unwrap()));
    (loss.into_scalar(), found.collect())
}

/// Burn's own convolutions of `bf16`, each rounded on its own, are as far from `f32` as rounding makes them; the kernels must not
/// be further.
#[test]
fn gradients_of_each_layer_are_as_near_to_those_in_f32_as_rounding_allows() {
    let device = Device::flex().autodiff();
    for (name, width, stem) in [
        ("resnet18", 0.25, Stem::Cifar),
        ("resnet18", 0.25, Stem::Imagenet),
        ("resnet50", 0.25, Stem::Cifar),
    ] {
        let network = network(name, width, stem).init(3, &device);
        let (exact_loss, exact) = learn(&network, DType::F32, &device);
        let (loss, ours) = learn(&network, DType::BF16, &device);
        let (plain_loss, plain) = plainly(|| learn(&network, DType::BF16, &device));
        let off = |loss: f64| (loss / exact_loss - 1.0).abs();
        assert!(
            off(loss) < 3e-2 && off(plain_loss) < 3e-2,
            "{name}: {loss}, {plain_loss}, {exact_loss}"
        );
        assert_eq!([ours.len(), plain.len()], [exact.len(); 2]);
        let mut worst: BTreeMap<u64, String> = BTreeMap::new();
        let length = |values: &[f32]| values.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
        let all = exact
            .values()
            .map(|layer| length(layer).powi(2))
            .sum::<f64>()
            .sqrt();
        for (name, exact) in &exact {
            // A bias before a batch norm has no gradient but rounding's.
            if length(exact) < 1e-5 * all {
                continue;
            }
            let [error, allowed] = [&ours, &plain].map(|found| relative(&found[name], exact));
            let ratio = error / allowed.max(1e-2);
            worst.insert(
                (ratio * 1e3) as u64,
                format!("{name}: {error:.1e} and {allowed:.1e}"),
            );
        }
        let (&ratio, text) = worst.last_key_value().unwrap();
        assert!(ratio < 2000, "{name} {stem:?}: {text}");
        println!("{name} {stem:?}: loss {:.1e}, worst {text}", off(loss));
    }
}
