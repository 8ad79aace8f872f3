//! Checkpoints as other training programs lay them out, written here byte by byte: wherever the network lies in them, it is found,
//! and what is no network is told by its names.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use std::collections::BTreeMap;

use burn::tensor::{Device, TensorData};
use common::{host, image, init, small};
use swav_model::weights::{self, Pretrained, WeightsError};
use swav_model::{Network, NetworkConfig};

type Tensors = BTreeMap<String, TensorData>;

/// A pickle on its way: the opcodes of protocol 2.
#[derive(Clone, Default)]
struct Pickle(Vec<u8>);

impl Pickle {
    fn text(mut self, text: &str) -> Self {
        self.0.push(b'X');
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    fn code(mut self, code: impl AsRef<[u8]>) -> Self {
        self.0.extend(code.as_ref());
        self
    }

    fn int(self, value: usize) -> Self {
        self.code(b"J").code((value as u32).to_le_bytes())
    }

    fn global(self, module: &str, name: &str) -> Self {
        self.code(format!("c{module}\n{name}\n"))
    }

    /// `key: value` in the dictionary on top.
    fn entry(self, key: &str, value: &Self) -> Self {
        self.text(key).code(&value.0).code(b"s")
    }
}

fn dict<'a>(entries: impl IntoIterator<Item = (&'a str, Pickle)>) -> Pickle {
    let empty = Pickle::default().code(b"}");
    let entries = entries.into_iter();
    entries.fold(empty, |dict, (key, value)| dict.entry(key, &value))
}

/// A file being written: the pickle, and the storages it names.
#[derive(Default)]
struct File {
    storages: Vec<Vec<u8>>,
}

impl File {
    /// A tensor with a storage of its own.
    fn tensor(&mut self, data: &TensorData) -> Pickle {
        let values = data.clone().try_to_vec::<f32>().unwrap();
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.storages.push(bytes.collect());
        self.view(self.storages.len() - 1, data.shape().as_slice())
    }

    /// A tensor of a storage that is there already.
    fn view(&self, storage: usize, shape: &[usize]) -> Pickle {
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        let sizes = |pickle: Pickle, sizes: &[usize]| {
            let pickle = sizes.iter().fold(pickle.code(b"("), |p, &size| p.int(size));
            pickle.code(b"t")
        };
        let count = self.storages[storage].len() / 4;
        let pickle = Pickle::default()
            .global("torch._utils", "_rebuild_tensor_v2")
            .code(b"((")
            .text("storage")
            .global("torch", "FloatStorage")
            .text(&storage.to_string())
            .text("cpu")
            .int(count)
            .code(b"tQ")
            .int(0);
        let pickle = sizes(sizes(pickle, shape), &strides);
        pickle.code(b"\x89}tR")
    }

    /// All tensors, with `front` before their names.
    fn tensors(&mut self, front: &str, tensors: &Tensors) -> Pickle {
        let empty = Pickle::default().code(b"}");
        tensors.iter().fold(empty, |dict, (name, data)| {
            let tensor = self.tensor(data);
            dict.entry(&format!("{front}{name}"), &tensor)
        })
    }

    /// The zip archive of a pickle.
    fn zip(&self, root: &Pickle) -> Vec<u8> {
        let pickle = [&b"\x80\x02"[..], &root.0, b"."].concat();
        let mut entries = vec![("archive/data.pkl".to_string(), pickle)];
        let storages = self.storages.iter().enumerate();
        entries.extend(storages.map(|(i, bytes)| (format!("archive/data/{i}"), bytes.clone())));
        let (mut file, mut directory) = (Vec::new(), Vec::new());
        let number = entries.len() as u16;
        for (name, bytes) in entries {
            let mut fixed = vec![0, 0, 0, 0, 0, 0, 0, 0];
            fixed.extend(crc32fast::hash(&bytes).to_le_bytes());
            fixed.extend((bytes.len() as u32).to_le_bytes());
            fixed.extend((bytes.len() as u32).to_le_bytes());
            fixed.extend((name.len() as u16).to_le_bytes());
            fixed.extend([0, 0]);
            directory.extend(b"PK\x01\x02\x14\x00\x14\x00");
            directory.extend(&fixed);
            directory.extend([0; 10]);
            directory.extend((file.len() as u32).to_le_bytes());
            directory.extend(name.as_bytes());
            file.extend(b"PK\x03\x04\x14\x00");
            file.extend(&fixed);
            file.extend(name.as_bytes());
            file.extend(bytes);
        }
        let start = file.len() as u32;
        file.extend(&directory);
        file.extend(b"PK\x05\x06\x00\x00\x00\x00");
        file.extend(number.to_le_bytes());
        file.extend(number.to_le_bytes());
        file.extend((directory.len() as u32).to_le_bytes());
        file.extend(start.to_le_bytes());
        file.extend([0, 0]);
        file
    }
}

