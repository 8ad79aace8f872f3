//! The products on GPUs with tensor cores, all of stride 1 and with inputs and outputs by eights ([`dense`](super::dense)).
//!
//! ```text
//! y  = x ∗ w                  implicit matrix product (cubek), patches are never written
//! dx = dy ∗ w'                the same, with the kernels w' turned around, inputs and outputs exchanged
//! dw = Σ over pixels dy xᵀ    one batch of matrix products: for each tap and each part of the pixels
//! ```
//!
//! Burn would time some twenty kernels for each of them and each shape, which takes the better part of an hour before the first step
//! of a ResNet-50; here the kernel is given by the shape.
//!
//! # The gradient of a weight
//! It is small, and a sum over all pixels of a batch: a plain product would keep few of a GPU's processors busy. So the pixels are cut
//! into parts, whose products are added up by one more launch, in their order.
//!
//! Maps are copied into a grid with `padding` rows of zeros above each and as many columns to its left, which also stand for those below
//! and to the right of its neighbours. Then the pixel that tap (a, b) sees from pixel p of the output is `p + a·width + b` in one long
//! list of pixels, so that what a tap sees is no more than another view of the grid. Where the grid has no output, `dy` is zero. Of few
//! inputs, those that a row of the kernel sees lie side by side in the grid, since a product wants more columns.

use burn::backend::tensor::FloatTensor;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::conv::{ConvStrategy, conv_forward_nhwc};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::permute_nhwc_to_nchw;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;
use cubecl::zspace::{metadata::Metadata, strides};
use cubek::convolution::{
    AcceleratedTileKind, ConvAlgorithm, ConvolutionArgs, ConvolutionInputs, Strategy,
};
use cubek::matmul::{
    self,
    definition::{MatmulElems, MatmulGlobalElems},
};
use cubek::std::InputBinding;

use super::{ConvShape, Products, without_gradients};
use crate::ops::cube::{element_of, rows_last};

/// Threads of a cube.
const THREADS: u32 = 256;
/// Threads of a cube along the words of a pixel, and along pixels.
const LANES: u32 = 32;
const LINES: u32 = 8;

/// Cubes of a product, about as many as keep a large GPU busy, and the side of what each computes.
const CUBES: usize = 264;
const TILE: usize = 64;
/// Pixels of a part at least.
const PIXELS: usize = 512;

/// A weight `[O, C, k, k]` as the kernels read it: `[O, k, k, C]`, or `turned` around with inputs and outputs exchanged,
/// `[C, k, k, O]`. `rows` and `inner` are the first and the last of these.
#[cube(launch)]
fn arrange_kernel<E: Float>(
    weight: &Tensor<f32>,
    out: &mut Tensor<E>,
    rows: u32,
    inner: u32,
    taps: u32,
    #[comptime] turned: bool,
    #[define(E)] _element: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < rows * taps * inner {
        let i = at % inner;
        let tap = (at / inner) % taps;
        let row = at / (inner * taps);
        let mut from = (row * inner + i) * taps + tap;
        if comptime!(turned) {
            from = (i * rows + row) * taps + (taps - 1 - tap);
        }
        out[at as usize] = E::cast_from(weight[from as usize]);
    }
}

/// Maps `[N, height, width, words]` into grids of `rows` pixels together, with `before` rows and columns of zeros before each map,
/// and zeros wherever there is no map. Behind the words of a pixel come those of the next, up to `copies` of them.
#[cube(launch)]
fn embed_kernel(
    maps: &Tensor<u32>,
    grid: &mut Tensor<u32>,
    words: u32,
    images: u32,
    height: u32,
    width: u32,
    grid_height: u32,
    grid_width: u32,
    before: u32,
    rows: u32,
    copies: u32,
) {
    let at = CUBE_POS_Y * LANES + UNIT_POS_X;
    let row = CUBE_POS_X * LINES + UNIT_POS_Y;
    if row < rows && at < words * copies {
        let pixel = row + at / words;
        let word = at % words;
        let j = pixel % grid_width;
        let i = (pixel / grid_width) % grid_height;
        let n = pixel / (grid_width * grid_height);
        let mut value = 0u32.runtime();
        if n < images && i >= before && i < before + height && j >= before && j < before + width {
            let from = (n * height + i - before) * width + j - before;
            value = maps[from as usize * words as usize + word as usize];
        }
        let words = words * copies;
        grid[row as usize * words as usize + at as usize] = value;
    }
}

