//! Checkpoints: the whole state in one directory that is either complete or not there.
//!
//! ```text
//! checkpoints/step-00001234/
//!   model.bpk                 weights and batch-norm statistics
//!   optimizer.bpk             velocities or moments
//!   queue.safetensors         what the method remembers, if anything
//!   state.json                step, cursor, and the length and checksum of each file
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use swav_data::Cursor;
use swav_files::{AtomicDirectory, remove_directory};
use swav_model::weights;

use crate::TrainError;
use crate::collapse::Collapse;
use crate::comm::Communicator;
use crate::files::{self, write_atomic};
use crate::plan::Plan;
use crate::run::{MODEL, RunDirectory, STATE};
use crate::state::State;

const OPTIMIZER: &str = "optimizer.bpk";

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

/// Saves `state` as the newest checkpoint of a run and removes all but the last `keep`. All ranks have to call it; the first
/// one writes.
///
/// # Errors
/// If the disk is full or the directory cannot be written; older checkpoints are then intact.
pub fn save(
    run: &RunDirectory,
    state: &State,
    keep: usize,
    ranks: &mut dyn Communicator,
) -> Result<PathBuf, TrainError> {
    let target = run.checkpoints().join(format!("step-{:08}", state.step));
    write(state, &target, ranks)?;
    if ranks.rank() > 0 {
        return Ok(target);
    }
    let mut old = run.list()?;
    old.truncate(old.len().saturating_sub(keep.max(1)));
    for (_, path) in old {
        remove_directory(&path).map_err(TrainError::io(&path))?;
    }
    Ok(target)
}

/// Saves a state that must not be continued from, for a look at what went wrong.
///
/// # Errors
/// As [`save`].
pub fn dump(
    run: &RunDirectory,
    state: &State,
    why: &str,
    ranks: &mut dyn Communicator,
) -> Result<PathBuf, TrainError> {
    let name = format!("{why}-step-{:08}", state.step);
    let target = run.checkpoints().join(name);
    write(state, &target, ranks)?;
    Ok(target)
}

/// Writes the whole state beside `target`, and gives it its name when it is complete and durable.
fn write(state: &State, target: &Path, ranks: &mut dyn Communicator) -> Result<(), TrainError> {
    if ranks.rank() > 0 {
        return state.method.save(target, ranks);
    }
    let partial = AtomicDirectory::create(target).map_err(TrainError::io(target))?;
    let directory = partial.path();

    weights::save(&state.network, &directory.join(MODEL))?;
    let optimizer = directory.join(OPTIMIZER);
    state
        .optimizer
        .save(&optimizer)
        .map_err(|error| TrainError::written(&optimizer, error.to_string()))?;
    state.method.save(directory, ranks)?;

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
        cursor: of_all(state.cursor, ranks.world()),
        collapse: state.collapse.clone(),
        files,
    };
    let text = serde_json::to_string_pretty(&manifest)
        .map_err(|error| TrainError::checkpoint(target, error.to_string()))?;
    write_atomic(&directory.join(STATE), text.as_bytes())?;
    partial.commit().map_err(TrainError::io(target))
}

/// Refuses a checkpoint of which a file is not as it was written.
pub(crate) fn require_whole(directory: &Path) -> Result<(), TrainError> {
    verify(directory).map(drop)
}

/// Where the next batch of all `world` ranks begins, each of which is at `cursor` in its part of the epoch.
fn of_all(cursor: Cursor, world: usize) -> Cursor {
    Cursor {
        position: cursor.position * world as u64,
        ..cursor
    }
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
pub fn load(
    directory: &Path,
    plan: &Plan,
    device: &Device,
    ranks: &dyn Communicator,
) -> Result<State, TrainError> {
    let manifest = verify(directory)?;
    let mut state = State::of(State::drawn(plan, device), plan, device);
    state.network = weights::load(state.network, &directory.join(MODEL))?;
    let path = directory.join(OPTIMIZER);
    state.optimizer = plan
        .optimizer
        .init(&state.network)
        .load(&path)
        .map_err(|error| TrainError::checkpoint(&path, format!("is damaged: {error}")))?;
    state
        .method
        .load(directory, &device.clone().inner(), ranks)?;
    state.step = manifest.step;
    state.cursor = Cursor {
        position: manifest.cursor.position / ranks.world() as u64,
        ..manifest.cursor
    };
    state.collapse = manifest.collapse;
    Ok(state)
}

/// The small part of what a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Steps done.
    pub step: u64,
    /// The loss of features that tell nothing apart, where it is known.
    pub chance: Option<f64>,
}

/// Reads how far the state in `directory` is.
///
/// # Errors
/// As [`load`].
pub fn summary(directory: &Path) -> Result<Summary, TrainError> {
    let manifest = verify(directory)?;
    Ok(Summary {
        step: manifest.step,
        chance: manifest.collapse.chance_loss(),
    })
}
