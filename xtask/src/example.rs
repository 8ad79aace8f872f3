//! Programs that benchmarks run, since this one knows nothing of Burn: swav itself, an example, and the peers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::root;

/// Where a benchmark runs, and which program.
#[derive(Debug, clap::Args)]
pub struct On {
    /// Where to: cpu, wgpu, wgpu:1, cuda or cuda:1.
    #[arg(long, default_value = "cpu", value_parser = device)]
    pub device: String,
    /// A program `swav` that is there already; without it one is built with the feature of the device.
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
}

/// A device by name, with or without a number.
fn device(text: &str) -> Result<String, String> {
    let (name, index) = text.split_once(':').unwrap_or((text, "0"));
    match (name, index.parse::<u32>()) {
        ("cpu", _) if text == "cpu" => Ok(text.to_string()),
        ("wgpu" | "cuda", Ok(_)) => Ok(text.to_string()),
        _ => Err("expected cpu, wgpu, wgpu:1, cuda or cuda:1".to_string()),
    }
}

impl On {
    /// Whether it is the CPU.
    pub fn is_cpu(&self) -> bool {
        self.device == "cpu"
    }

    /// The program, built if need be with more features.
    fn program_with(&self, features: &[&str]) -> anyhow::Result<PathBuf> {
        if let Some(program) = &self.program {
            // A relative path may be meant from here, and not from where the program is run.
            return program
                .canonicalize()
                .with_context(|| format!("--program {}", program.display()));
        }
        let of_device = match self.device.split(':').next() {
            Some(feature @ ("wgpu" | "cuda")) => Some(feature),
            _ => None,
        };
        let features: Vec<_> = of_device
            .into_iter()
            .chain(features.iter().copied())
            .collect();
        match features.is_empty() {
            true => swav(),
            false => build_swav(&["--features", &features.join(",")]),
        }
    }

    /// The program, built if need be.
    pub fn program(&self) -> anyhow::Result<PathBuf> {
        self.program_with(&[])
    }

    /// `swav bench NAME` on the device.
    pub fn bench(&self, name: &str) -> anyhow::Result<Command> {
        self.bench_with(name, &[])
    }

    /// The same by a program that is built with more features.
    pub fn bench_with(&self, name: &str, features: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(self.program_with(features)?);
        command.args(["bench", name, "--device", &self.device]);
        Ok(command)
    }

    /// The device as PyTorch calls it: whatever GPU there is goes by the name of CUDA's.
    pub fn of_torch(&self) -> String {
        match self.device.split_once(':') {
            Some(("cuda", index)) => format!("cuda:{index}"),
            _ if self.is_cpu() => "cpu".to_string(),
            _ => "cuda".to_string(),
        }
    }
}

/// Builds the example `name` in the closure of the workspace, which is there already, and says where it lies.
pub fn build(name: &str) -> anyhow::Result<PathBuf> {
    cargo_build(&["--workspace", "--examples"])?;
    Ok(target().join("release/examples").join(name))
}

/// Builds the program for the CPU, and says where it lies.
pub fn swav() -> anyhow::Result<PathBuf> {
    build_swav(&[])
}

fn build_swav(arguments: &[&str]) -> anyhow::Result<PathBuf> {
    cargo_build(arguments)?;
    Ok(target().join("release/swav"))
}

fn cargo_build(arguments: &[&str]) -> anyhow::Result<()> {
    let status = cargo()
        .args(["build", "--release"])
        .args(arguments)
        .current_dir(root())
        .status()
        .context("cannot start cargo")?;
    ensure!(
        status.success(),
        "cargo build --release {} failed",
        arguments.join(" ")
    );
    Ok(())
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    // Cargo runs in the root, and this perhaps elsewhere.
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into());
    root().join(target)
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

/// The lines of JSON that `command` prints, if it ends well; `who` it is in an error.
pub fn figures<T: DeserializeOwned>(command: &mut Command, who: &str) -> anyhow::Result<Vec<T>> {
    let text = printed(command, who)?;
    let figure = |line| {
        serde_json::from_str(line).with_context(|| format!("{who} has printed no figures: {line}"))
    };
    text.lines().map(figure).collect()
}

/// The line of JSON that `command` prints, if it ends well; `who` it is in an error.
pub fn figure<T: DeserializeOwned>(command: &mut Command, who: &str) -> anyhow::Result<T> {
    let [figure] = <[T; 1]>::try_from(figures(command, who)?).map_err(|figures| {
        anyhow::anyhow!("{who} has printed {} lines, and not one", figures.len())
    })?;
    Ok(figure)
}

/// Writes figures to a file as JSON.
pub fn write_json(path: &Path, figures: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(figures)?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Megabytes for a table, or nothing where they are not known.
pub fn mib(megabytes: Option<f64>) -> String {
    megabytes.map_or(String::new(), |mib| format!("{mib:.0} MiB"))
}

/// The cargo that runs this, or the one in the path, without what cargo has told this program of itself: build scripts look at
/// those variables, and what they are part of would be built again.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    for (name, _) in std::env::vars_os() {
        let of_this = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
        if of_this
            .iter()
            .any(|start| name.to_string_lossy().starts_with(start))
        {
            command.env_remove(name);
        }
    }
    command
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_with_or_without_a_number() {
        for right in ["cpu", "wgpu", "wgpu:1", "cuda", "cuda:1"] {
            assert_eq!(device(right).as_deref(), Ok(right));
        }
        for wrong in ["", "gpu", "cpu:0", "cuda:x", "wgpu:", "auto"] {
            assert!(device(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pytorch_knows_every_gpu_as_cuda() {
        let of_torch = |device: &str| {
            let device = device.to_string();
            let on = On {
                device,
                program: None,
            };
            on.of_torch()
        };
        assert_eq!(of_torch("cpu"), "cpu");
        assert_eq!(of_torch("wgpu:1"), "cuda");
        assert_eq!(of_torch("cuda:1"), "cuda:1");
    }
}
