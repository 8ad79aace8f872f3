//! `cargo xtask bench-step`: whole training steps of SwAV, phase by phase, beside PyTorch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::example;

/// `cargo xtask bench-step`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to: cpu, wgpu or cuda.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// An architecture, or cifar10-slim for the network of that recipe.
    #[arg(long, default_value = "resnet50")]
    arch: String,
    /// The crops of an image, NUMBERxSIZE for each resolution; the first two give the codes.
    #[arg(long, default_value = "2x96+4x48", value_parser = crops)]
    crops: String,
    /// Images of a step.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..))]
    batch: u32,
    /// Prototypes.
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(2..))]
    prototypes: u32,
    /// A Python with torch and torchvision for the peer of bench/peers.
    #[arg(long, value_name = "PYTHON")]
    peers: Option<PathBuf>,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn crops(text: &str) -> Result<String, String> {
    let mut total = 0;
    for group in text.split('+') {
        let pair = group.split_once('x');
        match pair.map(|(count, size)| (count.parse::<u32>(), size.parse::<u32>())) {
            Some((Ok(count @ 1..=100), Ok(8..=1024))) => total += count,
            _ => {
                return Err(format!(
                    "`{group}` is not like 2x96, two crops of 96 pixels"
                ));
            }
        }
    }
    match total {
        0 | 1 => Err("one crop has no other to predict".to_string()),
        _ => Ok(text.to_string()),
    }
}

/// What is measured, and written with `--json`.
#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    arch: String,
    crops: String,
    batch: u32,
    prototypes: u32,
    optimizer: String,
    images_per_s: f64,
    step_s: f64,
    peak_rss_mib: Option<f64>,
    phases_s: Phases,
    #[serde(default)]
    peers: Vec<Peer>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Phases {
    forward: f64,
    codes: f64,
    loss: f64,
    backward: f64,
    update: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Peer {
    name: String,
    images_per_s: f64,
    peak_rss_mib: f64,
    phases_s: Phases,
}

/// Builds, measures, and shows.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut figures = measure(args)?;
    if let Some(python) = &args.peers {
        figures.peers = measure_peer(args, &figures.optimizer, python)?;
    }
    show(&figures);
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// What is measured alike for us and for the peer.
fn case(args: &Args) -> [String; 8] {
    let (batch, prototypes) = (args.batch.to_string(), args.prototypes.to_string());
    [
        ("--arch", args.arch.clone()),
        ("--crops", args.crops.clone()),
        ("--batch", batch),
        ("--prototypes", prototypes),
    ]
    .map(|(flag, value)| [flag.to_string(), value])
    .concat()
    .try_into()
    .unwrap_or_else(|_| unreachable!("four flags with a value each"))
}

/// The steps, by the example of swav-train.
fn measure(args: &Args) -> anyhow::Result<Figures> {
    let mut program = Command::new(example::build("swav-train", "bench_step", &args.device)?);
    program.args(["--device", &args.device]).args(case(args));
    figures(&mut program, "the benchmark")
}

fn measure_peer(args: &Args, optimizer: &str, python: &Path) -> anyhow::Result<Vec<Peer>> {
    let mut program = example::peer(python, "step_torch.py");
    program.args(case(args)).args(["--optimizer", optimizer]);
    Ok(vec![figures(&mut program, "the peer")?])
}

/// The figures that a program prints.
fn figures<T: for<'a> Deserialize<'a>>(program: &mut Command, who: &str) -> anyhow::Result<T> {
    let text = example::printed(program, who)?;
    serde_json::from_str(&text).with_context(|| format!("{who} has not printed its figures"))
}

fn show(figures: &Figures) {
    println!(
        "{}, crops {}, batch {}, {} prototypes, {}",
        figures.arch, figures.crops, figures.batch, figures.prototypes, figures.optimizer
    );
    println!(
        "{:<16} {:>8} {:>9} {:>9} {:>7} {:>7} {:>9} {:>7}",
        "", "images/s", "memory", "forward", "codes", "loss", "backward", "update"
    );
    let row = |name: &str, rate: f64, memory: Option<f64>, phases: &Phases| {
        let memory = memory.map_or("unknown".to_string(), |mib| format!("{mib:.0} MiB"));
        let ms = |seconds: f64| format!("{:.0} ms", seconds * 1e3);
        println!(
            "{name:<16} {rate:>8.1} {memory:>9} {:>9} {:>7} {:>7} {:>9} {:>7}",
            ms(phases.forward),
            ms(phases.codes),
            ms(phases.loss),
            ms(phases.backward),
            ms(phases.update),
        );
    };
    row(
        "swav",
        figures.images_per_s,
        figures.peak_rss_mib,
        &figures.phases_s,
    );
    for peer in &figures.peers {
        row(
            &peer.name,
            peer.images_per_s,
            Some(peer.peak_rss_mib),
            &peer.phases_s,
        );
        println!(
            "{:<16} {:>7.2}x",
            "  as fast",
            figures.images_per_s / peer.images_per_s
        );
    }
}
