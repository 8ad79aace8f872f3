//! Gaussian blur.
//!
//! A true Gaussian, cut at ⌈3σ⌉ pixels and normalised to a sum of one, rows and columns in turn, in
//! single precision and rounded once at the end. Beyond the border the nearest pixel goes on, as in
//! Pillow. (Pillow's `GaussianBlur`, which SwAV's published code calls, is three box blurs that
//! approximate this. torchvision's mirrors the border and has a fixed number of taps.)

use serde::{Deserialize, Serialize};

use super::{Scratch, probability};
use crate::random::Draws;
use crate::simd::{Kernel, dispatch};

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

/// Rows in single precision, used again from crop to crop.
#[derive(Default)]
pub(crate) struct Buffers {
    /// One row with its borders.
    padded: Vec<f32>,
    /// All rows, blurred along themselves.
    rows: Vec<f32>,
    /// One row of the result.
    sum: Vec<f32>,
}

/// Half a kernel: the weight of the centre, then of the pixels 1, 2, … away on either side.
fn half_kernel(sigma: f32) -> Vec<f32> {
    let sigma = f64::from(sigma);
    let radius = (3.0 * sigma).ceil() as usize;
    let weight = |distance: usize| (-0.5 * (distance as f64 / sigma).powi(2)).exp();
    let total = weight(0) + 2.0 * (1..=radius).map(weight).sum::<f64>();
    (0..=radius)
        .map(|distance| (weight(distance) / total) as f32)
        .collect()
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
    let kernel = half_kernel(sigma);
    let buffers = &mut scratch.blur;
    dispatch(Separable {
        rgb,
        stride: width * 3,
        kernel: &kernel,
        buffers,
    });
}

/// Both passes of a blur.
struct Separable<'a> {
    rgb: &'a mut [u8],
    /// Bytes in a row.
    stride: usize,
    kernel: &'a [f32],
    buffers: &'a mut Buffers,
}

impl Kernel for Separable<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self {
            rgb,
            stride,
            kernel,
            buffers: Buffers { padded, rows, sum },
        } = self;
        let radius = kernel.len() - 1;

        // Along the rows. Three channels side by side: a neighbour is three values away.
        padded.resize(stride + 6 * radius, 0.0);
        rows.resize(rgb.len(), 0.0);
        for (row, blurred) in rgb.chunks_exact(stride).zip(rows.chunks_exact_mut(stride)) {
            let (left, rest) = padded.split_at_mut(3 * radius);
            let (middle, right) = rest.split_at_mut(stride);
            for (value, &pixel) in middle.iter_mut().zip(row) {
                *value = f32::from(pixel);
            }
            for pixel in left.chunks_exact_mut(3) {
                pixel.copy_from_slice(&middle[..3]);
            }
            for pixel in right.chunks_exact_mut(3) {
                pixel.copy_from_slice(&middle[stride - 3..]);
            }
            weigh(blurred, kernel, |distance, sign| {
                let start = if sign {
                    3 * (radius + distance)
                } else {
                    3 * (radius - distance)
                };
                &padded[start..start + stride]
            });
        }

        // Along the columns.
        let height = rgb.len() / stride;
        sum.resize(stride, 0.0);
        for (y, row) in rgb.chunks_exact_mut(stride).enumerate() {
            weigh(sum, kernel, |distance, sign| {
                let from = if sign {
                    (y + distance).min(height - 1)
                } else {
                    y.saturating_sub(distance)
                };
                &rows[from * stride..(from + 1) * stride]
            });
            for (pixel, &value) in row.iter_mut().zip(sum.iter()) {
                *pixel = (value + 0.5) as u8;
            }
        }
    }
}

/// out = Σ kernel\[d\] · (neighbour d before + neighbour d after). `neighbour` gives a whole row of
/// them, so each pass runs over contiguous memory.
#[inline(always)]
fn weigh<'a>(out: &mut [f32], kernel: &[f32], neighbour: impl Fn(usize, bool) -> &'a [f32]) {
    for (value, &centre) in out.iter_mut().zip(neighbour(0, true)) {
        *value = kernel[0] * centre;
    }
    for (distance, &weight) in kernel.iter().enumerate().skip(1) {
        let (before, after) = (neighbour(distance, false), neighbour(distance, true));
        for ((value, &a), &b) in out.iter_mut().zip(before).zip(after) {
            *value += weight * (a + b);
        }
    }
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
