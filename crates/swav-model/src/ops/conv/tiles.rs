//! The inner loops of [`winograd`](super::winograd): maps to windows, windows to sums, sums to maps.

use std::ops::Range;

use super::correlation::{Target, Weights};
use super::panel::Maps;
use crate::ops::element::{Element, convert};
use crate::ops::vectors::{Kernel, Simd, dispatch};

/// Columns of a strip of a right matrix: two of the longest vectors.
pub(super) const STRIP: usize = 32;
/// The longest vector there is, in floats: channels come in multiples of it.
pub(super) const LANES: usize = 16;
/// Rows of the right matrix that are multiplied at a time: a strip of them stays in the first-level cache.
const DEPTH: usize = 192;
/// Places of a transformed window.
pub(super) const PLACES: usize = 16;
/// Places of a kernel.
const AREA: usize = 9;

/// Rows of tiles of an image, and the number of the first of these tiles within its chunk.
pub(super) struct Part {
    pub(super) image: usize,
    pub(super) rows: Range<usize>,
    pub(super) tile: usize,
}

/// A stretch of maps with its channels last: some rows with an edge of zeros around where the map has none.
struct Pixels {
    /// The map's row and column of the first pixel.
    first: [isize; 2],
    height: usize,
    width: usize,
}

impl Pixels {
    /// Of two rows and columns a tile, and `edge` more of each.
    fn new(part: &Part, tiles: usize, shift: [isize; 2], edge: usize) -> Self {
        Self {
            first: [2 * part.rows.start as isize + shift[0], shift[1]],
            height: 2 * part.rows.len() + edge,
            width: 2 * tiles + edge,
        }
    }

    /// Turns the maps of `S::LANES` channels from `channel` on around into `to`, `[height][width][S::LANES]`.
    ///
    /// # Safety
    /// `S` must be present, the channels must be there, and `to` must have room.
    #[inline(always)]
    unsafe fn fill<S: Simd, E: Element>(
        &self,
        maps: &Maps<E>,
        image: usize,
        channel: usize,
        to: *mut f32,
        room: &mut Vec<f32>,
    ) {
        let [top, left] = self.first;
        let within = |first: isize, length: usize, size: usize| {
            let low = (-first).clamp(0, length as isize);
            let high = (size as isize - first).clamp(low, length as isize);
            (low as usize, high as usize)
        };
        let (low_y, high_y) = within(top, self.height, maps.height);
        let (low_x, high_x) = within(left, self.width, maps.width);
        let lines = low_y.saturating_add_signed(top)..high_y.saturating_add_signed(top);
        let channels = channel..channel + S::LANES;
        let (planes, size, above) = stretch(maps, image, channels, lines, room);
        // SAFETY: the caller guarantees the instruction set and that `to` has room; `low` and `high` keep to the pixels of
        // `planes`.
        unsafe {
            let zeros = |from: usize, count: usize| {
                std::ptr::write_bytes(to.add(from * S::LANES), 0, count * S::LANES);
            };
            zeros(0, low_y * self.width);
            zeros(high_y * self.width, (self.height - high_y) * self.width);
            let mut block = [0.0_f32; LANES * LANES];
            let count = high_x - low_x;
            for y in low_y..high_y {
                zeros(y * self.width, low_x);
                zeros(y * self.width + high_x, self.width - high_x);
                let line = ((top + y as isize) as usize - above) * maps.width;
                let from = planes.as_ptr().add(line + (left + low_x as isize) as usize);
                let to = to.add((y * self.width + low_x) * S::LANES);
                let mut x = 0;
                while x + S::LANES <= count {
                    S::transpose(from.add(x), size, to.add(x * S::LANES), S::LANES);
                    x += S::LANES;
                }
                if x == count {
                    continue;
                }
                // What is left of a row: with pixels of what follows, as far as there are any.
                let at = from.add(x).offset_from(planes.as_ptr()) as usize;
                if at + S::LANES <= size {
                    S::transpose(from.add(x), size, block.as_mut_ptr(), S::LANES);
                    std::ptr::copy_nonoverlapping(
                        block.as_ptr(),
                        to.add(x * S::LANES),
                        (count - x) * S::LANES,
                    );
                    continue;
                }
                for x in x..count {
                    for lane in 0..S::LANES {
                        *to.add(x * S::LANES + lane) = *from.add(lane * size + x);
                    }
                }
            }
        }
    }
}

