//! The index of a tar archive, kept beside it as `NAME.tar.index`.
//!
//! Reading the headers of an archive takes a small read for each member; its index is read in one. A checksum makes a
//! damaged index harmless. An index counts only for the archive that it was made from, in the state that it had then:
//!
//! - size, time of change, and on Unix inode and time of the last change of status, which no copy takes along;
//! - a checksum over stretches of the archive in front of some images, the first and the last among them, and at the end.
//!
//! So an archive that was replaced by one of the same size and time (`cp -p`, `rsync -t`) is listed anew. So is one that
//! was only moved or copied, once: to tell that nothing changed, all headers would have to be read, and that is what
//! listing does. Listing takes seconds, and wrong labels spoil a training run.
//!
//! ```text
//! "swav-idx" · version u32 · layout u8 · labelled u8
//! archive bytes u64 · modified, ns u64 · status changed, ns u64 · inode u64 · checksum of stretches u32 · images u64
//! offsets u32 × images · sizes u32 × images · header blocks u8 × images · labels u32 × images
//! named: number u32, each: image u32, block u32 · folders: bytes u32, number u32, each: bytes u32, name
//! marker and remarks: bytes u32, JSON · CRC-32 of all before, u32
//! ```
//!
//! All numbers have their lowest byte first.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::classes::NO_LABEL;
use super::compression::{compressed, is_compressed, starts_compressed};
use super::filesystem::read_at;
use super::marker::Marker;
use super::members::{BLOCK, ReadAt};
use super::remarks::Remarks;
use super::shard::list;
use super::table::{Layout, Table};
use super::webdataset;
use crate::error::DataError;

const MAGIC: &[u8; 8] = b"swav-idx";
const VERSION: u32 = 2;

/// Archives with fewer bytes are listed faster than an index is worth a file.
const MIN_ARCHIVE_BYTES: u64 = 1 << 20;

/// What an index must agree with: the file and its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: u64,
    /// 0 where the system has none, as for `inode`.
    status: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let modified = metadata.modified().ok();
        let modified = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        #[cfg(unix)]
        let (status, inode) = {
            use std::os::unix::fs::MetadataExt;
            let nanoseconds = metadata.ctime().wrapping_mul(1_000_000_000);
            (
                nanoseconds.wrapping_add(metadata.ctime_nsec()) as u64,
                metadata.ino(),
            )
        };
        #[cfg(not(unix))]
        let (status, inode) = (0, 0);
        Self {
            length: metadata.len(),
            modified: modified.map_or(0, |since| since.as_nanos() as u64),
            status,
            inode,
        }
    }

    fn numbers(self) -> [u64; 4] {
        [self.length, self.modified, self.status, self.inode]
    }
}

/// The parts of a table that are not numbers.
#[derive(Default, Serialize, Deserialize)]
struct TextParts {
    marker: Option<Marker>,
    remarks: Remarks,
}

/// Where the index of `archive` is kept.
pub(super) fn index_path(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".index");
    name.into()
}

