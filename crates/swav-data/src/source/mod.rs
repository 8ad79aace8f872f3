//! Where images come from: folders, lists, tar shards, Parquet, CIFAR and IDX files, behind one trait.
//!
//! A source knows how many samples it has, hands out any of them by index from any thread, and is
//! always in the same order: names are sorted bytewise, so an index means the same image in every run.

mod cifar;
mod detect;
mod files;
mod folder;
mod idx;
mod index;
mod list;
mod members;
mod names;
mod pages;
mod parquet;
mod pattern;
mod shard;
mod skipped;
mod split;
mod tags;
mod tar;
mod webdataset;

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::cifar::CifarSource;
pub use self::folder::FolderSource;
pub use self::idx::IdxSource;
pub use self::list::ListSource;
pub use self::parquet::ParquetSource;
pub(crate) use self::shard::{MARKER, Marker};
pub use self::tags::TagSource;
pub use self::tar::TarSource;
use crate::decode::EXTENSIONS;
use crate::error::DataError;

/// One sample as its source holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// The bytes of an image file.
    Encoded(Vec<u8>),
    /// Pixels that need no decoding: `height` rows of `width` pixels, three bytes each.
    Pixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The pixels.
        rgb: Vec<u8>,
    },
}

/// A set of images, in a fixed order.
pub trait Source: Send + Sync {
    /// How many samples there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads sample `index`. Any number of threads may read at once.
    ///
    /// # Errors
    /// When the file has gone or the operating system refuses.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn read(&self, index: usize) -> Result<Sample, DataError>;

    /// The path of sample `index`, or `archive:member`, or `file#record`. Bytes that are not UTF-8
    /// show as `�`.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn name(&self, index: usize) -> String;

    /// The class of sample `index`, an index into [`classes`](Source::classes), if it has exactly one.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn label(&self, index: usize) -> Option<u32>;

    /// All labels of sample `index`, indices into [`classes`](Source::classes): none, one, or, where images
    /// are tagged, several.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn labels(&self, index: usize) -> Vec<u32> {
        self.label(index).into_iter().collect()
    }

    /// Names of the classes; empty when there are no labels.
    fn classes(&self) -> &[String];

    /// Where sample `index` lies within the set, without the set's own place: `cat/1.jpg`. Nothing
    /// where samples have no files of their own.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn relative_path(&self, _index: usize) -> Option<PathBuf> {
        None
    }

    /// What tells sample `index` from the others of the set, wherever the set lies: its name within it, or its place in an
    /// archive, whichever takes no reading.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn key(&self, index: usize) -> Vec<u8> {
        let name = match self.relative_path(index) {
            Some(path) => return path.into_os_string().into_encoded_bytes(),
            None => self.name(index),
        };
        let last = name.rsplit(['/', '\\']).next().unwrap_or(&name);
        last.as_bytes().to_vec()
    }

    /// How many bytes sample `index` takes where it is kept, if that is known without reading it.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn bytes(&self, _index: usize) -> Option<u64> {
        None
    }

    /// What a person should know who opens the set, one line each: that an index was made anew, or
    /// cannot be kept.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// A line for people: "50,000 images in 10 classes, tar data/train.tar".
    fn describe(&self) -> String;
}

/// How images and labels are laid out under a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Look and decide; [`open`] says how.
    #[default]
    Auto,
    /// `root/class/**/image`: the first folder names the class.
    Classes,
    /// `root/image`: no labels; folders inside are not looked into.
    Flat,
    /// `root/**/image`: any depth, no labels.
    Nested,
    /// One `.tar` file or a folder of them; the members' first folder names the class.
    Tar,
    /// Tar files in which members with one key are one sample: `1.jpg` and `1.cls`.
    WebDataset,
    /// Parquet files with a column of images, as the Hugging Face hub has them.
    Parquet,
    /// A text file with a path, and perhaps a class, in each line.
    List,
    /// CIFAR-10 or CIFAR-100, binary version.
    Cifar,
    /// IDX files as MNIST has them, gzipped or not.
    Idx,
}

