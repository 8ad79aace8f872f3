//! `cargo xtask bench-loader`: the loader beside decoding alone and beside its peers, in one run.
//!
//! The measuring is done by `crates/swav-data/examples/loader_speed.rs` and by the scripts in
//! `bench/peers`, one after the other; each prints a line of JSON.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::example;

/// What `bench-loader` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The images: a folder, tar shards, whatever the loader reads. The peers want a folder of JPEGs.
    #[arg(long)]
    data: PathBuf,
    /// Worker threads, of the loader and of every peer.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Crops an image: COUNTxSIZE+COUNTxSIZE+…
    #[arg(long, default_value = "2x224+6x96")]
    crops: String,
    /// Seconds for each of the measurements.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// A Python that has torch, torchvision and Pillow, and nvidia-dali-cuda120: measures the peers.
    #[arg(long)]
    peers: Option<PathBuf>,
    /// How many images the peers go over in an epoch.
    #[arg(long, default_value_t = 640)]
    peer_images: usize,
    /// Also writes the result to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The scripts in `bench/peers`.
const PEERS: [&str; 2] = ["loader_torchvision.py", "loader_dali.py"];

/// Measures, prints a table on stderr and the result as JSON on stdout.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let data = args
        .data
        .canonicalize()
        .with_context(|| format!("--data {}", args.data.display()))?;
    let mut ours = Command::new(example::build("loader_speed")?);
    let threads = args.threads.to_string();
    ours.arg(&data)
        .args([&threads, &args.crops, &args.seconds.to_string()]);
    let mut result = last_line(&mut ours)?;
    let mut peers = Vec::new();
    for script in PEERS {
        let Some(python) = &args.peers else { break };
        let mut peer = example::peer(python, script);
        peer.arg(&data)
            .args([&threads, &args.crops, &args.peer_images.to_string()]);
        match last_line(&mut peer) {
            Ok(peer) => peers.push(peer),
            Err(error) => eprintln!("{script}: not measured: {error:#}"),
        }
    }
    result["peers"] = json!(peers);
    table(&result);
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&result)?;
        std::fs::write(file, text + "\n").with_context(|| format!("--json {}", file.display()))?;
    }
    println!("{result}");
    Ok(())
}

/// Runs `command` and reads the last line that it prints.
fn last_line(command: &mut Command) -> anyhow::Result<Value> {
    let name = Path::new(command.get_program()).display().to_string();
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    ensure!(output.status.success(), "{name}: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(line) = text.lines().last() else {
        bail!("{name} printed nothing");
    };
    serde_json::from_str(line).with_context(|| format!("{name} printed {line:?}"))
}

/// The result for people, with the ratios that matter.
fn table(result: &Value) {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let rate = number(&result["images_per_s"]);
    let row = |name: &str, other: f64| {
        eprintln!("{name:<42} {other:>9.1} images/s  × {:.2}", rate / other);
    };
    eprintln!();
    row(&format!("loader, {} threads", result["threads"]), rate);
    row("loader, 1 thread", number(&result["images_per_s_1_thread"]));
    row(
        "decoding alone",
        number(&result["decode_only_images_per_s"]),
    );
    for peer in result["peers"].as_array().into_iter().flatten() {
        row(
            peer["name"].as_str().unwrap_or("a peer"),
            number(&peer["images_per_s"]),
        );
    }
    eprintln!(
        "peak memory                                {:>9.1} MiB",
        number(&result["peak_rss_mib"])
    );
    for (stage, ms) in result["stages_ms"].as_object().into_iter().flatten() {
        eprintln!("  {stage:<40} {:>9.3} ms an image, one thread", number(ms));
    }
}
