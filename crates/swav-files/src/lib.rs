//! Files and directories that are either whole or not there, whenever the process or the machine ends.
//!
//! What is new is written beside its place, made durable, and then given its name. What had the name before is there until
//! that moment.

#![warn(clippy::unwrap_used, clippy::expect_used)]

pub mod protobuf;

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

/// What the names of unfinished files begin with.
pub const TEMPORARY: &str = ".swav-";
/// What the names of directories begin with that are being written or removed.
pub const PARTIAL: &str = ".partial-";
/// What the names of directories begin with whose names are being given to others.
const REPLACED: &str = ".replaced-";

/// Writes `bytes` to `path` so that a crash leaves the old file or the new one, never a part.
///
/// # Errors
/// If the directory of `path` does not exist or cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes)?;
    file.commit()
}

/// A file that appears under its name only when it is complete. Dropped before, it leaves nothing.
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts a file that [`commit`](Self::commit) will put at `path`.
    ///
    /// # Errors
    /// If the directory of `path` does not exist or cannot be written.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(TEMPORARY);
        // What `File::create` gives, less the umask, instead of a temporary file's 0600.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        Ok(Self {
            file: builder.tempfile_in(parent(path))?,
            path: path.to_path_buf(),
        })
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    /// If the disk is full or the name cannot be taken.
    pub fn commit(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// A directory of files that appears under its name only when it is complete. Dropped before, it leaves nothing.
#[derive(Debug)]
pub struct AtomicDirectory {
    partial: TempDir,
    target: PathBuf,
}

impl AtomicDirectory {
    /// Starts a directory that [`commit`](Self::commit) will put at `target`.
    ///
    /// # Errors
    /// If the directory of `target` does not exist or cannot be written.
    pub fn create(target: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PARTIAL);
        // As any new directory, less the umask, instead of a temporary one's 0700.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        Ok(Self {
            partial: builder.tempdir_in(parent(target))?,
            target: target.to_path_buf(),
        })
    }

    /// Where its files are written.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Makes the directory durable and gives it its name. Its files are to be [synced](sync) already.
    ///
    /// # Errors
    /// If the name cannot be taken.
    pub fn commit(self) -> io::Result<()> {
        sync_directory(self.partial.path())?;
        publish(&self.partial.keep(), &self.target)?;
        sync_directory(parent(&self.target))
    }
}

/// Gives a complete directory its name. What had the name before is there until then.
fn publish(directory: &Path, target: &Path) -> io::Result<()> {
    if !target.exists() {
        return fs::rename(directory, target);
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, directory, CWD, target, RenameFlags::EXCHANGE).is_ok() {
            return fs::remove_dir_all(directory);
        }
    }
    // Without an exchange there is a moment with no directory of the name; `clean` puts this one back.
    let aside = beside(target, REPLACED);
    fs::rename(target, &aside)?;
    fs::rename(directory, target)?;
    fs::remove_dir_all(&aside)
}

/// Removes a directory so that no part of it is ever taken for a whole.
///
/// # Errors
/// If it cannot be removed.
pub fn remove_directory(target: &Path) -> io::Result<()> {
    let partial = beside(target, PARTIAL);
    fs::rename(target, &partial)?;
    fs::remove_dir_all(&partial)
}

/// Removes from `directory` what processes that were killed have left of others in it, and puts back what they had in their
/// hands.
///
/// # Errors
/// If the directory cannot be read or written.
pub fn clean(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if let Some(name) = name.strip_prefix(REPLACED)
            && let target = directory.join(name)
            && !target.exists()
        {
            fs::rename(&path, &target)?;
        } else if name.starts_with(PARTIAL) || name.starts_with(REPLACED) {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

/// Makes what was written to `file` durable.
///
/// # Errors
/// If it cannot be opened, or the disk is full.
pub fn sync(file: &Path) -> io::Result<()> {
    File::open(file)?.sync_all()
}

/// Makes what was created, renamed or removed in `directory` durable.
///
/// # Errors
/// If the directory cannot be opened.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The name of `target` behind a prefix.
fn beside(target: &Path, prefix: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!("{prefix}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_is_not_committed_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(file);
        assert_eq!(names(directory.path()), ["file"]);
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_directory_takes_the_place_of_another_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("state");
        for number in ["1", "2"] {
            let state = AtomicDirectory::create(&target).unwrap();
            fs::write(state.path().join(number), number).unwrap();
            drop(AtomicDirectory::create(&target).unwrap());
            state.commit().unwrap();
            assert_eq!(names(&target), [number]);
        }
        assert_eq!(names(directory.path()), ["state"]);
        remove_directory(&target).unwrap();
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn what_a_killed_process_had_in_its_hands_is_put_back() {
        let directory = tempfile::tempdir().unwrap();
        for name in [".partial-x", ".replaced-a", ".replaced-b", "b"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        clean(directory.path()).unwrap();
        assert_eq!(names(directory.path()), ["a", "b"]);
    }
}
