//! The passes on whatever CubeCL runs on: wgpu, CUDA and the rest.
//!
//! A map is taken for a matrix of `N·H·W` rows and `C` columns, which is how it lies in memory after a convolution of
//! Burn's (NHWC); a map that lies otherwise is copied first. A cube is a tile of [`LANES`] columns and [`LINES`] lines: each
//! thread stays in its column and takes every [`LINES`]-th row of the cube's chunk, so that threads side by side read
//! neighbours, and what belongs to a channel is read once.
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
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::{permute_nchw_to_nhwc, permute_nhwc_to_nchw};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{Kernels, without_gradients};
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
fn moments_kernel(
    x: &Tensor<f32>,
    means: &mut Tensor<f32>,
    squares: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
) {
    let mut shared = Shared::<[f32]>::new_slice(3 * THREADS);
    let c = ABSOLUTE_POS_X;
    let (first, end) = chunk_of(rows, chunk);
    let mut n = 0.0f32.runtime();
    let mut mean = 0.0f32.runtime();
    let mut square = 0.0f32.runtime();
    if c < channels && first < end {
        let origin = x[(first * channels + c) as usize];
        let mut sum = 0.0f32.runtime();
        let mut row = first;
        while row < end {
            let stop = min(row + BLOCK * LINES, end);
            let mut part = 0.0f32.runtime();
            let mut part_square = 0.0f32.runtime();
            while row < stop {
                let d = x[(row * channels + c) as usize] - origin;
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
fn normalise_kernel(
    x: &Tensor<f32>,
    weight: &Tensor<f32>,
    bias: &Tensor<f32>,
    mean: &Tensor<f32>,
    variance: &Tensor<f32>,
    y: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
    epsilon: f32,
    #[comptime] relu: bool,
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
            let value = (x[at] - centre) * scale + bias;
            y[at] = if comptime!(relu) {
                rectified(value)
            } else {
                value
            };
            row += LINES;
        }
    }
}

/// [`normalise_kernel`], plus a shortcut, through the ReLU.
#[cube(launch)]
fn normalise_add_kernel(
    x: &Tensor<f32>,
    shortcut: &Tensor<f32>,
    weight: &Tensor<f32>,
    bias: &Tensor<f32>,
    mean: &Tensor<f32>,
    variance: &Tensor<f32>,
    y: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
    epsilon: f32,
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
            y[at] = rectified((x[at] - centre) * scale + bias + shortcut[at]);
            row += LINES;
        }
    }
}

/// What comes back through the ReLU, if there is one, which made `y`.
#[cube]
fn returned(gradient: f32, y: &Tensor<f32>, at: usize, #[comptime] relu: bool) -> f32 {
    if comptime!(relu) {
        select(y[at] > 0.0f32, gradient, 0.0f32)
    } else {
        gradient
    }
}

