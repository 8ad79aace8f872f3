//! Opens the images at a path, in the layout that is named or recognised.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cifar::{self, CifarSource};
use super::compression::is_compressed;
use super::describe::{extension_list, inventory};
use super::filesystem::{Kind, Listed, has_extension, is_image, listing, read_start, special};
use super::folder::{Contents, FolderSource};
use super::format::Format;
use super::idx::{self, IdxSource};
use super::list::{self, ListSource};
use super::parquet::{self, ParquetSource};
use super::pattern;
use super::tar::{self, TarSource};
use super::traits::Source;
use crate::error::DataError;

/// Folders that archives of well-known sets unpack to, and that libraries download them to.
const INNER_FOLDERS: [&str; 12] = [
    "cifar-10-batches-bin",
    "cifar-100-binary",
    "cifar-10-batches-py",
    "cifar-100-python",
    "MNIST",
    "FashionMNIST",
    "KMNIST",
    "EMNIST",
    "QMNIST",
    "raw",
    "gzip",
    "data",
];

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
/// one of the [`EXTENSIONS`](crate::EXTENSIONS) (in any case), which a [note](Source::notes) counts. Only regular files are
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
            open_pattern(path, format)
        }
        Err(error) => Err(DataError::io(path, error)),
        Ok(found) if !found.is_dir() && !found.is_file() => Err(special(path, found.file_type())),
        Ok(_) => open_as(path, format),
    }
}

/// Opens what exists at `path`.
fn open_as(path: &Path, format: Format) -> Result<Arc<dyn Source>, DataError> {
    match format {
        Format::Auto => detect(path),
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

/// Opens `path`, which exists, as what it looks like.
fn detect(path: &Path) -> Result<Arc<dyn Source>, DataError> {
    if path.is_dir() {
        open_folder(path)
    } else {
        open_file(path)
    }
}

/// What a file is opened as, by its name, else by how it begins.
fn format_of(path: &Path) -> Result<Option<Format>, DataError> {
    let named = if tar::is_tar(path) || is_compressed(path) {
        Some(Format::Tar)
    } else if parquet::is_parquet(path) {
        Some(Format::Parquet)
    } else if list::is_list(path) {
        Some(Format::List)
    } else if is_image(path) {
        Some(Format::Flat)
    } else if has_extension(path, &["bin"]) {
        Some(Format::Cifar)
    } else {
        None
    };
    Ok(match named {
        Some(format) => Some(format),
        None => idx::may_be_idx(path)?.then_some(Format::Idx),
    })
}

fn open_file(path: &Path) -> Result<Arc<dyn Source>, DataError> {
    if let Some(format) = format_of(path)? {
        return match format {
            Format::Tar => Ok(Arc::new(TarSource::detect(path)?)),
            format => open_as(path, format),
        };
    }
    if cifar::is_pickle(path) {
        return Err(cifar::pickle_error(path));
    }
    let start = read_start(path, 4)?;
    let looked_for = format!(
        "a folder, .tar, .parquet, .bin, IDX, a list (.txt, .tsv, .csv), or an image ({})",
        extension_list()
    );
    let found = format!("a file that starts with \"{}\"", start.escape_ascii());
    Err(DataError::Empty {
        path: path.into(),
        looked_for,
        found,
    })
}

/// A folder and what is in it.
struct Folder<'a> {
    path: &'a Path,
    entries: Vec<Listed>,
}

impl Folder<'_> {
    /// The path of the first file whose name fits.
    fn find(&self, fits: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        let files = self.entries.iter().filter(|entry| entry.kind == Kind::File);
        let mut names = files.map(|file| Path::new(&file.name));
        let found = names.find(|name| fits(name));
        found.map(|name| self.path.join(name))
    }

    fn folders(&self) -> impl Iterator<Item = &Listed> {
        self.entries.iter().filter(|entry| entry.is_folder())
    }
}

