//! The passes over a matrix of scores, on slices of `f32` on the CPU.
//!
//! Nothing but a number per prototype and one per sample changes between two rounds, so the scores are
//! only ever read: each pass goes over them once, computes the exponentials it needs anew, and leaves sums
//! behind. An exponential costs ten instructions for sixteen numbers, and storing it would cost more.
//!
//! A problem's rows are cut into chunks, and threads take chunks. Where the cuts lie depends on the
//! shape alone, and what the chunks found is put together in their order: results are the same to the
//! bit whatever the number of threads.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::vectors::{Kernel, Simd, dispatch};

/// Numbers that a chunk has at least: below this, handing it to a thread costs more than it saves.
const MIN_CHUNK: usize = 1 << 16;

/// Chunks of a problem at most.
const MAX_CHUNKS: usize = 32;

/// Bytes that the sums of all chunks of a problem, and what threads have in hand, may take.
const SCRATCH: usize = 1 << 20;

/// Rows, and vectors of a row, that are added up in `f32` before their sum goes into a larger one: equal numbers round
/// the same way again and again, and thousands of them would drift.
const BLOCK: usize = 64;

/// Bytes of codes from which on they are written past the caches: who reads them next finds them in
/// memory either way.
const STREAM_BYTES: usize = 1 << 24;

/// How far ahead of the number at hand memory is asked for the ones to come: the processor looks no further than
/// a page by itself.
const PREFETCH_DISTANCE: usize = 512;

/// Rows that are folded into a prototype's sums at once.
const FOLD: usize = 8;

/// The sums of a sample that are taken as they are. What was below 2^-126 in them, and counted as that, is then less than
/// 2^-62 of the sum, too little for any prototype to notice; other samples are done again with their largest entry
/// taken out.
const SAFE_SUMS: std::ops::RangeInclusive<f32> = 5.421_011e-20..=1.844_674_4e19; // 2^-64 to 2^64

/// The scores of `sets` problems of one size, wherever their rows lie.
#[derive(Clone, Copy)]
pub(super) struct Scores<'a> {
    /// All rows are in here.
    pub values: &'a [f32],
    /// From one problem's first row to the next one's.
    pub set_stride: usize,
    /// From one sample's row to the next one's.
    pub row_stride: usize,
    pub sets: usize,
    pub samples: usize,
    pub prototypes: usize,
}

impl<'a> Scores<'a> {
    fn row(&self, set: usize, sample: usize) -> &'a [f32] {
        let start = set * self.set_stride + sample * self.row_stride;
        &self.values[start..start + self.prototypes]
    }

    /// `R` samples' rows, from `first` on.
    fn rows<const R: usize>(&self, set: usize, first: usize) -> [&'a [f32]; R] {
        std::array::from_fn(|i| self.row(set, first + i))
    }

    /// Prototypes, rounded up to whole vectors of any width.
    fn padded(&self) -> usize {
        self.prototypes.next_multiple_of(16)
    }

    /// Samples in a chunk.
    fn chunk(&self) -> usize {
        let room = SCRATCH / (4 * self.padded() * size_of::<f32>());
        let wanted = self.samples * self.prototypes / MIN_CHUNK;
        let chunks = wanted.min(MAX_CHUNKS).min(room.max(2)).max(1);
        self.samples.div_ceil(chunks)
    }

    /// Runs `chunk` on the samples of each chunk of `set`, and returns what they found, in order.
    fn each_chunk<T: Send>(&self, chunk: impl Fn(std::ops::Range<usize>) -> T + Sync) -> Vec<T> {
        let size = self.chunk();
        let range = |i: usize| i * size..((i + 1) * size).min(self.samples);
        match self.samples.div_ceil(size) {
            1 => vec![chunk(0..self.samples)],
            chunks => (0..chunks)
                .into_par_iter()
                .map(|i| chunk(range(i)))
                .collect(),
        }
    }

    /// Runs `problem` on each set with its part of `results`. Large problems share the threads; small ones get one
    /// each, unless all of them together are not worth it.
    fn each_set<T: Send>(&self, results: &mut [T], problem: impl Fn(usize, &mut [T]) + Sync) {
        let parts = results.len() / self.sets;
        let sets = results.chunks_mut(parts).enumerate();
        if self.chunk() < self.samples || self.samples * self.prototypes * self.sets < MIN_CHUNK {
            sets.for_each(|(set, results)| problem(set, results));
        } else {
            let sets = results.par_chunks_mut(parts).enumerate();
            sets.for_each(|(set, results)| problem(set, results));
        }
    }
}

