//! What a change must pass.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::{example, python, root};

/// A check: its name, the arguments of cargo one list after another, and variables of its environment.
type Check = (
    &'static str,
    &'static [&'static [&'static str]],
    &'static [(&'static str, &'static str)],
);

/// The quick ones first. Everything is built in release, as the program itself is, so that nothing
/// is built twice.
const CHECKS: &[Check] = &[
    ("format", &[&["fmt", "--all", "--check"]], &[]),
    ("tests", &[&["test", "--release", "--workspace"]], &[]),
    (
        SEVERAL,
        &[
            &["test", "--release", "--workspace"],
            &["--features", "swav-cli/mpi", "--test", "processes"],
        ],
        &[],
    ),
    (
        "clippy",
        &[
            &["clippy", "--release", "--workspace", "--all-targets"],
            &["--", "-D", "warnings"],
        ],
        &[],
    ),
    (
        "documentation",
        &[&["doc", "--release", "--workspace", "--no-deps"]],
        &[("RUSTDOCFLAGS", "-D warnings")],
    ),
    (
        "libraries without a backend",
        &[
            &["check", "--release", "-p", "swav-ot", "-p", "swav-model"],
            &["-p", "swav-data", "-p", "swav-train", "-p", "swav-eval"],
        ],
        &[],
    ),
    (
        "clippy on kernels for GPUs",
        &[
            &["clippy", "--release", "--all-targets"],
            &["-p", "swav-ot", "-p", "swav-model", "-p", "swav-train"],
            &["--features", "swav-ot/wgpu,swav-model/wgpu,swav-train/cube"],
            &["--", "-D", "warnings"],
        ],
        &[],
    ),
    // CUDA's backend links LLVM, of which the program calls no function.
    ("stand-in for LLVM", &[&["xtask", "llvm-stand-in"]], &[]),
    (
        ON_WGPU,
        &[
            GPU_TESTS,
            &["--lib", "--test", "gpu"],
            &["--test", "ops_batch_norm", "--test", "ops_products"],
            &["--test", "kernels", "--test", "sinkhorn_golden"],
            &["--test", "sinkhorn_properties", "--test", "transport"],
            &["--test", "code_diagnostics"],
        ],
        // What is fast on a device in software is of no interest.
        &[("CUBECL_AUTOTUNE_LEVEL", "minimal")],
    ),
    // The same build, and the tests that it ignores.
    ("kernels by NVRTC", &[&["xtask", "nvrtc"]], &[]),
];

/// The tests of the program and of the crates that have kernels, with every backend: one build of Burn, in which the program
/// links both wgpu and CUDA. `nvrtc` adds the tests of `cargo xtask nvrtc`.
pub const GPU_TESTS: &[&str] = &[
    "test",
    "--release",
    "-p",
    "swav-cli",
    "-p",
    "swav-model",
    "-p",
    "swav-ot",
    "-p",
    "swav-train",
    "--features",
    "swav-cli/wgpu,swav-cli/cuda,swav-model/wgpu,swav-model/fusion,swav-model/nvrtc,\
     swav-ot/wgpu,swav-ot/fusion,swav-ot/nvrtc,swav-train/fusion,swav-train/nvrtc",
];

/// What the check is called that needs an MPI, and what builds the bindings to it.
const SEVERAL: &str = "several processes";

/// What the check is called that needs a driver for Vulkan; one in software is enough.
const ON_WGPU: &str = "program and kernels on wgpu";

/// Runs all checks and stops at the first that fails.
pub fn run() -> anyhow::Result<()> {
    let python = interpreter()?;
    for (name, arguments, variables) in CHECKS {
        let missing = match *name {
            ON_WGPU if !has_vulkan() => Some("a driver for Vulkan, such as mesa-vulkan-drivers"),
            SEVERAL if !has_mpi() => {
                Some("an MPI, such as openmpi-bin with libopenmpi-dev, and libclang-dev")
            }
            _ => None,
        };
        if let Some(missing) = missing {
            ensure!(
                env::var_os("CI").is_none(),
                "the check `{name}` needs {missing}"
            );
            println!("==> {name}: left out, it needs {missing}");
            continue;
        }
        let began = Instant::now();
        let arguments = arguments.concat();
        println!("==> {name}: cargo {}", arguments.join(" "));
        let status = example::cargo()
            .args(arguments)
            .envs(variables.iter().copied())
            .envs(python.iter().map(|python| ("SWAV_PYTHON", python)))
            .current_dir(root())
            .status()
            .with_context(|| format!("cannot start cargo for the check `{name}`"))?;
        ensure!(status.success(), "the check `{name}` failed");
        println!("==> {name}: {:.0} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Returns the Python that judges in the tests: the one that `SWAV_PYTHON` names, or one with the packages of
/// `tests/requirements.txt`. Returns nothing if these cannot be installed, which is an error where `CI` is set.
fn interpreter() -> anyhow::Result<Option<PathBuf>> {
    if let Some(named) = env::var_os("SWAV_PYTHON") {
        return Ok(Some(named.into()));
    }
    match python::environment(Path::new("python3")) {
        Ok(python) => Ok(Some(python)),
        Err(error) if env::var_os("CI").is_none() => {
            println!("tests that need Python are skipped: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error.context("the tests need the packages of tests/requirements.txt")),
    }
}

/// Whether there is an MPI to build and to start with.
fn has_mpi() -> bool {
    let starts = |program: &str| {
        let version = Command::new(program).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    starts("mpirun") && starts("mpicc")
}

/// Whether there seems to be a driver. On other systems than Linux there always is something.
fn has_vulkan() -> bool {
    let places = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"].map(Path::new);
    let has_driver = |place: &Path| {
        place
            .read_dir()
            .is_ok_and(|mut drivers| drivers.next().is_some())
    };
    cfg!(not(target_os = "linux")) || places.into_iter().any(has_driver)
}
