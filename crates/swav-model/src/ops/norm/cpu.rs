//! Batch normalisation on slices, in parallel, with what usually follows it: the addition of a shortcut and the ReLU. Maps are
//! `f32` or `bf16`; everything else is `f32`.
//!
//! On maps of thousands of pixels these operations do next to nothing but move memory, so what counts
//! is how often a map passes through the processor. Forward: twice in (statistics, then result), once
//! out. Backward: twice in, twice out.
//!
//! # Determinism
//! Statistics are taken over chunks of images that depend on the shape alone, in single precision
//! within a chunk and in double precision across chunks, which are added in order.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use crate::Ranks;
use crate::ops::element::Element;
use crate::ops::vectors::{Kernel, Simd, dispatch};

/// Floats of a chunk, about.
const CHUNK: usize = 16 * 1024;
/// Below so many pixels a map is too short for vectors along it; they run across the maps instead.
const SHORT: usize = 16;
/// Sums that are kept apart until the end of a block.
const LANES: usize = 16;

thread_local! {
    /// Where chunks are widened to, each by itself.
    static ROOMS: RefCell<[Vec<f32>; 3]> = RefCell::default();
}

/// `[images, channels, pixels]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NormShape {
    pub(crate) images: usize,
    pub(crate) channels: usize,
    pub(crate) pixels: usize,
}

/// Mean and biased variance of each channel over the images and pixels.
pub(crate) struct Moments {
    pub(crate) mean: Vec<f32>,
    pub(crate) variance: Vec<f32>,
}

/// `y = (x − mean) · scale + bias`, channel by channel.
struct Affine {
    mean: Vec<f32>,
    scale: Vec<f32>,
    bias: Vec<f32>,
}

impl NormShape {
    fn len(&self) -> usize {
        self.images * self.channels * self.pixels
    }

    /// Floats of the whole images that make a chunk.
    fn chunk(&self) -> usize {
        let image = (self.channels * self.pixels).max(1);
        (CHUNK / image).max(1) * image
    }

    /// The shape to compute with. Short maps are taken for channels of one pixel.
    fn stretched(&self) -> Self {
        if self.pixels >= SHORT {
            return *self;
        }
        Self {
            images: self.images,
            channels: self.channels * self.pixels,
            pixels: 1,
        }
    }

    /// A value of each channel as one of each channel of the stretched shape.
    fn stretch(&self, values: &[f32]) -> Vec<f32> {
        let times = self.stretched().channels / self.channels.max(1);
        let repeated = values.iter().flat_map(|&v| std::iter::repeat_n(v, times));
        repeated.collect()
    }

    /// The channels of the stretched shape that are one channel of this.
    fn stretched_channels(&self, channel: usize) -> Range<usize> {
        let times = self.stretched().channels / self.channels;
        channel * times..(channel + 1) * times
    }
}

/// What x is divided by and multiplied with.
pub(crate) struct Scaling<'a> {
    pub(crate) moments: &'a Moments,
    pub(crate) weight: &'a [f32],
    pub(crate) epsilon: f64,
}

impl Scaling<'_> {
    /// `1 / √(variance + epsilon)`
    fn inverse_deviations(&self) -> impl Iterator<Item = f64> {
        let variance = self.moments.variance.iter();
        variance.map(|&v| 1.0 / (f64::from(v) + self.epsilon).sqrt())
    }
}

impl Affine {
    fn new(shape: &NormShape, scaling: &Scaling, bias: &[f32]) -> Self {
        let scale: Vec<f32> = scaling
            .inverse_deviations()
            .zip(scaling.weight)
            .map(|(inverse, &weight)| (inverse * f64::from(weight)) as f32)
            .collect();
        Self {
            mean: shape.stretch(&scaling.moments.mean),
            scale: shape.stretch(&scale),
            bias: shape.stretch(bias),
        }
    }
}

