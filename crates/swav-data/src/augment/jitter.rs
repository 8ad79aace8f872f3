//! Colour jitter: brightness, contrast, saturation and hue, in random order.
//!
//! With p a channel of a pixel, f the factor and ⌊·⌋ the cut to 0…255 and to whole numbers:
//!
//! | step | becomes |
//! |---|---|
//! | brightness | ⌊f p⌋ |
//! | contrast | ⌊m + f (p − m)⌋, m the mean luma of the whole crop, rounded |
//! | saturation | ⌊l + f (p − l)⌋, l the luma of the pixel |
//! | hue | hue and saturation become bytes, ⌊255 ·⌋ of a turn and of 1; the hue moves by ⌊255 h⌋ and wraps at 256 |
//!
//! All are torchvision's `ColorJitter` on Pillow images, as SwAV's own training had it: the first three
//! to the last bit, the hue but for 0.3 % of all colours, whose hue is a whole number of bytes and is
//! one less in Pillow, whose quotients fall short of it.
//!
//! A hue of 8 bits is coarse: 255 steps to a turn, and a saturated channel moves by up to 6 levels on
//! the way there and back. That is kept, since published networks were trained with it, and since it
//! is noise that no two crops share: the few runs that compared the two favour it (`docs/results.md`).
//!
//! The functions here are the plain form, a step after the other; crops are made by
//! [`colour`](super::colour), which gives the same bytes in fewer passes.

use serde::{Deserialize, Serialize};

use super::grey::luma;
use super::probability;
use crate::random::Draws;

/// How far colours may move. The default is SwAV's: strength 1 of SimCLR's (0.8, 0.8, 0.8, 0.2).
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Jitter {
    /// Probability that anything happens, 0.8.
    pub probability: f32,
    /// The brightness factor is uniform on [max(0, 1 − b), 1 + b]; 0.8.
    pub brightness: f32,
    /// The contrast factor is uniform on [max(0, 1 − c), 1 + c]; 0.8.
    pub contrast: f32,
    /// The saturation factor is uniform on [max(0, 1 − s), 1 + s]; 0.8.
    pub saturation: f32,
    /// The hue moves by a uniform share of a turn on [−h, h], at most 0.5; 0.2.
    pub hue: f32,
}

impl Default for Jitter {
    fn default() -> Self {
        Self {
            probability: 0.8,
            brightness: 0.8,
            contrast: 0.8,
            saturation: 0.8,
            hue: 0.2,
        }
    }
}

/// One of the four steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Blends with black.
    Brightness,
    /// Blends with the mean grey of the crop.
    Contrast,
    /// Blends each pixel with its own grey.
    Saturation,
    /// Turns the colour wheel.
    Hue,
}

/// What was drawn: four amounts and their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Shift {
    /// Factor, 1 changes nothing.
    pub brightness: f32,
    /// Factor, 1 changes nothing.
    pub contrast: f32,
    /// Factor, 1 changes nothing, 0 is grey.
    pub saturation: f32,
    /// Turns of the colour wheel, 0 changes nothing.
    pub hue: f32,
    /// The order in which they come.
    pub order: [Step; 4],
}

impl Jitter {
    /// Checks every field; names the first that is out of range.
    pub(crate) fn validate(&self) -> Result<(), String> {
        probability("augment.jitter.probability", self.probability)?;
        for (field, value) in [
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(format!(
                    "augment.jitter.{field} = {value}: expected 0 or more"
                ));
            }
        }
        if !(0.0..=0.5).contains(&self.hue) {
            return Err(format!(
                "augment.jitter.hue = {}: expected 0 to 0.5",
                self.hue
            ));
        }
        Ok(())
    }

    /// Draws the amounts and their order, or nothing. Six draws in either case.
    pub fn draw(&self, draws: &mut Draws) -> Option<Shift> {
        let happens = draws.chance(self.probability);
        let mut factor = |width: f32| {
            let width = f64::from(width);
            draws.uniform((1.0 - width).max(0.0), 1.0 + width) as f32
        };
        let (brightness, contrast) = (factor(self.brightness), factor(self.contrast));
        let saturation = factor(self.saturation);
        let hue = draws.uniform(-f64::from(self.hue), f64::from(self.hue)) as f32;
        let order = permutation(draws.below(24));
        happens.then_some(Shift {
            brightness,
            contrast,
            saturation,
            hue,
            order,
        })
    }
}

