//! Baseline JPEG at a half or a quarter of its size.
//!
//! A block of 8 × 8 pixels is stored as 64 frequencies. Transforming only the lowest N × N of them
//! back, with a transform of N points, gives the block at N/8 of its size (ITU-T T.81, annex A, with
//! the shorter transform in place of the eight-point one), and no memory for the whole picture is
//! needed. What is left is reading the frequencies.
//!
//! This takes what cameras write: baseline, 8 bits, grey or YCbCr, all components in one scan.
//! Anything else, and anything that looks damaged, is left to the decoder of whole images, so nothing
//! here decides whether a file is good. Whether three components are YCbCr is the caller's to know.

use crate::dispatch::{Kernel, dispatch};
use crate::sample::Image;

/// Decodes `jpeg`, of `width` × `height` pixels, at a `divisor`-th (2 or 4) of its size, sides rounded
/// up. Nothing when this is no such file; `image` then holds whatever it holds.
pub(crate) fn decode(
    jpeg: &[u8],
    [width, height]: [u32; 2],
    divisor: u32,
    image: &mut Image,
) -> Option<()> {
    let frame = Frame::read(jpeg)?;
    if [frame.width, frame.height] != [width as usize, height as usize] {
        return None;
    }
    (image.width, image.height) = (width.div_ceil(divisor), height.div_ceil(divisor));
    let bytes = image.width as usize * image.height as usize * 3;
    image.rgb.resize(bytes, 0);
    let frame = &frame;
    match divisor {
        2 => dispatch(Scan::<4> { frame, image }),
        4 => dispatch(Scan::<2> { frame, image }),
        _ => None,
    }
}

/// What the segments before the scan say.
struct Frame<'a> {
    width: usize,
    height: usize,
    components: Vec<Component>,
    quantization: [Option<Box<[f32; 64]>>; 4],
    dc: [Option<Box<Huffman>>; 4],
    ac: [Option<Box<Huffman>>; 4],
    /// Units between two restart markers; 0 for none.
    restart: usize,
    /// The entropy-coded data and what follows.
    scan: &'a [u8],
}

/// One of Y, Cb, Cr.
#[derive(Clone, Copy)]
struct Component {
    id: u8,
    /// Blocks in a unit, across and down.
    across: usize,
    down: usize,
    quantization: usize,
    dc: usize,
    ac: usize,
}

impl<'a> Frame<'a> {
    fn read(jpeg: &'a [u8]) -> Option<Self> {
        let mut frame = Self {
            width: 0,
            height: 0,
            components: Vec::new(),
            quantization: [const { None }; 4],
            dc: [const { None }; 4],
            ac: [const { None }; 4],
            restart: 0,
            scan: &[],
        };
        let mut rest = jpeg.strip_prefix(&[0xFF, 0xD8])?;
        loop {
            let (&[0xFF, marker], after) = rest.split_first_chunk::<2>()? else {
                return None;
            };
            if marker == 0xFF {
                rest = &rest[1..];
                continue;
            }
            let length = usize::from(u16::from_be_bytes(*after.first_chunk()?));
            let segment = after.get(2..length)?;
            rest = after.get(length..)?;
            match marker {
                0xC0 | 0xC1 => frame.start_of_frame(segment)?,
                0xC4 => frame.huffman_tables(segment)?,
                // Other kinds of frame.
                0xC2..=0xCF => return None,
                0xDB => frame.quantization_tables(segment)?,
                0xDD => {
                    frame.restart = usize::from(u16::from_be_bytes(*segment.first_chunk()?));
                }
                0xDA => {
                    frame.start_of_scan(segment)?;
                    frame.scan = rest;
                    return Some(frame);
                }
                0xE0..=0xEF | 0xFE => {}
                _ => return None,
            }
        }
    }

