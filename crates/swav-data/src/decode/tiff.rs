//! TIFF as RGB: grey, palette, RGB, CMYK and YCbCr, with and without alpha, of any depth, in strips or
//! tiles, chunky or planar, classic or BigTIFF.

use std::io::Cursor;

use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::{ColorType, TiffError};

use super::jpeg;
use super::orientation::{self, Directory};
use crate::error::DataError;
use crate::sample::Image;

const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const FILL_ORDER: u16 = 266;
const SAMPLES_PER_PIXEL: u16 = 277;
const PLANAR_CONFIGURATION: u16 = 284;
const PREDICTOR: u16 = 317;
const COLOUR_MAP: u16 = 320;
const TILE_WIDTH: u16 = 322;
const TILE_LENGTH: u16 = 323;
const EXTRA_SAMPLES: u16 = 338;

/// The value of [`PHOTOMETRIC`] for grey where 0 is black.
const BLACK_IS_ZERO: u8 = 1;
/// That for a palette.
const PALETTE: u64 = 3;
/// The value of [`COMPRESSION`] for JPEG.
const JPEG: u64 = 7;
/// The value of [`EXTRA_SAMPLES`] for alpha.
const ALPHA: u8 = 2;
/// That for alpha that the colours have been multiplied by.
const ASSOCIATED: u64 = 1;

/// What the samples of a pixel stand for, extra ones left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colours {
    Grey,
    Palette,
    Rgb,
    Cmyk,
    YCbCr,
}

impl Colours {
    fn samples(self) -> usize {
        match self {
            Self::Grey | Self::Palette => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk => 4,
        }
    }
}

/// Whether `file` begins as a TIFF file does.
pub(super) fn is_tiff(file: &[u8]) -> bool {
    Directory::is_tiff(file)
}

/// Decodes the first picture of `file`, unless it would take more than `max_bytes` or `check` refuses
/// its width and height.
///
/// # Errors
/// [`DataError::Unsupported`] for kinds that are not read, [`DataError::Decode`] for damaged files, and
/// what `check` says.
pub(super) fn decode(
    file: &[u8],
    name: &str,
    max_bytes: u64,
    check: impl Fn(u32, u32) -> Result<(), DataError>,
) -> Result<Image, DataError> {
    let damaged = |reason: &str| DataError::decode(name, reason);
    let unsupported = |kind: &str| DataError::convertible(name, format_args!("TIFF with {kind}"));
    let failed = |error: TiffError| match error {
        TiffError::UnsupportedError(error) => {
            DataError::convertible(name, format_args!("TIFF: {error}"))
        }
        error => DataError::decode(name, error.to_string()),
    };
    let directory = Directory::read(file).ok_or_else(|| damaged("it has no image"))?;
    let numbers = |tag| directory.numbers(tag);
    if numbers(FILL_ORDER) == [2] {
        return Err(unsupported("the bits of each byte in reverse order"));
    }
    let palette = (numbers(PHOTOMETRIC) == [PALETTE]).then(|| numbers(COLOUR_MAP));
    // The decoder knows no palette: of a file that calls them greys it gives the indices. And it drops a
    // fourth sample that means nothing, which it does wrongly in tiles or behind a predictor.
    let changed = match palette {
        Some(_) => directory.with(PHOTOMETRIC, BLACK_IS_ZERO),
        None if numbers(EXTRA_SAMPLES) == [0] => directory.with(EXTRA_SAMPLES, ALPHA),
        None => None,
    };
    let mut decoder =
        Decoder::new(Cursor::new(changed.as_deref().unwrap_or(file))).map_err(failed)?;
    let (width, height) = decoder.dimensions().map_err(failed)?;
    check(width, height)?;
    // A tile may be larger than the picture, and a row of tiles is held in memory.
    let first = |tag| numbers(tag).first().copied();
    let tile = first(TILE_WIDTH).zip(first(TILE_LENGTH));
    if tile.is_some_and(|(width, length)| width.saturating_mul(length) > max_bytes) {
        return Err(damaged("its tiles are larger than any image may be"));
    }
    let (colours, stored, bits) = match decoder.colortype().map_err(failed)? {
        ColorType::Gray(bits) => (Colours::Grey, 1, bits),
        ColorType::Multiband {
            bit_depth,
            num_samples: 2,
        } => (Colours::Grey, 2, bit_depth),
        ColorType::RGB(bits) => (Colours::Rgb, 3, bits),
        ColorType::RGBA(bits) => (Colours::Rgb, 4, bits),
        ColorType::CMYK(bits) => (Colours::Cmyk, 4, bits),
        ColorType::CMYKA(bits) => (Colours::Cmyk, 5, bits),
        ColorType::YCbCr(bits) => (Colours::YCbCr, 3, bits),
        other => return Err(unsupported(&format!("colours of the type {other:?}"))),
    };
    let colours = match palette {
        Some(_) => Colours::Palette,
        None => colours,
    };
    if let Some(kind) = misread(&directory, [width, height], stored as u64) {
        return Err(unsupported(kind));
    }

    let mut limits = Limits::default();
    let bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
    limits.decoding_buffer_size = bytes;
    limits.intermediate_buffer_size = bytes;
    let mut decoder = decoder.with_limits(limits);
    let mut read = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut read).map_err(failed)?;
    if read.as_buffer(0).as_bytes().len() < layout.complete_len {
        return Err(damaged("it takes more memory than any image may"));
    }
    let row = width as usize * if layout.planes > 1 { 1 } else { stored };
    let mut samples = in_8_bits(read, bits, row, colours).map_err(unsupported)?;
    if layout.planes > 1 {
        let plane = samples.len() / layout.planes;
        let pixel = |at| samples.iter().skip(at).step_by(plane.max(1)).copied();
        samples = (0..plane).flat_map(pixel).collect();
    }
    if stored > colours.samples() && first(EXTRA_SAMPLES) == Some(ASSOCIATED) {
        divide_by_alpha(&mut samples, stored);
    }
    let rgb = match palette {
        Some(palette) => through(&palette, bits, &samples, stored)
            .ok_or_else(|| damaged("the palette has fewer colours than the samples can name"))?,
        None => to_rgb(samples, stored, colours),
    };
    let image = Image::new(width, height, rgb).map_err(|reason| damaged(&reason))?;
    let orientation = orientation::from_value(orientation::of_tiff(file));
    Ok(orientation::upright(image, orientation))
}