/// At least `len` of a buffer; what is in it is anybody's.
pub(super) fn at_least(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Some lines of some maps as floats, the size of each map, and how many of its lines are missing above: floats stay where
/// they lie, and none is missing.
fn stretch<'a, E: Element>(
    maps: &Maps<'a, E>,
    image: usize,
    channels: Range<usize>,
    lines: Range<usize>,
    room: &'a mut Vec<f32>,
) -> (&'a [f32], usize, usize) {
    let size = maps.height * maps.width;
    let planes = maps.maps(image, channels);
    if E::DTYPE == f32::DTYPE {
        return (E::widened(planes, room), size, 0);
    }
    let pixels = lines.start * maps.width..lines.end * maps.width;
    room.clear();
    for plane in planes.chunks_exact(size) {
        room.extend(plane[pixels.clone()].iter().map(|pixel| pixel.widen()));
    }
    (room, pixels.len(), lines.start)
}

/// Room for pixels, for vectors of any length.
fn pixels_of(buffer: &mut Vec<f32>, pixels: usize) -> *mut f32 {
    at_least(buffer, pixels * LANES).as_mut_ptr()
}

/// Maps to windows: `V = Bᵀ d B` of each tile, `[place][tile][channel]`.
pub(super) struct Inputs<'a, E> {
    pub(super) maps: &'a Maps<'a, E>,
    pub(super) parts: &'a [Part],
    /// Tiles of a row.
    pub(super) width: usize,
    pub(super) shift: [isize; 2],
    /// The places may lie further apart than tiles and channels take.
    pub(super) windows: &'a mut [f32],
    pub(super) pixels: &'a mut Vec<f32>,
    pub(super) room: &'a mut Vec<f32>,
}

/// Checks that all tiles of the parts, of `width` a row, have their channels in each place of a buffer.
fn check(buffer: &[f32], parts: &[Part], width: usize, channels: usize) {
    let tiles = |part: &Part| part.tile + part.rows.len() * width;
    assert!(parts.last().map_or(0, tiles) * channels <= buffer.len() / PLACES);
    assert!(channels.is_multiple_of(LANES));
}

impl<E: Element> Inputs<'_, E> {
    pub(super) fn run(self) {
        check(self.windows, self.parts, self.width, self.maps.channels);
        dispatch(self);
    }

    /// The sums over a column of a window: Bᵀ d.
    ///
    /// # Safety
    /// `S` must be present, and four rows of a vector must lie at `from`, `row` floats apart.
    #[inline(always)]
    unsafe fn column<S: Simd>(from: *const f32, row: usize) -> [S::Vector; 4] {
        // SAFETY: the caller guarantees the instruction set and the rows.
        unsafe {
            let (a, b) = (S::load(from), S::load(from.add(row)));
            let (c, d) = (S::load(from.add(2 * row)), S::load(from.add(3 * row)));
            [S::sub(a, c), S::add(b, c), S::sub(c, b), S::sub(b, d)]
        }
    }
}

impl<E: Element> Kernel for Inputs<'_, E> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.maps.channels;
        let apart = self.windows.len() / PLACES;
        for part in self.parts {
            let pixels = Pixels::new(part, self.width, self.shift, 2);
            let at = pixels_of(self.pixels, pixels.height * pixels.width);
            let row = pixels.width * S::LANES;
            for channel in (0..channels).step_by(S::LANES) {
                // SAFETY: the caller guarantees the instruction set; `run` has checked that windows have room for all
                // tiles, and `at` has it for the pixels.
                unsafe {
                    pixels.fill::<S, E>(self.maps, part.image, channel, at, self.room);
                    let mut to = self
                        .windows
                        .as_mut_ptr()
                        .add(part.tile * channels + channel);
                    for y in 0..part.rows.len() {
                        let mut from = at.add(2 * y * row).cast_const();
                        // The last two columns of a window are the first two of the next.
                        let mut a = Self::column::<S>(from, row);
                        let mut b = Self::column::<S>(from.add(S::LANES), row);
                        for _ in 0..self.width {
                            from = from.add(2 * S::LANES);
                            let c = Self::column::<S>(from, row);
                            let d = Self::column::<S>(from.add(S::LANES), row);
                            for i in 0..4 {
                                let to = to.add(4 * i * apart);
                                S::store(to, S::sub(a[i], c[i]));
                                S::store(to.add(apart), S::add(b[i], c[i]));
                                S::store(to.add(2 * apart), S::sub(c[i], b[i]));
                                S::store(to.add(3 * apart), S::sub(b[i], d[i]));
                            }
                            (a, b) = (c, d);
                            to = to.add(channels);
                        }
                    }
                }
            }
        }
    }
}

