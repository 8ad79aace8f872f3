//! The augmentation of one crop: a file for each transform, and the pipeline that runs them in order.
//!
//! Every transform is two functions. `draw` turns a stream of random numbers into parameters, and
//! always takes the same number of draws for the same outcome of earlier ones; `apply` is a pure
//! function of pixels and parameters. So a test can fix the parameters, and the images that a
//! published implementation makes from the same parameters can be compared with ours.
//!
//! The order is that of SwAV (Caron et al., NeurIPS 2020) and of SimCLR before it: random resized
//! crop, horizontal flip, colour jitter, grey, blur. Between the steps pixels are 8-bit, as they are
//! between Pillow's operations.

pub mod blur;
pub mod colour;
pub mod crop;
pub mod flip;
pub mod grey;
pub mod jitter;

use serde::{Deserialize, Serialize};

pub use self::blur::Blur;
pub use self::jitter::Jitter;
use crate::random::{CropKey, Purpose};
use crate::sample::Image;

/// Probabilities and strengths of the transforms after the crop. The default is SwAV's.
///
/// ```
/// let augment = swav_data::Augment::default();
/// assert_eq!((augment.flip, augment.grey), (0.5, 0.2));
/// assert!(augment.validate().is_ok());
/// ```
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Brightness, contrast, saturation and hue.
    pub jitter: Jitter,
    /// Probability of turning grey, 0.2.
    pub grey: f32,
    /// Gaussian blur.
    pub blur: Blur,
    /// Probability of a mirror image, 0.5.
    pub flip: f32,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            jitter: Jitter::default(),
            grey: 0.2,
            blur: Blur::default(),
            flip: 0.5,
        }
    }
}

impl Augment {
    /// No transform but the crop.
    pub fn none() -> Self {
        Self {
            jitter: Jitter {
                probability: 0.0,
                ..Jitter::default()
            },
            grey: 0.0,
            blur: Blur {
                probability: 0.0,
                ..Blur::default()
            },
            flip: 0.0,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// Names the first field that is out of range, and the range.
    pub fn validate(&self) -> Result<(), String> {
        self.jitter.validate()?;
        probability("augment.grey", self.grey)?;
        self.blur.validate()?;
        probability("augment.flip", self.flip)
    }

    /// All draws of the crop `key`, from an image of `width` × `height` pixels.
    pub fn draw(&self, key: &CropKey, width: u32, height: u32, scale: [f32; 2]) -> Drawn {
        Drawn {
            region: crop::draw(&mut key.draws(Purpose::Crop), width, height, scale),
            flip: flip::draw(&mut key.draws(Purpose::Flip), self.flip),
            jitter: self.jitter.draw(&mut key.draws(Purpose::Jitter)),
            grey: grey::draw(&mut key.draws(Purpose::Grey), self.grey),
            blur: self.blur.draw(&mut key.draws(Purpose::Blur)),
        }
    }
}

/// What was drawn for one crop.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The part of the image.
    pub region: crop::Region,
    /// Whether it is mirrored.
    pub flip: bool,
    /// How its colours change, if they do.
    pub jitter: Option<jitter::Shift>,
    /// Whether it turns grey.
    pub grey: bool,
    /// The σ of its blur in pixels, if it is blurred.
    pub blur: Option<f32>,
}

/// Buffers that the transforms use again and again; one for each thread.
#[derive(Default)]
pub struct Scratch {
    pub(crate) resizer: fast_image_resize::Resizer,
    pub(crate) blur: blur::Buffers,
    pub(crate) colour: colour::Buffers,
}

/// Runs the whole pipeline: cuts `drawn.region` out of the `whole` image (width and height), of which
/// `image` may be a reduced one, resizes it to `size` × `size`, and applies what was drawn. `out` is
/// `size` rows of `size` RGB pixels.
///
/// # Panics
/// When `out` is not `size` · `size` · 3 bytes long, or the region leaves the image.
pub fn apply(
    image: &Image,
    whole: [u32; 2],
    drawn: &Drawn,
    size: usize,
    scratch: &mut Scratch,
    out: &mut [u8],
) {
    crop::apply_reduced(image, whole, drawn.region, size, scratch, out);
    let (flip, shift) = (drawn.flip, drawn.jitter.as_ref());
    colour::apply(out, size, flip, shift, drawn.grey, scratch);
    if let Some(sigma) = drawn.blur {
        blur::apply(out, size, sigma, scratch);
    }
}

/// Checks that `value` is a probability.
pub(crate) fn probability(field: &str, value: f32) -> Result<(), String> {
    if (0.0..=1.0).contains(&value) {
        return Ok(());
    }
    Err(format!(
        "{field} = {value} is not a probability: expected 0 to 1"
    ))
}
