//! The passes on whatever CubeCL runs on: wgpu, CUDA and the rest.
//!
//! A map is taken for a matrix of `N·H·W` rows and `C` columns, which is how it lies in memory after a convolution of
//! Burn's (NHWC); a map that lies otherwise is copied first. A cube is a tile of [`LANES`] columns and [`LINES`] lines: each
//! thread stays in its column and takes every [`LINES`]-th row of the cube's chunk, so that threads side by side read
//! neighbours, and what belongs to a channel is read once.
//!
//! Maps are `f32` or `bf16`, all else is `f32`: a value of a map is widened when it is read and rounded when it is written.
//!
//! | pass | reads | writes |
//! |---|---|---|
//! | moments | x | two numbers a channel and chunk |
//! | normalise | x, perhaps a shortcut | y |
//! | sums of the gradient | x, gradient, perhaps y | two numbers a channel and chunk |
//! | gradient of x | the same | the gradient of x, perhaps that of the shortcut |
//!
//! What the chunks leave is put together by one more launch, over C columns alone. Every sum is taken in an order that
//! depends on the shape alone, so results are the same to the bit each time.

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::into_data_sync;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::permute_nhwc_to_nchw;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{Kernels, Settings, without_gradients};
use crate::Ranks;
use crate::ops::cube::{element_of, rows_last};
use burn::backend::tensor::FloatTensor;

/// Columns of a cube, and its threads along them.
const LANES: u32 = 32;
/// Lines of a cube.
const LINES: u32 = 8;
/// Threads of a cube: as many as every device of WebGPU has at least.
const THREADS: usize = (LANES * LINES) as usize;

/// Chunks of rows at most: one launch puts together what they leave.
const CHUNKS: usize = 512;
/// Rows of a chunk at least, for each line.
const ROWS: usize = 4;
/// Rows that are added up before their sum goes into a larger one.
const BLOCK: u32 = 64;

/// A value of a map, widened.
#[cube]
fn value_at<E: Float>(map: &Tensor<E>, at: usize) -> f32 {
    f32::cast_from(map[at])
}

/// The rows of this cube's chunk: the first of this thread, and the end.
#[cube]
fn chunk_of(rows: u32, chunk: u32) -> (u32, u32) {
    let first = CUBE_POS_Y * chunk;
    (first + UNIT_POS_Y, min(first + chunk, rows))
}

/// Sums over the lines of a cube, two at a time, for line 0 of each column.
#[cube]
fn sum_lines(one: f32, other: f32, shared: &mut Shared<[f32]>) -> (f32, f32) {
    let at = (UNIT_POS_Y * LANES + UNIT_POS_X) as usize;
    shared[at] = one;
    shared[at + THREADS] = other;
    sync_cube();
    let mut lines = LINES.runtime();
    while lines > 1 {
        lines /= 2;
        if UNIT_POS_Y < lines {
            let from = at + (lines * LANES) as usize;
            shared[at] += shared[from];
            shared[at + THREADS] += shared[from + THREADS];
        }
        sync_cube();
    }
    (shared[at], shared[at + THREADS])
}

/// Puts the moments of two sets of values together (Chan et al., 1983): number, mean, and the sum of squared
/// deviations of each.
#[cube]
fn together(n: f32, mean: f32, squares: f32, m: f32, other: f32, more: f32) -> (f32, f32, f32) {
    let total = n + m;
    let share = m / max(total, 1.0f32);
    let off = other - mean;
    (
        total,
        mean + off * share,
        squares + more + off * off * n * share,
    )
}

/// [`together`] over the lines of a cube, for line 0 of each column.
#[cube]
fn merge_lines(n: f32, mean: f32, squares: f32, shared: &mut Shared<[f32]>) -> (f32, f32) {
    let at = (UNIT_POS_Y * LANES + UNIT_POS_X) as usize;
    shared[at] = n;
    shared[at + THREADS] = mean;
    shared[at + 2 * THREADS] = squares;
    sync_cube();
    let mut lines = LINES.runtime();
    while lines > 1 {
        lines /= 2;
        if UNIT_POS_Y < lines {
            let from = at + (lines * LANES) as usize;
            let (n, mean, squares) = together(
                shared[at],
                shared[at + THREADS],
                shared[at + 2 * THREADS],
                shared[from],
                shared[from + THREADS],
                shared[from + 2 * THREADS],
            );
            shared[at] = n;
            shared[at + THREADS] = mean;
            shared[at + 2 * THREADS] = squares;
        }
        sync_cube();
    }
    (shared[at + THREADS], shared[at + 2 * THREADS])
}

