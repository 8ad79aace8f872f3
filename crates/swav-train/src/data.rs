//! Where images come from: a path, or the set that ships inside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use swav_data::{Format, Source, TagSource, TarSource};

use crate::TrainError;
use crate::display::say;

/// The images of `swav quickstart`: Twemoji graphics, CC-BY 4.0 (see `assets/`).
static QUICKSTART: &[u8] = include_bytes!("../../../assets/quickstart.tar");

/// What the paths of the built-in set begin with: `builtin:quickstart/train`, `…/test`.
const BUILTIN: &str = "builtin:quickstart/";

/// Opens a folder, a tar file, a folder of tar shards, or a part of the built-in set. What the source
/// has to say of itself goes to stderr.
///
/// # Errors
/// If there is nothing there, nothing that is an image, or the archive is damaged.
pub fn open(path: &Path, format: Format) -> Result<Arc<dyn Source>, TrainError> {
    match builtin_part(path) {
        Some(part) => {
            let source = TarSource::from_static("quickstart", QUICKSTART, &format!("{part}/"))?;
            Ok(Arc::new(source))
        }
        None => {
            let source = swav_data::open(path, format)?;
            for note in source.notes() {
                say(format_args!("note: {note}"));
            }
            Ok(source)
        }
    }
}

/// As [`open`]; where there is a text file `labels`, it says what the labels are.
///
/// # Errors
/// As [`open`], and if the file names images that are not there.
pub fn open_labelled(
    path: &Path,
    format: Format,
    labels: Option<&Path>,
) -> Result<Arc<dyn Source>, TrainError> {
    let source = open(path, format)?;
    match labels {
        Some(labels) => Ok(Arc::new(TagSource::open(source, labels)?)),
        None => Ok(source),
    }
}

/// The path as it is kept in a plan: absolute, so that a run continues from anywhere.
///
/// # Errors
/// If the current directory is gone.
pub fn resolve(path: &Path) -> Result<PathBuf, TrainError> {
    if path.as_os_str().is_empty() {
        return Err(TrainError::Recipe(
            "an empty path names no file: leave the option out, or give it a value".to_string(),
        ));
    }
    match builtin_part(path) {
        Some(_) => Ok(path.to_path_buf()),
        // Without what makes two names of one place differ: `set/` is `set`.
        None => std::path::absolute(path)
            .map(|path| path.components().collect())
            .map_err(|error| TrainError::io(path)(error)),
    }
}

fn builtin_part(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix(BUILTIN)
}