/// What the decoder would get wrong about a file of which it keeps the first `stored` samples of a pixel.
fn misread(
    directory: &Directory<'_>,
    [width, height]: [u32; 2],
    stored: u64,
) -> Option<&'static str> {
    let first = |tag| directory.numbers(tag).first().copied();
    let is = |tag, value: u64| first(tag) == Some(value);
    let fits = |side: u32, tag| first(tag).is_none_or(|tile| u64::from(side) % tile.max(1) == 0);
    let drops = first(SAMPLES_PER_PIXEL).is_some_and(|samples| samples > stored);
    let is_planar = is(PLANAR_CONFIGURATION, 2);
    if drops && !is_planar && first(PREDICTOR).is_some_and(|predictor| predictor != 1) {
        // It undoes the predictor across pixels that are no neighbours.
        return Some("a predictor and samples beside the colours");
    }
    if drops && !is_planar && !fits(width, TILE_WIDTH) {
        return Some("samples beside the colours in tiles that reach beyond the image");
    }
    if is_planar && !fits(height, TILE_LENGTH) {
        return Some("a plane for each sample in tiles that reach beyond the image");
    }
    (is(COMPRESSION, JPEG) && stored == 2).then_some("grey and alpha as JPEG")
}

/// Samples of any depth, `row` of them in a row, as 8 bits: rounded from the range of their type, or from
/// 0 to 1 of floating-point ones. Indices into a palette stay as they are.
///
/// # Errors
/// The kind of samples that is not read.
fn in_8_bits(
    read: DecodingResult,
    bits: u8,
    row: usize,
    colours: Colours,
) -> Result<Vec<u8>, &'static str> {
    let rounded = |value: f64| (value * 255.0).round() as u8;
    let floats = |samples: &mut dyn Iterator<Item = f64>| {
        let samples = samples.map(|value| (0.0..=1.0).contains(&value).then(|| rounded(value)));
        samples.collect::<Option<Vec<u8>>>().ok_or(
            "floating-point samples outside 0 to 1, which does not say what is white: scale the \
             samples to 8 or 16 bits",
        )
    };
    match read {
        DecodingResult::U8(samples) if bits == 8 => Ok(samples),
        DecodingResult::U8(packed) => {
            let scale = match colours {
                Colours::Palette => 1.0 / 255.0,
                _ => 1.0 / f64::from((1u32 << bits) - 1),
            };
            let values = unpack(&packed, bits, row).into_iter();
            Ok(values
                .map(|value| rounded(f64::from(value) * scale))
                .collect())
        }
        _ if colours == Colours::Palette => Err("a palette of more than 256 colours"),
        DecodingResult::U16(samples) => {
            let to_8 = |&value: &u16| ((u32::from(value) + 128) / 257) as u8;
            Ok(samples.iter().map(to_8).collect())
        }
        DecodingResult::U32(samples) => {
            let scale = 1.0 / f64::from(u32::MAX);
            let to_8 = |&value: &u32| rounded(f64::from(value) * scale);
            Ok(samples.iter().map(to_8).collect())
        }
        DecodingResult::F16(samples) => floats(&mut samples.iter().map(|value| value.to_f64())),
        DecodingResult::F32(samples) => floats(&mut samples.into_iter().map(f64::from)),
        DecodingResult::F64(samples) => floats(&mut samples.into_iter()),
        DecodingResult::U64(_) => Err("samples of 64 bits"),
        _ => Err("signed samples, which do not say what is black"),
    }
}