/// The statistics of `x`.
///
/// # Panics
/// If `x` is not of the shape, or is empty.
pub(crate) fn moments<E: Element>(shape: &NormShape, x: &[E]) -> Moments {
    assert!(
        x.len() == shape.len() && !x.is_empty(),
        "statistics of {shape:?}"
    );
    let inner = shape.stretched();
    let chunks: Vec<[Vec<f32>; 2]> = x
        .par_chunks(shape.chunk())
        .map(|x| {
            let mut sums = [vec![0.0; inner.channels], vec![0.0; inner.channels]];
            let [mean, squares] = &mut sums;
            ROOMS.with_borrow_mut(|[room, ..]| {
                dispatch(MomentsKernel {
                    shape: inner,
                    x: E::widened(x, room),
                    mean,
                    squares,
                });
            });
            sums
        })
        .collect();
    let image = inner.channels * inner.pixels;
    let counts = x
        .chunks(shape.chunk())
        .map(|x| x.len() / image * inner.pixels);
    // The mean first, then the squares about it: each part's own, and those of its mean.
    let parts = || {
        counts
            .clone()
            .zip(&chunks)
            .map(|(count, c)| (count as f64, c))
    };
    let total = (shape.images * shape.pixels) as f64;
    let mut mean = Vec::with_capacity(shape.channels);
    let mut variance = Vec::with_capacity(shape.channels);
    for channel in 0..shape.channels {
        let range = shape.stretched_channels(channel);
        let sum: f64 = parts()
            .map(|(n, [mean, _])| {
                n * mean[range.clone()]
                    .iter()
                    .map(|&m| f64::from(m))
                    .sum::<f64>()
            })
            .sum();
        let centre = sum / total;
        let squares: f64 = parts()
            .map(|(n, [mean, squares])| {
                let own: f64 = squares[range.clone()].iter().map(|&s| f64::from(s)).sum();
                let off = mean[range.clone()]
                    .iter()
                    .map(|&m| (f64::from(m) - centre).powi(2));
                own + n * off.sum::<f64>()
            })
            .sum();
        mean.push(centre as f32);
        variance.push((squares / total) as f32);
    }
    Moments { mean, variance }
}

/// `(x − mean) / √(variance + epsilon) · weight + bias`, plus `shortcut`, and through the ReLU.
///
/// # Panics
/// If a slice has another length than the shape says.
pub(crate) fn normalise<E: Element>(
    shape: &NormShape,
    x: &[E],
    scaling: &Scaling,
    bias: &[f32],
    shortcut: Option<&[E]>,
    relu: bool,
) -> Vec<E> {
    assert!(x.len() == shape.len(), "normalisation of {shape:?}");
    assert!(
        shortcut.is_none_or(|s| s.len() == x.len()),
        "the shortcut of {shape:?}"
    );
    let affine = &Affine::new(shape, scaling, bias);
    let (inner, size) = (shape.stretched(), shape.chunk());
    copied(x, size, |i, y, room| {
        let range = i * size..i * size + y.len();
        dispatch(NormaliseKernel {
            shape: inner,
            affine,
            shortcut: shortcut.map(|s| E::widened(&s[range], room)),
            relu,
            values: y,
        });
    })
}

/// A copy of `values`, of which `edit` changes chunk after chunk while it is in the cache. It is lent a buffer.
fn copied<E: Element>(
    values: &[E],
    size: usize,
    edit: impl Fn(usize, &mut [f32], &mut Vec<f32>) + Sync,
) -> Vec<E> {
    let mut copy = Vec::with_capacity(values.len());
    let chunks = copy.spare_capacity_mut()[..values.len()].par_chunks_mut(size);
    let chunks = chunks.zip(values.par_chunks(size)).enumerate();
    chunks.for_each(|(i, (to, from))| {
        ROOMS.with_borrow_mut(|[room, other, _]| {
            E::edit(to.write_copy_of_slice(from), room, |values| {
                edit(i, values, other)
            });
        });
    });
    // SAFETY: the chunks are all of it, and each was written.
    unsafe { copy.set_len(values.len()) };
    copy
}

/// The gradients of [`normalise`] with the statistics of `x` itself.
pub(crate) struct NormGradients<E> {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    /// Of `x`, unless it was written over the gradient of the output.
    pub(crate) x: Option<Vec<E>>,
}

