//! Looking at a path to tell which layout it has. The rules stand at [`open`](super::open).

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::folder::{Walk, listing};
use super::{
    CifarSource, FolderSource, IdxSource, ListSource, ParquetSource, Source, TarSource, cifar,
    extension_list, idx, inventory, is_image, list, parquet, tar,
};
use crate::error::DataError;

/// Opens `path`, which exists, as what it looks like.
pub(super) fn open(path: &Path) -> Result<Arc<dyn Source>, DataError> {
    if path.is_dir() {
        open_folder(path)
    } else {
        open_file(path)
    }
}

fn open_file(path: &Path) -> Result<Arc<dyn Source>, DataError> {
    if tar::is_tar(path) || tar::is_compressed(path) {
        return Ok(Arc::new(TarSource::detect(path)?));
    }
    if parquet::is_parquet(path) {
        return Ok(Arc::new(ParquetSource::open(path)?));
    }
    if list::is_list(path) {
        return Ok(Arc::new(ListSource::open(path)?));
    }
    if is_image(path) {
        return Ok(Arc::new(FolderSource::flat(path)?));
    }
    if path
        .extension()
        .is_some_and(|found| found.eq_ignore_ascii_case("bin"))
    {
        return Ok(Arc::new(CifarSource::open(path)?));
    }
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(4).read_to_end(&mut start))
        .map_err(|error| DataError::io(path, error))?;
    if start.starts_with(&[0x1F, 0x8B]) || idx::is_magic(&start) {
        return Ok(Arc::new(IdxSource::open(path)?));
    }
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

fn open_folder(path: &Path) -> Result<Arc<dyn Source>, DataError> {
    let entries = listing(path)?;
    let any = |fits: &dyn Fn(&Path) -> bool| {
        let mut files = entries.iter().filter(|entry| !entry.folder);
        files.any(|file| fits(Path::new(&file.name)))
    };
    if any(&|file| cifar::is_batch(&file.to_string_lossy())) {
        return Ok(Arc::new(CifarSource::open(path)?));
    }
    if any(&|file| idx::is_images(&file.to_string_lossy())) {
        return Ok(Arc::new(IdxSource::open(path)?));
    }
    let direct = any(&is_image);
    let mut walk = Walk::default();
    // Per folder: whether there are images in it or below, and whether every such folder has some
    // of its own.
    let (mut folders, mut shallow) = (0, true);
    for entry in entries.iter().filter(|entry| entry.folder) {
        let folder = path.join(&entry.name);
        let (mut images, mut own) = (false, false);
        walk.visit(&folder, |place, _| {
            images = true;
            own |= place == folder;
        })?;
        folders += usize::from(images);
        shallow &= own || !images;
    }
    match (direct, folders) {
        (true, 0) => Ok(Arc::new(FolderSource::flat(path)?)),
        (false, 2..) if shallow => Ok(Arc::new(FolderSource::classes(path)?)),
        (false, 0) if any(&tar::is_tar) => Ok(Arc::new(TarSource::detect(path)?)),
        (false, 0) if any(&parquet::is_parquet) => Ok(Arc::new(ParquetSource::open(path)?)),
        (false, 0) => Err(DataError::Empty {
            path: path.into(),
            looked_for: format!("{}; .tar; .parquet; CIFAR .bin; IDX", extension_list()),
            found: inventory(path),
        }),
        _ => Ok(Arc::new(FolderSource::nested(path)?)),
    }
}
