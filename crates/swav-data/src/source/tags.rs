//! Labels of one's own: a text file with the labels of each image.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::classes::sort_by_value_or_name;
use super::describe::count;
use super::filesystem::has_extension;
use super::list::Header;
use super::traits::Source;
use crate::error::DataError;
use crate::sample::Sample;

/// The images of another source, with the labels that a text file gives them in place of its own.
///
/// * One image a line: its path within the set (`cat/1.jpg`), or the last part of its name where samples have
///   no files of their own (`data_batch_1.bin#17`). Its labels follow, as many as it has, with commas between
///   them in a `.csv` file and tabs in any other.
/// * What holds a comma or a tab stands in quotes; a quote within quotes stands twice.
/// * Classes are sorted by name, or by value when all are whole numbers. A label that comes twice in a line
///   counts once.
/// * A first line may name the columns, as [`ListSource`](crate::ListSource) has them: then the columns
///   called `label` or `class` hold the labels, or all but the path where none is.
/// * Images that the file does not name have no label. Empty lines are passed over, and so are lines that
///   start with `#`, unless an image has that name.
///
/// # Memory
/// 4 bytes an image, 8 a line and 4 a label; 16 bytes an image more while the file is read.
pub struct TagSource {
    source: Arc<dyn Source>,
    path: PathBuf,
    /// For each image, which of the lines is its own.
    lines: Vec<u32>,
    /// For each line, where its labels end.
    ends: Vec<usize>,
    labels: Vec<u32>,
    classes: Vec<String>,
}

/// The line of an image that the file does not name.
const NO_LINE: u32 = u32::MAX;

/// No line has more bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

