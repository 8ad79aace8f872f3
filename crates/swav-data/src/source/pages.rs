//! The pages of a Parquet column: found by their headers, decompressed, and values picked out.
//!
//! What image sets are written with is read: data pages of version 1 and 2, plain, dictionary and delta
//! encodings, uncompressed, Snappy, gzip, Zstandard and LZ4. All else is refused by its name. (Apache
//! Parquet format specification, 2.10: "Data pages", "Encodings".)

use std::fs::File;
use std::io::{self, BufReader, Read};

use parquet_format_safe::thrift::protocol::TCompactInputProtocol;
use parquet_format_safe::{CompressionCodec, Encoding, PageHeader, PageType};

use super::filesystem::read_at;

/// A column of one row group in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// Where its first page begins.
    pub(super) start: u64,
    /// Bytes of all its pages.
    pub(super) length: u64,
    pub(super) codec: CompressionCodec,
    /// How many of its fields may be absent, from the root to the leaf.
    pub(super) optional: u8,
    /// Bytes of a number; 0 where values are byte strings.
    pub(super) width: usize,
}

/// Where a page lies.
#[derive(Clone, Debug)]
pub(super) struct Page {
    offset: u64,
    compressed: usize,
    uncompressed: usize,
    kind: Kind,
    /// The first row of a data page in its row group, and their number.
    pub(super) first: u64,
    pub(super) rows: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Dictionary,
    /// Version 1: levels are compressed together with the values.
    DataV1 {
        encoding: Encoding,
    },
    /// Version 2: levels stand in front, uncompressed; how long they are.
    DataV2 {
        encoding: Encoding,
        levels: usize,
        compressed: bool,
    },
}

/// A page in memory.
#[derive(Debug)]
pub(super) struct Decoded {
    /// For each row, whether it has a value; empty when all have.
    present: Vec<bool>,
    /// The values that are present: plain, or the numbers of their entries in the dictionary.
    values: Vec<u8>,
    dictionary: bool,
}

impl Decoded {
    /// Bytes it takes.
    pub(super) fn size(&self) -> usize {
        self.values.len() + self.present.len()
    }
}

impl Page {
    pub(super) fn is_dictionary(&self) -> bool {
        self.kind == Kind::Dictionary
    }
}

/// The largest header of a page: it may hold the least and the greatest value.
const LONGEST_HEADER: usize = 1 << 24;

/// Finds the pages of a column by going from header to header.
pub(super) fn pages(file: &File, chunk: Chunk) -> Result<Vec<Page>, String> {
    let mut found = Vec::new();
    let (mut at, end) = (chunk.start, chunk.start.saturating_add(chunk.length));
    let mut row = 0;
    while at < end {
        let mut reader = CountingReader {
            inner: BufReader::with_capacity(512, FileRange { file, at, end }),
            read: 0,
        };
        let mut protocol = TCompactInputProtocol::new(&mut reader, LONGEST_HEADER);
        let header = PageHeader::read_from_in_protocol(&mut protocol)
            .map_err(|error| format!("damaged page header at byte {at}: {error}"))?;
        let offset = at + reader.read;
        let size = |bytes: i32| usize::try_from(bytes).ok();
        let (Some(compressed), Some(uncompressed)) = (
            size(header.compressed_page_size),
            size(header.uncompressed_page_size),
        ) else {
            return Err(format!("page at byte {at} has a negative size"));
        };
        if offset.saturating_add(compressed as u64) > end {
            return Err(format!("page at byte {at} reaches beyond its column"));
        }
        let (kind, rows) =
            kind_and_rows(&header).map_err(|what| format!("page at byte {at}: {what}"))?;
        if let Some(kind) = kind {
            found.push(Page {
                offset,
                compressed,
                uncompressed,
                kind,
                first: row,
                rows,
            });
            row += rows;
        }
        at = offset + compressed as u64;
    }
    Ok(found)
}