    fn start_of_frame(&mut self, segment: &[u8]) -> Option<()> {
        let (&[8, h0, h1, w0, w1, count], rest) = segment.split_first_chunk::<6>()? else {
            return None;
        };
        self.height = usize::from(u16::from_be_bytes([h0, h1]));
        self.width = usize::from(u16::from_be_bytes([w0, w1]));
        let (described, _) = rest.as_chunks::<3>();
        if !self.components.is_empty()
            || !matches!(count, 1 | 3)
            || described.len() != usize::from(count)
            || self.width == 0
            || self.height == 0
        {
            return None;
        }
        for &[id, sampling, table] in described {
            let (across, down) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            if !matches!((across, down), (1 | 2, 1 | 2)) || table > 3 {
                return None;
            }
            self.components.push(Component {
                id,
                across,
                down,
                quantization: usize::from(table),
                dc: 0,
                ac: 0,
            });
        }
        match &mut self.components[..] {
            // A scan of one component has a block to the unit, whatever it says.
            [grey] => (grey.across, grey.down) = (1, 1),
            [y, chroma @ ..] => {
                let whole = |c: &Component| c.across <= y.across && c.down <= y.down;
                if !chroma.iter().all(whole) {
                    return None;
                }
            }
            [] => return None,
        }
        Some(())
    }

    fn quantization_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&head, rest)) = segment.split_first() {
            let table = self.quantization.get_mut(usize::from(head & 15))?;
            let wide = head >> 4 != 0;
            let (values, rest) = rest.split_at_checked(if wide { 128 } else { 64 })?;
            *table = Some(Box::new(std::array::from_fn(|k| match wide {
                true => f32::from(u16::from_be_bytes([values[2 * k], values[2 * k + 1]])),
                false => f32::from(values[k]),
            })));
            segment = rest;
        }
        Some(())
    }

    fn huffman_tables(&mut self, mut segment: &[u8]) -> Option<()> {
        while let Some((&head, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>()?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(total)?;
            let tables = match head >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return None,
            };
            *tables.get_mut(usize::from(head & 15))? =
                Some(Box::new(Huffman::new(counts, symbols)?));
            segment = rest;
        }
        Some(())
    }

    fn start_of_scan(&mut self, segment: &[u8]) -> Option<()> {
        let (&count, rest) = segment.split_first()?;
        let (chosen, spectrum) = rest.split_at_checked(2 * usize::from(count))?;
        if usize::from(count) != self.components.len() || count == 0 || spectrum != [0, 63, 0] {
            return None;
        }
        for (component, chosen) in self.components.iter_mut().zip(chosen.as_chunks::<2>().0) {
            let (dc, ac) = (usize::from(chosen[1] >> 4), usize::from(chosen[1] & 15));
            if chosen[0] != component.id {
                return None;
            }
            self.quantization[component.quantization].as_ref()?;
            self.dc.get(dc)?.as_ref()?;
            self.ac.get(ac)?.as_ref()?;
            (component.dc, component.ac) = (dc, ac);
        }
        Some(())
    }
}

/// Bits that are looked up at once.
const LOOKUP: u32 = 10;

/// A Huffman table: short codes in a list, the others by their canonical order.
struct Huffman {
    /// Length and symbol of the code that these bits begin with; 0 for a longer one.
    short: [u16; 1 << LOOKUP],
    /// For each length the end of its codes, as 16 bits, and what to add to a code to find its symbol.
    long: [(u32, i32); 17],
    symbols: [u8; 256],
}

impl Huffman {
    fn new(counts: &[u8; 16], given: &[u8]) -> Option<Self> {
        let mut table = Self {
            short: [0; 1 << LOOKUP],
            long: [(0, 0); 17],
            symbols: [0; 256],
        };
        table.symbols.get_mut(..given.len())?.copy_from_slice(given);
        let (mut code, mut number) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = u32::from(counts[length as usize - 1]);
            if code + count > 1 << length {
                return None;
            }
            let first = number as i32 - code as i32;
            if length <= LOOKUP {
                for (code, &symbol) in (code..code + count).zip(&given[number..]) {
                    let from = (code << (LOOKUP - length)) as usize;
                    let entry = (length as u16) << 8 | u16::from(symbol);
                    table.short[from..from + (1 << (LOOKUP - length))].fill(entry);
                }
            }
            code += count;
            number += count as usize;
            table.long[length as usize] = (code << (16 - length), first);
            code <<= 1;
        }
        Some(table)
    }
}

