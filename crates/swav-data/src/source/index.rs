//! The index of a tar archive, kept beside it as `NAME.tar.index`.
//!
//! Reading the headers of an archive takes two small reads for each member; its index is read in
//! one. It holds the archive's size and time of change, so an archive that was changed is noticed
//! and listed anew, and a checksum, so a damaged index is no harm.
//!
//! ```text
//! "swav-idx" · version u32 · layout u8 · archive bytes u64 · changed, ns u64 · images u64
//! offsets u32 × images · sizes u32 × images · header blocks u8 × images · labels u32 × images
//! folders: bytes u32, number u32, each: bytes u32, name · marker: bytes u32, JSON
//! CRC-32 of all before, u32
//! ```
//!
//! All numbers have their lowest byte first.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use super::shard::{BLOCK, Layout, NONE, Table, list};
use super::tar::{compressed, is_compressed, starts_compressed};
use super::webdataset::Keys;
use crate::error::DataError;

const MAGIC: &[u8; 8] = b"swav-idx";
const VERSION: u32 = 1;

/// Archives with fewer bytes are listed faster than an index is worth a file.
const WORTH: u64 = 1 << 20;

/// What an index must agree with.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    layout: Layout,
    length: u64,
    changed: u64,
}

impl Stamp {
    fn of(metadata: &Metadata, layout: Layout) -> Self {
        let changed = metadata.modified().ok();
        let changed = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            layout,
            length: metadata.len(),
            changed: changed.map_or(0, |since| since.as_nanos() as u64),
        }
    }
}

/// Where the index of `archive` is kept.
pub(super) fn path_of(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".index");
    name.into()
}

/// The images of the archive at `path`: from its index, or from the archive itself, whose index is
/// then written. Appends to `notes` what a person should know.
pub(super) fn table(
    path: &Path,
    layout: Layout,
    notes: &mut Vec<String>,
) -> Result<Table, DataError> {
    let failed = |error| DataError::io(path, error);
    let file = File::open(path).map_err(failed)?;
    if is_compressed(path) || starts_compressed(&file) {
        return Err(compressed(path));
    }
    let stamp = Stamp::of(&file.metadata().map_err(failed)?, layout);
    let index = path_of(path);
    if stamp.length >= WORTH
        && let Ok(bytes) = read(&index, stamp.length)
    {
        match decode(&bytes, stamp) {
            Ok(table) => return Ok(table),
            Err(reason) => notes.push(format!(
                "{}: {reason}; the archive is listed anew",
                index.display()
            )),
        }
    }
    let name = path.to_string_lossy();
    let table = list(&file, stamp.length, layout, Path::new(""), &name)?;
    let after = file.metadata().map_err(failed)?;
    if Stamp::of(&after, layout) != stamp {
        return Err(DataError::Archive {
            file: name.into_owned(),
            reason: "changed while it was listed; wait until it is written".into(),
        });
    }
    if stamp.length >= WORTH
        && let Err(error) = write(&index, &encode(&table, stamp))
    {
        notes.push(format!(
            "{}: cannot be written ({error}), so the archive is listed anew each time it is opened",
            index.display()
        ));
    }
    Ok(table)
}

/// The bytes of an index, which is smaller than its archive, of `most` bytes. What is not gives an index that is cut
/// short.
fn read(index: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(index)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file so that it is either whole or not there.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}-{number}", process::id()));
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // There may be nothing to remove.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn encode(table: &Table, stamp: Stamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + 13 * table.len());
    out.extend_from_slice(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.push(layout_number(stamp.layout));
    out.extend(stamp.length.to_le_bytes());
    out.extend(stamp.changed.to_le_bytes());
    out.extend((table.len() as u64).to_le_bytes());
    for numbers in [&table.offsets, &table.sizes] {
        numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
    }
    out.extend_from_slice(&table.gaps);
    table
        .labels
        .iter()
        .for_each(|n| out.extend(n.to_le_bytes()));
    let mut text = |bytes: &[u8]| {
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    let marker = table.marker.as_ref().map(serde_json::to_vec);
    let marker = marker.and_then(Result::ok).unwrap_or_default();
    let mut folders = Vec::new();
    folders.extend((table.folders.len() as u32).to_le_bytes());
    for folder in &table.folders {
        folders.extend((folder.len() as u32).to_le_bytes());
        folders.extend_from_slice(folder);
    }
    text(&folders);
    text(&marker);
    let sum = crc32fast::hash(&out);
    out.extend(sum.to_le_bytes());
    out
}

/// Reads an index, or says why it is of no use.
fn decode(bytes: &[u8], stamp: Stamp) -> Result<Table, &'static str> {
    const DAMAGED: &str = "damaged";
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(DAMAGED)?;
    let mut rest = body.strip_prefix(MAGIC).ok_or("not an index")?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return Err(DAMAGED);
    }
    if u32(&mut rest) != Some(VERSION) {
        return Err("of another version");
    }
    if u8(&mut rest) != Some(layout_number(stamp.layout)) {
        return Err("made for another format");
    }
    if u64(&mut rest) != Some(stamp.length) || u64(&mut rest) != Some(stamp.changed) {
        return Err("the archive has changed since");
    }
    parse(&mut rest)
        .filter(|table| sound(table, stamp))
        .ok_or(DAMAGED)
}

