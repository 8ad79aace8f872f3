//! What the tests of the whole program share: a place to work in, pictures, and the program itself.

#![allow(dead_code)] // each test binary uses a part

pub mod help;
pub mod requires;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use image::{Rgb, RgbImage};
use serde_json::Value;
use tempfile::TempDir;

/// A run that takes milliseconds a step and still goes through everything that a large one does.
pub const TINY: &[&str] = &[
    "crops=[{count=2,size=32,scale=[0.3,1.0]}]",
    "model.backbone=resnet18",
    "model.width=0.0625",
    "model.stem=imagenet",
    "model.hidden=16",
    "model.dim=8",
    "model.prototypes=[8]",
    "method.freeze=never",
    "train.batch_size=8",
    "train.epochs=2",
    "train.knn=never",
];

/// Length of a feature of the [`TINY`] network.
pub const TINY_DIM: usize = 32;

/// A directory of one test, which the program runs in; gone at the end.
pub struct Space {
    root: TempDir,
}

impl Space {
    /// An empty directory.
    pub fn new() -> Self {
        Self {
            root: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    /// `name` in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes `bytes` to `name`, making folders on the way.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// An empty folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a folder");
        path
    }

    /// `count` pictures of 32 pixels in each of the classes, one folder per class.
    pub fn classes(&self, name: &str, classes: &[&str], count: usize) -> PathBuf {
        for (kind, class) in classes.iter().enumerate() {
            for i in 0..count {
                self.file(&format!("{name}/{class}/{i:03}.png"), png(kind, i));
            }
        }
        self.path(name)
    }

    /// `count` pictures of 32 pixels in one folder, without classes.
    pub fn flat(&self, name: &str, count: usize) -> PathBuf {
        for i in 0..count {
            self.file(&format!("{name}/{i:03}.png"), png(i % 4, i));
        }
        self.path(name)
    }

    /// A call of the program with the given words.
    pub fn swav(&self, words: &str) -> Call {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swav"));
        command
            .args(words.split_whitespace())
            .current_dir(self.root.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Call { command }
    }

    /// The lines of a run's `metrics.jsonl`.
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let path = self.path(run).join("metrics.jsonl");
        let text = fs::read_to_string(&path).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }

    /// Step and loss, bit by bit, of every step in a run's `metrics.jsonl`.
    pub fn losses(&self, run: &str) -> Vec<(u64, u64)> {
        let steps = self.metrics(run).into_iter().filter_map(|line| {
            let loss = line.get("loss")?.as_f64()?;
            Some((line["step"].as_u64()?, loss.to_bits()))
        });
        steps.collect()
    }

    /// Names of the checkpoints of a run, sorted.
    pub fn checkpoints(&self, run: &str) -> Vec<String> {
        let directory = self.path(run).join("checkpoints");
        let mut names: Vec<String> = fs::read_dir(directory)
            .expect("a folder of checkpoints")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// A call of the program that is being put together.
pub struct Call {
    command: Command,
}

impl Call {
    /// Adds one argument as it is.
    pub fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Adds `--set assignment`.
    pub fn set(self, assignment: &str) -> Self {
        self.arg("--set").arg(assignment)
    }

    /// Adds `--set` for each of the assignments.
    pub fn sets(self, assignments: &[&str]) -> Self {
        assignments
            .iter()
            .fold(self, |call, assignment| call.set(assignment))
    }

    /// Runs in another directory.
    pub fn within(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Starts it.
    pub fn spawn(mut self) -> Child {
        self.command.spawn().expect("the program starts")
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Output {
        let output = self.command.output().expect("the program starts");
        let words: Vec<_> = self
            .command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        Output {
            call: format!("swav {}", words.join(" ")),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What a call left behind.
#[derive(Debug)]
pub struct Output {
    pub call: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The whole of it, for messages.
    pub fn told(&self) -> String {
        format!(
            "{}\nexit code {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.call, self.code, self.stdout, self.stderr
        )
    }

    /// Asserts exit code 0.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.told());
        assert!(!self.stderr.contains("panicked"), "{}", self.told());
        self
    }

    /// Asserts that it failed with `code`, said all of `parts` on stderr, printed no result and did
    /// not panic.
    #[track_caller]
    pub fn failed(self, code: i32, parts: &[&str]) -> Self {
        if let Err(reason) = self.check_failure(code, parts) {
            panic!("{reason}");
        }
        self
    }

    /// What [`failed`](Self::failed) would panic with.
    pub fn check_failure(&self, code: i32, parts: &[&str]) -> Result<(), String> {
        let complaint = if self.stderr.contains("panicked") {
            "it panicked".to_string()
        } else if self.code != Some(code) {
            format!("expected exit code {code}")
        } else if let Some(part) = parts.iter().find(|part| !self.stderr.contains(**part)) {
            format!("expected {part:?} on stderr")
        } else if !self.stdout.is_empty() {
            "a failure has no result".to_string()
        } else {
            return Ok(());
        };
        Err(format!("{complaint}\n{}", self.told()))
    }

    /// stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("{error}\n{}", self.told()),
        }
    }
}

/// A picture of 32 pixels: each kind has a colour and a direction of its stripes.
pub fn picture(kind: usize, seed: usize) -> RgbImage {
    const COLOURS: [[u32; 3]; 4] = [[220, 60, 40], [40, 200, 80], [60, 80, 220], [200, 180, 40]];
    let colour = COLOURS[kind % COLOURS.len()];
    let seed = seed as u32;
    RgbImage::from_fn(32, 32, |x, y| {
        let along = match kind % 4 {
            0 => x,
            1 => y,
            2 => x + y,
            _ => (x / 4) ^ (y / 4),
        };
        let stripe = 60 + 40 * ((along + seed) % (4 + seed % 5)).min(3);
        let noise = (x * 31 + y * 17 + seed * 101 + x * y * seed) % 23;
        Rgb(colour.map(|c| (c * stripe / 180 + noise).min(255) as u8))
    })
}

/// The same as the bytes of a PNG file.
pub fn png(kind: usize, seed: usize) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture(kind, seed)
        .write_to(&mut bytes, image::ImageFormat::Png)
        .expect("a PNG in memory");
    bytes.into_inner()
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}