/// `ε ln Σ_i exp((s_ik − c)/ε)` of each prototype, `[sets, K]`, with the set's number `c` of `centres`; not-a-number
/// for a prototype with a score that is infinite or not a number.
pub(super) fn prototype_potentials(scores: &Scores<'_>, centres: &[f32], epsilon: f64) -> Vec<f32> {
    let mut potentials = vec![0.0; scores.sets * scores.prototypes];
    let scale = scale(epsilon);
    // The epsilon that the scores are really divided by.
    let epsilon = std::f64::consts::LOG2_E / f64::from(scale);
    scores.each_set(&mut potentials, |set, potentials| {
        let chunks = scores.each_chunk(|samples| {
            dispatch(Fold {
                scores,
                set,
                samples,
                scale,
            })
        });
        let finite = chunks.iter().all(|chunk| chunk.finite);
        let mut chunks = chunks.into_iter();
        let Some(mut total) = chunks.next() else {
            return;
        };
        for chunk in chunks {
            total.absorb(chunk.largest, chunk.sums, scale);
        }
        let columns = potentials.iter_mut().zip(&total.largest).zip(&total.sums);
        for ((potential, largest), sum) in columns {
            let largest = f64::from(*largest) - f64::from(centres[set]);
            *potential = (largest + sum.ln() * epsilon) as f32;
        }
        if !finite {
            potentials.fill(f32::NAN);
        }
    });
    potentials
}

/// A potential of each prototype: one number for each set, and what it differs from that, `[sets, K]`. (The scores that
/// matter to a code differ little from its prototype's potential, and small differences are rounded least.)
#[derive(Clone, Copy)]
pub(super) struct Potentials<'a> {
    pub centres: &'a [f32],
    pub offsets: &'a [f32],
}

/// What each prototype is given by the codes that the potentials make: the sums of their columns, `[sets, K]`.
pub(super) fn shares(scores: &Scores<'_>, potentials: Potentials<'_>, epsilon: f64) -> Vec<f32> {
    let mut shares = vec![0.0; scores.sets * scores.prototypes];
    scores.each_set(&mut shares, |set, shares| {
        let softmax = Softmax::new(scores, set, potentials, epsilon);
        let chunks = scores.each_chunk(|samples| {
            dispatch(Shares {
                softmax: &softmax,
                samples,
            })
        });
        for (k, share) in shares.iter_mut().enumerate() {
            *share = chunks.iter().map(|sums| sums[k]).sum::<f64>() as f32;
        }
    });
    shares
}

/// The codes that the potentials make: `softmax_k((s_ik − f_k)/ε)`, `[sets, B, K]`.
pub(super) fn codes(scores: &Scores<'_>, potentials: Potentials<'_>, epsilon: f64) -> Vec<f32> {
    let length = scores.sets * scores.samples * scores.prototypes;
    let stream = length * size_of::<f32>() >= STREAM_BYTES;
    let mut codes: Vec<f32> = Vec::with_capacity(length);
    let unwritten = &mut codes.spare_capacity_mut()[..length];
    scores.each_set(unwritten, |set, codes| {
        let softmax = Softmax::new(scores, set, potentials, epsilon);
        let size = scores.chunk();
        codes
            .par_chunks_mut(size * scores.prototypes)
            .enumerate()
            .for_each(|(i, codes)| {
                dispatch(Codes {
                    softmax: &softmax,
                    first: i * size,
                    codes,
                    stream,
                });
            });
    });
    // SAFETY: every chunk of every set has written all of its rows, and they are `length` numbers.
    unsafe { codes.set_len(length) };
    codes
}

