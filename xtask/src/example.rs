//! Programs that benchmarks run: examples of the crates, since this one knows nothing of Burn, and the peers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::root;

/// Builds the example `name` of `package` for a device, and says where it lies.
pub fn build(package: &str, name: &str, device: &str) -> anyhow::Result<PathBuf> {
    let mut build = Command::new(cargo());
    build.args(["build", "--release"]);
    match device {
        // In the closure of the workspace, which is there already.
        "cpu" => build.args(["--workspace", "--examples"]),
        "wgpu" | "cuda" => build
            .args(["-p", package, "--example", name])
            .args(["--features", &format!("{package}/{device}")]),
        device => bail!("--device {device}: expected cpu, wgpu or cuda"),
    };
    let status = build.current_dir(root()).status();
    ensure!(
        status.context("cannot start cargo")?.success(),
        "the benchmark does not build"
    );
    Ok(root().join("target/release/examples").join(name))
}

/// A script of `bench/peers`. It runs where this runs, so that `python` may be a path from here.
pub fn peer(python: &Path, script: &str) -> Command {
    let mut peer = Command::new(python);
    // Settings for the libraries of the machine at large would slow PyTorch's own.
    peer.env_remove("OPENBLAS_CORETYPE")
        .env_remove("OPENBLAS_L2_SIZE")
        .arg(root().join("bench/peers").join(script));
    peer
}

/// What `command` prints, if it ends well; `who` it is in an error.
pub fn printed(command: &mut Command, who: &str) -> anyhow::Result<String> {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    ensure!(
        output.status.success(),
        "{who} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).with_context(|| format!("{who} has printed no text"))
}

/// The cargo that runs this, or the one in the path.
pub fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or("cargo".into())
}
