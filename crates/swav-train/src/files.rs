//! Files that are either whole or not there, with errors that name them.

use std::path::Path;

pub use swav_files::AtomicFile;

use crate::TrainError;

/// Writes `bytes` to `path` so that a crash leaves the old file or the new one, never a part.
///
/// # Errors
/// If the directory does not exist or cannot be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    swav_files::write(path, bytes).map_err(TrainError::io(path))
}

/// Makes what was written to `file` durable.
///
/// # Errors
/// If it cannot be opened, or the disk is full.
pub fn sync(file: &Path) -> Result<(), TrainError> {
    swav_files::sync(file).map_err(TrainError::io(file))
}