/// `g_i = ε ln Σ_k exp((s_ik − f_k)/ε)` of each sample, `[sets, B]`.
pub(super) fn sample_potentials(
    scores: &Scores<'_>,
    potentials: Potentials<'_>,
    epsilon: f64,
) -> Vec<f32> {
    let mut found = vec![0.0; scores.sets * scores.samples];
    scores.each_set(&mut found, |set, found| {
        let softmax = Softmax::new(scores, set, potentials, epsilon);
        let chunks = scores.each_chunk(|samples| {
            dispatch(Sums {
                softmax: &softmax,
                samples,
            })
        });
        for (found, (sum, exponent)) in found.iter_mut().zip(chunks.into_iter().flatten()) {
            let logarithm = f64::from(sum).ln() + f64::from(exponent) * std::f64::consts::LN_2;
            *found = (epsilon * logarithm) as f32;
        }
    });
    found
}

/// From scores to exponents of two.
fn scale(epsilon: f64) -> f32 {
    (std::f64::consts::LOG2_E / epsilon) as f32
}

/// Largest score and `Σ 2^((s − largest)·scale)` of each prototype over some samples. Padded to whole vectors.
struct Folded {
    largest: Vec<f32>,
    sums: Vec<f64>,
    finite: bool,
}

impl Folded {
    fn nothing(width: usize) -> Self {
        Self {
            largest: vec![f32::NEG_INFINITY; width],
            sums: vec![0.0; width],
            finite: true,
        }
    }

    /// Takes in what was folded of other samples.
    fn absorb<T: Into<f64>>(&mut self, largest: Vec<f32>, sums: Vec<T>, scale: f32) {
        let (mut kept, mut taken) = (self.largest.clone(), largest);
        dispatch(Rescale {
            kept: &mut kept,
            taken: &mut taken,
            largest: &mut self.largest,
            scale,
        });
        let factors = kept.into_iter().zip(taken);
        for ((sum, more), (kept, taken)) in self.sums.iter_mut().zip(sums).zip(factors) {
            *sum = *sum * f64::from(kept) + more.into() * f64::from(taken);
        }
    }
}

/// Turns the largest scores of two foldings into what their sums are to be multiplied by, now that the larger of the
/// two is taken out of both.
struct Rescale<'a> {
    kept: &'a mut [f32],
    taken: &'a mut [f32],
    largest: &'a mut [f32],
    scale: f32,
}

impl Kernel for Rescale<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (kept, taken) = (self.kept.as_mut_ptr(), self.taken.as_mut_ptr());
        // SAFETY: the caller guarantees the instruction set; all three are padded to the same whole vectors.
        unsafe {
            let scale = S::splat(self.scale);
            for at in (0..self.largest.len()).step_by(S::LANES) {
                let (one, other) = (S::load(kept.add(at)), S::load(taken.add(at)));
                let now = S::max(one, other);
                S::store(kept.add(at), S::exp2(S::mul(S::sub(one, now), scale)));
                S::store(taken.add(at), S::exp2(S::mul(S::sub(other, now), scale)));
                S::store(self.largest.as_mut_ptr().add(at), now);
            }
        }
    }
}

/// Folds samples into the prototypes' sums, a few rows at a time: their largest score is taken into the
/// running one, and the sum so far, rescaled to it, gets their exponentials.
struct Fold<'a> {
    scores: &'a Scores<'a>,
    set: usize,
    samples: std::ops::Range<usize>,
    scale: f32,
}

impl Kernel for Fold<'_> {
    type Output = Folded;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Folded {
        let width = self.scores.padded();
        let mut total = Folded::nothing(width);
        // SAFETY: the caller guarantees the instruction set; rows are as long as `fold` wants.
        unsafe {
            let mut least = S::splat(0.0);
            for first in self.samples.clone().step_by(BLOCK) {
                let end = (first + BLOCK).min(self.samples.end);
                let mut largest = vec![f32::NEG_INFINITY; width];
                let mut sums = vec![0.0_f32; width];
                let mut sample = first;
                while sample + FOLD <= end {
                    let rows = self.scores.rows(self.set, sample);
                    least = fold::<S, FOLD>(rows, self.scale, &mut largest, &mut sums, least);
                    sample += FOLD;
                }
                for sample in sample..end {
                    let row = self.scores.row(self.set, sample);
                    least = fold::<S, 1>([row], self.scale, &mut largest, &mut sums, least);
                }
                total.absorb(largest, sums, self.scale);
            }
            // Not-a-number and +∞ have made a sum not-a-number; −∞ would have gone unnoticed.
            total.finite = S::smallest(least) > f32::NEG_INFINITY;
        }
        total
    }
}

