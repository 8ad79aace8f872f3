//! Runs of several processes, started by `mpirun`: they learn what one process learns, end together, and go on where they were
//! stopped, with as many processes or with others.

#![cfg(unix)]

mod common;

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Output, Space, TINY};

const CLASSES: [&str; 4] = ["a", "b", "c", "d"];

/// Five steps an epoch.
const IMAGES: usize = 20;

/// A rate so small that what is rounded otherwise does not grow: see `crates/swav-train/tests/ranks.rs`.
const SLOW: &[&str] = &[
    "optimizer.name=sgd",
    "optimizer.lr=0.0000005",
    "train.epochs=10",
    "model.stem=cifar",
];

const QUEUE: &[&str] = &[
    "method.queue={length=16,start=\"2 steps\"}",
    "crops=[{count=2,size=40,scale=[0.3,1.0]},{count=2,size=32,scale=[0.1,0.4]}]",
    "train.accumulate=2",
];

/// Every method, each with what it remembers.
const METHODS: &[&[&str]] = &[
    QUEUE,
    &["method.name=deepcluster-v2", "model.prototypes=[4]"],
    &[
        "method.name=sela-v2",
        "model.prototypes=[4]",
        "method.epsilon=0.01",
    ],
    &["method.name=simclr"],
    &["method.name=moco-v2", "method.key_groups=4"],
    &["method.name=supervised"],
];

/// Where the set is, and the settings of its runs.
struct Case {
    space: Space,
    settings: Vec<&'static str>,
}