fn opened(bytes: &[u8]) -> Result<Pretrained, WeightsError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.pth");
    std::fs::write(&path, bytes).unwrap();
    Pretrained::open(&path)
}

fn refused(bytes: &[u8]) -> String {
    opened(bytes).map(|_| ()).unwrap_err().to_string()
}

/// A network of a backbone alone.
fn network(seed: u64) -> Network {
    let config = NetworkConfig {
        hidden: 0,
        dim: 0,
        prototypes: Vec::new(),
        ..small()
    };
    init(&config, seed, &Device::flex())
}

fn features(network: &Network) -> Vec<f32> {
    host(network.features(image("x", [1, 3, 32, 32], &Device::flex())))
}

#[track_caller]
fn holds(bytes: &[u8], network: &Network) -> Pretrained {
    let file = opened(bytes).unwrap();
    let read = file.clone().into_network(&Device::flex()).unwrap();
    assert_eq!(features(&read), features(network));
    file
}

#[test]
fn a_network_is_found_whatever_stands_in_front_of_its_names() {
    let network = network(1);
    let tensors = weights::export(&network);
    for front in [
        "",
        "module.",
        "_orig_mod.",
        "module._orig_mod.",
        "backbone.",
        "encoder.",
        "module.backbone.",
        "model._orig_mod.",
        "trunk._feature_blocks.",
    ] {
        let mut file = File::default();
        let root = file.tensors(front, &tensors);
        holds(&file.zip(&root), &network);
        let nested = dict([("state_dict", root), ("epoch", Pickle::default().int(3))]);
        let read = holds(&file.zip(&nested), &network);
        assert_eq!(read.beside(), ["epoch"], "{front}");
        assert!(read.left_over().is_empty(), "{front}");
    }
    let mut file = File::default();
    let trunk = file.tensors("_feature_blocks.", &tensors);
    let model = dict([("base_model", dict([("model", dict([("trunk", trunk)]))]))]);
    holds(&file.zip(&dict([("classy_state_dict", model)])), &network);
}

#[test]
fn the_layers_of_a_sequence_go_by_their_numbers() {
    let network = network(1);
    let tensors = weights::export(&network).into_iter().map(|(name, data)| {
        let name = name.replacen("conv1.", "0.", usize::from(name.starts_with("conv1.")));
        let name = name.replacen("bn1.", "1.", usize::from(name.starts_with("bn1.")));
        let stage = |name: String, i: usize| {
            name.replacen(&format!("layer{i}."), &format!("{}.", i + 3), 1)
        };
        ((1..=4).fold(name, stage), data)
    });
    let tensors: Tensors = tensors.collect();
    for front in ["", "backbone."] {
        let mut file = File::default();
        let root = file.tensors(front, &tensors);
        let read = holds(&file.zip(&dict([("state_dict", root)])), &network);
        assert!(read.front().is_some(), "it is said what was taken");
    }
}

#[test]
fn of_a_network_and_the_copy_that_follows_it_the_network_is_taken() {
    let (network, other) = (network(1), network(2));
    let (tensors, others) = (weights::export(&network), weights::export(&other));
    for (front, copy) in [
        ("module.encoder_q.", "module.encoder_k."),
        ("backbone.", "momentum_backbone."),
        ("online_encoder.", "target_encoder."),
        ("teacher.backbone.", "student.module.backbone."),
    ] {
        let mut file = File::default();
        let mut both = Tensors::new();
        both.extend(
            tensors
                .iter()
                .map(|(n, t)| (format!("{front}{n}"), t.clone())),
        );
        both.extend(
            others
                .iter()
                .map(|(n, t)| (format!("{copy}{n}"), t.clone())),
        );
        let root = file.tensors("", &both);
        let read = holds(&file.zip(&dict([("state_dict", root)])), &network);
        let taken = read.front().unwrap();
        assert!(taken.ends_with(front), "{taken}");
    }
}

