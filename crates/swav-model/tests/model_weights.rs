//! Weights in files.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use common::{backbone, host, image, init, small};
use swav_model::weights::{self, Mismatch, WeightsError};
use swav_model::{Network, NetworkConfig, Stem};
use tempfile::TempDir;

/// Id and values of every parameter and buffer.
fn everything(network: &Network) -> BTreeMap<String, (ParamId, Vec<f32>)> {
    #[derive(Default)]
    struct Collect {
        path: Vec<String>,
        found: BTreeMap<String, (ParamId, Vec<f32>)>,
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = host(param.val());
            self.found.insert(self.path.join("."), (param.id, values));
        }
    }
    let mut collect = Collect::default();
    network.visit(&mut collect);
    collect.found
}

fn values(network: &Network) -> BTreeMap<String, Vec<f32>> {
    let everything = everything(network).into_iter();
    everything
        .map(|(name, (_, values))| (name, values))
        .collect()
}

/// A network in the middle of training: its statistics are not those it started with.
fn trained(config: &NetworkConfig, seed: u64) -> Network {
    let device = Device::flex().autodiff();
    let network = init(config, seed, &device);
    network.forward(vec![image("training", [4, 3, 16, 16], &device)]);
    network
}

fn place(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    (dir, path)
}

fn mismatch(result: Result<Network, WeightsError>) -> (Mismatch, String) {
    match result.map(|_| ()).unwrap_err() {
        error @ WeightsError::Mismatch(_) => {
            let message = error.to_string();
            let WeightsError::Mismatch(mismatch) = error else {
                unreachable!()
            };
            (*mismatch, message)
        }
        other => panic!("expected a mismatch, got: {other}"),
    }
}

#[test]
fn a_saved_network_comes_back_exactly_with_its_statistics_and_ids() {
    let (_dir, path) = place("network.bpk");
    let saved = trained(&small(), 1);
    weights::save(&saved, &path).unwrap();
    let device = Device::flex().autodiff();
    let loaded = weights::load(init(&small(), 2, &device), &path).unwrap();
    assert_eq!(everything(&loaded), everything(&saved));
    assert_eq!(weights::describe(&path).unwrap(), small());
    // It goes on training: gradients are wanted, and the device is the one it was built on.
    let x = image("x", [4, 3, 16, 16], &device);
    let gradients = loaded.forward(vec![x]).scores.remove(0).sum().backward();
    let weight = loaded.prototypes.param_ids();
    assert_eq!(weight, saved.prototypes.param_ids());
    drop(gradients);
}

#[test]
fn the_last_forward_of_a_training_network_is_in_what_is_saved() {
    // Burn's RunningState holds the newest update back until the next forward; a network saved
    // between two steps missed it.
    let (_dir, path) = place("network.bpk");
    let device = Device::flex().autodiff();
    let network = init(&small(), 1, &device);
    let statistics = |network: &Network| values(network)["backbone.stem.bn1.running_mean"].clone();
    for step in 0..3 {
        let before = statistics(&network);
        let x = image(&format!("step {step}"), [4, 3, 16, 16], &device);
        network.forward(vec![x]);
        assert_ne!(statistics(&network), before);
        weights::save(&network, &path).unwrap();
        let loaded = weights::load(init(&small(), 2, &Device::flex()), &path).unwrap();
        assert_eq!(values(&loaded), values(&network));
        assert_eq!(values(&loaded), values(&network.valid()));
        // Burn's own record of the network has it too.
        let record = network.clone().into_record();
        let recorded = init(&small(), 3, &device).load_record(record);
        assert_eq!(everything(&recorded), everything(&network));
    }
}

#[test]
fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
    for save in [weights::save, weights::save_safetensors] {
        let (dir, path) = place("network");
        save(&trained(&small(), 1), &path).unwrap();
        save(&trained(&small(), 2), &path).unwrap();
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(files.len(), 1);
        let nowhere = dir.path().join("missing").join("network");
        let error = save(&trained(&small(), 1), &nowhere).unwrap_err();
        assert!(matches!(error, WeightsError::Io { .. }), "{error}");
    }
}

