//! A convolution of any stride and any number of inputs, as one that tensor cores take: of stride 1, with inputs by eights.

use burn::tensor::{Tensor, s};

use super::super::TENSOR_CORES;

/// A convolution with an output for every eight channels of tensor cores and a stride of 1 or 2.
///
/// A stride of 2 is turned into channels: the four pixels of a square of 2×2 become the channels of one, and a kernel of `k×k` one
/// of `⌈k/2⌉×⌈k/2⌉` over them. All three products are then of stride 1. Of a 1×1 kernel only the first pixel of a square is left.
pub(in crate::ops) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let kernel = weight.dims()[2];
    match stride {
        1 => widened(x, weight, padding),
        _ if kernel == 1 && padding == 0 => widened(first_of_squares(x), weight, 0),
        _ => {
            let output = |size: usize| (size + 2 * padding - kernel) / 2 + 1;
            let [height, width] = [x.dims()[2], x.dims()[3]].map(output);
            let half = kernel.div_ceil(2);
            let sides = [height + half - 1, width + half - 1];
            widened(squares(x, padding, sides), squares_of_kernel(weight), 0)
        }
    }
}

/// A convolution of stride 1. Channels of zeros are added to make the inputs eights.
fn widened(x: Tensor<4>, weight: Tensor<4>, padding: usize) -> Tensor<4> {
    let ([n, c, h, w], [o, _, k, _]) = (x.dims(), weight.dims());
    let wide = c.next_multiple_of(TENSOR_CORES);
    if wide == c {
        return super::conv2d(x, weight, 1, padding, 1);
    }
    let maps = Tensor::zeros([n, h, w, wide], (&x.device(), x.dtype()));
    let x = maps.slice_assign(s![.., .., .., 0..c], x.permute([0, 2, 3, 1]));
    let weights = Tensor::zeros([o, wide, k, k], &weight.device());
    let weight = weights.slice_assign(s![.., 0..c, .., ..], weight);
    super::conv2d(x.permute([0, 3, 1, 2]), weight, 1, padding, 1)
}

/// The first pixel of each square of 2×2.
fn first_of_squares(x: Tensor<4>) -> Tensor<4> {
    let x = x.permute([0, 2, 3, 1]);
    x.slice(s![.., 0..;2, 0..;2, ..]).permute([0, 3, 1, 2])
}

/// `[N, C, H, W]` to `[N, 4C', ⌈…⌉]` of `sides` squares: `padding` pixels of zeros above and to the left, as many as are needed below and
/// to the right, and one channel of zeros more where C is odd.
fn squares(x: Tensor<4>, padding: usize, sides: [usize; 2]) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let [height, width] = sides;
    let wide = c.next_multiple_of(2);
    // What lies beyond the last square is read by no output.
    let (rows, columns) = (h.min(2 * height - padding), w.min(2 * width - padding));
    let x = x
        .permute([0, 2, 3, 1])
        .slice(s![.., 0..rows, 0..columns, ..]);
    let maps = Tensor::zeros([n, 2 * height, 2 * width, wide], (&x.device(), x.dtype()));
    let place = s![
        ..,
        padding..padding + rows,
        padding..padding + columns,
        0..c
    ];
    maps.slice_assign(place, x)
        .reshape([n, height, 2, width, 2, wide])
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([n, height, width, 4 * wide])
        .permute([0, 3, 1, 2])
}

/// `[O, C, k, k]` to `[O, 4C', ⌈k/2⌉, ⌈k/2⌉]`, with its channels as those of [`squares`].
fn squares_of_kernel(weight: Tensor<4>) -> Tensor<4> {
    let [o, c, k, _] = weight.dims();
    let (wide, half) = (c.next_multiple_of(2), k.div_ceil(2));
    let weights = Tensor::<4>::zeros([o, wide, 2 * half, 2 * half], &weight.device());
    weights
        .slice_assign(s![.., 0..c, 0..k, 0..k], weight)
        .reshape([o, wide, half, 2, half, 2])
        .permute([0, 3, 5, 1, 2, 4])
        .reshape([o, 4 * wide, half, half])
}