#[test]
fn two_networks_of_which_neither_is_a_copy_are_refused_by_their_names() {
    let (mut file, tensors) = (File::default(), weights::export(&network(1)));
    let (one, other) = (
        file.tensors("", &tensors),
        file.tensors("", &weights::export(&network(2))),
    );
    let told = refused(&file.zip(&dict([("left", one), ("right", other)])));
    assert!(
        told.contains("`left.`") && told.contains("`right.`"),
        "{told}"
    );
}

#[test]
fn one_storage_under_two_names_is_one_network() {
    let network = network(1);
    let tensors = weights::export(&network);
    let mut file = File::default();
    let root = file.tensors("", &tensors);
    // The same tensors once more, and a wide view of one of them.
    let wide = file.view(0, &[1]);
    let whole = dict([
        ("state_dict", root.clone()),
        ("model", root.clone()),
        ("queue", wide),
    ]);
    holds(&file.zip(&whole), &network);
}

#[test]
fn what_lies_beside_the_weights_may_be_of_any_class() {
    let network = network(1);
    let tensors = weights::export(&network);
    let mut file = File::default();
    let root = file.tensors("module.", &tensors);
    let plain = || Pickle::default();
    let called = |module: &str, name: &str, arguments: Pickle| {
        plain()
            .global(module, name)
            .code(b"(")
            .code(arguments.0)
            .code(b"tR")
    };
    let default_dict = called(
        "collections",
        "defaultdict",
        plain().global("builtins", "list"),
    )
    .entry("a", &plain().int(1));
    let attributes = plain()
        .global("lightning_fabric.utilities.data", "AttributeDict")
        .code(b")\x81")
        .entry("lr", &plain().int(1))
        .code(b"}b");
    let level = called("my_project.config", "Level", plain().int(2));
    let object = plain()
        .global("my_project", "Settings")
        .code(b")\x81}")
        .entry("width", &plain().int(2))
        .code(b"b");
    let subclass = plain()
        .global("torch._tensor", "_rebuild_from_type_v2")
        .code(b"(")
        .global("torch._utils", "_rebuild_tensor_v2")
        .global("my_project", "Tagged")
        .code(b"(N")
        .int(1)
        .code(b"t}tR");
    let whole = dict([
        ("history", default_dict),
        ("hyper_parameters", attributes),
        ("level", level),
        ("settings", object),
        ("state_dict", root),
    ]);
    let read = holds(&file.zip(&whole), &network);
    assert_eq!(
        read.beside(),
        ["history", "hyper_parameters", "level", "settings"]
    );
    // A subclass of a tensor whose arguments make none is damage, and no panic.
    refused(&file.zip(&dict([("odd", subclass)])));
}

#[test]
fn a_parameter_and_a_subclass_of_a_tensor_are_tensors() {
    let network = network(1);
    let mut file = File::default();
    let mut root = Pickle::default().code(b"}");
    for (i, (name, data)) in weights::export(&network).iter().enumerate() {
        let tensor = file.tensor(data);
        let wrapped = match i % 3 {
            0 => tensor,
            1 => Pickle::default()
                .global("torch._utils", "_rebuild_parameter")
                .code(b"(")
                .code(&tensor.0)
                .code(b"\x88}tR"),
            _ => {
                // Without the call itself: function, class, arguments, state.
                let arguments = tensor.0.strip_suffix(b"R").unwrap();
                let function = b"ctorch._utils\n_rebuild_tensor_v2\n";
                let arguments = arguments.strip_prefix(function).unwrap();
                Pickle::default()
                    .global("torch._tensor", "_rebuild_from_type_v2")
                    .code(b"(")
                    .code(function)
                    .global("my_project", "Tagged")
                    .code(arguments)
                    .code(b"}tR")
            }
        };
        root = root.entry(name, &wrapped);
    }
    holds(&file.zip(&root), &network);
}

