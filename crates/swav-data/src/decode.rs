//! From the bytes of a file to RGB pixels, as Pillow's `convert("RGB")` would have them.
//!
//! What the file *contains* decides, not its extension. Then:
//!
//! | in the file | becomes |
//! |---|---|
//! | grey, 1 to 8 bits | R = G = B |
//! | palette | its colours |
//! | alpha (any kind, also a transparent palette entry) | dropped, the colour under it stays, as Pillow does; nothing is composited |
//! | CMYK, YCCK (JPEG) | R = C·K/255, after Adobe's inverted convention, as Pillow does |
//! | CMYK, YCbCr (TIFF) | R = (255 − C)·(255 − K)/255; as JFIF defines YCbCr |
//! | 16 or 32 bits a channel | scaled from the range of the type and rounded. Pillow clips deep greys at 255, which turns almost every such image white; that we do not copy |
//! | associated (premultiplied) alpha in TIFF | divided out of the colours, then dropped |
//! | floating-point TIFF | 0 to 1 become 0 to 255; with other values the file is refused |
//! | orientation in EXIF (also as text in PNG), or else in XMP | applied, so that up is up |
//! | animation, several pages | the first picture |
//!
//! The colour model of a JPEG file is decided as libjpeg decides it: JFIF means YCbCr, then Adobe's
//! transform counts, then the identifiers of the components.
//!
//! **A kind of file that is not read is no damaged file.** It is refused as
//! [`DataError::Unsupported`], with what to do about it.
//!
//! **A file that is cut short is a bad file.** PNG, WebP, BMP and TIFF decoders notice by themselves.
//! JPEG decoders fill what is missing with grey and carry on, so JPEG data must also reach its
//! end-of-image marker; Pillow is as strict. Damage in the middle that leaves the marker in place
//! decodes to whatever it decodes to, in Pillow and here.
//!
//! **Size is checked before any pixel is decoded**, from the header alone.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

#[cfg(test)]
mod grid;
mod jpeg;
mod orientation;
mod tiff;

use crate::error::DataError;
use crate::health::panic_reason;
use crate::reduced;
use crate::source::Sample;
use jpeg::Model;

/// The size at which an image is refused, in pixels: 178,956,970, or some 13,377 × 13,377.
///
/// It is where Pillow raises its `DecompressionBombError`, so what torchvision opens is opened here.
/// Decoded it takes 512 MiB, in each worker that happens on such a file.
pub const DEFAULT_MAX_PIXELS: u64 = 178_956_970;

/// File extensions that count as images, in any case.
pub const EXTENSIONS: [&str; 10] = [
    "jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "jpe", "jfif",
];

/// A decoded image: RGB, 8 bits a channel. The default is the only one without pixels: a place for
/// [`decode_into`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Width in pixels, at least 1.
    pub width: u32,
    /// Height in pixels, at least 1.
    pub height: u32,
    /// `height` rows of `width` pixels of three bytes.
    pub rgb: Vec<u8>,
}

impl Image {
    /// An image of the given pixels.
    ///
    /// # Errors
    /// Says so when a side is zero or `rgb` is not `height` × `width` × 3 bytes long.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self, String> {
        if width == 0 || height == 0 {
            return Err(format!("{width} × {height} has no pixels"));
        }
        let expected = u64::from(width) * u64::from(height) * 3;
        if rgb.len() as u64 != expected {
            return Err(format!(
                "{width} × {height} takes {expected} bytes, got {}",
                rgb.len()
            ));
        }
        Ok(Self { width, height, rgb })
    }
}

/// Decodes `sample`, called `name` in errors, unless it has more than `max_pixels` pixels.
///
/// # Errors
/// [`DataError::TooLarge`] from the header alone; [`DataError::Unsupported`] for a kind of image that is
/// not read; [`DataError::Decode`] for everything that is not a whole image.
pub fn decode(sample: &Sample, name: &str, max_pixels: u64) -> Result<Image, DataError> {
    let mut image = Image::default();
    decode_into(sample, name, max_pixels, &mut image)?;
    Ok(image)
}

