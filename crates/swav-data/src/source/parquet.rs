//! Parquet files as the Hugging Face hub has image sets: a column `image` of bytes and path, and a
//! column of labels.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use parquet_format_safe::thrift::protocol::TCompactInputProtocol;
use parquet_format_safe::{
    ConvertedType, FieldRepetitionType, FileMetaData, LogicalType, SchemaElement, Type,
};

use super::describe::{count, inventory, without_label};
use super::files::Files;
use super::filesystem::{file_name, has_extension, read_at};
use super::pages::{Chunk, Decoded, Page, check_codec, decode, pages, read_numbers, row_bytes};
use super::traits::Source;
use crate::error::DataError;
use crate::sample::Sample;
use crate::threads::lock;

/// The rows of Parquet files.
///
/// * The images are the field `bytes` of the struct column `image` (or `img`, `jpg`, `jpeg`, `png`,
///   `webp`, `image_bytes`, or of the only column that has such a field), or a column of bytes by one of
///   these names.
/// * The labels are a column of whole numbers: `label`, `labels`, `fine_label`, `cls` or `class`. Their
///   names come from the metadata that the `datasets` library writes (`ClassLabel`); without it the
///   number is the name. A row whose label is null or -1, as in published test sets, has none, and
///   neither has a row of a file without the column.
/// * Names of columns may be in capitals.
/// * The rows of several files in a folder follow one another in the order of the files' names.
///
/// # Memory
/// 4 bytes a row for the label. Of the pages that were read last some are kept decompressed, 64 MiB at
/// most. A page holds several images, so that rows read in any order cost a multiple of their bytes:
/// [`pack`](crate::pack()) the set where that limits.
#[derive(Debug)]
pub struct ParquetSource {
    place: String,
    files: Files,
    groups: Vec<Group>,
    len: usize,
    /// Empty without labels.
    labels: Vec<u32>,
    classes: Vec<String>,
    notes: Vec<String>,
    recent: Mutex<VecDeque<(Key, Arc<Decoded>)>>,
}

/// A row group.
#[derive(Debug)]
struct Group {
    file: usize,
    /// Its first row in the set, and in its file.
    first: usize,
    row: usize,
    chunk: Chunk,
    pages: OnceLock<Vec<Page>>,
}

/// Row group and page.
type Key = (usize, usize);

/// Whether the name ends with `.parquet`.
pub(super) fn is_parquet(path: &Path) -> bool {
    has_extension(path, &["parquet"])
}

/// What is wanted of a file's columns, as numbers of leaves.
struct Columns {
    image: Leaf,
    label: Option<(Leaf, usize)>,
    /// A column that is called like one of labels and holds something else.
    unread: Option<String>,
}

#[derive(Clone, Debug)]
struct Leaf {
    number: usize,
    path: Vec<String>,
    kind: Option<Type>,
    optional: u8,
    repeated: bool,
    /// How many digits of its whole numbers stand behind the point; nothing where they mean something
    /// else, such as a time.
    scale: Option<u32>,
}

/// The label of a row that has none.
const NO_LABEL: i64 = -1;

