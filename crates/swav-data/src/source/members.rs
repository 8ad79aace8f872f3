//! The members of a tar archive, one after another, from their headers alone.
//!
//! Names, links and sizes are taken from wherever the writer put them: the header itself (v7, ustar, GNU), GNU's long
//! names (`L`, `K`), or PAX records (`x`). Blocks of zeros end an archive; what follows them is read on, as
//! `tar --ignore-zeros` does, so archives that were joined with `cat` are whole. Volume labels and global PAX
//! headers are no members.

use std::io;
use std::path::{Path, PathBuf};

use tar::Header;

use super::names::os_string;

/// Tar archives are made of blocks of so many bytes.
pub(super) const BLOCK: u64 = 512;

/// Fills a buffer with the bytes of an archive from an offset on.
pub(super) trait ReadAt: Fn(&mut [u8], u64) -> io::Result<()> {}

impl<F: Fn(&mut [u8], u64) -> io::Result<()>> ReadAt for F {}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file whose bytes lie in the archive as they are.
    File,
    /// Another name of a member in front.
    HardLink,
    /// A path, seen from the member's folder.
    SymbolicLink,
    /// A file stored without its holes.
    Sparse,
    /// The rest of a file that begins in another volume.
    Continued,
    /// A folder, a device or something else without bytes of its own.
    Other,
}

/// One member. Positions and sizes are in bytes.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) path: PathBuf,
    /// Where a link leads, as it stands in the archive.
    pub(super) target: PathBuf,
    pub(super) kind: Kind,
    /// Where its first header begins.
    pub(super) start: u64,
    /// Where its bytes begin.
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// Reads members up to the end of the archive. An error, which says what is wrong and where, is the last item.
pub(super) struct Members<R> {
    read: R,
    length: u64,
    at: u64,
    /// Whether the last block that was read is zero.
    ended: bool,
    failed: bool,
}

/// What stands in front of a member's own header.
#[derive(Default)]
struct Extension {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl<R: ReadAt> Members<R> {
    /// More than any file's attributes.
    const MAX_EXTENSION_BYTES: u64 = 1 << 26;

    /// Members of an archive of `length` bytes from the header at byte `start` on.
    pub(super) fn new(read: R, start: u64, length: u64) -> Self {
        Self {
            read,
            length,
            at: start,
            ended: false,
            failed: false,
        }
    }

    fn advance(&mut self) -> Result<Option<Member>, String> {
        let mut extension = Extension::default();
        let mut start = None;
        loop {
            let Some(header) = self.header(start.is_some())? else {
                return Ok(None);
            };
            let place = self.at - BLOCK;
            let size = || {
                let size = size_of(&header);
                size.map_err(|error| format!("damaged: the header at byte {place}: {error}"))
            };
            match header.as_bytes()[156] {
                b'L' => extension.name = Some(until_zero(self.read_extension(size()?)?)),
                b'K' => extension.link = Some(until_zero(self.read_extension(size()?)?)),
                b'x' | b'X' => {
                    let text = self.read_extension(size()?)?;
                    extension.read(&text).ok_or_else(|| {
                        format!("damaged: the PAX header at byte {place} is no list of records")
                    })?;
                }
                b'g' | b'V' | b'N' => {
                    self.skip(size()?, || "a header for all members".into())?;
                    continue;
                }
                _ => {
                    return self
                        .member(&header, extension, start.unwrap_or(place))
                        .map(Some);
                }
            }
            start.get_or_insert(place);
        }
    }

    /// The next header, or nothing at the end, where none must be `expected`.
    fn header(&mut self, expected: bool) -> Result<Option<Header>, String> {
        let mut header = Header::new_old();
        loop {
            let left = self.length.saturating_sub(self.at);
            if left < BLOCK {
                let mut tail = vec![0; left as usize];
                self.fill(&mut tail, self.at)?;
                return match tail.iter().all(|&byte| byte == 0) {
                    _ if expected => {
                        Err("cut short: a header announces a member that is not there".into())
                    }
                    _ if !self.ended => {
                        Err("cut short: the end-of-archive block is missing".into())
                    }
                    true => Ok(None),
                    false => Err(format!(
                        "the last {left} bytes are no tar header: remove them"
                    )),
                };
            }
            self.fill(header.as_mut_bytes(), self.at)?;
            if header.as_bytes().iter().any(|&byte| byte != 0) {
                break;
            }
            if expected {
                return Err(format!(
                    "damaged: a header announces a member, and zeros follow at byte {}",
                    self.at
                ));
            }
            self.at += BLOCK;
            self.ended = true;
        }
        if !has_valid_checksum(&header) {
            let at = self.at;
            return Err(match (at, self.ended) {
                (0, _) => "not a tar archive: it does not start with a tar header".into(),
                (_, false) => format!("damaged: at byte {at} is no tar header"),
                (_, true) => format!(
                    "behind the end-of-archive block, at byte {at}, lies something that is no tar archive: remove it"
                ),
            });
        }
        self.at += BLOCK;
        self.ended = false;
        Ok(Some(header))
    }

