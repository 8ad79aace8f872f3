//! Which centroids can be the best one of a sample, told from eight bits of each number.
//!
//! A product of bytes takes a quarter of the time of one of floats. It errs, but by no more than can be said beforehand:
//! with `x = a·q + e`, where `q` are whole numbers of at most 127 and `e` is what they leave, and `c` likewise,
//!
//! ```text
//! |⟨x, c⟩ − a_x·a_c·⟨q_x, q_c⟩|  =  |⟨e_x, c⟩ + ⟨a_x·q_x, e_c⟩|  ≤  ‖e_x‖·‖c‖ + (‖x‖ + ‖e_x‖)·‖e_c‖
//! ```
//!
//! So a centroid that falls short of the best by more than twice that is not it. Of thousands there remain a few, and
//! those are compared in floats: what is found is what would have been found without. A sample with too many
//! left, as there are when all centroids are alike, is for others to search.

use std::arch::x86_64::*;

/// Centroids of a tile: two vectors.
const WIDTH: usize = 2 * LANES;
/// Numbers of 32 bits in a vector.
const LANES: usize = 16;
/// Bytes that an instruction multiplies and adds up in each of them.
const GROUP: usize = 4;
/// Samples of a tile.
const ROWS: usize = 12;
/// The candidates that a sample can have at a time.
const CANDIDATES: usize = 64;

/// Centroids as bytes, on a processor that multiplies those.
pub(super) struct Screen<'a> {
    centroids: &'a [f32],
    dim: usize,
    /// `[tile][dim / 4][32][4]`, with zeros where there are no more dimensions or centroids.
    bytes: Vec<i8>,
    /// −128 times the sum of the bytes of each: samples come with 128 added.
    starts: Vec<i32>,
    /// What the bytes of each are multiples of.
    scales: Vec<f32>,
    /// The largest length of a centroid, and of what its bytes leave.
    length: f32,
    residual: f32,
}

impl<'a> Screen<'a> {
    /// For `centroids`, `[K, dim]`; none if this processor cannot, or they are no finite numbers.
    pub(super) fn new(centroids: &'a [f32], dim: usize) -> Option<Self> {
        let present = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("fma");
        // Sums of products of bytes must fit 32 bits.
        if !present || dim > 1 << 15 {
            return None;
        }
        let count = centroids.len() / dim;
        let (tiles, groups) = (count.div_ceil(WIDTH), dim.div_ceil(GROUP));
        let mut screen = Self {
            centroids,
            dim,
            bytes: vec![0; tiles * groups * WIDTH * GROUP],
            starts: vec![0; tiles * WIDTH],
            scales: vec![0.0; tiles * WIDTH],
            length: 0.0,
            residual: 0.0,
        };
        let mut row = vec![0; groups * GROUP];
        for (k, centroid) in centroids.chunks_exact(dim).enumerate() {
            let quantised = quantise(centroid, &mut row);
            let tile = &mut screen.bytes[k / WIDTH * groups * WIDTH * GROUP..];
            for (group, bytes) in row.chunks_exact(GROUP).enumerate() {
                tile[(group * WIDTH + k % WIDTH) * GROUP..][..GROUP].copy_from_slice(bytes);
            }
            screen.starts[k] = -128 * row.iter().map(|&byte| i32::from(byte)).sum::<i32>();
            screen.scales[k] = quantised.scale;
            screen.length = screen.length.max(quantised.length);
            screen.residual = screen.residual.max(quantised.residual);
            if !quantised.length.is_finite() {
                return None;
            }
        }
        Some(screen)
    }

    /// Finds the best centroid of each of `samples`, `[N, dim]`, and returns the samples of which it could not.
    pub(super) fn search(&self, samples: &[f32], found: &mut [u32]) -> Vec<usize> {
        // SAFETY: `new` has seen that the instructions are present.
        unsafe { self.search_by_bytes(samples, found) }
    }