/// Of each column and chunk of `x`, the mean and the sum of squared deviations from it. A thread measures from its
/// first value, so that a large mean takes nothing from a small variance.
#[cube(launch)]
fn moments_kernel<E: Float>(
    x: &Tensor<E>,
    means: &mut Tensor<f32>,
    squares: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
    #[define(E)] _element: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(3 * THREADS);
    let c = ABSOLUTE_POS_X;
    let (first, end) = chunk_of(rows, chunk);
    let mut n = 0.0f32.runtime();
    let mut mean = 0.0f32.runtime();
    let mut square = 0.0f32.runtime();
    if c < channels && first < end {
        let origin = value_at(x, (first * channels + c) as usize);
        let mut sum = 0.0f32.runtime();
        let mut row = first;
        while row < end {
            let stop = min(row + BLOCK * LINES, end);
            let mut part = 0.0f32.runtime();
            let mut part_square = 0.0f32.runtime();
            while row < stop {
                let d = value_at(x, (row * channels + c) as usize) - origin;
                part += d;
                part_square += d * d;
                n += 1.0f32;
                row += LINES;
            }
            sum += part;
            square += part_square;
        }
        let off = sum / n;
        mean = origin + off;
        square = max(square - off * sum, 0.0f32);
    }
    let (mean, square) = merge_lines(n, mean, square, &mut shared);
    if UNIT_POS_Y == 0 && c < channels {
        let at = (CUBE_POS_Y * channels + c) as usize;
        means[at] = mean;
        squares[at] = square;
    }
}

/// Puts together what the chunks left: the mean and the biased variance of each column.
#[cube(launch)]
fn merge_kernel(
    means: &Tensor<f32>,
    squares: &Tensor<f32>,
    mean: &mut Tensor<f32>,
    variance: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
) {
    let mut shared = Shared::<[f32]>::new_slice(3 * THREADS);
    let c = ABSOLUTE_POS_X;
    let chunks = rows.div_ceil(chunk);
    let mut n = 0.0f32.runtime();
    let mut centre = 0.0f32.runtime();
    let mut square = 0.0f32.runtime();
    if c < channels {
        let mut i = UNIT_POS_Y;
        while i < chunks {
            let at = (i * channels + c) as usize;
            let m = f32::cast_from(min(chunk, rows - i * chunk));
            let (total, to, all) = together(n, centre, square, m, means[at], squares[at]);
            n = total;
            centre = to;
            square = all;
            i += LINES;
        }
    }
    let (centre, square) = merge_lines(n, centre, square, &mut shared);
    if UNIT_POS_Y == 0 && c < channels {
        mean[c as usize] = centre;
        variance[c as usize] = square / f32::cast_from(rows);
    }
}

/// The ReLU, which lets not-a-number pass.
#[cube]
fn rectified(y: f32) -> f32 {
    select(y < 0.0f32, 0.0f32, y)
}

/// One over the standard deviation.
#[cube]
fn inverse_deviation(variance: f32, epsilon: f32) -> f32 {
    1.0f32 / (variance + epsilon).sqrt()
}

/// `y = (x − mean) / √(variance + ε) · weight + bias`, and what follows.
#[cube(launch)]
fn normalise_kernel<E: Float>(
    x: &Tensor<E>,
    weight: &Tensor<f32>,
    bias: &Tensor<f32>,
    mean: &Tensor<f32>,
    variance: &Tensor<f32>,
    y: &mut Tensor<E>,
    channels: u32,
    rows: u32,
    chunk: u32,
    epsilon: f32,
    #[comptime] relu: bool,
    #[define(E)] _element: ElemType,
) {
    let c = ABSOLUTE_POS_X;
    if c < channels {
        let (first, end) = chunk_of(rows, chunk);
        let at = c as usize;
        let scale = weight[at] * inverse_deviation(variance[at], epsilon);
        let (centre, bias) = (mean[at], bias[at]);
        let mut row = first;
        while row < end {
            let at = (row * channels + c) as usize;
            let value = (value_at(x, at) - centre) * scale + bias;
            let value = if comptime!(relu) {
                rectified(value)
            } else {
                value
            };
            y[at] = E::cast_from(value);
            row += LINES;
        }
    }
}

/// [`normalise_kernel`], plus a shortcut, through the ReLU.
#[cube(launch)]
fn normalise_add_kernel<E: Float>(
    x: &Tensor<E>,
    shortcut: &Tensor<E>,
    weight: &Tensor<f32>,
    bias: &Tensor<f32>,
    mean: &Tensor<f32>,
    variance: &Tensor<f32>,
    y: &mut Tensor<E>,
    channels: u32,
    rows: u32,
    chunk: u32,
    epsilon: f32,
    #[define(E)] _element: ElemType,
) {
    let c = ABSOLUTE_POS_X;
    if c < channels {
        let (first, end) = chunk_of(rows, chunk);
        let at = c as usize;
        let scale = weight[at] * inverse_deviation(variance[at], epsilon);
        let (centre, bias) = (mean[at], bias[at]);
        let mut row = first;
        while row < end {
            let at = (row * channels + c) as usize;
            let value = (value_at(x, at) - centre) * scale + bias;
            y[at] = E::cast_from(rectified(value + value_at(shortcut, at)));
            row += LINES;
        }
    }
}

/// What comes back through the ReLU, if there is one, which made `y`.
#[cube]
fn returned<E: Float>(
    gradient: &Tensor<E>,
    y: &Tensor<E>,
    at: usize,
    #[comptime] relu: bool,
) -> f32 {
    let g = value_at(gradient, at);
    if comptime!(relu) {
        select(value_at(y, at) > 0.0f32, g, 0.0f32)
    } else {
        g
    }
}