impl ParquetSource {
    /// Opens one file, or all `.parquet` files of a folder in the order of their names.
    ///
    /// # Errors
    /// [`DataError::Format`] naming the file when it is no Parquet file, has no column of images, is
    /// compressed in a way that is not read, or has labels that cannot be; [`DataError::Empty`] without
    /// rows; [`DataError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let files = Files::at(path, |name| Ok(is_parquet(name)))?;
        let mut source = Self {
            place: format!("Parquet {}", path.display()),
            files,
            groups: vec![],
            len: 0,
            labels: vec![],
            classes: vec![],
            notes: vec![],
            recent: Mutex::default(),
        };
        let mut labels: Vec<i64> = vec![];
        let mut names: Option<Vec<String>> = None;
        for number in 0..source.files.len() {
            let path = source.files.path(number);
            let file = source.files.file(number)?;
            let wrong = |reason: String| DataError::format(&path, reason);
            let meta = footer(&file).map_err(wrong)?;
            let columns = columns(&meta.schema).map_err(wrong)?;
            if let Some(column) = &columns.unread {
                source.notes.push(format!(
                    "{}: column {column} holds no whole numbers and is not taken for labels",
                    path.display()
                ));
            }
            let declared = columns.label.as_ref().and_then(|(leaf, _)| {
                let column = leaf.path.first()?;
                class_names(&meta, column)
            });
            match &names {
                None => names = declared,
                Some(first) if declared.as_ref().is_some_and(|other| other != first) => {
                    return Err(wrong(
                        "has other class names than the files before it".into(),
                    ));
                }
                Some(_) => {}
            }
            source
                .add(number, &file, &meta, &columns, &mut labels)
                .map_err(wrong)?;
        }
        if source.len == 0 {
            return Err(DataError::Empty {
                path: path.into(),
                looked_for: ".parquet files with rows".into(),
                found: match source.files.len() {
                    0 => inventory(path),
                    n => format!("no row in {n} of them"),
                },
            });
        }
        source.set_labels(path, labels, names)?;
        Ok(source)
    }

    /// Appends the rows of a file.
    fn add(
        &mut self,
        number: usize,
        file: &File,
        meta: &FileMetaData,
        columns: &Columns,
        labels: &mut Vec<i64>,
    ) -> Result<(), String> {
        // An image takes a byte at least, so no file has more rows than bytes.
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        let mut row = 0;
        for group in &meta.row_groups {
            let rows = usize::try_from(group.num_rows).map_err(|_| "a negative number of rows")?;
            if rows as u64 > length.saturating_sub(row as u64) {
                return Err(format!(
                    "{rows} rows in a group of a file of {length} bytes"
                ));
            }
            if rows == 0 {
                // Such a group may have no pages, and offsets that mean nothing.
                continue;
            }
            let chunk = |leaf: &Leaf, width: usize| -> Result<Chunk, String> {
                let column = leaf.path.join(".");
                let damaged = || format!("column {column}: damaged metadata");
                let meta = group.columns.get(leaf.number).ok_or_else(damaged)?;
                let meta = meta.meta_data.as_ref().ok_or_else(damaged)?;
                check_codec(meta.codec).map_err(|reason| format!("column {column}: {reason}"))?;
                let first = match meta.dictionary_page_offset {
                    Some(offset) if offset > 0 => offset.min(meta.data_page_offset),
                    _ => meta.data_page_offset,
                };
                Ok(Chunk {
                    start: u64::try_from(first).map_err(|_| damaged())?,
                    length: u64::try_from(meta.total_compressed_size).map_err(|_| damaged())?,
                    codec: meta.codec,
                    optional: leaf.optional,
                    width,
                })
            };
            let image = chunk(&columns.image, 0)?;
            if let Some((leaf, width)) = &columns.label {
                let read = label_column(file, chunk(leaf, *width)?, rows)
                    .map_err(|reason| format!("column {}: {reason}", leaf.path.join(".")))?;
                if read.len() != rows {
                    return Err(format!("{} labels for {rows} rows", read.len()));
                }
                let unit = 10_i64.pow(leaf.scale.unwrap_or(0));
                for (place, label) in read.into_iter().enumerate() {
                    let label = label.unwrap_or(NO_LABEL * unit);
                    if label % unit != 0 {
                        return Err(format!(
                            "row {}: label {} is no whole number",
                            row + place,
                            label as f64 / unit as f64
                        ));
                    }
                    labels.push(label / unit);
                }
            } else {
                labels.resize(labels.len() + rows, NO_LABEL);
            }
            self.groups.push(Group {
                file: number,
                first: self.len,
                row,
                chunk: image,
                pages: OnceLock::new(),
            });
            self.len += rows;
            row += rows;
        }
        Ok(())
    }

    /// Takes over labels and their names.
    fn set_labels(
        &mut self,
        path: &Path,
        labels: Vec<i64>,
        names: Option<Vec<String>>,
    ) -> Result<(), DataError> {
        /// More classes than any set has.
        const CLASSES: i64 = 10_000_000;
        let bare = labels.iter().filter(|&&label| label == NO_LABEL).count();
        if bare == self.len {
            return Ok(());
        }
        self.notes.extend(without_label(bare, self.len));
        let wrong = |reason: String| DataError::format(path, reason);
        let known = names.as_ref().map_or(CLASSES, |names| names.len() as i64);
        if let Some(row) = labels
            .iter()
            .position(|label| !(NO_LABEL..known).contains(label))
        {
            let name = self.name(row);
            return Err(wrong(format!(
                "{name}: label {} of {known} classes",
                labels[row]
            )));
        }
        self.classes = names.unwrap_or_else(|| {
            let most = labels.iter().max().copied().unwrap_or_default();
            (0..=most).map(|number| number.to_string()).collect()
        });
        self.labels = labels.into_iter().map(|label| label as u32).collect();
        Ok(())
    }

    fn group(&self, index: usize) -> usize {
        assert!(index < self.len, "sample {index} of {}", self.len);
        self.groups.partition_point(|group| group.first <= index) - 1
    }

    /// A page of a row group, from memory or from the file.
    fn page(&self, file: &File, key: Key, page: &Page) -> Result<Arc<Decoded>, String> {
        const MEMORY: usize = 64 << 20;
        {
            let mut recent = lock(&self.recent);
            if let Some(place) = recent.iter().position(|(held, _)| *held == key)
                && let Some(entry) = recent.remove(place)
            {
                let found = Arc::clone(&entry.1);
                recent.push_front(entry);
                return Ok(found);
            }
        }
        let decoded = Arc::new(decode(file, self.groups[key.0].chunk, page)?);
        let mut recent = lock(&self.recent);
        recent.push_front((key, Arc::clone(&decoded)));
        let mut total = 0;
        let keep = (recent.iter())
            .take_while(|(_, page)| {
                total += page.size();
                total <= MEMORY
            })
            .count();
        recent.truncate(keep);
        Ok(decoded)
    }

    /// The bytes of an image.
    fn image(&self, file: &File, index: usize) -> Result<Option<Vec<u8>>, String> {
        let number = self.group(index);
        let group = &self.groups[number];
        let list = match group.pages.get() {
            Some(list) => list,
            None => {
                let list = pages(file, group.chunk)?;
                group.pages.get_or_init(|| list)
            }
        };
        let row = (index - group.first) as u64;
        let data = |page: &Page| !page.is_dictionary() && page.first <= row;
        let place = (list.iter().rposition(data))
            .filter(|&place| row - list[place].first < list[place].rows)
            .ok_or("the row is in no page")?;
        let page = self.page(file, (number, place), &list[place])?;
        let dictionary = (list.iter().position(Page::is_dictionary))
            .map(|place| self.page(file, (number, place), &list[place]))
            .transpose()?;
        let row = (row - list[place].first) as usize;
        row_bytes(&page, dictionary.as_deref(), row).map(|bytes| bytes.map(<[u8]>::to_vec))
    }
}