/// Bits of the scan, the next one on top.
struct Bits<'a> {
    data: &'a [u8],
    bits: u64,
    count: u32,
    /// Bytes that were asked for beyond the end of the data or of the restart interval.
    missing: u32,
}

impl<'a> Bits<'a> {
    /// Makes sure of 32 bits: a code and its number.
    #[inline(always)]
    fn refill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some((&four, rest)) = self.data.split_first_chunk::<4>() {
            let word = u32::from_be_bytes(four);
            // No byte is FF: none of the inverted bytes is zero.
            if (!word).wrapping_sub(0x0101_0101) & word & 0x8080_8080 == 0 {
                self.bits |= u64::from(word) << (32 - self.count);
                self.count += 32;
                self.data = rest;
                return;
            }
        }
        while self.count <= 56 {
            let byte = match *self.data {
                [0xFF, 0, ref rest @ ..] => {
                    self.data = rest;
                    0xFF
                }
                [byte, ref rest @ ..] if byte != 0xFF => {
                    self.data = rest;
                    byte
                }
                // A marker or the end.
                _ => {
                    self.missing += 1;
                    0
                }
            };
            self.bits |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    #[inline(always)]
    fn skip(&mut self, count: u32) {
        self.bits <<= count;
        self.count -= count;
    }

    /// The next symbol. Wants 16 bits.
    #[inline(always)]
    fn symbol(&mut self, table: &Huffman) -> Option<u8> {
        let entry = table.short[(self.bits >> (64 - LOOKUP)) as usize];
        if entry != 0 {
            self.skip(u32::from(entry >> 8));
            return Some(entry as u8);
        }
        let code = (self.bits >> 48) as u32;
        let length = (LOOKUP + 1..=16).find(|&length| code < table.long[length as usize].0)?;
        let number = (code >> (16 - length)) as i32 + table.long[length as usize].1;
        self.skip(length);
        table.symbols.get(number as usize).copied()
    }

    /// A number of `size` bits (1 to 16) as the format writes it: the lower half stands for negative
    /// ones.
    #[inline(always)]
    fn number(&mut self, size: u32) -> i32 {
        let value = (self.bits >> (64 - size)) as i32;
        self.skip(size);
        if value < 1 << (size - 1) {
            value - (1 << size) + 1
        } else {
            value
        }
    }

    /// Goes behind the next restart marker.
    fn restart(&mut self) -> Option<()> {
        let (0xD0..=0xD7, rest) = self.marker()? else {
            return None;
        };
        *self = Bits::new(rest);
        Some(())
    }

    /// The marker at which the data ends, and what comes after it. Nothing where data is missing, or where there is
    /// more of it than the last few bytes, which need not have been taken in.
    fn marker(&self) -> Option<(u8, &'a [u8])> {
        // Some zeros after the end are what the buffer takes in ahead of its need.
        if self.missing > 8 {
            return None;
        }
        let mut data = self.data;
        for _ in 0..8 {
            match *data {
                [0xFF, 0, ref rest @ ..] => data = rest,
                [0xFF, marker, ref rest @ ..] => return Some((marker, rest)),
                [_, ref rest @ ..] => data = rest,
                [] => return None,
            }
        }
        None
    }

    fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            bits: 0,
            count: 0,
            missing: 0,
        }
    }
}

/// Row and column of the frequencies in the order of the file.
const ZIGZAG: [u8; 64] = zigzag();