/// The gradient of maps to that of sums: `A dY Aᵀ` of each tile, `[place][tile][channel]`.
pub(super) struct Gradients<'a, E> {
    pub(super) maps: &'a Maps<'a, E>,
    pub(super) parts: &'a [Part],
    /// Tiles of a row.
    pub(super) width: usize,
    /// The places may lie further apart than tiles and channels take.
    pub(super) slopes: &'a mut [f32],
    pub(super) pixels: &'a mut Vec<f32>,
    pub(super) room: &'a mut Vec<f32>,
}

impl<E: Element> Gradients<'_, E> {
    pub(super) fn run(self) {
        check(self.slopes, self.parts, self.width, self.maps.channels);
        dispatch(self);
    }
}

impl<E: Element> Kernel for Gradients<'_, E> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let channels = self.maps.channels;
        let apart = self.slopes.len() / PLACES;
        for part in self.parts {
            let pixels = Pixels::new(part, self.width, [0, 0], 0);
            let at = pixels_of(self.pixels, pixels.height * pixels.width);
            let row = pixels.width * S::LANES;
            for channel in (0..channels).step_by(S::LANES) {
                // SAFETY: the caller guarantees the instruction set; `run` has checked that slopes have room for all
                // tiles, and `at` has it for the pixels.
                unsafe {
                    pixels.fill::<S, E>(self.maps, part.image, channel, at, self.room);
                    let mut to = self.slopes.as_mut_ptr().add(part.tile * channels + channel);
                    let zero = S::zero();
                    for y in 0..part.rows.len() {
                        let mut from = at.add(2 * y * row).cast_const();
                        for _ in 0..self.width {
                            let (a, b) = (S::load(from), S::load(from.add(S::LANES)));
                            let below = from.add(row);
                            let (c, d) = (S::load(below), S::load(below.add(S::LANES)));
                            let left = [a, S::add(a, c), S::sub(a, c), S::sub(zero, c)];
                            let right = [b, S::add(b, d), S::sub(b, d), S::sub(zero, d)];
                            for i in 0..4 {
                                let to = to.add(4 * i * apart);
                                S::store(to, left[i]);
                                S::store(to.add(apart), S::add(left[i], right[i]));
                                S::store(to.add(2 * apart), S::sub(left[i], right[i]));
                                S::store(to.add(3 * apart), S::sub(zero, right[i]));
                            }
                            from = from.add(2 * S::LANES);
                            to = to.add(channels);
                        }
                    }
                }
            }
        }
    }
}

/// Sums to maps: `Y = Aᵀ M A` of each tile, where M is `[place][tile][channel]`.
pub(super) struct Outputs<'a, E> {
    /// The places may lie further apart than tiles and channels take.
    pub(super) sums: &'a [f32],
    pub(super) parts: &'a [Part],
    /// Tiles of a row.
    pub(super) width: usize,
    /// Whole maps; the tasks that write into it have parts of their own.
    pub(super) target: &'a Target<'a, E>,
    pub(super) pixels: &'a mut Vec<f32>,
    pub(super) room: &'a mut Vec<f32>,
}

impl<E: Element> Outputs<'_, E> {
    pub(super) fn run(self) {
        let Target {
            channels,
            height,
            width,
            ..
        } = *self.target;
        check(self.sums, self.parts, self.width, channels);
        assert!(width.div_ceil(2) == self.width);
        let within = |part: &Part| part.rows.end <= height.div_ceil(2);
        assert!(self.parts.iter().all(within));
        dispatch(self);
    }

    /// Aᵀ of a column.
    ///
    /// # Safety
    /// `S` must be present, and four vectors must lie at `from`, `4 · apart` floats apart.
    #[inline(always)]
    unsafe fn column<S: Simd>(from: *const f32, apart: usize) -> [S::Vector; 2] {
        // SAFETY: the caller guarantees the instruction set and the vectors.
        unsafe {
            let (a, b) = (S::load(from), S::load(from.add(4 * apart)));
            let (c, d) = (S::load(from.add(8 * apart)), S::load(from.add(12 * apart)));
            [S::add(a, S::add(b, c)), S::sub(S::sub(b, c), d)]
        }
    }
}