/// Permutation number `rank` (0 to 23) of the four steps.
fn permutation(mut rank: u32) -> [Step; 4] {
    let mut steps = [
        Step::Brightness,
        Step::Contrast,
        Step::Saturation,
        Step::Hue,
    ];
    for first in 0..3 {
        let left = 4 - first;
        steps[first..].rotate_left((rank % left as u32) as usize);
        rank /= left as u32;
    }
    steps
}

/// Applies the four steps in the order drawn.
pub fn apply(rgb: &mut [u8], shift: &Shift) {
    for step in shift.order {
        match step {
            Step::Brightness => brightness(rgb, shift.brightness),
            Step::Contrast => contrast(rgb, shift.contrast),
            Step::Saturation => saturation(rgb, shift.saturation),
            Step::Hue => hue(rgb, shift.hue),
        }
    }
}

/// Brightness alone.
pub fn brightness(rgb: &mut [u8], factor: f32) {
    blend_with(rgb, 0, factor);
}

/// Contrast alone. The crop is `rgb` as it is now, after the steps before this one.
pub fn contrast(rgb: &mut [u8], factor: f32) {
    blend_with(rgb, mean_luma(rgb), factor);
}

/// Saturation alone.
pub fn saturation(rgb: &mut [u8], factor: f32) {
    if factor == 1.0 {
        return;
    }
    let (pixels, _) = rgb.as_chunks_mut::<3>();
    for pixel in pixels {
        let grey = luma(*pixel);
        *pixel = pixel.map(|value| blend(grey, value, factor));
    }
}

/// Hue alone, by `turns` of the colour wheel; none at all for 0, where torchvision has no hue to move.
pub fn hue(rgb: &mut [u8], turns: f32) {
    if turns == 0.0 {
        return;
    }
    let steps = steps(turns);
    let (pixels, _) = rgb.as_chunks_mut::<3>();
    for pixel in pixels {
        *pixel = turn(pixel.map(f32::from), steps).map(|value| value as u8);
    }
}

/// Turns as steps of a byte, 0 to 255: 255 to a turn, cut towards zero, wrapping as bytes do.
pub(super) fn steps(turns: f32) -> f32 {
    f32::from((turns * 255.0) as i32 as u8)
}

/// One pixel, its hue moved by `steps`, and a half added for rounding: through 8-bit HSV and back.
///
/// Choices instead of branches: neighbouring pixels then go through the same instructions. Products
/// and quotients are of whole and half numbers below 2¹⁷, so cutting them is exact.
#[inline(always)]
pub(super) fn turn([r, g, b]: [f32; 3], steps: f32) -> [f32; 3] {
    const SECTOR: f32 = 255.0 / 6.0;
    let value = max(r, max(g, b));
    let chroma = value - min(r, min(g, b));
    // Grey has no hue: the divisor is one, the numerators are zero, and so is the saturation.
    let divisor = max(chroma, 1.0);
    let from_others = if value == g {
        2.0 * chroma + (b - r)
    } else {
        4.0 * chroma + (r - g)
    };
    let angle = if value == r { g - b } else { from_others };
    let angle = if angle < 0.0 {
        angle + 6.0 * chroma
    } else {
        angle
    };
    let hue = (angle * SECTOR / divisor).floor() + steps;
    let hue = if hue > 255.0 { hue - 256.0 } else { hue };
    let saturation = (chroma * 255.0 / max(value, 1.0)).floor();
    // Back again. A channel is full within one sixth of its own angle and fades over the sixth beyond:
    // red lies at both ends, green at 2, blue at 4.
    let (angle, chroma) = (hue * (1.0 / SECTOR), value * saturation * (1.0 / 255.0));
    let channel = |faded: f32| value - chroma * max(0.0, min(1.0, faded)) + 0.5;
    [
        channel(2.0 - (angle - 3.0).abs()),
        channel((angle - 2.0).abs() - 1.0),
        channel((angle - 4.0).abs() - 1.0),
    ]
}