/// Takes `R` rows into the largest scores and the sums, and the least of their scores into `least`.
///
/// # Safety
/// `S` must be present; the rows must be equally long, and `largest` and `sums` as long, rounded up to whole vectors.
#[inline(always)]
unsafe fn fold<S: Simd, const R: usize>(
    rows: [&[f32]; R],
    scale: f32,
    largest: &mut [f32],
    sums: &mut [f32],
    mut least: S::Vector,
) -> S::Vector {
    let width = rows[0].len();
    let (largest, sums) = (largest.as_mut_ptr(), sums.as_mut_ptr());
    // SAFETY: vectors lie before `width`, the length of every row; the sums are padded beyond it.
    unsafe {
        let scale = S::splat(scale);
        for at in (0..width).step_by(S::LANES) {
            let mut s = [S::splat(0.0); R];
            for r in 0..R {
                S::prefetch(rows[r].as_ptr().wrapping_add(at + PREFETCH_DISTANCE));
                s[r] = load::<S>(rows[r], at, 0.0);
            }
            let before = S::load(largest.add(at));
            let mut now = before;
            for s in s {
                now = S::max(now, s);
                least = S::min(least, s);
            }
            let kept = S::exp2(S::mul(S::sub(before, now), scale));
            let mut new = S::splat(0.0);
            for s in s {
                new = S::add(new, S::exp2(S::mul(S::sub(s, now), scale)));
            }
            S::store(largest.add(at), now);
            S::store(sums.add(at), S::mul_add(S::load(sums.add(at)), kept, new));
        }
    }
    least
}

/// The vector of a row that starts `at` a number of it, filled up with a number at the end.
///
/// # Safety
/// `S` must be present.
#[inline(always)]
unsafe fn load<S: Simd>(row: &[f32], at: usize, fill: f32) -> S::Vector {
    // SAFETY: the caller guarantees the instruction set; a part is as long as what is left.
    unsafe {
        if at + S::LANES <= row.len() {
            return S::load(row.as_ptr().add(at));
        }
        let left = row.len() - at;
        let fill = S::splat(fill);
        let part = S::load_part(row.as_ptr().add(at), left);
        S::add(part, S::sub(fill, S::masked(fill, left)))
    }
}

/// A problem with its potentials: everything that a sample's code is made of.
struct Softmax<'a> {
    scores: &'a Scores<'a>,
    set: usize,
    centre: f32,
    /// `−offset·scale` of each prototype; −∞, nearly, for those that only fill the last vector.
    shift: Vec<f32>,
    scale: f32,
}

impl<'a> Softmax<'a> {
    fn new(scores: &'a Scores<'a>, set: usize, potentials: Potentials<'_>, epsilon: f64) -> Self {
        let scale = scale(epsilon);
        let offsets = &potentials.offsets[set * scores.prototypes..][..scores.prototypes];
        let mut shift = vec![-1e30; scores.padded()];
        for (shift, offset) in shift.iter_mut().zip(offsets) {
            *shift = -offset * scale;
        }
        Self {
            scores,
            set,
            centre: potentials.centres[set],
            shift,
            scale,
        }
    }