/// Of each column and chunk, the sums `Σ g` and `Σ g·(x − mean)`, where g is what came back through the ReLU.
#[cube]
fn sum_gradient<E: Float>(
    x: &Tensor<E>,
    y: &Tensor<E>,
    gradient: &Tensor<E>,
    mean: &Tensor<f32>,
    sums: &mut Tensor<f32>,
    products: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
    #[comptime] relu: bool,
) {
    let mut shared = Shared::<[f32]>::new_slice(2 * THREADS);
    let c = ABSOLUTE_POS_X;
    let mut sum = 0.0f32.runtime();
    let mut product = 0.0f32.runtime();
    if c < channels {
        let (first, end) = chunk_of(rows, chunk);
        let centre = mean[c as usize];
        let mut row = first;
        while row < end {
            let stop = min(row + BLOCK * LINES, end);
            let mut part = 0.0f32.runtime();
            let mut part_product = 0.0f32.runtime();
            while row < stop {
                let at = (row * channels + c) as usize;
                let g = returned(gradient, y, at, relu);
                part += g;
                part_product += g * (value_at(x, at) - centre);
                row += LINES;
            }
            sum += part;
            product += part_product;
        }
    }
    let (sum, product) = sum_lines(sum, product, &mut shared);
    if UNIT_POS_Y == 0 && c < channels {
        let at = (CUBE_POS_Y * channels + c) as usize;
        sums[at] = sum;
        products[at] = product;
    }
}

#[cube(launch)]
fn sums_kernel<E: Float>(
    x: &Tensor<E>,
    gradient: &Tensor<E>,
    mean: &Tensor<f32>,
    sums: &mut Tensor<f32>,
    products: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
    #[define(E)] _element: ElemType,
) {
    sum_gradient(
        x, gradient, gradient, mean, sums, products, channels, rows, chunk, false,
    );
}

#[cube(launch)]
fn sums_relu_kernel<E: Float>(
    x: &Tensor<E>,
    y: &Tensor<E>,
    gradient: &Tensor<E>,
    mean: &Tensor<f32>,
    sums: &mut Tensor<f32>,
    products: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
    #[define(E)] _element: ElemType,
) {
    sum_gradient(
        x, y, gradient, mean, sums, products, channels, rows, chunk, true,
    );
}

/// Puts together what the chunks left: the gradients of weight and bias; and of each column what the gradient of a value
/// is made of, `[4, C]`: mean, factor, what is taken off everywhere, and what is taken off for each step from the mean.
///
/// ```text
/// dx = weight/σ · (g − Σg/n − (x − mean)/σ² · Σ(g·(x − mean))/n)
/// ```
#[cube(launch)]
fn gather_kernel(
    sums: &Tensor<f32>,
    products: &Tensor<f32>,
    weight: &Tensor<f32>,
    mean: &Tensor<f32>,
    variance: &Tensor<f32>,
    of_weight: &mut Tensor<f32>,
    of_bias: &mut Tensor<f32>,
    column: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
    epsilon: f32,
) {
    let mut shared = Shared::<[f32]>::new_slice(2 * THREADS);
    let c = ABSOLUTE_POS_X;
    let chunks = rows.div_ceil(chunk);
    let mut sum = 0.0f32.runtime();
    let mut product = 0.0f32.runtime();
    if c < channels {
        let mut i = UNIT_POS_Y;
        while i < chunks {
            let at = (i * channels + c) as usize;
            sum += sums[at];
            product += products[at];
            i += LINES;
        }
    }
    let (sum, product) = sum_lines(sum, product, &mut shared);
    if UNIT_POS_Y == 0 && c < channels {
        let at = c as usize;
        let n = f32::cast_from(rows);
        let inverse = inverse_deviation(variance[at], epsilon);
        of_bias[at] = sum;
        of_weight[at] = product * inverse;
        column[at] = mean[at];
        column[(channels + c) as usize] = weight[at] * inverse;
        column[(2 * channels + c) as usize] = sum / n;
        column[(3 * channels + c) as usize] = product * inverse * inverse / n;
    }
}

/// The gradient of a value of x: see [`gather_kernel`].
#[cube]
fn input_gradient(x: f32, g: f32, column: (f32, f32, f32, f32)) -> f32 {
    let (mean, factor, even, along) = column;
    factor * (g - even - (x - mean) * along)
}

/// What [`gather_kernel`] left of column `c`.
#[cube]
fn column_of(column: &Tensor<f32>, channels: u32, c: u32) -> (f32, f32, f32, f32) {
    (
        column[c as usize],
        column[(channels + c) as usize],
        column[(2 * channels + c) as usize],
        column[(3 * channels + c) as usize],
    )
}

