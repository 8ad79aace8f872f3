//! 3×3 kernels of stride 1 with fewer products: Winograd's F(2×2, 3×3) (Lavin and Gray, "Fast Algorithms for
//! Convolutional Neural Networks", CVPR 2016, section 4.1).
//!
//! Outputs are computed in tiles of 2×2, each from a window d of 4×4 inputs. With the kernels g of 3×3 weights,
//!
//! ```text
//! U = G g Gᵀ      V = Bᵀ d B      Y = Aᵀ (Σ over inputs of U ⊙ V) A
//! ```
//!
//! where ⊙ multiplies each of the 16 places by itself: 16 products instead of 36. For each place the sum over the inputs
//! is a matrix product, `[tiles, inputs]` by `[inputs, outputs]`. The gradient of the kernels is such a product too:
//!
//! ```text
//! dg = Gᵀ (Σ over tiles of (A dY Aᵀ) ⊙ V) G
//! ```
//!
//! Vectors run along the channels: no vector is cut by the edge of a map, and tiles of 4×4 maps are as good as those of
//! large ones. Maps are turned around, a block of channels by pixels at a time, on their way in and out.
//!
//! U is exact to rounding and all else is sums of a few numbers, so the result is about as near to the true one
//! as that of the plain sum.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::chunking::{TASKS_PER_THREAD, ranges};
use super::correlation::{Correlation, Target, Weights};
use super::panel::{Maps, Tap};
use super::tiles::{
    Finish, Gradients, Inputs, KernelTransform, LANES, Outputs, PLACES, Part, Product, STRIP,
    at_least,
};
use crate::ops::element::Element;

/// The side of a map, at least: a tile.
const MIN_SIDE: usize = 2;
/// Floats that a chunk's windows and sums take: they stay in a second-level cache.
const WORKING_SET: usize = 192 * 1024;
/// Tiles of a chunk.
const TILES: Range<usize> = 24..384;
/// The most partial gradients of the kernels, and the most kernels in all of them.
const SLICES: usize = 16;
const PARTIAL: usize = 1 << 20;
/// Tiles that a partial gradient sums at least: fewer would not pay for adding it.
const SUMMED: usize = 64;
/// Keeps the 16 places of a window apart in the caches, where steps of a power of two would fight for one place.
const PLACE_PADDING: usize = 16;

/// A correlation that is worth it.
pub(super) struct Winograd<'a> {
    correlation: &'a Correlation,
    /// Tiles of an output map, along its height and its width.
    tiles: [usize; 2],
    /// Where the window of the first tile begins.
    shift: [isize; 2],
    /// The place in the kernel of each of the 3×3 taps.
    places: [usize; 9],
}