/// The gradients of [`normalise`] with the statistics of `x` itself, from the gradient of its output.
///
/// `y` is the output if it went through the ReLU. Then `gradient` becomes what came back through the
/// ReLU, which is the gradient of the shortcut. If `keep` is false it becomes the gradient of `x`
/// instead, and no memory is needed.
///
/// Where the statistics are those of several ranks, the gradients of weight and bias are what this rank adds to them.
///
/// # Panics
/// If a slice has another length than the shape says.
pub(crate) fn gradients<E: Element>(
    shape: &NormShape,
    x: &[E],
    y: Option<&[E]>,
    scaling: &Scaling,
    gradient: &mut [E],
    keep: bool,
    ranks: &Ranks,
) -> NormGradients<E> {
    let len = shape.len();
    assert!(
        x.len() == len && gradient.len() == len && len > 0,
        "gradients of {shape:?}"
    );
    assert!(y.is_none_or(|y| y.len() == len), "the output of {shape:?}");
    let (inner, size) = (shape.stretched(), shape.chunk());
    let mean = shape.stretch(&scaling.moments.mean);
    let chunks: Vec<[Vec<f32>; 2]> = gradient
        .par_chunks_mut(size)
        .enumerate()
        .map(|(i, gradient)| {
            let range = i * size..i * size + gradient.len();
            let mut sums = [vec![0.0; inner.channels], vec![0.0; inner.channels]];
            let [plain, centred] = &mut sums;
            ROOMS.with_borrow_mut(|[room, room_x, room_y]| {
                E::edit(gradient, room, |gradient| {
                    dispatch(SumsKernel {
                        shape: inner,
                        x: E::widened(&x[range.clone()], room_x),
                        y: y.map(|y| E::widened(&y[range], room_y)),
                        mean: &mean,
                        gradient,
                        plain,
                        centred,
                    });
                });
            });
            sums
        })
        .collect();
    let sum = |which: usize, channel: usize| -> f64 {
        let range = shape.stretched_channels(channel);
        let part = |sums: &[Vec<f32>; 2]| {
            let values = sums[which][range.clone()].iter();
            values.map(|&s| f64::from(s)).sum::<f64>()
        };
        chunks.iter().map(part).sum()
    };
    let (mut plain, mut centred): (Vec<f64>, Vec<f64>) = (0..shape.channels)
        .map(|channel| (sum(0, channel), sum(1, channel)))
        .unzip();
    let inverses: Vec<f64> = scaling.inverse_deviations().collect();
    let of_weight = centred.iter().zip(&inverses);
    let mut result = NormGradients {
        weight: of_weight.map(|(sum, s)| (sum * s) as f32).collect(),
        bias: plain.iter().map(|&sum| sum as f32).collect(),
        x: None,
    };
    let n = ranks.sums(shape.images * shape.pixels, [&mut plain, &mut centred]);
    // With s = 1 / √(variance + ε), g the gradient and averages over n values:
    // dx = w·s·(g − avg(g) − (x − mean)·s²·avg(g·(x − mean)))
    let (mut by_gradient, mut by_x, mut constant) = (vec![], vec![], vec![]);
    for (channel, (&inverse, &weight)) in inverses.iter().zip(scaling.weight).enumerate() {
        let scale = f64::from(weight) * inverse;
        by_gradient.push(scale as f32);
        by_x.push((-scale * inverse * inverse * centred[channel] / n) as f32);
        constant.push((-scale * plain[channel] / n) as f32);
    }
    let step = InputStep {
        mean,
        by_gradient: shape.stretch(&by_gradient),
        by_x: shape.stretch(&by_x),
        constant: shape.stretch(&constant),
    };
    let edit = |i: usize, gradient: &mut [f32], room: &mut Vec<f32>| {
        dispatch(InputKernel {
            shape: inner,
            x: E::widened(&x[i * size..i * size + gradient.len()], room),
            step: &step,
            gradient,
        });
    };
    if keep {
        result.x = Some(copied(gradient, size, edit));
    } else {
        let chunks = gradient.par_chunks_mut(size).enumerate();
        chunks.for_each(|(i, gradient)| {
            ROOMS.with_borrow_mut(|[room, other, _]| {
                E::edit(gradient, room, |gradient| edit(i, gradient, other));
            });
        });
    }
    result
}

impl NormShape {
    /// Start of each image of a chunk of so many floats.
    #[inline(always)]
    fn starts(&self, floats: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        (0..floats).step_by(self.channels * self.pixels)
    }
}