const fn zigzag() -> [u8; 64] {
    let mut order = [0; 64];
    let (mut row, mut column, mut k) = (0, 0, 0);
    while k < 64 {
        order[k] = (row * 8 + column) as u8;
        // Up and to the right on even diagonals, down and to the left on odd ones.
        let even = (row + column) % 2 == 0;
        if even && column == 7 {
            row += 1;
        } else if even && row == 0 {
            column += 1;
        } else if even {
            (row, column) = (row - 1, column + 1);
        } else if row == 7 {
            column += 1;
        } else if column == 0 {
            row += 1;
        } else {
            (row, column) = (row + 1, column - 1);
        }
        k += 1;
    }
    order
}

/// The scan, at N pixels for a block's eight.
struct Scan<'a, const N: usize> {
    frame: &'a Frame<'a>,
    image: &'a mut Image,
}

impl<const N: usize> Kernel for Scan<'_, N> {
    type Output = Option<()>;

    #[inline(always)]
    fn run(self) -> Option<()> {
        let Self { frame, image } = self;
        let first = frame.components.first()?;
        let (across, down) = (first.across, first.down);
        let units_across = frame.width.div_ceil(8 * across);
        let units_down = frame.height.div_ceil(8 * down);
        let basis = basis::<N>();
        // A row of units of each component, widened to the pixels of the first.
        let stride = units_across * across * N;
        let mut planes: Vec<Vec<u8>> = vec![vec![0; stride * down * N]; frame.components.len()];
        let mut predictions = [0i32; 3];
        let mut bits = Bits::new(frame.scan);
        let mut until_restart = frame.restart;
        let width = image.width as usize;
        let mut rows = image.rgb.chunks_exact_mut(width * 3);
        for _ in 0..units_down {
            for unit in 0..units_across {
                if frame.restart > 0 && until_restart == 0 {
                    bits.restart()?;
                    predictions = [0; 3];
                    until_restart = frame.restart;
                }
                until_restart = until_restart.wrapping_sub(1);
                let parts = frame.components.iter().zip(&mut planes);
                for ((component, plane), prediction) in parts.zip(&mut predictions) {
                    let dc = frame.dc[component.dc].as_deref()?;
                    let ac = frame.ac[component.ac].as_deref()?;
                    let quantization = frame.quantization[component.quantization].as_deref()?;
                    // How often a value is repeated to make up for fewer blocks.
                    let (wide, high) = (across / component.across, down / component.down);
                    for v in 0..component.down {
                        for h in 0..component.across {
                            let low = block::<N>(&mut bits, dc, ac, quantization, prediction)?;
                            let pixels = transform(&low, &basis);
                            let left = (unit * component.across + h) * N * wide;
                            for (y, row) in pixels.iter().enumerate() {
                                for repeat in 0..high {
                                    let y = (v * N + y) * high + repeat;
                                    let at = y * stride + left;
                                    spread(row, wide, &mut plane[at..at + N * wide]);
                                }
                            }
                        }
                    }
                }
            }
            if bits.missing > 8 {
                return None;
            }
            for y in 0..down * N {
                let Some(row) = rows.next() else { break };
                let span = y * stride..y * stride + width;
                match &planes[..] {
                    [grey] => {
                        for (pixel, &grey) in row.chunks_exact_mut(3).zip(&grey[span]) {
                            pixel.fill(grey);
                        }
                    }
                    [y, cb, cr] => colours(&y[span.clone()], &cb[span.clone()], &cr[span], row),
                    _ => return None,
                }
            }
        }
        // The end of the image, and nothing that a decoder of whole images might mind.
        matches!(bits.marker()?, (0xD9, _)).then_some(())
    }
}

