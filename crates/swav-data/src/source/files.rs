//! Files of one folder that are read at many places by many threads, of which some are open.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::filesystem::{Kind, listing, open_regular};
use super::names::{Names, os_string};
use super::{pattern, split};
use crate::error::DataError;
use crate::threads::lock;

/// Files by number. Opening is left to the first read, and a file is closed when its place is
/// needed for another.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    names: Names,
    /// The open file of number i stands in place i modulo their number.
    open: Vec<Mutex<Option<OpenFile>>>,
}

/// An open file and its number.
type OpenFile = (usize, Arc<File>);

impl Files {
    /// How many may be open at once: well below what systems allow a process.
    const MAX_OPEN: usize = 256;

    /// The file at `path`, those in the folder at `path` that `wanted` says yes to, by name, or those
    /// that match `path` where it is a pattern.
    ///
    /// # Errors
    /// [`DataError::Format`] when those in a folder are of several splits, and what
    /// [`pattern::matches`] refuses.
    pub(super) fn at(
        path: &Path,
        mut wanted: impl FnMut(&Path) -> Result<bool, DataError>,
    ) -> Result<Self, DataError> {
        let mut names = Names::default();
        let root = if path.is_dir() {
            let mut known = Vec::new();
            for entry in listing(path)? {
                if wanted(Path::new(&entry.name))? && entry.kind == Kind::File {
                    names.push(entry.name.as_encoded_bytes());
                    known.push(entry.name.to_string_lossy().into_owned());
                }
            }
            split::check_archives(path, &known)?;
            path
        } else if pattern::is_pattern(path) && !path.exists() {
            for file in pattern::matches(path)? {
                names.push(file.as_os_str().as_encoded_bytes());
            }
            Path::new("")
        } else {
            names.push(path.file_name().unwrap_or_default().as_encoded_bytes());
            path.parent().unwrap_or(Path::new(""))
        };
        names.shrink();
        let places = names.len().min(Self::MAX_OPEN);
        Ok(Self {
            root: root.into(),
            names,
            open: (0..places).map(|_| Mutex::default()).collect(),
        })
    }

    /// How many files there are.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The path of a file.
    pub(super) fn path(&self, number: usize) -> PathBuf {
        self.root.join(os_string(self.names.get(number)))
    }

    /// The file, opened if need be.
    pub(super) fn file(&self, number: usize) -> Result<Arc<File>, DataError> {
        let mut place = lock(&self.open[number % self.open.len()]);
        if let Some((held, file)) = &*place
            && *held == number
        {
            return Ok(Arc::clone(file));
        }
        let path = self.path(number);
        let file = Arc::new(open_regular(&path)?);
        *place = Some((number, Arc::clone(&file)));
        Ok(file)
    }
}
