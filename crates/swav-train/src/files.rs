//! Files that are either whole or not there.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::TrainError;

/// Writes `bytes` to `path` so that a crash leaves the old file or the new one, never a part.
///
/// # Errors
/// If the directory does not exist or cannot be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(TrainError::io(path))?;
    file.commit()
}

/// What the names of unfinished files begin with.
pub(crate) const TEMPORARY: &str = ".swav-";

/// A file that appears under its name only when it is complete.
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    path: std::path::PathBuf,
}

impl AtomicFile {
    /// Starts a file that [`commit`](Self::commit) will put at `path`.
    ///
    /// # Errors
    /// If the directory of `path` does not exist or cannot be written.
    pub fn create(path: &Path) -> Result<Self, TrainError> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY);
        // What `File::create` gives, less the umask, instead of a temporary file's 0600.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder
            .tempfile_in(directory)
            .map_err(TrainError::io(path))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// If the disk is full or the name cannot be taken.
    pub fn commit(self) -> Result<(), TrainError> {
        let Self { file, path } = self;
        file.as_file().sync_all().map_err(TrainError::io(&path))?;
        file.persist(&path)
            .map_err(|error| TrainError::io(&path)(error.error))?;
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

/// Makes what was written to `file` durable.
///
/// # Errors
/// If it cannot be opened, or the disk is full.
pub fn sync(file: &Path) -> Result<(), TrainError> {
    File::open(file)
        .and_then(|file| file.sync_all())
        .map_err(TrainError::io(file))
}

/// Makes what was created, renamed or removed in `directory` durable.
///
/// # Errors
/// If the directory cannot be opened.
pub fn sync_directory(directory: &Path) -> Result<(), TrainError> {
    #[cfg(unix)]
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(TrainError::io(directory))?;
    Ok(())
}
