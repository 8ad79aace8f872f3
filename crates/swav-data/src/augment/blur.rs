//! Gaussian blur.
//!
//! A true Gaussian, cut at ⌈3σ⌉ pixels and normalised to a sum of one, rows and columns in turn, in
//! single precision and rounded once at the end. Beyond the border the nearest pixel goes on, as in
//! Pillow. (Pillow's `GaussianBlur`, which SwAV's published code calls, is three box blurs that
//! approximate this. torchvision's mirrors the border and has a fixed number of taps.)

use serde::{Deserialize, Serialize};

use super::{Scratch, probability};
use crate::dispatch::{Kernel, dispatch};
use crate::random::Draws;

/// How often and how far crops are blurred. The default is SwAV's.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Blur {
    /// Probability of a blur, 0.5.
    pub probability: f32,
    /// σ is uniform between these, in pixels of the crop; [0.1, 2.0].
    pub sigma: [f32; 2],
}

impl Default for Blur {
    fn default() -> Self {
        Self {
            probability: 0.5,
            sigma: [0.1, 2.0],
        }
    }
}

impl Blur {
    /// Checks every field; names the first that is out of range.
    pub(crate) fn validate(&self) -> Result<(), String> {
        probability("augment.blur.probability", self.probability)?;
        let [low, high] = self.sigma;
        if low > 0.0 && low <= high && high <= MAX_SIGMA {
            return Ok(());
        }
        Err(format!(
            "augment.blur.sigma = [{low}, {high}]: expected two rising numbers above 0, at most \
             {MAX_SIGMA}"
        ))
    }

    /// Draws σ, or nothing. Two draws in either case.
    pub fn draw(&self, draws: &mut Draws) -> Option<f32> {
        let happens = draws.chance(self.probability);
        let sigma = draws.uniform(f64::from(self.sigma[0]), f64::from(self.sigma[1])) as f32;
        happens.then_some(sigma)
    }
}

/// No crop needs more, and the kernel stays short.
const MAX_SIGMA: f32 = 100.0;

/// Values that are summed side by side, in registers. 96 = 32 pixels, of which a row of any crop size
/// in use is a whole number.
const BLOCK: usize = 96;

/// Pixels and one row, used again from crop to crop.
#[derive(Default)]
pub(crate) struct Buffers {
    kernel: Vec<f32>,
    /// The crop as it was, its rows filled up to whole blocks.
    before: Vec<u8>,
    /// One row, blurred along the columns, between its borders.
    row: Vec<f32>,
}

/// Half a kernel: the weight of the centre, then of the pixels 1, 2, … away on either side. Weights at
/// the end that can change no pixel are left out.
fn half_kernel(sigma: f32, kernel: &mut Vec<f32>) {
    /// The share of a level that all pixels of such a weight together come to.
    const NOTHING: f64 = 0.01 / (4.0 * 255.0);
    let sigma = f64::from(sigma);
    let radius = (3.0 * sigma).ceil() as usize;
    let weight = |distance: usize| (-0.5 * (distance as f64 / sigma).powi(2)).exp();
    let total = weight(0) + 2.0 * (1..=radius).map(weight).sum::<f64>();
    let weights = (0..=radius).map(|distance| weight(distance) / total);
    kernel.clear();
    kernel.extend(
        weights
            .take_while(|&weight| weight > NOTHING)
            .map(|weight| weight as f32),
    );
}

/// Blurs `rgb`, rows of `width` pixels, by `sigma` pixels.
///
/// # Panics
/// When `width` or `sigma` is not above zero.
pub fn apply(rgb: &mut [u8], width: usize, sigma: f32, scratch: &mut Scratch) {
    assert!(
        width > 0 && sigma > 0.0,
        "a blur of σ {sigma} over rows of {width} pixels"
    );
    let Buffers {
        kernel,
        before,
        row,
    } = &mut scratch.blur;
    half_kernel(sigma, kernel);
    if kernel.len() < 2 || rgb.is_empty() {
        return;
    }
    let stride = width * 3;
    let padded = stride.next_multiple_of(BLOCK);
    before.resize(rgb.len() / stride * padded, 0);
    for (from, to) in rgb
        .chunks_exact(stride)
        .zip(before.chunks_exact_mut(padded))
    {
        to[..stride].copy_from_slice(from);
    }
    row.resize(padded + 6 * (kernel.len() - 1), 0.0);
    dispatch(Separable {
        rgb,
        stride,
        padded,
        kernel,
        before,
        row,
    });
}

