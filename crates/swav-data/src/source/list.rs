//! A text file that names one image a line.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::classes::{NO_LABEL, sort_by_value_or_name};
use super::describe::{count, inventory, without_label};
use super::filesystem::{has_extension, is_image, open_regular, read_file};
use super::names::{Names, os_string};
use super::traits::Source;
use crate::error::DataError;
use crate::sample::Sample;

/// The images that a text file names, in its order.
///
/// * One path a line, relative to the folder of the file, or absolute. After a tab (in a `.csv`
///   file: after a comma) may stand the name of its class; then every line must have one, or the tab
///   alone where an image has no label.
/// * A first line may name the columns: `path`, `image`, `file` or `filename`, and `label` or `class`,
///   among others, which are passed over. So the list that is written beside features can be read.
/// * In a `.csv` file, what holds a comma stands in quotes, and a quote within quotes stands twice
///   (RFC 4180).
/// * Classes are sorted by name, or by value when all are whole numbers.
/// * Empty lines are passed over, and so are lines that start with `#`, unless there is a file of that
///   name. A path may come more than once.
///
/// Whether the files are there shows when they are read: asking for millions of them takes long.
///
/// # Memory
/// The paths, each less what it shares with the one before it, and 4 bytes a label.
#[derive(Debug)]
pub struct ListSource {
    path: PathBuf,
    folder: PathBuf,
    names: Names,
    /// Empty without labels, [`NO_LABEL`] for an image without one.
    labels: Vec<u32>,
    classes: Vec<String>,
    notes: Vec<String>,
}

/// The columns of a file whose first line names them.
pub(super) struct Header {
    /// Where the paths stand.
    pub(super) image: usize,
    /// Where labels stand, those called `label` first.
    pub(super) labels: Vec<usize>,
}

impl Header {
    /// The columns, if these are their names.
    pub(super) fn of<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        const IMAGES: [&str; 14] = [
            "path",
            "image",
            "file",
            "filename",
            "file_name",
            "filepath",
            "file_path",
            "image_path",
            "image_name",
            "image_file",
            "img",
            "img_path",
            "images",
            "paths",
        ];
        const LABELS: [&str; 9] = [
            "label",
            "labels",
            "class",
            "classes",
            "class_name",
            "category",
            "target",
            "cls",
            "tags",
        ];
        let names: Vec<String> = fields
            .map(|field| {
                let name = String::from_utf8_lossy(unquoted(field)).to_lowercase();
                name.replace([' ', '-'], "_")
            })
            .collect();
        let at = |known: &[&str]| -> Vec<usize> {
            let places = known.iter();
            let place = |known: &&str| names.iter().position(|name| name == known);
            places.filter_map(place).collect()
        };
        Some(Self {
            image: *at(&IMAGES).first()?,
            labels: at(&LABELS),
        })
    }
}

/// Whether a file of this name is a list.
pub(super) fn is_list(path: &Path) -> bool {
    has_extension(path, &["txt", "tsv", "csv", "list"])
}