#[test]
fn a_truncated_or_foreign_file_is_an_error() {
    type Load = fn(Network, &Path) -> Result<Network, WeightsError>;
    type Save = fn(&Network, &Path) -> Result<(), WeightsError>;
    let formats: [(Save, Load); 2] = [
        (weights::save, weights::load),
        (weights::save_safetensors, weights::load_safetensors),
    ];
    let network = init(&small(), 1, &Device::flex());
    for (save, load) in formats {
        let (_dir, path) = place("network");
        save(&network, &path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let lengths = [0, 1, 7, 8, 9, 40, 300, whole.len() / 2, whole.len() - 1];
        for length in lengths {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = load(network.clone(), &path).map(|_| ()).unwrap_err();
            assert!(
                matches!(error, WeightsError::Format { .. }),
                "{length}: {error}"
            );
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
        }
        // Damage in the head of the file: an error or another reading of it, but no panic.
        for at in 0..whole.len().min(400) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            std::fs::write(&path, &damaged).unwrap();
            let _ = load(network.clone(), &path);
        }
        for foreign in [
            &b"PK\x03\x04 a zip"[..],
            b"{\"json\": true}",
            &[0xff; 4096],
            &[0; 4096],
        ] {
            std::fs::write(&path, foreign).unwrap();
            let error = load(network.clone(), &path).map(|_| ()).unwrap_err();
            assert!(matches!(error, WeightsError::Format { .. }), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = load(network.clone(), &path).map(|_| ()).unwrap_err();
        assert!(matches!(error, WeightsError::Io { .. }), "{error}");
    }
}

#[test]
fn a_file_of_another_network_is_refused_with_both_named() {
    let (_dir, path) = place("network.bpk");
    let device = Device::flex();
    weights::save(&init(&small(), 1, &device), &path).unwrap();

    let other = NetworkConfig {
        backbone: backbone("resnet18", 0.25, Stem::Cifar),
        ..small()
    };
    let (found, message) = mismatch(weights::load(init(&other, 1, &device), &path));
    let conv1 = found
        .shapes
        .iter()
        .find(|s| s.name == "backbone.stem.conv1.weight")
        .unwrap();
    assert_eq!(
        (&conv1.network[..], &conv1.file[..]),
        (&[16, 3, 3, 3][..], &[8, 3, 3, 3][..])
    );
    assert!(
        message.contains("resnet18 (width 0.25, cifar stem)"),
        "{message}"
    );
    assert!(
        message.contains("resnet18 (width 0.125, cifar stem)"),
        "{message}"
    );

    let deeper = NetworkConfig {
        backbone: backbone("resnet34", 0.125, Stem::Cifar),
        ..small()
    };
    let (found, message) = mismatch(weights::load(init(&deeper, 1, &device), &path));
    assert!(
        found
            .missing
            .iter()
            .any(|name| name == "backbone.layer1.2.conv1.weight")
    );
    assert!(
        found.left_over.is_empty() && message.contains("missing in the file"),
        "{message}"
    );

    let one = NetworkConfig {
        prototypes: vec![10],
        ..small()
    };
    let (found, _) = mismatch(weights::load(init(&one, 1, &device), &path));
    assert_eq!(found.left_over, ["prototypes.heads.1.weight"]);
}

#[test]
fn safetensors_carry_torchvisions_names_and_pytorchs_layout() {
    let (_dir, path) = place("network.safetensors");
    let saved = trained(&small(), 1);
    weights::save_safetensors(&saved, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let shape = |name: &str| file.tensor(name).unwrap().shape().to_vec();
    assert_eq!(shape("conv1.weight"), [8, 3, 3, 3]);
    assert_eq!(shape("bn1.running_mean"), [8]);
    assert_eq!(shape("layer1.0.conv1.weight"), [8, 8, 3, 3]);
    assert_eq!(shape("layer2.0.downsample.0.weight"), [16, 8, 1, 1]);
    assert_eq!(shape("layer2.0.downsample.1.running_var"), [16]);
    assert_eq!(shape("projection_head.0.weight"), [24, 64]);
    assert_eq!(shape("projection_head.1.running_var"), [24]);
    assert_eq!(shape("projection_head.3.weight"), [12, 24]);
    assert_eq!(shape("prototypes.prototypes1.weight"), [7, 12]);

    let network = init(&small(), 2, &Device::flex());
    let ids = network.prototypes.param_ids();
    let loaded = weights::load_safetensors(network, &path).unwrap();
    assert_eq!(values(&loaded), values(&saved));
    assert_eq!(
        loaded.prototypes.param_ids(),
        ids,
        "SafeTensors have no ids to take over"
    );
}

#[test]
fn a_single_head_and_a_single_layer_have_the_names_of_the_reference() {
    let config = NetworkConfig {
        hidden: 0,
        head_norm: true,
        prototypes: vec![10],
        ..small()
    };
    let network = init(&config, 1, &Device::flex());
    let mut tensors = weights::export(&network);
    assert!(tensors.contains_key("projection_head.weight"));
    assert!(tensors.contains_key("projection_head.bias"));
    let loaded = weights::import(init(&config, 2, &Device::flex()), tensors.clone()).unwrap();
    assert_eq!(values(&loaded), values(&network));
    // The reference also writes a list of one head.
    let head = tensors.remove("prototypes.weight").unwrap();
    tensors.insert("prototypes.prototypes0.weight".to_owned(), head);
    let loaded = weights::import(init(&config, 2, &Device::flex()), tensors).unwrap();
    assert_eq!(values(&loaded), values(&network));
}

#[test]
fn a_torchvision_classifier_becomes_a_backbone() {
    let device = Device::flex();
    let source = init(&small(), 1, &device);
    let mut tensors = weights::export(&source);
    tensors.retain(|name, _| !name.starts_with("pro"));
    tensors.insert(
        "fc.weight".to_owned(),
        TensorData::new(vec![0f32; 6], [2, 3]),
    );
    tensors.insert(
        "bn1.num_batches_tracked".to_owned(),
        TensorData::new(vec![7i64], [1]),
    );
    let prefixed = |prefix: &str| {
        let tensors = tensors.iter();
        tensors
            .map(|(name, data)| (format!("{prefix}{name}"), data.clone()))
            .collect()
    };
    for prefix in ["", "module.", "backbone.", "module.backbone."] {
        let network = init(&small(), 2, &device);
        let mut expected = values(&network);
        for (name, value) in values(&source) {
            if name.starts_with("backbone.") {
                expected.insert(name, value);
            }
        }
        let loaded = weights::import_backbone(network, prefixed(prefix)).unwrap();
        assert_eq!(values(&loaded), expected);
    }
    // As a whole network it is refused, in the file's own words.
    let (found, message) = mismatch(weights::import(
        init(&small(), 2, &device),
        prefixed("module."),
    ));
    assert_eq!(found.left_over, ["fc.bias", "fc.weight"][1..]);
    assert!(
        found
            .missing
            .iter()
            .any(|name| name == "projection_head.0.weight"),
        "{message}"
    );
}

#[test]
fn half_precision_is_widened_and_integers_are_refused() {
    use burn::tensor::DType;
    let device = Device::flex();
    let source = init(&small(), 1, &device);
    for (dtype, error) in [
        (DType::F64, 0.0),
        (DType::BF16, 1.0 / 256.0),
        (DType::F16, 1.0 / 2048.0),
    ] {
        let tensors = weights::export(&source);
        let tensors = tensors
            .into_iter()
            .map(|(name, data)| (name, data.convert_dtype(dtype)));
        let loaded = weights::import(init(&small(), 2, &device), tensors.collect()).unwrap();
        for (name, value) in values(&loaded) {
            let expected = &values(&source)[&name];
            assert!(
                common::relative(&value, expected) <= error || expected.iter().all(|&x| x == 0.0)
            );
        }
    }
    let mut tensors = weights::export(&source);
    let counts = TensorData::new(vec![1i64; 8], [8]);
    tensors.insert("bn1.weight".to_owned(), counts);
    let error = weights::import(init(&small(), 2, &device), tensors)
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, WeightsError::NotFloat { .. }), "{error}");
}

#[test]
fn a_wrong_linear_shape_is_reported_as_the_file_has_it() {
    let device = Device::flex();
    let mut tensors = weights::export(&init(&small(), 1, &device));
    let wrong = TensorData::new(vec![0f32; 11 * 12], [11, 12]);
    tensors.insert("prototypes.prototypes0.weight".to_owned(), wrong);
    let (found, _) = mismatch(weights::import(init(&small(), 2, &device), tensors));
    assert_eq!(found.shapes.len(), 1);
    assert_eq!(found.shapes[0].network, [10, 12]);
    assert_eq!(found.shapes[0].file, [11, 12]);
}
