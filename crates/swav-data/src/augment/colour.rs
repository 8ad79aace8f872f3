//! Flip, jitter and grey together: the pixels are read and written once, or twice where contrast
//! asks for the mean of the whole crop.
//!
//! A row is taken apart into three rows of single-precision numbers, one for each channel, which the
//! steps go over in turn; they stay in the first-level cache. After each step the numbers are whole
//! and lie in 0…255, as the bytes between the steps of [`jitter`] do, so the result is
//! the same to the bit. Those functions are the reference that the tests here hold this against.

use super::Scratch;
use super::jitter::{self, Shift, Step, max, min};
use crate::dispatch::{Kernel, dispatch};

/// Rows, planes and lists, used again from crop to crop.
#[derive(Default)]
pub(crate) struct Buffers {
    /// One row of each channel.
    rows: [Vec<f32>; 3],
    /// The whole crop, channel by channel, while the mean for the contrast is found.
    planes: [Vec<u8>; 3],
    /// What comes before the contrast, or everything where there is none.
    before: Vec<Operation>,
    /// The contrast and what comes after it.
    after: Vec<Operation>,
}

/// A step whose amount is known.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    /// Blend with a grey, by a factor.
    Blend { grey: f32, factor: f32 },
    /// Blend with the pixel's own grey, by a factor.
    Saturation { factor: f32 },
    /// Turn the hue, by steps of a byte.
    Hue { steps: f32 },
    /// Every channel becomes the luma.
    Grey,
}

/// Mirrors `rgb`, rows of `width` pixels, if `flip` says so, then shifts its colours, then makes it
/// grey.
///
/// # Panics
/// When `width` is zero.
pub fn apply(
    rgb: &mut [u8],
    width: usize,
    flip: bool,
    shift: Option<&Shift>,
    grey: bool,
    scratch: &mut Scratch,
) {
    let Buffers {
        rows,
        planes,
        before,
        after,
    } = &mut scratch.colour;
    let contrast = plan(shift, grey, before, after);
    if before.is_empty() && after.is_empty() {
        if flip {
            super::flip::apply(rgb, width);
        }
        return;
    }
    for row in rows.iter_mut() {
        row.resize(width, 0.0);
    }
    let Some(factor) = contrast else {
        let operations = before;
        dispatch(SinglePass {
            rgb,
            width,
            flip,
            operations,
            rows,
        });
        return;
    };
    let pixels = rgb.len() / 3;
    for plane in planes.iter_mut() {
        plane.resize(pixels, 0);
    }
    let operations = before;
    let sum = dispatch(FirstPass {
        rgb,
        width,
        flip,
        operations,
        rows,
        planes,
    });
    let grey = f32::from(jitter::rounded_mean(sum, pixels));
    after[0] = Operation::Blend { grey, factor };
    let operations = after;
    dispatch(SecondPass {
        rgb,
        width,
        operations,
        rows,
        planes,
    });
}

/// Writes down what is to be done before the mean is known and, from the contrast on, after. Returns
/// the factor of the contrast if there is one.
fn plan(
    shift: Option<&Shift>,
    grey: bool,
    before: &mut Vec<Operation>,
    after: &mut Vec<Operation>,
) -> Option<f32> {
    before.clear();
    after.clear();
    let mut contrast = None;
    for (shift, step) in shift
        .into_iter()
        .flat_map(|s| s.order.map(|step| (s, step)))
    {
        let (operation, nothing) = match step {
            Step::Brightness | Step::Contrast => {
                let factor = match step {
                    Step::Brightness => shift.brightness,
                    _ => shift.contrast,
                };
                (Operation::Blend { grey: 0.0, factor }, factor == 1.0)
            }
            Step::Saturation => {
                let factor = shift.saturation;
                (Operation::Saturation { factor }, factor == 1.0)
            }
            Step::Hue => {
                let steps = jitter::steps(shift.hue);
                (Operation::Hue { steps }, shift.hue == 0.0)
            }
        };
        if nothing {
            continue;
        }
        if step == Step::Contrast {
            contrast = Some(shift.contrast);
        }
        match contrast {
            None => before.push(operation),
            Some(_) => after.push(operation),
        }
    }
    if grey {
        match contrast {
            None => before.push(Operation::Grey),
            Some(_) => after.push(Operation::Grey),
        }
    }
    contrast
}