/// [`decode`], into the memory of an image that is no longer needed. After an error `image` holds
/// whatever it holds.
///
/// # Errors
/// As [`decode`].
pub fn decode_into(
    sample: &Sample,
    name: &str,
    max_pixels: u64,
    image: &mut Image,
) -> Result<(), DataError> {
    decode_reduced(sample, name, max_pixels, image, &|_, _| 1).map(|_| ())
}

/// How much smaller than its file an image may be decoded: 1, or 2 or 4 for a half or a quarter of
/// either side. It is asked with the width and height that the whole image would have.
pub(crate) type Reduction<'a> = dyn Fn(u32, u32) -> u32 + 'a;

/// [`decode_into`], at a reduced size where `reduction` allows it and the format can do so for less.
/// Returns the width and height of the whole image.
pub(crate) fn decode_reduced(
    sample: &Sample,
    name: &str,
    max_pixels: u64,
    image: &mut Image,
    reduction: &Reduction<'_>,
) -> Result<[u32; 2], DataError> {
    let check = |width: u32, height: u32| {
        if u64::from(width) * u64::from(height) > max_pixels {
            let file = name.into();
            return Err(DataError::TooLarge {
                file,
                width,
                height,
                limit: max_pixels,
            });
        }
        Ok(())
    };
    match sample {
        Sample::Pixels { width, height, rgb } => {
            check(*width, *height)?;
            *image = Image::new(*width, *height, rgb.clone())
                .map_err(|reason| DataError::decode(name, reason))?;
            Ok([*width, *height])
        }
        Sample::Encoded(bytes) if bytes.is_empty() => {
            Err(DataError::decode(name, "the file is empty"))
        }
        Sample::Encoded(bytes) if bytes.starts_with(&JPEG_START) => {
            decode_jpeg(bytes, name, check, image, reduction)
        }
        // A damaged file may make one of these decoders panic.
        Sample::Encoded(bytes) => {
            let attempt = AssertUnwindSafe(|| other(bytes, name, max_pixels, check));
            *image = catch_unwind(attempt).unwrap_or_else(|panic| {
                Err(DataError::decode(name, panic_reason(panic.as_ref())))
            })?;
            Ok([image.width, image.height])
        }
    }
}

/// Start-of-image, and the beginning of the marker that follows.
const JPEG_START: [u8; 3] = [0xFF, 0xD8, 0xFF];