#[cube(launch)]
fn input_gradient_kernel<E: Float>(
    x: &Tensor<E>,
    gradient: &Tensor<E>,
    column: &Tensor<f32>,
    dx: &mut Tensor<E>,
    channels: u32,
    rows: u32,
    chunk: u32,
    #[define(E)] _element: ElemType,
) {
    let c = ABSOLUTE_POS_X;
    if c < channels {
        let (first, end) = chunk_of(rows, chunk);
        let column = column_of(column, channels, c);
        let mut row = first;
        while row < end {
            let at = (row * channels + c) as usize;
            let g = value_at(gradient, at);
            dx[at] = E::cast_from(input_gradient(value_at(x, at), g, column));
            row += LINES;
        }
    }
}

/// [`input_gradient_kernel`] behind a ReLU.
#[cube(launch)]
fn input_gradient_relu_kernel<E: Float>(
    x: &Tensor<E>,
    y: &Tensor<E>,
    gradient: &Tensor<E>,
    column: &Tensor<f32>,
    dx: &mut Tensor<E>,
    channels: u32,
    rows: u32,
    chunk: u32,
    #[define(E)] _element: ElemType,
) {
    let c = ABSOLUTE_POS_X;
    if c < channels {
        let (first, end) = chunk_of(rows, chunk);
        let column = column_of(column, channels, c);
        let mut row = first;
        while row < end {
            let at = (row * channels + c) as usize;
            let g = returned(gradient, y, at, true);
            dx[at] = E::cast_from(input_gradient(value_at(x, at), g, column));
            row += LINES;
        }
    }
}

/// [`input_gradient_relu_kernel`], and the gradient of the shortcut: what came back through the ReLU.
#[cube(launch)]
fn input_gradient_add_kernel<E: Float>(
    x: &Tensor<E>,
    y: &Tensor<E>,
    gradient: &Tensor<E>,
    column: &Tensor<f32>,
    dx: &mut Tensor<E>,
    shortcut: &mut Tensor<E>,
    channels: u32,
    rows: u32,
    chunk: u32,
    #[define(E)] _element: ElemType,
) {
    let c = ABSOLUTE_POS_X;
    if c < channels {
        let (first, end) = chunk_of(rows, chunk);
        let column = column_of(column, channels, c);
        let mut row = first;
        while row < end {
            let at = (row * channels + c) as usize;
            let g = returned(gradient, y, at, true);
            dx[at] = E::cast_from(input_gradient(value_at(x, at), g, column));
            shortcut[at] = E::cast_from(g);
            row += LINES;
        }
    }
}

/// A map as a matrix, and how it is cut up.
struct Matrix {
    /// `[N, …, C]`, contiguous.
    x: CubeTensor,
    element: ElemType,
    channels: u32,
    rows: u32,
    chunk: u32,
}

impl Matrix {
    fn new(x: CubeTensor) -> Self {
        let element = element_of(x.dtype);
        let x = rows_last(x);
        let shape = x.meta.shape();
        let channels = shape[shape.num_dims() - 1];
        let rows = shape.num_elements() / channels.max(1);
        let least = LINES as usize * ROWS;
        let chunk = rows
            .div_ceil(CHUNKS)
            .next_multiple_of(LINES as usize)
            .max(least);
        Self {
            x,
            element,
            channels: channels as u32,
            rows: rows as u32,
            chunk: chunk as u32,
        }
    }

    fn client(&self) -> &cubecl::client::Client {
        &self.x.client
    }

    fn chunks(&self) -> u32 {
        self.rows.div_ceil(self.chunk)
    }

    /// A cube for each tile of columns and chunk of rows.
    fn cubes(&self) -> CubeCount {
        CubeCount::Static(self.channels.div_ceil(LANES), self.chunks(), 1)
    }

    /// A cube for each tile of columns.
    fn columns(&self) -> CubeCount {
        CubeCount::Static(self.channels.div_ceil(LANES), 1, 1)
    }

    fn empty(&self, shape: Shape, dtype: DType) -> CubeTensor {
        let (client, device) = (self.x.client.clone(), self.x.device.clone());
        empty_device_contiguous_dtype(client, device, shape, dtype)
    }

    /// A map of the shape and the elements of this one, `[N, …, C]`.
    fn like(&self) -> CubeTensor {
        self.empty(self.x.meta.shape().clone(), self.x.dtype)
    }

    /// A number of each channel.
    fn numbers(&self) -> CubeTensor {
        self.empty(Shape::from([self.channels as usize]), DType::F32)
    }

    /// So many numbers of each channel.
    fn table(&self, rows: u32) -> CubeTensor {
        let shape = Shape::from([rows as usize, self.channels as usize]);
        self.empty(shape, DType::F32)
    }

    /// A number of each channel and chunk.
    fn parts(&self) -> CubeTensor {
        self.table(self.chunks())
    }

    /// Another map that belongs to this one, as its kernels read it.
    ///
    /// # Panics
    /// If it has other elements: kernels would misread them.
    fn beside(&self, map: CubeTensor) -> CubeTensor {
        assert_eq!(map.dtype, self.x.dtype, "maps of a call are of one type");
        rows_last(map)
    }

