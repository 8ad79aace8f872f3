//! Convolution and its two gradients on slices, in parallel. Maps are `f32` or `bf16`; weights and sums are `f32`.
//!
//! With X the matrix of patches of an image, one row for each k = (input channel, tap) and one column
//! for each output pixel, a convolution and its gradients are three products:
//!
//! ```text
//! Y  = W X            forward
//! dX = W'X'           where X' are the patches of dY and W' the kernels turned around: a convolution
//!                     again, for stride s one for each of the s×s phases of dX
//! dW = Σ dY Xᵀ        over the images
//! ```
//!
//! X is nine times the input for a 3×3 kernel, and on the small maps and few channels of a slim
//! network writing it costs as much as multiplying. Here it is never written: see [`patches`] and
//! [`panel`]. Maps of a single pixel need no patches at all: see [`dense`]. And 3×3 kernels of stride 1,
//! most of a ResNet's work, need fewer products than that: see [`winograd`].
//!
//! # Determinism
//! Work is cut into chunks by the shapes alone, each output is computed by one task in a fixed order,
//! and partial weight gradients are added in the order of the images. The number of threads changes
//! nothing, not even the last bit. Another instruction set does.

mod chunking;
mod correlation;
mod dense;
mod kernel;
mod out;
mod panel;
mod patches;
mod tiles;
mod winograd;

use std::mem::MaybeUninit;

use super::convolution::ConvShape;
use super::element::Element;

use correlation::{Correlation, Taps, Target, Weights};
use dense::Dense;
use out::Out;
use panel::Maps;
use winograd::Winograd;

impl ConvShape {
    fn input_len(&self) -> usize {
        self.images * self.inputs * self.height * self.width
    }

    fn output_len(&self) -> usize {
        let [height, width] = self.output_map();
        self.images * self.outputs * height * width
    }

    fn weight_len(&self) -> usize {
        self.outputs * self.inputs / self.groups * self.kernel * self.kernel
    }

    fn is_empty(&self) -> bool {
        self.input_len() == 0 || self.output_len() == 0
    }

    fn input<'a, E>(&self, values: &'a [E]) -> Maps<'a, E> {
        assert_eq!(values.len(), self.input_len(), "the input of {self:?}");
        Maps {
            values,
            channels: self.inputs,
            height: self.height,
            width: self.width,
        }
    }

    fn output<'a, E>(&self, values: &'a [E]) -> Maps<'a, E> {
        assert_eq!(values.len(), self.output_len(), "the output of {self:?}");
        let [height, width] = self.output_map();
        Maps {
            values,
            channels: self.outputs,
            height,
            width,
        }
    }

    /// The taps along an axis of `size` inputs, each with its place in the kernel. On a map that is
    /// smaller than the kernel some see nothing but padding: of a 3×3 kernel over a single pixel only
    /// the one in the middle is left.
    fn taps(&self, size: usize) -> Vec<(usize, isize)> {
        let outputs = self.output_size(size) as isize;
        let taps = (0..self.kernel).map(|k| (k, k as isize - self.padding as isize));
        let sees = |&(_, delta): &(usize, isize)| {
            let stride = self.stride as isize;
            let first = ((-delta).max(0) + stride - 1) / stride;
            first < outputs && first * stride + delta < size as isize
        };
        taps.filter(sees).collect()
    }

    /// The taps along an axis of `size` inputs that reach the inputs `phase + stride·i`: each with its
    /// place in the kernel and the output it comes from, relative to output i.
    fn turned_taps(&self, size: usize, phase: usize) -> Vec<(usize, isize)> {
        let stride = self.stride as isize;
        let outputs = self.output_size(size) as isize;
        let inputs = size.saturating_sub(phase).div_ceil(self.stride) as isize;
        let taps = (0..self.kernel).map(|k| (k, (phase + self.padding) as isize - k as isize));
        let taps = taps.filter(|(_, delta)| delta % stride == 0);
        let taps = taps.map(|(k, delta)| (k, delta / stride));
        taps.filter(|&(_, delta)| (-delta).max(0) < inputs && (-delta).max(0) + delta < outputs)
            .collect()
    }

    fn correlation(&self) -> Correlation {
        let [height, width] = self.output_map();
        Correlation {
            images: self.images,
            groups: self.groups,
            inputs: self.inputs / self.groups,
            outputs: self.outputs / self.groups,
            taps: Taps::new(self.kernel, &self.taps(self.height), &self.taps(self.width)),
            step: self.stride,
            source: [self.height, self.width],
            height,
            width,
        }
    }
}

/// Computes all outputs of a correlation.
fn correlate<E: Element>(
    correlation: &Correlation,
    maps: &Maps<E>,
    weights: &Weights,
    target: &Target<E>,
) {
    match Winograd::of(correlation) {
        Some(winograd) if target.step == 1 => winograd.run(maps, weights, target),
        _ => correlation.run(maps, weights, target),
    }
}

