//! JPEG: what the segments before the first scan say, the colour model that follows, and decoding.

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

use super::orientation;
use crate::error::DataError;
use crate::reduced;
use crate::sample::Image;
use crate::threads::panic_reason;

/// How much smaller than its file an image may be decoded: 1, or 2 or 4 for a half or a quarter of
/// either side. It is asked with the width and height that the whole image would have.
pub(crate) type Reduction<'a> = dyn Fn(u32, u32) -> u32 + 'a;

/// Start-of-image, and the beginning of the marker that follows.
pub(super) const START: [u8; 3] = [0xFF, 0xD8, 0xFF];

/// Decodes a JPEG file, at a reduced size where `reduction` allows it. Returns the width and height of the
/// whole image.
pub(super) fn decode(
    bytes: &[u8],
    name: &str,
    check: impl Fn(u32, u32) -> Result<(), DataError>,
    image: &mut Image,
    reduction: &Reduction<'_>,
) -> Result<[u32; 2], DataError> {
    let failed =
        |error: zune_jpeg::errors::DecodeErrors| DataError::decode(name, error.to_string());
    let header = Header::read(bytes);
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
    let orientation = orientation::from_value(header.orientation());
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
    let plain = matches!(model, Some(ColourModel::Grey | ColourModel::YCbCr));
    let is_reduced =
        divisor != 1 && plain && reduced::decode(bytes, [width, height], divisor, image).is_some();
    if !is_reduced {
        (image.width, image.height) = (width, height);
        match model {
            Some(model) if header.misleads_zune() => {
                let failed = |reason| DataError::decode(name, reason);
                let decoded = AssertUnwindSafe(|| {
                    decode_with_jpeg_decoder(bytes, model, &mut image.rgb).map_err(failed)
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
        *image = orientation::upright(std::mem::take(image), orientation);
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

/// The colour model of the stored components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColourModel {
    Grey,
    YCbCr,
    Rgb,
    Cmyk,
    Ycck,
}

/// The segments before the first scan.
#[derive(Debug, Default)]
pub(super) struct Header<'a> {
    /// Second byte of the start-of-frame marker, 0xC0 to 0xCF; 0 without one.
    frame: u8,
    /// Bits a sample.
    precision: u8,
    /// Width and height in pixels.
    size: [u32; 2],
    /// Identifier and sampling factors (across in the upper half) of each component.
    components: Vec<[u8; 2]>,
    /// Components in the first scan.
    in_scan: usize,
    jfif: bool,
    /// The colour transform of Adobe's segment.
    adobe: Option<u8>,
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
}

impl<'a> Header<'a> {
    /// Reads as much of it as there is. Bytes that belong to no segment are passed over.
    pub(super) fn read(jpeg: &'a [u8]) -> Self {
        let mut header = Self::default();
        let mut rest = jpeg.get(2..).unwrap_or_default();
        while let Some(at) = memchr::memchr(0xFF, rest) {
            rest = &rest[at + 1..];
            let marker = match rest.split_first() {
                None => break,
                // Padding, a stuffed zero, or a marker without a length.
                Some((&(0x00 | 0x01 | 0xD0..=0xD9 | 0xFF), _)) => continue,
                Some((&marker, after)) => {
                    rest = after;
                    marker
                }
            };
            let Some(&length) = rest.first_chunk::<2>() else {
                break;
            };
            let length = usize::from(u16::from_be_bytes(length));
            let Some(segment) = rest.get(2..length) else {
                break;
            };
            rest = &rest[length..];
            match marker {
                0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                    header.frame = marker;
                    header.precision = segment.first().copied().unwrap_or_default();
                    if let Some(&[_, h0, h1, w0, w1]) = segment.first_chunk() {
                        header.size = [[w0, w1], [h0, h1]].map(u16::from_be_bytes).map(u32::from);
                    }
                    let described = segment.get(6..).unwrap_or_default().as_chunks::<3>().0;
                    header.components = described.iter().map(|&[id, by, _]| [id, by]).collect();
                }
                0xE0 if length >= 16 && segment.starts_with(b"JFIF\0") => header.jfif = true,
                0xE1 => {
                    let of = |prefix: &[u8]| segment.strip_prefix(prefix);
                    header.exif = header.exif.or(of(b"Exif\0"));
                    header.xmp = header.xmp.or(of(b"http://ns.adobe.com/xap/1.0/\0"));
                }
                0xEE if length >= 14 && segment.starts_with(b"Adobe") => {
                    header.adobe = segment.get(11).copied();
                }
                0xDA => {
                    header.in_scan = segment.first().copied().unwrap_or_default().into();
                    break;
                }
                _ => {}
            }
        }
        header
    }

    /// Why no decoder here reads such a file, if so.
    pub(super) fn unsupported(&self) -> Option<&'static str> {
        match self.frame {
            0xC3 => Some("lossless JPEG; convert the image to baseline or progressive JPEG"),
            0xC5..=0xC7 => {
                Some("hierarchical JPEG; convert the image to baseline or progressive JPEG")
            }
            0xC9..=0xCF => Some(
                "JPEG with arithmetic coding; convert the image to JPEG with Huffman coding, \
                 for example with jpegtran",
            ),
            0xC0..=0xC2 if self.precision == 12 => {
                Some("JPEG of 12 bits a sample; convert the image to 8 bits or to PNG")
            }
            _ => None,
        }
    }

    /// The colour model, by the rules of libjpeg. Nothing for a number of components without a rule.
    pub(super) fn model(&self) -> Option<ColourModel> {
        Some(match (self.components.len(), self.adobe) {
            (1, _) => ColourModel::Grey,
            (3, _) if self.jfif => ColourModel::YCbCr,
            (3, Some(0)) => ColourModel::Rgb,
            (3, Some(_)) => ColourModel::YCbCr,
            (3, None) if self.has_letters() => ColourModel::Rgb,
            (3, None) => ColourModel::YCbCr,
            (4, None | Some(0)) => ColourModel::Cmyk,
            (4, Some(_)) => ColourModel::Ycck,
            _ => return None,
        })
    }

    /// Whether zune-jpeg 0.5.15 decodes such a file to wrong colours, or not at all. It lets Adobe's segment and
    /// the letters R, G, B win over JFIF, loses the chroma of baseline files in several scans, takes no component
    /// to be larger than the first, and knows only powers of two as sampling factors.
    pub(super) fn misleads_zune(&self) -> bool {
        let [first, others @ ..] = &self.components[..] else {
            return false;
        };
        let model = match (self.components.len(), self.adobe) {
            (1, _) => ColourModel::Grey,
            (3, Some(0)) => ColourModel::Rgb,
            (3, _) if self.has_letters() => ColourModel::Rgb,
            (3, None | Some(1)) => ColourModel::YCbCr,
            (4, None | Some(0)) => ColourModel::Cmyk,
            (4, Some(2)) => ColourModel::Ycck,
            _ => return true,
        };
        let larger = |[_, by]: &[u8; 2]| by >> 4 > first[1] >> 4 || by & 15 > first[1] & 15;
        self.model() != Some(model)
            || self.is_sampled_by_threes()
            || (self.frame != 0xC2 && self.in_scan < self.components.len())
            || others.iter().any(larger)
    }

    /// Whether a component is sampled by threes, so that zune-jpeg refuses the header.
    pub(super) fn is_sampled_by_threes(&self) -> bool {
        let by_threes = |[_, by]: &[u8; 2]| by >> 4 == 3 || by & 15 == 3;
        self.components.iter().any(by_threes)
    }

    /// Width and height in pixels; zero without a frame.
    pub(super) fn size(&self) -> [u32; 2] {
        self.size
    }

    /// The EXIF orientation, 1 to 8 as a rule; that of the XMP packet where EXIF has none.
    pub(super) fn orientation(&self) -> Option<u32> {
        let exif = self
            .exif
            .map(|exif| exif.strip_prefix(b"\0").unwrap_or(exif));
        let of_exif = exif.and_then(orientation::of_exif);
        of_exif.or_else(|| self.xmp.and_then(orientation::of_xmp))
    }

    fn has_letters(&self) -> bool {
        self.components.iter().map(|[id, _]| id).eq(b"RGB")
    }
}

/// Decodes with jpeg-decoder, slower than zune-jpeg, into RGB.
///
/// # Errors
/// The decoder's own words.
pub(super) fn decode_with_jpeg_decoder(
    jpeg: &[u8],
    model: ColourModel,
    rgb: &mut Vec<u8>,
) -> Result<(), String> {
    use jpeg_decoder::{ColorTransform, Decoder};
    let mut decoder = Decoder::new(jpeg);
    decoder.set_color_transform(match model {
        ColourModel::Grey => ColorTransform::Grayscale,
        ColourModel::YCbCr => ColorTransform::YCbCr,
        ColourModel::Rgb => ColorTransform::RGB,
        ColourModel::Cmyk => ColorTransform::CMYK,
        ColourModel::Ycck => ColorTransform::YCCK,
    });
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    *rgb = match model {
        ColourModel::YCbCr | ColourModel::Rgb => pixels,
        ColourModel::Grey => pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
        // The decoder has undone Adobe's inversion.
        ColourModel::Cmyk | ColourModel::Ycck => {
            let (inks, _) = pixels.as_chunks::<4>();
            let colours = inks
                .iter()
                .map(|&[c, m, y, k]| [c, m, y].map(|ink| light(ink, k)));
            colours.flatten().collect()
        }
    };
    Ok(())
}

/// What an ink and black leave of the light, as Pillow has it.
pub(super) fn light(ink: u8, black: u8) -> u8 {
    let product = u32::from(255 - ink) * u32::from(255 - black);
    ((product + 127) / 255) as u8
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
