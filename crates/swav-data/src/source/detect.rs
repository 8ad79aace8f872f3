//! Looking at a path to tell which layout it has. The rules stand at [`open`](super::open).

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::folder::{Contents, Kind, Listed, listing};
use super::{
    CifarSource, FolderSource, Format, IdxSource, ListSource, ParquetSource, Source, TarSource,
    cifar, extension_list, idx, inventory, is_image, list, open_regular, parquet, pattern, tar,
};
use crate::error::DataError;

/// Folders that archives of well-known sets unpack to, and that libraries download them to.
const INNER: [&str; 12] = [
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

/// Opens `path`, which exists, as what it looks like.
pub(super) fn open(path: &Path) -> Result<Arc<dyn Source>, DataError> {
    if path.is_dir() {
        open_folder(path)
    } else {
        open_file(path)
    }
}

/// What a file is opened as, by its name, else by how it begins.
fn format_of(path: &Path) -> Result<Option<Format>, DataError> {
    let ends = |ending: &str| {
        let found = path.extension();
        found.is_some_and(|found| found.eq_ignore_ascii_case(OsStr::new(ending)))
    };
    let named = if tar::is_tar(path) || tar::is_compressed(path) {
        Some(Format::Tar)
    } else if parquet::is_parquet(path) {
        Some(Format::Parquet)
    } else if list::is_list(path) {
        Some(Format::List)
    } else if is_image(path) {
        Some(Format::Flat)
    } else if ends("bin") {
        Some(Format::Cifar)
    } else {
        None
    };
    Ok(match named {
        Some(format) => Some(format),
        None => idx::begins(path)?.then_some(Format::Idx),
    })
}

fn open_file(path: &Path) -> Result<Arc<dyn Source>, DataError> {
    if let Some(format) = format_of(path)? {
        return match format {
            Format::Tar => Ok(Arc::new(TarSource::detect(path)?)),
            format => super::open_as(path, format),
        };
    }
    if cifar::is_pickle(path) {
        return Err(cifar::pickled(path));
    }
    let mut start = Vec::new();
    open_regular(path)?
        .take(4)
        .read_to_end(&mut start)
        .map_err(|error| DataError::io(path, error))?;
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
    let batch = folder.find(|file| cifar::is_batch(file) && fits(file, &cifar::fits));
    let table = folder.find(|file| {
        idx::is_images(file) && fits(file, &|file| idx::begins(file).unwrap_or(false))
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
        (true, 0) => Ok(Arc::new(FolderSource::flat(path)?.of_one_split()?)),
        (false, 2..) if shallow => Ok(Arc::new(FolderSource::classes(path)?.of_one_split()?)),
        (false, 0) => open_other(&folder),
        _ => Ok(Arc::new(FolderSource::nested(path)?.of_one_split()?)),
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
        return Err(cifar::pickled(&file));
    }
    let inner = (folder.folders()).filter(|entry| INNER.iter().any(|known| *known == entry.name));
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
pub(super) fn open_pattern(path: &Path, format: Format) -> Result<Arc<dyn Source>, DataError> {
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
        Format::Idx => Ok(Arc::new(IdxSource::open(idx::only(path, files)?)?)),
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