    fn moments(&self) -> (CubeTensor, CubeTensor) {
        let (means, squares) = (self.parts(), self.parts());
        moments_kernel::launch(
            self.client(),
            self.cubes(),
            DIM,
            self.x.clone().into_tensor_arg(),
            means.clone().into_tensor_arg(),
            squares.clone().into_tensor_arg(),
            self.channels,
            self.rows,
            self.chunk,
            self.element,
        );
        let (mean, variance) = (self.numbers(), self.numbers());
        merge_kernel::launch(
            self.client(),
            self.columns(),
            DIM,
            means.into_tensor_arg(),
            squares.into_tensor_arg(),
            mean.clone().into_tensor_arg(),
            variance.clone().into_tensor_arg(),
            self.channels,
            self.rows,
            self.chunk,
        );
        (mean, variance)
    }

    /// The moments over the maps of all ranks. What crosses them goes by the host, for which it waits.
    fn moments_over(&self, ranks: &Ranks) -> (CubeTensor, CubeTensor) {
        let (mean, variance) = self.moments();
        if ranks.is_alone() {
            return (mean, variance);
        }
        let [mut means, mut variances] = [mean, variance].map(on_host);
        ranks.moments(self.rows as usize, &mut means, &mut variances);
        let channels = [means.len()];
        (
            self.upload(&means, channels),
            self.upload(&variances, channels),
        )
    }

    /// What [`gather_kernel`] would leave of each column if this rank had the maps of all; `own` are the gradients of the
    /// weight and the bias by its own maps.
    fn column_over(
        &self,
        ranks: &Ranks,
        own: [&CubeTensor; 2],
        numbers: [CubeTensor; 3],
        epsilon: f64,
    ) -> CubeTensor {
        let [of_weight, of_bias] = own.map(|numbers| on_host(numbers.clone()));
        let [weight, mean, variance] = numbers.map(on_host);
        let wide = |numbers: Vec<f32>| numbers.into_iter().map(f64::from).collect::<Vec<_>>();
        let (mut products, mut sums) = (wide(of_weight), wide(of_bias));
        let n = ranks.sums(self.rows as usize, [&mut products, &mut sums]);
        let inverse = |channel: usize| 1.0 / (f64::from(variance[channel]) + epsilon).sqrt();
        let channels = 0..self.channels as usize;
        let factor = channels
            .clone()
            .map(|c| (f64::from(weight[c]) * inverse(c)) as f32);
        let even = channels.clone().map(|c| (sums[c] / n) as f32);
        let along = channels.map(|c| (products[c] * inverse(c) / n) as f32);
        let mut column = mean.clone();
        column.extend(factor.chain(even).chain(along));
        self.upload(&column, [4, mean.len()])
    }

    /// Numbers from the host.
    fn upload(&self, numbers: &[f32], shape: impl Into<Shape>) -> CubeTensor {
        let (client, device) = (self.client().clone(), self.x.device.clone());
        let handle = client.create_from_slice(f32::as_bytes(numbers));
        CubeTensor::new_contiguous(client, device, shape.into(), handle, DType::F32)
    }

    /// Gradients of the weight and the bias, and what [`gather_kernel`] leaves of each column. `numbers` are weight, mean
    /// and variance.
    fn sums(
        &self,
        y: Option<&CubeTensor>,
        gradient: &CubeTensor,
        numbers: [CubeTensor; 3],
        epsilon: f64,
    ) -> [CubeTensor; 3] {
        let [weight, mean, variance] = numbers.map(number);
        let (sums, products) = (self.parts(), self.parts());
        match y {
            None => sums_kernel::launch(
                self.client(),
                self.cubes(),
                DIM,
                self.x.clone().into_tensor_arg(),
                gradient.clone().into_tensor_arg(),
                mean.clone().into_tensor_arg(),
                sums.clone().into_tensor_arg(),
                products.clone().into_tensor_arg(),
                self.channels,
                self.rows,
                self.chunk,
                self.element,
            ),
            Some(y) => sums_relu_kernel::launch(
                self.client(),
                self.cubes(),
                DIM,
                self.x.clone().into_tensor_arg(),
                y.clone().into_tensor_arg(),
                gradient.clone().into_tensor_arg(),
                mean.clone().into_tensor_arg(),
                sums.clone().into_tensor_arg(),
                products.clone().into_tensor_arg(),
                self.channels,
                self.rows,
                self.chunk,
                self.element,
            ),
        }
        let (of_weight, of_bias) = (self.numbers(), self.numbers());
        let column = self.table(4);
        gather_kernel::launch(
            self.client(),
            self.columns(),
            DIM,
            sums.into_tensor_arg(),
            products.into_tensor_arg(),
            weight.into_tensor_arg(),
            mean.into_tensor_arg(),
            variance.into_tensor_arg(),
            of_weight.clone().into_tensor_arg(),
            of_bias.clone().into_tensor_arg(),
            column.clone().into_tensor_arg(),
            self.channels,
            self.rows,
            self.chunk,
            epsilon as f32,
        );
        [of_weight, of_bias, column]
    }
}

/// Numbers of the channels, read back: this waits for the device.
fn on_host(numbers: CubeTensor) -> Vec<f32> {
    into_data_sync(numbers).iter::<f32>().collect()
}