#[test]
fn a_file_without_a_network_is_told_by_its_names() {
    let mut file = File::default();
    let weight = TensorData::new(vec![0.0f32; 12], [3, 4]);
    let tensors: Tensors = [("blocks.0.attn.qkv.weight".to_string(), weight)].into();
    let root = file.tensors("", &tensors);
    let told = refused(&file.zip(&dict([("model", root)])));
    assert!(told.contains("model.blocks.0.attn.qkv.weight"), "{told}");
    assert!(!told.contains("holds no tensors"), "{told}");
    let told = refused(&File::default().zip(&dict([("epoch", Pickle::default().int(3))])));
    assert!(
        told.contains("no tensors") && told.contains("epoch"),
        "{told}"
    );
    let module = Pickle::default()
        .global("torchvision.models.resnet", "ResNet")
        .code(b")\x81}b");
    let told = refused(&File::default().zip(&module));
    assert!(told.contains("state_dict"), "{told}");
}

#[test]
fn a_flipped_bit_in_a_weight_is_found_by_its_checksum() {
    let network = network(1);
    let mut file = File::default();
    let root = file.tensors("", &weights::export(&network));
    let whole = file.zip(&root);
    let storage = &file.storages[0];
    let at = whole
        .windows(storage.len())
        .position(|part| part == storage)
        .unwrap();
    for offset in [0, storage.len() / 2, storage.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at + offset] ^= 1;
        let told = refused(&damaged);
        assert!(told.contains("checksum"), "{told}");
    }
}

/// Numbers that depend on the seed alone (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % most as u64) as usize
    }

    /// Some bytes changed, cut out, or said twice.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len().max(1));
            let end = (at + self.below(9)).min(bytes.len());
            match self.below(5) {
                0 => drop(bytes.drain(at..end)),
                1 => {
                    let part = bytes[at..end].to_vec();
                    let to = self.below(bytes.len().max(1));
                    bytes.splice(to..to, part);
                }
                _ if at < bytes.len() => {
                    let interesting = [0, 1, 0x7f, 0x80, 0xff, b'}', b't', b'R', b's', b'(', b'.'];
                    bytes[at] = match self.below(2) {
                        0 => interesting[self.below(interesting.len())],
                        _ => self.below(256) as u8,
                    };
                }
                _ => {}
            }
        }
    }
}

/// With checksums that agree, so that the damage reaches the readers behind them; `SWAV_TEST_CASES` asks for more.
#[test]
fn whatever_is_in_a_file_of_weights_is_refused_or_read() {
    let cases = std::env::var("SWAV_TEST_CASES").ok();
    let cases = cases.and_then(|cases| cases.parse().ok()).unwrap_or(600);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights");
    let network = network(1);
    let tensors = weights::export(&network);
    let mut file = File::default();
    let root = file.tensors("module.", &tensors);
    let root = dict([("state_dict", root), ("epoch", Pickle::default().int(3))]);
    let mut others = Vec::new();
    weights::save(&network, &path).unwrap();
    others.push(std::fs::read(&path).unwrap());
    weights::save_safetensors(&network, &path).unwrap();
    others.push(std::fs::read(&path).unwrap());
    others.push(file.zip(&root));

    let mut random = Random(1);
    let (mut read, mut refused) = (0, 0);
    for case in 0..cases {
        let bytes = match case % 2 {
            0 => {
                let mut root = root.clone();
                random.damage(&mut root.0);
                file.zip(&root)
            }
            _ => {
                let mut bytes = others[random.below(others.len())].clone();
                // Mostly where the structure is: at the beginning and at the end.
                let (length, part) = (bytes.len(), random.below(3));
                let end = bytes.split_off(length.min([4096, length - 4096, length][part]));
                if part == 1 {
                    let mut end = end;
                    random.damage(&mut end);
                    bytes.extend(end);
                } else {
                    random.damage(&mut bytes);
                    bytes.extend(end);
                }
                bytes
            }
        };
        std::fs::write(&path, bytes).unwrap();
        let network = Pretrained::open(&path).and_then(|file| file.into_network(&Device::flex()));
        match network {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    println!("{cases} files: {read} read, {refused} refused");
    assert!(
        read > 0 && refused > cases / 10,
        "{read} read, {refused} refused"
    );
}