impl<E: Element> Kernel for Outputs<'_, E> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Target {
            channels,
            height,
            width,
            ..
        } = *self.target;
        let apart = self.sums.len() / PLACES;
        let size = height * width;
        for part in self.parts {
            let lines = (2 * part.rows.end).min(height) - 2 * part.rows.start;
            let count = lines * width;
            let at = pixels_of(self.pixels, count);
            for channel in (0..channels).step_by(S::LANES) {
                // SAFETY: the caller guarantees the instruction set; `run` has checked that sums hold all tiles, and `at` has
                // room for the pixels. Only pixels of the map are written, in rows that no other task has.
                unsafe {
                    let mut from = self.sums.as_ptr().add(part.tile * channels + channel);
                    for y in 0..part.rows.len() {
                        for x in 0..self.width {
                            let a = Self::column::<S>(from, apart);
                            let b = Self::column::<S>(from.add(apart), apart);
                            let c = Self::column::<S>(from.add(2 * apart), apart);
                            let d = Self::column::<S>(from.add(3 * apart), apart);
                            from = from.add(channels);
                            for i in 0..2 {
                                let line = 2 * y + i;
                                if line >= lines {
                                    break;
                                }
                                let to = at.add((line * width + 2 * x) * S::LANES);
                                S::store(to, S::add(a[i], S::add(b[i], c[i])));
                                if 2 * x + 1 < width {
                                    S::store(to.add(S::LANES), S::sub(S::sub(b[i], c[i]), d[i]));
                                }
                            }
                        }
                    }
                    let target = self.target.row_of(part.image, channel, 2 * part.rows.start);
                    // Maps of floats are written where they lie, others by way of a buffer.
                    let (to, size) = match E::DTYPE == f32::DTYPE {
                        true => (target.cast::<f32>(), size),
                        false => (at_least(self.room, S::LANES * count).as_mut_ptr(), count),
                    };
                    let mut pixel = 0;
                    while pixel + S::LANES <= count {
                        S::transpose(at.add(pixel * S::LANES), S::LANES, to.add(pixel), size);
                        pixel += S::LANES;
                    }
                    if pixel < count && count >= S::LANES {
                        // Some of them once more.
                        let pixel = count - S::LANES;
                        S::transpose(at.add(pixel * S::LANES), S::LANES, to.add(pixel), size);
                    } else {
                        for pixel in pixel..count {
                            for lane in 0..S::LANES {
                                *to.add(lane * size + pixel) = *at.add(pixel * S::LANES + lane);
                            }
                        }
                    }
                    if E::DTYPE != f32::DTYPE {
                        for (lane, row) in self.room.chunks_exact(count).take(S::LANES).enumerate()
                        {
                            convert(row, target.add(lane * height * width));
                        }
                    }
                }
            }
        }
    }
}

/// Kernels to what multiplies windows: `U = G g Gᵀ`, `[place][input][STRIP]` for the outputs of a strip.
pub(super) struct KernelTransform<'a> {
    pub(super) weights: &'a Weights<'a>,
    /// Where each of the 3×3 taps lies in a kernel.
    pub(super) places: &'a [usize; AREA],
    pub(super) inputs: usize,
    pub(super) outputs: Range<usize>,
    pub(super) kernels: &'a mut [f32],
}

impl KernelTransform<'_> {
    pub(super) fn run(self) {
        assert_eq!(self.kernels.len(), PLACES * self.inputs * STRIP);
        assert!(self.outputs.len().is_multiple_of(LANES) && self.outputs.len() <= STRIP);
        dispatch(self);
    }

    /// G of three numbers.
    ///
    /// # Safety
    /// `S` must be present.
    #[inline(always)]
    unsafe fn expand<S: Simd>(g: [S::Vector; 3], half: S::Vector) -> [S::Vector; 4] {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            let ends = S::add(g[0], g[2]);
            let (sum, difference) = (S::add(ends, g[1]), S::sub(ends, g[1]));
            [g[0], S::mul(half, sum), S::mul(half, difference), g[2]]
        }
    }
}

