//! Weights that others have trained: what is in their files is read, and nothing in them is obeyed.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use common::{backbone, host, image, init, relative, small};
use safetensors::SafeTensors;
use swav_model::weights::{self, Pretrained, WeightsError};
use swav_model::{Architecture, Network, NetworkConfig, Stem};

/// Single precision, and another order of the sums.
const TOLERANCE: f64 = 1e-5;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(name)
}

/// The network of the golden checkpoints.
fn tiny() -> NetworkConfig {
    NetworkConfig {
        backbone: backbone("resnet18", 1.0 / 64.0, Stem::Imagenet),
        hidden: 96,
        head_norm: true,
        dim: 24,
        prototypes: vec![30],
    }
}

/// Features, embeddings and scores of the golden images.
fn results(network: &Network) -> [Vec<f32>; 3] {
    let images = || image("reference", [2, 3, 64, 64], &Device::flex());
    let outputs = network.forward(vec![images()]);
    let scores = outputs.scores.into_iter().next().unwrap();
    [network.features(images()), outputs.embeddings, scores].map(host)
}

fn expected() -> [Vec<f32>; 3] {
    let bytes = std::fs::read(golden("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    ["features", "embeddings", "scores"].map(|name| {
        let view = file.tensor(name).unwrap();
        let (values, _) = view.data().as_chunks::<8>();
        values
            .iter()
            .map(|&bytes| f64::from_le_bytes(bytes) as f32)
            .collect()
    })
}

/// Why a file of these bytes is refused.
fn refused(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights");
    std::fs::write(&path, bytes).unwrap();
    let error = Pretrained::open(&path).unwrap_err();
    assert!(matches!(error, WeightsError::Format { .. }), "{error}");
    let told = error.to_string();
    assert!(told.contains(path.to_str().unwrap()), "{told}");
    told
}

#[test]
fn checkpoints_of_pytorch_give_what_pytorch_makes_of_them() {
    for layout in ["zip", "legacy"] {
        let file = Pretrained::open(&golden(&format!("reference_{layout}.pth"))).unwrap();
        assert_eq!(*file.config(), tiny());
        assert_eq!(file.left_over(), &[] as &[String]);
        assert_eq!(file.beside(), ["epoch", "arch", "args", "optimizer"]);
        let network = file.into_network(&Device::flex()).unwrap();
        for (ours, theirs) in results(&network).iter().zip(&expected()) {
            let error = relative(ours, theirs);
            assert!(error < TOLERANCE, "{layout}: off by {error:.1e}");
        }
    }
}

#[test]
fn a_classifier_is_left_over_and_makes_no_head() {
    let file = Pretrained::open(&golden("reference_plain.pth")).unwrap();
    let headless = NetworkConfig {
        hidden: 0,
        head_norm: true,
        dim: 0,
        prototypes: Vec::new(),
        ..tiny()
    };
    assert_eq!(*file.config(), headless);
    assert_eq!(file.left_over(), ["fc.bias", "fc.weight"]);
    let network = file.into_network(&Device::flex()).unwrap();
    let [features, ..] = expected();
    let outputs = network.forward(vec![image("reference", [2, 3, 64, 64], &Device::flex())]);
    assert!(relative(&host(outputs.projections), &features) < TOLERANCE);
    assert!(outputs.scores.is_empty());
}

#[test]
fn what_is_saved_here_is_recognised_by_its_shapes() {
    let device = Device::flex();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights");
    type Save = fn(&Network, &Path) -> Result<(), WeightsError>;
    let configs = [
        small(),
        NetworkConfig {
            hidden: 0,
            head_norm: true,
            prototypes: Vec::new(),
            ..small()
        },
        NetworkConfig {
            head_norm: false,
            ..small()
        },
        NetworkConfig {
            backbone: backbone("resnext50_32x4d", 0.5, Stem::Imagenet),
            ..small()
        },
        NetworkConfig {
            backbone: backbone("resnet50", 0.125, Stem::Imagenet),
            prototypes: vec![9],
            ..small()
        },
    ];
    for config in configs {
        for save in [weights::save as Save, weights::save_safetensors] {
            let network = init(&config, 7, &device);
            save(&network, &path).unwrap();
            let file = Pretrained::open(&path).unwrap();
            assert!(
                file.config().backbone.is_as(&config.backbone),
                "{}",
                file.config().backbone
            );
            let recognised = NetworkConfig {
                backbone: config.backbone,
                ..file.config().clone()
            };
            assert_eq!(recognised, config);
            assert!(file.left_over().is_empty() && file.beside().is_empty());
            let again = file.into_network(&device).unwrap();
            let x = || image("x", [1, 3, 64, 64], &device);
            let embeddings = |network: Network| host(network.forward(vec![x()]).embeddings);
            assert_eq!(embeddings(network), embeddings(again));
        }
    }
}

