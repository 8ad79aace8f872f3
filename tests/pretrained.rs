//! Weights of others: wherever a run can stand a file of weights can, and training can begin with one.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Space;

/// Settings of a run of two steps that takes up the golden network: its backbone is not named.
const ON: &[&str] = &[
    "crops=[{count=2,size=64,scale=[0.3,1.0]}]",
    "method.freeze=never",
    "train.batch_size=8",
    "train.epochs=1",
    "train.knn=never",
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden")
        .join(name)
}

/// A place with labelled images and the golden checkpoints.
fn space() -> Space {
    let space = Space::new();
    space.classes("set", &["a", "b"], 8);
    for name in ["zip", "legacy", "plain", "hostile"] {
        let file = format!("reference_{name}.pth");
        fs::copy(golden(&file), space.path(&file)).unwrap();
    }
    space
}

#[test]
fn a_checkpoint_of_pytorch_stands_wherever_a_run_does() {
    let space = space();
    let embed = |weights: &str, layer: &str| {
        let call = format!("embed {weights} --size 64 --data set --layer {layer} --out f.npy");
        let told = space.swav(&call).run().succeeded().stderr;
        (fs::read(space.path("f.npy")).unwrap(), told)
    };
    let (features, told) = embed("reference_zip.pth", "features");
    assert!(
        told.contains("not read: epoch, arch, args, optimizer"),
        "{told}"
    );
    assert_eq!(embed("reference_legacy.pth", "features").0, features);
    let (of_plain, told) = embed("reference_plain.pth", "features");
    assert_eq!(of_plain, features);
    assert!(told.contains("left over: fc.bias, fc.weight"), "{told}");
    assert!(
        told.contains("missing: projection head, prototypes"),
        "{told}"
    );

    let (embeddings, _) = embed("reference_zip.pth", "embeddings");
    for format in ["safetensors", "burnpack"] {
        let call = format!("export reference_zip.pth --to {format} --out exported");
        space.swav(&call).run().succeeded();
        assert_eq!(embed("exported", "embeddings").0, embeddings, "{format}");
        fs::remove_file(space.path("exported")).unwrap();
    }
    let knn = "eval knn reference_zip.pth --size 64 --train set --test set --k 1 --json";
    assert!(space.swav(knn).run().succeeded().stdout.contains("1"));
    let assign = "assign reference_zip.pth --size 64 --data set --out clusters.csv";
    space.swav(assign).run().succeeded();
    let rows = fs::read_to_string(space.path("clusters.csv")).unwrap();
    assert_eq!(rows.lines().count(), 17);
}

#[test]
fn what_weights_alone_cannot_do_is_refused_with_what_is_missing() {
    let space = space();
    for (call, parts) in [
        (
            "assign reference_plain.pth --data set --out c.csv",
            ["reference_plain.pth", "no prototypes"],
        ),
        (
            "eval knn reference_zip.pth --test set",
            ["--train", "knows of no images"],
        ),
        ("report reference_zip.pth", ["reference_zip.pth", "run"]),
        (
            "embed reference_zip.pth --size 8 --data set --out f.npy",
            ["--size 8", "at least"],
        ),
        (
            "embed missing.pth --data set --out f.npy",
            ["missing.pth", "does not exist"],
        ),
    ] {
        space.swav(call).run().failed(2, &parts);
    }
}

#[test]
fn training_begins_with_the_weights_that_it_is_given() {
    let space = space();
    let told = space
        .swav("train --data set --init reference_zip.pth --out run")
        .sets(ON)
        .set("model.prototypes=[4]")
        .run()
        .succeeded()
        .stderr;
    assert!(told.contains("taken: backbone, projection head"), "{told}");
    assert!(told.contains("prototypes not taken, drawn anew"), "{told}");
    assert!(
        told.contains("[4, 24]") && told.contains("[30, 24]"),
        "{told}"
    );
    assert_eq!(space.checkpoints("run")[0], "step-00000000");

    // What it began with are the weights of the file.
    let features = |weights: &str| {
        let call = format!("embed {weights} --size 64 --data set --out f.npy");
        space.swav(&call).run().succeeded();
        fs::read(space.path("f.npy")).unwrap()
    };
    let given = features("reference_zip.pth");
    assert_eq!(features("run/checkpoints/step-00000000"), given);
    assert_ne!(features("run"), given);

    // A run may go on from another one, and needs the file no more once it has begun.
    let next = || {
        space
            .swav("train --data set --init run --out next")
            .sets(ON)
            .set("model.prototypes=[4]")
    };
    let told = next().run().succeeded().stderr;
    assert!(
        told.contains("taken: backbone, projection head, prototypes"),
        "{told}"
    );
    let last = features("next");
    fs::remove_dir_all(space.path("next/checkpoints/step-00000002")).unwrap();
    fs::remove_dir_all(space.path("run")).unwrap();
    space.swav("train --resume --out next").run().succeeded();
    assert_eq!(features("next"), last);
}

#[test]
fn weights_that_a_run_cannot_begin_with_are_refused_before_it_makes_a_directory() {
    let space = space();
    for (init, setting, parts) in [
        (
            "reference_zip.pth",
            "model.backbone=resnet50",
            ["resnet18 (width 0.015625", "resnet50"],
        ),
        (
            "reference_hostile.pth",
            "train.seed=1",
            ["reference_hostile.pth", "posix.system"],
        ),
        (
            "missing.pth",
            "train.seed=1",
            ["missing.pth", "No such file"],
        ),
        ("set/a/000.png", "train.seed=1", ["000.png", "PyTorch"]),
    ] {
        space
            .swav(&format!("train --data set --init {init} --out run"))
            .sets(ON)
            .set(setting)
            .run()
            .failed(2, &parts);
        assert!(!space.path("run").exists(), "{init}");
    }
}

/// With address space for the program itself and little else.
#[cfg(target_os = "linux")]
#[test]
fn hostile_files_are_refused_within_bounded_memory() {
    let space = space();
    let mut huge = (1u64 << 60).to_le_bytes().to_vec();
    huge.extend(b"{\"conv1.weight\":{}}");
    space.file("huge.safetensors", huge);
    let header =
        br#"{"conv1.weight":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,16]}}"#;
    let mut wide = (header.len() as u64).to_le_bytes().to_vec();
    wide.extend(header);
    wide.extend([0; 16]);
    space.file("wide.safetensors", wide);
    let whole = fs::read(golden("reference_zip.pth")).unwrap();
    space.file("cut.pth", &whole[..whole.len() / 2]);
    // The pickle as a bomb would have it: deflated, a gigabyte when unpacked.
    let entry = (0..whole.len() - 46)
        .find(|&i| {
            whole[i..].starts_with(b"PK\x01\x02")
                && whole[i + 46..].starts_with(b"reference_zip/data.pkl")
        })
        .unwrap();
    let mut bomb = whole.clone();
    bomb[entry + 10] = 8;
    bomb[entry + 24..entry + 28].copy_from_slice(&(1u32 << 30).to_le_bytes());
    space.file("bomb.pth", bomb);
    for name in [
        "huge.safetensors",
        "wide.safetensors",
        "cut.pth",
        "bomb.pth",
        "reference_hostile.pth",
    ] {
        let output = std::process::Command::new("sh")
            .args([
                "-c",
                "ulimit -v 400000; exec \"$0\" embed \"$1\" --data set --out f.npy",
            ])
            .args([env!("CARGO_BIN_EXE_swav"), name])
            .current_dir(space.path(""))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {told}");
        assert!(told.contains(name), "{told}");
    }
    assert!(!space.path("reached").exists());
}
