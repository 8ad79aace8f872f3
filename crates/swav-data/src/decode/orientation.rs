//! The orientation that a file gives its picture, wherever Pillow's `exif_transpose` finds it.
//!
//! EXIF comes first. Only where it has no orientation does the XMP packet count. A value outside 2 to
//! 8 turns nothing.

use std::borrow::Cow;
use std::io::Read;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use crate::sample::Image;

/// EXIF's tag of the orientation.
const ORIENTATION: u16 = 0x0112;
/// TIFF's tag of the XMP packet.
const XMP: u16 = 700;
/// Bytes of a compressed text that are looked at.
const MAX_TEXT: u64 = 1 << 20;

/// What the value of an orientation asks for.
pub(super) fn from_value(value: Option<u32>) -> Orientation {
    let value = value.and_then(|value| u8::try_from(value).ok());
    let known = value.and_then(Orientation::from_exif);
    known.unwrap_or(Orientation::NoTransforms)
}

/// Turns and mirrors `image` as its EXIF orientation asks for.
pub(super) fn upright(image: Image, orientation: Orientation) -> Image {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let Image { width, height, rgb } = image;
    let Some(pixels) = RgbImage::from_raw(width, height, rgb) else {
        unreachable!("an Image holds width × height × 3 bytes");
    };
    let mut dynamic = DynamicImage::ImageRgb8(pixels);
    dynamic.apply_orientation(orientation);
    let (width, height) = (dynamic.width(), dynamic.height());
    Image {
        width,
        height,
        rgb: dynamic.into_rgb8().into_raw(),
    }
}

/// The first directory of a TIFF file, classic or BigTIFF, or of an EXIF block.
pub(super) struct Directory<'a> {
    file: &'a [u8],
    big_endian: bool,
    /// Bytes of an offset: 4, or 8 in a BigTIFF.
    word: usize,
    /// Where the entries lie: tag (2), type (2), count (a word), value or offset (a word).
    entries: std::ops::Range<usize>,
}

impl<'a> Directory<'a> {
    /// Whether `file` begins as a TIFF file does.
    pub(super) fn is_tiff(file: &'a [u8]) -> bool {
        Self::start(file).is_some()
    }

    /// Reads it. Nothing when this is no TIFF or has no such directory.
    pub(super) fn read(file: &'a [u8]) -> Option<Self> {
        let mut directory = Self::start(file)?;
        let word = directory.word;
        let at = directory.offset(file.get(word..2 * word)?);
        let start = at.checked_add(if word == 8 { 8 } else { 2 })?;
        let count = directory.offset(file.get(at..start)?);
        let end = start.saturating_add(count.saturating_mul(4 + 2 * word));
        directory.entries = start..end.min(file.len());
        Some(directory)
    }

    /// The header alone.
    fn start(file: &'a [u8]) -> Option<Self> {
        let (big_endian, word) = match file.first_chunk()? {
            b"II*\0" => (false, 4),
            b"MM\0*" => (true, 4),
            b"II+\0" => (false, 8),
            b"MM\0+" => (true, 8),
            _ => return None,
        };
        Some(Self {
            file,
            big_endian,
            word,
            entries: 0..0,
        })
    }

    fn number(&self, bytes: &[u8]) -> u64 {
        let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        match self.big_endian {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        }
    }

    fn offset(&self, bytes: &[u8]) -> usize {
        usize::try_from(self.number(bytes)).unwrap_or(usize::MAX)
    }

    /// The number of the entry of `tag` and the entry itself.
    fn entry(&self, tag: u16) -> Option<(usize, &'a [u8])> {
        let entries = self.file[self.entries.clone()].chunks_exact(4 + 2 * self.word);
        let has = |entry: &(usize, &[u8])| self.number(&entry.1[..2]) == u64::from(tag);
        entries.enumerate().find(has)
    }

    /// Whether the values of `tag` are bytes or text, and no numbers.
    fn is_text(&self, tag: u16) -> bool {
        let kind = self.entry(tag).map(|(_, entry)| self.number(&entry[2..4]));
        matches!(kind, Some(1 | 2 | 7))
    }

    /// Where the values of `tag` lie in the file, and the size of one of them.
    fn place(&self, tag: u16) -> Option<(std::ops::Range<usize>, usize)> {
        let (number, entry) = self.entry(tag)?;
        let length = entry.len();
        let size = match self.number(&entry[2..4]) {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 => 4,
            16 => 8,
            _ => return None,
        };
        let (count, value) = entry[4..].split_at(self.word);
        let bytes = self.offset(count).checked_mul(size)?;
        let at = match bytes <= self.word {
            true => self.entries.start + number * length + 4 + self.word,
            false => self.offset(value),
        };
        Some((at..at.checked_add(bytes)?, size))
    }

