//! Folders of image files: one class a folder, flat, or nested without labels.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::describe::{count, extension_list, inventory};
use super::filesystem::{Kind, Listed, file_name, is_image, listing, read_file};
use super::names::{Names, os_string};
use super::skipped::Skipped;
use super::split;
use super::traits::Source;
use crate::error::DataError;
use crate::sample::Sample;

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
    /// What the set is called in its description.
    place: PathBuf,
    notes: Vec<String>,
}

impl FolderSource {
    /// `root/class/**/image`. Classes are the folders in `root` with at least one image, sorted.
    ///
    /// A class may be a link to a folder, also to the one of another class: it has that folder's images.
    ///
    /// # Errors
    /// [`DataError::Empty`], [`DataError::Io`], and [`DataError::Format`] when images lie beside
    /// the class folders (they would have no class), or when a link leads to a folder above itself, or
    /// from within a class into another.
    pub fn classes(root: &Path) -> Result<Self, DataError> {
        let mut found = Self::empty(root, "class folders");
        let mut skipped = Skipped::default();
        let listed = listing(root)?;
        let mut classes = ClassFolders::default();
        for entry in listed.iter().filter(|entry| entry.is_folder()) {
            let path = root.join(&entry.name);
            if let Some(real) = canonical_if_readable(&path, &mut skipped)? {
                if canonical(root)?.starts_with(&real) {
                    return Err(refused_link(&path, LINK_TO_ABOVE));
                }
                classes.real.push((real, path));
            }
        }
        let mut firsts: HashMap<&Path, String> = HashMap::new();
        for (real, path) in &classes.real {
            let before = found.files.len();
            let mut walk = Walk::within(&classes, real);
            walk.visit(path, &mut skipped, |folder, name| found.add(folder, name))?;
            if found.files.len() > before {
                let name = file_name(path);
                found.starts.push(before);
                found.classes.push(name.clone());
                if let Some(first) = firsts.get(real.as_path()) {
                    found.notes.push(format!(
                        "classes {first} and {name} are the same folder: its images are in both"
                    ));
                }
                firsts.entry(real).or_insert(name);
            }
        }
        for entry in listed.iter().filter(|entry| !entry.is_folder()) {
            if is_image_file(entry, root, &mut skipped) {
                let reason = format!(
                    "{} lies beside the class folders and has no class; move it into one, or use \
                     format = \"nested\"",
                    entry.name.display()
                );
                return Err(DataError::format(root, reason));
            }
        }
        found.finish(skipped)
    }

    /// `root/image`, or a single image file.
    ///
    /// # Errors
    /// [`DataError::Empty`] and [`DataError::Io`].
    pub fn flat(path: &Path) -> Result<Self, DataError> {
        let mut skipped = Skipped::default();
        if path.is_dir() {
            let mut found = Self::empty(path, "flat folder");
            for entry in listing(path)? {
                if !entry.is_folder() && is_image_file(&entry, path, &mut skipped) {
                    found.add(path, &entry.name);
                }
            }
            return found.finish(skipped);
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut found = Self::empty(folder, "image");
        if let Some(name) = path.file_name().filter(|_| is_image(path)) {
            found.add(folder, name);
        }
        found.finish(skipped)
    }

    /// `root/**/image`, without labels. A folder that can be reached in two ways is read once.
    ///
    /// # Errors
    /// [`DataError::Empty`] and [`DataError::Io`].
    pub fn nested(root: &Path) -> Result<Self, DataError> {
        let mut found = Self::empty(root, "nested folders");
        let mut skipped = Skipped::default();
        Walk::default().visit(root, &mut skipped, |folder, name| found.add(folder, name))?;
        found.finish(skipped)
    }

    /// The image files that a pattern has named, without labels.
    pub(super) fn files(pattern: &Path, files: &[PathBuf]) -> Result<Self, DataError> {
        let parents: Vec<&Path> = files.iter().filter_map(|file| file.parent()).collect();
        let mut root = parents.first().copied().unwrap_or(Path::new(""));
        while !parents.iter().all(|parent| parent.starts_with(root)) {
            root = root.parent().unwrap_or(Path::new(""));
        }
        let mut found = Self::empty(root, "files");
        found.place = pattern.into();
        for file in files {
            if let (Some(folder), Some(name)) = (file.parent(), file.file_name()) {
                found.add(folder, name);
            }
        }
        found.finish(Skipped::default())
    }

    /// Refuses folders or files that are several splits of one set.
    pub(super) fn refuse_splits(self) -> Result<Self, DataError> {
        let folders: Vec<PathBuf> = (0..self.folders.len())
            .map(|number| PathBuf::from(os_string(self.folders.get(number))))
            .collect();
        split::check_folders(&self.root, folders.iter().map(PathBuf::as_path))?;
        if folders.len() == 1 {
            let name = |index| String::from_utf8_lossy(&self.files.get(index)).into_owned();
            let folder = match folders[0] == Path::new("") {
                true => self.root.clone(),
                false => self.root.join(&folders[0]),
            };
            split::check_images(&folder, (0..self.files.len()).map(name))?;
        }
        Ok(self)
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
            place: root.into(),
            notes: vec![],
        }
    }

