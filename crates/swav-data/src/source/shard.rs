//! What lies where in one tar archive: its headers read once, from the first to the last.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::io::{self, Read, Seek};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use tar::{Archive, EntryType};

use super::is_image;
use super::webdataset::Keys;
use crate::error::DataError;

/// Tar archives are made of blocks of so many bytes.
pub(super) const BLOCK: u64 = 512;

/// The label of an image that has none.
pub(super) const NONE: u32 = u32::MAX;

/// The first member of an archive that was packed by this crate, a [`Marker`] in JSON.
pub(crate) const MARKER: &str = ".swav-shard";

/// What the members of an archive mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// The first folder of an image names its class.
    Folders,
    /// WebDataset: members with one key are one sample.
    Keys,
}

/// What a packed archive says of itself: that its images are in the order of the set, and how the
/// classes are called and counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Marker {
    pub(crate) version: u32,
    /// Empty without labels.
    pub(crate) classes: Vec<String>,
    /// The folder of each class in the archive, where that is not its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) folders: Vec<String>,
}

impl Marker {
    /// The one version there is.
    pub(crate) const VERSION: u32 = 1;

    /// The folder of each class.
    pub(super) fn folders(&self) -> &[String] {
        match self.folders.is_empty() {
            true => &self.classes,
            false => &self.folders,
        }
    }
}

/// The images of one archive: numbers alone, 13 bytes an image. Names are read from the archive
/// when someone asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Where the bytes of each image begin, in blocks.
    pub(super) offsets: Vec<u32>,
    /// Their number.
    pub(super) sizes: Vec<u32>,
    /// Blocks of headers in front of them; more than one when the name is long.
    pub(super) gaps: Vec<u8>,
    /// Index into `folders`, or the number in the key's `cls`; [`NONE`] without.
    pub(super) labels: Vec<u32>,
    /// First folders, sorted.
    pub(super) folders: Vec<Vec<u8>>,
    pub(super) marker: Option<Marker>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    fn permute(&mut self, order: &[u32]) {
        fn by<T: Copy>(order: &[u32], values: &mut Vec<T>) {
            *values = order.iter().map(|&index| values[index as usize]).collect();
        }
        by(order, &mut self.offsets);
        by(order, &mut self.sizes);
        by(order, &mut self.gaps);
        by(order, &mut self.labels);
    }
}

/// Names of images while an archive is read, for sorting.
#[derive(Default)]
struct Transient {
    arena: Vec<u8>,
    ends: Vec<usize>,
}

impl Transient {
    fn push(&mut self, name: &[u8]) {
        self.arena.extend_from_slice(name);
        self.ends.push(self.arena.len());
    }

    fn get(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.arena[start..self.ends[index]]
    }
}

