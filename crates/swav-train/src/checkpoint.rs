//! Checkpoints: the whole state in one directory that is either complete or not there.
//!
//! ```text
//! runs/NAME/
//!   recipe.toml                 what the user asked for
//!   plan.toml                   what runs
//!   metrics.jsonl               one line per logged step
//!   .lock                       held while a process trains
//!   checkpoints/step-00001234/
//!     model.bpk                 weights and batch-norm statistics
//!     optimizer.bpk             velocities or moments
//!     queue.safetensors         what the method remembers, if anything
//!     state.json                step, cursor, and the length and checksum of each file
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use swav_data::Cursor;
use swav_model::Network;
use swav_model::weights::{self, Pretrained};

use crate::TrainError;
use crate::files::{self, TEMPORARY, sync_directory, write_atomic};
use crate::monitor::Collapse;
use crate::plan::Plan;
use crate::pretrained;
use crate::state::State;

pub(crate) const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const STATE: &str = "state.json";

/// The small part of a state, and the seal over the large one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    step: u64,
    cursor: Cursor,
    collapse: Collapse,
    files: BTreeMap<String, Seal>,
}

/// Length and checksum of a file, so that a damaged checkpoint is recognised before it is read.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seal {
    bytes: u64,
    crc32: u32,
}

impl Seal {
    fn of(path: &Path) -> Result<Self, TrainError> {
        let mut file = File::open(path).map_err(TrainError::io(path))?;
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer).map_err(TrainError::io(path))? {
                0 => break,
                read => {
                    hasher.update(&buffer[..read]);
                    bytes += read as u64;
                }
            }
        }
        Ok(Self {
            bytes,
            crc32: hasher.finalize(),
        })
    }
}

const VERSION: u32 = 1;

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

    fn checkpoints(&self) -> PathBuf {
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

    /// Saves `state` as the newest checkpoint and removes all but the last `keep`.
    ///
    /// # Errors
    /// If the disk is full or the directory cannot be written; older checkpoints are then intact.
    pub fn save(&self, state: &State, keep: usize) -> Result<PathBuf, TrainError> {
        let target = self.checkpoints().join(format!("step-{:08}", state.step));
        save(state, &target)?;
        let mut old = self.list()?;
        old.truncate(old.len().saturating_sub(keep.max(1)));
        for (_, path) in old {
            remove(&path)?;
        }
        Ok(target)
    }

    /// Saves a state that must not be continued from, for a look at what went wrong.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn dump(&self, state: &State, why: &str) -> Result<PathBuf, TrainError> {
        let target = self
            .checkpoints()
            .join(format!("{why}-step-{:08}", state.step));
        save(state, &target)?;
        Ok(target)
    }

    /// Removes what an interrupted save left behind, and puts back what it had in its hands.
    ///
    /// # Errors
    /// If the directory cannot be read or written.
    pub fn clean(&self) -> Result<(), TrainError> {
        let directory = self.checkpoints();
        for entry in fs::read_dir(&directory).map_err(TrainError::io(&directory))? {
            let path = entry.map_err(TrainError::io(&directory))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if let Some(name) = name.strip_prefix(REPLACED)
                && let target = directory.join(name)
                && !target.exists()
            {
                fs::rename(&path, &target).map_err(TrainError::io(&target))?;
            } else if name.starts_with(PARTIAL) || name.starts_with(REPLACED) {
                fs::remove_dir_all(&path).map_err(TrainError::io(&path))?;
            }
        }
        Ok(())
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
const PARTIAL: &str = ".partial-";
const REPLACED: &str = ".replaced-";

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

/// Writes the whole state beside `target`, and gives it its name when it is complete and durable.
fn save(state: &State, target: &Path) -> Result<(), TrainError> {
    let parent = target.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(PARTIAL);
    // As any new directory, less the umask, instead of a temporary one's 0700.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let partial = builder.tempdir_in(parent).map_err(TrainError::io(parent))?;
    let directory = partial.path();

    weights::save(&state.network, &directory.join(MODEL))?;
    let optimizer = directory.join(OPTIMIZER);
    state
        .optimizer
        .save(&optimizer)
        .map_err(|error| TrainError::written(&optimizer, error.to_string()))?;
    state.method.save(directory)?;

    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(TrainError::io(directory))? {
        let path = entry.map_err(TrainError::io(directory))?.path();
        files::sync(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        files.insert(name.into_owned(), Seal::of(&path)?);
    }
    let manifest = Manifest {
        version: VERSION,
        step: state.step,
        cursor: state.cursor,
        collapse: state.collapse.clone(),
        files,
    };
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|error| TrainError::checkpoint(target, error.to_string()))?;
    write_atomic(&directory.join(STATE), text.as_bytes())?;
    sync_directory(directory)?;

    publish(&partial.keep(), target)?;
    sync_directory(parent)
}

/// Gives a complete directory its name. What had the name before is there until then.
fn publish(directory: &Path, target: &Path) -> Result<(), TrainError> {
    if !target.exists() {
        return fs::rename(directory, target).map_err(TrainError::io(target));
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, directory, CWD, target, RenameFlags::EXCHANGE).is_ok() {
            return fs::remove_dir_all(directory).map_err(TrainError::io(directory));
        }
    }
    // Without an exchange there is a moment with no directory of the name; `clean` puts this one back.
    let aside = aside(target);
    fs::rename(target, &aside).map_err(TrainError::io(target))?;
    fs::rename(directory, target).map_err(TrainError::io(target))?;
    fs::remove_dir_all(&aside).map_err(TrainError::io(&aside))
}