/// What a page is, and how many rows it has; nothing for pages that hold no values.
fn kind_and_rows(header: &PageHeader) -> Result<(Option<Kind>, u64), String> {
    /// Rows of nothing take no bytes in the file, and some here.
    const MOST: u64 = 1 << 24;
    let rows = |count: i32| match u64::try_from(count) {
        Ok(rows) if rows <= MOST => Ok(rows),
        _ => Err(format!("{count} rows, expected {MOST} at most")),
    };
    match header.type_ {
        PageType::DICTIONARY_PAGE => Ok((Some(Kind::Dictionary), 0)),
        PageType::INDEX_PAGE => Ok((None, 0)),
        PageType::DATA_PAGE => {
            let data = (header.data_page_header.as_ref()).ok_or("its header is incomplete")?;
            let encoding = data.encoding;
            Ok((Some(Kind::DataV1 { encoding }), rows(data.num_values)?))
        }
        PageType::DATA_PAGE_V2 => {
            let data = (header.data_page_header_v2.as_ref()).ok_or("its header is incomplete")?;
            if data.repetition_levels_byte_length != 0 {
                return Err("lists are not images".into());
            }
            let kind = Kind::DataV2 {
                encoding: data.encoding,
                levels: usize::try_from(data.definition_levels_byte_length)
                    .map_err(|_| "a negative length")?,
                compressed: data.is_compressed.unwrap_or(true),
            };
            Ok((Some(kind), rows(data.num_values)?))
        }
        other => Err(format!("of unknown type {}", other.0)),
    }
}

/// Reads and decompresses a page.
pub(super) fn decode(file: &File, chunk: Chunk, page: &Page) -> Result<Decoded, String> {
    let mut body = vec![0; page.compressed];
    read_at(file, &mut body, page.offset).map_err(|error| error.to_string())?;
    let unpack = |bytes: Vec<u8>, size: usize| decompress(chunk.codec, bytes, size);
    let (encoding, present, values) = match &page.kind {
        Kind::Dictionary => {
            return Ok(Decoded {
                present: vec![],
                values: unpack(body, page.uncompressed)?,
                dictionary: false,
            });
        }
        Kind::DataV1 { encoding } => {
            check_encoding(*encoding)?;
            let mut values = unpack(body, page.uncompressed)?;
            let mut present = vec![];
            if chunk.optional > 0 {
                let (length, rest) = values.split_first_chunk::<4>().ok_or(CUT_SHORT)?;
                let length = u32::from_le_bytes(*length) as usize;
                present = levels(
                    rest.get(..length).ok_or(CUT_SHORT)?,
                    chunk.optional,
                    page.rows,
                )?;
                values.drain(..4 + length);
            }
            (*encoding, present, values)
        }
        Kind::DataV2 {
            encoding,
            levels: length,
            compressed,
        } => {
            check_encoding(*encoding)?;
            if body.len() < *length || page.uncompressed < *length {
                return Err(CUT_SHORT.into());
            }
            let mut values = body.split_off(*length);
            if *compressed {
                values = unpack(values, page.uncompressed - length)?;
            }
            let mut present = vec![];
            if chunk.optional > 0 {
                present = levels(&body, chunk.optional, page.rows)?;
            }
            (*encoding, present, values)
        }
    };
    let most = page.rows;
    let values = match encoding {
        Encoding::DELTA_BINARY_PACKED if chunk.width > 0 => {
            let numbers = decode_delta(&mut values.as_slice(), most)?.into_iter();
            // Sums of narrower numbers wrap where these do.
            let bytes = numbers.map(i64::to_le_bytes);
            bytes
                .flat_map(|bytes| bytes.into_iter().take(chunk.width))
                .collect()
        }
        Encoding::DELTA_LENGTH_BYTE_ARRAY if chunk.width == 0 => {
            decode_delta_lengths(&values, most)?
        }
        Encoding::DELTA_BYTE_ARRAY if chunk.width == 0 => decode_delta_strings(&values, most)?,
        Encoding::DELTA_BINARY_PACKED
        | Encoding::DELTA_LENGTH_BYTE_ARRAY
        | Encoding::DELTA_BYTE_ARRAY => {
            return Err("an encoding that its values cannot have".into());
        }
        _ => values,
    };
    Ok(Decoded {
        present,
        values,
        dictionary: matches!(
            encoding,
            Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY
        ),
    })
}

