//! What the tests of sources share: sets of small images, and looks at what was opened.

#![allow(dead_code)] // each test binary uses a part

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use swav_data::{DEFAULT_MAX_PIXELS, DataError, Format, Source, decode, open};
use tempfile::TempDir;

/// A PNG of one colour.
pub fn png(red: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(4, 3, image::Rgb([red, 0, 255 - red]));
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A folder with PNG files of the given names; file number i has red i.
pub fn tree(names: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (number, name) in names.iter().enumerate() {
        put(&root, name, png(number as u8));
    }
    root
}

/// Writes a file, with the folders on the way to it.
pub fn put(root: impl AsRef<Path>, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = root.as_ref().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

#[track_caller]
pub fn auto(path: impl AsRef<Path>) -> Arc<dyn Source> {
    open(path.as_ref(), Format::Auto).unwrap()
}

/// The error of a set that is refused, whose message holds all of `parts`.
#[track_caller]
pub fn refused(path: impl AsRef<Path>, format: Format, parts: &[&str]) -> DataError {
    let error = match open(path.as_ref(), format) {
        Ok(source) => panic!("expected an error, opened {}", source.describe()),
        Err(error) => error,
    };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in {message:?}");
    }
    error
}

/// The red of each image.
pub fn reds(source: &dyn Source) -> Vec<u8> {
    let red = |index| {
        let sample = source.read(index).unwrap();
        let image = decode(&sample, &source.name(index), DEFAULT_MAX_PIXELS);
        image.unwrap().rgb[0]
    };
    (0..source.len()).map(red).collect()
}

pub fn labels(source: &dyn Source) -> Vec<Option<u32>> {
    (0..source.len()).map(|index| source.label(index)).collect()
}