impl Source for ParquetSource {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        let file = self.files.file(self.groups[self.group(index)].file)?;
        match self.image(&file, index) {
            Ok(Some(bytes)) => Ok(Sample::Encoded(bytes)),
            Ok(None) => Err(DataError::decode(
                &self.name(index),
                "the row has no bytes (a path alone is not followed)",
            )),
            Err(reason) => Err(DataError::decode(&self.name(index), reason)),
        }
    }

    fn name(&self, index: usize) -> String {
        let group = &self.groups[self.group(index)];
        let row = group.row + index - group.first;
        format!("{}#{row}", self.files.path(group.file).display())
    }

    fn label(&self, index: usize) -> Option<u32> {
        assert!(index < self.len, "sample {index} of {}", self.len);
        // As 32 bits -1 is the largest number, and no class.
        let label = self.labels.get(index).copied();
        label.filter(|&label| label != NO_LABEL as u32)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn describe(&self) -> String {
        let mut text = format!("{}, {}", count(self.len, self.classes.len()), self.place);
        if self.files.len() > 1 {
            let name = |number| file_name(&self.files.path(number));
            let last = self.files.len() - 1;
            text += &format!(" ({} files: {} … {})", last + 1, name(0), name(last));
        }
        text
    }
}

/// Reads what stands at the end of a file.
fn footer(file: &File) -> Result<FileMetaData, String> {
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let cut =
        || format!("no Parquet file, or cut short: {length} bytes without \"PAR1\" at the end");
    let mut end = [0; 8];
    let start = length.checked_sub(8).ok_or_else(cut)?;
    read_at(file, &mut end, start).map_err(|error| error.to_string())?;
    match &end[4..] {
        b"PAR1" => {}
        b"PARE" => return Err("encrypted; decrypt it first".into()),
        _ => return Err(cut()),
    }
    let size = u32::from_le_bytes([end[0], end[1], end[2], end[3]]);
    let start = start.checked_sub(u64::from(size)).ok_or_else(cut)?;
    let mut bytes = vec![0; size as usize];
    read_at(file, &mut bytes, start).map_err(|error| error.to_string())?;
    // Parsed it takes some times the bytes, not some thousand times.
    let limit = bytes.len().saturating_mul(64);
    let mut protocol = TCompactInputProtocol::new(bytes.as_slice(), limit);
    FileMetaData::read_from_in_protocol(&mut protocol)
        .map_err(|error| format!("damaged metadata: {error}"))
}

