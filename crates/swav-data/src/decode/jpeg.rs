//! What the segments of a JPEG file before its first scan say, and the colour model that follows.

use super::orientation;

/// The colour model of the stored components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Model {
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
    pub(super) fn model(&self) -> Option<Model> {
        Some(match (self.components.len(), self.adobe) {
            (1, _) => Model::Grey,
            (3, _) if self.jfif => Model::YCbCr,
            (3, Some(0)) => Model::Rgb,
            (3, Some(_)) => Model::YCbCr,
            (3, None) if self.has_letters() => Model::Rgb,
            (3, None) => Model::YCbCr,
            (4, None | Some(0)) => Model::Cmyk,
            (4, Some(_)) => Model::Ycck,
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
            (1, _) => Model::Grey,
            (3, Some(0)) => Model::Rgb,
            (3, _) if self.has_letters() => Model::Rgb,
            (3, None | Some(1)) => Model::YCbCr,
            (4, None | Some(0)) => Model::Cmyk,
            (4, Some(2)) => Model::Ycck,
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
pub(super) fn decode_slowly(jpeg: &[u8], model: Model, rgb: &mut Vec<u8>) -> Result<(), String> {
    use jpeg_decoder::{ColorTransform, Decoder};
    let mut decoder = Decoder::new(jpeg);
    decoder.set_color_transform(match model {
        Model::Grey => ColorTransform::Grayscale,
        Model::YCbCr => ColorTransform::YCbCr,
        Model::Rgb => ColorTransform::RGB,
        Model::Cmyk => ColorTransform::CMYK,
        Model::Ycck => ColorTransform::YCCK,
    });
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    *rgb = match model {
        Model::YCbCr | Model::Rgb => pixels,
        Model::Grey => pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
        // The decoder has undone Adobe's inversion.
        Model::Cmyk | Model::Ycck => {
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
