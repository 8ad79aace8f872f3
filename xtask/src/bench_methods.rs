//! `cargo xtask bench-methods`: the paper's comparison in small. Every method with the network, budget and data of
//! `cifar10-slim`, with two views and with multi-crop, judged on frozen features.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{example, root};

/// `cargo xtask bench-methods`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// CIFAR-10 or another set of 32-pixel images with labels.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// The same classes, held out.
    #[arg(long, value_name = "PATH")]
    test: PathBuf,
    /// How long each method trains.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Directory for the runs. A run that is there already, with its figures, is not made again.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only these methods.
    #[arg(long, value_name = "METHOD", value_delimiter = ',', default_values = METHODS)]
    methods: Vec<String>,
}

const METHODS: [&str; 6] = [
    "supervised",
    "simclr",
    "moco-v2",
    "sela-v2",
    "deepcluster-v2",
    "swav",
];

/// What the recipes train on, and multi-crop of about the same cost: 2.1 instead of 2 images' worth of pixels.
const CROPS: [(&str, Option<&str>); 2] = [
    ("2x32", None),
    (
        "2x24+4x16",
        Some(
            "crops=[{count=2, size=24, scale=[0.14, 1.0]}, {count=4, size=16, scale=[0.05, 0.14]}]",
        ),
    ),
];

/// The figures of one run.
#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    method: String,
    crops: String,
    epochs: u32,
    /// Wall time of the whole `swav train`, without kNN on the way, by the number of epochs.
    epoch_s: f64,
    peak_rss_mib: Option<f64>,
    knn_20: f64,
    knn_200: f64,
    linear: f64,
}

/// Trains and judges every method that has not been, and prints the table.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let swav = build()?;
    let mut rows = Vec::new();
    for method in &args.methods {
        for (crops, setting) in CROPS {
            rows.push(one(args, &swav, method, crops, setting)?);
        }
    }
    if let Some(trained) = rows.first() {
        let run = run_of(args, &trained.method, &trained.crops);
        let untrained = judge(args, &swav, &run, true)?;
        println!("{:<40} {:>8} {:>8} {:>8}", "", "kNN-20", "kNN-200", "linear");
        let [a, b, c] = untrained.map(|share| 100.0 * share);
        println!("{:<40} {a:>7.1} {b:>8.1} {c:>8.1}", "random");
    }
    for row in &rows {
        println!(
            "{:<16} {:<12} {:>6.1} s {:>5.0} MiB {:>5.1} {:>8.1} {:>8.1}",
            row.method,
            row.crops,
            row.epoch_s,
            row.peak_rss_mib.unwrap_or(f64::NAN),
            100.0 * row.knn_20,
            100.0 * row.knn_200,
            100.0 * row.linear,
        );
    }
    Ok(())
}

fn build() -> anyhow::Result<PathBuf> {
    let status = Command::new(example::cargo())
        .args(["build", "--release"])
        .current_dir(root())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the program does not build");
    Ok(root().join("target/release/swav"))
}

fn run_of(args: &Args, method: &str, crops: &str) -> PathBuf {
    args.out.join(format!("{method}-{crops}"))
}

fn one(
    args: &Args,
    swav: &Path,
    method: &str,
    crops: &str,
    setting: Option<&str>,
) -> anyhow::Result<Figures> {
    let run = run_of(args, method, crops);
    let file = run.join("figures.json");
    if let Ok(text) = fs::read_to_string(&file) {
        let known: Figures = serde_json::from_str(&text)
            .with_context(|| format!("{} holds no figures", file.display()))?;
        if known.epochs == args.epochs {
            return Ok(known);
        }
    }
    let recipe = match method {
        "swav" => "cifar10-slim.toml".to_string(),
        method => format!("cifar10-slim-{method}.toml"),
    };
    let mut train = Command::new(swav);
    train
        .args(["train", "--plain", "--config"])
        .arg(root().join("configs").join(recipe))
        .arg("--data")
        .arg(&args.data)
        .arg("--test")
        .arg(&args.test)
        .arg("--out")
        .arg(&run)
        .args(["--set", "train.knn=never"])
        .args(["--set", &format!("train.epochs={}", args.epochs)]);
    if let Some(setting) = setting {
        train.args(["--set", setting]);
    }
    let began = Instant::now();
    let mut child = train.spawn().context("cannot start swav")?;
    let peak_rss_mib = watch(&mut child)?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(child.wait()?.success(), "{method} with {crops} has failed");
    let [knn_20, knn_200, linear] = judge(args, swav, &run, false)?;
    let figures = Figures {
        method: method.to_string(),
        crops: crops.to_string(),
        epochs: args.epochs,
        epoch_s: seconds / f64::from(args.epochs),
        peak_rss_mib,
        knn_20,
        knn_200,
        linear,
    };
    fs::write(&file, serde_json::to_string_pretty(&figures)?)?;
    Ok(figures)
}

/// Waits for the end of a process, and returns the most memory it has held, where the system says so.
fn watch(child: &mut Child) -> anyhow::Result<Option<f64>> {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = None;
    while child.try_wait()?.is_none() {
        if let Ok(status) = fs::read_to_string(&status) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.split_whitespace().next());
            peak = kib.and_then(|kib| kib.parse::<f64>().ok()).or(peak);
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(peak.map(|kib| kib / 1024.0))
}

/// kNN with 20 and 200 neighbours, and linear accuracy, on whole images.
fn judge(args: &Args, swav: &Path, run: &Path, untrained: bool) -> anyhow::Result<[f64; 3]> {
    let evaluate = |what: &[&str]| -> anyhow::Result<Value> {
        let mut command = Command::new(swav);
        command.arg("eval").args(what).arg(run);
        command.args(["--size", "32", "--json"]);
        command.arg("--train").arg(&args.data);
        command.arg("--test").arg(&args.test);
        if untrained {
            command.arg("--untrained");
        }
        Ok(serde_json::from_str(&example::printed(&mut command, "swav eval")?)?)
    };
    let knn = evaluate(&["knn", "--k", "20,200", "--temperature", "0.1"])?;
    let linear = evaluate(&["linear"])?;
    let share = |value: &Value| value.as_f64().context("swav eval tells no accuracy");
    Ok([
        share(&knn["knn"][0]["accuracy"])?,
        share(&knn["knn"][1]["accuracy"])?,
        share(&linear["top1"])?,
    ])
}