/// Refuses encodings that are not read.
fn check_encoding(encoding: Encoding) -> Result<(), String> {
    match encoding {
        Encoding::PLAIN
        | Encoding::PLAIN_DICTIONARY
        | Encoding::RLE_DICTIONARY
        | Encoding::DELTA_BINARY_PACKED
        | Encoding::DELTA_LENGTH_BYTE_ARRAY
        | Encoding::DELTA_BYTE_ARRAY => Ok(()),
        other => Err(format!(
            "encoding {} is not read here; write the file with plain, dictionary or delta encoding",
            other.0
        )),
    }
}

/// Decodes at most `most` numbers that are kept as differences from one to the next
/// (`DELTA_BINARY_PACKED`), and moves `bytes` behind them.
fn decode_delta(bytes: &mut &[u8], most: u64) -> Result<Vec<i64>, String> {
    let block = varint(bytes).ok_or(CUT_SHORT)?;
    let parts = varint(bytes).ok_or(CUT_SHORT)?;
    let count = varint(bytes).ok_or(CUT_SHORT)?;
    let mut value = zigzag(bytes).ok_or(CUT_SHORT)?;
    if count > most {
        return Err(format!("{count} values in {most} rows"));
    }
    let whole = block <= 1 << 20 && parts > 0 && block.is_multiple_of(parts);
    let part = if whole { (block / parts) as usize } else { 0 };
    if part == 0 || !part.is_multiple_of(8) {
        return Err(format!("{parts} parts of a block of {block} differences"));
    }
    let mut numbers = Vec::new();
    if count > 0 {
        numbers.push(value);
    }
    while (numbers.len() as u64) < count {
        let least = zigzag(bytes).ok_or(CUT_SHORT)?;
        let (widths, rest) = bytes.split_at_checked(parts as usize).ok_or(CUT_SHORT)?;
        *bytes = rest;
        for &width in widths {
            let left = (count - numbers.len() as u64).min(part as u64) as usize;
            if left == 0 {
                break;
            }
            if width > 64 {
                return Err(format!("numbers of {width} bits"));
            }
            let size = part / 8 * usize::from(width);
            let (packed, rest) = bytes.split_at_checked(size).ok_or(CUT_SHORT)?;
            *bytes = rest;
            for number in 0..left {
                let at = number * usize::from(width);
                let more = bits(packed, at, u32::from(width)).ok_or(CUT_SHORT)?;
                value = value.wrapping_add(least).wrapping_add(more as i64);
                numbers.push(value);
            }
        }
    }
    Ok(numbers)
}

/// Byte strings whose lengths stand in front (`DELTA_LENGTH_BYTE_ARRAY`), as plain ones.
fn decode_delta_lengths(mut bytes: &[u8], most: u64) -> Result<Vec<u8>, String> {
    let lengths = decode_delta(&mut bytes, most)?;
    let mut plain = Vec::with_capacity(bytes.len() + 4 * lengths.len());
    for length in lengths {
        let length = u32::try_from(length).map_err(|_| CUT_SHORT)?;
        let (value, rest) = bytes.split_at_checked(length as usize).ok_or(CUT_SHORT)?;
        bytes = rest;
        plain.extend(length.to_le_bytes());
        plain.extend_from_slice(value);
    }
    Ok(plain)
}

/// Byte strings without what each shares with the one before (`DELTA_BYTE_ARRAY`), as plain ones.
fn decode_delta_strings(mut bytes: &[u8], most: u64) -> Result<Vec<u8>, String> {
    /// What is shared takes no bytes in the file.
    const LARGEST: usize = 1 << 30;
    let shared = decode_delta(&mut bytes, most)?;
    let rests = decode_delta_lengths(bytes, most)?;
    let mut rests = rests.as_slice();
    let mut plain: Vec<u8> = Vec::new();
    // Where the value before lies.
    let mut before = 0..0;
    for shared in shared {
        let (rest, after) = take(rests)?;
        rests = after;
        let shared = usize::try_from(shared).map_err(|_| CUT_SHORT)?;
        if shared > before.len() {
            return Err(CUT_SHORT.into());
        }
        let length = shared + rest.len();
        if plain.len() + length > LARGEST {
            return Err(format!("a page of more than {LARGEST} bytes"));
        }
        plain.extend((length as u32).to_le_bytes());
        let start = plain.len();
        plain.extend_from_within(before.start..before.start + shared);
        plain.extend_from_slice(rest);
        before = start..plain.len();
    }
    Ok(plain)
}