impl TagSource {
    /// Reads the labels of `source` from the file at `path`.
    ///
    /// # Errors
    /// [`DataError::Format`] naming file and line, when an image is not in the source, is named twice, or is one of
    /// several of that name, when a quote is not closed, and when no image has a label; [`DataError::NotFound`] and
    /// [`DataError::Io`].
    pub fn open(source: Arc<dyn Source>, path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let failed = |error| DataError::io(path, error);
        let (separator, separators) = match has_extension(path, &["csv"]) {
            true => (b',', "commas"),
            false => (b'\t', "tabs"),
        };
        let mut reader = BufReader::new(File::open(path).map_err(failed)?);
        let names = NameIndex::of(source.as_ref());
        let mut tags = Self {
            lines: vec![NO_LINE; source.len()],
            source,
            path: path.into(),
            ends: vec![],
            labels: vec![],
            classes: vec![],
        };
        let mut classes: HashMap<Vec<u8>, u32> = HashMap::new();
        // Where in the file each line stood, for messages.
        let mut numbers = Vec::new();
        let mut header = None;
        let mut first_line = true;
        let mut line = Vec::new();
        for number in 1_usize.. {
            let wrong =
                |reason: String| DataError::format(path, format!("line {number}: {reason}"));
            line.clear();
            let mut limited = reader.by_ref().take(MAX_LINE_BYTES + 1);
            if limited.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                break;
            }
            if line.len() as u64 > MAX_LINE_BYTES {
                return Err(wrong("is longer than 1 MiB; is this a text file?".into()));
            }
            let mut text = line.as_slice();
            if number == 1 {
                text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
            }
            if text.trim_ascii().is_empty() {
                continue;
            }
            let known = |name: &[u8]| !names.find(tags.source.as_ref(), name).is_empty();
            let mut fields = match split_fields(text, separator) {
                Err(_) if text.starts_with(b"#") => continue,
                fields => fields.map_err(wrong)?,
            };
            if text.starts_with(b"#") && !known(&fields[0]) {
                continue;
            }
            if std::mem::take(&mut first_line) && !known(&fields[0]) {
                header = Header::of(fields.iter().map(Vec::as_slice));
                if header.is_some() {
                    continue;
                }
            }
            if let Some(Header { image, labels }) = &header {
                let labels: Vec<usize> = match labels.is_empty() {
                    true => (0..fields.len()).filter(|at| at != image).collect(),
                    false => labels.clone(),
                };
                let mut take = |at: usize| fields.get_mut(at).map(std::mem::take);
                let image = take(*image).unwrap_or_default();
                fields = std::iter::once(image)
                    .chain(labels.into_iter().filter_map(take))
                    .collect();
            }
            let mut fields = fields.into_iter();
            let name = fields.next().unwrap_or_default();
            let images = names.find(tags.source.as_ref(), &name);
            let Some(&first) = images.first() else {
                let at = match tags.source.len() {
                    0 => "there are none".into(),
                    _ => format!(
                        "they are named like {}",
                        for_message(&name_in_list(&*tags.source, 0))
                    ),
                };
                return Err(wrong(format!(
                    "{} is none of the images: {at}; expected one, and its labels, with {separators} between them",
                    for_message(&name)
                )));
            };
            let whole = tags.source.name(first);
            if let Some(&other) = images.iter().find(|&&i| tags.source.name(i) != whole) {
                return Err(wrong(format!(
                    "{} may be {whole} or {}",
                    for_message(&name),
                    tags.source.name(other)
                )));
            }
            if let Some(&before) = numbers.get(tags.lines[first] as usize) {
                return Err(wrong(format!(
                    "{} stands in line {before} already; put all its labels into one line",
                    for_message(&name)
                )));
            }
            for index in images {
                tags.lines[index] = numbers.len() as u32;
            }
            numbers.push(number);
            let mut labels: Vec<u32> = fields
                .filter(|class| !class.is_empty())
                .map(|class| {
                    let next = classes.len() as u32;
                    *classes.entry(class).or_insert(next)
                })
                .collect();
            labels.sort_unstable();
            labels.dedup();
            tags.labels.append(&mut labels);
            tags.ends.push(tags.labels.len());
        }
        if tags.labels.is_empty() {
            return Err(DataError::format(
                path,
                format!(
                    "no image has a label; expected lines with an image and its labels, with {separators} between them"
                ),
            ));
        }
        tags.ends.shrink_to_fit();
        tags.labels.shrink_to_fit();
        tags.classes = sort_by_value_or_name(classes, &mut tags.labels);
        let mut start = 0;
        for &end in &tags.ends {
            tags.labels[start..end].sort_unstable();
            start = end;
        }
        Ok(tags)
    }

    fn labels_of(&self, index: usize) -> &[u32] {
        let line = self.lines[index] as usize;
        match self.ends.get(line) {
            None => &[],
            Some(&end) => {
                let start = line.checked_sub(1).map_or(0, |before| self.ends[before]);
                &self.labels[start..end]
            }
        }
    }
}

/// Which images have a name: the hashes of all names, sorted.
struct NameIndex(Vec<(u64, usize)>);

impl NameIndex {
    fn of(source: &dyn Source) -> Self {
        let mut all: Vec<(u64, usize)> = (0..source.len())
            .map(|index| (hash(&name_in_list(source, index)), index))
            .collect();
        all.sort_unstable();
        Self(all)
    }

