//! Tasks of the workspace: checks, benchmarks, golden numbers, assets.

mod assets;
mod bench_embed;
mod bench_kmeans;
mod bench_loader;
mod bench_methods;
mod bench_sinkhorn;
mod bench_step;
mod ci;
mod example;
mod golden;
mod llvm_stand_in;
mod nvrtc;
mod python;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};

/// Tasks of the workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run every check that a change must pass, the quick ones first.
    Ci,
    /// Install the Python packages that judge in the tests, and print the interpreter for `SWAV_PYTHON`.
    Python(python::Args),
    /// Make the golden numbers anew.
    Golden(golden::Args),
    /// Time scores to codes, beside what memory allows and what others take.
    BenchSinkhorn(bench_sinkhorn::Args),
    /// Time the k-means of a bank of embeddings, beside what others take.
    BenchKmeans(bench_kmeans::Args),
    /// Time whole training steps, phase by phase, beside what others take.
    BenchStep(bench_step::Args),
    /// Time images to features, beside what others take.
    BenchEmbed(bench_embed::Args),
    /// Train every method for a few epochs, with two views and multi-crop, and judge the features.
    BenchMethods(bench_methods::Args),
    /// Build assets/quickstart.tar from the emoji crates.
    Assets,
    /// Lay out a stand-in for the LLVM that a build with `cuda` would download, or remove it.
    LlvmStandIn(llvm_stand_in::Args),
    /// Compile the kernels for NVIDIA GPUs with NVRTC from PyPI; needs no GPU.
    Nvrtc(nvrtc::Args),
    /// Measure the loader, decoding alone, and the peers in bench/peers.
    BenchLoader(bench_loader::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Ci => ci::run(),
        Task::Python(args) => python::run(&args),
        Task::Golden(args) => golden::run(&args),
        Task::BenchSinkhorn(args) => bench_sinkhorn::run(&args),
        Task::BenchKmeans(args) => bench_kmeans::run(&args),
        Task::BenchLoader(args) => bench_loader::run(&args),
        Task::BenchStep(args) => bench_step::run(&args),
        Task::BenchEmbed(args) => bench_embed::run(&args),
        Task::BenchMethods(args) => bench_methods::run(&args),
        Task::LlvmStandIn(args) => llvm_stand_in::run(&args),
        Task::Nvrtc(args) => nvrtc::run(&args),
        Task::Assets => assets::quickstart(&root().join("assets/quickstart.tar")),
    }
}

/// The root of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}