    fn member(
        &mut self,
        header: &Header,
        extension: Extension,
        start: u64,
    ) -> Result<Member, String> {
        let path = extension
            .name
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || header.link_name_bytes().unwrap_or_default().into_owned();
        let target = extension.link.unwrap_or_else(link);
        let folder = path.last() == Some(&b'/');
        let mut kind = match header.as_bytes()[156] {
            // Before there was a type for folders, a slash made one.
            0 if folder => Kind::Other,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::SymbolicLink,
            b'S' => Kind::Sparse,
            b'M' => Kind::Continued,
            _ => Kind::Other,
        };
        // These have no bytes, whatever size some writers give them.
        let empty = matches!(header.as_bytes()[156], b'1'..=b'6');
        let size = match (extension.size, size_of(header)) {
            _ if empty => 0,
            (Some(size), _) | (None, Ok(size)) => size,
            (None, Err(error)) => {
                return Err(format!("damaged: the header at byte {start}: {error}"));
            }
        };
        if kind == Kind::Sparse {
            self.skip_sparse_map(header)?;
        } else if extension.sparse && kind == Kind::File {
            kind = Kind::Sparse;
        }
        if path.len() > usize::from(u16::MAX) {
            return Err(format!(
                "the name of the member at byte {start} is longer than 64 KiB"
            ));
        }
        let path = PathBuf::from(os_string(path));
        let offset = self.at;
        self.skip(size, || path.display().to_string())?;
        Ok(Member {
            path,
            target: os_string(target).into(),
            kind,
            start,
            offset,
            size,
        })
    }

    /// Goes past the blocks that go on with the map of a sparse member.
    fn skip_sparse_map(&mut self, header: &Header) -> Result<(), String> {
        let mut more = header.as_bytes()[482] != 0;
        while more {
            let mut block = [0; BLOCK as usize];
            let at = self.at;
            self.skip(BLOCK, || "the map of a sparse member".into())?;
            self.fill(&mut block, at)?;
            more = block[504] != 0;
        }
        Ok(())
    }

    /// The bytes that belong to a header.
    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, String> {
        let at = self.at;
        if size > Self::MAX_EXTENSION_BYTES {
            return Err(format!(
                "the header at byte {} holds {size} bytes, more than are read",
                at - BLOCK
            ));
        }
        self.skip(size, || format!("the header at byte {}", at - BLOCK))?;
        let mut text = vec![0; size as usize];
        self.fill(&mut text, at)?;
        Ok(text)
    }

    /// Goes past `size` bytes, to the next block.
    fn skip(&mut self, size: u64, what: impl Fn() -> String) -> Result<(), String> {
        let end = self.at.checked_add(size).filter(|&end| end <= self.length);
        let end = end.ok_or_else(|| format!("cut short: {} reaches beyond the end", what()))?;
        self.at = end.next_multiple_of(BLOCK);
        Ok(())
    }

    fn fill(&self, buffer: &mut [u8], at: u64) -> Result<(), String> {
        (self.read)(buffer, at).map_err(|error| format!("cannot be read at byte {at}: {error}"))
    }
}

impl<R: ReadAt> Iterator for Members<R> {
    type Item = Result<Member, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}

impl Extension {
    /// Takes what matters from PAX records: `length key=value\n`, one after another.
    fn read(&mut self, mut text: &[u8]) -> Option<()> {
        // Some writers fill up with zeros.
        while text.first().is_some_and(|&byte| byte != 0) {
            let space = text.iter().position(|&byte| byte == b' ')?;
            let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
            let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|&byte| byte == b'=')?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                // As if it were not there.
                _ if value.is_empty() => {}
                b"path" if !self.sparse || self.name.is_none() => self.name = Some(value.into()),
                b"GNU.sparse.name" => self.name = Some(value.into()),
                b"linkpath" => self.link = Some(value.into()),
                b"size" => self.size = Some(std::str::from_utf8(value).ok()?.parse().ok()?),
                _ => {}
            }
            self.sparse |= key.starts_with(b"GNU.sparse.");
            text = &text[length..];
        }
        Some(())
    }
}

/// The size in a header. Volume labels leave the field empty.
fn size_of(header: &Header) -> io::Result<u64> {
    let empty = |&byte: &u8| matches!(byte, 0 | b' ');
    match header.as_bytes()[124..136].iter().all(empty) {
        true => Ok(0),
        false => header.entry_size(),
    }
}

/// Whether the checksum of a header is right: the sum of its bytes, with its own field as spaces. Old writers took the
/// bytes as signed.
pub(super) fn has_valid_checksum(header: &Header) -> bool {
    let bytes = header.as_bytes().iter().enumerate();
    let (mut sum, mut signed) = (0, 0);
    for (place, &byte) in bytes {
        let byte = if (148..156).contains(&place) {
            b' '
        } else {
            byte
        };
        sum += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    (header.cksum()).is_ok_and(|told| [sum, signed].contains(&i64::from(told)))
}

/// `path` without `./`; nothing when it leaves the archive.
pub(super) fn path_inside(path: &Path) -> Option<PathBuf> {
    use std::path::Component;
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

/// Where a symbolic link at `link` leads, if it stays in the archive.
pub(super) fn link_target(link: &Path, target: &Path) -> Option<PathBuf> {
    use std::path::Component;
    let mut place = link.parent()?.to_path_buf();
    for component in target.components() {
        match component {
            Component::Normal(part) => place.push(part),
            Component::CurDir => {}
            Component::ParentDir if place.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(place)
}

fn until_zero(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|&byte| byte == 0);
    text.truncate(end.unwrap_or(text.len()));
    text
}