/// The leaves of a schema, in the order of their columns.
fn leaves(schema: &[SchemaElement]) -> Result<Vec<Leaf>, String> {
    const DAMAGED: &str = "damaged schema";
    let mut found = Vec::new();
    // Children left of each open group, its name, and what is optional and repeated down to it.
    let mut open: Vec<(i32, Leaf)> = Vec::new();
    let mut elements = schema.iter();
    let root = elements.next().ok_or(DAMAGED)?;
    let base = Leaf {
        number: 0,
        path: vec![],
        kind: None,
        optional: 0,
        repeated: false,
        scale: None,
    };
    open.push((root.num_children.unwrap_or(0), base));
    for element in elements {
        while open.last().is_some_and(|(left, _)| *left <= 0) {
            open.pop();
        }
        let (left, parent) = open.last_mut().ok_or(DAMAGED)?;
        *left -= 1;
        let mut leaf = parent.clone();
        // A leaf has a copy of the whole path to it.
        if element.name.len() + leaf.path.iter().map(String::len).sum::<usize>() > 4096 {
            return Err(DAMAGED.into());
        }
        leaf.path.push(element.name.clone());
        match element.repetition_type {
            Some(FieldRepetitionType::OPTIONAL) => leaf.optional = leaf.optional.saturating_add(1),
            Some(FieldRepetitionType::REPEATED) => leaf.repeated = true,
            _ => {}
        }
        match element.num_children {
            Some(children) if children > 0 => {
                if open.len() > 100 {
                    return Err(DAMAGED.into());
                }
                open.push((children, leaf));
            }
            _ => {
                leaf.number = found.len();
                leaf.kind = element.type_;
                leaf.scale = scale(element);
                found.push(leaf);
            }
        }
    }
    Ok(found)
}

/// How many digits of a column's whole numbers stand behind the point, if numbers is what they are.
fn scale(element: &SchemaElement) -> Option<u32> {
    let scale = match (&element.logical_type, element.converted_type) {
        (Some(LogicalType::DECIMAL(decimal)), _) => decimal.scale,
        (None, Some(ConvertedType::DECIMAL)) => element.scale.unwrap_or(0),
        (Some(LogicalType::INTEGER(_)), _) | (None, None) => 0,
        (None, Some(kind)) if (ConvertedType::UINT_8..=ConvertedType::INT_64).contains(&kind) => 0,
        _ => return None,
    };
    // Of more digits 64 bits hold no whole number.
    u32::try_from(scale).ok().filter(|&scale| scale < 19)
}