    fn row(&self, sample: usize) -> &'a [f32] {
        self.scores.row(self.set, sample)
    }

    /// The exponents of two of a vector of the row: `(s − centre)·scale + shift`.
    ///
    /// # Safety
    /// `S` must be present, and `at` below the number of shifts.
    #[inline(always)]
    unsafe fn exponents<S: Simd>(&self, row: &[f32], at: usize) -> S::Vector {
        // SAFETY: the caller guarantees the instruction set; the shifts are padded to whole vectors.
        unsafe {
            let s = S::sub(load::<S>(row, at, self.centre), S::splat(self.centre));
            S::mul_add(
                s,
                S::splat(self.scale),
                S::load(self.shift.as_ptr().add(at)),
            )
        }
    }

    /// The exponentials of a row into `found`, padded, and their sum; also the power of two that was
    /// taken out of both.
    ///
    /// # Safety
    /// `S` must be present, and `found` good for as many numbers as there are shifts.
    #[inline(always)]
    unsafe fn exponentials<S: Simd>(&self, row: &[f32], found: *mut f32) -> (f32, f32) {
        // SAFETY: the caller guarantees the instruction set, and as many numbers at `found` as there are shifts.
        unsafe {
            let sum = self.shifted_exponentials::<S>(row, found, 0.0);
            if SAFE_SUMS.contains(&sum) {
                return (sum, 0.0);
            }

            let mut largest = S::splat(f32::NEG_INFINITY);
            for at in (0..row.len()).step_by(S::LANES) {
                largest = S::max(largest, self.exponents::<S>(row, at));
            }
            let largest = S::largest(largest);
            (self.shifted_exponentials::<S>(row, found, largest), largest)
        }
    }

    /// The exponentials of a row into `found`, padded, and their sum, with a power of two taken out of both.
    ///
    /// # Safety
    /// As [`exponentials`](Self::exponentials).
    #[inline(always)]
    unsafe fn shifted_exponentials<S: Simd>(&self, row: &[f32], found: *mut f32, out: f32) -> f32 {
        // SAFETY: the caller guarantees the instruction set, and as many numbers at `found` as there are shifts.
        unsafe {
            let mut total = S::splat(0.0);
            for first in (0..row.len()).step_by(BLOCK * S::LANES) {
                let mut sum = S::splat(0.0);
                let end = (first + BLOCK * S::LANES).min(row.len());
                for at in (first..end).step_by(S::LANES) {
                    let e = S::exp2(S::sub(self.exponents::<S>(row, at), S::splat(out)));
                    S::store(found.add(at), e);
                    sum = S::add(sum, e);
                }
                total = S::add(total, sum);
            }
            S::sum(total)
        }
    }
}

/// What becomes of the codes of one sample after the other, a vector at a time.
trait Sink {
    /// Numbers that lie before the first whole vector of the next sample's code.
    fn head(&mut self, lanes: usize) -> usize;

    /// Takes the whole vector `e · weight` that starts `at` a number of the code.
    ///
    /// # Safety
    /// `S` must be present, and a whole vector must fit into the code from `at` on.
    unsafe fn vector<S: Simd>(&mut self, at: usize, e: S::Vector, weight: S::Vector);

    /// Takes the first `n` numbers of a vector.
    ///
    /// # Safety
    /// `S` must be present, and `n` numbers must fit into the code from `at` on.
    unsafe fn part<S: Simd>(&mut self, at: usize, e: S::Vector, weight: S::Vector, n: usize);

    /// The sample's code is complete.
    fn done(&mut self);
}

impl Softmax<'_> {
    /// Hands the codes of some samples to `sink`.
    ///
    /// While one sample's code is handed on, in the same loop the next one's exponentials are computed and take its
    /// place: so memory, which sets the pace, is never left waiting. The sink may be a few numbers, its `head`, ahead.
    ///
    /// # Safety
    /// `S` must be present, and `sink` must have room for the codes of these samples.
    #[inline(always)]
    unsafe fn codes<S: Simd>(&self, samples: std::ops::Range<usize>, sink: &mut impl Sink) {
        let width = self.scores.prototypes;
        let mut row = vec![0.0_f32; self.shift.len()];
        let e = row.as_mut_ptr();
        // SAFETY: the caller guarantees the instruction set; `row` is as wide as the shifts.
        unsafe {
            let (mut sum, _) = self.exponentials::<S>(self.row(samples.start), e);
            for next in samples.start + 1..samples.end {
                let (scores, weight) = (self.row(next), S::splat(1.0 / sum));
                let head = sink.head(S::LANES).min(width);
                sink.part::<S>(0, S::load(e), weight, head);
                let mut total = S::splat(0.0);
                for first in (0..width).step_by(BLOCK * S::LANES) {
                    let mut sums = S::splat(0.0);
                    let end = (first + BLOCK * S::LANES).min(width);
                    for at in (first..end).step_by(S::LANES) {
                        S::prefetch(scores.as_ptr().wrapping_add(at + PREFETCH_DISTANCE));
                        hand_on::<S>(e, at + head, width, weight, sink);
                        let new = S::exp2(self.exponents::<S>(scores, at));
                        S::store(e.add(at), new);
                        sums = S::add(sums, new);
                    }
                    total = S::add(total, sums);
                }
                sink.done();
                sum = S::sum(total);
                if !SAFE_SUMS.contains(&sum) {
                    (sum, _) = self.exponentials::<S>(scores, e);
                }
            }

            let weight = S::splat(1.0 / sum);
            let head = sink.head(S::LANES).min(width);
            sink.part::<S>(0, S::load(e), weight, head);
            for at in (head..width).step_by(S::LANES) {
                hand_on::<S>(e, at, width, weight, sink);
            }
            sink.done();
        }
    }
}

