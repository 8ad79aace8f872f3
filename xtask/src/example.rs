//! Programs that benchmarks run: swav itself, examples of the crates, since this one knows nothing of Burn, and the peers.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

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

/// Builds the program, and says where it lies.
pub fn swav() -> anyhow::Result<PathBuf> {
    let status = Command::new(cargo())
        .args(["build", "--release"])
        .current_dir(root())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the program does not build");
    Ok(root().join("target/release/swav"))
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

/// What a process has taken, where the system says so.
#[derive(Default)]
pub struct Spent {
    /// Seconds of all its threads on the processor.
    pub cpu_s: Option<f64>,
    /// The most memory it has held.
    pub peak_rss_mib: Option<f64>,
}

/// Waits for the end of a process.
pub fn watch(child: &mut Child) -> anyhow::Result<Spent> {
    let directory = PathBuf::from(format!("/proc/{}", child.id()));
    let mut spent = Spent::default();
    while child.try_wait()?.is_none() {
        let read = |file| fs::read_to_string(directory.join(file)).unwrap_or_default();
        spent.peak_rss_mib = peak_rss_mib(&read("status")).or(spent.peak_rss_mib);
        spent.cpu_s = cpu_s(&read("stat")).or(spent.cpu_s);
        thread::sleep(Duration::from_millis(100));
    }
    Ok(spent)
}

fn peak_rss_mib(status: &str) -> Option<f64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// Seconds in user and in system mode, which Linux counts in hundredths.
fn cpu_s(stat: &str) -> Option<f64> {
    // Behind the name, which may hold anything: the state, ten numbers, then these two.
    let (_, numbers) = stat.rsplit_once(')')?;
    let hundredths = numbers.split_whitespace().skip(11).take(2);
    let hundredths: Vec<f64> = hundredths.filter_map(|n| n.parse().ok()).collect();
    (hundredths.len() == 2).then(|| hundredths.iter().sum::<f64>() / 100.0)
}