/// Threads of a cube.
const DIM: CubeDim = CubeDim::new_2d(LANES, LINES);

/// A number of each channel, as kernels read it.
///
/// # Panics
/// If it is not of `f32`: kernels would misread it.
fn number(tensor: CubeTensor) -> CubeTensor {
    assert_eq!(tensor.dtype, DType::F32, "what belongs to a channel is f32");
    into_contiguous(tensor)
}

without_gradients!(CubeBackend);

impl Kernels for CubeBackend {
    fn moments(x: CubeTensor, ranks: Ranks) -> (CubeTensor, CubeTensor) {
        Matrix::new(x).moments_over(&ranks)
    }

    fn normalise(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        epsilon: f64,
        relu: bool,
    ) -> CubeTensor {
        let matrix = Matrix::new(x);
        let [weight, bias, mean, variance] = [weight, bias, mean, variance].map(number);
        let y = matrix.like();
        normalise_kernel::launch(
            matrix.client(),
            matrix.cubes(),
            DIM,
            matrix.x.clone().into_tensor_arg(),
            weight.into_tensor_arg(),
            bias.into_tensor_arg(),
            mean.into_tensor_arg(),
            variance.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            matrix.channels,
            matrix.rows,
            matrix.chunk,
            epsilon as f32,
            relu,
            matrix.element,
        );
        permute_nhwc_to_nchw(y)
    }

    fn normalise_add(
        x: CubeTensor,
        shortcut: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        epsilon: f64,
    ) -> CubeTensor {
        let matrix = Matrix::new(x);
        let [weight, bias, mean, variance] = [weight, bias, mean, variance].map(number);
        let y = matrix.like();
        normalise_add_kernel::launch(
            matrix.client(),
            matrix.cubes(),
            DIM,
            matrix.x.clone().into_tensor_arg(),
            matrix.beside(shortcut).into_tensor_arg(),
            weight.into_tensor_arg(),
            bias.into_tensor_arg(),
            mean.into_tensor_arg(),
            variance.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            matrix.channels,
            matrix.rows,
            matrix.chunk,
            epsilon as f32,
            matrix.element,
        );
        permute_nhwc_to_nchw(y)
    }

    fn gradients(
        x: CubeTensor,
        weight: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        gradient: CubeTensor,
        settings: Settings,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let numbers = [weight, mean, variance];
        let ([x, weight, bias], _) = gradients(x, Behind::Nothing, numbers, gradient, &settings);
        (x, weight, bias)
    }

    fn gradients_relu(
        x: CubeTensor,
        y: CubeTensor,
        weight: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        gradient: CubeTensor,
        settings: Settings,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let numbers = [weight, mean, variance];
        let ([x, weight, bias], _) = gradients(x, Behind::Relu(y), numbers, gradient, &settings);
        (x, weight, bias)
    }

    fn gradients_add(
        x: CubeTensor,
        y: CubeTensor,
        weight: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        gradient: CubeTensor,
        settings: Settings,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let numbers = [weight, mean, variance];
        let ([x, weight, bias], rest) =
            gradients(x, Behind::AddRelu(y), numbers, gradient, &settings);
        let Some(shortcut) = rest else {
            unreachable!("a shortcut has a gradient")
        };
        (x, weight, bias, shortcut)
    }
}

/// What a gradient comes back through, with the output of that.
enum Behind {
    Nothing,
    Relu(CubeTensor),
    AddRelu(CubeTensor),
}

/// Gradients of the input, the weight, the bias and, where there is one, the shortcut. `numbers` are weight, mean and
/// variance.
fn gradients(
    x: CubeTensor,
    behind: Behind,
    numbers: [CubeTensor; 3],
    gradient: CubeTensor,
    settings: &Settings,
) -> ([CubeTensor; 3], Option<CubeTensor>) {
    let Settings { epsilon, ranks } = settings;
    let matrix = Matrix::new(x);
    let gradient = matrix.beside(gradient);
    let (y, has_shortcut) = match behind {
        Behind::Nothing => (None, false),
        Behind::Relu(y) => (Some(matrix.beside(y)), false),
        Behind::AddRelu(y) => (Some(matrix.beside(y)), true),
    };
    let [of_weight, of_bias, mut column] =
        matrix.sums(y.as_ref(), &gradient, numbers.clone(), *epsilon);
    if !ranks.is_alone() {
        column = matrix.column_over(ranks, [&of_weight, &of_bias], numbers, *epsilon);
    }
    let dx = matrix.like();
    let shortcut = has_shortcut.then(|| matrix.like());
    match (y, &shortcut) {
        (None, _) => input_gradient_kernel::launch(
            matrix.client(),
            matrix.cubes(),
            DIM,
            matrix.x.clone().into_tensor_arg(),
            gradient.into_tensor_arg(),
            column.into_tensor_arg(),
            dx.clone().into_tensor_arg(),
            matrix.channels,
            matrix.rows,
            matrix.chunk,
            matrix.element,
        ),
        (Some(y), None) => input_gradient_relu_kernel::launch(
            matrix.client(),
            matrix.cubes(),
            DIM,
            matrix.x.clone().into_tensor_arg(),
            y.into_tensor_arg(),
            gradient.into_tensor_arg(),
            column.into_tensor_arg(),
            dx.clone().into_tensor_arg(),
            matrix.channels,
            matrix.rows,
            matrix.chunk,
            matrix.element,
        ),
        (Some(y), Some(shortcut)) => input_gradient_add_kernel::launch(
            matrix.client(),
            matrix.cubes(),
            DIM,
            matrix.x.clone().into_tensor_arg(),
            y.into_tensor_arg(),
            gradient.into_tensor_arg(),
            column.into_tensor_arg(),
            dx.clone().into_tensor_arg(),
            shortcut.clone().into_tensor_arg(),
            matrix.channels,
            matrix.rows,
            matrix.chunk,
            matrix.element,
        ),
    }
    (
        [permute_nhwc_to_nchw(dx), of_weight, of_bias],
        shortcut.map(permute_nhwc_to_nchw),
    )
}

