//! The best of many centroids for each sample, on the CPU: a matrix product of which nothing is kept but where each
//! row is largest.
//!
//! A tile is some samples by two vectors of centroids. Its sums go from registers to a few lines of the first-level
//! cache, where they are held against the best so far; the scores as a whole are never there. Where the processor has
//! products of bytes, most centroids are ruled out by those first (see `screen.rs`).

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::screen::Screen;
use super::vectors::{Kernel, Simd, dispatch};

/// Samples of a task: with a tile of centroids they fit into the caches that a core has for itself.
const SAMPLES: usize = 96;
/// The longest vector there is, in floats.
const LANES: usize = 16;
/// Centroids of a tile, at most.
const WIDTH: usize = 2 * LANES;

/// For each of `samples`, `[N, dim]`, the index of the one of `centroids`, `[K, dim]`, with the largest inner product;
/// of equal ones the first. Centroids that are not numbers are never chosen, except the first.
///
/// # Panics
/// If there is no centroid, `dim` is 0, or a slice is no whole number of rows.
pub(crate) fn nearest(samples: &[f32], centroids: &[f32], dim: usize) -> Vec<u32> {
    assert!(dim > 0 && !centroids.is_empty());
    assert!(samples.len().is_multiple_of(dim) && centroids.len().is_multiple_of(dim));
    let packed = dispatch(Pack { centroids, dim });
    #[cfg(target_arch = "x86_64")]
    let screen = Screen::new(centroids, dim);
    let mut found = vec![0; samples.len() / dim];
    samples
        .par_chunks(SAMPLES * dim)
        .zip(found.par_chunks_mut(SAMPLES))
        .for_each(|(samples, found)| {
            #[cfg(target_arch = "x86_64")]
            if let Some(screen) = &screen {
                let undecided = screen.search(samples, found);
                search_some(&undecided, samples, &packed, dim, found);
                return;
            }
            search(samples, &packed, dim, found);
        });
    found
}

/// Searches for no more than [`SAMPLES`].
fn search(samples: &[f32], packed: &[f32], dim: usize, found: &mut [u32]) {
    dispatch(Search {
        samples,
        packed,
        dim,
        found,
    });
}

/// Searches for the samples `chosen` alone.
#[cfg(target_arch = "x86_64")]
fn search_some(chosen: &[usize], samples: &[f32], packed: &[f32], dim: usize, found: &mut [u32]) {
    if chosen.is_empty() {
        return;
    }
    let rows = chosen.iter().flat_map(|row| &samples[row * dim..][..dim]);
    let rows: Vec<f32> = rows.copied().collect();
    let mut of_rows = vec![0; chosen.len()];
    search(&rows, packed, dim, &mut of_rows);
    for (&row, best) in chosen.iter().zip(of_rows) {
        found[row] = best;
    }
}

/// Centroids in the order of the kernel: `[tile][dim][2·lanes]`. The last tile is filled up with the first
/// centroid, which is never better than itself.
struct Pack<'a> {
    centroids: &'a [f32],
    dim: usize,
}

impl Kernel for Pack<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Vec<f32> {
        let (width, dim) = (2 * S::LANES, self.dim);
        let count = self.centroids.len() / dim;
        let mut packed = vec![0.0; count.div_ceil(width) * width * dim];
        for (tile, packed) in packed.chunks_exact_mut(width * dim).enumerate() {
            for lane in 0..width {
                let centroid = tile * width + lane;
                let centroid = if centroid < count { centroid } else { 0 };
                let values = &self.centroids[centroid * dim..][..dim];
                for (to, &value) in packed[lane..].iter_mut().step_by(width).zip(values) {
                    *to = value;
                }
            }
        }
        packed
    }
}

/// The search of a task.
struct Search<'a> {
    samples: &'a [f32],
    packed: &'a [f32],
    dim: usize,
    found: &'a mut [u32],
}

/// The best so far of a sample: the sums of the tile that holds it.
#[derive(Clone, Copy)]
struct Best {
    value: f32,
    tile: u32,
    sums: [f32; WIDTH],
}

impl Kernel for Search<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = 2 * S::LANES;
        let count = self.found.len();
        let nothing = Best {
            value: f32::NEG_INFINITY,
            tile: 0,
            sums: [f32::NEG_INFINITY; WIDTH],
        };
        let mut best = [nothing; SAMPLES];
        let best = &mut best[..count];
        for (tile, packed) in self.packed.chunks_exact(width * self.dim).enumerate() {
            let mut row = 0;
            while row < count {
                // SAFETY: the caller guarantees the instruction set; `R` rows are left, and `packed` is a whole tile.
                unsafe {
                    match count - row {
                        12.. if S::LANES == LANES => {
                            self.tile::<S, 12>(row, packed, tile, best);
                            row += 12;
                        }
                        6.. => {
                            self.tile::<S, 6>(row, packed, tile, best);
                            row += 6;
                        }
                        _ => {
                            self.tile::<S, 1>(row, packed, tile, best);
                            row += 1;
                        }
                    }
                }
            }
        }
        for (found, best) in self.found.iter_mut().zip(best) {
            let lane = best.sums.iter().position(|&sum| sum == best.value);
            *found = best.tile * width as u32 + lane.unwrap_or(0) as u32;
        }
    }
}

