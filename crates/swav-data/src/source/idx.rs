//! IDX files, the format of MNIST and its descendants: a magic number, the dimensions as big-endian
//! 32-bit numbers, then bytes. Plain or gzipped.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::describe::{count, inventory};
use super::filesystem::{entries, file_name, open_regular, read_start};
use super::split::Split;
use super::traits::Source;
use crate::error::DataError;
use crate::sample::Sample;

/// Images (and labels) of a pair of IDX files, kept in memory as they are in the file.
///
/// Images are `[n, height, width]` in grey, which becomes R = G = B, or `[n, height, width, 3]`. The
/// labels are the file that has `labels` for `images` and `idx1` for `idx3` in its name, in the same
/// folder, gzipped or not; without one there are no labels. A folder stands for its training part
/// (`train-images*`, `emnist-letters-train-images*`) where it has one, else for its only images file;
/// one with several is refused.
#[derive(Debug)]
pub struct IdxSource {
    path: PathBuf,
    height: usize,
    width: usize,
    channels: usize,
    pixels: Vec<u8>,
    labels: Vec<u8>,
    classes: Vec<String>,
    notes: Vec<String>,
}

/// Whether these bytes begin an IDX file of unsigned bytes.
pub(super) fn is_magic(start: &[u8]) -> bool {
    matches!(start, [0, 0, 0x08, 1..=4, ..])
}

/// Whether a file begins as IDX does, or as gzip data, which may hold it.
pub(super) fn may_be_idx(path: &Path) -> Result<bool, DataError> {
    let start = read_start(path, 4)?;
    Ok(start.starts_with(&[0x1F, 0x8B]) || is_magic(&start))
}

/// Whether a file of this name holds IDX images.
pub(super) fn is_images(file: &Path) -> bool {
    let name = file_name(file);
    name.contains("images") && (name.contains("idx3") || name.contains("idx4"))
}

impl IdxSource {
    /// Opens a file of images, or a folder that has one.
    ///
    /// # Errors
    /// [`DataError::Empty`], [`DataError::Format`] when a file is cut short or is not what its
    /// header says, when images and labels differ in number, and [`DataError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let file = if path.is_dir() {
            let mut files = entries(path)?;
            files.retain(|entry| is_images(entry));
            select_images(path, files)?
        } else {
            path.to_path_buf()
        };
        let (dims, pixels) = read_idx(&file)?;
        let (number, height, width, channels) = match dims[..] {
            [n, height, width] => (n, height, width, 1),
            [n, height, width, 3] => (n, height, width, 3),
            _ => {
                let reason = format!("images are [n, height, width(, 3)], but this is {dims:?}");
                return Err(DataError::format(&file, reason));
            }
        };
        if number == 0 || height == 0 || width == 0 {
            let (looked_for, found) = ("images".into(), format!("dimensions {dims:?}"));
            return Err(DataError::Empty {
                path: file,
                looked_for,
                found,
            });
        }
        let mut notes = vec![];
        let labels = match find_labels(&file) {
            None => {
                notes.extend(other_labels(&file)?);
                vec![]
            }
            Some(labels) => {
                let (dims, values) = read_idx(&labels)?;
                if dims != [number] {
                    let reason = format!("labels {dims:?} for {number} images");
                    return Err(DataError::format(&labels, reason));
                }
                values
            }
        };
        let classes = labels.iter().max().map_or(vec![], |&last| {
            (0..=last).map(|label| label.to_string()).collect()
        });
        Ok(Self {
            path: file,
            height,
            width,
            channels,
            pixels,
            labels,
            classes,
            notes,
        })
    }
}

impl Source for IdxSource {
    fn len(&self) -> usize {
        self.pixels.len() / (self.height * self.width * self.channels)
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        let size = self.height * self.width * self.channels;
        let pixels = &self.pixels[index * size..(index + 1) * size];
        let rgb = match self.channels {
            1 => pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            _ => pixels.to_vec(),
        };
        Ok(Sample::Pixels {
            width: self.width as u32,
            height: self.height as u32,
            rgb,
        })
    }

    fn name(&self, index: usize) -> String {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        format!("{}#{index}", self.path.display())
    }

