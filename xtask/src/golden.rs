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
}

/// Each script with its arguments, run where it lies.
const SCRIPTS: [&[&str]; 6] = [
    &["augment.py", "--out", "augment.safetensors"],
    &["method.py"],
    &["methods.py"],
    &["model.py"],
    &["reference.py", "golden"],
    &["steps.py"],
];

/// Runs every script; `git diff tests/golden` then says whether anything has changed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    for script in SCRIPTS {
        println!("==> {}", script.join(" "));
        let status = Command::new(&args.python)
            .args(script)
            .current_dir(root().join("tests/golden"))
            .status()
            .with_context(|| format!("cannot start {}", args.python.display()))?;
        ensure!(status.success(), "{} failed", script[0]);
    }
    Ok(())
}