impl Search<'_> {
    /// `R` samples from `row` on against a tile.
    ///
    /// # Safety
    /// `S` must be present, `row + R` samples must be there, and `packed` must be `[dim][2·lanes]`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize>(
        &self,
        row: usize,
        packed: &[f32],
        tile: usize,
        best: &mut [Best],
    ) {
        // SAFETY: the caller guarantees the instruction set, the samples and the length of `packed`; `stored` is as wide as
        // two of the longest vectors.
        unsafe {
            let samples = self.samples.as_ptr().add(row * self.dim);
            let mut centroids = packed.as_ptr();
            let mut sums = [[S::splat(0.0); 2]; R];
            for k in 0..self.dim {
                let (a, b) = (S::load(centroids), S::load(centroids.add(S::LANES)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let sample = S::splat(*samples.add(r * self.dim + k));
                    sums[0] = S::mul_add(sample, a, sums[0]);
                    sums[1] = S::mul_add(sample, b, sums[1]);
                }
                centroids = centroids.add(2 * S::LANES);
            }
            // By way of memory: a loop over registers that is not unrolled would keep them out of registers above.
            let mut stored = [[0.0; WIDTH]; R];
            for (stored, sums) in stored.iter_mut().zip(&sums) {
                S::store(stored.as_mut_ptr(), sums[0]);
                S::store(stored.as_mut_ptr().add(S::LANES), sums[1]);
            }
            for (stored, best) in stored.iter().zip(&mut best[row..]) {
                let (a, b) = (
                    S::load(stored.as_ptr()),
                    S::load(stored.as_ptr().add(S::LANES)),
                );
                let value = S::largest(S::max(a, b));
                if value > best.value {
                    *best = Best {
                        value,
                        tile: tile as u32,
                        sums: *stored,
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::forced;
    use super::*;

    /// Numbers without an order, the same every time.
    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    fn slowly(samples: &[f32], centroids: &[f32], dim: usize) -> Vec<(u32, f64)> {
        let product = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum()
        };
        let best = |sample: &[f32]| {
            let products = centroids.chunks(dim).map(|c| product(sample, c));
            let start = (0, f64::NEG_INFINITY);
            products.enumerate().fold(start, |best, (k, value)| {
                if value > best.1 {
                    (k as u32, value)
                } else {
                    best
                }
            })
        };
        samples.chunks(dim).map(best).collect()
    }

    fn is_best(found: &[u32], samples: &[f32], centroids: &[f32], dim: usize) {
        for (i, (expected, value)) in slowly(samples, centroids, dim).into_iter().enumerate() {
            let row = |of: &[f32], i: usize| of[i * dim..][..dim].to_vec();
            let (sample, centroid) = (row(samples, i), row(centroids, found[i] as usize));
            let of_found: f64 = sample
                .iter()
                .zip(centroid)
                .map(|(&a, b)| f64::from(a) * f64::from(b))
                .sum();
            assert!(
                found[i] == expected || (value - of_found).abs() < 1e-5,
                "sample {i} of {}: {} instead of {expected}",
                found.len(),
                found[i]
            );
        }
    }

    /// Without the screen, whatever the processor has.
    fn nearest_by_floats(samples: &[f32], centroids: &[f32], dim: usize) -> Vec<u32> {
        let packed = dispatch(Pack { centroids, dim });
        let mut found = vec![0; samples.len() / dim];
        let blocks = samples.chunks(SAMPLES * dim);
        blocks
            .zip(found.chunks_mut(SAMPLES))
            .for_each(|(samples, found)| {
                search(samples, &packed, dim, found);
            });
        found
    }

    #[test]
    fn the_centroid_found_is_the_best_one_for_any_number_of_rows_and_dimensions() {
        for (samples, centroids, dim) in [
            (1, 1, 1),
            (5, 3, 2),
            (13, 33, 7),
            (97, 70, 16),
            (250, 129, 33),
            (100, 1000, 130),
        ] {
            let (x, c) = (numbers(samples * dim, 1), numbers(centroids * dim, 2));
            is_best(&nearest(&x, &c, dim), &x, &c, dim);
            for set in forced::present() {
                let found = forced::on(set, || nearest_by_floats(&x, &c, dim));
                is_best(&found, &x, &c, dim);
            }
        }
    }

    #[test]
    fn centroids_that_hardly_differ_are_told_apart() {
        let dim = 24;
        for spread in [0.5, 0.1, 1e-2, 1e-3] {
            // A few samples like the others, one of zeros, and one of numbers that have no square.
            let mut x = numbers(60 * dim, 4);
            x[..dim].fill(0.0);
            x[dim..2 * dim].iter_mut().for_each(|value| *value *= 1e-30);
            let middle = numbers(dim, 5);
            let apart = numbers(300 * dim, 6);
            let c: Vec<f32> = apart
                .iter()
                .enumerate()
                .map(|(i, value)| middle[i % dim] + spread * value)
                .collect();
            let found = nearest(&x, &c, dim);
            assert_eq!(found[0], 0, "of equal ones the first");
            is_best(&found, &x, &c, dim);
            let small = &x[dim..2 * dim];
            let large: Vec<f32> = small.iter().map(|value| value * 1e30).collect();
            assert_eq!(found[1], nearest_by_floats(&large, &c, dim)[0]);
        }
    }

    #[test]
    fn of_equal_centroids_the_first_is_found_and_none_is_made_up() {
        let centroids = [0.5_f32; 3 * 40];
        let found = nearest(&numbers(3 * 20, 3), &centroids, 3);
        assert!(found.iter().all(|&k| k == 0), "{found:?}");
        // Few enough for the screen to keep them all: twice each.
        let mut twice = numbers(3 * 7, 8);
        twice.extend_from_within(..);
        let found = nearest(&numbers(3 * 20, 3), &twice, 3);
        assert!(found.iter().all(|&k| k < 7), "{found:?}");
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let found = nearest(&[bad; 6], &centroids, 3);
            assert_eq!(found, [0, 0], "{bad}");
            let mut some = centroids;
            some[3] = bad;
            let found = nearest(&[0.1; 6], &some, 3);
            assert!(found.iter().all(|&k| k < 2), "{bad}: {found:?}");
        }
    }
}
