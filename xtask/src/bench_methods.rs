//! `cargo xtask bench-methods`: the paper's comparison in small. Every method with the network, budget and data of
//! `cifar10-slim`, with two views and with multi-crop, judged on frozen features.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use serde::de::DeserializeOwned;
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
    /// Directory for the runs. A run that is there already is not made again; one that was cut off, or made for other
    /// epochs, threads or with another recipe, is removed and made again.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Runs at a time; the processor's threads are shared out among them.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: u32,
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

/// What the recipes train on, and multi-crop of somewhat less: 1.6 instead of 2 images' worth of pixels.
const CROPS: [(&str, Option<&str>); 2] = [
    ("2x32", None),
    (
        "2x24+2x16",
        Some(
            "crops=[{count=2, size=24, scale=[0.14, 1.0]}, {count=2, size=16, scale=[0.05, 0.14]}]",
        ),
    ),
];

/// What it took to train a run.
#[derive(Debug, Serialize, Deserialize)]
struct Costs {
    /// The text of the recipe.
    recipe: String,
    epochs: u32,
    threads: usize,
    /// Time of the whole `swav train`, without kNN on the way, by the number of epochs.
    epoch_s: f64,
    /// The same, of all its threads on the processor: what runs beside it counts for less.
    epoch_cpu_s: Option<f64>,
    peak_rss_mib: Option<f64>,
}

/// The figures of one run.
#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    method: String,
    crops: String,
    #[serde(flatten)]
    costs: Costs,
    knn_20: f64,
    knn_200: f64,
    linear: f64,
}

/// What is the same for all runs.
struct Comparison<'a> {
    args: &'a Args,
    swav: PathBuf,
    /// Of a run.
    threads: usize,
}