/// A number with its sign in the lowest bit.
fn zigzag(bytes: &mut &[u8]) -> Option<i64> {
    let number = varint(bytes)?;
    Some((number >> 1) as i64 ^ -((number & 1) as i64))
}

const CUT_SHORT: &str = "a page is cut short";

/// Decompresses a page to `size` bytes.
fn decompress(codec: CompressionCodec, bytes: Vec<u8>, size: usize) -> Result<Vec<u8>, String> {
    // A header that lies must not cost gigabytes: no method packs better than this.
    let most = match codec {
        CompressionCodec::ZSTD => 40_000,
        _ => 2000,
    };
    if size > bytes.len().saturating_mul(most).saturating_add(1 << 20) {
        return Err(format!("a page of {} bytes announces {size}", bytes.len()));
    }
    let unpacked = match codec {
        CompressionCodec::UNCOMPRESSED => bytes,
        CompressionCodec::SNAPPY => {
            let announced = snap::raw::decompress_len(&bytes).map_err(|error| error.to_string())?;
            if announced != size {
                return Err(format!("a page of {size} bytes holds {announced}"));
            }
            let mut decoder = snap::raw::Decoder::new();
            decoder
                .decompress_vec(&bytes)
                .map_err(|error| error.to_string())?
        }
        CompressionCodec::GZIP => {
            let mut unpacked = Vec::with_capacity(size);
            flate2::read::MultiGzDecoder::new(bytes.as_slice())
                .take(size as u64 + 1)
                .read_to_end(&mut unpacked)
                .map_err(|error| error.to_string())?;
            unpacked
        }
        CompressionCodec::ZSTD => {
            let mut unpacked = vec![0; size];
            let length = ruzstd::decoding::FrameDecoder::new()
                .decode_all(&bytes, &mut unpacked)
                .map_err(|error| error.to_string())?;
            unpacked.truncate(length);
            unpacked
        }
        CompressionCodec::LZ4_RAW => {
            let mut unpacked = vec![0; size];
            let length = lz4_flex::block::decompress_into(&bytes, &mut unpacked)
                .map_err(|error| error.to_string())?;
            unpacked.truncate(length);
            unpacked
        }
        other => return Err(unsupported(other)),
    };
    match unpacked.len() == size {
        true => Ok(unpacked),
        false => Err(format!("a page of {size} bytes holds {}", unpacked.len())),
    }
}

/// Says why a codec is not read, where it is not.
pub(super) fn check_codec(codec: CompressionCodec) -> Result<(), String> {
    match codec {
        CompressionCodec::UNCOMPRESSED
        | CompressionCodec::SNAPPY
        | CompressionCodec::GZIP
        | CompressionCodec::ZSTD
        | CompressionCodec::LZ4_RAW => Ok(()),
        other => Err(unsupported(other)),
    }
}

fn unsupported(codec: CompressionCodec) -> String {
    let name = match codec {
        CompressionCodec::LZO => "LZO",
        CompressionCodec::BROTLI => "Brotli",
        CompressionCodec::LZ4 => "LZ4 in the old framing of Hadoop",
        _ => "an unknown method",
    };
    format!(
        "compressed with {name}, which is not read here; write it anew with Snappy or without \
         compression (images hardly shrink in any case), as `pyarrow.parquet.write_table(…, \
         compression=\"snappy\")` does"
    )
}

