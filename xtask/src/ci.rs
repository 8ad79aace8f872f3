//! What a change must pass.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::{example, root};

/// A check: its name, the arguments of cargo, and variables of its environment.
type Check = (
    &'static str,
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
);

/// The quick ones first. Everything is built in release, as the program itself is, so that nothing
/// is built twice.
const CHECKS: &[Check] = &[
    ("format", &["fmt", "--all", "--check"], &[]),
    ("tests", &["test", "--release", "--workspace"], &[]),
    (
        "clippy",
        &[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
        &[],
    ),
    (
        "documentation",
        &["doc", "--release", "--workspace", "--no-deps"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    ),
    (
        "libraries without a backend",
        &[
            "check",
            "--release",
            "-p",
            "swav-ot",
            "-p",
            "swav-model",
            "-p",
            "swav-data",
            "-p",
            "swav-train",
        ],
        &[],
    ),
    // In software, and as the program has them: from the queue in which Burn fuses operations. The same without
    // `fusion` is another build of Burn, of five minutes; CONTRIBUTING.md says when it is worth it.
    (ON_WGPU, KERNELS, &[]),
    // CUDA's bindings skip their build script's download under DOCS_RS: enough to check types.
    (
        "wgpu and cuda",
        &["check", "--release", "--features", "wgpu,cuda"],
        &[("DOCS_RS", "1")],
    ),
    // The build of the check on wgpu, and the tests that it ignores.
    ("kernels by NVRTC", &["xtask", "nvrtc"], &[]),
];

/// The tests of the crates that have kernels. `nvrtc` adds the tests of `cargo xtask nvrtc`, so that one build serves both.
pub const KERNELS: &[&str] = &[
    "test",
    "--release",
    "-p",
    "swav-ot",
    "--features",
    "wgpu,fusion,nvrtc",
];

/// What checks are called that need a driver for Vulkan; one in software is enough.
const ON_WGPU: &str = "kernels on wgpu";

/// Runs all checks and stops at the first that fails.
pub fn run() -> anyhow::Result<()> {
    for (name, arguments, variables) in CHECKS {
        if name.starts_with(ON_WGPU) && !has_vulkan() {
            ensure!(
                std::env::var_os("CI").is_none(),
                "the check `{name}` needs a driver for Vulkan; install mesa-vulkan-drivers"
            );
            println!(
                "==> {name}: left out, there is no driver for Vulkan; mesa-vulkan-drivers has one"
            );
            continue;
        }
        let began = Instant::now();
        println!("==> {name}: cargo {}", arguments.join(" "));
        let status = Command::new(example::cargo())
            .args(*arguments)
            .envs(variables.iter().copied())
            .current_dir(root())
            .status()
            .with_context(|| format!("cannot start cargo for the check `{name}`"))?;
        ensure!(status.success(), "the check `{name}` failed");
        println!("==> {name}: {:.0} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Whether there seems to be a driver. On other systems than Linux there always is something.
fn has_vulkan() -> bool {
    let places = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"].map(std::path::Path::new);
    let has_driver = |place: &std::path::Path| {
        place
            .read_dir()
            .is_ok_and(|mut drivers| drivers.next().is_some())
    };
    cfg!(not(target_os = "linux")) || places.into_iter().any(has_driver)
}