fn parse(rest: &mut &[u8]) -> Option<Table> {
    let count = usize::try_from(u64(rest)?).ok()?;
    let mut table = Table {
        offsets: u32s(rest, count)?,
        sizes: u32s(rest, count)?,
        gaps: take(rest, count)?.to_vec(),
        labels: u32s(rest, count)?,
        ..Table::default()
    };
    let mut folders = text(rest)?;
    for _ in 0..u32(&mut folders)? {
        table.folders.push(text(&mut folders)?.to_vec());
    }
    let marker = text(rest)?;
    if !marker.is_empty() {
        table.marker = Some(serde_json::from_slice(marker).ok()?);
    }
    rest.is_empty().then_some(table)
}

/// Whether every image lies within the archive and every label is that of a folder.
fn sound(table: &Table, stamp: Stamp) -> bool {
    let images = table.offsets.iter().zip(&table.sizes).zip(&table.gaps);
    let within = |((&offset, &size), &gap): ((&u32, &u32), &u8)| {
        gap > 0
            && offset >= u32::from(gap)
            && u64::from(offset) * BLOCK + u64::from(size) <= stamp.length
    };
    let most = match stamp.layout {
        Layout::Folders => table.folders.len() as u64,
        Layout::Keys => Keys::CLASSES,
    };
    let known = |&label: &u32| label == NONE || u64::from(label) < most;
    images.into_iter().all(within) && table.labels.iter().all(known)
}

fn layout_number(layout: Layout) -> u8 {
    match layout {
        Layout::Folders => 0,
        Layout::Keys => 1,
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn u8(rest: &mut &[u8]) -> Option<u8> {
    take(rest, 1).map(|bytes| bytes[0])
}

fn u32(rest: &mut &[u8]) -> Option<u32> {
    let bytes = take(rest, 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64(rest: &mut &[u8]) -> Option<u64> {
    let bytes = take(rest, 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn u32s(rest: &mut &[u8], count: usize) -> Option<Vec<u32>> {
    let bytes = take(rest, count.checked_mul(4)?)?;
    let (chunks, _) = bytes.as_chunks::<4>();
    Some(
        chunks
            .iter()
            .map(|chunk| u32::from_le_bytes(*chunk))
            .collect(),
    )
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u32(rest)?;
    take(rest, length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::shard::Marker;

    fn example() -> (Table, Stamp) {
        let table = Table {
            offsets: vec![1, 5, 9],
            sizes: vec![1000, 1, 0],
            gaps: vec![1, 3, 1],
            labels: vec![0, NONE, 1],
            folders: vec![b"cat".to_vec(), vec![0xFF, b'x']],
            marker: Some(Marker {
                version: 1,
                classes: vec!["x".into()],
                folders: vec![],
            }),
        };
        let stamp = Stamp {
            layout: Layout::Folders,
            length: 9 * BLOCK,
            changed: 7,
        };
        (table, stamp)
    }

    #[test]
    fn an_index_reads_back_what_was_written() {
        let (table, stamp) = example();
        assert_eq!(decode(&encode(&table, stamp), stamp), Ok(table));
    }

    #[test]
    fn a_changed_archive_and_every_damaged_byte_is_noticed() {
        let (table, stamp) = example();
        let bytes = encode(&table, stamp);
        let later = Stamp {
            changed: 8,
            ..stamp
        };
        assert!(decode(&bytes, later).unwrap_err().contains("changed"));
        let keys = Stamp {
            layout: Layout::Keys,
            ..stamp
        };
        assert!(decode(&bytes, keys).unwrap_err().contains("another format"));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(decode(&damaged, stamp).is_err(), "byte {at}");
            assert!(decode(&bytes[..at], stamp).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn an_image_beyond_the_end_of_the_archive_is_not_believed() {
        let (mut table, stamp) = example();
        table.offsets[2] = 10;
        assert!(decode(&encode(&table, stamp), stamp).is_err());
    }
}