/// Everything in one pass.
struct SinglePass<'a> {
    rgb: &'a mut [u8],
    width: usize,
    flip: bool,
    operations: &'a [Operation],
    rows: &'a mut [Vec<f32>; 3],
}

impl Kernel for SinglePass<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let [reds, greens, blues] = self.rows;
        for row in self.rgb.chunks_exact_mut(self.width * 3) {
            split(row, self.flip, reds, greens, blues);
            operate(self.operations, reds, greens, blues);
            join(reds, greens, blues, row);
        }
    }
}

/// The first of two passes: pixels to planes. Gives the sum of their luma.
struct FirstPass<'a> {
    rgb: &'a [u8],
    width: usize,
    flip: bool,
    operations: &'a [Operation],
    rows: &'a mut [Vec<f32>; 3],
    planes: &'a mut [Vec<u8>; 3],
}

impl Kernel for FirstPass<'_> {
    type Output = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        let Self {
            rgb,
            width,
            flip,
            operations,
            rows: [reds, greens, blues],
            planes,
        } = self;
        let [red, green, blue] = planes;
        let planes = red
            .chunks_exact_mut(width)
            .zip(green.chunks_exact_mut(width))
            .zip(blue.chunks_exact_mut(width));
        let mut total = 0;
        for (row, ((red, green), blue)) in rgb.chunks_exact(width * 3).zip(planes) {
            split(row, flip, reds, greens, blues);
            operate(operations, reds, greens, blues);
            // A row has at most 2¹⁴ pixels' worth of 255.
            let mut sum = 0;
            for ((&r, &g), &b) in reds.iter().zip(&*greens).zip(&*blues) {
                sum += u32::from(byte(luma(r, g, b)));
            }
            total += u64::from(sum);
            for (row, plane) in [(&*reds, red), (&*greens, green), (&*blues, blue)] {
                for (to, &value) in plane.iter_mut().zip(row) {
                    *to = byte(value);
                }
            }
        }
        total
    }
}

/// The second of two passes: planes to pixels.
struct SecondPass<'a> {
    rgb: &'a mut [u8],
    width: usize,
    operations: &'a [Operation],
    rows: &'a mut [Vec<f32>; 3],
    planes: &'a [Vec<u8>; 3],
}

impl Kernel for SecondPass<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self {
            rgb,
            width,
            operations,
            rows,
            planes,
        } = self;
        for (number, row) in rgb.chunks_exact_mut(width * 3).enumerate() {
            for (to, plane) in rows.iter_mut().zip(planes) {
                for (to, &value) in to.iter_mut().zip(&plane[number * width..]) {
                    *to = f32::from(value);
                }
            }
            let [reds, greens, blues] = &mut *rows;
            operate(operations, reds, greens, blues);
            join(reds, greens, blues, row);
        }
    }
}

/// Takes a row of pixels apart, from the right if it is to be mirrored.
#[inline(always)]
fn split(row: &[u8], flip: bool, reds: &mut [f32], greens: &mut [f32], blues: &mut [f32]) {
    // Not `as_chunks`: an array of three bytes is read as a number of 24 bits, which no vector holds.
    let channels = reds.iter_mut().zip(&mut *greens).zip(&mut *blues);
    for (((r, g), b), pixel) in channels.zip(row.chunks_exact(3)) {
        *r = f32::from(pixel[0]);
        *g = f32::from(pixel[1]);
        *b = f32::from(pixel[2]);
    }
    if flip {
        for row in [reds, greens, blues] {
            row.reverse();
        }
    }
}

/// Puts a row of pixels together.
#[inline(always)]
fn join(reds: &[f32], greens: &[f32], blues: &[f32], row: &mut [u8]) {
    let channels = reds.iter().zip(greens).zip(blues);
    for (pixel, ((&r, &g), &b)) in row.chunks_exact_mut(3).zip(channels) {
        pixel[0] = byte(r);
        pixel[1] = byte(g);
        pixel[2] = byte(b);
    }
}