impl ListSource {
    /// Reads the list.
    ///
    /// # Errors
    /// [`DataError::Format`] naming file and line, when a path does not end as an image does, a quote is
    /// not closed, or some lines have a class and others have none; [`DataError::Empty`] and
    /// [`DataError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let empty = |found: String| DataError::Empty {
            path: path.into(),
            looked_for: "a text file with the path of an image in each line".into(),
            found,
        };
        if path.is_dir() {
            return Err(empty(inventory(path)));
        }
        let csv = has_extension(path, &["csv"]);
        let separator = if csv { b',' } else { b'\t' };
        let mut records = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .quoting(csv)
            .delimiter(separator)
            .from_reader(open_text(path)?);
        let mut list = Self {
            path: path.into(),
            folder: path.parent().unwrap_or(Path::new("")).into(),
            names: Names::default(),
            labels: vec![],
            classes: vec![],
            notes: vec![],
        };
        let mut classes: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut header = None;
        // The first image decides whether there are classes.
        let mut labelled = None;
        let mut record = csv::ByteRecord::new();
        let mut first = true;
        while records
            .read_byte_record(&mut record)
            .map_err(|error| failed(path, error))?
        {
            let at = record.position().map_or(0, csv::Position::byte);
            let wrong = |reason: String| {
                DataError::format(path, format!("line {}: {reason}", line_number(path, at)))
            };
            let known = |name: &[u8]| {
                let name = PathBuf::from(os_string(name.to_vec()));
                is_image(&name) && list.folder.join(name).is_file()
            };
            let start = unquoted(record.get(0).unwrap_or_default());
            let comment = start.starts_with(b"#") && !known(start);
            let open = |field: &[u8]| field.contains(&b'\n') && !known(field);
            let unclosed = || wrong("a quote is not closed in this line".into());
            if comment && record.iter().any(open) {
                return Err(unclosed());
            }
            if comment || (record.len() == 1 && start.is_empty()) {
                continue;
            }
            if std::mem::take(&mut first) {
                header = Header::of(record.iter()).filter(|_| !known(start));
                if let Some(header) = &header {
                    labelled = Some(!header.labels.is_empty());
                    continue;
                }
            }
            let (image, class) = match &header {
                Some(Header { image, labels }) => {
                    let label = labels.first().map(|&at| record.get(at).unwrap_or_default());
                    (record.get(*image).unwrap_or_default(), label)
                }
                None => (start, record.get(1)),
            };
            let (name, class) = (unquoted(image), class.map(unquoted));
            // Without names of columns a line is all path and class; else others may hold several lines.
            if open(image)
                || class.is_some_and(open)
                || (header.is_none() && record.iter().any(open))
            {
                return Err(unclosed());
            }
            if !is_image(Path::new(&os_string(name.to_vec())))
                || (header.is_none() && record.len() > 2)
            {
                return Err(wrong(line_expectation(&record, separator)));
            }
            if *labelled.get_or_insert(class.is_some()) != class.is_some() {
                let (this, others) = match class {
                    Some(_) => ("a class", "none"),
                    None => ("no class", "one"),
                };
                return Err(wrong(format!(
                    "there is {this}, while the lines before have {others}"
                )));
            }
            list.names.push(name);
            if let Some(class) = class {
                let next = classes.len() as u32;
                let label = match classes.get(class) {
                    _ if class.is_empty() => NO_LABEL,
                    Some(&label) => label,
                    None => *classes.entry(class.to_vec()).or_insert(next),
                };
                list.labels.push(label);
            }
        }
        if list.names.len() == 0 {
            return Err(empty("no line with one".into()));
        }
        list.names.shrink();
        if classes.is_empty() {
            list.labels.clear();
        }
        let bare = list
            .labels
            .iter()
            .filter(|&&label| label == NO_LABEL)
            .count();
        list.notes.extend(without_label(bare, list.labels.len()));
        list.labels.shrink_to_fit();
        list.classes = sort_by_value_or_name(classes, &mut list.labels);
        Ok(list)
    }

    fn file(&self, index: usize) -> PathBuf {
        self.folder.join(os_string(self.names.get(index)))
    }
}

/// Says what a line should be.
fn line_expectation(record: &csv::ByteRecord, separator: u8) -> String {
    let (named, quotes) = match separator {
        b',' => ("comma", " (what holds a comma in quotes)"),
        _ => ("tab", ""),
    };
    let separator = char::from(separator);
    let fields: Vec<_> = record.iter().map(String::from_utf8_lossy).collect();
    let shown: String = (fields.join(&separator.to_string()).chars())
        .take(80)
        .collect();
    format!(
        "\"{shown}\": expected a path that ends as an image does, or such a path, a {named} and a \
         class{quotes}; a first line may name the columns, as path{separator}label"
    )
}

/// Opens a text file.
fn open_text(path: &Path) -> Result<BufReader<File>, DataError> {
    let mut reader = BufReader::new(open_regular(path)?);
    let start = reader
        .fill_buf()
        .map_err(|error| DataError::io(path, error))?;
    match start {
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => Err(DataError::format(
            path,
            "is UTF-16, and a list must be UTF-8; save it anew in that encoding",
        )),
        _ => Ok(reader),
    }
}

/// The number of the line of the record at byte `at`, which may begin with the ends of lines before it.
fn line_number(path: &Path, at: u64) -> usize {
    let Ok(mut reader) = open_text(path) else {
        return 0;
    };
    let mut before = Vec::new();
    let _ = reader.by_ref().take(at).read_to_end(&mut before);
    let rest = reader.bytes().map_while(Result::ok);
    let ends = rest.take_while(|byte| matches!(byte, b'\r' | b'\n'));
    1 + (before.into_iter().chain(ends))
        .filter(|&byte| byte == b'\n')
        .count()
}

fn failed(path: &Path, error: csv::Error) -> DataError {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => DataError::io(path, error),
        other => DataError::format(path, format!("{other:?}")),
    }
}

/// A field without the spaces around it, and without the quotes that follow such a space or stand where
/// quotes mean nothing.
fn unquoted(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    let inner = text.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\""));
    inner.unwrap_or(text)
}

impl Source for ListSource {
    fn len(&self) -> usize {
        self.names.len()
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        let path = self.file(index);
        read_file(&path).map(Sample::Encoded)
    }

    fn name(&self, index: usize) -> String {
        self.file(index).to_string_lossy().into_owned()
    }

    fn key(&self, index: usize) -> Vec<u8> {
        self.names.get(index)
    }

    fn bytes(&self, index: usize) -> Option<u64> {
        let metadata = std::fs::metadata(self.file(index));
        metadata.ok().map(|metadata| metadata.len())
    }

    fn label(&self, index: usize) -> Option<u32> {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        self.labels
            .get(index)
            .copied()
            .filter(|&label| label != NO_LABEL)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn describe(&self) -> String {
        let images = count(self.len(), self.classes.len());
        format!("{images}, list {}", self.path.display())
    }
}