/// Reads the headers of an archive of `length` bytes, called `name` in errors, and lists its images
/// below `prefix`: as they lie there in a packed archive and with keys, else sorted by name, a
/// folder's entries together.
pub(super) fn list(
    reader: impl Read + Seek,
    length: u64,
    layout: Layout,
    prefix: &Path,
    name: &str,
) -> Result<Table, DataError> {
    let failed = |reason: String| DataError::Archive {
        file: name.into(),
        reason,
    };
    // A whole archive is a whole number of blocks.
    let damaged = |error: io::Error| match length.is_multiple_of(BLOCK) {
        false => failed(format!("cut short, or not a tar archive: {error}")),
        true => failed(format!("not a tar archive, or a damaged one: {error}")),
    };
    if length < BLOCK {
        return Err(failed(format!(
            "cut short: {length} bytes are less than one tar header"
        )));
    }
    if length / BLOCK > u64::from(u32::MAX) {
        return Err(failed("larger than 2 TiB: pack it into shards".into()));
    }
    let mut table = Table::default();
    let mut names = Transient::default();
    let mut folders: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut keys = Keys::new(name);
    let mut archive = Archive::new(reader);
    let mut end = 0;
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let start = end;
        let path = entry.path().map_err(damaged)?.into_owned();
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let kind = entry.header().entry_type();
        end = offset.saturating_add(size.div_ceil(BLOCK).saturating_mul(BLOCK));
        if offset.saturating_add(size) > length {
            let reason = format!("cut short: {} reaches beyond the end", path.display());
            return Err(failed(reason));
        }
        let Some(clean) = inside(&path) else {
            let reason = format!("member {} leaves the archive", path.display());
            return Err(failed(reason));
        };
        let regular = matches!(kind, EntryType::Regular | EntryType::Continuous);
        if start == 0 && regular && clean == Path::new(MARKER) && layout == Layout::Folders {
            table.marker = Some(read_marker(&mut entry, size).map_err(failed)?);
            continue;
        }
        let hidden = clean
            .iter()
            .any(|part| part.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if layout == Layout::Keys && regular && Keys::is_label(&clean) {
            keys.label(&clean, size, &mut entry, &mut table)?;
        }
        if !is_image(&clean) {
            continue;
        }
        let Ok(below) = clean.strip_prefix(prefix) else {
            continue;
        };
        match kind {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::GNUSparse => {
                return Err(failed(format!("member {} is sparse", path.display())));
            }
            // Folders and links hold no bytes.
            _ => continue,
        }
        let (Ok(size), Ok(gap)) = (
            u32::try_from(size),
            u8::try_from((offset - start.min(offset)) / BLOCK),
        ) else {
            let reason = format!("member {} is larger than 4 GiB", path.display());
            return Err(failed(reason));
        };
        table.offsets.push((offset / BLOCK) as u32);
        table.sizes.push(size);
        table.gaps.push(gap);
        table.labels.push(NONE);
        match layout {
            Layout::Keys => keys.image(&clean, &mut table)?,
            Layout::Folders => {
                names.push(bytes(below));
                if let Some(folder) = first_folder(below)
                    && !folders.contains(folder)
                {
                    folders.insert(folder.to_vec());
                }
            }
        }
    }
    if end.saturating_add(BLOCK) > length {
        let reason = "cut short: the end-of-archive block is missing";
        return Err(failed(reason.into()));
    }
    if layout == Layout::Keys {
        keys.finish(&mut table)?;
        return Ok(table);
    }
    table.folders = folders.into_iter().collect();
    let numbers = 0..table.len() as u32;
    for index in numbers.clone() {
        let folder = first_folder_of(names.get(index));
        let found = folder.map(|name| table.folders.binary_search_by(|f| f.as_slice().cmp(name)));
        table.labels[index as usize] = match found {
            Some(Ok(number)) => number as u32,
            _ => NONE,
        };
    }
    if table.marker.is_none() {
        let mut order: Vec<u32> = numbers.collect();
        order.sort_by(|&a, &b| walked(names.get(a), names.get(b)));
        table.permute(&order);
    }
    Ok(table)
}

/// Compares names as a walk through folders meets them, where `a/1` comes before `a-b/1`: by their
/// bytes, with a separator before all others.
fn walked(one: &[u8], other: &[u8]) -> Ordering {
    let key = |&byte: &u8| match byte {
        b'/' => 0,
        byte if char::from(byte) == std::path::MAIN_SEPARATOR => 0,
        byte => byte,
    };
    one.iter().map(key).cmp(other.iter().map(key))
}

fn read_marker(entry: &mut impl Read, size: u64) -> Result<Marker, String> {
    /// A million classes with long names.
    const MOST: u64 = 1 << 26;
    let wrong = |what: String| format!("member {MARKER}: {what}");
    if size > MOST {
        return Err(wrong(format!("{size} bytes are more than it can have")));
    }
    let mut text = Vec::new();
    entry
        .take(MOST)
        .read_to_end(&mut text)
        .map_err(|error| wrong(error.to_string()))?;
    let marker: Marker = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if marker.version != Marker::VERSION {
        return Err(wrong(format!(
            "version {}, this program knows {}; pack the images anew",
            marker.version,
            Marker::VERSION
        )));
    }
    if marker.folders().len() != marker.classes.len() {
        return Err(wrong("not as many folders as classes".into()));
    }
    Ok(marker)
}

/// `path` without `./`; nothing when it leaves the archive.
pub(super) fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

/// The first folder of a member, when it lies in one.
fn first_folder(path: &Path) -> Option<&[u8]> {
    first_folder_of(bytes(path))
}

fn first_folder_of(name: &[u8]) -> Option<&[u8]> {
    let separator = |&byte: &u8| byte == b'/' || char::from(byte) == std::path::MAIN_SEPARATOR;
    name.iter().position(separator).map(|end| &name[..end])
}