/// The images of the archive at `path`: from its index, or from the archive itself, whose index is
/// then written. Appends to `notes` what a person should know.
pub(super) fn read_or_list(
    path: &Path,
    asked: Option<Layout>,
    notes: &mut Vec<String>,
) -> Result<Table, DataError> {
    let failed = |error| DataError::io(path, error);
    let file = File::open(path).map_err(failed)?;
    if is_compressed(path) || starts_compressed(&file) {
        return Err(compressed(path));
    }
    let archive = |buffer: &mut [u8], at: u64| read_at(&file, buffer, at);
    let stamp = Stamp::of(&file.metadata().map_err(failed)?);
    let index = index_path(path);
    if stamp.length >= MIN_ARCHIVE_BYTES
        && let Ok(bytes) = read(&index, stamp.length)
    {
        match decode(&bytes, asked, stamp, archive) {
            Ok(table) => return Ok(table),
            Err(reason) => notes.push(format!(
                "{}: {reason}; the archive is listed anew",
                index.display()
            )),
        }
    }
    let name = path.to_string_lossy();
    let table = list(archive, stamp.length, asked, Path::new(""), &name)?;
    // Before the last look at the state, so that it is of this one.
    let digest = digest(&table, stamp.length, archive);
    let after = file.metadata().map_err(failed)?;
    if Stamp::of(&after) != stamp {
        return Err(DataError::Archive {
            file: name.into_owned(),
            reason: "changed while it was listed; wait until it is written".into(),
        });
    }
    let keep = |digest| write(&index, &encode(&table, stamp, digest)?);
    if stamp.length >= MIN_ARCHIVE_BYTES
        && let Err(error) = digest.and_then(keep)
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

fn encode(table: &Table, stamp: Stamp, digest: u32) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(128 + 13 * table.len());
    out.extend_from_slice(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend([layout_number(table.layout), u8::from(table.labelled)]);
    stamp
        .numbers()
        .iter()
        .for_each(|n| out.extend(n.to_le_bytes()));
    out.extend(digest.to_le_bytes());
    out.extend((table.len() as u64).to_le_bytes());
    for numbers in [&table.offsets, &table.sizes] {
        numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
    }
    out.extend_from_slice(&table.gaps);
    table
        .labels
        .iter()
        .for_each(|n| out.extend(n.to_le_bytes()));
    out.extend((table.named.len() as u32).to_le_bytes());
    for (image, block) in &table.named {
        out.extend(image.to_le_bytes());
        out.extend(block.to_le_bytes());
    }
    let mut text = |bytes: &[u8]| {
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    let extra = TextParts {
        marker: table.marker.clone(),
        remarks: table.remarks.clone(),
    };
    let extra = serde_json::to_vec(&extra)?;
    let mut folders = Vec::new();
    folders.extend((table.folders.len() as u32).to_le_bytes());
    for folder in &table.folders {
        folders.extend((folder.len() as u32).to_le_bytes());
        folders.extend_from_slice(folder);
    }
    text(&folders);
    text(&extra);
    let sum = crc32fast::hash(&out);
    out.extend(sum.to_le_bytes());
    Ok(out)
}

/// Reads an index, or says why it is of no use for an archive in a state.
fn decode(
    bytes: &[u8],
    asked: Option<Layout>,
    stamp: Stamp,
    archive: impl ReadAt,
) -> Result<Table, &'static str> {
    const DAMAGED: &str = "damaged";
    const CHANGED: &str = "the archive has changed since, or is a copy";
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(DAMAGED)?;
    let mut rest = body.strip_prefix(MAGIC).ok_or("not an index")?;
    if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
        return Err(DAMAGED);
    }
    if u32(&mut rest) != Some(VERSION) {
        return Err("of another version");
    }
    let layout = match u8(&mut rest) {
        Some(0) => Layout::Folders,
        Some(1) => Layout::Keys,
        _ => return Err(DAMAGED),
    };
    let labelled = u8(&mut rest) == Some(1);
    let decided = if labelled {
        Layout::Keys
    } else {
        Layout::Folders
    };
    if asked.unwrap_or(decided) != layout {
        return Err("made for another format");
    }
    if stamp
        .numbers()
        .iter()
        .any(|&number| u64(&mut rest) != Some(number))
    {
        return Err(CHANGED);
    }
    let expected = u32(&mut rest).ok_or(DAMAGED)?;
    let table = parse(&mut rest)
        .map(|table| Table {
            layout,
            labelled,
            ..table
        })
        .filter(|table| is_valid(table, stamp.length))
        .ok_or(DAMAGED)?;
    match digest(&table, stamp.length, archive) {
        Ok(found) if found == expected => Ok(table),
        _ => Err(CHANGED),
    }
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
    let named = u32(rest)? as usize;
    let pairs = u32s(rest, named.checked_mul(2)?)?;
    table.named = pairs
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect();
    let mut folders = text(rest)?;
    for _ in 0..u32(&mut folders)? {
        table.folders.push(text(&mut folders)?.to_vec());
    }
    let extra: TextParts = serde_json::from_slice(text(rest)?).ok()?;
    (table.marker, table.remarks) = (extra.marker, extra.remarks);
    rest.is_empty().then_some(table)
}

/// Whether every image lies within the archive, has a name, and a label that there is.
fn is_valid(table: &Table, length: u64) -> bool {
    let images = table.offsets.iter().zip(&table.sizes).zip(&table.gaps);
    let within = |((&offset, &size), &gap): ((&u32, &u32), &u8)| {
        offset >= u32::from(gap.max(1)) && u64::from(offset) * BLOCK + u64::from(size) <= length
    };
    let most = match (table.layout, table.folders.len() as u64) {
        (Layout::Keys, 0) => webdataset::MAX_CLASSES,
        (_, folders) => folders,
    };
    let known = |&label: &u32| label == NO_LABEL || u64::from(label) < most;
    let unnamed = (0u32..).zip(&table.gaps).filter(|&(_, &gap)| gap == 0);
    images.into_iter().all(within)
        && table.labels.iter().all(known)
        && unnamed
            .map(|(image, _)| image)
            .eq(table.named.iter().map(|&(image, _)| image))
}

