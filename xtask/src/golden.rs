//! The scripts of `tests/golden/`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};

use crate::root;

/// `cargo xtask golden`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Python with numpy, torch, torchvision, pillow and safetensors.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Compare with what is committed instead of writing it.
    #[arg(long)]
    check: bool,
}

const SCRIPTS: [&str; 3] = ["augment.py", "method.py", "model.py"];

/// Runs every script.
pub fn run(args: &Args) -> anyhow::Result<()> {
    for script in SCRIPTS {
        println!("==> {script}");
        let status = Command::new(&args.python)
            .arg(root().join("tests/golden").join(script))
            .args(args.check.then_some("--check"))
            .status()
            .with_context(|| format!("cannot start {}", args.python.display()))?;
        ensure!(status.success(), "{script} failed");
    }
    Ok(())
}