/// Buffers that a thread keeps.
#[derive(Default)]
struct Scratch {
    windows: Vec<f32>,
    sums: Vec<f32>,
    pixels: Vec<f32>,
    room: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<'a> Winograd<'a> {
    /// If it is 3×3 with stride 1, and maps and channels are many enough.
    pub(super) fn of(correlation: &'a Correlation) -> Option<Self> {
        let Correlation {
            groups,
            inputs,
            outputs,
            step,
            height,
            width,
            ..
        } = *correlation;
        let served = groups == 1
            && step == 1
            && inputs.is_multiple_of(LANES)
            && outputs.is_multiple_of(LANES)
            && height.min(width) >= MIN_SIDE
            && correlation.taps() == 9;
        if !served {
            return None;
        }
        let deltas = &correlation.taps.deltas;
        let least = |of: fn(&Tap) -> isize| deltas.iter().map(of).min();
        let shift = [least(|tap| tap.dy)?, least(|tap| tap.dx)?];
        let mut places = [usize::MAX; 9];
        for (tap, &place) in deltas.iter().zip(&correlation.taps.places) {
            let at = (tap.dy - shift[0]) * 3 + tap.dx - shift[1];
            *places.get_mut(usize::try_from(at).ok()?)? = place;
        }
        (!places.contains(&usize::MAX)).then_some(Self {
            correlation,
            tiles: [height.div_ceil(2), width.div_ceil(2)],
            shift,
            places,
        })
    }

    /// Rows of tiles of all images: what chunks are made of.
    fn rows(&self) -> usize {
        self.correlation.images * self.tiles[0]
    }

    /// Rows of tiles of a chunk, for at least so many `tasks`.
    fn chunk(&self, tasks: usize) -> usize {
        let channels = self.correlation.inputs + self.correlation.outputs;
        let tiles = (WORKING_SET / (PLACES * channels)).clamp(TILES.start, TILES.end);
        let share = self.rows().div_ceil(tasks);
        (tiles / self.tiles[1]).min(share).max(1)
    }

    /// The stretches of rows that lie within an image each.
    fn parts(&self, rows: Range<usize>) -> Vec<Part> {
        let [height, width] = self.tiles;
        let images = rows.start / height..rows.end.div_ceil(height);
        let part = |image: usize| {
            let first = (image * height).max(rows.start);
            let last = ((image + 1) * height).min(rows.end);
            Part {
                image,
                rows: first - image * height..last - image * height,
                tile: (first - rows.start) * width,
            }
        };
        images.map(part).collect()
    }

    /// The windows of a chunk: `[place][tile][input]`.
    fn windows<E: Element>(
        &self,
        maps: &Maps<E>,
        parts: &[Part],
        windows: &mut [f32],
        pixels: &mut Vec<f32>,
        room: &mut Vec<f32>,
    ) {
        Inputs {
            maps,
            parts,
            width: self.tiles[1],
            shift: self.shift,
            windows,
            pixels,
            room,
        }
        .run();
    }

    /// Computes all outputs.
    pub(super) fn run<E: Element>(&self, maps: &Maps<E>, weights: &Weights, target: &Target<E>) {
        let &Correlation {
            inputs, outputs, ..
        } = self.correlation;
        let kernels = self.kernels(weights);
        let size = self.chunk(TASKS_PER_THREAD * rayon::current_num_threads());
        let rows = self.rows();
        (0..rows.div_ceil(size)).into_par_iter().for_each(|chunk| {
            let chunk = chunk * size..((chunk + 1) * size).min(rows);
            let tiles = chunk.len() * self.tiles[1];
            let parts = self.parts(chunk);
            let (window, sum) = (
                tiles * inputs + PLACE_PADDING,
                tiles * outputs + PLACE_PADDING,
            );
            SCRATCH.with_borrow_mut(|scratch| {
                let windows = at_least(&mut scratch.windows, PLACES * window);
                let sums = at_least(&mut scratch.sums, PLACES * sum);
                let (pixels, room) = (&mut scratch.pixels, &mut scratch.room);
                self.windows(maps, &parts, windows, pixels, room);
                for (place, sums) in sums.chunks_exact_mut(sum).enumerate() {
                    Product {
                        left: &windows[place * window..][..tiles * inputs],
                        left_row: inputs,
                        left_step: 1,
                        right: &kernels[place * inputs * STRIP..],
                        right_row: STRIP,
                        right_strip: PLACES * inputs * STRIP,
                        rows: tiles,
                        depth: inputs,
                        columns: outputs,
                        out: sums,
                        accumulate: false,
                    }
                    .run();
                }
                Outputs {
                    sums,
                    parts: &parts,
                    width: self.tiles[1],
                    target,
                    pixels,
                    room,
                }
                .run();
            });
        });
    }

    /// U, in strips of the outputs: `[strip][place][input][STRIP]`.
    fn kernels(&self, weights: &Weights) -> Vec<f32> {
        let &Correlation {
            inputs, outputs, ..
        } = self.correlation;
        let strip = PLACES * inputs * STRIP;
        let mut kernels = vec![0.0; outputs.div_ceil(STRIP) * strip];
        kernels
            .par_chunks_exact_mut(strip)
            .enumerate()
            .for_each(|(index, kernels)| {
                let first = index * STRIP;
                KernelTransform {
                    weights,
                    places: &self.places,
                    inputs,
                    outputs: first..(first + STRIP).min(outputs),
                    kernels,
                }
                .run();
            });
        kernels
    }

    /// The gradient of the weights, from the input and the gradient of the output, `[output][input][3][3]`.
    pub(super) fn weight_gradient<E: Element>(
        &self,
        maps: &Maps<E>,
        gradient: &Maps<E>,
        dw: &mut [f32],
    ) {
        let &Correlation {
            inputs, outputs, ..
        } = self.correlation;
        let length = PLACES * outputs * inputs;
        let rows = self.rows();
        // By the shapes alone: the sums depend on it.
        let slices = (PARTIAL / (outputs * inputs)).clamp(1, SLICES);
        let slices = slices.min(rows * self.tiles[1] / SUMMED).max(1);
        let slices: Vec<Range<usize>> = ranges(rows, slices).collect();
        let size = self.chunk(1);
        let partial: Vec<Vec<f32>> = slices
            .into_par_iter()
            .map(|slice| {
                let mut sums = vec![0.0; length];
                for first in slice.clone().step_by(size) {
                    let chunk = first..(first + size).min(slice.end);
                    self.partial(maps, gradient, chunk, &mut sums);
                }
                sums
            })
            .collect();
        let area = self.places.len();
        dw.par_chunks_exact_mut(inputs * area)
            .enumerate()
            .for_each(|(output, dw)| {
                Finish {
                    partial: &partial,
                    output,
                    inputs,
                    outputs,
                    places: &self.places,
                    dw,
                }
                .run();
            });
    }

    /// Adds what a chunk gives to the gradient of U, `[place][output][input]`.
    fn partial<E: Element>(
        &self,
        maps: &Maps<E>,
        gradient: &Maps<E>,
        chunk: Range<usize>,
        sums: &mut [f32],
    ) {
        let &Correlation {
            inputs, outputs, ..
        } = self.correlation;
        let tiles = chunk.len() * self.tiles[1];
        let parts = self.parts(chunk);
        let (window, slope) = (
            tiles * inputs + PLACE_PADDING,
            tiles * outputs + PLACE_PADDING,
        );
        SCRATCH.with_borrow_mut(|scratch| {
            let windows = at_least(&mut scratch.windows, PLACES * window);
            let slopes = at_least(&mut scratch.sums, PLACES * slope);
            let (pixels, room) = (&mut scratch.pixels, &mut scratch.room);
            self.windows(maps, &parts, windows, pixels, room);
            Gradients {
                maps: gradient,
                parts: &parts,
                width: self.tiles[1],
                slopes,
                pixels,
                room,
            }
            .run();
            for (place, sums) in sums.chunks_exact_mut(outputs * inputs).enumerate() {
                Product {
                    left: &slopes[place * slope..][..tiles * outputs],
                    left_row: 1,
                    left_step: outputs,
                    right: &windows[place * window..][..tiles * inputs],
                    right_row: inputs,
                    right_strip: STRIP,
                    rows: outputs,
                    depth: tiles,
                    columns: inputs,
                    out: sums,
                    accumulate: true,
                }
                .run();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConvShape, forward, input_gradient, weight_gradient};
    use super::Winograd;
    use crate::ops::vectors::forced;

    /// Numbers between −1 and 1, the same every time.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    /// Every product of an output: (output, input, weight).
    fn products(shape: &ConvShape) -> Vec<[usize; 3]> {
        let [height, width] = shape.output_map();
        let mut all = Vec::new();
        for image in 0..shape.images {
            for (o, i) in (0..shape.outputs).flat_map(|o| (0..shape.inputs).map(move |i| (o, i))) {
                for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                    for (ky, kx) in (0..3).flat_map(|ky| (0..3).map(move |kx| (ky, kx))) {
                        let (Some(sy), Some(sx)) = (
                            (y + ky).checked_sub(shape.padding),
                            (x + kx).checked_sub(shape.padding),
                        ) else {
                            continue;
                        };
                        if sy < shape.height && sx < shape.width {
                            let map = image * shape.inputs + i;
                            all.push([
                                ((image * shape.outputs + o) * height + y) * width + x,
                                (map * shape.height + sy) * shape.width + sx,
                                ((o * shape.inputs + i) * 3 + ky) * 3 + kx,
                            ]);
                        }
                    }
                }
            }
        }
        all
    }

    fn near(found: &[f32], wanted: &[f64], what: &str) {
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let pairs = found.iter().zip(wanted);
        let error = norm(&mut pairs.map(|(&a, b)| f64::from(a) - b));
        let length = norm(&mut wanted.iter().copied());
        assert_eq!(found.len(), wanted.len(), "{what}");
        assert!(
            error < 2e-6 * length,
            "{what}: off by {:.1e}",
            error / length
        );
    }

    #[test]
    fn every_instruction_set_finds_the_plain_sums_and_their_gradients() {
        for (images, inputs, outputs, height, width, padding) in [
            (1, 16, 16, 4, 4, 1),
            (3, 32, 16, 4, 4, 1),
            (5, 32, 48, 3, 3, 1),
            (3, 16, 32, 2, 2, 1),
            (2, 16, 16, 2, 9, 1),
            (2, 32, 16, 4, 5, 0),
            (2, 16, 48, 5, 7, 1),
            (2, 48, 32, 9, 6, 0),
            (1, 16, 16, 7, 8, 2),
            (5, 16, 80, 6, 6, 1),
            (1, 16, 16, 40, 21, 1),
        ] {
            let shape = ConvShape {
                images,
                inputs,
                outputs,
                height,
                width,
                kernel: 3,
                stride: 1,
                padding,
                groups: 1,
            };
            assert!(Winograd::of(&shape.correlation()).is_some(), "{shape:?}");
            let (x, w) = (
                numbers(shape.input_len(), 1),
                numbers(shape.weight_len(), 2),
            );
            let dy = numbers(shape.output_len(), 3);
            let mut wanted = [vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; w.len()]];
            for [to, from, weight] in products(&shape) {
                let [x, w, dy] = [x[from], w[weight], dy[to]].map(f64::from);
                wanted[0][to] += w * x;
                wanted[1][from] += w * dy;
                wanted[2][weight] += x * dy;
            }
            for set in forced::present() {
                let found = forced::on(set, || {
                    [
                        forward(&shape, &x, &w),
                        input_gradient(&shape, &dy, &w),
                        weight_gradient(&shape, &x, &dy),
                    ]
                });
                for (what, (found, wanted)) in ["output", "input", "weight"]
                    .iter()
                    .zip(found.iter().zip(&wanted))
                {
                    near(found, wanted, &format!("{what} of {shape:?} by {set:?}"));
                }
            }
        }
    }
}