/// Reads a block and keeps its lowest frequencies, row by row.
#[inline(always)]
fn block<const N: usize>(
    bits: &mut Bits<'_>,
    dc: &Huffman,
    ac: &Huffman,
    quantization: &[f32; 64],
    prediction: &mut i32,
) -> Option<[[f32; N]; N]> {
    let mut low = [[0.0; N]; N];
    bits.refill();
    let size = u32::from(bits.symbol(dc)?);
    if size > 11 {
        return None;
    }
    if size > 0 {
        *prediction = prediction.wrapping_add(bits.number(size));
    }
    low[0][0] = *prediction as f32 * quantization[0];
    let mut k = 1;
    while k < 64 {
        bits.refill();
        let symbol = bits.symbol(ac)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run != 15 {
                break;
            }
            k += 16;
            continue;
        }
        k += run;
        if k > 63 {
            return None;
        }
        let value = bits.number(size);
        let at = usize::from(ZIGZAG[k]);
        let (row, column) = (at / 8, at % 8);
        if row < N && column < N {
            low[row][column] = value as f32 * quantization[k];
        }
        k += 1;
    }
    Some(low)
}

/// The cosines of a transform of N points, scaled so that a block's mean stays what it was.
fn basis<const N: usize>() -> [[f32; N]; N] {
    let n = N as f64;
    std::array::from_fn(|frequency| {
        std::array::from_fn(|x| {
            let norm = if frequency == 0 { 1.0 } else { 2.0 } / n;
            let angle = (2 * x + 1) as f64 * frequency as f64 * std::f64::consts::PI / (2.0 * n);
            ((norm * n / 8.0).sqrt() * angle.cos()) as f32
        })
    })
}

/// From N × N frequencies to as many pixels.
#[inline(always)]
fn transform<const N: usize>(low: &[[f32; N]; N], basis: &[[f32; N]; N]) -> [[u8; N]; N] {
    let mut rows = [[0.0; N]; N];
    for (row, low) in rows.iter_mut().zip(low) {
        for (value, basis) in low.iter().zip(basis) {
            for x in 0..N {
                row[x] += value * basis[x];
            }
        }
    }
    let mut pixels = [[0; N]; N];
    for (y, pixels) in pixels.iter_mut().enumerate() {
        let mut sum = [128.0; N];
        for (row, basis) in rows.iter().zip(basis) {
            for x in 0..N {
                sum[x] += row[x] * basis[y];
            }
        }
        // Beside 2²³ a float has no fraction left: a sum rounds, and the low bits are the number.
        *pixels = sum.map(|value| (value.clamp(0.0, 255.0) + 8_388_608.0).to_bits() as u8);
    }
    pixels
}

/// Copies `row`, every value `wide` times (once or twice).
#[inline(always)]
fn spread<const N: usize>(row: &[u8; N], wide: usize, out: &mut [u8]) {
    if wide == 1 {
        out.copy_from_slice(row);
        return;
    }
    for (out, &value) in out.chunks_exact_mut(2).zip(row) {
        out.fill(value);
    }
}

