//! What is kept of a classifier in training: after each epoch a folder with its tensors, and beside them what it was
//! started with and how far it has come.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use swav_files::{AtomicDirectory, PARTIAL};

use super::scores::LinearEpoch;
use swav_train::TrainError;
use swav_train::files::write_atomic;

/// What a training must have in common with one that it goes on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// The checkpoint of the network, or that it was untrained.
    network: String,
    /// How many images are learned from.
    images: usize,
    /// CRC-32 of their names.
    names: u32,
}

impl Origin {
    /// Of a classifier on the network of `checkpoint`, or on untrained weights, and on the images of these names.
    pub fn new<'a>(checkpoint: Option<&Path>, names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut crc = crc32fast::Hasher::new();
        let mut images = 0;
        for name in names {
            crc.update(name.as_bytes());
            crc.update(b"\n");
            images += 1;
        }
        Self {
            network: checkpoint.map_or("untrained".to_string(), |path| path.display().to_string()),
            images,
            names: crc.finalize(),
        }
    }
}

/// What a classifier was started with, and its epochs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ClassifierState<C> {
    config: C,
    origin: Origin,
    pub(super) epochs: Vec<LinearEpoch>,
}

const KEPT: &str = "progress.json";

impl<C: PartialEq + Serialize + DeserializeOwned> ClassifierState<C> {
    /// Before the first epoch.
    pub(super) fn new(config: C, origin: Origin) -> Self {
        Self {
            config,
            origin,
            epochs: Vec::new(),
        }
    }

    /// Writes the state after an epoch into a folder of its own in `directory`, where `tensors` puts its files, and
    /// removes all others.
    pub(super) fn save(
        &self,
        directory: &Path,
        tensors: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let target = directory.join(format!("epoch-{:04}", self.epochs.len()));
        let partial = AtomicDirectory::create(&target).map_err(TrainError::io(directory))?;
        tensors(partial.path())?;
        let path = partial.path().join(KEPT);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| TrainError::checkpoint(&path, error.to_string()))?;
        write_atomic(&path, &text)?;
        partial.commit().map_err(TrainError::io(&target))?;
        let others = states(directory)?;
        for path in others.into_iter().filter(|path| *path != target) {
            fs::remove_dir_all(&path).map_err(TrainError::io(&path))?;
        }
        Ok(())
    }

    /// The newest state in `directory`, if there is one, whose epochs are taken over.
    ///
    /// # Errors
    /// If it is damaged, or of a training that was started with something else.
    pub(super) fn resume(&mut self, directory: &Path) -> Result<Option<PathBuf>, TrainError> {
        let finished = |state: &PathBuf| !is_partial(state);
        let Some(state) = states(directory)?.pop().filter(finished) else {
            return Ok(None);
        };
        let path = state.join(KEPT);
        let text = fs::read(&path).map_err(TrainError::io(&path))?;
        let found: Self = serde_json::from_slice(&text)
            .map_err(|error| TrainError::checkpoint(&path, format!("is damaged: {error}")))?;
        if found.config != self.config || found.origin != self.origin {
            return Err(TrainError::checkpoint(
                directory,
                "holds a classifier with other settings, of another network or of other images: give those it was \
                 started with, or choose another --out",
            ));
        }
        self.epochs = found.epochs;
        Ok(Some(state))
    }
}

/// The states in `directory` in the order of their epochs, after those that were never finished.
fn states(directory: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(TrainError::io(directory))? {
        let path = entry.map_err(TrainError::io(directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let epoch = name.and_then(|name| name.strip_prefix("epoch-")?.parse::<u64>().ok());
        let epoch = epoch.or(is_partial(&path).then_some(0));
        found.extend(epoch.map(|epoch| (epoch, path)));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn is_partial(state: &Path) -> bool {
    let name = state.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(PARTIAL))
}