    /// # Safety
    /// The instructions must be present.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    unsafe fn search_by_bytes(&self, samples: &[f32], found: &mut [u32]) -> Vec<usize> {
        let groups = self.dim.div_ceil(GROUP);
        // Whole tiles of rows: those that are too many find nothing. `[tile][dim / 4][12][4]`.
        let rows = found.len().next_multiple_of(ROWS);
        let mut bytes = vec![0_i8; rows * groups * GROUP];
        let mut shortlists = vec![Shortlist::empty(); rows];
        let mut row = vec![0; groups * GROUP];
        let of_samples = samples
            .chunks_exact(self.dim)
            .zip(&mut shortlists)
            .enumerate();
        for (number, (sample, shortlist)) in of_samples {
            *shortlist = Shortlist::of(&quantise(sample, &mut row), self);
            let tile = &mut bytes[number / ROWS * groups * ROWS * GROUP..];
            for (group, row) in row.chunks_exact(GROUP).enumerate() {
                let to = &mut tile[(group * ROWS + number % ROWS) * GROUP..][..GROUP];
                // 128 more, as a byte without a sign.
                to.iter_mut()
                    .zip(row)
                    .for_each(|(to, byte)| *to = byte ^ -128);
            }
        }
        for tile in 0..self.starts.len() / WIDTH {
            for (row, shortlists) in shortlists.chunks_exact_mut(ROWS).enumerate() {
                let bytes = &bytes[row * ROWS * groups * GROUP..][..ROWS * groups * GROUP];
                // SAFETY: the caller guarantees the instructions; `bytes` are those of a whole tile of rows.
                unsafe { self.tile(tile, bytes, shortlists) };
            }
        }
        let mut undecided = Vec::new();
        let samples = samples.chunks_exact(self.dim).enumerate();
        for (((number, sample), shortlist), found) in samples.zip(&shortlists).zip(found) {
            match shortlist.best(sample, self) {
                Some(best) => *found = best,
                None => undecided.push(number),
            }
        }
        undecided
    }

    /// Holds the centroids of a tile against [`ROWS`] samples.
    ///
    /// # Safety
    /// The instructions must be present; `bytes` are `[dim / 4][ROWS][4]`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma")]
    unsafe fn tile(&self, tile: usize, bytes: &[i8], shortlists: &mut [Shortlist]) {
        let groups = self.dim.div_ceil(GROUP);
        let first = tile * WIDTH;
        let centroids = &self.bytes[first * groups * GROUP..][..groups * WIDTH * GROUP];
        let (starts, scales) = (
            &self.starts[first..][..WIDTH],
            &self.scales[first..][..WIDTH],
        );
        // SAFETY: the caller guarantees the instructions and the length of `bytes`; all other addresses lie in these slices,
        // whose lengths have just been seen.
        unsafe {
            let load = |from: *const i32| _mm512_loadu_si512(from.cast());
            let start = [load(starts.as_ptr()), load(starts.as_ptr().add(LANES))];
            let mut sums = [start; ROWS];
            let mut centroid = centroids.as_ptr().cast::<i32>();
            let mut sample = bytes.as_ptr().cast::<i32>();
            for _ in 0..groups {
                let (a, b) = (load(centroid), load(centroid.add(LANES)));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let four = _mm512_set1_epi32(sample.add(row).read_unaligned());
                    sums[0] = _mm512_dpbusd_epi32(sums[0], four, a);
                    sums[1] = _mm512_dpbusd_epi32(sums[1], four, b);
                }
                centroid = centroid.add(WIDTH);
                sample = sample.add(ROWS);
            }
            // By way of memory: a loop over registers that is not unrolled would keep them out of registers above.
            let mut stored = [[0_i32; WIDTH]; ROWS];
            for (stored, sums) in stored.iter_mut().zip(&sums) {
                _mm512_storeu_si512(stored.as_mut_ptr().cast(), sums[0]);
                _mm512_storeu_si512(stored.as_mut_ptr().add(LANES).cast(), sums[1]);
            }
            let scales = scales.as_ptr();
            let (a, b) = (_mm512_loadu_ps(scales), _mm512_loadu_ps(scales.add(LANES)));
            for (sums, shortlist) in stored.iter().zip(shortlists) {
                let bar = _mm512_set1_ps(shortlist.bar);
                let sums = sums.as_ptr();
                let low = _mm512_mul_ps(_mm512_cvtepi32_ps(load(sums)), a);
                let high = _mm512_mul_ps(_mm512_cvtepi32_ps(load(sums.add(LANES))), b);
                let low_passes = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(low, bar);
                let high_passes = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(high, bar);
                if low_passes | high_passes == 0 {
                    continue;
                }
                let mut scores = [0.0_f32; WIDTH];
                _mm512_storeu_ps(scores.as_mut_ptr(), low);
                _mm512_storeu_ps(scores.as_mut_ptr().add(LANES), high);
                let mut passes = u32::from(low_passes) | u32::from(high_passes) << LANES;
                while passes != 0 {
                    let lane = passes.trailing_zeros() as usize;
                    passes &= passes - 1;
                    if (first + lane) * self.dim < self.centroids.len() {
                        shortlist.offer((first + lane) as u32, scores[lane]);
                    }
                }
            }
        }
    }
}