/// Finds the columns of images and labels.
fn columns(schema: &[SchemaElement]) -> Result<Columns, String> {
    const IMAGES: [&str; 7] = ["image", "img", "jpg", "jpeg", "png", "webp", "image_bytes"];
    const LABELS: [&str; 5] = ["label", "labels", "fine_label", "cls", "class"];
    let leaves = leaves(schema)?;
    let bytes = |leaf: &&Leaf| leaf.kind == Some(Type::BYTE_ARRAY) && !leaf.repeated;
    let is = |leaf: &Leaf, path: &[&str]| {
        leaf.path
            .iter()
            .map(|name| name.to_lowercase())
            .eq(path.iter().copied())
    };
    let named = IMAGES.iter().find_map(|name| {
        let fits = |leaf: &&Leaf| is(leaf, &[name, "bytes"]) || is(leaf, &[name]);
        leaves.iter().filter(bytes).find(fits)
    });
    let fits = |leaf: &&Leaf| leaf.path.len() == 2 && leaf.path[1] == "bytes";
    let others: Vec<&Leaf> = leaves.iter().filter(bytes).filter(fits).collect();
    let list = |leaves: &mut dyn Iterator<Item = &Leaf>| {
        let names: Vec<String> = leaves.map(|leaf| leaf.path.join(".")).collect();
        names.join(", ")
    };
    let image = match (named, &others[..]) {
        (Some(image), _) => image.clone(),
        (None, [image]) => (*image).clone(),
        (None, []) => {
            return Err(format!(
                "no column of images: expected `image` with the fields bytes and path, or a column of \
                 bytes called {}; found {}",
                IMAGES.join(", "),
                list(&mut leaves.iter())
            ));
        }
        (None, [_, ..]) => {
            return Err(format!(
                "several columns may be the images: {}; call the one `image`",
                list(&mut others.iter().copied())
            ));
        }
    };
    let label = LABELS.iter().find_map(|name| {
        leaves
            .iter()
            .filter(|leaf| !leaf.repeated && leaf.scale.is_some())
            .find_map(|leaf| {
                let width = match leaf.kind {
                    Some(Type::INT32) => 4,
                    Some(Type::INT64) => 8,
                    _ => return None,
                };
                is(leaf, &[name]).then(|| (leaf.clone(), width))
            })
    });
    let named = |leaf: &&Leaf| LABELS.iter().any(|name| is(leaf, &[name]));
    let unread = match label {
        Some(_) => None,
        None => leaves.iter().find(named).map(|leaf| leaf.path.join(".")),
    };
    Ok(Columns {
        image,
        label,
        unread,
    })
}

/// Reads a whole column of labels.
fn label_column(file: &File, chunk: Chunk, rows: usize) -> Result<Vec<Option<i64>>, String> {
    let mut labels = Vec::new();
    let mut dictionary = None;
    for page in pages(file, chunk)? {
        let more = if page.is_dictionary() { 0 } else { page.rows };
        if more > (rows - labels.len()) as u64 {
            return Err(format!("more than {rows} values"));
        }
        let decoded = decode(file, chunk, &page)?;
        if page.is_dictionary() {
            dictionary = Some(decoded);
        } else {
            let numbers = read_numbers(&decoded, dictionary.as_ref(), chunk.width, page.rows)?;
            labels.extend(numbers.into_iter().take(rows - labels.len()));
        }
    }
    Ok(labels)
}

/// The names of the classes in a column, as the `datasets` library notes them.
fn class_names(meta: &FileMetaData, column: &str) -> Option<Vec<String>> {
    let pairs = meta.key_value_metadata.as_ref()?;
    let text = pairs
        .iter()
        .find(|pair| pair.key == "huggingface")?
        .value
        .as_ref()?;
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let names = value
        .get("info")?
        .get("features")?
        .get(column)?
        .get("names")?;
    let names = names.as_array()?.iter();
    names.map(|name| name.as_str().map(String::from)).collect()
}
