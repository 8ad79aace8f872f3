//! Random grey: every channel becomes the luma.

use crate::random::Draws;

/// Whether a crop turns grey. One draw.
pub fn draw(draws: &mut Draws, probability: f32) -> bool {
    draws.chance(probability)
}

/// Replaces each pixel by its [`luma`].
pub fn apply(rgb: &mut [u8]) {
    let (pixels, _) = rgb.as_chunks_mut::<3>();
    for pixel in pixels {
        *pixel = [luma(*pixel); 3];
    }
}

/// Luma after ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, in the 16-bit fixed point of Pillow's
/// `convert("L")`, rounded.
#[inline(always)]
pub fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    #[test]
    fn grey_stays_grey_and_white_stays_white() {
        for value in 0..=255 {
            assert_eq!(super::luma([value; 3]), value);
        }
    }
}