    /// The images of `source` that are called `name`.
    fn find(&self, source: &dyn Source, name: &[u8]) -> Vec<usize> {
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let wanted = hash(name);
        let first = self.0.partition_point(|&(hash, _)| hash < wanted);
        let alike = self.0[first..].iter();
        alike
            .take_while(|&&(hash, _)| hash == wanted)
            .map(|&(_, index)| index)
            .filter(|&index| name_in_list(source, index) == name)
            .collect()
    }
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// What an image is called in the file.
fn name_in_list(source: &dyn Source, index: usize) -> Vec<u8> {
    let path = source.relative_path(index).unwrap_or_else(|| {
        let name = PathBuf::from(source.name(index));
        name.file_name().map_or_else(PathBuf::new, PathBuf::from)
    });
    let mut name = path.into_os_string().into_encoded_bytes();
    if cfg!(windows) {
        name.iter_mut()
            .filter(|byte| **byte == b'\\')
            .for_each(|byte| *byte = b'/');
    }
    name
}

/// A name in a message.
fn for_message(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    format!("\"{}\"", name.chars().take(80).collect::<String>())
}

/// The fields of a line, less the spaces around them and the quotes (RFC 4180).
fn split_fields(line: &[u8], separator: u8) -> Result<Vec<Vec<u8>>, String> {
    let mut rest = line.trim_ascii_end();
    let mut fields = Vec::new();
    loop {
        // The separator may be a tab, which is a space too.
        let blank = |byte: &&u8| **byte == b' ';
        rest = &rest[rest.iter().take_while(blank).count()..];
        let field = match rest.strip_prefix(b"\"") {
            Some(inside) => {
                let (field, after) = unquote(inside).ok_or("a quote is not closed")?;
                rest = &after[after.iter().take_while(blank).count()..];
                if !rest.is_empty() && rest[0] != separator {
                    return Err(
                        "something follows a closing quote; a quote within quotes stands twice"
                            .into(),
                    );
                }
                field
            }
            None => {
                let end = rest.iter().position(|&byte| byte == separator);
                let (field, after) = rest.split_at(end.unwrap_or(rest.len()));
                rest = after;
                field.trim_ascii_end().to_vec()
            }
        };
        fields.push(field);
        match rest {
            [] => return Ok(fields),
            [_, after @ ..] => rest = after,
        }
    }
}

/// What stands in quotes up to the closing one, and what follows that.
fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut field = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.iter().position(|&byte| byte == b'"')?;
        field.extend_from_slice(&rest[..end]);
        match &rest[end + 1..] {
            [b'"', after @ ..] => {
                field.push(b'"');
                rest = after;
            }
            after => return Some((field, after)),
        }
    }
}

impl Source for TagSource {
    fn len(&self) -> usize {
        self.source.len()
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        self.source.read(index)
    }

    fn name(&self, index: usize) -> String {
        self.source.name(index)
    }

    fn label(&self, index: usize) -> Option<u32> {
        match self.labels_of(index) {
            [label] => Some(*label),
            _ => None,
        }
    }

    fn labels(&self, index: usize) -> Vec<u32> {
        self.labels_of(index).to_vec()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn relative_path(&self, index: usize) -> Option<PathBuf> {
        self.source.relative_path(index)
    }

    fn key(&self, index: usize) -> Vec<u8> {
        self.source.key(index)
    }

    fn bytes(&self, index: usize) -> Option<u64> {
        self.source.bytes(index)
    }

    fn notes(&self) -> &[String] {
        self.source.notes()
    }

    fn describe(&self) -> String {
        let named = self.lines.iter().filter(|&&line| line != NO_LINE).count();
        format!(
            "{}; labels of {} by {}",
            self.source.describe(),
            count(named, self.classes.len()),
            self.path.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str, separator: u8) -> Result<Vec<String>, String> {
        let fields = split_fields(line.as_bytes(), separator)?.into_iter();
        Ok(fields
            .map(|field| String::from_utf8(field).unwrap())
            .collect())
    }

    #[test]
    fn a_line_is_cut_where_csv_says() {
        for (line, expected) in [
            ("a.jpg", &["a.jpg"][..]),
            ("a.jpg,cat", &["a.jpg", "cat"]),
            ("a.jpg , cat ,dog\r\n", &["a.jpg", "cat", "dog"]),
            (
                "\"a, b.jpg\",\"say \"\"hi\"\"\"",
                &["a, b.jpg", "say \"hi\""],
            ),
            ("a.jpg,,dog,", &["a.jpg", "", "dog", ""]),
            ("a.jpg,\"\" ,x", &["a.jpg", "", "x"]),
            ("a.jpg,5\" disk", &["a.jpg", "5\" disk"]),
        ] {
            assert_eq!(split(line, b',').unwrap(), expected, "{line}");
        }
        assert_eq!(
            split("a b.jpg\tred, hot\t\"x\ty\"", b'\t').unwrap(),
            ["a b.jpg", "red, hot", "x\ty"]
        );
    }

    #[test]
    fn quotes_that_make_no_sense_are_errors() {
        assert!(split("\"a.jpg,cat", b',').is_err());
        assert!(split("a.jpg,\"cat\"dog", b',').is_err());
    }
}
