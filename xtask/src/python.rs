//! The Python packages that judge in the tests: a virtual environment of `tests/requirements.txt` in the target folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::Context;

use crate::{example, root};

/// `cargo xtask python`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Python of version 3.11 or newer that can make virtual environments.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

/// Makes the environment and prints its interpreter, for `SWAV_PYTHON`.
///
/// # Errors
/// If a package cannot be installed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    println!("{}", environment(&args.python)?.display());
    Ok(())
}

/// Returns the interpreter of the environment, which is made anew if the requirements have changed.
///
/// # Errors
/// If `python` makes no environment or a package cannot be installed.
pub fn environment(python: &Path) -> anyhow::Result<PathBuf> {
    let environment = folder("python");
    let interpreter = environment.join("bin/python");
    let requirements = root().join("tests/requirements.txt");
    let wanted = fs::read(&requirements).with_context(|| requirements.display().to_string())?;
    // Written last, so that an environment without it is not whole.
    let installed = environment.join("requirements.txt");
    if fs::read(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(interpreter);
    }
    eprintln!("installing tests/requirements.txt from PyPI");
    create(python, &environment)?;
    install(&interpreter, |pip| {
        pip.arg("--requirement").arg(&requirements)
    })?;
    fs::write(&installed, wanted).with_context(|| installed.display().to_string())?;
    Ok(interpreter)
}

/// Returns the environment of that name in the target folder.
pub fn folder(name: &str) -> PathBuf {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    // Cargo runs in the root, and this perhaps elsewhere.
    root().join(target).join(name)
}

/// Makes an empty environment.
///
/// # Errors
/// If `python` cannot.
pub fn create(python: &Path, environment: &Path) -> anyhow::Result<()> {
    let mut venv = Command::new(python);
    venv.args(["-m", "venv", "--clear"]).arg(environment);
    example::printed(&mut venv, "python -m venv").map(drop)
}

/// Installs the packages that `name` adds to pip's arguments.
///
/// # Errors
/// If one of them cannot be had.
pub fn install(
    interpreter: &Path,
    name: impl FnOnce(&mut Command) -> &mut Command,
) -> anyhow::Result<()> {
    let mut pip = Command::new(interpreter);
    pip.args(["-m", "pip", "install", "--quiet"])
        .arg("--disable-pip-version-check");
    example::printed(name(&mut pip), "pip").map(drop)
}