    /// Appends the file `name` in `folder`, which is the root or lies below it.
    fn add(&mut self, folder: &Path, name: &OsStr) {
        let below = folder.strip_prefix(&self.root).unwrap_or(folder);
        let below = below.as_os_str().as_encoded_bytes();
        let known = self.folders.len();
        if known == 0 || self.folders.get(known - 1) != below {
            self.runs.push((self.files.len(), known));
            self.folders.push(below);
        }
        self.files.push(name.as_encoded_bytes());
    }

    fn finish(mut self, skipped: Skipped) -> Result<Self, DataError> {
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
        self.notes.extend(skipped.notes());
        Ok(self)
    }

    /// The path of a file below the root.
    fn path_below_root(&self, index: usize) -> PathBuf {
        let run = self.runs.partition_point(|&(first, _)| first <= index) - 1;
        let mut path = PathBuf::from(os_string(self.folders.get(self.runs[run].1)));
        path.push(os_string(self.files.get(index)));
        path
    }
}

impl Source for FolderSource {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        read_file(&self.root.join(self.path_below_root(index))).map(Sample::Encoded)
    }

    fn name(&self, index: usize) -> String {
        self.root
            .join(self.path_below_root(index))
            .to_string_lossy()
            .into_owned()
    }

    fn relative_path(&self, index: usize) -> Option<PathBuf> {
        Some(self.path_below_root(index))
    }

    fn bytes(&self, index: usize) -> Option<u64> {
        let metadata = fs::metadata(self.root.join(self.path_below_root(index)));
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

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn describe(&self) -> String {
        let images = count(self.len(), self.classes.len());
        format!("{images}, {} {}", self.layout, self.place.display())
    }
}

/// Whether `entry`, which lies in `folder` and is none itself, is an image file. What is left out is
/// counted in `skipped`.
fn is_image_file(entry: &Listed, folder: &Path, skipped: &mut Skipped) -> bool {
    let image = is_image(Path::new(&entry.name));
    match entry.kind {
        Kind::File if image => return true,
        Kind::File => skipped.count_ending(Path::new(&entry.name)),
        Kind::Special if image => skipped.count_special(folder.join(&entry.name)),
        Kind::Special | Kind::Folder => {}
    }
    false
}

/// Where a folder really lies. Nothing for a `lost+found` that may not be read: each file system has
/// one, and no images in it.
fn canonical_if_readable(
    folder: &Path,
    skipped: &mut Skipped,
) -> Result<Option<PathBuf>, DataError> {
    let failed = |error| DataError::io(folder, error);
    if folder.ends_with("lost+found")
        && let Err(error) = fs::read_dir(folder)
        && error.kind() == std::io::ErrorKind::PermissionDenied
    {
        skipped.add_unreadable(folder.into());
        return Ok(None);
    }
    fs::canonicalize(folder).map(Some).map_err(failed)
}

/// What is in a folder, for a decision on the layout of the folder above.
pub(super) struct Contents {
    /// Whether there is an image in it or below.
    pub(super) images: bool,
    /// Whether there is one in it.
    pub(super) own: bool,
}

impl Contents {
    /// Looks into a folder of `root`, no further than it takes. A link that leads to a folder above
    /// itself counts for nothing.
    pub(super) fn of(root: &Path, entry: &Listed) -> Result<Self, DataError> {
        let folder = root.join(&entry.name);
        let (mut images, mut own) = (false, false);
        let skipped = &mut Skipped::default();
        let real = canonical_if_readable(&folder, skipped)?;
        let above = |real: PathBuf| Ok(canonical(root)?.starts_with(real));
        if !real.map_or(Ok(true), above)? {
            Walk::default().visit_until(&folder, skipped, |place, _| {
                images = true;
                own |= place == folder;
                ControlFlow::Break(())
            })?;
            // Folders come before files where their names do.
            own |= images && !own && {
                let mut files = listing(&folder)?.into_iter();
                files.any(|file| file.kind == Kind::File && is_image(Path::new(&file.name)))
            };
        }
        Ok(Self { images, own })
    }
}

