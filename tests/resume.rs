//! A run interrupted at any step, by Ctrl-C or by `kill -9`, continues with losses identical to the
//! bit to those of a run that was never stopped.
//!
//! These are real processes that get real signals. Wherever a signal happens to arrive, the losses
//! of all steps must come out the same, so that nothing here depends on timing.

#![cfg(unix)]

mod common;

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use common::requires::Python;
use common::{Output, Space, TINY};

/// Five steps an epoch, thirty in all; few checkpoints fall on the end of an epoch.
const IMAGES: usize = 10;
const CLASSES: [&str; 4] = ["a", "b", "c", "d"];
const STEPS: u64 = 30;
const RUN: &[&str] = &["train.epochs=6", "train.checkpoint=3 steps", "train.keep=2"];

/// Momentum, a warm-up, frozen prototypes, crops of two sizes, and kNN accuracy on the way.
const SGD: &[&str] = &[
    "optimizer.name=sgd",
    "optimizer.lr=0.1",
    "optimizer.warmup=6 steps",
    "method.freeze=8 steps",
    "crops=[{count=2,size=40,scale=[0.3,1.0]},{count=2,size=32,scale=[0.1,0.4]}]",
    "train.knn=1 epoch",
];

/// Two moments, and batches in two parts.
const ADAM: &[&str] = &[
    "optimizer.name=adam",
    "optimizer.lr=0.003",
    "train.accumulate=2",
];

/// A queue that begins to fill after two steps and is full after four.
const QUEUE: &[&str] = &[
    "optimizer.name=larc",
    "optimizer.lr=0.6",
    "method.queue={length=16,start=\"2 steps\"}",
];

/// Every method, each with what it remembers.
const METHODS: &[&[&str]] = &[
    &["method.queue={length=16,start=\"2 steps\"}"],
    &["method.name=deepcluster-v2", "model.prototypes=[4]"],
    &["method.name=sela-v2", "model.prototypes=[4]"],
    &["method.name=simclr"],
    &["method.name=moco-v2"],
];

/// Where the set is, and what one command line starts a run with.
struct Case {
    space: Space,
    settings: Vec<&'static str>,
}

