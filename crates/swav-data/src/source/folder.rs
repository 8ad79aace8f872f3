//! Folders of image files: one class a folder, flat, or nested without labels.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::names::{Names, os};
use super::{Sample, Source, count, extension_list, inventory, is_image};
use crate::error::DataError;

/// Image files under a folder, read one by one.
///
/// The list of names is made once, when the source is opened. It is one arena of bytes, some 12 to
/// 20 a file; folders and labels are kept by stretches, not by files.
#[derive(Debug)]
pub struct FolderSource {
    root: PathBuf,
    /// Folders below the root, as they were walked; the root itself is the empty name.
    folders: Names,
    /// First file and number of the folder of each stretch of files that lie in one folder.
    runs: Vec<(usize, usize)>,
    /// Names of the files in their folders.
    files: Names,
    /// The first file of each class; empty without labels.
    starts: Vec<usize>,
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
        for entry in listing(root)? {
            let path = root.join(&entry.name);
            if entry.folder {
                let before = found.files.len();
                walk.visit(&path, |folder, name| found.add(folder, name))?;
                if found.files.len() > before {
                    found.starts.push(before);
                    found.classes.push(file_name(&path));
                }
            } else if is_image(&path) {
                let reason = format!(
                    "{} lies beside the class folders and has no class; move it into one, or use \
                     format = \"nested\"",
                    file_name(&path)
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
    pub fn flat(path: &Path) -> Result<Self, DataError> {
        if path.is_dir() {
            let mut found = Self::empty(path, "flat folder");
            for entry in listing(path)? {
                if !entry.folder && is_image(Path::new(&entry.name)) {
                    found.add(path, &entry.name);
                }
            }
            return found.checked();
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut found = Self::empty(folder, "image");
        if let Some(name) = path.file_name().filter(|_| is_image(path)) {
            found.add(folder, name);
        }
        found.checked()
    }

    /// `root/**/image`, without labels.
    ///
    /// # Errors
    /// [`DataError::Empty`] and [`DataError::Io`].
    pub fn nested(root: &Path) -> Result<Self, DataError> {
        let mut found = Self::empty(root, "nested folders");
        Walk::default().visit(root, |folder, name| found.add(folder, name))?;
        found.checked()
    }

    fn empty(root: &Path, layout: &'static str) -> Self {
        Self {
            root: root.into(),
            folders: Names::default(),
            runs: vec![],
            files: Names::default(),
            starts: vec![],
            classes: vec![],
            layout,
        }
    }

    /// Appends the file `name` in `folder`, which is the root or lies below it.
    fn add(&mut self, folder: &Path, name: &std::ffi::OsStr) {
        let below = folder.strip_prefix(&self.root).unwrap_or(folder);
        let below = below.as_os_str().as_encoded_bytes();
        let known = self.folders.len();
        if known == 0 || self.folders.get(known - 1) != below {
            self.runs.push((self.files.len(), known));
            self.folders.push(below);
        }
        self.files.push(name.as_encoded_bytes());
    }

    fn checked(mut self) -> Result<Self, DataError> {
        if self.files.len() == 0 {
            return Err(DataError::Empty {
                looked_for: extension_list(),
                found: inventory(&self.root),
                path: self.root,
            });
        }
        self.files.shrink();
        self.folders.shrink();
        self.runs.shrink_to_fit();
        Ok(self)
    }

    /// The path of a file below the root.
    fn below(&self, index: usize) -> PathBuf {
        let run = self.runs.partition_point(|&(first, _)| first <= index) - 1;
        let mut path = PathBuf::from(os(self.folders.get(self.runs[run].1)));
        path.push(os(self.files.get(index)));
        path
    }
}

impl Source for FolderSource {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        let path = self.root.join(self.below(index));
        fs::read(&path)
            .map(Sample::Encoded)
            .map_err(|error| DataError::io(&path, error))
    }

    fn name(&self, index: usize) -> String {
        self.root
            .join(self.below(index))
            .to_string_lossy()
            .into_owned()
    }

    fn relative_path(&self, index: usize) -> Option<PathBuf> {
        Some(self.below(index))
    }

    fn bytes(&self, index: usize) -> Option<u64> {
        let metadata = fs::metadata(self.root.join(self.below(index)));
        metadata.ok().map(|metadata| metadata.len())
    }

    fn label(&self, index: usize) -> Option<u32> {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        let class = self.starts.partition_point(|&first| first <= index);
        class.checked_sub(1).map(|class| class as u32)
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

/// A name in a folder.
pub(super) struct Listed {
    pub(super) name: OsString,
    /// Whether it is a folder, or a link to one.
    pub(super) folder: bool,
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
        let folder = kind.is_dir() || (!kind.is_file() && entry.path().is_dir());
        found.push(Listed { name, folder });
    }
    found.sort_by(|a, b| a.name.as_encoded_bytes().cmp(b.name.as_encoded_bytes()));
    Ok(found)
}

/// A walk through folders that reads each of them once, however many links lead there.
#[derive(Default)]
pub(super) struct Walk {
    visited: HashSet<PathBuf>,
}

impl Walk {
    /// Calls `found` with folder and name of each image in `root` and below, sorted; a folder's
    /// entries in order, depth first.
    pub(super) fn visit(
        &mut self,
        root: &Path,
        mut found: impl FnMut(&Path, &std::ffi::OsStr),
    ) -> Result<(), DataError> {
        // An explicit stack, so that deep trees do not overflow the thread's own.
        let mut open = Vec::new();
        self.enter(root.to_path_buf(), &mut open)?;
        while let Some((folder, entries)) = open.last_mut() {
            match entries.next() {
                None => {
                    open.pop();
                }
                Some(entry) if entry.folder => {
                    let path = folder.join(entry.name);
                    self.enter(path, &mut open)?;
                }
                Some(entry) if is_image(Path::new(&entry.name)) => found(folder, &entry.name),
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Puts a folder that was not visited before on the stack.
    fn enter(
        &mut self,
        path: PathBuf,
        open: &mut Vec<(PathBuf, std::vec::IntoIter<Listed>)>,
    ) -> Result<(), DataError> {
        let real = fs::canonicalize(&path).map_err(|error| DataError::io(&path, error))?;
        if self.visited.insert(real) {
            let entries = listing(&path)?.into_iter();
            open.push((path, entries));
        }
        Ok(())
    }
}