impl Case {
    fn new(settings: &[&[&'static str]]) -> Self {
        let space = Space::new();
        space.classes("set", &CLASSES, IMAGES);
        let settings = [&["train.batch_size=16"][..], &settings.concat()].concat();
        let named = |start: &str| settings.iter().any(|setting| setting.starts_with(start));
        // What belongs to SwAV alone, or to methods with an embedding.
        let tiny = TINY
            .iter()
            .filter(|setting| match setting.split('=').next() {
                Some("method.freeze" | "model.prototypes") => !named("method.name"),
                Some("model.dim") => !settings.contains(&"method.name=supervised"),
                Some(field) => !named(&format!("{field}=")),
                None => true,
            });
        let settings = tiny.copied().chain(settings.iter().copied()).collect();
        Self { space, settings }
    }

    /// A command that starts `processes` of the program with the words behind it, each in a list of its own; one list is for all.
    fn command(&self, processes: usize, lists: &[Vec<String>]) -> Command {
        let program = env!("CARGO_BIN_EXE_swav");
        let mut command = match processes {
            1 => Command::new(program),
            _ => {
                let mut command = Command::new("mpirun");
                command.args(["--allow-run-as-root", "--oversubscribe"]);
                command
            }
        };
        for (number, words) in lists.iter().enumerate() {
            if number > 0 {
                command.arg(":");
            }
            if processes > 1 {
                let count = processes / lists.len();
                command.args(["-n", &count.to_string(), program]);
            }
            command.args(words);
        }
        command
            .current_dir(self.space.path("."))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn words(&self, run: &str, more: &[&str]) -> Vec<String> {
        let fixed = ["train", "--device", "cpu", "--data", "set", "--out", run];
        let sets = self.settings.iter().chain(more);
        let sets = sets.flat_map(|setting| ["--set", *setting]);
        fixed.into_iter().chain(sets).map(String::from).collect()
    }

    fn start(&self, run: &str, processes: usize) -> Command {
        self.command(processes, &[self.words(run, &[])])
    }

    fn resume(&self, run: &str, processes: usize) -> Command {
        let words = ["train", "--device", "cpu", "--resume", "--out", run];
        self.command(processes, &[words.map(String::from).to_vec()])
    }

    /// The losses of the steps of `run`.
    fn losses(&self, run: &str) -> Vec<f64> {
        let losses = self.space.losses(run).into_iter();
        losses.map(|(_, bits)| f64::from_bits(bits)).collect()
    }

    /// Waits until `step` stands in the metrics of `run`.
    fn wait_for(&self, run: &str, step: usize, child: &mut Child) {
        let began = Instant::now();
        while self.losses(run).len() < step {
            let ended = child.try_wait().expect("a child");
            assert!(
                ended.is_none(),
                "{run} ended with {ended:?} before step {step}"
            );
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "step {step} of {run} never came"
            );
            sleep(Duration::from_millis(2));
        }
    }
}

fn output(child: Child, call: &str) -> Output {
    let output = child.wait_with_output().expect("an end");
    Output {
        call: call.to_string(),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn run(mut command: Command) -> Output {
    let call = format!("{command:?}");
    output(command.spawn().expect("the program starts"), &call)
}

/// The processes that `mpirun` has started.
fn ranks(mpirun: &Child) -> Vec<u32> {
    let path = format!("/proc/{0}/task/{0}/children", mpirun.id());
    let children = std::fs::read_to_string(path).expect("its children");
    let mut ranks: Vec<u32> = children
        .split_whitespace()
        .map(|id| id.parse().expect("a number"))
        .collect();
    ranks.sort_unstable();
    ranks
}

fn send(signal: &str, process: u32) {
    let sent = Command::new("kill")
        .args([format!("-{signal}"), process.to_string()])
        .status();
    assert!(sent.expect("kill").success());
}

fn apart(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected);
    let differences = differences.map(|(found, expected)| (found / expected - 1.0).abs());
    differences.fold(0.0, f64::max)
}

#[test]
fn every_method_learns_the_same_by_one_two_and_four_processes() {
    for settings in METHODS {
        let case = Case::new(&[SLOW, settings]);
        run(case.start("one", 1)).succeeded();
        let one = case.losses("one");
        assert_eq!(one.len(), 50);
        for processes in [2, 4] {
            let name = format!("of{processes}");
            let told = run(case.start(&name, processes)).succeeded();
            let error = apart(&case.losses(&name), &one);
            println!("{settings:?}, {processes} processes: {error:.1e}");
            assert!(
                error < 1e-4,
                "{settings:?}, {processes} processes: off by {error:.1e}"
            );
            // One voice.
            assert_eq!(told.stdout.lines().count(), 1, "{}", told.told());
            assert_eq!(
                told.stderr.matches("finished after").count(),
                1,
                "{}",
                told.told()
            );
        }
    }
}

#[test]
fn a_signal_to_any_process_saves_the_state_and_the_run_goes_on() {
    let settings = [
        "optimizer.name=adam",
        "train.epochs=6",
        "train.checkpoint=50 steps",
    ];
    let case = Case::new(&[QUEUE, &settings]);
    run(case.start("whole", 2)).succeeded();
    let whole = case.losses("whole");
    for (rank, signal, step) in [(0, "INT", 3), (1, "TERM", 9), (1, "USR1", 14)] {
        let name = format!("stopped{step}");
        let mut child = case.start(&name, 2).spawn().expect("mpirun");
        case.wait_for(&name, step, &mut child);
        send(signal, ranks(&child)[rank]);
        let told = output(child, &name);
        assert_eq!(told.code, Some(130), "{}", told.told());
        assert_eq!(
            told.stderr.matches("continue with").count(),
            1,
            "{}",
            told.told()
        );
        let done = case.losses(&name).len();
        assert_eq!(case.space.checkpoints(&name), [format!("step-{done:08}")]);
        run(case.resume(&name, 2)).succeeded();
        assert_eq!(case.losses(&name), whole, "after {signal} at step {step}");
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_processes() {
    for settings in [QUEUE, METHODS[1], METHODS[4]] {
        let case = Case::new(&[SLOW, settings]);
        run(case.start("one", 1)).succeeded();
        let one = case.losses("one");
        for worlds in [[2, 1], [1, 4], [4, 2]] {
            let name = format!("{}to{}", worlds[0], worlds[1]);
            let mut child = case.start(&name, worlds[0]).spawn().expect("a start");
            case.wait_for(&name, 12, &mut child);
            let process = match worlds[0] {
                1 => child.id(),
                _ => ranks(&child)[0],
            };
            send("INT", process);
            assert_eq!(output(child, &name).code, Some(130));
            run(case.resume(&name, worlds[1])).succeeded();
            let error = apart(&case.losses(&name), &one);
            println!("{worlds:?}: {error:.1e}");
            assert!(error < 1e-4, "{settings:?}, {worlds:?}: off by {error:.1e}");
        }
    }
}

#[test]
fn a_killed_process_ends_the_others_and_the_run_goes_on_with_the_same_losses() {
    let settings = [
        "optimizer.name=sgd",
        "optimizer.lr=0.1",
        "train.epochs=6",
        "train.checkpoint=3 steps",
    ];
    let case = Case::new(&[QUEUE, &settings]);
    run(case.start("whole", 2)).succeeded();
    let whole = case.losses("whole");
    let mut child = case.start("killed", 2).spawn().expect("mpirun");
    for (kill, step) in [1, 4, 7, 11, 16, 22, 28].into_iter().enumerate() {
        case.wait_for("killed", step, &mut child);
        send("KILL", ranks(&child)[kill % 2]);
        let began = Instant::now();
        let told = output(child, "killed");
        assert_ne!(told.code, Some(0));
        assert!(began.elapsed() < Duration::from_secs(60), "{}", told.told());
        child = case.resume("killed", 2).spawn().expect("mpirun");
    }
    assert_eq!(output(child, "the last").code, Some(0));
    assert_eq!(case.losses("killed"), whole);
}

#[test]
fn a_process_that_hangs_ends_the_others() {
    let case = Case::new(&[&["train.epochs=2000", "train.checkpoint=3 steps"]]);
    for rank in [0, 1] {
        let name = format!("hangs{rank}");
        let mut child = case
            .start(&name, 2)
            .env("SWAV_RANK_TIMEOUT", "3")
            .spawn()
            .expect("mpirun");
        case.wait_for(&name, 5, &mut child);
        let hung = ranks(&child)[rank];
        send("STOP", hung);
        let began = Instant::now();
        let told = output(child, &name);
        assert!(began.elapsed() < Duration::from_secs(30), "{}", told.told());
        let parts = ["has not been heard of for 3 s", "--resume"];
        told.check_failure(6, &parts)
            .unwrap_or_else(|reason| panic!("{reason}"));
        // Also the one that was stopped.
        let began = Instant::now();
        while std::path::Path::new(&format!("/proc/{hung}")).exists() {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "it is still there"
            );
            sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn what_one_process_cannot_do_ends_all_with_one_message() {
    let case = Case::new(&[]);
    // Other data.
    let missing: Vec<String> = case
        .words("out", &[])
        .iter()
        .map(|word| match word.as_str() {
            "set" => "missing".to_string(),
            _ => word.clone(),
        })
        .collect();
    let told = run(case.command(2, &[case.words("out", &[]), missing]));
    told.check_failure(3, &["rank 1: error: ", "missing"])
        .unwrap();
    assert_eq!(told.stderr.matches("error:").count(), 1, "{}", told.told());
    // Other settings.
    let told = run(case.command(
        2,
        &[case.words("out", &[]), case.words("out", &["train.seed=2"])],
    ));
    told.check_failure(
        2,
        &[
            "rank 1: error: ",
            "another plan than rank 0",
            "train.seed is 0 there, and 2 here",
        ],
    )
    .unwrap();
    // A batch that cannot be shared out.
    let told = run(case.start("out", 3));
    told.check_failure(
        2,
        &["train.batch_size = 16 cannot be shared out among 3 ranks"],
    )
    .unwrap();
    assert_eq!(told.stderr.matches("error:").count(), 1, "{}", told.told());
    // Nothing of these was begun.
    assert!(!case.space.path("out/plan.toml").exists());
}

#[test]
fn the_budget_of_corrupt_files_is_one_for_all_processes() {
    let case = Case::new(&[&["data.corrupt_budget=0.03", "train.epochs=4"]]);
    for number in 0..3 {
        case.space
            .file(&format!("set/a/broken{number}.png"), b"no picture");
    }
    let told = run(case.start("out", 2));
    told.check_failure(
        3,
        &["3 of 83 files are corrupt", "broken0.png", "broken2.png"],
    )
    .unwrap();
    assert_eq!(
        told.stderr.matches("files are corrupt").count(),
        1,
        "{}",
        told.told()
    );
    // Two are allowed, whoever meets them.
    std::fs::remove_file(case.space.path("set/a/broken0.png")).unwrap();
    let told = run(case.start("fine", 2)).succeeded();
    for number in [1, 2] {
        let skipped = told
            .stderr
            .matches(&format!("skipped set/a/broken{number}.png"))
            .count()
            + told
                .stderr
                .matches(&format!("/set/a/broken{number}.png"))
                .count();
        assert!(skipped > 0, "{}", told.told());
    }
    let last = case.space.metrics("fine").pop().unwrap();
    assert_eq!(last["bad_files"], 2);
}

#[test]
fn only_training_can_be_shared() {
    let case = Case::new(&[]);
    let words = ["devices"].map(String::from).to_vec();
    let told = run(case.command(2, &[words]));
    told.check_failure(2, &["only train, embed and assign can share"])
        .unwrap();
}

#[test]
fn processes_write_the_features_and_clusters_of_one_in_its_order() {
    let case = Case::new(&[]);
    run(case.start("run", 1)).succeeded();
    // 82 files, of which one is no image: neither is shared out evenly.
    case.space.file("set/b/broken.png", b"no picture");
    case.space.classes("set/c", &["more"], 1);
    let read = |name: &str| std::fs::read(case.space.path(name)).unwrap();
    for processes in [1, 3] {
        let out = format!("features{processes}.npy");
        let words = [
            "embed",
            "run",
            "--device",
            "cpu",
            "--data",
            "set",
            "--corrupt-budget",
            "0.1",
            "--out",
            &out,
        ];
        let words = words.map(String::from).to_vec();
        let told = run(case.command(processes, &[words])).succeeded();
        assert_eq!(told.stderr.matches("skipped").count(), 1, "{}", told.told());
        assert!(told.stdout.contains("81 × "), "{}", told.told());
        let out = format!("clusters{processes}.csv");
        let words = [
            "assign",
            "run",
            "--device",
            "cpu",
            "--data",
            "set",
            "--corrupt-budget",
            "0.1",
            "--out",
            &out,
        ];
        let words = words.map(String::from).to_vec();
        run(case.command(processes, &[words])).succeeded();
    }
    assert_eq!(read("features3.npy.csv"), read("features1.npy.csv"));
    assert_eq!(read("features3.npy"), read("features1.npy"));
    assert_eq!(read("clusters3.csv"), read("clusters1.csv"));
}

/// `docs/scale.md`, what crosses the ranks.
#[test]
fn what_crosses_in_a_step_is_what_the_docs_say() {
    let case = Case::new(&[]);
    let words =
        "bench step --device cpu --arch cifar10-slim --crops 2x16+2x8 --batch 16 --prototypes 40";
    let words = words.split(' ').map(String::from).collect();
    let told = run(case.command(2, &[words])).succeeded();
    let found: serde_json::Value = serde_json::from_str(&told.stdout).expect("JSON");

    let backbone = swav_model::BackboneConfig {
        name: "resnet18".parse().expect("a name"),
        width: 0.25,
        stem: swav_model::Stem::Cifar,
    };
    let config = swav_model::NetworkConfig {
        hidden: backbone.dim(),
        head_norm: true,
        backbone,
        dim: 128,
        prototypes: vec![40],
    };
    let parameters = swav_model::weights::export(&config.init(0, &burn::tensor::Device::flex()));
    let values = |data: &burn::tensor::TensorData| data.iter::<f32>().count() as u64;
    let named = |part: &str| {
        parameters
            .iter()
            .filter(|(name, _)| name.contains(part))
            .map(|(_, data)| values(data))
            .collect::<Vec<_>>()
    };
    let large = parameters
        .iter()
        .filter(|(name, data)| !name.contains("running") && values(data) >= 65_536)
        .count() as u64;
    // The head's batch norm is not one of the backbone's resolutions.
    let (norms, heads): (Vec<_>, Vec<_>) = parameters
        .iter()
        .filter(|(name, _)| name.contains("running_mean"))
        .map(|(name, data)| {
            (
                name.contains("head") || name.contains("projection"),
                values(data),
            )
        })
        .partition(|(head, _)| !head);
    assert_eq!(
        (norms.len(), heads.len(), named("running_var").len()),
        (20, 1, 21)
    );
    let of_norm = |channels: u64| 16 * (2 * channels + 1);
    let resolutions = 2;
    let of_norms = resolutions * norms.iter().map(|(_, c)| of_norm(*c)).sum::<u64>()
        + heads.iter().map(|(_, c)| of_norm(*c)).sum::<u64>();
    let (crops, prototypes, iterations) = (2, 40, 3);
    let of_codes = 4 * crops * (1 + prototypes * (iterations + 1));
    let bytes = 4 * (config.parameters() + 1) + of_norms + of_codes;
    let messages = 1 + large + 2 * (resolutions * 20 + 1) + iterations + 2;
    // The benchmark asks whether all take another step; it reads no files.
    assert_eq!(found["traffic"]["bytes"], bytes + 4, "{found}");
    assert_eq!(found["traffic"]["messages"], messages + 1, "{found}");
}
