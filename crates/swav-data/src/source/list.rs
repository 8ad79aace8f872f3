//! A text file that names one image a line.

use std::collections::HashMap;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::names::{Names, os};
use super::{Sample, Source, count, inventory, is_image, open_regular, read_file};
use crate::error::DataError;

/// The images that a text file names, in its order.
///
/// * One path a line, relative to the folder of the file, or absolute. After a tab (in a `.csv`
///   file: after a comma) may stand the name of its class; then every line must have one.
/// * Classes are sorted by name, or by value when all are whole numbers.
/// * Empty lines and lines that start with `#` are passed over. A path may come more than once.
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
    /// Empty without labels.
    labels: Vec<u32>,
    classes: Vec<String>,
}

/// Whether a file of this name is a list.
pub(super) fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|found| {
        ["txt", "tsv", "csv", "list"]
            .iter()
            .any(|known| found.eq_ignore_ascii_case(known))
    })
}

impl ListSource {
    /// Reads the list.
    ///
    /// # Errors
    /// [`DataError::Format`] naming file and line, when a path does not end as an image does or some
    /// lines have a class and others have none; [`DataError::Empty`] and [`DataError::Io`].
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
        let failed = |error| DataError::io(path, error);
        let commas = path
            .extension()
            .is_some_and(|found| found.eq_ignore_ascii_case("csv"));
        let mut reader = BufReader::new(open_regular(path)?);
        let mut list = Self {
            path: path.into(),
            folder: path.parent().unwrap_or(Path::new("")).into(),
            names: Names::default(),
            labels: vec![],
            classes: vec![],
        };
        let mut classes: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut line = Vec::new();
        // The first image decides whether there are classes.
        let mut labelled = None;
        for number in 1.. {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                break;
            }
            let mut text = line.as_slice();
            if number == 1 {
                text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
            }
            let text = text.trim_ascii();
            if text.is_empty() || text.starts_with(b"#") {
                continue;
            }
            let wrong =
                |reason: String| DataError::format(path, format!("line {number}: {reason}"));
            let (name, class) = split(text, if commas { b',' } else { b'\t' });
            if !is_image(Path::new(&os(name.to_vec()))) {
                let name = String::from_utf8_lossy(name);
                let name: String = name.chars().take(80).collect();
                return Err(wrong(format!(
                    "\"{name}\" does not end as an image does; expected a path, or a path, a {} and \
                     a class",
                    if commas { "comma" } else { "tab" }
                )));
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
        list.labels.shrink_to_fit();
        list.classes = sort_classes(classes, &mut list.labels);
        Ok(list)
    }

    fn file(&self, index: usize) -> PathBuf {
        self.folder.join(os(self.names.get(index)))
    }
}

/// Path and class of a line. Quotes around either are taken off.
fn split(line: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    match line.iter().rposition(|&byte| byte == separator) {
        None => (bare(line), None),
        Some(at) => (bare(&line[..at]), Some(bare(&line[at + 1..]))),
    }
}

fn bare(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    let inner = text.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\""));
    inner.unwrap_or(text)
}

/// Gives labels in the order of appearance the order of the classes, whose names are returned.
pub(super) fn sort_classes(classes: HashMap<Vec<u8>, u32>, labels: &mut [u32]) -> Vec<String> {
    let number = |name: &[u8]| std::str::from_utf8(name).ok()?.parse::<i64>().ok();
    let numbers = classes.keys().all(|name| number(name).is_some());
    let mut sorted: Vec<(Vec<u8>, u32)> = classes.into_iter().collect();
    sorted.sort_by(|(one, _), (other, _)| match numbers {
        true => (number(one), one).cmp(&(number(other), other)),
        false => one.cmp(other),
    });
    let mut rank = vec![0; sorted.len()];
    for (place, &(_, label)) in sorted.iter().enumerate() {
        rank[label as usize] = place as u32;
    }
    for label in labels {
        *label = rank[*label as usize];
    }
    let names = sorted.into_iter();
    names
        .map(|(name, _)| String::from_utf8_lossy(&name).into_owned())
        .collect()
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
        let metadata = fs::metadata(self.file(index));
        metadata.ok().map(|metadata| metadata.len())
    }

    fn label(&self, index: usize) -> Option<u32> {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        self.labels.get(index).copied()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> String {
        let images = count(self.len(), self.classes.len());
        format!("{images}, list {}", self.path.display())
    }
}