/// A row of Y, Cb and Cr as RGB (JFIF), in 14-bit fixed point.
#[inline(always)]
fn colours(ys: &[u8], cbs: &[u8], crs: &[u8], row: &mut [u8]) {
    let channels = ys.iter().zip(cbs).zip(crs);
    for (pixel, ((&y, &cb), &cr)) in row.chunks_exact_mut(3).zip(channels) {
        let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
        let y = (y << 14) + (1 << 13);
        pixel[0] = ((y + 22_970 * cr) >> 14).clamp(0, 255) as u8;
        pixel[1] = ((y - 5_638 * cb - 11_700 * cr) >> 14).clamp(0, 255) as u8;
        pixel[2] = ((y + 29_032 * cb) >> 14).clamp(0, 255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    /// A photograph's like: waves, an edge, and colours that change faster than they should.
    fn picture(width: u32, height: u32) -> image::RgbImage {
        image::RgbImage::from_fn(width, height, |x, y| {
            let (x, y) = (f64::from(x), f64::from(y));
            let wave = (x * x / 900.0).sin() * 40.0 + (y * y / 700.0 + x / 9.0).cos() * 40.0;
            let edge = if x > 60.0 + y / 3.0 { 50.0 } else { 0.0 };
            image::Rgb([80.0 + wave, 110.0 + edge - wave / 3.0, 130.0 - edge].map(|v| v as u8))
        })
    }

    fn encode(picture: &image::RgbImage) -> Vec<u8> {
        let mut file = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 90);
        picture.write_with_encoder(encoder).unwrap();
        file
    }

    #[test]
    fn zigzag_is_the_order_of_the_standard() {
        assert_eq!(ZIGZAG[..10], [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]);
        assert_eq!(ZIGZAG[58..], [53, 60, 61, 54, 47, 55, 62, 63][2..]);
    }

    #[test]
    fn a_reduced_picture_has_the_means_of_the_whole_one() {
        for (width, height) in [(160, 120), (173, 91), (16, 16), (9, 40)] {
            let file = encode(&picture(width, height));
            let whole =
                crate::decode::decode(&Sample::Encoded(file.clone()), "", u64::MAX).unwrap();
            for divisor in [2, 4] {
                let mut image = Image::default();
                decode(&file, [width, height], divisor, &mut image).unwrap();
                let sides = [width.div_ceil(divisor), height.div_ceil(divisor)];
                assert_eq!([image.width, image.height], sides);
                // Means over 8 × 8 pixels of the whole picture are kept exactly, but for rounding
                // and for what is cut off at black and white.
                let mean = |image: &Image, left: u32, top: u32, side: u32, channel: u32| {
                    let mut sum = 0.0;
                    for y in top..top + side {
                        for x in left..left + side {
                            let at = (y * image.width + x) * 3 + channel;
                            sum += f64::from(image.rgb[at as usize]);
                        }
                    }
                    sum / f64::from(side * side)
                };
                for top in (0..height / 8 * 8).step_by(8) {
                    for left in (0..width / 8 * 8).step_by(8) {
                        for channel in 0..3 {
                            let exact = mean(&whole, left, top, 8, channel);
                            let (left, top) = (left / divisor, top / divisor);
                            let ours = mean(&image, left, top, 8 / divisor, channel);
                            assert!((ours - exact).abs() < 3.0, "{exact} but {ours}");
                        }
                    }
                }
            }
        }
    }

    /// What the decoder of whole images would refuse, or mind, is left to it.
    #[test]
    fn files_without_a_table_or_with_something_before_their_end_are_left_alone() {
        let file = encode(&picture(64, 48));
        let mut image = Image::default();
        assert!(decode(&file, [64, 48], 2, &mut image).is_some());

        let start = file.windows(2).position(|two| two == [0xFF, 0xDB]).unwrap();
        let length = usize::from(u16::from_be_bytes([file[start + 2], file[start + 3]]));
        let without_table = [&file[..start], &file[start + 2 + length..]].concat();
        assert!(decode(&without_table, [64, 48], 2, &mut image).is_none());

        let end = file.len() - 2;
        let with_comment = [&file[..end], &[0xFF, 0xFE, 0, 2][..], &file[end..]].concat();
        assert!(decode(&with_comment, [64, 48], 2, &mut image).is_none());
        let without_end = &file[..end];
        assert!(decode(without_end, [64, 48], 2, &mut image).is_none());
    }

    #[test]
    fn damaged_files_are_refused_or_decoded_and_never_panic() {
        let file = encode(&picture(61, 47));
        let mut image = Image::default();
        for cut in 0..file.len() {
            decode(&file[..cut], [61, 47], 2, &mut image);
        }
        let mut draws = crate::random::CropKey::new(1, 0, 0, 0).draws(crate::random::Purpose::Crop);
        for _ in 0..4000 {
            let mut damaged = file.clone();
            for _ in 0..=draws.below(3) {
                let at = draws.below(file.len() as u32) as usize;
                damaged[at] = draws.word() as u8;
            }
            decode(&damaged, [61, 47], 4, &mut image);
        }
    }
}
