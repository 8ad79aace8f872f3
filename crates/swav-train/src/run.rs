//! The directory of a run.
//!
//! ```text
//! runs/NAME/
//!   recipe.toml                 what the user asked for
//!   plan.toml                   what runs
//!   metrics.jsonl               one line per logged step
//!   .lock                       held while a process trains
//!   checkpoints/step-00001234/  see `checkpoint.rs`
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use swav_files::TEMPORARY;

use crate::TrainError;
use crate::comm::Communicator;

/// The weights of a checkpoint, and the file without which it is none.
pub(crate) const MODEL: &str = "model.bpk";
pub(crate) const STATE: &str = "state.json";

/// A run directory.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Makes the directory of a new run.
    ///
    /// # Errors
    /// If the directory holds anything already, or cannot be written.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        if path.join("plan.toml").exists() {
            return Err(TrainError::checkpoint(
                path,
                "already holds a run: continue it with --resume, or choose another --out",
            ));
        }
        if path.exists() && !is_blank(path)? {
            return Err(TrainError::checkpoint(
                path,
                "is not empty and holds no run: choose another --out",
            ));
        }
        let run = Self {
            path: path.to_path_buf(),
        };
        let checkpoints = run.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(TrainError::io(&checkpoints))?;
        Ok(run)
    }

    /// The directory of a run that another rank makes or has found.
    pub fn of_first_rank(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
        }
    }

    /// A run that exists.
    ///
    /// # Errors
    /// If there is no plan in the directory.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        if !path.exists() {
            return Err(TrainError::checkpoint(path, "does not exist"));
        }
        if !path.join("plan.toml").is_file() {
            return Err(TrainError::checkpoint(
                path,
                "is no run directory: it holds no plan.toml",
            ));
        }
        Ok(Self {
            path: path.to_path_buf(),
        })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `plan.toml`.
    pub fn plan(&self) -> PathBuf {
        self.path.join("plan.toml")
    }

    /// `recipe.toml`, what the user asked for.
    pub fn recipe(&self) -> PathBuf {
        self.path.join(RECIPE)
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `report.html`.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// `tensorboard/`, with event files where the plan asks for them.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// `checkpoints/`.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The checkpoints there are, oldest first, with their steps.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>, TrainError> {
        let directory = self.checkpoints();
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory).map_err(TrainError::io(&directory))? {
            let entry = entry.map_err(TrainError::io(&directory))?;
            let name = entry.file_name();
            let step = name
                .to_str()
                .and_then(|name| name.strip_prefix("step-"))
                .and_then(|digits| digits.parse().ok());
            if let Some(step) = step {
                found.push((step, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// The checkpoint that rank 0 finds to be the newest, if there is any.
    ///
    /// # Errors
    /// If the directory cannot be read, or another rank does not find that checkpoint.
    pub(crate) fn newest_of_all(
        &self,
        ranks: &mut dyn Communicator,
    ) -> Result<Option<PathBuf>, TrainError> {
        let own = self.list()?.pop();
        if ranks.world() == 1 {
            return Ok(own.map(|(_, path)| path));
        }
        let step = own.map_or(String::new(), |(step, _)| step.to_string());
        let newest = ranks.gather_texts(&step).swap_remove(0);
        let found = self.list()?.into_iter();
        let mut found = found.filter(|(step, _)| step.to_string() == newest);
        match (newest.as_str(), found.next()) {
            ("", _) => Ok(None),
            (_, Some((_, path))) => Ok(Some(path)),
            (_, None) => Err(TrainError::checkpoint(
                self.checkpoints(),
                format!(
                    "holds no checkpoint of step {newest}, which rank 0 continues from: all ranks have to see the same run \
                     directory; put it on a file system that all machines share"
                ),
            )),
        }
    }

    /// The newest checkpoint.
    ///
    /// # Errors
    /// If there is none, or the directory cannot be read.
    pub fn latest(&self) -> Result<PathBuf, TrainError> {
        self.list()?.pop().map(|(_, path)| path).ok_or_else(|| {
            TrainError::checkpoint(
                self.checkpoints(),
                "holds no checkpoint yet: the run ended before its first one",
            )
        })
    }

    /// Removes what an interrupted save left behind, and puts back what it had in its hands.
    ///
    /// # Errors
    /// If the directory cannot be read or written.
    pub fn clean(&self) -> Result<(), TrainError> {
        let directory = self.checkpoints();
        swav_files::clean(&directory).map_err(TrainError::io(&directory))
    }

    /// Holds the run, so that no second process trains in it. The system gives it free when this value is dropped or the
    /// process dies.
    ///
    /// # Errors
    /// If another process holds it, with who that is, or the directory cannot be written.
    pub fn lock(&self) -> Result<RunLock, TrainError> {
        let path = self.path.join(LOCK);
        let mut file = File::options()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(TrainError::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Where a file that is locked cannot be read, there is nothing to tell.
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process",
                    holder => holder,
                };
                return Err(TrainError::checkpoint(
                    &self.path,
                    format!("is being trained by {holder}: wait until it ends, or stop it"),
                ));
            }
            // Some network file systems know no locks; there the user is on their own.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(TrainError::io(&path)(error)),
        }
        let holder = format!("process {} on {}\n", std::process::id(), host());
        file.set_len(0)
            .and_then(|()| file.write_all(holder.as_bytes()))
            .map_err(TrainError::io(&path))?;
        Ok(RunLock { _file: file })
    }
}

/// A run that is held by this process: see [`RunDirectory::lock`].
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

/// What this machine is called.
fn host() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").unwrap_or_else(|_| "this machine".to_string());
    name
}

const LOCK: &str = ".lock";
const RECIPE: &str = "recipe.toml";

/// Whether `path` holds nothing, or no more than a run leaves that was killed before its plan was
/// written: its recipe, temporary files and an empty folder for checkpoints.
fn is_blank(path: &Path) -> Result<bool, TrainError> {
    for entry in fs::read_dir(path).map_err(TrainError::io(path))? {
        let entry = entry.map_err(TrainError::io(path))?;
        let name = entry.file_name();
        let blank = match name.to_str() {
            Some("checkpoints") => fs::read_dir(entry.path())
                .map_err(TrainError::io(entry.path()))?
                .next()
                .is_none(),
            Some(name) => [LOCK, RECIPE].contains(&name) || name.starts_with(TEMPORARY),
            None => false,
        };
        if !blank {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The checkpoint that is meant by `path`: the newest one of a run, or the one that it is itself.
///
/// # Errors
/// If it is neither.
pub(crate) fn newest_checkpoint(path: &Path) -> Result<PathBuf, TrainError> {
    match path.join(STATE).is_file() {
        true => std::path::absolute(path).map_err(TrainError::io(path)),
        false => RunDirectory::open(path)?.latest(),
    }
}