impl Kernel for KernelTransform<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let apart = self.inputs * STRIP;
        let mut kernel = [[0.0_f32; LANES]; AREA];
        for first in self.outputs.clone().step_by(S::LANES) {
            for input in 0..self.inputs {
                for lane in 0..S::LANES {
                    let from = (first + lane) * self.weights.output + input * self.weights.input;
                    let from = &self.weights.values[from..];
                    for (to, &place) in kernel.iter_mut().zip(self.places) {
                        to[lane] = from[place];
                    }
                }
                // SAFETY: the caller guarantees the instruction set; `run` has checked that there is room for every place
                // of a strip, and the rows of `kernel` are as long as the longest vector.
                unsafe {
                    let half = S::splat(0.5);
                    let g = |tap: usize| S::load(kernel[tap].as_ptr());
                    let a = Self::expand::<S>([g(0), g(3), g(6)], half);
                    let b = Self::expand::<S>([g(1), g(4), g(7)], half);
                    let c = Self::expand::<S>([g(2), g(5), g(8)], half);
                    let to = input * STRIP + first - self.outputs.start;
                    let to = self.kernels.as_mut_ptr().add(to);
                    for i in 0..4 {
                        let row = Self::expand::<S>([a[i], b[i], c[i]], half);
                        for (j, value) in row.into_iter().enumerate() {
                            S::store(to.add((4 * i + j) * apart), value);
                        }
                    }
                }
            }
        }
    }
}

/// The gradient of U to that of the kernels of an output: `dg = Gᵀ dU G`, of the sum of all partial ones.
pub(super) struct Finish<'a> {
    /// Each `[place][output][input]`.
    pub(super) partial: &'a [Vec<f32>],
    pub(super) output: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Where each of the 3×3 taps lies in a kernel.
    pub(super) places: &'a [usize; AREA],
    /// `[input][AREA]`
    pub(super) dw: &'a mut [f32],
}

impl Finish<'_> {
    pub(super) fn run(self) {
        let length = PLACES * self.outputs * self.inputs;
        assert!(self.partial.iter().all(|part| part.len() == length));
        assert!(self.output < self.outputs && self.inputs.is_multiple_of(LANES));
        assert_eq!(self.dw.len(), self.inputs * AREA);
        dispatch(self);
    }

    /// Gᵀ of four numbers.
    ///
    /// # Safety
    /// `S` must be present.
    #[inline(always)]
    unsafe fn fold<S: Simd>(u: [S::Vector; 4], half: S::Vector) -> [S::Vector; 3] {
        // SAFETY: the caller guarantees the instruction set.
        unsafe {
            let sum = S::mul(half, S::add(u[1], u[2]));
            let difference = S::mul(half, S::sub(u[1], u[2]));
            [S::add(u[0], sum), difference, S::add(sum, u[3])]
        }
    }
}

impl Kernel for Finish<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let apart = self.outputs * self.inputs;
        let mut kernel = [[0.0_f32; LANES]; AREA];
        for input in (0..self.inputs).step_by(S::LANES) {
            let at = self.output * self.inputs + input;
            // SAFETY: the caller guarantees the instruction set; `run` has checked that `at` and the places after it lie in
            // every partial gradient, and the rows of `kernel` are as long as the longest vector.
            unsafe {
                let half = S::splat(0.5);
                let mut columns = [[S::zero(); 3]; 4];
                for (j, column) in columns.iter_mut().enumerate() {
                    let mut sums = [S::zero(); 4];
                    for part in self.partial {
                        for (i, sum) in sums.iter_mut().enumerate() {
                            let part = part.as_ptr().add((4 * i + j) * apart + at);
                            *sum = S::add(*sum, S::load(part));
                        }
                    }
                    *column = Self::fold::<S>(sums, half);
                }
                for i in 0..3 {
                    let row = [columns[0][i], columns[1][i], columns[2][i], columns[3][i]];
                    for (j, value) in Self::fold::<S>(row, half).into_iter().enumerate() {
                        S::store(kernel[3 * i + j].as_mut_ptr(), value);
                    }
                }
            }
            for lane in 0..S::LANES {
                let to = &mut self.dw[(input + lane) * AREA..][..AREA];
                for (from, &place) in kernel.iter().zip(self.places) {
                    to[place] = from[lane];
                }
            }
        }
    }
}

/// `out[r][c] = Σ_k left[r·left_row + k·left_step] · right[strip][k][c]`, added to what is there if `accumulate`.
///
/// Vectors run along the columns. The columns of the right matrix come in strips of [`STRIP`]: column c of row k is at
/// `c / STRIP · right_strip + k · right_row + c % STRIP`.
pub(super) struct Product<'a> {
    pub(super) left: &'a [f32],
    pub(super) left_row: usize,
    pub(super) left_step: usize,
    pub(super) right: &'a [f32],
    pub(super) right_row: usize,
    pub(super) right_strip: usize,
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) columns: usize,
    /// `[rows][columns]`
    pub(super) out: &'a mut [f32],
    pub(super) accumulate: bool,
}

