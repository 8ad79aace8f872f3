//! Folders of image files: one class a folder, flat, or nested without labels.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Sample, Source, count, entries, extension_list, inventory, is_image};
use crate::error::DataError;

/// Image files under a folder, read one by one.
///
/// The list of names is made once, when the source is opened.
#[derive(Debug)]
pub struct FolderSource {
    root: PathBuf,
    files: Vec<PathBuf>,
    /// Per file; empty without labels.
    labels: Vec<u32>,
    classes: Vec<String>,
    layout: &'static str,
}

impl FolderSource {
    /// `root/class/**/image`. Classes are the folders in `root` with at least one image, sorted.
    ///
    /// # Errors
    /// [`DataError::Empty`], [`DataError::Io`], and [`DataError::Format`] when images lie beside
    /// the class folders: they would have no class.
    pub fn classes(root: &Path) -> Result<Self, DataError> {
        let mut found = Self::empty(root, "class folders");
        let mut walk = Walk::default();
        for entry in entries(root)? {
            if entry.is_dir() {
                let before = found.files.len();
                walk.collect(&entry, &mut found.files)?;
                if found.files.len() > before {
                    found
                        .labels
                        .resize(found.files.len(), found.classes.len() as u32);
                    found.classes.push(file_name(&entry));
                }
            } else if is_image(&entry) {
                let reason = format!(
                    "{} lies beside the class folders and has no class; move it into one, or use \
                     format = \"nested\"",
                    file_name(&entry)
                );
                return Err(DataError::format(root, reason));
            }
        }
        found.checked()
    }

    /// `root/image`, or a single image file.
    ///
    /// # Errors
    /// [`DataError::Empty`] and [`DataError::Io`].
    pub fn flat(root: &Path) -> Result<Self, DataError> {
        let mut found = Self::empty(root, "flat folder");
        if root.is_dir() {
            found.files = entries(root)?;
            found
                .files
                .retain(|entry| is_image(entry) && !entry.is_dir());
        } else if is_image(root) {
            found.files.push(root.into());
        }
        found.checked()
    }

    /// `root/**/image`, without labels.
    ///
    /// # Errors
    /// [`DataError::Empty`] and [`DataError::Io`].
    pub fn nested(root: &Path) -> Result<Self, DataError> {
        let mut found = Self::empty(root, "nested folders");
        Walk::default().collect(root, &mut found.files)?;
        found.checked()
    }

    fn empty(root: &Path, layout: &'static str) -> Self {
        Self {
            root: root.into(),
            files: vec![],
            labels: vec![],
            classes: vec![],
            layout,
        }
    }

    fn checked(self) -> Result<Self, DataError> {
        if self.files.is_empty() {
            return Err(DataError::Empty {
                looked_for: extension_list(),
                found: inventory(&self.root),
                path: self.root,
            });
        }
        Ok(self)
    }
}

impl Source for FolderSource {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        let path = &self.files[index];
        fs::read(path)
            .map(Sample::Encoded)
            .map_err(|error| DataError::io(path, error))
    }

    fn name(&self, index: usize) -> String {
        self.files[index].to_string_lossy().into_owned()
    }

    fn label(&self, index: usize) -> Option<u32> {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        self.labels.get(index).copied()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> String {
        let images = count(self.len(), self.classes.len());
        format!("{images}, {} {}", self.layout, self.root.display())
    }
}

/// The last part of a path, for people.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// A walk through folders that reads each of them once, however many links lead there.
#[derive(Default)]
pub(super) struct Walk {
    visited: HashSet<PathBuf>,
}

impl Walk {
    /// Appends the images in `root` and below, sorted; a folder's entries in order, depth first.
    pub(super) fn collect(
        &mut self,
        root: &Path,
        images: &mut Vec<PathBuf>,
    ) -> Result<(), DataError> {
        // An explicit stack, popped from the end: deep trees do not overflow the thread's own.
        let mut pending = vec![root.to_path_buf()];
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                let real = fs::canonicalize(&path).map_err(|error| DataError::io(&path, error))?;
                if self.visited.insert(real) {
                    pending.extend(entries(&path)?.into_iter().rev());
                }
            } else if is_image(&path) {
                images.push(path);
            }
        }
        Ok(())
    }
}