/// The greater of two numbers that are numbers: one instruction, where `f32::max` also minds NaN.
#[inline(always)]
pub(super) fn max(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The lesser of two numbers that are numbers.
#[inline(always)]
pub(super) fn min(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// The mean luma of a crop, rounded.
pub fn mean_luma(rgb: &[u8]) -> u8 {
    let (pixels, _) = rgb.as_chunks::<3>();
    let sum = pixels.iter().map(|&pixel| u64::from(luma(pixel))).sum();
    rounded_mean(sum, pixels.len())
}

/// `sum` / `count`, rounded; 0 for nothing.
pub(super) fn rounded_mean(sum: u64, count: usize) -> u8 {
    match count {
        0 => 0,
        _ => ((sum as f64 / count as f64) + 0.5) as u8,
    }
}

/// Every channel blended with one grey: a table of 256 values does it.
fn blend_with(rgb: &mut [u8], grey: u8, factor: f32) {
    if factor == 1.0 {
        return;
    }
    let table: [u8; 256] = std::array::from_fn(|value| blend(grey, value as u8, factor));
    for value in rgb {
        *value = table[usize::from(*value)];
    }
}

/// Pillow's `Image.blend`, in single precision as there: from `grey` (factor 0) over `value`
/// (factor 1) and beyond, cut to 0…255 and towards zero.
#[inline(always)]
fn blend(grey: u8, value: u8, factor: f32) -> u8 {
    let (grey, value) = (f32::from(grey), f32::from(value));
    (grey + factor * (value - grey)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{CropKey, Purpose};

    #[test]
    fn all_orders_of_the_steps_are_reached() {
        let mut orders: Vec<_> = (0..24).map(permutation).map(|o| format!("{o:?}")).collect();
        orders.sort();
        orders.dedup();
        assert_eq!(orders.len(), 24);
    }

    #[test]
    fn a_third_of_a_turn_takes_red_to_green_to_blue() {
        let mut rgb = [255, 0, 0, 200, 100, 100];
        hue(&mut rgb, 1.0 / 3.0);
        assert_eq!(rgb, [0, 255, 0, 100, 200, 100]);
        hue(&mut rgb, 1.0 / 3.0);
        assert_eq!(rgb, [0, 0, 255, 100, 100, 200]);
        hue(&mut rgb, -2.0 / 3.0);
        assert_eq!(rgb, [255, 0, 0, 200, 100, 100]);
    }

    #[test]
    fn hue_and_back_is_the_same_colour_within_the_steps_of_a_byte() {
        for turns in [0.2f32, 0.11, 0.5, -0.17] {
            for seed in 0..4096u32 {
                let pixel = [seed & 15, (seed >> 4) & 15, seed >> 8].map(|c| (c * 17) as u8);
                let mut there = pixel;
                hue(&mut there, turns);
                hue(&mut there, -turns);
                for (a, b) in pixel.iter().zip(there) {
                    // Cut twice each way, and a wrap at 256 of 255 steps.
                    assert!(a.abs_diff(b) <= 20, "{pixel:?} by {turns} is {there:?}");
                }
                let largest = |pixel: [u8; 3]| pixel.into_iter().max();
                assert_eq!(largest(pixel), largest(there), "the value of HSV stays");
            }
        }
    }

    #[test]
    fn greys_have_no_hue_and_no_saturation() {
        let mut rgb: Vec<u8> = (0..=255).flat_map(|value| [value; 3]).collect();
        let before = rgb.clone();
        hue(&mut rgb, 0.13);
        saturation(&mut rgb, 1.7);
        assert_eq!(rgb, before);
    }

    #[test]
    fn factors_are_drawn_from_their_ranges_whether_or_not_they_are_used() {
        let jitter = Jitter {
            probability: 0.5,
            ..Jitter::default()
        };
        let mut happened = 0;
        for sample in 0..2000 {
            let key = CropKey::new(1, 0, sample, 0);
            let always = Jitter {
                probability: 1.0,
                ..Jitter::default()
            };
            let shift = always.draw(&mut key.draws(Purpose::Jitter)).unwrap();
            for factor in [shift.brightness, shift.contrast, shift.saturation] {
                assert!((0.2..=1.8).contains(&factor), "{shift:?}");
            }
            assert!((-0.2..=0.2).contains(&shift.hue), "{shift:?}");
            if let Some(drawn) = jitter.draw(&mut key.draws(Purpose::Jitter)) {
                assert_eq!(drawn, shift);
                happened += 1;
            }
        }
        assert!((900..1100).contains(&happened), "{happened} of 2000");
    }
}