/// Hands on the vector of a code that starts `at` a number of it, or what there is of it.
///
/// # Safety
/// `S` must be present, and `e` good for `width` numbers.
#[inline(always)]
unsafe fn hand_on<S: Simd>(
    e: *const f32,
    at: usize,
    width: usize,
    weight: S::Vector,
    sink: &mut impl Sink,
) {
    // SAFETY: the caller guarantees the instruction set; nothing beyond `width` is touched.
    unsafe {
        if at + S::LANES <= width {
            sink.vector::<S>(at, S::load(e.add(at)), weight);
        } else if at < width {
            let left = width - at;
            sink.part::<S>(at, S::load_part(e.add(at), left), weight, left);
        }
    }
}

/// The prototypes' sums over the codes of some samples.
struct Shares<'a> {
    softmax: &'a Softmax<'a>,
    samples: std::ops::Range<usize>,
}

impl Kernel for Shares<'_> {
    type Output = Vec<f64>;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Vec<f64> {
        let mut shares = vec![0.0; self.softmax.shift.len()];
        for first in self.samples.clone().step_by(BLOCK) {
            let block = first..(first + BLOCK).min(self.samples.end);
            let mut sums = Adding(vec![0.0; shares.len()]);
            // SAFETY: the caller guarantees the instruction set.
            unsafe { self.softmax.codes::<S>(block, &mut sums) };
            for (share, sum) in shares.iter_mut().zip(sums.0) {
                *share += f64::from(sum);
            }
        }
        shares
    }
}

/// Adds codes up. The sums are padded to whole vectors.
struct Adding(Vec<f32>);

impl Sink for Adding {
    #[inline(always)]
    fn head(&mut self, _lanes: usize) -> usize {
        0
    }
    #[inline(always)]
    unsafe fn vector<S: Simd>(&mut self, at: usize, e: S::Vector, weight: S::Vector) {
        let to = self.0.as_mut_ptr();
        // SAFETY: the caller guarantees the instruction set; a vector that starts within the code ends within the sums, which
        // are padded.
        unsafe { S::store(to.add(at), S::mul_add(e, weight, S::load(to.add(at)))) }
    }
    #[inline(always)]
    unsafe fn part<S: Simd>(&mut self, at: usize, e: S::Vector, weight: S::Vector, n: usize) {
        if n > 0 {
            // SAFETY: as above.
            unsafe { self.vector::<S>(at, S::masked(e, n), weight) }
        }
    }
    #[inline(always)]
    fn done(&mut self) {}
}

/// The sum and the power of two taken out of it, of each of some samples.
struct Sums<'a> {
    softmax: &'a Softmax<'a>,
    samples: std::ops::Range<usize>,
}

impl Kernel for Sums<'_> {
    type Output = Vec<(f32, f32)>;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Vec<(f32, f32)> {
        let mut row = vec![0.0; self.softmax.shift.len()];
        let mut sums = Vec::with_capacity(self.samples.len());
        for sample in self.samples {
            let scores = self.softmax.row(sample);
            // SAFETY: the caller guarantees the instruction set; `row` is as wide as the shifts.
            sums.push(unsafe { self.softmax.exponentials::<S>(scores, row.as_mut_ptr()) });
        }
        sums
    }
}

/// The codes of some samples.
struct Codes<'a> {
    softmax: &'a Softmax<'a>,
    first: usize,
    codes: &'a mut [MaybeUninit<f32>],
    stream: bool,
}

