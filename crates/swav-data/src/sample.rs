//! A sample of a source, and the image that is decoded from it.

/// One sample as its source holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    /// The bytes of an image file.
    Encoded(Vec<u8>),
    /// Pixels that need no decoding: `height` rows of `width` pixels, three bytes each.
    Pixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The pixels.
        rgb: Vec<u8>,
    },
}

/// A decoded image: RGB, 8 bits a channel. The default is the only one without pixels: a place for
/// [`decode_into`](crate::decode_into).
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