/// Decodes a JPEG file.
fn decode_jpeg(
    bytes: &[u8],
    name: &str,
    check: impl Fn(u32, u32) -> Result<(), DataError>,
    image: &mut Image,
    reduction: &Reduction<'_>,
) -> Result<[u32; 2], DataError> {
    let failed =
        |error: zune_jpeg::errors::DecodeErrors| DataError::decode(name, error.to_string());
    let header = jpeg::Header::read(bytes);
    if let Some(reason) = header.unsupported() {
        return Err(DataError::unsupported(name, reason));
    }
    // Not strict: strictness refuses stray bytes between segments, which every other reader skips
    // and real photographs have. What matters, missing data, is looked for below.
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let [width, height] = match header.is_sampled_by_threes() {
        true => header.size(),
        false => {
            decoder.decode_headers().map_err(failed)?;
            let info = decoder
                .info()
                .ok_or_else(|| DataError::decode(name, "no frame header"))?;
            [u32::from(info.width), u32::from(info.height)]
        }
    };
    check(width, height)?;
    if !reaches_end_of_image(bytes) {
        return Err(DataError::decode(
            name,
            "cut short: the end-of-image marker is missing",
        ));
    }
    let orientation = orientation::named(header.orientation());
    let whole = match orientation {
        Orientation::NoTransforms
        | Orientation::Rotate180
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical => [width, height],
        _ => [height, width],
    };
    let divisor = match reduction(whole[0], whole[1]) {
        // Turned around, the part of a pixel that is left over would come to lie first.
        divisor
            if orientation != Orientation::NoTransforms
                && !(width.is_multiple_of(divisor) && height.is_multiple_of(divisor)) =>
        {
            1
        }
        divisor => divisor,
    };
    let model = header.model();
    // What the reduced decoder takes three components for.
    let plain = matches!(model, Some(Model::Grey | Model::YCbCr));
    let is_reduced =
        divisor != 1 && plain && reduced::decode(bytes, [width, height], divisor, image).is_some();
    if !is_reduced {
        (image.width, image.height) = (width, height);
        match model {
            Some(model) if header.misleads_zune() => {
                let failed = |reason| DataError::decode(name, reason);
                let decoded = AssertUnwindSafe(|| {
                    jpeg::decode_slowly(bytes, model, &mut image.rgb).map_err(failed)
                });
                catch_unwind(decoded).unwrap_or_else(|panic| {
                    Err(DataError::decode(name, panic_reason(panic.as_ref())))
                })?;
            }
            _ => {
                // Of damaged data not every row may be written: nothing of an earlier image must show.
                image.rgb.clear();
                image.rgb.resize(width as usize * height as usize * 3, 0);
                decoder.decode_into(&mut image.rgb).map_err(failed)?;
            }
        }
        let expected = u64::from(width) * u64::from(height) * 3;
        if image.rgb.len() as u64 != expected {
            return Err(DataError::decode(
                name,
                "the decoder and the header differ in size",
            ));
        }
    }
    if orientation != Orientation::NoTransforms {
        *image = upright(std::mem::take(image), orientation);
    }
    Ok(whole)
}