#[test]
fn a_run_takes_the_parts_that_fit_and_says_which_do_not() {
    let device = Device::flex();
    let open = || Pretrained::open(&golden("reference_zip.pth")).unwrap();
    let (network, adopted) = open().give(init(&tiny(), 1, &device)).unwrap();
    assert_eq!(adopted.taken, ["backbone", "projection head", "prototypes"]);
    assert!(adopted.kept.is_empty());
    assert!(relative(&results(&network)[2], &expected()[2]) < TOLERANCE);

    let other = NetworkConfig {
        prototypes: vec![5],
        ..tiny()
    };
    let drawn = init(&other, 1, &device);
    let (network, adopted) = open().give(drawn.clone()).unwrap();
    assert_eq!(adopted.taken, ["backbone", "projection head"]);
    let (part, reason) = &adopted.kept[0];
    assert_eq!(*part, "prototypes");
    assert!(
        reason.contains("[5, 24]") && reason.contains("[30, 24]"),
        "{reason}"
    );
    assert!(relative(&results(&network)[1], &expected()[1]) < TOLERANCE);
    let prototypes = |network: &Network| weights::export(network)["prototypes.weight"].clone();
    assert_eq!(prototypes(&network), prototypes(&drawn));

    let error = open()
        .give(init(&small(), 1, &device))
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("of another shape"), "{error}");
}

#[test]
fn a_checkpoint_that_calls_a_program_is_refused_with_what_it_names() {
    // As `torch.save` writes it, and as a pickle of the older layout.
    let zip = std::fs::read(golden("reference_hostile.pth")).unwrap();
    let whole = std::fs::read(golden("reference_legacy.pth")).unwrap();
    let start = whole.windows(2).position(|pair| pair == b".\x80").unwrap() + 1;
    let header = &whole[..start];
    let object = b"\x80\x02cposix\nsystem\nX\x0d\x00\x00\x00touch reached\x85R.";
    let mut legacy = header.to_vec();
    legacy.extend(b"\x80\x02M\xe9\x03.\x80\x02}.");
    legacy.extend(object);
    for bytes in [zip, legacy] {
        let told = refused(&bytes);
        assert!(told.contains("`posix.system`"), "{told}");
        assert!(told.contains("nothing in it is called"), "{told}");
    }
    assert!(!Path::new("reached").exists());
}