/// For each row whether its value is there, from definition levels.
fn levels(bytes: &[u8], optional: u8, rows: u64) -> Result<Vec<bool>, String> {
    let width = u8::BITS - optional.leading_zeros();
    let levels = decode_rle_hybrid(bytes, width, rows)?;
    if levels.iter().all(|&level| level == u32::from(optional)) {
        return Ok(vec![]);
    }
    let present = levels.iter().map(|&level| level == u32::from(optional));
    Ok(present.collect())
}

/// Decodes `count` numbers of `width` bits: runs of one number, and packed groups of eight.
fn decode_rle_hybrid(mut bytes: &[u8], width: u32, count: u64) -> Result<Vec<u32>, String> {
    if width > 32 {
        return Err(format!("numbers of {width} bits"));
    }
    let mut numbers = Vec::new();
    let full = |numbers: &Vec<u32>| numbers.len() as u64 >= count;
    while !full(&numbers) {
        let header = varint(&mut bytes).ok_or(CUT_SHORT)?;
        if header & 1 == 0 {
            let size = width.div_ceil(8) as usize;
            let (value, rest) = bytes.split_at_checked(size).ok_or(CUT_SHORT)?;
            bytes = rest;
            let mut whole = [0; 4];
            whole[..size].copy_from_slice(value);
            let left = count - numbers.len() as u64;
            let run = (header >> 1).min(left) as usize;
            if run == 0 {
                return Err("an empty run".into());
            }
            // A run costs the file two bytes: what it may cost here is bounded by the rows.
            numbers.resize(numbers.len() + run, u32::from_le_bytes(whole));
        } else {
            let groups = usize::try_from(header >> 1).map_err(|_| CUT_SHORT)?;
            let size = groups.checked_mul(width as usize).ok_or(CUT_SHORT)?;
            // The last group may be cut where the numbers end.
            let (packed, rest) = bytes.split_at(size.min(bytes.len()));
            bytes = rest;
            if groups == 0 || (packed.is_empty() && width > 0) {
                return Err(CUT_SHORT.into());
            }
            for number in 0..groups.saturating_mul(8) {
                if full(&numbers) {
                    break;
                }
                let value = bits(packed, number * width as usize, width).ok_or(CUT_SHORT)?;
                numbers.push(value as u32);
            }
        }
    }
    Ok(numbers)
}

/// `width` bits, 64 at most, from bit `at` on, the lowest first.
fn bits(packed: &[u8], at: usize, width: u32) -> Option<u64> {
    let mut value = 0u128;
    for (i, index) in (at / 8..(at + width as usize).div_ceil(8)).enumerate() {
        value |= u128::from(*packed.get(index)?) << (8 * i);
    }
    Some(((value >> (at % 8)) & ((1u128 << width) - 1)) as u64)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The bytes of row `row` of a page, or nothing when the row has none.
pub(super) fn row_bytes<'a>(
    page: &'a Decoded,
    dictionary: Option<&'a Decoded>,
    row: usize,
) -> Result<Option<&'a [u8]>, String> {
    let index = match page.present.get(row) {
        _ if page.present.is_empty() => row,
        Some(true) => page.present[..row].iter().filter(|there| **there).count(),
        Some(false) => return Ok(None),
        None => return Err(CUT_SHORT.into()),
    };
    if !page.dictionary {
        return nth(&page.values, index).map(Some);
    }
    let (&width, packed) = page.values.split_first().ok_or(CUT_SHORT)?;
    let numbers = decode_rle_hybrid(packed, u32::from(width), index as u64 + 1)?;
    let number = *numbers.last().ok_or(CUT_SHORT)? as usize;
    let dictionary = dictionary.ok_or("the dictionary is missing")?;
    nth(&dictionary.values, number).map(Some)
}

/// Element `index` of plain byte strings.
fn nth(mut values: &[u8], index: usize) -> Result<&[u8], String> {
    for _ in 0..index {
        values = take(values)?.1;
    }
    take(values).map(|(value, _)| value)
}

fn take(values: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let (length, rest) = values.split_first_chunk::<4>().ok_or(CUT_SHORT)?;
    let length = u32::from_le_bytes(*length) as usize;
    rest.split_at_checked(length)
        .ok_or_else(|| CUT_SHORT.into())
}