/// The gradient of a weight, `[O, C, k, k]`, from what the parts leave, `[parts, k, k / together, O, together, C]`.
#[cube(launch)]
fn add_parts_kernel(
    left: &Tensor<f32>,
    gradient: &mut Tensor<f32>,
    parts: u32,
    outputs: u32,
    inputs: u32,
    kernel: u32,
    together: u32,
) {
    let at = ABSOLUTE_POS as u32;
    let size = outputs * inputs * kernel * kernel;
    if at < size {
        let c = at % inputs;
        let o = (at / (inputs * together)) % outputs;
        let group = at / (inputs * together * outputs);
        let groups = kernel / together;
        let b = group % groups * together + (at / inputs) % together;
        let a = group / groups;
        let mut sum = 0.0f32.runtime();
        let mut part = 0u32.runtime();
        while part < parts {
            sum += left[part as usize * size as usize + at as usize];
            part += 1;
        }
        gradient[(((o * inputs + c) * kernel + a) * kernel + b) as usize] = sum;
    }
}

without_gradients!(CubeBackend);

impl Products for CubeBackend {
    fn output(x: CubeTensor, weight: CubeTensor, shape: ConvShape) -> CubeTensor {
        let weight = arranged(weight, &shape, x.dtype, false);
        product(rows_last(x), weight, shape.padding)
    }

    fn input_gradient(gradient: CubeTensor, weight: CubeTensor, shape: ConvShape) -> CubeTensor {
        let weight = arranged(weight, &shape, gradient.dtype, true);
        product(
            rows_last(gradient),
            weight,
            shape.kernel - 1 - shape.padding,
        )
    }

    fn weight_gradient(x: CubeTensor, gradient: CubeTensor, shape: ConvShape) -> CubeTensor {
        let ConvShape {
            inputs,
            outputs,
            kernel,
            padding,
            ..
        } = shape;
        let (height, width) = (shape.height + padding, shape.width + padding);
        let rows = shape.images * height * width;
        // Taps of a row of the kernel whose inputs lie side by side.
        let together = if inputs < TILE { kernel } else { 1 };
        let (mut x, mut gradient) = (rows_last(x), rows_last(gradient));
        if kernel > 1 {
            let beyond = (kernel - 1) * width + kernel - together;
            let grid = [height, width];
            x = embedded(x, grid, padding, rows + beyond, together);
            gradient = embedded(gradient, grid, 0, rows, 1);
        }
        let groups = kernel / together;
        let columns = together * inputs;
        let tiles = outputs.div_ceil(TILE) * columns.div_ceil(TILE) * kernel * groups;
        let parts = parts(rows, CUBES.div_ceil(tiles));
        let of_part = rows / parts;

        let (client, device) = (x.client.clone(), x.device.clone());
        let empty = |shape: Shape| {
            empty_device_contiguous_dtype(client.clone(), device.clone(), shape, DType::F32)
        };
        let left = empty(Shape::from([parts, kernel, groups, outputs, columns]));
        let view = |map: CubeTensor, [rows, columns]: [usize; 2], strides| {
            let shape = Shape::from([parts, kernel, groups, rows, columns]);
            let meta = Metadata::new(shape, strides);
            CubeTensor::new(map.client, map.handle, meta, map.device, map.dtype)
        };
        let (o, c) = (outputs, columns);
        let gradient = view(gradient, [o, of_part], strides![of_part * o, 0, 0, 1, o]);
        let x = view(x, [of_part, c], strides![of_part * c, width * c, c, c, 1]);
        matrix_product(gradient, x, &left);

        let of_weight = empty(Shape::from([outputs, inputs, kernel, kernel]));
        add_parts_kernel::launch(
            &client,
            cubes(outputs * inputs * kernel * kernel),
            CubeDim::new_1d(THREADS),
            left.into_tensor_arg(),
            of_weight.clone().into_tensor_arg(),
            parts as u32,
            outputs as u32,
            inputs as u32,
            kernel as u32,
            together as u32,
        );
        of_weight
    }
}

