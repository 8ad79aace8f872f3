//! The orientation that a file gives its picture, wherever Pillow's `exif_transpose` finds it.
//!
//! EXIF comes first. Only where it has no orientation does the XMP packet count. A value outside 2 to
//! 8 turns nothing.

use image::metadata::Orientation;

/// EXIF's tag of the orientation.
const ORIENTATION: u16 = 0x0112;
/// TIFF's tag of the XMP packet.
const XMP: u16 = 700;

/// What the value of an orientation asks for.
pub(super) fn named(value: Option<u32>) -> Orientation {
    let value = value.and_then(|value| u8::try_from(value).ok());
    let known = value.and_then(Orientation::from_exif);
    known.unwrap_or(Orientation::NoTransforms)
}

/// The first directory of a TIFF file or an EXIF block.
pub(super) struct Directory<'a> {
    file: &'a [u8],
    big_endian: bool,
    entries: &'a [[u8; 12]],
}

impl<'a> Directory<'a> {
    /// Reads it. Nothing when this is no TIFF, a BigTIFF, or has no such directory.
    pub(super) fn read(file: &'a [u8]) -> Option<Self> {
        let big_endian = match file.first_chunk()? {
            b"II*\0" => false,
            b"MM\0*" => true,
            _ => return None,
        };
        let mut directory = Self {
            file,
            big_endian,
            entries: &[],
        };
        let at = directory.number(file.get(4..8)?) as usize;
        let rest = file.get(at..)?;
        let count = directory.number(rest.get(..2)?) as usize;
        let entries = rest.get(2..)?.as_chunks().0;
        directory.entries = entries.get(..count).unwrap_or(entries);
        Some(directory)
    }

    fn number(&self, bytes: &[u8]) -> u32 {
        let add = |number: u32, &byte: &u8| number << 8 | u32::from(byte);
        match self.big_endian {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        }
    }

    /// The bytes of the values of `tag`, and the size of one of them.
    fn values(&self, tag: u16) -> Option<(&'a [u8], usize)> {
        let has = |entry: &&[u8; 12]| self.number(&entry[..2]) == u32::from(tag);
        let entry = self.entries.iter().find(has)?;
        let size = match self.number(&entry[2..4]) {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 => 4,
            _ => return None,
        };
        let bytes = size * self.number(&entry[4..8]) as usize;
        let values = match entry[8..].get(..bytes) {
            Some(here) => here,
            None => {
                let at = self.number(&entry[8..]) as usize;
                self.file.get(at..)?.get(..bytes)?
            }
        };
        Some((values, size))
    }

    /// The whole numbers that `tag` has, of any width.
    pub(super) fn numbers(&self, tag: u16) -> Vec<u32> {
        let (values, size) = self.values(tag).unwrap_or((&[], 1));
        let values = values.chunks_exact(size);
        values.map(|value| self.number(value)).collect()
    }
}

/// The orientation in an EXIF block, with or without its `Exif\0\0`, whatever the type of its number.
pub(super) fn of_exif(block: &[u8]) -> Option<u32> {
    let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    match Directory::read(block)?.numbers(ORIENTATION)[..] {
        [] => None,
        [value] => Some(value),
        // More than one is none that means anything.
        _ => Some(0),
    }
}

/// The orientation in an XMP packet, as an attribute or an element.
pub(super) fn of_xmp(packet: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"tiff:Orientation";
    memchr::memmem::find_iter(packet, NAME).find_map(|at| {
        let rest = &packet[at + NAME.len()..];
        let value = rest
            .strip_prefix(b"=\"")
            .or_else(|| rest.strip_prefix(b">"))?;
        let digit = value.first().filter(|byte| byte.is_ascii_digit())?;
        Some(u32::from(digit - b'0'))
    })
}

/// The orientation of a classic TIFF file.
pub(super) fn of_tiff(file: &[u8]) -> Option<u32> {
    let xmp = || of_xmp(Directory::read(file)?.values(XMP)?.0);
    of_exif(file).or_else(xmp)
}

/// The orientation of a PNG file: an `eXIf` chunk, before or behind the pixels, or XMP as plain text.
pub(super) fn of_png(file: &[u8]) -> Option<u32> {
    let (mut exif, mut xmp) = (None, None);
    // Behind the signature, chunks: length (4), kind (4), data, checksum (4).
    let mut rest = file.get(8..).unwrap_or_default();
    while let Some((&[a, b, c, d, ref kind @ ..], after)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some(data) = after.get(..length) else {
            break;
        };
        match kind {
            b"eXIf" => exif = of_exif(data),
            b"iTXt" if data.starts_with(b"XML:com.adobe.xmp\0") => xmp = of_xmp(data),
            _ => {}
        }
        rest = after.get(length.saturating_add(4)..).unwrap_or_default();
    }
    exif.or(xmp)
}

/// The orientation of a WebP file, animated or not.
pub(super) fn of_webp(file: &[u8]) -> Option<u32> {
    let (mut exif, mut xmp) = (None, None);
    // Behind `RIFF`, a length and `WEBP`, chunks: kind (4), length (4), data, padding to even.
    let mut rest = file.get(12..).unwrap_or_default();
    while let Some((&[ref kind @ .., a, b, c, d], after)) = rest.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some(data) = after.get(..length) else {
            break;
        };
        match kind {
            b"EXIF" => exif = of_exif(data),
            b"XMP " => xmp = of_xmp(data),
            _ => {}
        }
        let padded = length.next_multiple_of(2);
        rest = after.get(padded..).unwrap_or_default();
    }
    exif.or(xmp)
}
