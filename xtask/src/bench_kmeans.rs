//! `cargo xtask bench-kmeans`: clustering a bank, in each form, beside what others take.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::example::{self, On};

/// `cargo xtask bench-kmeans`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    on: On,
    /// Embeddings in the bank.
    #[arg(long, default_value_t = 50_000, value_parser = at_least_1())]
    samples: u32,
    /// Numbers of an embedding.
    #[arg(long, default_value_t = 128, value_parser = at_least_1())]
    dim: u32,
    /// Clusters, no more than samples.
    #[arg(long, default_value_t = 3000, value_parser = at_least_1())]
    centroids: u32,
    /// Rounds of k-means.
    #[arg(long, default_value_t = 10, value_parser = at_least_1())]
    iterations: u32,
    /// A Python with scikit-learn, for the peer of bench/peers.
    #[arg(long, value_name = "PYTHON")]
    peers: Option<PathBuf>,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn at_least_1() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

/// What is measured, and written with `--json`.
#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    device: String,
    device_name: String,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    /// In order of length.
    times_ms: Vec<f64>,
}

impl Row {
    fn median(&self) -> f64 {
        self.times_ms[self.times_ms.len() / 2]
    }
}

/// Builds, measures, and shows.
pub fn run(args: &Args) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.centroids <= args.samples,
        "--centroids {} are more than --samples {}: they begin as different samples",
        args.centroids,
        args.samples
    );
    let sizes = [
        ("--samples", args.samples),
        ("--dim", args.dim),
        ("--centroids", args.centroids),
        ("--iterations", args.iterations),
    ];
    let mut program = args.on.bench("kmeans")?;
    for (flag, value) in sizes {
        program.args([flag, &value.to_string()]);
    }
    let mut figures: Figures = example::figure(&mut program, "the benchmark")?;
    if let Some(python) = &args.peers {
        let mut peer = example::peer(python, "kmeans_sklearn.py");
        peer.args(sizes.map(|(_, value)| value.to_string()));
        figures.rows.push(example::figure(&mut peer, "the peer")?);
    }
    show(args, &figures);
    match &args.json {
        Some(path) => example::write_json(path, &figures),
        None => Ok(()),
    }
}

fn show(args: &Args, figures: &Figures) {
    println!(
        "{} samples of {} numbers, {} centroids, {} rounds, on {} ({})",
        args.samples,
        args.dim,
        args.centroids,
        args.iterations,
        figures.device,
        figures.device_name
    );
    // What the products take that say how near each sample is to each centroid: in every round, and once more.
    let sizes = [args.samples, args.dim, args.centroids].map(f64::from);
    let operations = 2.0 * sizes.iter().product::<f64>() * f64::from(args.iterations + 1);
    let fused = figures.rows.first().map_or(f64::NAN, Row::median);
    println!(
        "{:<20} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "median", "least", "most", "GFLOP/s", "of fused"
    );
    for row in &figures.rows {
        let (least, most) = (row.times_ms[0], row.times_ms[row.times_ms.len() - 1]);
        println!(
            "{:<20} {:>7.0}ms {least:>7.0}ms {most:>7.0}ms {:>9.0} {:>8.2}x",
            row.name,
            row.median(),
            operations / row.median() / 1e6,
            row.median() / fused
        );
    }
}