/// Both passes of a blur, row after row of the result.
struct Separable<'a> {
    rgb: &'a mut [u8],
    /// Bytes in a row, and the same filled up.
    stride: usize,
    padded: usize,
    kernel: &'a [f32],
    before: &'a [u8],
    row: &'a mut [f32],
}

impl Kernel for Separable<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self {
            rgb,
            stride,
            padded,
            kernel,
            before,
            row,
        } = self;
        let border = 3 * (kernel.len() - 1);
        let last = before.len() / padded - 1;
        for (y, out) in rgb.chunks_exact_mut(stride).enumerate() {
            // Along the columns, into the row.
            let middle = &mut row[border..border + padded];
            for (number, sums) in middle.chunks_exact_mut(BLOCK).enumerate() {
                let block = |y: usize| block(before, y * padded + number * BLOCK);
                let centre = block(y);
                let mut sum: [f32; BLOCK] =
                    std::array::from_fn(|i| kernel[0] * f32::from(centre[i]));
                for (distance, &weight) in kernel.iter().enumerate().skip(1) {
                    let above = block(y.saturating_sub(distance));
                    let below = block((y + distance).min(last));
                    for i in 0..BLOCK {
                        let pair = u16::from(above[i]) + u16::from(below[i]);
                        sum[i] += weight * f32::from(pair);
                    }
                }
                sums.copy_from_slice(&sum);
            }
            // Beyond its ends the nearest pixel goes on.
            for at in (0..border).rev() {
                row[at] = row[at + 3];
            }
            for at in border + stride..border + stride + border {
                row[at] = row[at - 3];
            }
            // Along the row. Three channels side by side: a neighbour is three values away.
            for (number, out) in out.chunks_mut(BLOCK).enumerate() {
                let at = border + number * BLOCK;
                let centre = block(row, at);
                let mut sum: [f32; BLOCK] = std::array::from_fn(|i| kernel[0] * centre[i]);
                for (distance, &weight) in kernel.iter().enumerate().skip(1) {
                    let before = block(row, at - 3 * distance);
                    let after = block(row, at + 3 * distance);
                    for i in 0..BLOCK {
                        sum[i] += weight * (before[i] + after[i]);
                    }
                }
                let bytes = sum.map(rounded);
                out.copy_from_slice(&bytes[..out.len()]);
            }
        }
    }
}

/// The block of `values` that begins at `at`.
#[inline(always)]
fn block<T>(values: &[T], at: usize) -> &[T; BLOCK] {
    match values[at..].first_chunk() {
        Some(block) => block,
        None => panic!("a block at {at} of {}", values.len()),
    }
}

/// Rounds a number between 0 and 255: beside 2²³ a float has no fraction left, so the whole number
/// stands in its lowest bits.
#[inline(always)]
fn rounded(value: f32) -> u8 {
    (value + 8_388_608.0).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_image_stays_flat() {
        for sigma in [0.1, 0.7, 2.0, 9.0] {
            let mut rgb: Vec<u8> = [3, 130, 255].repeat(11 * 7);
            let before = rgb.clone();
            apply(&mut rgb, 11, sigma, &mut Scratch::default());
            assert_eq!(rgb, before, "σ {sigma}");
        }
    }

    #[test]
    fn a_blur_is_the_direct_sum_over_the_plane() {
        let (width, height, sigma) = (13usize, 9usize, 1.3f32);
        let mut rgb: Vec<u8> = (0..width * height * 3)
            .map(|i| (i * i % 251) as u8)
            .collect();
        let before = rgb.clone();
        apply(&mut rgb, width, sigma, &mut Scratch::default());
        let radius = (3.0 * sigma).ceil() as i64;
        let weight = |d: i64| (-0.5 * (d as f64 / f64::from(sigma)).powi(2)).exp();
        for y in 0..height as i64 {
            for x in 0..width as i64 {
                for channel in 0..3 {
                    let (mut sum, mut total) = (0.0, 0.0);
                    for dy in -radius..=radius {
                        for dx in -radius..=radius {
                            let row = (y + dy).clamp(0, height as i64 - 1) as usize;
                            let column = (x + dx).clamp(0, width as i64 - 1) as usize;
                            let w = weight(dx) * weight(dy);
                            sum += w * f64::from(before[(row * width + column) * 3 + channel]);
                            total += w;
                        }
                    }
                    let got = f64::from(rgb[(y as usize * width + x as usize) * 3 + channel]);
                    assert!((got - sum / total).abs() < 0.501, "{x},{y},{channel}");
                }
            }
        }
    }
}