/// Trains and judges every method that has not been, and prints the table.
pub fn run(args: &Args) -> anyhow::Result<()> {
    fs::create_dir_all(&args.out)?;
    let cores = thread::available_parallelism()?.get();
    let comparison = Comparison {
        args,
        swav: program(&args.out)?,
        threads: (cores / args.jobs as usize).max(1),
    };
    // What all have in common first: a comparison that is cut short is one of two views.
    let cases = CROPS.iter().flat_map(|crops| {
        args.methods
            .iter()
            .map(move |method| (method.as_str(), crops))
    });
    let cases: Vec<_> = cases.collect();
    let rows: Vec<OnceLock<Figures>> = cases.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || -> anyhow::Result<()> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(&(method, &(crops, setting))) = cases.get(at) else {
                return Ok(());
            };
            let figures = comparison.one(method, crops, setting)?;
            println!("{}", figures.line());
            let _first = rows[at].set(figures);
        }
    };
    thread::scope(|scope| {
        let jobs: Vec<_> = (0..args.jobs).map(|_| scope.spawn(work)).collect();
        jobs.into_iter().try_for_each(|job| match job.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;

    let Some(&(method, (crops, _))) = cases.first() else {
        return Ok(());
    };
    let untrained = comparison.judge(&comparison.directory(method, crops), true)?;
    println!("\n{HEAD}\n{}", columns("random", "", "", untrained));
    for row in rows.iter().filter_map(OnceLock::get) {
        println!("{}", row.line());
    }
    Ok(())
}

const HEAD: &str = "method           crops        an epoch    memory   kNN-20  kNN-200   linear";

fn columns(method: &str, crops: &str, costs: &str, accuracies: [f64; 3]) -> String {
    let [knn_20, knn_200, linear] = accuracies.map(|share| 100.0 * share);
    format!("{method:<16} {crops:<10} {costs:>20} {knn_20:>8.1} {knn_200:>8.1} {linear:>8.1}")
}

impl Figures {
    fn line(&self) -> String {
        let memory = match self.costs.peak_rss_mib {
            Some(mib) => format!("{mib:.0} MiB"),
            None => String::new(),
        };
        let seconds = self.costs.epoch_cpu_s.unwrap_or(self.costs.epoch_s);
        let costs = format!("{seconds:.0} s {memory:>9}");
        columns(
            &self.method,
            &self.crops,
            &costs,
            [self.knn_20, self.knn_200, self.linear],
        )
    }
}

fn recipe(method: &str) -> PathBuf {
    let name = match method {
        "swav" => "cifar10-slim.toml".to_string(),
        method => format!("cifar10-slim-{method}.toml"),
    };
    root().join("configs").join(name)
}

/// The program as it is now, beside the runs: what is built meanwhile is not what is compared.
fn program(out: &Path) -> anyhow::Result<PathBuf> {
    let kept = fs::canonicalize(out)?.join("swav");
    fs::copy(example::swav()?, &kept)?;
    Ok(kept)
}

/// What an earlier call left in `file`, if anything.
fn kept<T: DeserializeOwned>(file: &Path) -> anyhow::Result<Option<T>> {
    let Ok(text) = fs::read_to_string(file) else {
        return Ok(None);
    };
    let value = serde_json::from_str(&text);
    Ok(Some(value.with_context(|| {
        format!("{} holds no figures", file.display())
    })?))
}

fn keep(file: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    fs::write(file, serde_json::to_string_pretty(value)?)?;
    Ok(())
}

impl Comparison<'_> {
    fn directory(&self, method: &str, crops: &str) -> PathBuf {
        self.args.out.join(format!("{method}-{crops}"))
    }

    fn swav(&self) -> Command {
        let mut swav = Command::new(&self.swav);
        swav.env("RAYON_NUM_THREADS", self.threads.to_string());
        swav
    }

    /// The figures of a method with some crops.
    fn one(&self, method: &str, crops: &str, setting: Option<&str>) -> anyhow::Result<Figures> {
        let run = self.directory(method, crops);
        let recipe = fs::read_to_string(recipe(method))?;
        let file = run.join("figures.json");
        if let Some(known) = kept::<Figures>(&file)?
            && self.wants(&known.costs, &recipe)
        {
            return Ok(known);
        }
        let costs = self.train(method, crops, setting, recipe)?;
        let [knn_20, knn_200, linear] = self.judge(&run, false)?;
        let figures = Figures {
            method: method.to_string(),
            crops: crops.to_string(),
            costs,
            knn_20,
            knn_200,
            linear,
        };
        keep(&file, &figures)?;
        Ok(figures)
    }

    fn wants(&self, costs: &Costs, recipe: &str) -> bool {
        costs.epochs == self.args.epochs && costs.threads == self.threads && costs.recipe == recipe
    }

    /// Trains a method, if that has not been done.
    fn train(
        &self,
        method: &str,
        crops: &str,
        setting: Option<&str>,
        text: String,
    ) -> anyhow::Result<Costs> {
        let args = self.args;
        let run = self.directory(method, crops);
        let file = run.join("costs.json");
        if let Some(known) = kept::<Costs>(&file)?
            && self.wants(&known, &text)
        {
            return Ok(known);
        }
        if run.exists() {
            // Cut off, or not what is wanted now.
            fs::remove_dir_all(&run)?;
        }
        let mut train = self.swav();
        train
            .args(["train", "--plain", "--config"])
            .arg(recipe(method))
            .arg("--data")
            .arg(&args.data)
            .arg("--test")
            .arg(&args.test)
            .arg("--out")
            .arg(&run)
            .args(["--set", "train.knn=never"])
            .args(["--set", &format!("data.workers={}", self.threads)])
            .args(["--set", &format!("train.epochs={}", args.epochs)])
            // An epoch of so few is much to rise in.
            .args(["--set", "optimizer.warmup=never"]);
        if let Some(setting) = setting {
            train.args(["--set", setting]);
        }
        let began = Instant::now();
        let mut child = train.spawn().context("cannot start swav")?;
        let spent = example::watch(&mut child)?;
        let seconds = began.elapsed().as_secs_f64();
        ensure!(child.wait()?.success(), "{method} with {crops} has failed");
        let epochs = f64::from(args.epochs);
        let costs = Costs {
            recipe: text,
            epochs: args.epochs,
            threads: self.threads,
            epoch_s: seconds / epochs,
            epoch_cpu_s: spent.cpu_s.map(|seconds| seconds / epochs),
            peak_rss_mib: spent.peak_rss_mib,
        };
        keep(&file, &costs)?;
        Ok(costs)
    }

    /// kNN with 20 and 200 neighbours, and linear accuracy, on whole images.
    fn judge(&self, run: &Path, untrained: bool) -> anyhow::Result<[f64; 3]> {
        let evaluate = |what: &[&str]| -> anyhow::Result<Value> {
            let mut command = self.swav();
            command.arg("eval").args(what).arg(run);
            command.args(["--size", "32", "--json"]);
            command.arg("--train").arg(&self.args.data);
            command.arg("--test").arg(&self.args.test);
            if untrained {
                command.arg("--untrained");
            }
            Ok(serde_json::from_str(&example::printed(
                &mut command,
                "swav eval",
            )?)?)
        };
        let knn = evaluate(&["knn", "--k", "20,200", "--temperature", "0.1"])?;
        let linear = evaluate(&["linear"])?;
        let share = |value: &Value| value.as_f64().context("swav eval tells no accuracy");
        Ok([
            share(&knn["knn"][0]["accuracy"])?,
            share(&knn["knn"][1]["accuracy"])?,
            share(&linear["scores"]["top1"])?,
        ])
    }
}
