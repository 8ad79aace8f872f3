//! WebDataset: tar archives in which members with one key are one sample.
//!
//! The key is the member's path up to the first dot of its last part; what follows says what the
//! member is: `000123.jpg` with `000123.cls` (a number, the label) or `000123.json` (with a field
//! `"label"`). Members of a key lie next to one another, which is how such archives are written and
//! what lets them be read in one go. Images may be of any kind that is known; other members, such as
//! a `txt` with a caption, are passed over.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use tar::Archive;

use super::is_image;
use super::shard::{NONE, Table};
use crate::error::DataError;

/// What is known of the key that is being read.
pub(super) struct Keys {
    archive: String,
    key: Vec<u8>,
    /// Its first image.
    first: usize,
    cls: Option<u32>,
    json: Option<u32>,
    /// A key with image and label, and one with an image only.
    labelled: Option<String>,
    bare: Option<String>,
    /// A label without an image.
    orphan: Option<String>,
}

impl Keys {
    /// More classes than any set has: a larger number is no label.
    pub(super) const CLASSES: u64 = 10_000_000;
    /// Longer than any description of an image.
    const LONGEST: u64 = 1 << 24;

    pub(super) fn new(archive: &str) -> Self {
        Self {
            archive: archive.into(),
            key: vec![],
            first: 0,
            cls: None,
            json: None,
            labelled: None,
            bare: None,
            orphan: None,
        }
    }

    /// Whether a member of this name may hold a label.
    pub(super) fn is_label(path: &Path) -> bool {
        matches!(extension(path), Some(b"cls" | b"json"))
    }

    /// The next member is an image; it has been appended to `table`.
    pub(super) fn image(&mut self, path: &Path, table: &mut Table) -> Result<(), DataError> {
        self.enter(path, table, table.len() - 1)
    }

    /// The next member is a label.
    pub(super) fn label(
        &mut self,
        path: &Path,
        size: u64,
        member: &mut impl Read,
        table: &mut Table,
    ) -> Result<(), DataError> {
        self.enter(path, table, table.len())?;
        let wrong = |reason: &str| self.failed(format!("member {}: {reason}", path.display()));
        if size > Self::LONGEST {
            return Err(wrong("too long to be a label"));
        }
        let mut text = Vec::new();
        member
            .take(Self::LONGEST)
            .read_to_end(&mut text)
            .map_err(|error| wrong(&error.to_string()))?;
        let within = |number: u64| match number < Self::CLASSES {
            true => Ok(number as u32),
            false => Err(wrong(&format!("label {number} is no number of a class"))),
        };
        if extension(path) == Some(b"cls") {
            let text = String::from_utf8_lossy(&text);
            let number = text.trim().parse().map_err(|_| {
                let start: String = text.trim().chars().take(20).collect();
                wrong(&format!(
                    "expected the number of a class, found \"{start}\""
                ))
            })?;
            self.cls = Some(within(number)?);
            return Ok(());
        }
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| wrong(&error.to_string()))?;
        if let Some(label) = value.get("label") {
            let number = label.as_u64().ok_or_else(|| {
                wrong(&format!(
                    "\"label\" is {label}, expected the number of a class"
                ))
            })?;
            self.json = Some(within(number)?);
        }
        Ok(())
    }

    /// There are no more members.
    ///
    /// # Errors
    /// When some keys have a label and others have none.
    pub(super) fn finish(&mut self, table: &mut Table) -> Result<(), DataError> {
        self.close(table, table.len());
        match (&self.labelled, &self.bare, &self.orphan) {
            (Some(_), Some(bare), _) => Err(self.failed(format!(
                "key {bare} has an image and no label, while others have one; give each image a cls \
                 or a json with \"label\", next to it in the archive, or leave out all"
            ))),
            (None, Some(bare), Some(orphan)) => Err(self.failed(format!(
                "key {bare} has an image and no label, key {orphan} a label and no image: the \
                 members of a key must lie next to one another (`tar --sort=name`)"
            ))),
            _ => Ok(()),
        }
    }

    /// Goes on to the key of `path`, whose first image is `first` if it is another.
    fn enter(&mut self, path: &Path, table: &mut Table, first: usize) -> Result<(), DataError> {
        let key = key(path);
        if key != self.key {
            self.close(table, first);
            self.key = key.to_vec();
            self.first = first;
        }
        Ok(())
    }

    /// Labels the images of a key, which end before `end`.
    fn close(&mut self, table: &mut Table, end: usize) {
        let label = self.cls.take().or(self.json.take());
        self.json = None;
        let images = &mut table.labels[self.first..end];
        let place = match (images.is_empty(), label) {
            (false, Some(_)) => &mut self.labelled,
            (false, None) => &mut self.bare,
            (true, Some(_)) => &mut self.orphan,
            (true, None) => return,
        };
        place.get_or_insert_with(|| String::from_utf8_lossy(&self.key).into_owned());
        images.fill(label.unwrap_or(NONE));
    }

    fn failed(&self, reason: String) -> DataError {
        DataError::Archive {
            file: self.archive.clone(),
            reason,
        }
    }
}

/// Whether an image among the first members of an archive has a label of its own key. An archive that
/// cannot be read has none; whoever opens it says why.
pub(super) fn has_keys(archive: &Path) -> bool {
    const MEMBERS: usize = 64;
    let Ok(file) = File::open(archive) else {
        return false;
    };
    let mut archive = Archive::new(file);
    let Ok(members) = archive.entries_with_seek() else {
        return false;
    };
    let (mut images, mut labels) = (HashSet::new(), HashSet::new());
    for member in members.take(MEMBERS) {
        let Ok(mut member) = member else {
            break;
        };
        let Ok(path) = member.path().map(|path| path.into_owned()) else {
            break;
        };
        if is_image(&path) {
            images.insert(key(&path).to_vec());
        } else if extension(&path) == Some(b"cls") || is_labelled_json(&path, &mut member) {
            labels.insert(key(&path).to_vec());
        }
    }
    !images.is_disjoint(&labels)
}

/// Whether a member is JSON with a `"label"`.
fn is_labelled_json(path: &Path, member: &mut impl Read) -> bool {
    let mut text = Vec::new();
    extension(path) == Some(b"json")
        && member.take(1 << 20).read_to_end(&mut text).is_ok()
        && serde_json::from_slice::<serde_json::Value>(&text)
            .is_ok_and(|value| value.get("label").is_some())
}

/// The path up to the first dot of its last part.
pub(super) fn key(path: &Path) -> &[u8] {
    let bytes = path.as_os_str().as_encoded_bytes();
    let name = path.file_name().map_or(0, |name| name.len());
    let start = bytes.len() - name;
    match bytes[start..].iter().position(|&byte| byte == b'.') {
        Some(dot) => &bytes[..start + dot],
        None => bytes,
    }
}

/// What follows the last dot.
fn extension(path: &Path) -> Option<&[u8]> {
    path.extension().map(|found| found.as_encoded_bytes())
}