/// Whether the picture in `jpeg` ends with its end-of-image marker.
///
/// Almost every file ends with it. In the others (padding, a second picture, or cut short) the
/// segments are walked: a thumbnail inside the EXIF segment has an end marker of its own, which must
/// not count.
fn reaches_end_of_image(jpeg: &[u8]) -> bool {
    const END: u8 = 0xD9;
    const START_OF_SCAN: u8 = 0xDA;
    if jpeg.ends_with(&[0xFF, END]) {
        return true;
    }
    let mut at = 2;
    let mut in_scan = false;
    while let Some(offset) = jpeg.get(at..).and_then(|rest| memchr::memchr(0xFF, rest)) {
        at += offset + 1;
        // Any number of FF bytes may pad a marker.
        while jpeg.get(at) == Some(&0xFF) {
            at += 1;
        }
        let Some(&marker) = jpeg.get(at) else {
            return false;
        };
        at += 1;
        match marker {
            END => return true,
            // A stuffed zero, a restart marker or a lone marker without a length.
            0x00 | 0x01 | 0xD0..=0xD8 => {}
            // Stray bytes in the entropy-coded data may look like a marker; only those that may
            // legally follow a scan have a length to skip.
            _ if in_scan && !matches!(marker, 0xC0..=0xCF | 0xDA..=0xDF | 0xE0..=0xEF | 0xFE) => {}
            _ => {
                in_scan |= marker == START_OF_SCAN;
                let Some(length) = jpeg.get(at..at + 2) else {
                    return false;
                };
                at += usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
    false
}

/// Decodes PNG, WebP, BMP, TIFF and GIF.
fn other(
    bytes: &[u8],
    name: &str,
    max_pixels: u64,
    check: impl Fn(u32, u32) -> Result<(), DataError>,
) -> Result<Image, DataError> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    let failed = |error: image::ImageError| match error {
        image::ImageError::Unsupported(error) => {
            DataError::unsupported(name, format!("{error}; {CONVERT}"))
        }
        error => DataError::decode(name, error.to_string()),
    };
    if let Some(kind) = named_kind(bytes) {
        return Err(DataError::unsupported(name, format!("{kind}; {CONVERT}")));
    }
    // 16 bytes a pixel is the widest that any of the formats decodes to.
    let max_bytes = max_pixels.saturating_mul(16).saturating_add(1 << 20);
    if tiff::is_in(bytes) {
        return tiff::decode(bytes, name, max_bytes, check);
    }
    let format = match image::guess_format(bytes) {
        Ok(format @ (Bmp | Gif | Jpeg | Png | WebP)) => format,
        Ok(format) => {
            let reason =
                format!("{format:?} is not among JPEG, PNG, WebP, BMP, TIFF and GIF; {CONVERT}");
            return Err(DataError::unsupported(name, reason));
        }
        Err(_) => {
            let start = bytes.get(..16).unwrap_or(bytes).escape_ascii();
            let reason = format!("not an image (it starts with \"{start}\")");
            return Err(DataError::decode(name, reason));
        }
    };
    if format == Png && !has_whole_palette(bytes) {
        return Err(DataError::decode(name, "the palette ends within a colour"));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // The header is read without limits so that the size can be told.
    reader.no_limits();
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    check(width, height)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(max_bytes);
    decoder.set_limits(limits).map_err(failed)?;
    let orientation = match format {
        Png => orientation::named(orientation::of_png(bytes)),
        WebP => orientation::named(orientation::of_webp(bytes)),
        _ => decoder.orientation().unwrap_or(Orientation::NoTransforms),
    };
    let pixels = DynamicImage::from_decoder(decoder).map_err(failed)?;
    let rgb = pixels.into_rgb8().into_raw();
    let image = Image::new(width, height, rgb).map_err(|reason| DataError::decode(name, reason))?;
    Ok(upright(image, orientation))
}

/// What to do about an image of a kind that is not read.
const CONVERT: &str = "convert the image to JPEG or PNG";

/// The name of a known kind of image in a container of the ISO base media format.
fn named_kind(bytes: &[u8]) -> Option<&'static str> {
    if bytes.get(4..8)? != b"ftyp" {
        return None;
    }
    match bytes.get(8..12)? {
        b"avif" | b"avis" => Some("AVIF"),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => Some("HEIC"),
        // The general brand: the compatible ones behind it tell.
        b"mif1" | b"msf1" => {
            let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
            let brands = bytes.get(16..length).unwrap_or_default().as_chunks::<4>().0;
            match brands.contains(b"avif") {
                true => Some("AVIF"),
                false => Some("HEIC"),
            }
        }
        _ => None,
    }
}

/// Whether the palette of a PNG, if it has one, holds three bytes a colour; the decoder panics at others.
fn has_whole_palette(png: &[u8]) -> bool {
    // Behind the signature, chunks: length (4), kind (4), data, checksum (4).
    let mut rest = png.get(8..).unwrap_or_default();
    while let Some((&[a, b, c, d, ref kind @ ..], _)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        match kind {
            b"PLTE" if !length.is_multiple_of(3) => return false,
            b"IDAT" => return true,
            _ => rest = rest.get(length.saturating_add(12)..).unwrap_or_default(),
        }
    }
    true
}

/// Turns and mirrors `image` as its EXIF orientation asks for.
fn upright(image: Image, orientation: Orientation) -> Image {
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

#[cfg(test)]
mod tests {
    use super::reaches_end_of_image;

    #[test]
    fn the_end_marker_of_a_thumbnail_does_not_count() {
        // SOI, APP1 with FF D9 inside, SOS, data, and no end.
        let mut file = vec![0xFF, 0xD8, 0xFF, 0xE1, 0, 6, 1, 2, 0xFF, 0xD9];
        file.extend([0xFF, 0xDA, 0, 3, 0, 0x12, 0xFF, 0x00, 0x34]);
        assert!(!reaches_end_of_image(&file));
        file.extend([0xFF, 0xD9, 0, 0, 0]);
        assert!(
            reaches_end_of_image(&file),
            "padding after the end is no fault"
        );
    }
}