/// Of each column and chunk, the sums `Σ g` and `Σ g·(x − mean)`, where g is what came back through the ReLU.
#[cube]
fn sum_gradient(
    x: &Tensor<f32>,
    y: &Tensor<f32>,
    gradient: &Tensor<f32>,
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
                let g = returned(gradient[at], y, at, relu);
                part += g;
                part_product += g * (x[at] - centre);
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
fn sums_kernel(
    x: &Tensor<f32>,
    gradient: &Tensor<f32>,
    mean: &Tensor<f32>,
    sums: &mut Tensor<f32>,
    products: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
) {
    sum_gradient(
        x, gradient, gradient, mean, sums, products, channels, rows, chunk, false,
    );
}

#[cube(launch)]
fn sums_relu_kernel(
    x: &Tensor<f32>,
    y: &Tensor<f32>,
    gradient: &Tensor<f32>,
    mean: &Tensor<f32>,
    sums: &mut Tensor<f32>,
    products: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
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
fn input_gradient_kernel(
    x: &Tensor<f32>,
    gradient: &Tensor<f32>,
    column: &Tensor<f32>,
    dx: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
) {
    let c = ABSOLUTE_POS_X;
    if c < channels {
        let (first, end) = chunk_of(rows, chunk);
        let column = column_of(column, channels, c);
        let mut row = first;
        while row < end {
            let at = (row * channels + c) as usize;
            dx[at] = input_gradient(x[at], gradient[at], column);
            row += LINES;
        }
    }
}

/// [`input_gradient_kernel`] behind a ReLU.
#[cube(launch)]
fn input_gradient_relu_kernel(
    x: &Tensor<f32>,
    y: &Tensor<f32>,
    gradient: &Tensor<f32>,
    column: &Tensor<f32>,
    dx: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
) {
    let c = ABSOLUTE_POS_X;
    if c < channels {
        let (first, end) = chunk_of(rows, chunk);
        let column = column_of(column, channels, c);
        let mut row = first;
        while row < end {
            let at = (row * channels + c) as usize;
            let g = returned(gradient[at], y, at, true);
            dx[at] = input_gradient(x[at], g, column);
            row += LINES;
        }
    }
}

/// [`input_gradient_relu_kernel`], and the gradient of the shortcut: what came back through the ReLU.
#[cube(launch)]
fn input_gradient_add_kernel(
    x: &Tensor<f32>,
    y: &Tensor<f32>,
    gradient: &Tensor<f32>,
    column: &Tensor<f32>,
    dx: &mut Tensor<f32>,
    shortcut: &mut Tensor<f32>,
    channels: u32,
    rows: u32,
    chunk: u32,
) {
    let c = ABSOLUTE_POS_X;
    if c < channels {
        let (first, end) = chunk_of(rows, chunk);
        let column = column_of(column, channels, c);
        let mut row = first;
        while row < end {
            let at = (row * channels + c) as usize;
            let g = returned(gradient[at], y, at, true);
            dx[at] = input_gradient(x[at], g, column);
            shortcut[at] = g;
            row += LINES;
        }
    }
}

/// A map as a matrix, and how it is cut up.
struct Matrix {
    /// `[N, …, C]`, contiguous.
    x: CubeTensor,
    channels: u32,
    rows: u32,
    chunk: u32,
}

impl Matrix {
    fn new(x: CubeTensor) -> Self {
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

    fn empty(&self, shape: Shape) -> CubeTensor {
        let (client, device) = (self.x.client.clone(), self.x.device.clone());
        empty_device_contiguous_dtype(client, device, shape, DType::F32)
    }

    /// A map of the shape of this one, `[N, …, C]`.
    fn like(&self) -> CubeTensor {
        self.empty(self.x.meta.shape().clone())
    }

    /// A number of each channel.
    fn numbers(&self) -> CubeTensor {
        self.empty(Shape::from([self.channels as usize]))
    }

    /// A number of each channel and chunk.
    fn parts(&self) -> CubeTensor {
        self.empty(Shape::from([
            self.chunks() as usize,
            self.channels as usize,
        ]))
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

    /// Gradients of the weight and the bias, and what [`gather_kernel`] leaves of each column. `numbers` are weight, mean
    /// and variance.
    fn sums(
        &self,
        y: Option<&CubeTensor>,
        gradient: &CubeTensor,
        numbers: [CubeTensor; 3],
        epsilon: f64,
    ) -> [CubeTensor; 3] {
        let [weight, mean, variance] = numbers.map(into_contiguous);
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
            ),
        }
        let (of_weight, of_bias) = (self.numbers(), self.numbers());
        let column = self.empty(Shape::from([4, self.channels as usize]));
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

/// Threads of a cube.
const DIM: CubeDim = CubeDim::new_2d(LANES, LINES);

/// `[N, C, …]` as `[N, …, C]`, contiguous: a copy only if it does not lie so already.
fn rows_last(x: CubeTensor) -> CubeTensor {
    into_contiguous(permute_nchw_to_nhwc(x))
}

without_gradients!(CubeBackend);

impl Kernels for CubeBackend {
    fn moments(x: CubeTensor) -> (CubeTensor, CubeTensor) {
        Matrix::new(x).moments()
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
        let [weight, bias, mean, variance] = [weight, bias, mean, variance].map(into_contiguous);
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
        let [weight, bias, mean, variance] = [weight, bias, mean, variance].map(into_contiguous);
        let y = matrix.like();
        normalise_add_kernel::launch(
            matrix.client(),
            matrix.cubes(),
            DIM,
            matrix.x.clone().into_tensor_arg(),
            rows_last(shortcut).into_tensor_arg(),
            weight.into_tensor_arg(),
            bias.into_tensor_arg(),
            mean.into_tensor_arg(),
            variance.into_tensor_arg(),
            y.clone().into_tensor_arg(),
            matrix.channels,
            matrix.rows,
            matrix.chunk,
            epsilon as f32,
        );
        permute_nhwc_to_nchw(y)
    }

    fn gradients(
        x: CubeTensor,
        weight: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        gradient: CubeTensor,
        epsilon: f64,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let numbers = [weight, mean, variance];
        let ([x, weight, bias], _) = gradients(x, Behind::Nothing, numbers, gradient, epsilon);
        (x, weight, bias)
    }

    fn gradients_relu(
        x: CubeTensor,
        y: CubeTensor,
        weight: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        gradient: CubeTensor,
        epsilon: f64,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let numbers = [weight, mean, variance];
        let ([x, weight, bias], _) = gradients(x, Behind::Relu(y), numbers, gradient, epsilon);
        (x, weight, bias)
    }

    fn gradients_add(
        x: CubeTensor,
        y: CubeTensor,
        weight: CubeTensor,
        mean: CubeTensor,
        variance: CubeTensor,
        gradient: CubeTensor,
        epsilon: f64,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let numbers = [weight, mean, variance];
        let ([x, weight, bias], rest) =
            gradients(x, Behind::AddRelu(y), numbers, gradient, epsilon);
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
    epsilon: f64,
) -> ([CubeTensor; 3], Option<CubeTensor>) {
    let (matrix, gradient) = (Matrix::new(x), rows_last(gradient));
    let (y, has_shortcut) = match behind {
        Behind::Nothing => (None, false),
        Behind::Relu(y) => (Some(rows_last(y)), false),
        Behind::AddRelu(y) => (Some(rows_last(y)), true),
    };
    let [of_weight, of_bias, column] = matrix.sums(y.as_ref(), &gradient, numbers, epsilon);
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
        ),
    }
    (
        [permute_nhwc_to_nchw(dx), of_weight, of_bias],
        shortcut.map(permute_nhwc_to_nchw),
    )
}

/// For NVIDIA GPUs, without one.
#[cfg(all(test, feature = "nvrtc"))]
mod cuda {
    use super::*;
    use crate::nvrtc::{check, tensor};

    #[test]
    #[ignore = "needs NVRTC: cargo xtask nvrtc"]
    fn nvrtc_compiles_every_kernel() {
        // One of each kernel: tensors in order, then a number for each `()`.
        check(include_str!("cube.rs"), |gpu| {
            gpu.compile(DIM, |s, d, t| {
                let (x, means, squares) = (tensor(), tensor(), tensor());
                moments_kernel::MomentsKernel::new(s, d, t, x, means, squares, (), (), ())
            });
            gpu.compile(DIM, |s, d, t| {
                let (means, squares, mean, variance) = (tensor(), tensor(), tensor(), tensor());
                merge_kernel::MergeKernel::new(s, d, t, means, squares, mean, variance, (), (), ())
            });
            for relu in [false, true] {
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
                    )
                });
            }
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
                )
            });
            gpu.compile(DIM, |s, d, t| {
                let (x, gradient, mean) = (tensor(), tensor(), tensor());
                let (sums, products) = (tensor(), tensor());
                sums_kernel::SumsKernel::new(s, d, t, x, gradient, mean, sums, products, (), (), ())
            });
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
                )
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
                )
            });
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
                )
            });
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
                )
            });
        });
    }
}