#[cfg(all(test, feature = "wgpu"))]
#[allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers
mod tests {
    use burn::tensor::{Device, DeviceKind, Tensor};

    use super::super::batch_norm_train;
    use super::*;
    use crate::Draw;
    use crate::ops::Epilogue;

    /// `f16` instead of bf16, which software devices do not have.
    #[test]
    fn maps_of_16_bits_are_widened_and_their_results_rounded() {
        let device = Device::wgpu(DeviceKind::DefaultDevice);
        if !device.supports_dtype(DType::F16) {
            let skipped = format!("{device:?} has no f16");
            assert!(std::env::var_os("CI").is_none(), "{skipped}");
            println!("skipped: {skipped}");
            return;
        }
        for shape in [[4, 3, 1], [5, 16, 49], [70, 33, 16], [3, 5, 9000]] {
            for follow in [Follow::Nothing, Follow::Relu, Follow::AddRelu] {
                let found = results(shape, follow, DType::F16, &device);
                let wanted = results(shape, follow, DType::F32, &device);
                for ((name, found), (_, wanted)) in found.iter().zip(&wanted) {
                    let same = found.iter().zip(wanted).all(|(f, w)| f == w);
                    assert!(
                        same && found.len() == wanted.len(),
                        "{shape:?} {follow:?}: {name}"
                    );
                }
            }
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Follow {
        Nothing,
        Relu,
        AddRelu,
    }

    /// What comes of maps of this type, with values that `f16` has.
    fn results(
        shape: [usize; 3],
        follow: Follow,
        dtype: DType,
        device: &Device,
    ) -> Vec<(&'static str, Vec<f32>)> {
        fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
            x.into_data().try_to_vec().unwrap()
        }
        let rounded = |x: Tensor<3>| x.cast(DType::F16).cast(DType::F32);
        let mut draw = Draw::new(7, &device.clone().autodiff());
        let mut map = || rounded(draw.normal(1.0, shape)).cast(dtype).require_grad();
        let (x, shortcut, probe) = (map(), map(), map().detach());
        let mut number = || draw.normal(1.0, [shape[1]]).require_grad();
        let (weight, bias) = (number(), number());
        let epilogue = match follow {
            Follow::Nothing => Epilogue::None,
            Follow::Relu => Epilogue::Relu,
            Follow::AddRelu => Epilogue::AddRelu(shortcut.clone()),
        };
        let batch = batch_norm_train(
            x.clone(),
            weight.clone(),
            bias.clone(),
            1e-5,
            epilogue,
            Ranks::default(),
        );
        assert_eq!(batch.output.dtype(), dtype);
        let gradients = (batch.output.clone() * probe).sum().backward();
        let dx = x.grad(&gradients).unwrap();
        assert_eq!(dx.dtype(), dtype);
        let mut results = vec![
            ("output", host(rounded(batch.output))),
            ("gradient of the input", host(rounded(dx))),
            ("mean", host(batch.mean)),
            ("variance", host(batch.variance)),
            (
                "gradient of the weight",
                host(weight.grad(&gradients).unwrap()),
            ),
            ("gradient of the bias", host(bias.grad(&gradients).unwrap())),
        ];
        if follow == Follow::AddRelu {
            let gradient = shortcut.grad(&gradients).unwrap();
            results.push(("gradient of the shortcut", host(rounded(gradient))));
        }
        results
    }

    #[test]
    #[should_panic(expected = "maps are f32 or bf16, not F64")]
    fn maps_of_other_types_are_refused() {
        element_of(DType::F64);
    }
}

/// For NVIDIA GPUs, without one.
#[cfg(all(test, feature = "nvrtc"))]
mod cuda {
    use super::*;
    use crate::nvrtc::{Gpu, check, tensor};

    // Tensors in order, then a number for each `()`, then what is known when a kernel is compiled.