impl Format {
    /// All formats, in the order in which they are documented.
    pub const ALL: [Self; 10] = [
        Self::Auto,
        Self::Classes,
        Self::Flat,
        Self::Nested,
        Self::Tar,
        Self::WebDataset,
        Self::Parquet,
        Self::List,
        Self::Cifar,
        Self::Idx,
    ];

    /// The name as it stands in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Classes => "classes",
            Self::Flat => "flat",
            Self::Nested => "nested",
            Self::Tar => "tar",
            Self::WebDataset => "webdataset",
            Self::Parquet => "parquet",
            Self::List => "list",
            Self::Cifar => "cifar",
            Self::Idx => "idx",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self, DataError> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::name).join(", ");
                DataError::Invalid(format!(
                    "unknown data format \"{text}\": expected one of {known}"
                ))
            })
    }
}

/// Opens the images at `path`.
///
/// [`Format::Auto`] looks first, and takes the first line that fits:
///
/// | what lies there | opened as |
/// |---|---|
/// | a file `*.tar` | [`Format::WebDataset`] when an image has a `cls`, or a `json` with a `"label"`, of its own key; else [`Format::Tar`] |
/// | a file `*.parquet` | [`Format::Parquet`] |
/// | a file `*.txt`, `*.tsv`, `*.csv` or `*.list` | [`Format::List`] |
/// | a file `*.bin` | [`Format::Cifar`] |
/// | a file that starts with an IDX magic number, gzipped or not | [`Format::Idx`] |
/// | an image file | [`Format::Flat`], a set of one |
/// | a folder with `data_batch_*.bin`, `test_batch.bin`, `train.bin` or `test.bin` | [`Format::Cifar`] |
/// | a folder with `*images*idx3*` | [`Format::Idx`] |
/// | a folder with images, and no image in folders below | [`Format::Flat`] |
/// | a folder whose images all lie in two or more folders, each with images of its own | [`Format::Classes`] |
/// | any other folder with images at whatever depth | [`Format::Nested`] |
/// | a folder with `*.tar` | as a file `*.tar`; labels in one of them decide for all |
/// | a folder with `*.parquet` | [`Format::Parquet`] |
///
/// | a folder with a folder by the name that CIFAR or MNIST unpack to, or with `data/` | as that folder |
///
/// **Splits are not mixed.** Where the names of folders or files say that they are several splits of a
/// set (`train/` and `val/`, `train-*.tar` and `test-*.tar`, `val2017/`), or folders of images lie beside
/// folders of their masks, the set is refused: name `root/train`, or choose files by a pattern. CIFAR
/// and MNIST folders stand for their training part. Another format than [`Format::Auto`] takes folders
/// as they are: [`Format::Nested`] all images, [`Format::Classes`] the first folder as class.
///
/// **A pattern chooses files** where no file has its name: `shards/train-*.tar`,
/// `shards/train-{000..099}.tar`. All must be of one kind; they follow one another in the order of the
/// bytes of their paths. Images that a pattern has chosen have no labels.
///
/// Hidden files and folders (names that start with a dot) are left out, and so are files without
/// one of the [`EXTENSIONS`] (in any case), which a [note](Source::notes) counts. Only regular files are
/// read: a FIFO or a device that is called like an image is left out with a note.
///
/// Links are followed. Without labels a folder that can be reached in two ways is read once, so a loop
/// of links ends. A class folder may be a link; within a class, a link to a folder above itself or into
/// another class is an error.
///
/// # Errors
/// [`DataError::NotFound`], [`DataError::Empty`] with what was found instead,
/// [`DataError::Format`] when the layout is not the one asked for, the set is of several splits or a
/// pattern has no match, [`DataError::Archive`] for a
/// damaged archive and [`DataError::Io`].
pub fn open(path: &Path, format: Format) -> Result<Arc<dyn Source>, DataError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && pattern::is_pattern(path) => {
            detect::open_pattern(path, format)
        }
        Err(error) => Err(DataError::io(path, error)),
        Ok(found) if !found.is_dir() && !found.is_file() => Err(special(path, found.file_type())),
        Ok(_) => open_as(path, format),
    }
}

