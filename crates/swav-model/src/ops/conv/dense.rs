//! Convolution on maps of a pixel or little more, as the linear layer that it then is.
//!
//! A 3×3 kernel over a single pixel is a matrix, and so is one that makes a pixel of 2×2. With the maps of an image as
//! one row, where they lie, the convolution is a product with a matrix that has the kernel's weights in the right places:
//!
//! ```text
//! Y  = X Wᵀ            X is [images, inputs·pixels], Y is [images, outputs·pixels]
//! dX = dY W            W is [outputs·pixels, inputs·pixels]
//! dW = dYᵀ X           from which each weight's gradient is gathered
//! ```
//!
//! Nothing is padded and no map is copied. On larger maps weights would stand in W several times: a 3×3 kernel over 3×3
//! pixels has 81 places for its 9 weights, and with some hundred channels writing them takes longer than all the rest.

use gemm::Parallelism;
use rayon::prelude::*;

use super::ConvShape;
use crate::ops::element::Element;

/// A convolution that is worth it.
pub(super) struct Dense<'a> {
    shape: &'a ConvShape,
    /// Pixels of an input map and of an output map.
    pixels: [usize; 2],
    /// For each output pixel and each input pixel the place in the kernel of the weight between them.
    places: Vec<Option<usize>>,
}

impl<'a> Dense<'a> {
    /// If W is no larger than the kernel.
    pub(super) fn of(shape: &'a ConvShape) -> Option<Self> {
        let taps = shape.taps(shape.height).len() * shape.taps(shape.width).len();
        let [height, width] = shape.output_map();
        let pixels = [shape.height * shape.width, height * width];
        if shape.groups > 1 || pixels[0] * pixels[1] > taps {
            return None;
        }
        let between = |output: usize, input: usize| {
            let first = output * shape.stride;
            let place = (input + shape.padding).checked_sub(first)?;
            (place < shape.kernel).then_some(place)
        };
        let places = (0..pixels[1]).flat_map(|output| {
            (0..pixels[0]).map(move |input| {
                let y = between(output / width, input / shape.width)?;
                let x = between(output % width, input % shape.width)?;
                Some(y * shape.kernel + x)
            })
        });
        Some(Self {
            shape,
            pixels,
            places: places.collect(),
        })
    }

    /// Rows and columns of W.
    fn size(&self) -> [usize; 2] {
        let [inputs, outputs] = self.pixels;
        [self.shape.outputs * outputs, self.shape.inputs * inputs]
    }

    /// W, row by row.
    fn matrix(&self, weight: &[f32]) -> Vec<f32> {
        let [rows, columns] = self.size();
        let [inputs, outputs] = self.pixels;
        let area = self.shape.kernel * self.shape.kernel;
        let mut matrix = vec![0.0; rows * columns];
        matrix
            .par_chunks_exact_mut(columns * outputs)
            .zip(weight.par_chunks_exact(self.shape.inputs * area))
            .for_each(|(rows, kernels)| {
                for (row, places) in rows
                    .chunks_exact_mut(columns)
                    .zip(self.places.chunks_exact(inputs))
                {
                    for (to, kernel) in row.chunks_exact_mut(inputs).zip(kernels.chunks_exact(area))
                    {
                        for (to, place) in to.iter_mut().zip(places) {
                            *to = place.map_or(0.0, |place| kernel[place]);
                        }
                    }
                }
            });
        matrix
    }

    pub(super) fn forward<E: Element>(&self, x: &[E], weight: &[f32]) -> Vec<E> {
        let [rows, columns] = self.size();
        let matrix = self.matrix(weight);
        let room = &mut Vec::new();
        let x = E::widened(x, room);
        E::narrowed(product(
            [self.shape.images, columns, rows],
            (x, [columns, 1]),
            (&matrix, [1, columns]),
        ))
    }

    pub(super) fn input_gradient<E: Element>(&self, dy: &[E], weight: &[f32]) -> Vec<E> {
        let [rows, columns] = self.size();
        let matrix = self.matrix(weight);
        let room = &mut Vec::new();
        let dy = E::widened(dy, room);
        E::narrowed(product(
            [self.shape.images, rows, columns],
            (dy, [rows, 1]),
            (&matrix, [columns, 1]),
        ))
    }

    pub(super) fn weight_gradient<E: Element>(&self, x: &[E], dy: &[E]) -> Vec<f32> {
        let [rows, columns] = self.size();
        let rooms = &mut [Vec::new(), Vec::new()];
        let [room_x, room_dy] = rooms;
        let (x, dy) = (E::widened(x, room_x), E::widened(dy, room_dy));
        let matrix = product(
            [rows, self.shape.images, columns],
            (dy, [1, rows]),
            (x, [columns, 1]),
        );
        let [inputs, outputs] = self.pixels;
        let area = self.shape.kernel * self.shape.kernel;
        let mut dw = vec![0.0; self.shape.outputs * self.shape.inputs * area];
        dw.par_chunks_exact_mut(self.shape.inputs * area)
            .zip(matrix.par_chunks_exact(columns * outputs))
            .for_each(|(kernels, rows)| {
                for (row, places) in rows
                    .chunks_exact(columns)
                    .zip(self.places.chunks_exact(inputs))
                {
                    for (kernel, from) in
                        kernels.chunks_exact_mut(area).zip(row.chunks_exact(inputs))
                    {
                        for (&value, place) in from.iter().zip(places) {
                            if let Some(place) = *place {
                                kernel[place] += value;
                            }
                        }
                    }
                }
            });
        dw
    }
}

/// The product, `[m, n]`, of two matrices, `[m, k]` and `[k, n]`, each with its steps from row to row and from column
/// to column.
fn product(
    [m, k, n]: [usize; 3],
    (left, left_steps): (&[f32], [usize; 2]),
    (right, right_steps): (&[f32], [usize; 2]),
) -> Vec<f32> {
    assert_eq!((left.len(), right.len()), (m * k, k * n), "{m} x {k} x {n}");
    let mut out = Vec::with_capacity(m * n);
    let [left_rows, left_columns] = left_steps.map(usize::cast_signed);
    let [right_rows, right_columns] = right_steps.map(usize::cast_signed);
    // SAFETY: the steps reach every element of each slice and none beyond; `out` has room for all of the product,
    // which is written and not read.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n.cast_signed(),
            false,
            left.as_ptr(),
            left_columns,
            left_rows,
            right.as_ptr(),
            right_columns,
            right_rows,
            0.0_f32,
            1.0_f32,
            false,
            false,
            false,
            Parallelism::Rayon(0),
        );
        out.set_len(m * n);
    }
    out
}
