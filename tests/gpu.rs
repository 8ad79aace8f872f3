//! The program on a GPU, or on what stands in for one: the same losses as on the CPU, nothing lost when it is killed, and a check
//! that finds an error.
//!
//! These tests are built with the feature `wgpu`. A device in software is enough for them; it takes minutes to compile and to tune
//! kernels, which are kept between the runs here.

#![cfg(feature = "wgpu")]

mod common;

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{Call, Space};
use serde_json::Value;

/// Makes Burn run every operation by itself.
const UNFUSED: (&str, &str) = ("BURN_FUSION_MAX_EXPLORATIONS", "0");
const STEPS: usize = 20;

/// Tests take turns: side by side they would tune the same kernels on the same two cores.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fewer candidates for each kernel: what is fast on a device in software is of no interest.
fn tuned(call: Call) -> Call {
    call.env("CUBECL_AUTOTUNE_LEVEL", "minimal")
}

/// The quickstart's recipe for one epoch over a fifth of its images, each step logged.
fn quickstart(space: &Space, device: &str, run: &str) -> Call {
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/quickstart.toml");
    let call = space
        .swav(&format!(
            "train --config {recipe} --device {device} --out {run}"
        ))
        .sets(&[
            "data.path=builtin:quickstart/test",
            "train.batch_size=16",
            "train.epochs=1",
            "train.log=1 step",
            "train.checkpoint=8 steps",
            "train.knn=never",
        ]);
    tuned(call)
}

/// Runs that are never stopped: one with fused operations, and one of each operation by itself.
static WHOLE: LazyLock<Space> = LazyLock::new(|| {
    let space = Space::new();
    quickstart(&space, "wgpu", FUSED).run().succeeded();
    let unfused = quickstart(&space, "wgpu", ONE_BY_ONE);
    unfused.env(UNFUSED.0, UNFUSED.1).run().succeeded();
    space
});
const FUSED: &str = "fused";
const ONE_BY_ONE: &str = "one-by-one";

fn losses(space: &Space, run: &str) -> Vec<f64> {
    let steps = space.losses(run).into_iter();
    steps.map(|(_, bits)| f64::from_bits(bits)).collect()
}

#[test]
fn the_quickstart_has_the_losses_of_the_cpu_with_fused_operations_and_without() {
    let _turn = turn();
    let space = Space::new();
    quickstart(&space, "cpu", "cpu").run().succeeded();
    let expected = losses(&space, "cpu");
    assert!(expected.len() >= STEPS, "{} steps", expected.len());
    for way in [FUSED, ONE_BY_ONE] {
        let found = losses(&WHOLE, way);
        assert_eq!(found.len(), expected.len());
        for (step, (found, expected)) in found.iter().zip(&expected).take(STEPS).enumerate() {
            let off = (found / expected - 1.0).abs();
            assert!(
                off < 0.01,
                "{way}, step {step}: {found} instead of {expected}"
            );
        }
    }
}

/// Burn decides in each process anew which operations it fuses, and the first steps of a process may round otherwise than
/// later ones: a resumed run follows within this, relative.
const ROUNDING: f64 = 1e-3;

#[test]
fn a_run_that_is_killed_continues_with_the_losses_of_one_that_is_not() {
    let _turn = turn();
    let space = Space::new();
    for (way, within) in [(FUSED, ROUNDING), (ONE_BY_ONE, 0.0)] {
        let as_asked = |call: Call| match way {
            ONE_BY_ONE => call.env(UNFUSED.0, UNFUSED.1),
            _ => call,
        };
        let mut child = as_asked(quickstart(&space, "wgpu", way)).spawn();
        let began = Instant::now();
        while losses(&space, way).len() < 12 {
            assert!(
                began.elapsed() < Duration::from_secs(1200),
                "{way}: step 12 never came"
            );
            assert!(
                child.try_wait().expect("a child").is_none(),
                "{way}: it ended by itself"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().expect("a signal");
        child.wait().expect("an end");
        let resumed = space.swav(&format!("train --resume --device wgpu --out {way}"));
        as_asked(tuned(resumed)).run().succeeded();
        let (found, expected) = (losses(&space, way), losses(&WHOLE, way));
        assert_eq!(found.len(), expected.len(), "{way}: each step once");
        for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let off = (found / expected - 1.0).abs();
            assert!(
                off <= within,
                "{way}, step {step}: {found} instead of {expected}"
            );
        }
    }
}

fn check(space: &Space, more: &str) -> Call {
    tuned(space.swav(&format!("devices --check --device wgpu --json {more}")))
}

#[test]
fn the_check_passes_and_finds_a_planted_error() {
    let _turn = turn();
    let space = Space::new();
    let report = check(&space, "").run().succeeded().json();
    assert_eq!(report["ok"], true, "{report:#}");
    let ways: Vec<&Value> = report["parts"].as_array().expect("parts").iter().collect();
    assert_eq!(ways.len(), 2);
    for part in ways {
        assert!(part["findings"].as_array().expect("findings").len() > 15);
        assert_eq!(part["speeds"].as_array().expect("speeds").len(), 2);
    }

    let output = check(&space, "--planted codes").run();
    assert_eq!(output.code, Some(4), "{}", output.told());
    let report = output.json();
    assert_eq!(report["ok"], false);
    let findings = report["parts"][0]["findings"].as_array().expect("findings");
    for finding in findings {
        assert_eq!(finding["ok"], finding["name"] != "codes", "{finding:#}");
    }
}
