//! What some tests require besides the workspace: a Python with packages, a browser, shared data.
//!
//! A test that misses something is skipped with a line on stderr. Where the variable `CI` is set it fails instead, because
//! `.ci/run` provides all but the shared data.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Skips the test that lacks something.
///
/// # Panics
/// If `CI` is set.
#[track_caller]
fn skip(reason: &str) {
    assert!(env::var_os("CI").is_none(), "{reason}");
    note(reason);
}

/// Writes to stderr itself: what `eprintln` writes is shown of failed tests alone.
fn note(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_string();
    writeln!(std::io::stderr(), "skipped: {test}: {reason}").expect("stderr");
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A Python interpreter.
pub struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// Returns the interpreter that `SWAV_PYTHON` names, or nothing if a module is missing: the test is skipped then.
    ///
    /// # Panics
    /// If `CI` is set and there is no interpreter or a module is missing.
    #[track_caller]
    pub fn with(modules: &[&str]) -> Option<Self> {
        let needed = modules.join(", ");
        let remedy =
            "run `cargo xtask python` and set SWAV_PYTHON to the interpreter that it prints";
        let Some(interpreter) = env::var_os("SWAV_PYTHON").map(PathBuf::from) else {
            skip(&format!(
                "SWAV_PYTHON names no Python with {needed}; {remedy}"
            ));
            return None;
        };
        let found = Command::new(&interpreter)
            .args(["-c", &format!("import {needed}")])
            .output()
            .unwrap_or_else(|error| panic!("SWAV_PYTHON={}: {error}", interpreter.display()));
        if !found.status.success() {
            let told = String::from_utf8_lossy(&found.stderr);
            let cause = told.lines().last().unwrap_or_default();
            let interpreter = interpreter.display();
            skip(&format!(
                "{interpreter} cannot import {needed}: {cause}; {remedy}"
            ));
            return None;
        }
        Some(Self { interpreter })
    }

    /// Runs a script of `tests/` in `directory` and returns what it prints on stdout.
    ///
    /// # Panics
    /// If the script fails, with all that it has printed.
    #[track_caller]
    pub fn run(&self, directory: &Path, script: &str, words: &[&str]) -> String {
        let output = Command::new(&self.interpreter)
            .arg(workspace().join("tests").join(script))
            .args(words)
            .current_dir(directory)
            .output()
            .expect("Python starts");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let words = words.join(" ");
        assert!(
            output.status.success(),
            "{script} {words}\n{stdout}{stderr}"
        );
        stdout
    }
}

/// Returns the path of a Chromium, or nothing if none is installed: the test is skipped then.
///
/// # Panics
/// If `CI` is set and there is none.
#[track_caller]
pub fn chromium() -> Option<PathBuf> {
    let folders: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let found = ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.is_file());
    if found.is_none() {
        skip("there is no Chromium in PATH; install Debian's package chromium, or Google Chrome");
    }
    found
}

/// Returns the path of `name` in the shared data: in the folder that `SWAV_SHARED` names, or in `../shared`. Without that
/// folder there is nothing and the test is skipped, also where `CI` is set.
///
/// # Panics
/// If the folder is there and `name` is not.
#[track_caller]
pub fn shared(name: &str) -> Option<PathBuf> {
    let folder = env::var_os("SWAV_SHARED").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| workspace().join("../shared"));
    if !folder.is_dir() {
        note(&format!(
            "needs {name} of shared data, and there is no {}; SWAV_SHARED names another folder",
            folder.display()
        ));
        return None;
    }
    let path = folder.join(name);
    let found = path.canonicalize();
    Some(found.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}
