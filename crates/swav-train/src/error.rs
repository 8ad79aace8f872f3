//! What can go wrong in a run, each kind with the exit code that the binary gives it.

use std::io::ErrorKind;
use std::path::PathBuf;

use swav_data::DataError;
use swav_model::weights::WeightsError;

/// Everything that can stop a run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The recipe does not parse, names something unknown, or asks for what cannot work.
    #[error("{0}")]
    Recipe(String),
    /// The data cannot be read, or too much of it is corrupt.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A run directory or a checkpoint cannot be used.
    #[error("{path}: {reason}", path = path.display())]
    Checkpoint {
        /// The file or directory at fault.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// Weights cannot be written or do not fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A file of the run cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file at fault.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The device failed or is not there.
    #[error("{0}")]
    Device(String),
    /// Training stopped itself: the loss is not finite, or the features have collapsed.
    #[error("{0}")]
    Stopped(String),
    /// Another rank of the run has failed.
    #[error("rank {rank}: {reason}")]
    Rank {
        /// Which one.
        rank: usize,
        /// Its exit code.
        code: u8,
        /// What it said.
        reason: String,
    },
    /// The user asked for an end; what had to be saved is saved.
    #[error("interrupted")]
    Interrupted,
}

impl TrainError {
    /// The process's exit code: 2 configuration, 3 data, 4 device, 5 training stopped itself, 7 disk full,
    /// 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io { source, .. } | Self::Weights(WeightsError::Io { source, .. })
                if is_full(source.kind()) =>
            {
                7
            }
            Self::Recipe(_) | Self::Checkpoint { .. } | Self::Weights(_) | Self::Io { .. } => 2,
            Self::Data(_) => 3,
            Self::Device(_) => 4,
            Self::Stopped(_) => 5,
            Self::Rank { code, .. } => *code,
            Self::Interrupted => 130,
        }
    }

    /// Whether the state of the run is good in spite of it: data failed, and no step was taken with it.
    pub(crate) fn spares_state(&self) -> bool {
        const DATA: u8 = 3;
        self.exit_code() == DATA
    }

    /// An error of a library that tells of it in words alone.
    pub fn written(path: impl Into<PathBuf>, reason: String) -> Self {
        // What Linux, macOS and Windows say.
        let full = ["No space left", "quota exceeded", "not enough space"];
        match full.iter().any(|words| reason.contains(words)) {
            true => Self::io(path)(ErrorKind::StorageFull.into()),
            false => Self::checkpoint(path, reason),
        }
    }

    /// An [`Io`](Self::Io) error about `path`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// A [`Checkpoint`](Self::Checkpoint) error about `path`.
    pub fn checkpoint(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Checkpoint {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

/// Whether there is no room left, on the disk or of the user's share of it.
fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