/// Opens what exists at `path`.
fn open_as(path: &Path, format: Format) -> Result<Arc<dyn Source>, DataError> {
    match format {
        Format::Auto => detect::open(path),
        Format::Classes => Ok(Arc::new(FolderSource::classes(path)?)),
        Format::Flat => Ok(Arc::new(FolderSource::flat(path)?)),
        Format::Nested => Ok(Arc::new(FolderSource::nested(path)?)),
        Format::Tar => Ok(Arc::new(TarSource::open(path)?)),
        Format::WebDataset => Ok(Arc::new(TarSource::webdataset(path)?)),
        Format::Parquet => Ok(Arc::new(ParquetSource::open(path)?)),
        Format::List => Ok(Arc::new(ListSource::open(path)?)),
        Format::Cifar => Ok(Arc::new(CifarSource::open(path)?)),
        Format::Idx => Ok(Arc::new(IdxSource::open(path)?)),
    }
}

/// Opens a regular file. What became a FIFO or a device since it was listed is refused, where opening
/// or reading it might wait for ever.
fn open_regular(path: &Path) -> Result<File, DataError> {
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
fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
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

/// Says what stands where a file should.
fn special(path: &Path, kind: FileType) -> DataError {
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
fn is_image(name: &Path) -> bool {
    name.extension().is_some_and(|found| {
        EXTENSIONS
            .iter()
            .any(|known| found.eq_ignore_ascii_case(OsStr::new(known)))
    })
}

/// ".jpg, .jpeg, …"
fn extension_list() -> String {
    EXTENSIONS
        .map(|extension| format!(".{extension}"))
        .join(", ")
}

/// "12,345 images in 10 classes"
fn count(images: usize, classes: usize) -> String {
    let noun = if images == 1 { "image" } else { "images" };
    let mut text = format!("{} {noun}", thousands(images));
    if classes > 0 {
        let noun = if classes == 1 { "class" } else { "classes" };
        text += &format!(" in {} {noun}", thousands(classes));
    }
    text
}

/// 1234567 → "1,234,567"
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The entries of a folder that are not hidden, sorted by the bytes of their names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let failed = |error| DataError::io(folder, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            found.push(entry.path());
        }
    }
    found.sort_by(|a, b| {
        a.as_os_str()
            .as_encoded_bytes()
            .cmp(b.as_os_str().as_encoded_bytes())
    });
    Ok(found)
}

/// "3 files (.psd, .txt) and 2 folders": what an error names when there is no image.
fn inventory(folder: &Path) -> String {
    let Ok(entries) = entries(folder) else {
        return "nothing readable".into();
    };
    let (folders, files): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.is_dir());
    let mut kinds: Vec<String> = files
        .iter()
        .map(|file| match file.extension() {
            Some(extension) => format!(".{}", extension.to_string_lossy()),
            None => "no extension".into(),
        })
        .collect();
    kinds.sort();
    kinds.dedup();
    let mut parts = Vec::new();
    match (files.len(), kinds.len()) {
        (0, _) => {}
        (1, _) => parts.push(format!("1 file ({})", kinds.join(", "))),
        (n, 0..=6) => parts.push(format!("{} files ({})", thousands(n), kinds.join(", "))),
        (n, _) => parts.push(format!(
            "{} files ({}, …)",
            thousands(n),
            kinds[..6].join(", ")
        )),
    }
    match folders.len() {
        0 => {}
        1 => parts.push("1 folder".into()),
        n => parts.push(format!("{} folders", thousands(n))),
    }
    if parts.is_empty() {
        "nothing".into()
    } else {
        parts.join(" and ")
    }
}

/// Reads `buffer.len()` bytes at `offset` without moving a cursor that other threads share.
#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Reads `buffer.len()` bytes at `offset`; on Windows every read names its offset.
#[cfg(windows)]
fn read_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_read_well() {
        assert_eq!(count(1, 0), "1 image");
        assert_eq!(count(50_000, 10), "50,000 images in 10 classes");
        assert_eq!(count(1_281_167, 1), "1,281,167 images in 1 class");
    }

    #[test]
    fn formats_read_back_what_they_print() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
        }
        let message = "zip".parse::<Format>().unwrap_err().to_string();
        assert!(
            message.contains("zip") && message.contains("classes"),
            "{message}"
        );
    }
}
