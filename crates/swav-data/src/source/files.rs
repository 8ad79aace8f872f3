//! Files of one folder that are read at many places by many threads, of which some are open.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::folder::listing;
use super::names::{Names, os};
use crate::error::DataError;
use crate::health::lock;

/// Files by number. Opening is left to the first read, and a file is closed when its place is
/// needed for another.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    names: Names,
    /// The open file of number i stands in place i modulo their number.
    open: Vec<Mutex<Option<Held>>>,
}

/// An open file and its number.
type Held = (usize, Arc<File>);

impl Files {
    /// How many may be open at once: well below what systems allow a process.
    const OPEN: usize = 256;

    /// The file at `path`, or those in the folder at `path` that `wanted` says yes to, by name.
    pub(super) fn at(
        path: &Path,
        mut wanted: impl FnMut(&Path) -> Result<bool, DataError>,
    ) -> Result<Self, DataError> {
        let mut names = Names::default();
        let root = if path.is_dir() {
            for entry in listing(path)? {
                if wanted(Path::new(&entry.name))? && !entry.folder {
                    names.push(entry.name.as_encoded_bytes());
                }
            }
            path
        } else {
            names.push(path.file_name().unwrap_or_default().as_encoded_bytes());
            path.parent().unwrap_or(Path::new(""))
        };
        names.shrink();
        let places = names.len().min(Self::OPEN);
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
        self.root.join(os(self.names.get(number)))
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
        let file = Arc::new(File::open(&path).map_err(|error| DataError::io(&path, error))?);
        *place = Some((number, Arc::clone(&file)));
        Ok(file)
    }
}