    /// The bytes of the values of `tag`, and the size of one of them.
    fn values(&self, tag: u16) -> Option<(&'a [u8], usize)> {
        let (place, size) = self.place(tag)?;
        Some((self.file.get(place)?, size))
    }

    /// The whole numbers that `tag` has, of any width.
    pub(super) fn numbers(&self, tag: u16) -> Vec<u64> {
        let (values, size) = self.values(tag).unwrap_or((&[], 1));
        let values = values.chunks_exact(size);
        values.map(|value| self.number(value)).collect()
    }

    /// A copy of the file in which the one number of `tag` is `value`; nothing where there is no such
    /// number.
    pub(super) fn with(&self, tag: u16, value: u8) -> Option<Vec<u8>> {
        let (place, size) = self.place(tag)?;
        let mut file = self.file.to_vec();
        let bytes = file.get_mut(place)?;
        if bytes.len() != size {
            return None;
        }
        bytes.fill(0);
        let least = if self.big_endian { size - 1 } else { 0 };
        bytes[least] = value;
        Some(file)
    }
}

/// The orientation in an EXIF block, with or without its `Exif\0\0`, whatever the type of its number. 0 where it is
/// not one number; bytes and text are none, as Pillow has it.
pub(super) fn of_exif(block: &[u8]) -> Option<u32> {
    let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    let directory = Directory::read(block)?;
    match directory.numbers(ORIENTATION)[..] {
        [] => None,
        _ if directory.is_text(ORIENTATION) => Some(0),
        [value] => Some(u32::try_from(value).unwrap_or(0)),
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

/// The orientation of a TIFF file.
pub(super) fn of_tiff(file: &[u8]) -> Option<u32> {
    let xmp = || of_xmp(Directory::read(file)?.values(XMP)?.0);
    of_exif(file).or_else(xmp)
}

/// The orientation of a PNG file: an `eXIf` chunk, before or behind the pixels, or else the hexadecimal
/// EXIF that ImageMagick writes as text, or else XMP as text.
pub(super) fn of_png(file: &[u8]) -> Option<u32> {
    let (mut exif, mut raw, mut xmp) = (None, None, None);
    // Behind the signature, chunks: length (4), kind (4), data, checksum (4).
    let mut rest = file.get(8..).unwrap_or_default();
    while let Some((&[a, b, c, d, ref kind @ ..], after)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some(data) = after.get(..length) else {
            break;
        };
        match kind {
            b"eXIf" => exif = Some(data.into()),
            b"tEXt" | b"zTXt" | b"iTXt" => match text(kind, data) {
                Some((b"Raw profile type exif", text)) => raw = profile(&text).map(Cow::Owned),
                Some((b"XML:com.adobe.xmp", text)) => xmp = Some(text),
                _ => {}
            },
            b"IEND" => break,
            _ => {}
        }
        rest = after.get(length.saturating_add(4)..).unwrap_or_default();
    }
    let exif: Option<Cow<'_, [u8]>> = exif.or(raw);
    let of_exif = exif.and_then(|exif| of_exif(&exif));
    of_exif.or_else(|| of_xmp(&xmp?))
}

/// The keyword and the text of a chunk `tEXt`, `zTXt` or `iTXt`.
fn text<'a>(kind: &[u8; 4], data: &'a [u8]) -> Option<(&'a [u8], Cow<'a, [u8]>)> {
    let cut = |bytes: &'a [u8]| {
        let at = memchr::memchr(0, bytes)?;
        Some((&bytes[..at], &bytes[at + 1..]))
    };
    let (keyword, rest) = cut(data)?;
    let (is_packed, text) = match kind {
        b"tEXt" => (false, rest),
        b"zTXt" => (true, rest.strip_prefix(&[0])?),
        // Whether it is compressed, the method, the language and the translated keyword.
        _ => match *rest {
            [packed, 0, ref rest @ ..] => (packed != 0, cut(cut(rest)?.1)?.1),
            _ => return None,
        },
    };
    if !is_packed {
        return Some((keyword, text.into()));
    }
    let mut unpacked = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(text).take(MAX_TEXT);
    decoder.read_to_end(&mut unpacked).ok()?;
    Some((keyword, unpacked.into()))
}

/// The bytes of a raw profile: an empty line, its name, its length, and lines of hexadecimal digits.
fn profile(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.split(|&byte| byte == b'\n').skip(3);
    let digits = lines.flatten().filter(|byte| !byte.is_ascii_whitespace());
    let digits = digits.map(|&byte| char::from(byte).to_digit(16));
    let digits = digits.collect::<Option<Vec<u32>>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    Some(
        pairs
            .iter()
            .map(|[high, low]| (high << 4 | low) as u8)
            .collect(),
    )
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