impl Case {
    fn new(settings: &[&'static str]) -> Self {
        let space = Space::new();
        space.classes("set", &CLASSES, IMAGES);
        let settings = [TINY, RUN, settings].concat();
        Self { space, settings }
    }

    /// A case of another method, which has what prototypes it likes.
    fn of_method(settings: &[&'static str]) -> Self {
        let mut case = Self::new(settings);
        let swavs_own = |setting: &&str| {
            setting.starts_with("model.prototypes") || setting.starts_with("method.freeze")
        };
        let own = case.settings.split_off(TINY.len());
        case.settings.retain(|setting| !swavs_own(setting));
        case.settings.extend(own);
        case
    }

    /// A case of whichever method the settings name.
    fn of(settings: &[&'static str]) -> Self {
        match settings.iter().any(|s| s.starts_with("method.name")) {
            true => Self::of_method(settings),
            false => Self::new(settings),
        }
    }

    fn start(&self, run: &str) -> common::Call {
        self.space
            .swav(&format!("train --data set --out {run}"))
            .sets(&self.settings)
    }

    fn resume(&self, run: &str) -> common::Call {
        self.space.swav(&format!("train --resume --out {run}"))
    }

    /// Starts `run`, kills it as soon as each of the steps `at` is done, and lets it end.
    fn killed(&self, run: &str, at: &[u64]) {
        let mut call = self.start(run);
        for &step in at {
            let mut child = call.spawn();
            self.wait_for(run, step, &mut child);
            child.kill().expect("a signal");
            child.wait().expect("an end");
            call = self.resume(run);
        }
        call.run().succeeded();
    }

    /// Starts `run` and sends `signal` as soon as `step` is done; returns exit code and stderr.
    fn signalled(&self, run: &str, signal: &str, step: u64) -> Output {
        self.signalled_often(run, &[signal], step)
    }

    /// Starts `run` and interrupts it as Ctrl-C does as soon as `step` is done.
    fn interrupted(&self, run: &str, step: u64) {
        let output = self.signalled(run, "INT", step);
        assert_eq!(output.code, Some(130), "{}", output.told());
    }

    /// [`signalled`](Self::signalled) with several signals at once.
    fn signalled_often(&self, run: &str, signals: &[&str], step: u64) -> Output {
        let mut child = self.start(run).arg("--json").spawn();
        self.wait_for(run, step, &mut child);
        let kill = |signal: &&str| format!("kill -{signal} {}", child.id());
        let kills: Vec<_> = signals.iter().map(kill).collect();
        let sent = Command::new("sh")
            .args(["-c", &kills.join(" && ")])
            .status();
        assert!(sent.expect("a shell").success());
        let output = child.wait_with_output().expect("an end");
        Output {
            call: format!("{run}, {}", signals.join(" ")),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Waits until `step` stands in the metrics of `run`.
    fn wait_for(&self, run: &str, step: u64, child: &mut Child) {
        let path = self.space.path(run).join("metrics.jsonl");
        let reached = || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            text.lines()
                .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
                .any(|line| line["step"].as_u64() >= Some(step))
        };
        let began = Instant::now();
        while !reached() {
            let ended = child.try_wait().expect("a child");
            assert!(
                ended.is_none() || reached(),
                "{run} ended with {ended:?} before step {step}"
            );
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "step {step} of {run} never came"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The run that is never stopped: its losses, each step once.
    fn reference(&self) -> Vec<(u64, u64)> {
        self.start("whole").run().succeeded();
        let losses = self.space.losses("whole");
        let steps: Vec<u64> = losses.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, (1..=STEPS).collect::<Vec<_>>());
        losses
    }

    /// What a run measured besides: everything in its metrics that does not depend on the clock.
    fn measured(&self, run: &str) -> Vec<String> {
        let lines = self.space.metrics(run).into_iter().map(|mut line| {
            for clock in ["images_per_s", "wait_share"] {
                line.as_object_mut().expect("an object").remove(clock);
            }
            line.to_string()
        });
        lines.collect()
    }

    /// Kills runs before their first checkpoint, in the middle of an epoch, several times, and
    /// almost at the end.
    fn survives_being_killed(&self) {
        self.survives_being_killed_at(&[&[1], &[4], &[7, 13], &[3, 6, 28]]);
    }

    /// The same, for each of the lists of steps `kills`.
    fn survives_being_killed_at(&self, kills: &[&[u64]]) {
        let reference = self.reference();
        for (i, at) in kills.iter().enumerate() {
            let run = format!("killed-{i}");
            self.killed(&run, at);
            assert_eq!(self.space.losses(&run), reference, "killed at {at:?}");
            assert_eq!(
                self.measured(&run),
                self.measured("whole"),
                "killed at {at:?}"
            );
            assert_eq!(
                self.features(&run),
                self.features("whole"),
                "killed at {at:?}"
            );
        }
    }

    /// Interrupts runs as Ctrl-C does, and continues them.
    fn survives_ctrl_c(&self) {
        let reference = self.reference();
        for (signal, at) in [
            ("INT", 2),
            ("HUP", 5),
            ("USR1", 7),
            ("USR2", 9),
            ("TERM", 12),
        ] {
            let run = format!("stopped-{at}");
            let output = self.signalled(&run, signal, at);
            assert_eq!(output.code, Some(130), "{}", output.told());
            assert!(output.stdout.is_empty(), "{}", output.told());
            let hint = format!("swav train --resume --out {run}");
            assert!(output.stderr.contains(&hint), "{}", output.told());

            // Nothing is lost: the checkpoint is that of the very last step.
            let last = self.space.losses(&run).last().map(|(step, _)| *step);
            let newest = self.space.checkpoints(&run).pop();
            assert_eq!(newest, last.map(|step| format!("step-{step:08}")));
            assert!(last < Some(STEPS), "{}", output.told());

            self.resume(&run).run().succeeded();
            assert_eq!(self.space.losses(&run), reference, "{signal} at {at}");
            assert_eq!(
                self.features(&run),
                self.features("whole"),
                "{signal} at {at}"
            );
        }
    }

    /// What the trained network makes of the images.
    fn features(&self, run: &str) -> Vec<u8> {
        let file = format!("{run}.npy");
        self.space
            .swav(&format!("embed {run} --data set --out {file}"))
            .run()
            .succeeded();
        std::fs::read(self.space.path(&file)).expect("features")
    }
}

#[test]
fn a_run_with_momentum_and_frozen_prototypes_survives_being_killed() {
    Case::new(SGD).survives_being_killed();
}

/// Killed in the first epoch, in the middle of others, and where one ends and the next is prepared.
const KILLS: &[&[u64]] = &[&[1], &[5], &[7, 15, 19]];

#[test]
fn deepcluster_survives_being_killed() {
    let settings = [
        "method.name=deepcluster-v2",
        "model.prototypes=[4, 6, 4]",
        "train.accumulate=2",
    ];
    Case::of_method(&settings).survives_being_killed_at(KILLS);
}

#[test]
fn sela_survives_being_killed() {
    let settings = [
        "method.name=sela-v2",
        "model.prototypes=[4, 6]",
        "method.freeze=7 steps",
    ];
    Case::of_method(&settings).survives_being_killed_at(KILLS);
}

#[test]
fn sela_with_soft_labels_survives_being_killed() {
    let settings = [
        "method.name=sela-v2",
        "model.prototypes=[4]",
        "method.labels=soft",
        "crops=[{count=2,size=40,scale=[0.3,1.0]},{count=1,size=32,scale=[0.1,0.4]}]",
    ];
    Case::of_method(&settings).survives_being_killed_at(KILLS);
}

#[test]
fn simclr_survives_being_killed() {
    let settings = ["method.name=simclr", "train.accumulate=2"];
    Case::of_method(&settings).survives_being_killed_at(KILLS);
}

#[test]
fn moco_survives_being_killed() {
    let settings = [
        "method.name=moco-v2",
        "method.momentum=0.9",
        "method.key_groups=2",
        "crops=[{count=2,size=40,scale=[0.3,1.0]},{count=1,size=32,scale=[0.1,0.4]}]",
    ];
    Case::of_method(&settings).survives_being_killed_at(KILLS);
}

#[test]
fn a_classifier_survives_being_killed() {
    let mut case = Case::of_method(&["method.name=supervised", "method.smoothing=0.1"]);
    let is_of_the_head =
        |setting: &&str| setting.starts_with("model.dim") || setting.starts_with("model.hidden");
    case.settings.retain(|setting| !is_of_the_head(setting));
    case.survives_being_killed_at(KILLS);
}

#[test]
fn a_run_with_adam_and_accumulation_survives_being_killed() {
    Case::new(ADAM).survives_being_killed();
}

#[test]
fn a_run_with_larc_and_a_queue_survives_being_killed() {
    Case::new(QUEUE).survives_being_killed();
}

#[test]
fn runs_of_every_method_in_bf16_survive_being_killed() {
    for settings in METHODS {
        let mut case = Case::of(settings);
        if *settings == METHODS[0] {
            case.settings.push("train.accumulate=2");
        }
        case.settings.push("train.precision=bf16");
        case.survives_being_killed_at(&[&[7, 15]]);
    }
}

#[test]
fn a_run_goes_on_in_the_other_precision_when_that_is_asked_for() {
    let case = Case::new(ADAM);
    let reference = case.reference();
    case.interrupted("run", 12);
    let before = case.space.losses("run").len();
    let continued = case.resume("run").set("train.precision=bf16").run();
    let told = "train.precision was \"f32\", is now \"bf16\"";
    assert!(continued.succeeded().stderr.contains(told));
    let losses = case.space.losses("run");
    assert_eq!(losses[..before], reference[..before]);
    assert_ne!(losses[before..], reference[before..]);
    // Kept for the next time.
    let plan = std::fs::read_to_string(case.space.path("run/plan.toml")).unwrap();
    assert!(plan.contains("precision = \"bf16\""), "{plan}");
}

#[test]
fn ctrl_c_saves_the_very_step_of_a_run_with_momentum() {
    Case::new(SGD).survives_ctrl_c();
}

#[test]
fn ctrl_c_saves_the_very_step_of_a_run_with_accumulation() {
    Case::new(ADAM).survives_ctrl_c();
}

#[test]
fn ctrl_c_saves_the_very_step_of_a_run_with_a_queue() {
    Case::new(QUEUE).survives_ctrl_c();
}

/// How often what goes by chance is tried.
fn tries() -> usize {
    let asked = std::env::var("SWAV_TEST_TRIES").ok();
    asked.and_then(|tries| tries.parse().ok()).unwrap_or(2)
}

/// As `timeout` sends them, to the process and again to its group.
#[test]
fn two_signals_within_a_moment_are_one_and_the_state_is_saved() {
    let case = Case::new(QUEUE);
    let reference = case.reference();
    for i in 0..tries() {
        for signals in [["TERM", "TERM"], ["INT", "INT"], ["TERM", "INT"]] {
            let run = format!("{}-{i}", signals.join("-"));
            let output = case.signalled_often(&run, &signals, 4);
            assert_eq!(output.code, Some(130), "{}", output.told());
            let last = case.space.losses(&run).last().map(|(step, _)| *step);
            let newest = case.space.checkpoints(&run).pop();
            assert_eq!(newest, last.map(|step| format!("step-{step:08}")));
            case.resume(&run).run().succeeded();
            assert_eq!(case.space.losses(&run), reference, "{signals:?}");
        }
    }
}

#[test]
fn a_run_whose_terminal_is_closed_saves_its_state() {
    let case = Case::new(QUEUE);
    let reference = case.reference();
    for i in 0..tries() {
        for plain in [false, true] {
            let run = format!("run-{i}-{plain}");
            let terminal = portable_pty::native_pty_system()
                .openpty(portable_pty::PtySize::default())
                .unwrap();
            let mut command = portable_pty::CommandBuilder::new(env!("CARGO_BIN_EXE_swav"));
            command.cwd(case.space.path(""));
            command.args(["train", "--data", "set", "--out", &run]);
            for setting in &case.settings {
                command.args(["--set", setting]);
            }
            if plain {
                command.arg("--plain");
            }
            let mut child = terminal.slave.spawn_command(command).unwrap();
            // Somebody reads what is shown, as a terminal does.
            let mut reader = terminal.master.try_clone_reader().unwrap();
            let shown =
                std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
            let began = Instant::now();
            while case.space.losses(&run).len() < 4 {
                assert!(began.elapsed() < Duration::from_secs(60), "step 4 of {run}");
                std::thread::sleep(Duration::from_millis(5));
            }
            let group = child.process_id().unwrap();
            drop((terminal.slave, terminal.master));
            // The reader holds the terminal too: a hang-up by hand is what the session gets when it is gone.
            let hung_up = Command::new("sh")
                .args(["-c", &format!("kill -HUP {group}")])
                .status();
            assert!(hung_up.unwrap().success());
            let status = child.wait().unwrap();
            let _ = shown.join();
            assert_eq!(status.exit_code(), 130, "{run}");
            let last = case.space.losses(&run).last().map(|(step, _)| *step);
            let newest = case.space.checkpoints(&run).pop();
            assert_eq!(newest, last.map(|step| format!("step-{step:08}")), "{run}");
            case.resume(&run).run().succeeded();
            assert_eq!(case.space.losses(&run), reference, "{run}");
        }
    }
}

#[test]
fn runs_of_every_method_survive_being_killed_at_any_moment() {
    for settings in METHODS {
        let mut case = Case::of(settings);
        // One checkpoint, at every step: a save is under way most of the time.
        case.settings
            .extend(["train.keep=1", "train.checkpoint=always"]);
        let began = Instant::now();
        let reference = case.reference();
        let whole = began.elapsed();
        for i in 0..tries() {
            let run = format!("run-{i}");
            let mut child = case.start(&run).arg("--resume").spawn();
            // Spread over the run: the share of a golden section.
            let share = ((i + 1) as f64 * 0.618_034).fract();
            std::thread::sleep(whole.mul_f64(share));
            child.kill().unwrap();
            child.wait().unwrap();
            case.start(&run).arg("--resume").run().succeeded();
            assert_eq!(case.space.losses(&run), reference, "{settings:?}, {share}");
        }
    }
}

#[test]
fn two_processes_do_not_train_in_one_directory() {
    let case = Case::new(ADAM);
    let reference = case.reference();
    let mut child = case.start("run").spawn();
    case.wait_for("run", 2, &mut child);
    let holder = format!("process {}", child.id());
    // Stopped, so that it cannot end meanwhile.
    let kill = |signal: &str| {
        Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
    };
    assert!(kill("-STOP").unwrap().success());
    let second = case.resume("run").run();
    assert!(kill("-CONT").unwrap().success());
    second.failed(2, &["run", "is being trained", &holder]);
    assert!(child.wait().unwrap().success());
    assert_eq!(case.space.losses("run"), reference);
    case.resume("run").run().succeeded();
}

#[test]
fn what_changes_no_number_may_be_another_when_a_run_is_continued() {
    let case = Case::new(ADAM);
    let reference = case.reference();
    case.interrupted("run", 4);
    let output = case
        .resume("run")
        .sets(&[
            "data.workers=1",
            "data.prefetch=2",
            "train.keep=9",
            "train.checkpoint=always",
            "train.on_collapse=warn",
            "train.tensorboard=true",
            "train.checkpoint_activations=true",
        ])
        .run()
        .succeeded();
    assert!(
        output.stderr.contains("train.keep was 2, is now 9"),
        "{}",
        output.told()
    );
    assert_eq!(case.space.losses("run"), reference);
    assert_eq!(case.space.checkpoints("run").len(), 9);
    // Kept for the next time, and a setting given alone is held against the rest of the recipe.
    let output = case.resume("run").set("train.keep=9").run().succeeded();
    assert!(!output.stderr.contains("is now"), "{}", output.told());
    case.resume("run")
        .set("optimizer.lr=0.5")
        .run()
        .failed(2, &["optimizer.lr was 0.003, is now 0.5", "train.keep"]);
}

#[test]
fn tensorboard_reads_each_number_once_from_runs_that_were_killed() {
    let Some(python) = Python::with(&["tensorboard"]) else {
        return;
    };
    let case = Case::new(&[SGD, &["train.tensorboard=true"]].concat());
    for (i, at) in [&[][..], &[1], &[8], &[3, 6, 28]].iter().enumerate() {
        let run = format!("run-{i}");
        case.killed(&run, at);
        python.run(&case.space.path(""), "events.py", &[&run]);
    }
}

#[test]
fn a_plan_whose_checkpoints_never_come_can_be_read_again() {
    let case = Case::new(ADAM);
    let reference = case.reference();
    for (i, when) in ["never", "9000000000000000000 steps", "1e300 epochs"]
        .iter()
        .enumerate()
    {
        let run = format!("run-{i}");
        case.start(&run)
            .set(&format!("train.checkpoint={when}"))
            .run()
            .succeeded();
        assert_eq!(case.space.checkpoints(&run), ["step-00000030"], "{when}");
        case.resume(&run).run().succeeded();
        assert_eq!(case.space.losses(&run), reference, "{when}");
    }
}

#[test]
fn new_directories_and_files_have_the_modes_that_the_umask_leaves() {
    use std::os::unix::fs::PermissionsExt;
    let case = Case::new(ADAM);
    let script = format!(
        "umask 027; exec {} train --data set --out run {}",
        env!("CARGO_BIN_EXE_swav"),
        case.settings
            .iter()
            .map(|setting| format!("--set '{setting}'"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    let status = Command::new("sh")
        .args(["-c", &script])
        .current_dir(case.space.path(""))
        .output()
        .unwrap();
    assert!(
        status.status.success(),
        "{}",
        String::from_utf8_lossy(&status.stderr)
    );
    let mut open = vec![case.space.path("run")];
    while let Some(path) = open.pop() {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o750, "{}", path.display());
            open.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            assert_eq!(mode, 0o640, "{}", path.display());
        }
    }
}

#[test]
fn losses_do_not_depend_on_the_number_of_decoding_threads() {
    let case = Case::new(QUEUE);
    let reference = case.reference();
    for workers in [1, 2, 5] {
        let run = format!("workers-{workers}");
        case.start(&run)
            .set(&format!("data.workers={workers}"))
            .run()
            .succeeded();
        assert_eq!(case.space.losses(&run), reference, "{workers} threads");
    }
}

#[test]
fn another_seed_gives_other_losses() {
    let case = Case::new(QUEUE);
    let reference = case.reference();
    case.start("other").set("train.seed=1").run().succeeded();
    let other = case.space.losses("other");
    assert!(other.iter().zip(&reference).all(|(a, b)| a != b));
}

#[test]
fn only_the_last_checkpoints_are_kept() {
    let case = Case::new(QUEUE);
    case.reference();
    assert_eq!(
        case.space.checkpoints("whole"),
        ["step-00000027", "step-00000030"]
    );
}

#[test]
fn what_a_killed_save_left_behind_is_removed_and_does_no_harm() {
    let case = Case::new(ADAM);
    let reference = case.reference();
    case.interrupted("run", 4);
    let leftover = "run/checkpoints/.partial-x1y2z3";
    case.space
        .file(&format!("{leftover}/model.bpk"), "half of it");
    let metrics = case.space.path("run/metrics.jsonl");
    let mut text = std::fs::read_to_string(&metrics).unwrap();
    text.push_str("{\"step\":7,\"epoch\":1.4,\"lo");
    std::fs::write(&metrics, text).unwrap();

    case.resume("run").run().succeeded();
    assert_eq!(case.space.losses("run"), reference);
    assert!(!case.space.path(leftover).exists());
}

#[test]
fn one_command_line_both_starts_a_run_and_continues_it() {
    let case = Case::new(ADAM);
    let reference = case.reference();
    let mut child = case.start("run").arg("--resume").spawn();
    case.wait_for("run", 4, &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    case.start("run").arg("--resume").run().succeeded();
    assert_eq!(case.space.losses("run"), reference);
}

#[test]
fn a_run_killed_before_its_plan_was_written_is_started_by_resume() {
    let case = Case::new(ADAM);
    case.space.folder("run/checkpoints");
    case.start("run").arg("--resume").run().succeeded();
    assert_eq!(case.space.losses("run").len() as u64, STEPS);
}

#[test]
fn a_checkpoint_of_a_run_continues_from_any_directory_and_after_a_move() {
    let case = Case::new(ADAM);
    let reference = case.reference();
    case.interrupted("first", 4);
    std::fs::rename(case.space.path("first"), case.space.path("moved")).unwrap();
    let elsewhere = case.space.folder("elsewhere");
    case.space
        .swav("train --resume --out ../moved")
        .within(&elsewhere)
        .run()
        .succeeded();
    assert_eq!(case.space.losses("moved"), reference);
}

#[test]
fn to_resume_with_other_settings_is_refused_by_the_name_of_the_field() {
    let case = Case::new(ADAM);
    case.interrupted("run", 4);
    let before = std::fs::read(case.space.path("run/metrics.jsonl")).unwrap();
    for (assignment, field) in [
        ("train.epochs=9", "train.epochs was 6, is now 9"),
        ("optimizer.lr=0.004", "optimizer.lr"),
        ("model.prototypes=[6]", "model.prototypes"),
        ("augment.grey=0.5", "augment.grey"),
        ("train.seed=3", "train.seed"),
    ] {
        case.start("run")
            .set(assignment)
            .arg("--resume")
            .run()
            .failed(2, &["run", field, "other settings"]);
    }
    let after = std::fs::read(case.space.path("run/metrics.jsonl")).unwrap();
    assert_eq!(before, after);
}

#[test]
fn to_resume_on_another_number_of_images_is_refused() {
    let case = Case::new(ADAM);
    case.interrupted("run", 4);
    std::fs::remove_file(case.space.path("set/a/000.png")).unwrap();
    case.resume("run")
        .run()
        .failed(2, &["40 images", "39", "set"]);
}

#[test]
fn to_resume_a_finished_run_does_nothing() {
    let case = Case::new(ADAM);
    case.reference();
    let metrics = std::fs::read(case.space.path("whole/metrics.jsonl")).unwrap();
    let checkpoints = case.space.checkpoints("whole");
    let output = case.resume("whole").run().succeeded();
    assert!(output.stdout.contains("whole"), "{}", output.told());
    let after = std::fs::read(case.space.path("whole/metrics.jsonl")).unwrap();
    assert_eq!(metrics, after);
    assert_eq!(checkpoints, case.space.checkpoints("whole"));
}

#[test]
fn to_resume_where_there_is_no_run_and_nothing_to_start_is_refused() {
    let space = Space::new();
    space
        .swav("train --resume --out nowhere")
        .run()
        .failed(2, &["nowhere", "does not exist"]);
    space.folder("empty");
    space
        .swav("train --resume --out empty")
        .run()
        .failed(2, &["empty", "plan.toml"]);
    space
        .swav("train --resume --data set")
        .run()
        .failed(2, &["--out"]);
}

#[test]
fn data_that_have_moved_are_found_again_and_others_are_refused() {
    let case = Case::new(ADAM);
    let reference = case.reference();
    case.interrupted("run", 4);
    let set = case.space.path("set");
    let put_back = case.space.path("as-it-was");
    common::copy(&set, &put_back);
    let refused = |what: &str| {
        case.resume("run")
            .run()
            .failed(2, &["set", "not the set", what]);
        std::fs::remove_dir_all(&set).unwrap();
        common::copy(&put_back, &set);
    };

    std::fs::rename(set.join("a/000.png"), set.join("a/0000.png")).unwrap();
    refused("names");
    // Two images change places.
    let [one, other] = ["a/000.png", "a/001.png"].map(|name| set.join(name));
    let [a, b] = [&one, &other].map(|path| std::fs::read(path).unwrap());
    assert_ne!(a.len(), b.len(), "such a change shows in the sizes alone");
    std::fs::write(&one, b).unwrap();
    std::fs::write(&other, a).unwrap();
    refused("sizes");
    std::fs::rename(set.join("a/000.png"), set.join("b/0000.png")).unwrap();
    std::fs::rename(set.join("b/000.png"), set.join("a/0000.png")).unwrap();
    refused("names");
    std::fs::rename(set.join("d"), set.join("e")).unwrap();
    refused("labels");

    std::fs::rename(&set, case.space.path("moved")).unwrap();
    case.resume("run")
        .run()
        .failed(3, &["set", "no such file", "--data"]);
    case.space
        .swav("train --resume --out run --data moved/")
        .run()
        .succeeded();
    assert_eq!(case.space.losses("run"), reference);
    // It is known from now on.
    case.resume("run").run().succeeded();
}
