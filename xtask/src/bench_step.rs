//! `cargo xtask bench-step`: whole training steps of SwAV, phase by phase, beside PyTorch.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::example::{self, On};

/// `cargo xtask bench-step`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    on: On,
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
    /// What crops and activations are computed in: f32 or bf16.
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    precision: String,
    /// Also by so many processes, started by mpirun, that share the batch and the cores.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..))]
    ranks: Option<u32>,
    /// A Python with torch and torchvision for the peer of bench/peers, in all the forms that it has for this precision. Its
    /// compiled forms need a C++ compiler.
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
    device: String,
    device_name: String,
    arch: String,
    crops: String,
    batch: u32,
    prototypes: u32,
    precision: String,
    optimizer: String,
    images_per_s: f64,
    step_s: f64,
    /// Of the process, on the CPU.
    peak_rss_mib: Option<f64>,
    /// Of the device, if it is another.
    device_memory_mib: Option<f64>,
    phases_s: Phases,
    warm_up_s: Vec<f64>,
    warm_up_settled: bool,
    traffic: Traffic,
    #[serde(default)]
    shared: Option<Shared>,
    #[serde(default)]
    peers: Vec<Peer>,
}

/// What a rank sends in a step.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Traffic {
    messages: u64,
    bytes: u64,
}

/// The same by several processes.
#[derive(Debug, Serialize, Deserialize)]
struct Shared {
    ranks: u32,
    images_per_s: f64,
    peak_rss_mib: Option<f64>,
    phases_s: Phases,
    traffic: Traffic,
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
    #[serde(default)]
    peak_rss_mib: Option<f64>,
    /// What PyTorch's allocator has taken at most, and of it what tensors have.
    #[serde(default)]
    device_memory_mib: Option<f64>,
    #[serde(default)]
    device_memory_used_mib: Option<f64>,
    phases_s: Phases,
}

/// Builds, measures, and shows.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let features: &[&str] = if args.ranks.is_some() { &["mpi"] } else { &[] };
    let mut program = args.on.bench_with("step", features)?;
    program
        .args(case(args))
        .args(["--precision", &args.precision]);
    let mut figures: Figures = example::figure(&mut program, "the benchmark")?;
    if let Some(ranks) = args.ranks {
        let mut shared = Command::new("mpirun");
        shared
            .args([
                "--allow-run-as-root",
                "--oversubscribe",
                "-n",
                &ranks.to_string(),
            ])
            .arg(program.get_program())
            .args(program.get_args());
        let shared: Figures = example::figure(&mut shared, "the benchmark of several processes")?;
        figures.shared = Some(Shared {
            ranks,
            images_per_s: shared.images_per_s,
            peak_rss_mib: shared.peak_rss_mib,
            phases_s: shared.phases_s,
            traffic: shared.traffic,
        });
    }
    if let Some(python) = &args.peers {
        figures.peers = measure_peers(args, &figures.optimizer, python)?;
    }
    show(&figures);
    match &args.json {
        Some(path) => example::write_json(path, &figures),
        None => Ok(()),
    }
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

/// PyTorch on the same device, in each of the forms that it has for this precision.
fn measure_peers(args: &Args, optimizer: &str, python: &Path) -> anyhow::Result<Vec<Peer>> {
    let device = args.on.of_torch();
    let forms: &[&str] = match (args.precision.as_str(), device.as_str()) {
        ("f32", "cpu") => &["f32", "f32-last", "f32-compiled"],
        ("f32", _) => &["f32", "tf32"],
        _ => &["amp", "amp-compiled"],
    };
    let mut peers = Vec::new();
    // Each in a process of its own, which has a peak of memory of its own.
    for form in forms {
        let mut program = example::peer(python, "step_torch.py");
        program
            .args(["--device", &device, "--precision", form])
            .args(case(args))
            .args(["--optimizer", optimizer]);
        match example::figures(&mut program, "the peer") {
            Ok(figures) => peers.extend::<Vec<Peer>>(figures),
            // A machine may have no compiler.
            Err(error) if form.ends_with("compiled") => eprintln!("{form} is left out: {error}"),
            Err(error) => return Err(error),
        }
    }
    Ok(peers)
}

fn show(figures: &Figures) {
    println!(
        "{}, crops {}, batch {}, {} prototypes, {}, {}, on {} ({})",
        figures.arch,
        figures.crops,
        figures.batch,
        figures.prototypes,
        figures.optimizer,
        figures.precision,
        figures.device,
        figures.device_name
    );
    if !figures.warm_up_settled {
        println!("the time of a step had not settled when the clock began to count");
    }
    println!(
        "{:<34} {:>8} {:>10} {:>10} {:>9} {:>9} {:>10} {:>9}",
        "", "images/s", "memory", "forward", "codes", "loss", "backward", "update"
    );
    let row = |name: &str, rate: f64, memory: Option<f64>, phases: &Phases| {
        let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
        println!(
            "{name:<34} {rate:>8.1} {:>10} {:>10} {:>9} {:>9} {:>10} {:>9}",
            example::mib(memory),
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
        figures.peak_rss_mib.or(figures.device_memory_mib),
        &figures.phases_s,
    );
    if let Some(shared) = &figures.shared {
        row(
            &format!("{} processes", shared.ranks),
            shared.images_per_s,
            shared.peak_rss_mib,
            &shared.phases_s,
        );
        println!(
            "{:<34} {:>7.2}x   {} messages, {:.2} MB a step from each",
            "  as fast as one",
            shared.images_per_s / figures.images_per_s,
            shared.traffic.messages,
            shared.traffic.bytes as f64 / 1e6
        );
    }
    for peer in &figures.peers {
        row(
            &peer.name,
            peer.images_per_s,
            peer.peak_rss_mib.or(peer.device_memory_mib),
            &peer.phases_s,
        );
        println!(
            "{:<34} {:>7.2}x",
            "  as fast",
            figures.images_per_s / peer.images_per_s
        );
    }
}