/// Cubes of [`THREADS`] for so many values.
fn cubes(values: usize) -> CubeCount {
    CubeCount::Static(values.div_ceil(THREADS as usize) as u32, 1, 1)
}

/// Into how many parts of equal length, no more than `most`, so many pixels are cut.
fn parts(pixels: usize, most: usize) -> usize {
    let most = most.min(pixels / PIXELS).max(1);
    (1..=most)
        .rev()
        .find(|parts| pixels.is_multiple_of(*parts))
        .unwrap_or(1)
}

/// See [`arrange_kernel`].
fn arranged(weight: CubeTensor, shape: &ConvShape, dtype: DType, turned: bool) -> CubeTensor {
    assert_eq!(weight.dtype, DType::F32, "weights are f32");
    let weight = into_contiguous(weight);
    let (rows, inner) = match turned {
        false => (shape.outputs, shape.inputs),
        true => (shape.inputs, shape.outputs),
    };
    let kernel = shape.kernel;
    let out = empty_device_contiguous_dtype(
        weight.client.clone(),
        weight.device.clone(),
        Shape::from([rows, kernel, kernel, inner]),
        dtype,
    );
    arrange_kernel::launch(
        &out.client,
        cubes(rows * kernel * kernel * inner),
        CubeDim::new_1d(THREADS),
        weight.into_tensor_arg(),
        out.clone().into_tensor_arg(),
        rows as u32,
        inner as u32,
        (kernel * kernel) as u32,
        turned,
        element_of(dtype),
    );
    out
}

/// See [`embed_kernel`]. Maps are copied in words of 32 bits.
fn embedded(
    maps: CubeTensor,
    [grid_height, grid_width]: [usize; 2],
    before: usize,
    rows: usize,
    copies: usize,
) -> CubeTensor {
    let [images, height, width, channels] = maps.meta.shape().dims();
    let grid = empty_device_contiguous_dtype(
        maps.client.clone(),
        maps.device.clone(),
        Shape::from([rows, copies * channels]),
        maps.dtype,
    );
    let words = channels * maps.dtype.size() / 4;
    let in_words = |map: &CubeTensor| {
        let (client, device) = (map.client.clone(), map.device.clone());
        let shape = Shape::from([map.meta.num_elements() * words / channels]);
        CubeTensor::new_contiguous(client, device, shape, map.handle.clone(), DType::U32)
    };
    embed_kernel::launch(
        &grid.client,
        CubeCount::Static(
            rows.div_ceil(LINES as usize) as u32,
            (words * copies).div_ceil(LANES as usize) as u32,
            1,
        ),
        CubeDim::new_2d(LANES, LINES),
        in_words(&maps).into_tensor_arg(),
        in_words(&grid).into_tensor_arg(),
        words as u32,
        images as u32,
        height as u32,
        width as u32,
        grid_height as u32,
        grid_width as u32,
        before as u32,
        rows as u32,
        copies as u32,
    );
    grid
}

/// The kernel of a convolution: the one that was the fastest in most shapes of a ResNet-50 on an H100 but for those that load by
/// TMA, with which no whole step has been timed.
const KERNEL: Strategy = Strategy::Inferred {
    algorithm: ConvAlgorithm::SimpleSyncStrided,
    tile_kind: AcceleratedTileKind::Mma,
};