/// Removes a checkpoint so that no part of it is ever taken for a whole.
fn remove(target: &Path) -> Result<(), TrainError> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let partial = target.with_file_name(format!("{PARTIAL}{name}"));
    fs::rename(target, &partial).map_err(TrainError::io(target))?;
    fs::remove_dir_all(&partial).map_err(TrainError::io(&partial))
}

/// Where a checkpoint waits while another takes its name.
fn aside(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{REPLACED}{name}"))
}

/// The manifest of a checkpoint whose files are all as they were written.
fn verify(directory: &Path) -> Result<Manifest, TrainError> {
    let path = directory.join(STATE);
    if !path.is_file() {
        return Err(TrainError::checkpoint(
            directory,
            format!("is no checkpoint: it holds no {STATE}"),
        ));
    }
    let text = fs::read_to_string(&path).map_err(TrainError::io(&path))?;
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|error| TrainError::checkpoint(&path, format!("is damaged: {error}")))?;
    if manifest.version != VERSION {
        return Err(TrainError::checkpoint(
            &path,
            format!(
                "is of version {}, this program reads version {VERSION}",
                manifest.version
            ),
        ));
    }
    for (name, seal) in &manifest.files {
        let file = directory.join(name);
        let found = Seal::of(&file)?;
        if found != *seal {
            return Err(TrainError::checkpoint(
                file,
                format!(
                    "is damaged: {} bytes with checksum {:08x}, written were {} with {:08x}; \
                     remove this checkpoint to continue from the one before",
                    found.bytes, found.crc32, seal.bytes, seal.crc32
                ),
            ));
        }
    }
    Ok(manifest)
}

/// Reads the state that a checkpoint of `plan` holds. `device` has gradients turned on.
///
/// # Errors
/// If the checkpoint is damaged or belongs to another architecture.
pub fn load(directory: &Path, plan: &Plan, device: &Device) -> Result<State, TrainError> {
    let manifest = verify(directory)?;
    let mut state = State::of(State::drawn(plan, device), plan, device);
    state.network = weights::load(state.network, &directory.join(MODEL))?;
    let path = directory.join(OPTIMIZER);
    state.optimizer = plan
        .optimizer
        .init(&state.network)
        .load(&path)
        .map_err(|error| TrainError::checkpoint(&path, format!("is damaged: {error}")))?;
    state.method.load(directory, &device.clone().inner())?;
    state.step = manifest.step;
    state.cursor = manifest.cursor;
    state.collapse = manifest.collapse;
    Ok(state)
}

/// Reads the network alone, of what [`find`] has found: a checkpoint, or a file of weights.
///
/// # Errors
/// As [`load`]; if the file is no readable one.
pub fn load_network(path: &Path, plan: &Plan, device: &Device) -> Result<Network, TrainError> {
    if path.is_file() {
        return Ok(Pretrained::open(path)?.into_network(device)?);
    }
    verify(path)?;
    let network = plan.model.init(plan.train.seed, device);
    Ok(weights::load(network, &path.join(MODEL))?)
}

/// How far the state of a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// Steps done.
    pub step: u64,
    /// The loss of features that tell nothing apart, where it is known.
    pub chance: Option<f64>,
}

/// How far the state in `directory` is.
///
/// # Errors
/// As [`load`].
pub fn standing(directory: &Path) -> Result<Standing, TrainError> {
    let manifest = verify(directory)?;
    Ok(Standing {
        step: manifest.step,
        chance: manifest.collapse.chance_loss(),
    })
}

/// A trained network: its plan and the checkpoint that holds it.
///
/// `path` is a run directory, whose newest checkpoint is meant, one checkpoint of a run, or a file of weights (see
/// [`Pretrained`]), with which comes a plan that knows of no images. What of such a file is of no use, or missing, is
/// said on stderr.
///
/// # Errors
/// If it is none of these.
pub fn find(path: &Path) -> Result<(Plan, PathBuf), TrainError> {
    if path.is_file() {
        return Ok((pretrained::plan(path)?, path.to_path_buf()));
    }
    if path.is_dir() && path.join(STATE).is_file() {
        let checkpoint = std::path::absolute(path).map_err(TrainError::io(path))?;
        let run = checkpoint.parent().and_then(Path::parent).ok_or_else(|| {
            TrainError::checkpoint(
                path,
                "lies in no run directory, where its plan.toml would be",
            )
        })?;
        let plan = Plan::load(&run.join("plan.toml"))?;
        return Ok((plan, checkpoint));
    }
    let run = RunDirectory::open(path)?;
    Ok((Plan::load(&run.plan())?, run.latest()?))
}