    #[test]
    #[ignore = "needs NVRTC: cargo xtask nvrtc"]
    fn nvrtc_compiles_every_kernel() {
        check(include_str!("cube.rs"), |gpu| {
            kernels_of_maps(gpu, element_of(DType::F32));
            for ptx in kernels_of_maps(gpu, element_of(DType::BF16)) {
                assert_that_bf16_is_only_converted(&ptx);
            }
            gpu.compile(DIM, |s, d, t| {
                let (means, squares, mean, variance) = (tensor(), tensor(), tensor(), tensor());
                merge_kernel::MergeKernel::new(s, d, t, means, squares, mean, variance, (), (), ())
            });
            gpu.compile(DIM, |s, d, t| {
                let (sums, products, weight) = (tensor(), tensor(), tensor());
                let (mean, variance) = (tensor(), tensor());
                let (of_weight, of_bias, column) = (tensor(), tensor(), tensor());
                gather_kernel::GatherKernel::new(
                    s,
                    d,
                    t,
                    sums,
                    products,
                    weight,
                    mean,
                    variance,
                    of_weight,
                    of_bias,
                    column,
                    (),
                    (),
                    (),
                    (),
                )
            });
        });
    }

    /// PTX of the kernels that know of maps.
    fn kernels_of_maps(gpu: &mut Gpu, element: ElemType) -> Vec<String> {
        let normalise = [false, true].map(|relu| {
            gpu.compile(DIM, |s, d, t| {
                let (x, weight, bias) = (tensor(), tensor(), tensor());
                let (mean, variance, y) = (tensor(), tensor(), tensor());
                normalise_kernel::NormaliseKernel::new(
                    s,
                    d,
                    t,
                    x,
                    weight,
                    bias,
                    mean,
                    variance,
                    y,
                    (),
                    (),
                    (),
                    (),
                    relu,
                    element,
                )
            })
        });
        let others = [
            gpu.compile(DIM, |s, d, t| {
                let (x, means, squares) = (tensor(), tensor(), tensor());
                moments_kernel::MomentsKernel::new(s, d, t, x, means, squares, (), (), (), element)
            }),
            gpu.compile(DIM, |s, d, t| {
                let (x, shortcut, weight, bias) = (tensor(), tensor(), tensor(), tensor());
                let (mean, variance, y) = (tensor(), tensor(), tensor());
                normalise_add_kernel::NormaliseAddKernel::new(
                    s,
                    d,
                    t,
                    x,
                    shortcut,
                    weight,
                    bias,
                    mean,
                    variance,
                    y,
                    (),
                    (),
                    (),
                    (),
                    element,
                )
            }),
            gpu.compile(DIM, |s, d, t| {
                let (x, gradient, mean) = (tensor(), tensor(), tensor());
                let (sums, products) = (tensor(), tensor());
                sums_kernel::SumsKernel::new(
                    s,
                    d,
                    t,
                    x,
                    gradient,
                    mean,
                    sums,
                    products,
                    (),
                    (),
                    (),
                    element,
                )
            }),
            gpu.compile(DIM, |s, d, t| {
                let (x, y, gradient, mean) = (tensor(), tensor(), tensor(), tensor());
                let (sums, products) = (tensor(), tensor());
                sums_relu_kernel::SumsReluKernel::new(
                    s,
                    d,
                    t,
                    x,
                    y,
                    gradient,
                    mean,
                    sums,
                    products,
                    (),
                    (),
                    (),
                    element,
                )
            }),
            gpu.compile(DIM, |s, d, t| {
                let (x, gradient, column, dx) = (tensor(), tensor(), tensor(), tensor());
                input_gradient_kernel::InputGradientKernel::new(
                    s,
                    d,
                    t,
                    x,
                    gradient,
                    column,
                    dx,
                    (),
                    (),
                    (),
                    element,
                )
            }),
            gpu.compile(DIM, |s, d, t| {
                let (x, y, gradient) = (tensor(), tensor(), tensor());
                let (column, dx) = (tensor(), tensor());
                input_gradient_relu_kernel::InputGradientReluKernel::new(
                    s,
                    d,
                    t,
                    x,
                    y,
                    gradient,
                    column,
                    dx,
                    (),
                    (),
                    (),
                    element,
                )
            }),
            gpu.compile(DIM, |s, d, t| {
                let (x, y, gradient) = (tensor(), tensor(), tensor());
                let (column, dx, shortcut) = (tensor(), tensor(), tensor());
                input_gradient_add_kernel::InputGradientAddKernel::new(
                    s,
                    d,
                    t,
                    x,
                    y,
                    gradient,
                    column,
                    dx,
                    shortcut,
                    (),
                    (),
                    (),
                    element,
                )
            }),
        ];
        normalise.into_iter().chain(others).collect()
    }

    /// Values of bf16 are widened after they are read and rounded before they are written; nothing is computed with them.
    #[track_caller]
    fn assert_that_bf16_is_only_converted(ptx: &str) {
        let words = ptx.split(|c: char| c.is_whitespace() || "{};".contains(c));
        for instruction in words.filter(|word| word.contains(".bf16")) {
            assert!(instruction.starts_with("cvt."), "{instruction} in {ptx}");
        }
    }
}