/// `[N, H, W, I]` convolved with `[O, k, k, I]`, as `[N, O, H', W']`.
fn product(maps: CubeTensor, weight: CubeTensor, padding: usize) -> CubeTensor {
    let [images, height, width, _] = maps.meta.shape().dims();
    let [outputs, kernel, _, _] = weight.meta.shape().dims();
    let side = |size: usize| size + 2 * padding + 1 - kernel;
    let out = empty_device_contiguous_dtype(
        maps.client.clone(),
        maps.device.clone(),
        Shape::from([images, side(height), side(width), outputs]),
        maps.dtype,
    );
    let element = element_of(maps.dtype);
    let inputs = ConvolutionInputs::Forward {
        input: InputBinding::new(maps.clone().binding(), element),
        weight: InputBinding::new(weight.clone().binding(), element),
        bias: None,
        out: out.clone().binding(),
    };
    let args = ConvolutionArgs {
        stride: [1; 2],
        padding: [padding; 2],
        dilation: [1; 2],
    };
    let (client, types) = (maps.client.clone(), elements(element, element));
    let out = match cubek::convolution::launch_ref::<2>(&KERNEL, &client, inputs, args, types) {
        Ok(()) => out,
        // A device without tensor cores.
        Err(_) => {
            let options = ConvOptions::new([1; 2], [padding; 2], [1; 2], 1);
            let out = conv_forward_nhwc::<2>(maps, weight, None, options, ConvStrategy::Direct);
            out.unwrap_or_else(|error| panic!("a convolution failed: {error:?}"))
        }
    };
    permute_nhwc_to_nchw(out)
}

/// The matrix products of two stacks of matrices, into `out`. Maps are multiplied as they are, and added up in `f32`.
///
/// In nearly every shape of a ResNet-50 the first kernel was two to four times as fast on an H100 as the one that cubek takes where it is
/// told none; that one needs no tensor cores.
fn matrix_product(lhs: CubeTensor, rhs: CubeTensor, out: &CubeTensor) {
    let element = element_of(lhs.dtype);
    let multiply = |kernel: &matmul::strategy::Strategy| {
        matmul::launch::launch_ref(
            kernel,
            &out.client,
            InputBinding::new(lhs.clone().binding(), element),
            InputBinding::new(rhs.clone().binding(), element),
            out.clone().binding(),
            &mut elements(element, element_of(DType::F32)),
        )
    };
    let fastest = matmul::multi_level::Strategy::SimpleCyclicMma(Default::default());
    let done = multiply(&fastest.into()).or_else(|_| multiply(&matmul::strategy::Strategy::Auto));
    done.unwrap_or_else(|error| panic!("a matrix product failed: {error:?}"));
}

/// The types of a product.
fn elements(operands: ElemType, out: ElemType) -> MatmulElems {
    MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: operands,
        rhs: operands,
        out,
    })
}

#[cfg(all(test, feature = "nvrtc"))]
mod cuda {
    use super::*;
    use crate::nvrtc::{check, tensor};

    // Tensors in order, then a number for each `()`, then what is known when a kernel is compiled.

    #[test]
    #[ignore = "needs NVRTC: cargo xtask nvrtc"]
    fn nvrtc_compiles_every_kernel() {
        check(include_str!("cube.rs"), |gpu| {
            let (line, plane) = (CubeDim::new_1d(THREADS), CubeDim::new_2d(LANES, LINES));
            for dtype in [DType::F32, DType::BF16] {
                for turned in [false, true] {
                    gpu.compile(line, |s, d, t| {
                        let (weight, out, element) = (tensor(), tensor(), element_of(dtype));
                        arrange_kernel::ArrangeKernel::new(
                            s,
                            d,
                            t,
                            weight,
                            out,
                            (),
                            (),
                            (),
                            turned,
                            element,
                        )
                    });
                }
            }
            gpu.compile(plane, |s, d, t| {
                let (maps, grid) = (tensor(), tensor());
                embed_kernel::EmbedKernel::new(
                    s,
                    d,
                    t,
                    maps,
                    grid,
                    (),
                    (),
                    (),
                    (),
                    (),
                    (),
                    (),
                    (),
                    (),
                )
            });
            gpu.compile(line, |s, d, t| {
                let (left, gradient) = (tensor(), tensor());
                add_parts_kernel::AddPartsKernel::new(s, d, t, left, gradient, (), (), (), (), ())
            });
        });
    }
}
