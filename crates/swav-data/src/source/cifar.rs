//! CIFAR-10 and CIFAR-100, binary version (Krizhevsky, "Learning multiple layers of features from
//! tiny images", 2009): records of one label byte (CIFAR-100: coarse, then fine) and 3072 pixels.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::describe::{count, inventory};
use super::filesystem::{entries, file_name, open_regular, read_at, read_start};
use super::traits::Source;
use crate::error::DataError;
use crate::sample::Sample;

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
pub(super) fn is_batch(file: &Path) -> bool {
    is_training(file) || matches!(file_name(file).as_str(), "test_batch.bin" | "test.bin")
}

/// Whether a file is one of CIFAR's batches as Python pickles have them.
pub(super) fn is_pickle(path: &Path) -> bool {
    let name = file_name(path);
    let numbered = name.strip_prefix("data_batch_");
    let batch = numbered.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    (batch || matches!(name.as_str(), "test_batch" | "train" | "test"))
        && read_start(path, 1).is_ok_and(|start| start.first() == Some(&0x80))
}

/// Says what to take in place of a pickled batch.
pub(super) fn pickle_error(path: &Path) -> DataError {
    DataError::format(
        path,
        "CIFAR as Python pickles, which are not read; download the binary version \
         (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz from \
         https://www.cs.toronto.edu/~kriz/cifar.html), unpack it, and name its folder",
    )
}

/// Whether the size of a file is that of whole records.
pub(super) fn has_whole_records(path: &Path) -> bool {
    label_bytes_of(path).is_ok()
}

fn is_training(file: &Path) -> bool {
    let name = file_name(file);
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
        let names = if path.is_dir() {
            let all = entries(path)?;
            let pick = |wanted: fn(&Path) -> bool| -> Vec<PathBuf> {
                all.iter().filter(|entry| wanted(entry)).cloned().collect()
            };
            let training = pick(is_training);
            match training.is_empty() {
                true => pick(is_batch),
                false => training,
            }
        } else {
            vec![path.to_path_buf()]
        };
        Self::files(path, names)
    }

    /// Opens the files `names`, which `path` stands for, in their order.
    pub(super) fn files(path: &Path, names: Vec<PathBuf>) -> Result<Self, DataError> {
        let Some(first) = names.first() else {
            return Err(DataError::Empty {
                path: path.into(),
                looked_for: "data_batch_*.bin, test_batch.bin, train.bin, test.bin".into(),
                found: inventory(path),
            });
        };
        let folder = first.parent().unwrap_or(Path::new("")).to_path_buf();
        let head = label_bytes_of(first)?;
        if let Some(other) = names
            .iter()
            .find(|name| label_bytes_of(name).ok() != Some(head))
        {
            let (first, record) = (first.display(), head + PIXELS);
            let reason = format!(
                "not records of {record} bytes, as {first} has; CIFAR-10 and CIFAR-100 are two sets, \
                 and a file cut short is of neither: name one file"
            );
            return Err(DataError::format(other, reason));
        }
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
            let file = open_regular(&name)?;
            source.files.push((name, file));
        }
        source.classes = class_names(&folder, head, &source.labels);
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
        let mut text = format!(
            "{}, {kind} {}",
            count(self.len(), self.classes.len()),
            self.path.display()
        );
        if self.files.len() > 1 || self.path != self.files[0].0 {
            let names: Vec<String> = self.files.iter().map(|(file, _)| file_name(file)).collect();
            text += &format!(" ({})", names.join(", "));
        }
        text
    }
}

/// How many label bytes a record has: by the file's name where that tells, else by its size.
fn label_bytes_of(path: &Path) -> Result<usize, DataError> {
    let size = std::fs::metadata(path)
        .map_err(|error| DataError::io(path, error))?
        .len();
    let whole = |head: usize| size > 0 && size.is_multiple_of((head + PIXELS) as u64);
    let named = match file_name(path).as_str() {
        "train.bin" | "test.bin" => Some(2),
        _ if is_batch(path) => Some(1),
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
    let file = open_regular(path)?;
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