impl Kernel for Codes<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let width = self.softmax.scores.prototypes;
        let samples = self.first..self.first + self.codes.len() / width;
        let to = self.codes.as_mut_ptr().cast();
        // SAFETY: the caller guarantees the instruction set; there is room for the codes of these samples.
        unsafe {
            if self.stream {
                let mut codes = Writing::<true> { to, width };
                self.softmax.codes::<S>(samples, &mut codes);
                // What was written past the caches is seen by whoever comes next.
                #[cfg(target_arch = "x86_64")]
                std::arch::x86_64::_mm_sfence();
            } else {
                let mut codes = Writing::<false> { to, width };
                self.softmax.codes::<S>(samples, &mut codes);
            }
        }
    }
}

/// Writes codes down, whole vectors of them past the caches if so wished.
struct Writing<const STREAM: bool> {
    /// Where the next code goes.
    to: *mut f32,
    width: usize,
}

impl<const STREAM: bool> Sink for Writing<STREAM> {
    #[inline(always)]
    fn head(&mut self, lanes: usize) -> usize {
        // Only aligned addresses can be streamed to.
        let bytes = lanes * size_of::<f32>();
        if STREAM {
            self.to.align_offset(bytes)
        } else {
            0
        }
    }
    #[inline(always)]
    unsafe fn vector<S: Simd>(&mut self, at: usize, e: S::Vector, weight: S::Vector) {
        // SAFETY: the caller guarantees the instruction set and that a whole vector lies within the code; the vectors start
        // where `head` has said.
        unsafe {
            let code = S::mul(e, weight);
            if STREAM {
                S::stream(self.to.add(at), code);
            } else {
                S::store(self.to.add(at), code);
            }
        }
    }
    #[inline(always)]
    unsafe fn part<S: Simd>(&mut self, at: usize, e: S::Vector, weight: S::Vector, n: usize) {
        // SAFETY: the caller guarantees the instruction set and that the part ends within the code.
        unsafe { S::store_part(self.to.add(at), S::mul(e, weight), n) }
    }
    #[inline(always)]
    fn done(&mut self) {
        self.to = self.to.wrapping_add(self.width);
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::forced;
    use super::*;

    /// Scores between −1 and 1.
    fn noise(length: usize) -> Vec<f32> {
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..length).map(|_| next()).collect()
    }

    /// Widths on both sides of whole vectors, rows that are apart, and rows so far from all others that they have to
    /// be done again.
    #[test]
    fn every_instruction_set_finds_the_same() {
        for (samples, prototypes) in [
            (1, 1),
            (2, 7),
            (9, 8),
            (17, 15),
            (40, 16),
            (70, 33),
            (3000, 1500),
        ] {
            let gap = 3;
            let mut values = noise(samples * (prototypes + gap));
            values[..prototypes]
                .iter_mut()
                .for_each(|score| *score -= 20.0);
            let scores = Scores {
                values: &values,
                set_stride: 0,
                row_stride: prototypes + gap,
                sets: 1,
                samples,
                prototypes,
            };
            let epsilon = 0.05;
            let run = || {
                let offsets = prototype_potentials(&scores, &[0.5], epsilon);
                let potentials = Potentials {
                    centres: &[0.5],
                    offsets: &offsets,
                };
                let found = [
                    shares(&scores, potentials, epsilon),
                    sample_potentials(&scores, potentials, epsilon),
                    codes(&scores, potentials, epsilon),
                ];
                (offsets, found)
            };
            let mut sets = forced::present().into_iter();
            let (offsets, expected) = forced::on(sets.next().unwrap(), run);
            for code in expected[2].chunks(prototypes) {
                assert!((code.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            }
            for set in sets {
                let (other, found) = forced::on(set, run);
                let near = |a: &[f32], b: &[f32]| {
                    let mut pairs = a.iter().zip(b);
                    pairs.all(|(a, b)| (a - b).abs() <= 1e-6 + 4e-6 * a.abs())
                };
                assert!(near(&offsets, &other), "{set:?} {samples} {prototypes}");
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(near(found, expected), "{set:?} {samples} {prototypes}");
                }
            }
        }
    }
}
