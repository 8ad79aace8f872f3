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

use std::panic::{AssertUnwindSafe, catch_unwind};

mod formats;
#[cfg(test)]
mod grid;
mod jpeg;
mod orientation;
mod tiff;

pub(crate) use self::jpeg::Reduction;
use crate::error::DataError;
use crate::sample::{Image, Sample};
use crate::threads::panic_reason;

/// The size at which an image is refused, in pixels: 178,956,970, or some 13,377 × 13,377.
///
/// It is where Pillow raises its `DecompressionBombError`, so what torchvision opens is opened here.
/// Decoded it takes 512 MiB, in each worker that happens on such a file.
pub const DEFAULT_MAX_PIXELS: u64 = 178_956_970;

/// File extensions that count as images, in any case.
pub const EXTENSIONS: [&str; 10] = [
    "jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "jpe", "jfif",
];

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
        Sample::Encoded(bytes) if bytes.starts_with(&jpeg::START) => {
            jpeg::decode(bytes, name, check, image, reduction)
        }
        // A damaged file may make one of these decoders panic.
        Sample::Encoded(bytes) => {
            let attempt = AssertUnwindSafe(|| formats::decode(bytes, name, max_pixels, check));
            *image = catch_unwind(attempt).unwrap_or_else(|panic| {
                Err(DataError::decode(name, panic_reason(panic.as_ref())))
            })?;
            Ok([image.width, image.height])
        }
    }
}
