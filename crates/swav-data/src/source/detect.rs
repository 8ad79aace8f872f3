//! Looking at a path to tell which layout it has. The rules stand at [`open`](super::open).

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::folder::{Walk, file_name};
use super::{
    CifarSource, FolderSource, IdxSource, Source, TarSource, cifar, entries, extension_list, idx,
    inventory, is_image, tar,
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
        return Ok(Arc::new(TarSource::open(path)?));
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
        "a folder, .tar, .bin, IDX, or an image ({})",
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
    let entries = entries(path)?;
    if entries
        .iter()
        .any(|entry| cifar::is_batch(&file_name(entry)))
    {
        return Ok(Arc::new(CifarSource::open(path)?));
    }
    if entries
        .iter()
        .any(|entry| idx::is_images(&file_name(entry)))
    {
        return Ok(Arc::new(IdxSource::open(path)?));
    }
    let direct = entries
        .iter()
        .any(|entry| is_image(entry) && !entry.is_dir());
    let mut walk = Walk::default();
    // Per folder: whether there are images in it or below, and whether every such folder has some
    // of its own.
    let (mut folders, mut shallow) = (0, true);
    for folder in entries.iter().filter(|entry| entry.is_dir()) {
        let mut images = Vec::new();
        walk.collect(folder, &mut images)?;
        if !images.is_empty() {
            folders += 1;
            shallow &= images.iter().any(|image| image.parent() == Some(folder));
        }
    }
    match (direct, folders) {
        (true, 0) => Ok(Arc::new(FolderSource::flat(path)?)),
        (false, 2..) if shallow => Ok(Arc::new(FolderSource::classes(path)?)),
        (false, 0) if entries.iter().any(|entry| tar::is_tar(entry)) => {
            Ok(Arc::new(TarSource::open(path)?))
        }
        (false, 0) => Err(DataError::Empty {
            path: path.into(),
            looked_for: format!("{}; .tar; CIFAR .bin; IDX", extension_list()),
            found: inventory(path),
        }),
        _ => Ok(Arc::new(FolderSource::nested(path)?)),
    }
}