/// Goes over one row with all operations.
#[inline(always)]
fn operate(operations: &[Operation], reds: &mut [f32], greens: &mut [f32], blues: &mut [f32]) {
    for operation in operations {
        match *operation {
            Operation::Blend { grey, factor } => {
                for row in [&mut *reds, &mut *greens, &mut *blues] {
                    for value in row {
                        *value = blend(grey, *value, factor);
                    }
                }
            }
            Operation::Saturation { factor } => each(reds, greens, blues, |r, g, b| {
                let grey = luma(r, g, b);
                [r, g, b].map(|value| blend(grey, value, factor))
            }),
            Operation::Hue { steps } => each(reds, greens, blues, |r, g, b| {
                jitter::turn([r, g, b], steps).map(f32::floor)
            }),
            Operation::Grey => each(reds, greens, blues, |r, g, b| [luma(r, g, b); 3]),
        }
    }
}

/// Replaces every pixel of a row.
#[inline(always)]
fn each(
    reds: &mut [f32],
    greens: &mut [f32],
    blues: &mut [f32],
    pixel: impl Fn(f32, f32, f32) -> [f32; 3],
) {
    for ((r, g), b) in reds.iter_mut().zip(greens).zip(blues) {
        [*r, *g, *b] = pixel(*r, *g, *b);
    }
}

/// [`grey::luma`](super::grey::luma) in single precision: the sums stay below 2²⁴, so they are exact.
#[inline(always)]
fn luma(r: f32, g: f32, b: f32) -> f32 {
    const SCALE: f32 = 1.0 / 65_536.0;
    ((r * 19_595.0 + g * 38_470.0 + b * 7_471.0 + 32_768.0) * SCALE).floor()
}

/// A blend, cut to 0…255 and to whole numbers.
#[inline(always)]
fn blend(grey: f32, value: f32, factor: f32) -> f32 {
    max(0.0, min(255.0, grey + factor * (value - grey))).floor()
}

/// A whole number of 0…255 as a byte. Beside 2²³ a float has no fraction left, so the number stands
/// in its lowest bits: one sum, where a conversion would mind what is out of range.
#[inline(always)]
fn byte(whole: f32) -> u8 {
    (whole + 8_388_608.0).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{flip, grey};
    use crate::random::{CropKey, Purpose};

    #[test]
    fn all_at_once_is_one_step_after_the_other() {
        let mut scratch = Scratch::default();
        for sample in 0..400 {
            let mut draws = CropKey::new(5, 0, sample, 0).draws(Purpose::Jitter);
            let (width, height) = (1 + draws.below(70) as usize, 1 + draws.below(9) as usize);
            let image: Vec<u8> = (0..width * height * 3)
                .map(|_| draws.word() as u8)
                .collect();
            let (mirrored, greyed) = (draws.chance(0.5), draws.chance(0.3));
            let jitter = jitter::Jitter {
                probability: 0.9,
                ..Default::default()
            };
            let mut shift = jitter.draw(&mut draws);
            if let Some(shift) = &mut shift {
                // Steps that change nothing are left out.
                for amount in [
                    &mut shift.brightness,
                    &mut shift.contrast,
                    &mut shift.saturation,
                ] {
                    if draws.chance(0.15) {
                        *amount = 1.0;
                    }
                }
                if draws.chance(0.15) {
                    shift.hue = 0.0;
                }
            }

            let mut expected = image.clone();
            if mirrored {
                flip::apply(&mut expected, width);
            }
            if let Some(shift) = &shift {
                jitter::apply(&mut expected, shift);
            }
            if greyed {
                grey::apply(&mut expected);
            }
            let mut fast = image;
            apply(
                &mut fast,
                width,
                mirrored,
                shift.as_ref(),
                greyed,
                &mut scratch,
            );
            assert_eq!(fast, expected, "{width} × {height}, {shift:?}");
        }
    }
}