/// All whole numbers of a page, `width` bytes each when plain; nothing for rows without one.
pub(super) fn read_numbers(
    page: &Decoded,
    dictionary: Option<&Decoded>,
    width: usize,
    rows: u64,
) -> Result<Vec<Option<i64>>, String> {
    let there = match page.present.is_empty() {
        true => rows,
        false => page.present.iter().filter(|there| **there).count() as u64,
    };
    let plain = |values: &[u8]| -> Vec<i64> {
        let number = |bytes: &[u8]| match *bytes {
            [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
            _ => bytes.try_into().map_or(0, i64::from_le_bytes),
        };
        values.chunks_exact(width).map(number).collect()
    };
    let values = if page.dictionary {
        let known = plain(&dictionary.ok_or("the dictionary is missing")?.values);
        let (&bits, packed) = page.values.split_first().ok_or(CUT_SHORT)?;
        let numbers = decode_rle_hybrid(packed, u32::from(bits), there)?;
        let value = |number: u32| known.get(number as usize).copied().ok_or(CUT_SHORT);
        numbers
            .into_iter()
            .map(value)
            .collect::<Result<Vec<_>, _>>()?
    } else {
        plain(&page.values)
    };
    if (values.len() as u64) < there {
        return Err(CUT_SHORT.into());
    }
    let mut values = values.into_iter();
    match page.present.is_empty() {
        true => Ok(values.take(there as usize).map(Some).collect()),
        false => {
            let pick = |&present: &bool| if present { values.next() } else { None };
            Ok(page.present.iter().map(pick).collect())
        }
    }
}

/// Reads a stretch of a file that other threads read too.
struct FileRange<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for FileRange<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        read_at(self.file, &mut buffer[..length], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

/// Counts what is taken from a reader.
struct CountingReader<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.read += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_packed_groups_decode() {
        // The example of the specification: 0 to 7 in three bits, then a run of four fives.
        let bytes = [0b11, 0b1000_1000, 0b1100_0110, 0b1111_1010, 4 << 1, 5];
        let expected = [0, 1, 2, 3, 4, 5, 6, 7, 5, 5, 5, 5];
        assert_eq!(decode_rle_hybrid(&bytes, 3, 12).unwrap(), expected);
        assert_eq!(decode_rle_hybrid(&bytes, 3, 9).unwrap(), expected[..9]);
        assert!(decode_rle_hybrid(&bytes, 3, 13).is_err());
        assert!(decode_rle_hybrid(&bytes[..2], 3, 8).is_err());
    }

    #[test]
    fn differences_decode() {
        // 7, 5, 3, 1, 2, 3, 4, 5 as the specification has them: one block of 128 in four parts, the least
        // difference -2, and 0 0 0 3 3 3 3 above it in two bits.
        let bytes = [
            0x80,
            1,
            4,
            8,
            14,
            3,
            2,
            0,
            0,
            0,
            0b1100_0000,
            0b0011_1111,
            0,
            0,
            0,
            0,
            0,
            0,
            9,
        ];
        let mut rest = &bytes[..];
        assert_eq!(
            decode_delta(&mut rest, 8).unwrap(),
            [7, 5, 3, 1, 2, 3, 4, 5]
        );
        assert_eq!(rest, [9]);
        assert!(decode_delta(&mut &bytes[..], 7).is_err());
        assert!(decode_delta(&mut &bytes[..12], 8).is_err());
        assert!(decode_delta(&mut &[0x80, 1, 0, 8, 14][..], 8).is_err());
        let mut one = &[0x80, 1, 4, 1, 3][..];
        assert_eq!(decode_delta(&mut one, 1).unwrap(), [-2]);
    }

    #[test]
    fn a_page_that_announces_too_much_is_refused_before_it_is_made() {
        for codec in [
            CompressionCodec::SNAPPY,
            CompressionCodec::GZIP,
            CompressionCodec::ZSTD,
            CompressionCodec::LZ4_RAW,
        ] {
            assert!(decompress(codec, vec![0; 100], 1 << 30).is_err());
        }
    }
}