/// Adds a term for each of `values`, `LANES` sums at a time.
#[inline(always)]
fn add_up(sums: &mut [f32; LANES], values: &[f32], term: impl Fn(f32) -> f32) {
    let mut lanes = *sums;
    let (whole, rest) = values.as_chunks::<LANES>();
    for values in whole {
        for (lane, &value) in lanes.iter_mut().zip(values) {
            *lane += term(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += term(value);
    }
    *sums = lanes;
}

#[inline(always)]
fn total(sums: &[f32; LANES]) -> f32 {
    sums.iter().map(|&s| f64::from(s)).sum::<f64>() as f32
}

/// Mean of each channel of a chunk, and the sum of the squares about it.
struct MomentsKernel<'a> {
    shape: NormShape,
    x: &'a [f32],
    mean: &'a mut [f32],
    squares: &'a mut [f32],
}

impl Kernel for MomentsKernel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let NormShape {
            channels, pixels, ..
        } = self.shape;
        let starts = self.shape.starts(self.x.len());
        let count = (self.x.len() / channels) as f32;
        if pixels == 1 {
            for start in starts.clone() {
                for (mean, &x) in self.mean.iter_mut().zip(&self.x[start..]) {
                    *mean += x;
                }
            }
            for mean in self.mean.iter_mut() {
                *mean /= count;
            }
            for start in starts {
                let pairs = self.squares.iter_mut().zip(&*self.mean);
                for ((square, &mean), &x) in pairs.zip(&self.x[start..]) {
                    *square += (x - mean) * (x - mean);
                }
            }
            return;
        }
        let results = self.mean.iter_mut().zip(self.squares);
        for (channel, (mean, square)) in results.enumerate() {
            let map = |start: usize| &self.x[start + channel * pixels..][..pixels];
            let mut sums = [0.0; LANES];
            for start in starts.clone() {
                add_up(&mut sums, map(start), |x| x);
            }
            let centre = total(&sums) / count;
            let mut sums = [0.0; LANES];
            for start in starts.clone() {
                add_up(&mut sums, map(start), |x| (x - centre) * (x - centre));
            }
            (*mean, *square) = (centre, total(&sums));
        }
    }
}

struct NormaliseKernel<'a> {
    shape: NormShape,
    affine: &'a Affine,
    shortcut: Option<&'a [f32]>,
    relu: bool,
    /// x before, y after.
    values: &'a mut [f32],
}

impl Kernel for NormaliseKernel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // A ReLU that lets not-a-number through: who watches over the training is to see it.
        let relu = |v: f32| if v < 0.0 { 0.0 } else { v };
        let Affine { mean, scale, bias } = self.affine;
        let affine = |x: f32, [mean, scale, bias]: [f32; 3]| (x - mean) * scale + bias;
        let (shape, values, factors) = (&self.shape, self.values, [&mean[..], scale, bias]);
        match (self.shortcut, self.relu) {
            (None, false) => update(shape, values, &[], factors, |x, _, f| affine(x, f)),
            (None, true) => update(shape, values, &[], factors, |x, _, f| relu(affine(x, f))),
            (Some(s), false) => update(shape, values, s, factors, |x, s, f| affine(x, f) + s),
            (Some(s), true) => update(shape, values, s, factors, |x, s, f| relu(affine(x, f) + s)),
        }
    }
}

/// Replaces each value of a chunk by a function of itself, of the value of `other` there and of some
/// numbers of its channel. An empty `other` is read as zeros.
#[inline(always)]
fn update<const K: usize>(
    shape: &NormShape,
    values: &mut [f32],
    other: &[f32],
    factors: [&[f32]; K],
    new: impl Fn(f32, f32, [f32; K]) -> f32,
) {
    let NormShape {
        channels, pixels, ..
    } = *shape;
    for start in shape.starts(values.len()) {
        if pixels == 1 {
            let values = &mut values[start..start + channels];
            let factors = factors.map(|f| &f[..channels]);
            if other.is_empty() {
                for (channel, value) in values.iter_mut().enumerate() {
                    *value = new(*value, 0.0, factors.map(|f| f[channel]));
                }
            } else {
                let other = &other[start..start + channels];
                for (channel, value) in values.iter_mut().enumerate() {
                    *value = new(*value, other[channel], factors.map(|f| f[channel]));
                }
            }
            continue;
        }
        for channel in 0..channels {
            let range = start + channel * pixels..start + (channel + 1) * pixels;
            let factors = factors.map(|f| f[channel]);
            let values = &mut values[range.clone()];
            if other.is_empty() {
                for value in values {
                    *value = new(*value, 0.0, factors);
                }
            } else {
                for (value, &other) in values.iter_mut().zip(&other[range]) {
                    *value = new(*value, other, factors);
                }
            }
        }
    }
}