fn open_folder(path: &Path) -> Result<Arc<dyn Source>, DataError> {
    let folder = Folder {
        path,
        entries: listing(path)?,
    };
    let direct = folder.find(is_image).is_some();
    // Per folder: whether there are images in it or below, and whether every such folder has some
    // of its own.
    let (mut folders, mut shallow) = (0, true);
    for entry in folder.folders() {
        let inside = Contents::of(path, entry)?;
        folders += usize::from(inside.images);
        shallow &= inside.own || !inside.images;
    }
    let images = direct || folders > 0;
    // A name alone does not make records of what lies beside images.
    let fits = |file: &Path, records: &dyn Fn(&Path) -> bool| !images || records(&path.join(file));
    let batch = folder.find(|file| cifar::is_batch(file) && fits(file, &cifar::has_whole_records));
    let table = folder.find(|file| {
        idx::is_images(file) && fits(file, &|file| idx::may_be_idx(file).unwrap_or(false))
    });
    if let (true, Some(file)) = (images, batch.as_ref().or(table.as_ref())) {
        return Err(DataError::format(
            path,
            format!(
                "holds image files and {}, which are two sets; name the one, --data {}, or move it \
                 elsewhere",
                file.file_name().unwrap_or_default().display(),
                file.display()
            ),
        ));
    }
    if batch.is_some() {
        return Ok(Arc::new(CifarSource::open(path)?));
    }
    if table.is_some() {
        return Ok(Arc::new(IdxSource::open(path)?));
    }
    match (direct, folders) {
        (true, 0) => Ok(Arc::new(FolderSource::flat(path)?.refuse_splits()?)),
        (false, 2..) if shallow => Ok(Arc::new(FolderSource::classes(path)?.refuse_splits()?)),
        (false, 0) => open_other(&folder),
        _ => Ok(Arc::new(FolderSource::nested(path)?.refuse_splits()?)),
    }
}

/// Opens a folder without images in it or below.
fn open_other(folder: &Folder<'_>) -> Result<Arc<dyn Source>, DataError> {
    let path = folder.path;
    if folder.find(tar::is_tar).is_some() {
        return Ok(Arc::new(TarSource::detect(path)?));
    }
    if folder.find(parquet::is_parquet).is_some() {
        return Ok(Arc::new(ParquetSource::open(path)?));
    }
    if let Some(file) = folder.find(|file| cifar::is_pickle(&path.join(file))) {
        return Err(cifar::pickle_error(&file));
    }
    let inner =
        (folder.folders()).filter(|entry| INNER_FOLDERS.iter().any(|known| *known == entry.name));
    let inner: Vec<String> = inner
        .map(|entry| entry.name.to_string_lossy().into_owned())
        .collect();
    match &inner[..] {
        [] => Err(DataError::Empty {
            path: path.into(),
            looked_for: format!("{}; .tar; .parquet; CIFAR .bin; IDX", extension_list()),
            found: inventory(path),
        }),
        [name] => open_folder(&path.join(name)),
        [name, ..] => Err(DataError::format(
            path,
            format!(
                "holds several sets: {}; name one, such as --data {}",
                inner.join(", "),
                path.join(name).display()
            ),
        )),
    }
}

/// Opens the files that a pattern matches, all of one kind.
fn open_pattern(path: &Path, format: Format) -> Result<Arc<dyn Source>, DataError> {
    let wrong = |reason: String| DataError::format(path, reason);
    let files = pattern::matches(path)?;
    let first = &files[0];
    let mut kind = format;
    if format == Format::Auto {
        let unknown = |file: &Path| {
            wrong(format!(
                "matches {}, which is neither an image nor an archive, table or list of images; \
                 choose the files by their ending, as in *.tar",
                file.display()
            ))
        };
        kind = format_of(first)?.ok_or_else(|| unknown(first))?;
        for file in &files {
            if format_of(file)?.ok_or_else(|| unknown(file))? != kind {
                return Err(wrong(format!(
                    "matches files of several kinds, {} and {}; choose one kind by the ending, as in \
                     *.tar",
                    first.display(),
                    file.display()
                )));
            }
        }
    }
    match kind {
        Format::Tar if format == Format::Auto => Ok(Arc::new(TarSource::detect(path)?)),
        Format::Tar => Ok(Arc::new(TarSource::open(path)?)),
        Format::WebDataset => Ok(Arc::new(TarSource::webdataset(path)?)),
        Format::Parquet => Ok(Arc::new(ParquetSource::open(path)?)),
        Format::Flat | Format::Nested => Ok(Arc::new(FolderSource::files(path, &files)?)),
        Format::Cifar => Ok(Arc::new(CifarSource::files(path, files)?)),
        Format::Idx => Ok(Arc::new(IdxSource::open(idx::select_images(path, files)?)?)),
        Format::List if files.len() == 1 => Ok(Arc::new(ListSource::open(first)?)),
        Format::List => Err(wrong(format!(
            "matches {} lists; name one, or join them",
            files.len()
        ))),
        Format::Auto | Format::Classes => Err(wrong(
            "a pattern chooses files, not class folders; name the folder above them".into(),
        )),
    }
}
