//! The kernels for NVIDIA GPUs, compiled by NVRTC: that needs no GPU, no driver and no toolkit.
//!
//! NVRTC and the headers of CUDA come from PyPI, into a virtual environment in the target folder. What compiles are the tests of the
//! crates that have kernels (`tests/nvrtc/mod.rs`). They are ignored elsewhere.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::{ci, example, python, root};

/// `cargo xtask nvrtc`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Python that can make virtual environments.
    #[arg(long, default_value = "python3")]
    python: PathBuf,

    /// The minor version of CUDA 13 whose compiler is asked: 0 for 13.0.
    #[arg(long, default_value_t = 0, value_name = "MINOR")]
    cuda_13: u32,
}

/// The compiler, and the packages whose headers CUDA C++ of CubeCL's includes: the last one has what `mma.h` needs.
const PACKAGES: [&str; 3] = [
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime",
    "nvidia-cuda-crt",
];

/// More headers, in versions of their own since CUDA 13.3: the newest that is not newer than CUDA.
const CCCL: &str = "nvidia-cuda-cccl";

/// Where the packages of CUDA 13 lay all they have, under the folder of Python's packages.
const TOOLKIT: &str = "nvidia/cu13";

/// Prints where a Python has its packages.
const PURELIB: &str = "import sysconfig; print(sysconfig.get_path('purelib'))";

/// Fetches NVRTC, if it is not there, and runs the tests that compile kernels.
///
/// # Errors
///
/// If a kernel does not compile. If there is no NVRTC and none can be fetched, it is an error only where `CI` is set.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let toolkit = match toolkit(args) {
        Ok(toolkit) => toolkit,
        Err(error) if env::var_os("CI").is_none() => {
            println!("left out, there is no NVRTC: {error:#}");
            return Ok(());
        }
        Err(error) => return Err(error.context("the kernels for CUDA need NVRTC")),
    };
    // Not `CUDA_PATH`: cudarc's build script reads that, and what it is part of would be built anew.
    let status = example::cargo()
        .args(ci::GPU_TESTS)
        .args(["--lib", "--", "--ignored", "nvrtc", "--nocapture"])
        .env("SWAV_CUDA_PATH", &toolkit)
        .env("LD_LIBRARY_PATH", library_path(&toolkit.join("lib"))?)
        .current_dir(root())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "NVRTC does not compile the kernels");
    Ok(())
}

/// The folder with `lib/libnvrtc.so.13` and `include/`.
fn toolkit(args: &Args) -> anyhow::Result<PathBuf> {
    ensure!(
        cfg!(target_os = "linux"),
        "the packages are fetched for Linux alone"
    );
    let environment = python::folder(&format!("nvrtc-13.{}", args.cuda_13));
    let interpreter = environment.join("bin/python");
    if !interpreter.exists() {
        python::create(&args.python, &environment)?;
    }
    let purelib = example::printed(Command::new(&interpreter).args(["-c", PURELIB]), "python")?;
    let toolkit = Path::new(purelib.trim()).join(TOOLKIT);
    if !is_complete(&toolkit) {
        let minor = args.cuda_13;
        println!("fetching NVRTC 13.{minor} from PyPI");
        let packages = PACKAGES.map(|package| format!("{package}==13.{minor}.*"));
        let more = format!("{CCCL}>=13.0,<13.{}", minor + 1);
        python::install(&interpreter, |pip| pip.args(packages).arg(more))?;
    }
    ensure!(
        is_complete(&toolkit),
        "{} has no NVRTC after its packages have been installed",
        toolkit.display()
    );
    Ok(toolkit)
}

/// Whether a file of each package is there.
fn is_complete(toolkit: &Path) -> bool {
    let files = [
        "lib/libnvrtc.so.13",
        "include/cuda_runtime.h",
        "include/cccl/cuda/barrier",
        "include/crt/mma.h",
    ];
    files.iter().all(|file| toolkit.join(file).exists())
}

/// The path of libraries with `folder` before all others. NVRTC looks there for a second library of its own.
fn library_path(folder: &Path) -> anyhow::Result<OsString> {
    let others = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let others = env::split_paths(&others).filter(|path| !path.as_os_str().is_empty());
    env::join_paths([folder.to_path_buf()].into_iter().chain(others))
        .with_context(|| format!("{} has a colon in it", folder.display()))
}