/// Samples of fewer than 8 bits, the first in the highest bits; each row begins a byte.
fn unpack(packed: &[u8], bits: u8, row: usize) -> Vec<u8> {
    let bits = usize::from(bits);
    let bytes = (row * bits).div_ceil(8).max(1);
    let value = |bytes: &[u8], at: usize| {
        let next = bytes.get(at / 8 + 1).copied().unwrap_or_default();
        let two = u16::from_be_bytes([bytes[at / 8], next]);
        (two << (at % 8) >> (16 - bits)) as u8
    };
    let rows = packed.chunks_exact(bytes);
    let values = rows.flat_map(|bytes| (0..row).map(move |x| value(bytes, x * bits)));
    values.collect()
}

/// Divides colours by their alpha, the last of `stored` samples; where that is zero they are black, as in
/// Pillow.
fn divide_by_alpha(samples: &mut [u8], stored: usize) {
    for pixel in samples.chunks_exact_mut(stored) {
        let Some((&mut alpha, colours)) = pixel.split_last_mut() else {
            continue;
        };
        for colour in colours {
            let divided = (u32::from(*colour) * 255).checked_div(u32::from(alpha));
            *colour = divided.unwrap_or(0).min(255) as u8;
        }
    }
}

/// The colours that the first of `stored` samples of each pixel names: all reds, all greens, all blues, of
/// 16 bits. Nothing if there are not so many.
fn through(palette: &[u64], bits: u8, samples: &[u8], stored: usize) -> Option<Vec<u8>> {
    let count = 1usize << bits;
    let of_channel = |channel: usize| palette.get(channel * count..(channel + 1) * count);
    let channels = [of_channel(0)?, of_channel(1)?, of_channel(2)?];
    let colour = |pixel: &[u8]| channels.map(|all| (all[usize::from(pixel[0])] >> 8) as u8);
    Some(samples.chunks_exact(stored).flat_map(colour).collect())
}

/// Pixels of `stored` samples as RGB.
fn to_rgb(samples: Vec<u8>, stored: usize, colours: Colours) -> Vec<u8> {
    let pixels = samples.chunks_exact(stored);
    match colours {
        Colours::Rgb if stored == 3 => samples,
        Colours::Rgb => pixels.flat_map(|p| [p[0], p[1], p[2]]).collect(),
        Colours::Grey | Colours::Palette => pixels.flat_map(|p| [p[0]; 3]).collect(),
        Colours::Cmyk => {
            let rgb = |p: &[u8]| [p[0], p[1], p[2]].map(|ink| jpeg::light(ink, p[3]));
            pixels.flat_map(rgb).collect()
        }
        Colours::YCbCr => {
            // As in JFIF, which is what Pillow and libtiff take for the coefficients.
            let rgb = |p: &[u8]| {
                let [y, cb, cr] = [p[0], p[1], p[2]].map(f32::from);
                let (cb, cr) = (cb - 128.0, cr - 128.0);
                [
                    y + 1.402 * cr,
                    y - 0.344_136 * cb - 0.714_136 * cr,
                    y + 1.772 * cb,
                ]
                .map(|value| value.round() as u8)
            };
            pixels.flat_map(rgb).collect()
        }
    }
}