/// The centroids that can still be the best of a sample. Scores are in units of the sample's scale.
#[derive(Clone)]
struct Shortlist {
    /// What a score has to reach: the best so far, less the margin.
    bar: f32,
    margin: f32,
    count: usize,
    candidates: [(f32, u32); CANDIDATES],
}

impl Shortlist {
    /// Of a row that is no sample.
    fn empty() -> Self {
        Self {
            bar: f32::INFINITY,
            margin: 0.0,
            count: 0,
            candidates: [(0.0, 0); CANDIDATES],
        }
    }

    fn of(sample: &Quantised, screen: &Screen<'_>) -> Self {
        let error =
            sample.residual * screen.length + (sample.length + sample.residual) * screen.residual;
        // What floats leave, in the products that decide and in these very lines.
        let rounding = 4.0 * f32::EPSILON * (screen.dim + 4) as f32;
        let rounding = rounding * sample.length * screen.length;
        let margin = 2.0 * (1.001 * error + rounding) / sample.scale;
        Self {
            // Of what is no finite number nothing is said.
            bar: if margin.is_finite() {
                f32::NEG_INFINITY
            } else {
                f32::INFINITY
            },
            margin,
            ..Self::empty()
        }
    }

    /// Takes in a centroid that has passed the bar.
    #[inline]
    fn offer(&mut self, centroid: u32, score: f32) {
        if self.count == CANDIDATES {
            self.prune();
            if self.count > CANDIDATES / 2 {
                // Too many are alike.
                self.count = 0;
                self.bar = f32::INFINITY;
            }
        }
        if score >= self.bar {
            self.candidates[self.count] = (score, centroid);
            self.count += 1;
            self.bar = self.bar.max(score - self.margin);
        }
    }

    /// Drops candidates that are none any more.
    fn prune(&mut self) {
        let mut kept = 0;
        for at in 0..self.count {
            if self.candidates[at].0 >= self.bar {
                self.candidates[kept] = self.candidates[at];
                kept += 1;
            }
        }
        self.count = kept;
    }

    /// The best of the candidates by their products with `sample`, of equal ones the first; none without candidates.
    #[inline(always)]
    fn best(&self, sample: &[f32], screen: &Screen<'_>) -> Option<u32> {
        let mut best = None;
        for &(score, k) in &self.candidates[..self.count] {
            if score < self.bar {
                continue;
            }
            let centroid = &screen.centroids[k as usize * screen.dim..][..screen.dim];
            let product = dot(sample, centroid);
            if best.is_none_or(|(most, _)| product > most) {
                best = Some((product, k));
            }
        }
        best.map(|(_, k)| k)
    }
}

/// How a row was rounded to multiples of a scale.
struct Quantised {
    scale: f32,
    /// The length of the row, and that of what rounding leaves.
    length: f32,
    residual: f32,
}

/// Rounds `row` to multiples, of at most 127, of a number; `bytes` says which, with zeros behind the end.
#[inline(always)]
fn quantise(row: &[f32], bytes: &mut [i8]) -> Quantised {
    // Added to a small number, the lowest bits of the sum are the nearest integer.
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23
    let largest = row.iter().fold(
        0.0_f32,
        |most, x| if x.abs() > most { x.abs() } else { most },
    );
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    let inverse = 1.0 / scale;
    // In units of the scale, where no square is too large or too small.
    let (mut length, mut residual) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let mut round = |row: &[f32], bytes: &mut [i8]| {
        for (lane, (&x, byte)) in row.iter().zip(bytes).enumerate() {
            let x = x * inverse;
            let shifted = x + ROUND;
            let rest = x - (shifted - ROUND);
            *byte = shifted.to_bits() as i8;
            length[lane] += x * x;
            residual[lane] += rest * rest;
        }
    };
    let (chunks, tail) = row.as_chunks::<LANES>();
    let (byte_chunks, byte_tail) = bytes.as_chunks_mut::<LANES>();
    for (row, bytes) in chunks.iter().zip(&mut *byte_chunks) {
        round(row, bytes);
    }
    // Bytes come in fours: behind the last numbers there may be a whole chunk.
    match byte_chunks.get_mut(chunks.len()) {
        Some(bytes) => round(tail, bytes),
        None => round(tail, byte_tail),
    }
    let root = |sums: [f32; LANES]| scale * sums.iter().sum::<f32>().sqrt();
    Quantised {
        scale,
        length: root(length),
        residual: root(residual),
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let mut add = |a: &[f32], b: &[f32]| {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    };
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        add(a, b);
    }
    add(a_tail, b_tail);
    sums.iter().sum()
}
