//! What the plan says of memory is what a run takes, and what does not fit is refused before it begins.

#![cfg(target_os = "linux")]

mod common;

use std::time::{Duration, Instant};

use common::{Call, Space};

/// Two resolutions of crops of the images that ship inside, and one batch ready.
const SETTINGS: &[&str] = &[
    "data.path=builtin:quickstart/train",
    "data.prefetch=1",
    "model.stem=imagenet",
    "model.prototypes=[50]",
    "train.knn=never",
    "train.log=1 step",
    "train.epochs=1",
];
const CROPS: &str = "crops=[{count=2,size=96,scale=[0.3,1.0]},{count=4,size=48,scale=[0.1,0.3]}]";

/// Bytes that the plan reckons with.
fn estimate(call: Call) -> f64 {
    call.arg("--json").run().succeeded().json()["memory_bytes"]
        .as_f64()
        .expect("a number")
}

/// The most memory, in bytes, that a run has held by its fourth step.
fn measured(space: &Space, call: Call) -> f64 {
    let mut child = call.spawn();
    let began = Instant::now();
    let mut most = 0.0_f64;
    while space.losses("run").len() < 4 {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "step 4 never came"
        );
        assert!(
            child.try_wait().expect("a child").is_none(),
            "it ended by itself"
        );
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<f64>().ok());
        most = most.max(kib.unwrap_or(0.0) * 1024.0);
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("a signal");
    child.wait().expect("an end");
    most
}

#[test]
fn the_estimate_is_what_a_run_takes() {
    for (backbone, batch, parts, checkpointed, precision) in [
        ("resnet18", 32, 1, false, "f32"),
        ("resnet18", 32, 4, false, "f32"),
        ("resnet18", 32, 1, true, "f32"),
        ("resnet18", 64, 1, false, "bf16"),
        ("resnet50", 8, 1, false, "f32"),
        ("resnet50", 16, 4, false, "f32"),
        ("resnet50", 16, 2, true, "f32"),
        ("resnet50", 16, 1, false, "bf16"),
    ] {
        let space = Space::new();
        let settings = [
            CROPS.to_string(),
            format!("model.backbone={backbone}"),
            format!("train.batch_size={batch}"),
            format!("train.accumulate={parts}"),
            format!("train.checkpoint_activations={checkpointed}"),
            format!("train.precision={precision}"),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let call = |words: &str| space.swav(words).sets(SETTINGS).sets(&settings);
        let estimate = estimate(call("plan --device cpu"));
        let measured = measured(&space, call("train --plain --device cpu --out run"));
        let ratio = estimate / measured;
        let mib = |bytes: f64| (bytes / f64::from(1 << 20)).round();
        assert!(
            (ratio - 1.0).abs() <= 0.2,
            "{backbone}, {batch} images in {parts} parts, {precision}, activations {}: {} MiB were reckoned, {} MiB taken",
            if checkpointed {
                "computed once more"
            } else {
                "kept"
            },
            mib(estimate),
            mib(measured)
        );
    }
}

/// A batch of images so large that no machine has the memory.
const TOO_LARGE: &[&str] = &[
    "crops=[{count=2,size=4096,scale=[0.3,1.0]},{count=6,size=2048,scale=[0.1,0.3]}]",
    "model.backbone=resnet50",
    "train.batch_size=512",
];

#[test]
fn what_does_not_fit_is_refused_with_the_numbers_and_the_remedy() {
    let space = Space::new();
    for words in ["plan --device cpu", "train --device cpu --out run"] {
        space
            .swav(words)
            .sets(SETTINGS)
            .sets(TOO_LARGE)
            .run()
            .failed(
                2,
                &[
                    "GiB of memory",
                    "there are",
                    "train.batch_size",
                    "train.accumulate",
                ],
            );
    }
    assert!(!space.path("run").exists(), "nothing has begun");
}
