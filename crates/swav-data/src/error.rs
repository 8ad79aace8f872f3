//! Everything that can go wrong between a path and a batch.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use crate::health::HealthReport;

/// What went wrong, and with which file.
///
/// Every variant that concerns a file carries its path (or `archive:member`), so that a message is
/// of use without the place in the code that raised it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// There is nothing at the path.
    #[error("{}: no such file or folder", path.display())]
    NotFound {
        /// The path asked for.
        path: PathBuf,
    },
    /// The path exists, but there is no image in it.
    #[error("{}: no image in it (looked for {looked_for}); found {found}", path.display())]
    Empty {
        /// The folder or archive.
        path: PathBuf,
        /// The extensions or file names that would have counted.
        looked_for: String,
        /// What lies there instead.
        found: String,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's own words.
        source: io::Error,
    },
    /// The bytes are not a whole image.
    #[error("{file}: cannot be decoded: {reason}")]
    Decode {
        /// Path, or `archive:member`.
        file: String,
        /// What the decoder found.
        reason: String,
    },
    /// The file is an image of a kind that is not read. It is not damaged.
    #[error("{file}: not supported: {reason}")]
    Unsupported {
        /// Path, or `archive:member`.
        file: String,
        /// The kind of the image, and what to do.
        reason: String,
    },
    /// The header announces more pixels than the limit allows; nothing was decoded.
    #[error(
        "{file}: {width} × {height} is {} pixels, more than the limit of {limit}",
        u64::from(*width) * u64::from(*height)
    )]
    TooLarge {
        /// Path, or `archive:member`.
        file: String,
        /// Width in pixels, from the header.
        width: u32,
        /// Height in pixels, from the header.
        height: u32,
        /// The limit in pixels.
        limit: u64,
    },
    /// An archive is damaged, or holds what it must not.
    #[error("{file}: {reason}")]
    Archive {
        /// Path of the archive, or the name of an embedded one.
        file: String,
        /// What is wrong with it, and with which member.
        reason: String,
    },
    /// The files are there, but not in the layout that was asked for.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file or folder.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// More files are corrupt than the budget allows.
    #[error("{0}")]
    Budget(HealthReport),
    /// A thread that loads images panicked outside of a single image's way, or a source did where no
    /// image can be blamed. It is a defect of this program or of a source.
    #[error("loading has stopped: {0}; this is a defect, please report it")]
    Stopped(String),
    /// A setting has no meaning; the message names it.
    #[error("{0}")]
    Invalid(String),
}

impl DataError {
    /// Wraps an error of the operating system; a missing file becomes [`DataError::NotFound`].
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path: path.into() },
            _ => Self::Io {
                path: path.into(),
                source,
            },
        }
    }

    /// A [`DataError::Decode`] of `file`.
    pub(crate) fn decode(file: &str, reason: impl Into<String>) -> Self {
        Self::Decode {
            file: file.into(),
            reason: reason.into(),
        }
    }

    /// A [`DataError::Unsupported`] of `file`.
    pub(crate) fn unsupported(file: &str, reason: impl Into<String>) -> Self {
        Self::Unsupported {
            file: file.into(),
            reason: reason.into(),
        }
    }

    /// A [`DataError::Unsupported`] of `file`, which JPEG or PNG can hold as well.
    pub(crate) fn convertible(file: &str, kind: impl Display) -> Self {
        Self::unsupported(file, format!("{kind}; convert the image to JPEG or PNG"))
    }

    /// A [`DataError::Format`] of `path`.
    pub(crate) fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format {
            path: path.into(),
            reason: reason.into(),
        }
    }
}