fn canonical(path: &Path) -> Result<PathBuf, DataError> {
    fs::canonicalize(path).map_err(|error| DataError::io(path, error))
}

/// What is wrong with a link to a folder above itself.
const LINK_TO_ABOVE: &str = "to a folder above itself: what lies below it has no end";

/// Refuses a link among class folders.
fn refused_link(link: &Path, what: &str) -> DataError {
    DataError::format(
        link,
        format!(
            "a link {what}; remove it, or use data.format = \"nested\", which reads each folder once \
             and gives no labels"
        ),
    )
}

/// Where the class folders of a set really lie, and their paths in it.
#[derive(Default)]
struct ClassFolders {
    real: Vec<(PathBuf, PathBuf)>,
}

/// A walk through folders that reads each of them once, however many links lead there.
#[derive(Default)]
struct Walk<'a> {
    visited: HashSet<PathBuf>,
    /// The classes, and where the one lies that is walked through.
    classes: Option<(&'a ClassFolders, &'a Path)>,
}

/// A folder that is being walked through.
struct OpenFolder {
    path: PathBuf,
    real: PathBuf,
    entries: std::vec::IntoIter<Listed>,
}

impl<'a> Walk<'a> {
    /// A walk through one of the classes, which refuses links that lead out of it to where they make
    /// labels wrong.
    fn within(classes: &'a ClassFolders, class: &'a Path) -> Self {
        Self {
            visited: HashSet::new(),
            classes: Some((classes, class)),
        }
    }

    /// Calls `found` with folder and name of each image in `root` and below, sorted; a folder's
    /// entries in order, depth first.
    fn visit(
        &mut self,
        root: &Path,
        skipped: &mut Skipped,
        mut found: impl FnMut(&Path, &OsStr),
    ) -> Result<(), DataError> {
        self.visit_until(root, skipped, |folder, name| {
            found(folder, name);
            ControlFlow::Continue(())
        })
    }

    /// [`visit`](Self::visit), until `found` breaks.
    fn visit_until(
        &mut self,
        root: &Path,
        skipped: &mut Skipped,
        mut found: impl FnMut(&Path, &OsStr) -> ControlFlow<()>,
    ) -> Result<(), DataError> {
        // An explicit stack, so that deep trees do not overflow the thread's own.
        let mut open: Vec<OpenFolder> = Vec::new();
        self.enter(root.to_path_buf(), &mut open, skipped)?;
        while let Some(folder) = open.last_mut() {
            let Some(entry) = folder.entries.next() else {
                open.pop();
                continue;
            };
            if entry.is_folder() {
                let path = folder.path.join(&entry.name);
                if entry.link {
                    self.check_link(&path, &open)?;
                }
                self.enter(path, &mut open, skipped)?;
            } else if is_image_file(&entry, &folder.path, skipped)
                && found(&folder.path, &entry.name).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// Puts a folder that was not visited before on the stack.
    fn enter(
        &mut self,
        path: PathBuf,
        open: &mut Vec<OpenFolder>,
        skipped: &mut Skipped,
    ) -> Result<(), DataError> {
        let Some(real) = canonical_if_readable(&path, skipped)? else {
            return Ok(());
        };
        if self.visited.insert(real.clone()) {
            let entries = listing(&path)?.into_iter();
            open.push(OpenFolder {
                path,
                real,
                entries,
            });
        }
        Ok(())
    }

    /// Refuses a link within a class that leads to a folder above itself, or to images of another class.
    fn check_link(&self, link: &Path, open: &[OpenFolder]) -> Result<(), DataError> {
        let Some((classes, own)) = self.classes else {
            return Ok(());
        };
        let real = canonical(link)?;
        if open.iter().any(|folder| folder.real.starts_with(&real)) {
            return Err(refused_link(link, LINK_TO_ABOVE));
        }
        if real.starts_with(own) {
            return Ok(());
        }
        let overlaps = |class: &Path| real.starts_with(class) || class.starts_with(&real);
        match classes.real.iter().find(|(class, _)| overlaps(class)) {
            Some((_, class)) => Err(refused_link(
                link,
                &format!(
                    "to images of class {}: they would be labelled twice, and once wrongly",
                    file_name(class)
                ),
            )),
            None => Ok(()),
        }
    }
}
