//! CIFAR-10 and CIFAR-100, binary version (Krizhevsky, "Learning multiple layers of features from
//! tiny images", 2009): records of one label byte (CIFAR-100: coarse, then fine) and 3072 pixels.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::folder::file_name;
use super::{Sample, Source, count, entries, inventory, read_at};
use crate::error::DataError;

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const PIXELS: usize = 3 * PLANE;

/// The records of one or more CIFAR files.
///
/// A folder stands for its training part: `data_batch_*.bin` or `train.bin`, in the order of their
/// names. The test part is opened by its own name, `test_batch.bin` or `test.bin`; a folder that has
/// only that is opened as such. CIFAR-100 is labelled with its 100 fine classes. Class names come
/// from `batches.meta.txt` or `fine_label_names.txt` beside the files; without them, and for labels
/// that they do not name, the number is the name.
#[derive(Debug)]
pub struct CifarSource {
    path: PathBuf,
    files: Vec<(PathBuf, File)>,
    /// Label bytes in front of the pixels: 1 or 2.
    head: usize,
    /// The number of the first record of each file.
    starts: Vec<usize>,
    labels: Vec<u8>,
    classes: Vec<String>,
}

/// Whether a file of this name is a CIFAR batch.
pub(super) fn is_batch(name: &str) -> bool {
    is_training(name) || matches!(name, "test_batch.bin" | "test.bin")
}

fn is_training(name: &str) -> bool {
    name == "train.bin" || (name.starts_with("data_batch") && name.ends_with(".bin"))
}

impl CifarSource {
    /// Opens a folder, or one `.bin` file.
    ///
    /// # Errors
    /// [`DataError::Empty`] when the folder has no such file, [`DataError::Format`] when a file is
    /// not a whole number of records or holds labels that cannot be, and [`DataError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let (folder, names) = if path.is_dir() {
            let all = entries(path)?;
            let pick = |wanted: fn(&str) -> bool| -> Vec<PathBuf> {
                all.iter()
                    .filter(|entry| wanted(&file_name(entry)))
                    .cloned()
                    .collect()
            };
            let training = pick(is_training);
            (
                path,
                if training.is_empty() {
                    pick(is_batch)
                } else {
                    training
                },
            )
        } else {
            (
                path.parent().unwrap_or(Path::new("")),
                vec![path.to_path_buf()],
            )
        };
        let Some(first) = names.first() else {
            return Err(DataError::Empty {
                path: path.into(),
                looked_for: "data_batch_*.bin, test_batch.bin, train.bin, test.bin".into(),
                found: inventory(path),
            });
        };
        let head = head(first)?;
        let mut source = Self {
            path: path.into(),
            files: vec![],
            head,
            starts: vec![],
            labels: vec![],
            classes: vec![],
        };
        for name in names {
            source.starts.push(source.labels.len());
            read_labels(&name, head, &mut source.labels)?;
            let file = File::open(&name).map_err(|error| DataError::io(&name, error))?;
            source.files.push((name, file));
        }
        source.classes = class_names(folder, head, &source.labels);
        Ok(source)
    }

    /// The file of record `index`, and the record's number in it.
    fn locate(&self, index: usize) -> (&Path, &File, usize) {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        let number = self.starts.partition_point(|&start| start <= index) - 1;
        let (path, file) = &self.files[number];
        (path, file, index - self.starts[number])
    }
}

impl Source for CifarSource {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        let (path, file, record) = self.locate(index);
        let mut planes = [0; PIXELS];
        let offset = record * (self.head + PIXELS) + self.head;
        read_at(file, &mut planes, offset as u64).map_err(|error| DataError::io(path, error))?;
        let mut rgb = Vec::with_capacity(PIXELS);
        for i in 0..PLANE {
            rgb.extend([planes[i], planes[PLANE + i], planes[2 * PLANE + i]]);
        }
        Ok(Sample::Pixels {
            width: SIDE as u32,
            height: SIDE as u32,
            rgb,
        })
    }

    fn name(&self, index: usize) -> String {
        let (path, _, record) = self.locate(index);
        format!("{}#{record}", path.display())
    }

    fn label(&self, index: usize) -> Option<u32> {
        Some(u32::from(self.labels[index]))
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> String {
        let kind = if self.head == 1 {
            "CIFAR-10"
        } else {
            "CIFAR-100"
        };
        format!(
            "{}, {kind} {}",
            count(self.len(), self.classes.len()),
            self.path.display()
        )
    }
}

/// How many label bytes a record has: by the file's name where that tells, else by its size.
fn head(path: &Path) -> Result<usize, DataError> {
    let size = std::fs::metadata(path)
        .map_err(|error| DataError::io(path, error))?
        .len();
    let whole = |head: usize| size > 0 && size.is_multiple_of((head + PIXELS) as u64);
    let named = match file_name(path).as_str() {
        "train.bin" | "test.bin" => Some(2),
        name if is_batch(name) => Some(1),
        _ => None,
    };
    let candidates = named.map_or(vec![1, 2], |head| vec![head]);
    candidates.into_iter().find(|&head| whole(head)).ok_or_else(|| {
        let reason = format!(
            "{size} bytes are not a whole number of CIFAR records (3073 bytes, CIFAR-100: 3074); \
             cut short, or another kind of file"
        );
        DataError::format(path, reason)
    })
}

/// Appends the label of every record of a file.
fn read_labels(path: &Path, head: usize, labels: &mut Vec<u8>) -> Result<(), DataError> {
    let classes = if head == 1 { 10 } else { 100 };
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    let size = file
        .metadata()
        .map_err(|error| DataError::io(path, error))?
        .len();
    let record = head + PIXELS;
    if size == 0 || !size.is_multiple_of(record as u64) {
        let reason = format!("{size} bytes are not a whole number of records of {record} bytes");
        return Err(DataError::format(path, reason));
    }
    let mut reader = BufReader::with_capacity(record * 64, file);
    let mut buffer = vec![0; record];
    for number in 0.. {
        match reader.read_exact(&mut buffer) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(DataError::io(path, error)),
        }
        let label = buffer[head - 1];
        if label >= classes {
            let reason = format!("record {number} has label {label} of {classes} classes");
            return Err(DataError::format(path, reason));
        }
        labels.push(label);
    }
    Ok(())
}

/// Class names from the file that comes with the data, numbers where it is silent.
fn class_names(folder: &Path, head: usize, labels: &[u8]) -> Vec<String> {
    let file = if head == 1 {
        "batches.meta.txt"
    } else {
        "fine_label_names.txt"
    };
    let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    let mut names: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(Into::into)
        .collect();
    let used = labels
        .iter()
        .max()
        .map_or(0, |&label| usize::from(label) + 1);
    for number in names.len()..used {
        names.push(number.to_string());
    }
    names
}
