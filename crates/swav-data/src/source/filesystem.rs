//! Reads files and lists folders.

use std::ffi::OsString;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::decode::EXTENSIONS;
use crate::error::DataError;

/// Opens a regular file. What became a FIFO or a device since it was listed is refused, where opening
/// or reading it might wait for ever.
pub(super) fn open_regular(path: &Path) -> Result<File, DataError> {
    let failed = |error| DataError::io(path, error);
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
    let file = options.open(path);
    // A socket cannot be opened; what it is says more than the error does.
    let kind = match &file {
        Ok(file) => file.metadata().map_err(failed)?.file_type(),
        Err(_) => match fs::metadata(path) {
            Ok(found) => found.file_type(),
            Err(error) => return Err(failed(error)),
        },
    };
    match kind.is_file() {
        true => file.map_err(failed),
        false => Err(special(path, kind)),
    }
}

/// Reads a regular file whole.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    let failed = |error| DataError::io(path, error);
    let mut file = open_regular(path)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(usize::try_from(size).unwrap_or(usize::MAX))
        .map_err(|error| failed(error.into()))?;
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Reads the first `count` bytes of a regular file, or all that it has.
pub(super) fn read_start(path: &Path, count: u64) -> Result<Vec<u8>, DataError> {
    let mut start = Vec::new();
    let read = open_regular(path)?.take(count).read_to_end(&mut start);
    read.map_err(|error| DataError::io(path, error))?;
    Ok(start)
}

/// Says what stands where a file should.
pub(super) fn special(path: &Path, kind: FileType) -> DataError {
    #[cfg(unix)]
    let what = {
        use std::os::unix::fs::FileTypeExt;
        match kind {
            kind if kind.is_dir() => "a folder",
            kind if kind.is_fifo() => "a FIFO",
            kind if kind.is_socket() => "a socket",
            _ => "a device",
        }
    };
    #[cfg(not(unix))]
    let what = match kind.is_dir() {
        true => "a folder",
        false => "a device",
    };
    DataError::format(path, format!("{what}, not a regular file; remove it"))
}

/// Whether `name` ends with one of the [`EXTENSIONS`], in any case.
pub(super) fn is_image(name: &Path) -> bool {
    has_extension(name, &EXTENSIONS)
}

/// Whether `name` ends with one of `extensions`, in any case.
pub(super) fn has_extension(name: &Path, extensions: &[&str]) -> bool {
    name.extension().is_some_and(|found| {
        let mut known = extensions.iter();
        known.any(|known| found.eq_ignore_ascii_case(known))
    })
}

/// Reads `buffer.len()` bytes at `offset` without moving a cursor that other threads share.
#[cfg(unix)]
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Reads `buffer.len()` bytes at `offset`; on Windows every read names its offset.
#[cfg(windows)]
pub(super) fn read_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

/// The last part of a path, for people.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// A name in a folder.
pub(super) struct Listed {
    pub(super) name: OsString,
    pub(super) kind: Kind,
    /// Whether it is a link to what `kind` says.
    pub(super) link: bool,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file, or a link that leads nowhere: whoever reads it says so.
    File,
    Folder,
    /// A FIFO, a socket or a device: reading one may take for ever.
    Special,
}

impl Listed {
    pub(super) fn is_folder(&self) -> bool {
        self.kind == Kind::Folder
    }
}

/// What is not hidden in a folder, sorted by the bytes of the names. Only links are looked at:
/// asking the file system about each of a million files would take minutes.
pub(super) fn listing(folder: &Path) -> Result<Vec<Listed>, DataError> {
    let failed = |error| DataError::io(folder, error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let kind = entry.file_type().map_err(failed)?;
        let link = kind.is_symlink();
        let kind = match link {
            true => fs::metadata(entry.path())
                .map(|found| found.file_type())
                .ok(),
            false => Some(kind),
        };
        let kind = match kind {
            Some(kind) if kind.is_dir() => Kind::Folder,
            Some(kind) if !kind.is_file() => Kind::Special,
            _ => Kind::File,
        };
        found.push(Listed { name, kind, link });
    }
    found.sort_by(|a, b| a.name.as_encoded_bytes().cmp(b.name.as_encoded_bytes()));
    Ok(found)
}

/// The paths of what is not hidden in a folder, sorted by the bytes of the names.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let listed = listing(folder)?.into_iter();
    Ok(listed.map(|entry| folder.join(entry.name)).collect())
}