impl Product<'_> {
    /// # Panics
    /// If a slice is too short for what the numbers say, or columns are no whole vectors.
    pub(super) fn run(self) {
        assert!(self.rows > 0 && self.depth > 0 && self.columns > 0);
        assert!(self.columns.is_multiple_of(LANES));
        let last = (self.rows - 1) * self.left_row + (self.depth - 1) * self.left_step;
        assert!(last < self.left.len());
        let strips = (self.columns - 1) / STRIP;
        let rest = self.columns - strips * STRIP;
        let reach = strips * self.right_strip + (self.depth - 1) * self.right_row + rest;
        assert!(reach <= self.right.len() && (strips == 0 || self.right_row >= STRIP));
        assert!(self.rows * self.columns <= self.out.len());
        dispatch(self);
    }

    /// A tile of `R` rows, a multiple of 4 or less than that, by `V` vectors.
    ///
    /// # Safety
    /// `S` must be present, and what `run` asserts must hold from these addresses on.
    #[inline(always)]
    unsafe fn tile<S: Simd, const V: usize, const R: usize>(
        &self,
        mut left: *const f32,
        mut right: *const f32,
        out: *mut f32,
        depth: usize,
        accumulate: bool,
    ) {
        // SAFETY: the caller guarantees the instruction set, and that what `run` asserts holds from these addresses on.
        unsafe {
            let mut sums = [[S::zero(); V]; R];
            if accumulate {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = S::load(out.add(r * self.columns + v * S::LANES));
                    }
                }
            }
            for _ in 0..depth {
                let mut x = [S::zero(); V];
                for (v, x) in x.iter_mut().enumerate() {
                    *x = S::load(right.add(v * S::LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let w = S::splat(*left.add(r * self.left_row));
                    for (sum, &x) in sums.iter_mut().zip(&x) {
                        *sum = S::mul_add(w, x, *sum);
                    }
                }
                left = left.add(self.left_step);
                right = right.add(self.right_row);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, &sum) in sums.iter().enumerate() {
                    S::store(out.add(r * self.columns + v * S::LANES), sum);
                }
            }
        }
    }

    /// All rows of `V` vectors of columns from `column` on, for a part of the depth.
    ///
    /// # Safety
    /// As `tile`.
    #[inline(always)]
    unsafe fn column<S: Simd, const V: usize>(
        &self,
        column: usize,
        part: Range<usize>,
        out: *mut f32,
    ) {
        let (depth, accumulate) = (part.len(), self.accumulate || part.start > 0);
        let mut row = 0;
        // SAFETY: the caller guarantees what `tile` wants for these columns; `R` rows are left for each tile.
        unsafe {
            let right = column / STRIP * self.right_strip + part.start * self.right_row;
            let right = self.right.as_ptr().add(right + column % STRIP);
            while row < self.rows {
                let left = row * self.left_row + part.start * self.left_step;
                let left = self.left.as_ptr().add(left);
                let out = out.add(row * self.columns + column);
                row += match self.rows - row {
                    12.. if S::MANY_REGISTERS => {
                        self.tile::<S, V, 12>(left, right, out, depth, accumulate);
                        12
                    }
                    6.. => {
                        self.tile::<S, V, 6>(left, right, out, depth, accumulate);
                        6
                    }
                    4.. => {
                        self.tile::<S, V, 4>(left, right, out, depth, accumulate);
                        4
                    }
                    2.. => {
                        self.tile::<S, V, 2>(left, right, out, depth, accumulate);
                        2
                    }
                    _ => {
                        self.tile::<S, V, 1>(left, right, out, depth, accumulate);
                        1
                    }
                };
            }
        }
    }
}

impl Kernel for Product<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let out = self.out.as_mut_ptr();
        for first in (0..self.depth).step_by(DEPTH) {
            let part = first..(first + DEPTH).min(self.depth);
            let mut column = 0;
            while column < self.columns {
                // SAFETY: the caller guarantees the instruction set; `run` has checked the lengths, and two vectors never reach
                // beyond a strip.
                unsafe {
                    if column + 2 * S::LANES <= self.columns {
                        self.column::<S, 2>(column, part.clone(), out);
                        column += 2 * S::LANES;
                    } else {
                        self.column::<S, 1>(column, part.clone(), out);
                        column += S::LANES;
                    }
                }
            }
        }
    }
}