/// A checksum over stretches of an archive: in front of some images, with their headers and what lies between them and
/// the image before, and at the end.
fn digest(table: &Table, length: u64, archive: impl ReadAt) -> io::Result<u32> {
    const IMAGES: usize = 16;
    const STRETCH: u64 = 16 * BLOCK;
    let last = table.len().saturating_sub(1);
    let some = (0..IMAGES).map(|step| step * last / (IMAGES - 1));
    let ends = some
        .filter_map(|image| table.offsets.get(image))
        .map(|&offset| u64::from(offset) * BLOCK);
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = [0; STRETCH as usize];
    for end in ends.chain([length]) {
        let stretch = &mut buffer[..end.min(STRETCH) as usize];
        archive(stretch, end - stretch.len() as u64)?;
        hasher.update(stretch);
    }
    Ok(hasher.finalize())
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

    /// A table, the archive that it is of, and that one's stamp.
    fn example() -> (Table, Vec<u8>, Stamp) {
        let mut remarks = Remarks::default();
        remarks.parts.add(|| "x.seg.png".into());
        let table = Table {
            offsets: vec![1, 5, 9],
            sizes: vec![1000, 1, 0],
            gaps: vec![1, 0, 1],
            labels: vec![0, NO_LABEL, 1],
            named: vec![(1, 2)],
            folders: vec![b"cat".to_vec(), vec![0xFF, b'x']],
            marker: Some(Marker {
                version: 1,
                classes: vec!["x".into()],
                folders: vec![],
            }),
            remarks,
            ..Table::default()
        };
        let archive: Vec<u8> = (0..9 * BLOCK).map(|at| (at * at / 7) as u8).collect();
        let stamp = Stamp {
            length: archive.len() as u64,
            modified: 7,
            status: 9,
            inode: 11,
        };
        (table, archive, stamp)
    }

    fn reader(archive: &[u8]) -> impl ReadAt {
        |buffer: &mut [u8], at: u64| {
            buffer.copy_from_slice(&archive[at as usize..][..buffer.len()]);
            Ok(())
        }
    }

    fn encoded(table: &Table, archive: &[u8], stamp: Stamp) -> Vec<u8> {
        let digest = digest(table, stamp.length, reader(archive)).unwrap();
        encode(table, stamp, digest).unwrap()
    }

    #[test]
    fn an_index_reads_back_what_was_written() {
        let (table, archive, stamp) = example();
        let bytes = encoded(&table, &archive, stamp);
        for asked in [None, Some(Layout::Folders)] {
            assert_eq!(
                decode(&bytes, asked, stamp, reader(&archive)).as_ref(),
                Ok(&table)
            );
        }
    }

    #[test]
    fn another_file_another_state_and_other_headers_are_noticed() {
        let (table, mut archive, stamp) = example();
        let bytes = encoded(&table, &archive, stamp);
        let others = [
            Stamp {
                modified: 8,
                ..stamp
            },
            Stamp { status: 8, ..stamp },
            Stamp { inode: 8, ..stamp },
            Stamp {
                length: 10 * BLOCK,
                ..stamp
            },
        ];
        for other in others {
            let error = decode(&bytes, None, other, reader(&archive)).unwrap_err();
            assert!(error.contains("changed"), "{error}");
        }
        archive[8 * BLOCK as usize] ^= 1;
        let error = decode(&bytes, None, stamp, reader(&archive)).unwrap_err();
        assert!(error.contains("changed"), "{error}");
    }

    #[test]
    fn another_layout_and_every_damaged_byte_is_noticed() {
        let (mut table, archive, stamp) = example();
        let bytes = encoded(&table, &archive, stamp);
        let keys = decode(&bytes, Some(Layout::Keys), stamp, reader(&archive));
        assert!(keys.unwrap_err().contains("another format"));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(
                decode(&damaged, None, stamp, reader(&archive)).is_err(),
                "byte {at}"
            );
            assert!(
                decode(&bytes[..at], None, stamp, reader(&archive)).is_err(),
                "cut at {at}"
            );
        }
        // Listed as folders because someone asked for it: not what the archive itself decides.
        table.labelled = true;
        let bytes = encoded(&table, &archive, stamp);
        assert!(decode(&bytes, None, stamp, reader(&archive)).is_err());
        assert!(decode(&bytes, Some(Layout::Folders), stamp, reader(&archive)).is_ok());
    }

    #[test]
    fn an_image_beyond_the_end_of_the_archive_or_without_a_name_is_not_believed() {
        let (table, archive, stamp) = example();
        let mut beyond = table.clone();
        beyond.offsets[2] = 10;
        let mut unnamed = table;
        unnamed.named[0].0 = 2;
        for wrong in [beyond, unnamed] {
            let bytes = encode(&wrong, stamp, 0).unwrap();
            assert!(!is_valid(&wrong, stamp.length));
            assert!(decode(&bytes, None, stamp, reader(&archive)).is_err());
        }
    }
}