/// Passes the gradient back through the ReLU, in place, and sums it for each channel: plainly, and
/// times the distance of x from the mean.
struct SumsKernel<'a> {
    shape: NormShape,
    x: &'a [f32],
    y: Option<&'a [f32]>,
    mean: &'a [f32],
    gradient: &'a mut [f32],
    plain: &'a mut [f32],
    centred: &'a mut [f32],
}

impl Kernel for SumsKernel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let NormShape {
            channels, pixels, ..
        } = self.shape;
        let starts = self.shape.starts(self.x.len());
        if pixels == 1 {
            for start in starts {
                let range = start..start + channels;
                let gradient = &mut self.gradient[range.clone()];
                if let Some(y) = self.y {
                    mask(gradient, &y[range.clone()]);
                }
                let sums = self.plain.iter_mut().zip(self.centred.iter_mut());
                let values = gradient.iter().zip(&self.x[range]).zip(self.mean);
                for ((plain, centred), ((&g, &x), &mean)) in sums.zip(values) {
                    *plain += g;
                    *centred += g * (x - mean);
                }
            }
            return;
        }
        let results = self.plain.iter_mut().zip(self.centred);
        for (channel, ((plain, centred), &mean)) in results.zip(self.mean).enumerate() {
            let mut sums = [[0.0; LANES]; 2];
            for start in starts.clone() {
                let range = start + channel * pixels..start + (channel + 1) * pixels;
                let (gradient, x) = (&mut self.gradient[range.clone()], &self.x[range.clone()]);
                match self.y {
                    Some(y) => pass_back(gradient, &y[range], x, mean, &mut sums),
                    None => pass_back(gradient, &[], x, mean, &mut sums),
                }
            }
            let [sums, centred_sums] = sums;
            (*plain, *centred) = (total(&sums), total(&centred_sums));
        }
    }
}

/// The work of [`SumsKernel`] on one map; `y` may be empty.
#[inline(always)]
fn pass_back(
    gradient: &mut [f32],
    y: &[f32],
    x: &[f32],
    mean: f32,
    [plain, centred]: &mut [[f32; LANES]; 2],
) {
    let (mut p, mut c) = (*plain, *centred);
    let mut add = |lane: usize, g: f32, x: f32| {
        p[lane] += g;
        c[lane] += g * (x - mean);
    };
    let (whole, rest) = gradient.as_chunks_mut::<LANES>();
    let (whole_x, rest_x) = x.as_chunks::<LANES>();
    let (whole_y, rest_y) = y.as_chunks::<LANES>();
    if y.is_empty() {
        for (g, x) in whole.iter().zip(whole_x) {
            for lane in 0..LANES {
                add(lane, g[lane], x[lane]);
            }
        }
    } else {
        for ((g, x), y) in whole.iter_mut().zip(whole_x).zip(whole_y) {
            for lane in 0..LANES {
                g[lane] = if y[lane] > 0.0 { g[lane] } else { 0.0 };
                add(lane, g[lane], x[lane]);
            }
        }
        mask(rest, rest_y);
    }
    for (lane, (&g, &x)) in rest.iter().zip(rest_x).enumerate() {
        add(lane, g, x);
    }
    (*plain, *centred) = (p, c);
}

/// Zeroes the gradient where the output is not positive.
#[inline(always)]
fn mask(gradient: &mut [f32], y: &[f32]) {
    for (gradient, &y) in gradient.iter_mut().zip(y) {
        *gradient = if y > 0.0 { *gradient } else { 0.0 };
    }
}

/// `dx = gradient · by_gradient + (x − mean) · by_x + constant`, channel by channel.
struct InputStep {
    mean: Vec<f32>,
    by_gradient: Vec<f32>,
    by_x: Vec<f32>,
    constant: Vec<f32>,
}

struct InputKernel<'a> {
    shape: NormShape,
    x: &'a [f32],
    step: &'a InputStep,
    /// The gradient of the output before, dx after.
    gradient: &'a mut [f32],
}

impl Kernel for InputKernel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let s = self.step;
        let factors = [&s.mean[..], &s.by_gradient, &s.by_x, &s.constant];
        update(&self.shape, self.gradient, self.x, factors, |g, x, f| {
            g * f[1] + (x - f[0]) * f[2] + f[3]
        });
    }
}
