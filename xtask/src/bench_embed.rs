//! `cargo xtask bench-embed`: from images in a tar to a file of features, beside PyTorch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::example::{self, On};

/// `cargo xtask bench-embed`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    on: On,
    /// A run, or weights; for the peer's sake of the network that --arch names.
    #[arg(long, value_name = "RUN")]
    run: PathBuf,
    /// Sets of images, tar files. Several, of different sizes, show what memory depends on.
    #[arg(long, value_name = "TAR", required = true)]
    data: Vec<PathBuf>,
    /// The peer's network: one of torchvision's, or cifar10-slim.
    #[arg(long, default_value = "cifar10-slim")]
    arch: String,
    /// Side of the crop that the network sees.
    #[arg(long, default_value_t = 32)]
    size: u32,
    /// A Python with torch and torchvision for the peer of bench/peers.
    #[arg(long, value_name = "PYTHON")]
    peers: Option<PathBuf>,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One set, embedded by one program.
#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    name: String,
    images: usize,
    /// Of ours the whole process; of the peer without its start.
    seconds: f64,
    peak_rss_mib: Option<f64>,
    /// The peer's workers hold memory of their own.
    #[serde(default)]
    worker_rss_mib: Option<f64>,
    /// What the peer's allocator has taken of a GPU's memory at most.
    #[serde(default)]
    device_memory_mib: Option<f64>,
}

impl Figures {
    fn images_per_s(&self) -> f64 {
        self.images as f64 / self.seconds
    }
}

/// Measures each set with each program, one after the other.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let swav = args.on.program()?;
    let scratch = std::env::temp_dir().join(format!("swav-bench-embed-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let measured = measure(args, &swav, &scratch);
    fs::remove_dir_all(&scratch)?;
    let measured = measured?;
    println!("on {}", args.on.device);
    println!(
        "{:<26} {:>8} {:>9} {:>9} {:>9}",
        "", "images", "images/s", "memory", "a worker"
    );
    let show = |row: &Figures| {
        println!(
            "{:<26} {:>8} {:>9.0} {:>9} {:>9}",
            row.name,
            row.images,
            row.images_per_s(),
            example::mib(row.peak_rss_mib),
            example::mib(row.worker_rss_mib),
        );
    };
    for (ours, peers) in measured.iter().filter_map(|of_set| of_set.split_first()) {
        show(ours);
        for peer in peers {
            show(peer);
            let ratio = ours.images_per_s() / peer.images_per_s();
            println!("{:<35} {ratio:>8.2}x", "  as fast");
        }
    }
    match &args.json {
        Some(path) => example::write_json(path, &measured),
        None => Ok(()),
    }
}

fn measure(args: &Args, swav: &Path, scratch: &Path) -> anyhow::Result<Vec<Vec<Figures>>> {
    let of_set = |data: &PathBuf| {
        if !args.on.is_cpu() {
            // Kernels are tuned, and what was found is kept for the next process.
            ours(args, swav, data, scratch)?;
        }
        let mut figures = vec![ours(args, swav, data, scratch)?];
        if let Some(python) = &args.peers {
            let mut peer = example::peer(python, "embed_torch.py");
            peer.arg(data).arg(scratch.join("peer.npy"));
            peer.args(["--arch", &args.arch, "--size", &args.size.to_string()]);
            peer.args(["--device", &args.on.of_torch()]);
            for peer in example::figures::<Figures>(&mut peer, "the peer")? {
                ensure!(
                    peer.images == figures[0].images,
                    "the peer sees {} images where swav sees {}",
                    peer.images,
                    figures[0].images
                );
                figures.push(peer);
            }
        }
        Ok(figures)
    };
    args.data.iter().map(of_set).collect()
}

fn ours(args: &Args, swav: &Path, data: &Path, scratch: &Path) -> anyhow::Result<Figures> {
    let out = scratch.join("features.npy");
    let began = Instant::now();
    let mut child = Command::new(swav)
        .arg("embed")
        .arg(&args.run)
        .arg("--data")
        .arg(data)
        .arg("--out")
        .arg(&out)
        .args(["--size", &args.size.to_string()])
        .args(["--device", &args.on.device])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start swav")?;
    let spent = example::watch(&mut child)?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(child.wait()?.success(), "swav embed has failed");
    // A line of the table beside the features for each image, below a head.
    let table = fs::read_to_string(scratch.join("features.npy.csv"))?;
    Ok(Figures {
        name: "swav".to_string(),
        images: table.lines().count().saturating_sub(1),
        seconds,
        peak_rss_mib: spent.peak_rss_mib,
        worker_rss_mib: None,
        device_memory_mib: None,
    })
}
