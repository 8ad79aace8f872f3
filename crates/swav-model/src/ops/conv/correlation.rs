//! What is to be computed, and where it is and goes: a convolution, or the gradient of its input.

use super::out::Out;
use super::panel::Tap;

/// Maps to maps: `out[o][y][x] = Σ_c Σ_t w[o][c][t] · in[c][y·step + dy_t][x·step + dx_t]`, group by
/// group, where what lies outside of the input is zero.
pub(super) struct Correlation {
    pub(super) images: usize,
    pub(super) groups: usize,
    /// Of a group.
    pub(super) inputs: usize,
    /// Of a group.
    pub(super) outputs: usize,
    pub(super) taps: Taps,
    pub(super) step: usize,
    /// Height and width of the input.
    pub(super) source: [usize; 2],
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Correlation {
    /// Number of taps.
    pub(super) fn taps(&self) -> usize {
        self.taps.deltas.len()
    }
}

/// The taps of a kernel.
pub(super) struct Taps {
    pub(super) deltas: Vec<Tap>,
    /// Place of each in the kernel.
    pub(super) places: Vec<usize>,
    /// Number of places.
    pub(super) area: usize,
}

impl Taps {
    pub(super) fn new(kernel: usize, ys: &[(usize, isize)], xs: &[(usize, isize)]) -> Self {
        let pairs = || ys.iter().flat_map(|y| xs.iter().map(move |x| (y, x)));
        Self {
            deltas: pairs().map(|(y, x)| Tap { dy: y.1, dx: x.1 }).collect(),
            places: pairs().map(|(y, x)| y.0 * kernel + x.0).collect(),
            area: kernel * kernel,
        }
    }
}

/// Where the weight of (group, output, input, place in the kernel) is: at the sum of the parts.
pub(super) struct Weights<'a> {
    pub(super) values: &'a [f32],
    pub(super) group: usize,
    pub(super) output: usize,
    pub(super) input: usize,
}

/// Where the output goes: pixel (y, x) to `(y·step + row, x·step + column)`.
pub(super) struct Target<'a, E> {
    /// Whole maps, which the tasks of a call share: each writes where no other does.
    pub(super) values: Out<'a, E>,
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) step: usize,
    pub(super) row: usize,
    pub(super) column: usize,
}

impl<E> Target<'_, E> {
    /// The address of the first pixel of row `y` of a map.
    ///
    /// # Panics
    /// If it is beyond the maps.
    pub(super) fn row_of(&self, image: usize, channel: usize, y: usize) -> *mut E {
        let map = image * self.channels + channel;
        self.values.at((map * self.height + y) * self.width)
    }
}