    fn label(&self, index: usize) -> Option<u32> {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        self.labels.get(index).map(|&label| u32::from(label))
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn describe(&self) -> String {
        format!(
            "{}, IDX {}",
            count(self.len(), self.classes.len()),
            self.path.display()
        )
    }
}

/// The file of images among those that a folder or a pattern stands for: the only one, or the only
/// one of a training part.
pub(super) fn select_images(path: &Path, mut files: Vec<PathBuf>) -> Result<PathBuf, DataError> {
    if files.iter().any(|file| is_images(file)) {
        files.retain(|file| is_images(file));
    }
    // Unpacked and packed are the same images.
    files.dedup_by(|next, file| {
        let next = file_name(next);
        next.strip_suffix(".gz") == Some(&file_name(file))
    });
    if files.len() > 1 {
        let training = |file: &PathBuf| Split::of(&file_name(file)) == Some(Split::Train);
        if files.iter().any(training) {
            files.retain(training);
        }
    }
    match &files[..] {
        [] => Err(DataError::Empty {
            path: path.into(),
            looked_for: "*images*idx3*".into(),
            found: inventory(path),
        }),
        [file] => Ok(file.clone()),
        [file, ..] => {
            let names: Vec<String> = files.iter().map(|file| file_name(file)).collect();
            Err(DataError::format(
                path,
                format!(
                    "holds several sets of IDX images: {}; name one, such as --data {}",
                    names.join(", "),
                    file.display()
                ),
            ))
        }
    }
}

/// The labels that belong to a file of images.
fn find_labels(images: &Path) -> Option<PathBuf> {
    let name = file_name(images);
    let labels = name
        .replace("images", "labels")
        .replace("idx3", "idx1")
        .replace("idx4", "idx1");
    if labels == name {
        return None;
    }
    let plain = labels.strip_suffix(".gz").unwrap_or(&labels);
    [plain.to_string(), format!("{plain}.gz")]
        .into_iter()
        .map(|name| images.with_file_name(name))
        .find(|path| path.exists())
}

/// Says which file beside the images looks like their labels and is not read, such as QMNIST's
/// `qmnist-train-labels-idx2-int`.
fn other_labels(images: &Path) -> Result<Option<String>, DataError> {
    let name = file_name(images);
    let Some((start, _)) = name.split_once("images") else {
        return Ok(None);
    };
    let labels = format!("{start}labels");
    let folder = images.parent().filter(|folder| *folder != Path::new(""));
    let beside = entries(folder.unwrap_or(Path::new(".")))?;
    let found = beside.iter().map(|entry| file_name(entry));
    let found = found.filter(|other| other.starts_with(&labels)).min();
    Ok(found.map(|other| {
        format!("{other} is not read: labels are bytes, one an image, in {labels}-idx1-ubyte")
    }))
}

/// Dimensions and bytes of an IDX file.
fn read_idx(path: &Path) -> Result<(Vec<usize>, Vec<u8>), DataError> {
    let file = open_regular(path)?;
    let mut start = Vec::new();
    (&file)
        .take(2)
        .read_to_end(&mut start)
        .map_err(|error| DataError::io(path, error))?;
    let whole = std::io::Cursor::new(start.clone()).chain(BufReader::new(file));
    let mut reader: Box<dyn Read> = match start[..] {
        [0x1F, 0x8B] => Box::new(MultiGzDecoder::new(whole)),
        _ => Box::new(whole),
    };
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => DataError::format(path, "cut short in its header"),
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => {
            DataError::format(path, format!("damaged gzip data: {error}"))
        }
        _ => DataError::io(path, error),
    };
    let mut word = [0; 4];
    reader.read_exact(&mut word).map_err(failed)?;
    if !is_magic(&word) {
        let reason = format!(
            "not an IDX file of unsigned bytes: it starts with {word:02x?}, not [00, 00, 08, 01..=04]"
        );
        return Err(DataError::format(path, reason));
    }
    let mut dims = Vec::new();
    for _ in 0..word[3] {
        let mut dim = [0; 4];
        reader.read_exact(&mut dim).map_err(failed)?;
        dims.push(u32::from_be_bytes(dim) as usize);
    }
    let expected = dims
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim));
    let expected = expected
        .filter(|&bytes| bytes < isize::MAX as usize)
        .ok_or_else(|| DataError::format(path, format!("impossible dimensions {dims:?}")))?;
    // Read what is there, not what the header promises: a wrong header must not take the memory.
    let mut bytes = Vec::new();
    match reader.take(expected as u64 + 1).read_to_end(&mut bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            return Err(failed(error));
        }
        Err(_) if bytes.len() == expected => {
            return Err(DataError::format(
                path,
                "cut short: the gzip trailer is missing",
            ));
        }
        _ => {}
    }
    if bytes.len() != expected {
        let found = match bytes.len() > expected {
            true => "more".to_string(),
            false => format!("only {}", bytes.len()),
        };
        let reason = format!("dimensions {dims:?} take {expected} bytes, but {found} are there");
        return Err(DataError::format(path, reason));
    }
    Ok((dims, bytes))
}