/// The convolution of `x` with `weight`, whose values are rounded to those of a map first.
///
/// # Panics
/// If a slice has another length than `shape` says.
pub(crate) fn forward<E: Element>(shape: &ConvShape, x: &[E], weight: &[f32]) -> Vec<E> {
    assert_eq!(weight.len(), shape.weight_len(), "the weight of {shape:?}");
    let room = &mut Vec::new();
    let weight = E::rounded(weight, room);
    let correlation = shape.correlation();
    if shape.is_empty() || correlation.taps() == 0 {
        return vec![E::default(); shape.output_len()];
    }
    if let Some(dense) = Dense::of(shape) {
        return dense.forward(x, weight);
    }
    let taps = shape.kernel * shape.kernel;
    let inputs = shape.inputs / shape.groups;
    let weights = Weights {
        values: weight,
        group: shape.outputs / shape.groups * inputs * taps,
        output: inputs * taps,
        input: taps,
    };
    let [height, width] = shape.output_map();
    let mut y = Vec::with_capacity(shape.output_len());
    let target = Target {
        values: Out::unwritten(&mut y.spare_capacity_mut()[..shape.output_len()]),
        channels: shape.outputs,
        height,
        width,
        step: 1,
        row: 0,
        column: 0,
    };
    correlate(&correlation, &shape.input(x), &weights, &target);
    // SAFETY: `correlate` has written every pixel of every output of every image.
    unsafe { y.set_len(shape.output_len()) };
    y
}

/// The gradient of the input, given the gradient `dy` of the output. Weights are rounded as in [`forward`].
///
/// # Panics
/// If a slice has another length than `shape` says.
pub(crate) fn input_gradient<E: Element>(shape: &ConvShape, dy: &[E], weight: &[f32]) -> Vec<E> {
    assert_eq!(weight.len(), shape.weight_len(), "the weight of {shape:?}");
    let room = &mut Vec::new();
    let weight = E::rounded(weight, room);
    let len = shape.input_len();
    if shape.is_empty() {
        return vec![E::default(); len];
    }
    if let Some(dense) = Dense::of(shape) {
        return dense.input_gradient(dy, weight);
    }
    let maps = shape.output(dy);
    let stride = shape.stride;
    let unseen = |phase: usize, size| shape.turned_taps(size, phase).is_empty();
    let mut dx = Vec::with_capacity(len);
    let unwritten = &mut dx.spare_capacity_mut()[..len];
    if (0..stride).any(|phase| unseen(phase, shape.height) || unseen(phase, shape.width)) {
        unwritten.fill(MaybeUninit::new(E::default()));
    }
    let inputs = shape.inputs / shape.groups;
    let area = shape.kernel * shape.kernel;
    let weights = Weights {
        values: weight,
        group: shape.outputs / shape.groups * inputs * area,
        output: area,
        input: inputs * area,
    };
    for (row, column) in (0..stride).flat_map(|y| (0..stride).map(move |x| (y, x))) {
        let ys = shape.turned_taps(shape.height, row);
        let xs = shape.turned_taps(shape.width, column);
        if ys.is_empty() || xs.is_empty() {
            continue;
        }
        let correlation = Correlation {
            images: shape.images,
            groups: shape.groups,
            inputs: shape.outputs / shape.groups,
            outputs: inputs,
            taps: Taps::new(shape.kernel, &ys, &xs),
            step: 1,
            source: [maps.height, maps.width],
            height: (shape.height - row).div_ceil(stride),
            width: (shape.width - column).div_ceil(stride),
        };
        let target = Target {
            values: Out::unwritten(&mut *unwritten),
            channels: shape.inputs,
            height: shape.height,
            width: shape.width,
            step: stride,
            row,
            column,
        };
        correlate(&correlation, &maps, &weights, &target);
    }
    // SAFETY: the phases together are every pixel. `correlate` has written those of each phase; if one was left out, all
    // pixels were set to zero before.
    unsafe { dx.set_len(len) };
    dx
}

/// The gradient of the weight, given the gradient `dy` of the output.
///
/// # Panics
/// If a slice has another length than `shape` says.
pub(crate) fn weight_gradient<E: Element>(shape: &ConvShape, x: &[E], dy: &[E]) -> Vec<f32> {
    if !shape.is_empty()
        && let Some(dense) = Dense::of(shape)
    {
        return dense.weight_gradient(x, dy);
    }
    let correlation = shape.correlation();
    let mut dw = vec![0.0; shape.weight_len()];
    if shape.is_empty() || correlation.taps() == 0 {
        return dw;
    }
    let (maps, gradient) = (shape.input(x), shape.output(dy));
    match Winograd::of(&correlation) {
        Some(winograd) => winograd.weight_gradient(&maps, &gradient, &mut dw),
        None => correlation.weight_gradient(&maps, &gradient, &mut dw),
    }
    dw
}
