//! Everything but JPEG: recognises the format by the first bytes and decodes PNG, WebP, BMP and GIF with the
//! crate `image`.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{orientation, tiff};
use crate::error::DataError;
use crate::sample::Image;

/// Decodes PNG, WebP, BMP, TIFF and GIF, unless `check` refuses the width and height.
///
/// # Errors
/// [`DataError::Unsupported`] for formats that are not read, [`DataError::Decode`] for damaged files, and what
/// `check` says.
pub(super) fn decode(
    bytes: &[u8],
    name: &str,
    max_pixels: u64,
    check: impl Fn(u32, u32) -> Result<(), DataError>,
) -> Result<Image, DataError> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    let failed = |error: image::ImageError| match error {
        image::ImageError::Unsupported(error) => DataError::convertible(name, error),
        error => DataError::decode(name, error.to_string()),
    };
    if let Some(kind) = named_kind(bytes) {
        return Err(DataError::convertible(name, kind));
    }
    // 16 bytes a pixel is the widest that any of the formats decodes to.
    let max_bytes = max_pixels.saturating_mul(16).saturating_add(1 << 20);
    if tiff::is_tiff(bytes) {
        return tiff::decode(bytes, name, max_bytes, check);
    }
    let format = match image::guess_format(bytes) {
        Ok(format @ (Bmp | Gif | Jpeg | Png | WebP)) => format,
        Ok(format) => {
            let kind = format!("{format:?} is not among JPEG, PNG, WebP, BMP, TIFF and GIF");
            return Err(DataError::convertible(name, kind));
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
        Png => orientation::from_value(orientation::of_png(bytes)),
        WebP => orientation::from_value(orientation::of_webp(bytes)),
        _ => decoder.orientation().unwrap_or(Orientation::NoTransforms),
    };
    let pixels = DynamicImage::from_decoder(decoder).map_err(failed)?;
    let rgb = pixels.into_rgb8().into_raw();
    let image = Image::new(width, height, rgb).map_err(|reason| DataError::decode(name, reason))?;
    Ok(orientation::upright(image, orientation))
}

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
