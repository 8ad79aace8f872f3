//! Horizontal flip.

use crate::random::Draws;

/// Whether a crop is mirrored. One draw.
pub fn draw(draws: &mut Draws, probability: f32) -> bool {
    draws.chance(probability)
}

/// Mirrors `rgb`, rows of `width` pixels, left to right.
///
/// # Panics
/// When `width` is zero.
pub fn apply(rgb: &mut [u8], width: usize) {
    for row in rgb.chunks_exact_mut(width * 3) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        pixels.reverse();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn pixels_change_places_and_channels_do_not() {
        let mut rgb = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        super::apply(&mut rgb, 2);
        assert_eq!(rgb, [4, 5, 6, 1, 2, 3, 10, 11, 12, 7, 8, 9]);
    }
}