#[test]
fn a_truncated_checkpoint_is_refused_wherever_it_was_cut() {
    for layout in ["zip", "legacy"] {
        let whole = std::fs::read(golden(&format!("reference_{layout}.pth"))).unwrap();
        let near_the_ends = (0..200).chain(whole.len() - 200..whole.len());
        for length in near_the_ends.chain((200..whole.len()).step_by(4999)) {
            refused(&whole[..length]);
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_refused_or_read_but_breaks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights");
    for name in [
        "reference_zip.pth",
        "reference_legacy.pth",
        "reference_hostile.pth",
    ] {
        let whole = std::fs::read(golden(name)).unwrap();
        let mut refusals = 0;
        for at in (0..whole.len()).step_by(whole.len() / 250 + 1) {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                std::fs::write(&path, &damaged).unwrap();
                refusals += u32::from(Pretrained::open(&path).is_err());
            }
        }
        assert!(refusals > 20, "{name}: {refusals}");
    }
}

/// The zip checkpoint with some bytes of its directory replaced, for the entry of a name.
fn directory_with(name: &str, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut whole = std::fs::read(golden("reference_zip.pth")).unwrap();
    let header = |i: &usize| {
        whole[*i..].starts_with(b"PK\x01\x02") && whole[i + 46..].starts_with(name.as_bytes())
    };
    let entry = (0..whole.len() - 46).find(header).unwrap();
    whole[entry + at..][..bytes.len()].copy_from_slice(bytes);
    whole
}

#[test]
fn what_a_file_claims_is_held_against_its_length() {
    let pickle = "reference_zip/data.pkl";
    // Deflated, as a bomb would be; encrypted; a gigabyte long; beyond the end.
    for (at, bytes, told) in [
        (10, &[8, 0][..], "compressed"),
        (8, &[1, 8][..], "encrypted"),
        (20, &[0, 0, 0, 64, 0, 0, 0, 64][..], "cut off"),
        (42, &[0xf0, 0xff, 0xff, 0x7f][..], "cut off"),
    ] {
        let refusal = refused(&directory_with(pickle, at, bytes));
        assert!(refusal.contains(told), "{refusal}");
    }
    // SafeTensors whose header would have 2⁶⁰ bytes, and one with a tensor of 2⁶⁰ elements.
    let mut long = (1u64 << 60).to_le_bytes().to_vec();
    long.extend(b"{\"conv1.weight\":");
    refused(&long);
    let header =
        br#"{"conv1.weight":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,16]}}"#;
    let mut wide = (header.len() as u64).to_le_bytes().to_vec();
    wide.extend(header);
    wide.extend([0; 16]);
    refused(&wide);
    // A tensor of 2⁶⁰ elements in a pickle of the older layout: a storage of 16 bytes with strides of zero.
    let whole = std::fs::read(golden("reference_legacy.pth")).unwrap();
    let start = whole.windows(2).position(|pair| pair == b".\x80").unwrap() + 1;
    let mut legacy = whole[..start].to_vec();
    legacy.extend(b"\x80\x02M\xe9\x03.\x80\x02}.");
    legacy.extend(b"\x80\x02}X\x0c\x00\x00\x00conv1.weight");
    legacy.extend(
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n",
    );
    legacy.extend(b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00");
    legacy.extend(b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x10\x85K\x00\x85\x89}tRs.");
    legacy.extend(b"\x80\x02]X\x01\x00\x00\x000a.");
    legacy.extend(4u64.to_le_bytes());
    legacy.extend([0; 16]);
    let told = refused(&legacy);
    assert!(told.contains("more than the whole file"), "{told}");
}

#[test]
fn a_pickle_without_an_end_takes_no_more_memory_than_it_may() {
    let whole = std::fs::read(golden("reference_legacy.pth")).unwrap();
    let start = whole.windows(2).position(|pair| pair == b".\x80").unwrap() + 1;
    let mut header = whole[..start].to_vec();
    header.extend(b"\x80\x02M\xe9\x03.\x80\x02}.\x80\x02");
    // Empty lists, one copied again and again, and marks.
    for filler in [b"]", b"2", b"("] {
        let mut bytes = header.clone();
        bytes.push(b']');
        bytes.extend(std::iter::repeat_n(filler[0], 3 << 20));
        let told = refused(&bytes);
        assert!(told.contains("no mere weights"), "{told}");
    }
    // A text of four gigabytes that is not there.
    header.extend(b"X\xff\xff\xff\xff");
    assert!(refused(&header).contains("cut off"));
}

#[test]
fn foreign_files_are_refused_with_what_would_be_read() {
    for foreign in [
        &b""[..],
        b"\x89PNG\r\n\x1a\n",
        b"%PDF-1.7",
        b"\x1f\x8b\x08",
        &[0; 4096],
    ] {
        assert!(refused(foreign).contains("PyTorch"));
    }
    let mut other = Vec::new();
    let header = br#"{"encoder.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    other.extend((header.len() as u64).to_le_bytes());
    other.extend(header);
    other.extend([0; 4]);
    let told = refused(&other);
    assert!(
        told.contains("encoder.weight") && told.contains("conv1.weight"),
        "{told}"
    );
}

#[test]
fn every_architecture_is_told_from_the_others() {
    for name in Architecture::all() {
        for stem in [Stem::Imagenet, Stem::Cifar] {
            let config = backbone(name.name(), 1.0, stem);
            for other in Architecture::all() {
                let same = config.is_as(&backbone(other.name(), 1.0, stem));
                assert_eq!(same, other == name, "{name} and {other}");
            }
        }
    }
}
