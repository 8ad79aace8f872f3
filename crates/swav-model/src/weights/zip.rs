//! The zip archives that `torch.save` writes: stored, never compressed.
//!
//! Only the directory at the end is read, by the format's own description (APPNOTE.TXT of PKWARE, 4.3 and 4.4), with the
//! 64-bit fields of archives above 4 GiB. Every place it names is held against the length of the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

/// The most bytes of a directory: tens of thousands of tensors.
const LARGEST_DIRECTORY: u64 = 16 << 20;
/// The end record with the longest comment behind it.
const LONGEST_END: u64 = 22 + 0xffff;

/// An entry of an archive.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// Where its bytes lie.
    pub(super) range: Range<u64>,
    /// Their CRC-32.
    pub(super) checksum: u32,
}

/// The entries of `file`, by name.
///
/// # Errors
/// If it is no zip archive, is cut off, or holds anything compressed or encrypted.
pub(super) fn entries(file: &mut File) -> Result<HashMap<String, Placed>, String> {
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    let directory = directory(file, length)?;
    let size = directory.end - directory.start;
    if size > LARGEST_DIRECTORY {
        return Err(format!("its zip directory takes {size} bytes"));
    }
    let bytes = at(file, length, directory.start, size)?;
    let mut found = HashMap::new();
    let mut rest = bytes.as_slice();
    while rest.starts_with(b"PK\x01\x02") {
        let entry = Entry::parse(rest).ok_or_else(cut_off)?;
        if entry.packed {
            return Err(format!(
                "`{}` in it is compressed or encrypted, which torch.save never does; unpack it and zip it stored",
                entry.name
            ));
        }
        // The header before the data has a name and an extra field of its own.
        let local = at(file, length, entry.header, 30)?;
        if !local.starts_with(b"PK\x03\x04") {
            return Err("its zip directory points beside its entries".to_owned());
        }
        let before = 30 + u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        let start = entry.header + before;
        let end = start.checked_add(entry.size).filter(|end| *end <= length);
        let placed = Placed {
            range: start..end.ok_or_else(cut_off)?,
            checksum: entry.checksum,
        };
        found.insert(entry.name, placed);
        rest = &rest[entry.length..];
    }
    Ok(found)
}

/// Where the directory lies, by the record at the end of the file.
fn directory(file: &mut File, length: u64) -> Result<Range<u64>, String> {
    let tail_start = length.saturating_sub(LONGEST_END);
    let tail = at(file, length, tail_start, length - tail_start)?;
    let ends = |at: &usize| tail[*at..].starts_with(b"PK\x05\x06");
    let end = (0..=tail.len().saturating_sub(22)).rev().find(ends);
    let end = end
        .filter(|end| end + 22 <= tail.len())
        .ok_or_else(cut_off)?;
    let (mut size, mut start) = (
        u64::from(u32_at(&tail, end + 12)),
        u64::from(u32_at(&tail, end + 16)),
    );
    if size == u64::from(u32::MAX) || start == u64::from(u32::MAX) {
        let locator = end.checked_sub(20).map(|at| &tail[at..end]);
        let locator = locator.filter(|bytes| bytes.starts_with(b"PK\x06\x07"));
        let record = at(file, length, u64_at(locator.ok_or_else(cut_off)?, 8), 56)?;
        if !record.starts_with(b"PK\x06\x06") {
            return Err(cut_off());
        }
        (size, start) = (u64_at(&record, 40), u64_at(&record, 48));
    }
    let end = start.checked_add(size).filter(|end| *end <= length);
    Ok(start..end.ok_or_else(cut_off)?)
}

struct Entry {
    name: String,
    packed: bool,
    checksum: u32,
    size: u64,
    /// Where the header before its data lies.
    header: u64,
    /// Of the entry in the directory.
    length: usize,
}

impl Entry {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.get(..46)?;
        let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(u16_at(fixed, at)));
        let [mut stored, mut size, mut header] =
            [20, 24, 42].map(|at| u64::from(u32_at(fixed, at)));
        let length = 46 + name + extra + comment;
        let (name, rest) = bytes.get(46..length)?.split_at(name);
        // What does not fit into 32 bits stands in an extra field, in this order.
        let mut wide = wide_field(&rest[..extra]).unwrap_or(&[]).chunks_exact(8);
        for field in [&mut size, &mut stored, &mut header] {
            if *field == u64::from(u32::MAX) {
                *field = u64_at(wide.next()?, 0);
            }
        }
        let (flags, method) = (u16_at(fixed, 8), u16_at(fixed, 10));
        Some(Self {
            name: String::from_utf8_lossy(name).into_owned(),
            checksum: u32_at(fixed, 16),
            packed: method != 0 || flags & 1 != 0 || stored != size,
            size,
            header,
            length,
        })
    }
}

/// The extra field with 64-bit sizes.
fn wide_field(mut extra: &[u8]) -> Option<&[u8]> {
    while extra.len() >= 4 {
        let (kind, size) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let field = extra.get(4..4 + size)?;
        if kind == 1 {
            return Some(field);
        }
        extra = &extra[4 + size..];
    }
    None
}

/// `size` bytes from `start` on. Nothing is taken for them before they are known to be there.
pub(super) fn at(file: &mut File, length: u64, start: u64, size: u64) -> Result<Vec<u8>, String> {
    let end = start.checked_add(size).filter(|end| *end <= length);
    end.ok_or_else(cut_off)?;
    let mut bytes = vec![0; usize::try_from(size).map_err(|error| error.to_string())?];
    file.seek(SeekFrom::Start(start))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Holds the bytes of an entry against their checksum.
///
/// # Errors
/// If they are not those that were written.
pub(super) fn check(file: &mut File, range: Range<u64>, checksum: u32) -> Result<(), String> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    file.seek(SeekFrom::Start(range.start))
        .map_err(|error| error.to_string())?;
    let mut left = range.end - range.start;
    while left > 0 {
        let part = left.min(buffer.len() as u64) as usize;
        file.read_exact(&mut buffer[..part])
            .map_err(|error| error.to_string())?;
        hasher.update(&buffer[..part]);
        left -= part as u64;
    }
    match hasher.finalize() {
        found if found == checksum => Ok(()),
        found => Err(format!(
            "the file is damaged: a part of it has the checksum {found:08x}, written was {checksum:08x}"
        )),
    }
}

fn cut_off() -> String {
    "the file is cut off or damaged".to_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
