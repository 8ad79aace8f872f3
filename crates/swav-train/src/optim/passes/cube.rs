//! The passes on whatever CubeCL runs on: wgpu, CUDA and the rest.
//!
//! A parameter is taken for a row of values, cut into as many chunks as there are cubes. What LARC needs of the norms, the
//! first launch leaves for each chunk, and each cube of the second launch adds up for itself: a scalar of its own would be a
//! third. Sums are taken in an order that depends on the length alone, so results are the same to the bit each time.

use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{Moments, Momentum, Passes};
use crate::optim::larc::Larc;

/// Threads of a cube: as many as every device of WebGPU has at least.
const THREADS: u32 = 256;
/// Chunks at most: one for each thread that adds up what they leave.
const CHUNKS: u32 = THREADS;
/// Values of a chunk at least.
const VALUES: u32 = 4 * THREADS;

/// The values of this cube's chunk: the first of this thread, and the end.
#[cube]
fn chunk_of(len: u32, chunk: u32) -> (u32, u32) {
    let first = CUBE_POS_X * chunk;
    (first + UNIT_POS_X, min(first + chunk, len))
}

/// Sums over the threads of a cube, two at a time, for all of them.
#[cube]
fn sum_threads(one: f32, other: f32) -> (f32, f32) {
    let mut shared = Shared::<[f32]>::new_slice(2 * THREADS as usize);
    let at = UNIT_POS_X as usize;
    shared[at] = one;
    shared[at + THREADS as usize] = other;
    sync_cube();
    let mut threads = THREADS.runtime();
    while threads > 1 {
        threads /= 2;
        if UNIT_POS_X < threads {
            let from = at + threads as usize;
            shared[at] += shared[from];
            shared[at + THREADS as usize] += shared[from + THREADS as usize];
        }
        sync_cube();
    }
    (shared[0], shared[THREADS as usize])
}

/// Of each chunk, the sums of squares of the parameter and of the gradient.
#[cube(launch)]
fn squares_kernel(
    param: &Tensor<f32>,
    gradient: &Tensor<f32>,
    squares: &mut Tensor<f32>,
    len: u32,
    chunk: u32,
) {
    let (first, end) = chunk_of(len, chunk);
    let mut of_param = 0.0f32.runtime();
    let mut of_gradient = 0.0f32.runtime();
    let mut i = first;
    while i < end {
        let (p, g) = (param[i as usize], gradient[i as usize]);
        of_param += p * p;
        of_gradient += g * g;
        i += THREADS;
    }
    let (of_param, of_gradient) = sum_threads(of_param, of_gradient);
    if UNIT_POS_X == 0 {
        squares[(2 * CUBE_POS_X) as usize] = of_param;
        squares[(2 * CUBE_POS_X + 1) as usize] = of_gradient;
    }
}

/// `v ← μv + ratio · (g + decay · p)`, `p ← p − rate · v` over a chunk; the new parameter takes the place of the gradient.
#[cube]
fn momentum_chunk(
    param: &Tensor<f32>,
    gradient: &mut Tensor<f32>,
    velocity: &mut Tensor<f32>,
    len: u32,
    chunk: u32,
    rate: f32,
    momentum: f32,
    ratio: f32,
    decay: f32,
) {
    let (first, end) = chunk_of(len, chunk);
    let mut i = first;
    while i < end {
        let at = i as usize;
        let p = param[at];
        let v = momentum * velocity[at] + ratio * (gradient[at] + decay * p);
        velocity[at] = v;
        gradient[at] = p - rate * v;
        i += THREADS;
    }
}

#[cube(launch)]
fn sgd_kernel(
    param: &Tensor<f32>,
    gradient: &mut Tensor<f32>,
    velocity: &mut Tensor<f32>,
    len: u32,
    chunk: u32,
    rate: f32,
    momentum: f32,
    decay: f32,
) {
    let ratio = 1.0f32.runtime();
    momentum_chunk(
        param, gradient, velocity, len, chunk, rate, momentum, ratio, decay,
    );
}

/// `squares` is what [`squares_kernel`] leaves of each of the `chunks`.
#[cube(launch)]
fn larc_kernel(
    param: &Tensor<f32>,
    gradient: &mut Tensor<f32>,
    velocity: &mut Tensor<f32>,
    squares: &Tensor<f32>,
    len: u32,
    chunk: u32,
    chunks: u32,
    rate: f32,
    momentum: f32,
    decay: f32,
    trust: f32,
    floor: f32,
) {
    let mut of_param = 0.0f32.runtime();
    let mut of_gradient = 0.0f32.runtime();
    if UNIT_POS_X < chunks {
        of_param = squares[(2 * UNIT_POS_X) as usize];
        of_gradient = squares[(2 * UNIT_POS_X + 1) as usize];
    }
    let (of_param, of_gradient) = sum_threads(of_param, of_gradient);
    let (of_param, of_gradient) = (of_param.sqrt(), of_gradient.sqrt());
    let usable = of_param > 0.0f32 && of_gradient > 0.0f32;
    let limit = of_gradient + decay * of_param + floor;
    let ratio = select(usable, trust * of_param / limit, 1.0f32);
    let decay = select(usable, decay, 0.0f32);
    momentum_chunk(
        param, gradient, velocity, len, chunk, rate, momentum, ratio, decay,
    );
}

/// A step of Adam; the new parameter takes the place of the gradient.
#[cube(launch)]
fn adam_kernel(
    param: &Tensor<f32>,
    gradient: &mut Tensor<f32>,
    first_moment: &mut Tensor<f32>,
    second_moment: &mut Tensor<f32>,
    len: u32,
    chunk: u32,
    rate: f32,
    beta_1: f32,
    beta_2: f32,
    floor: f32,
    decay: f32,
) {
    let (first, end) = chunk_of(len, chunk);
    let mut i = first;
    while i < end {
        let at = i as usize;
        let p = param[at];
        let g = gradient[at] + decay * p;
        let m = beta_1 * first_moment[at] + (1.0f32 - beta_1) * g;
        let v = beta_2 * second_moment[at] + (1.0f32 - beta_2) * g * g;
        first_moment[at] = m;
        second_moment[at] = v;
        gradient[at] = p - rate * m / (v.sqrt() + floor);
        i += THREADS;
    }
}

/// A parameter cut into chunks.
struct Row {
    len: u32,
    chunk: u32,
}

impl Row {
    fn of(param: &CubeTensor) -> Self {
        // No longer than `serve` lets pass.
        let len = param.meta.shape().num_elements() as u32;
        let chunks = len.div_ceil(VALUES).clamp(1, CHUNKS);
        let chunk = len.div_ceil(chunks).max(1);
        Self { len, chunk }
    }

    fn chunks(&self) -> u32 {
        self.len.div_ceil(self.chunk)
    }

    fn cubes(&self) -> CubeCount {
        CubeCount::Static(self.chunks(), 1, 1)
    }
}

const DIM: CubeDim = CubeDim::new_1d(THREADS);

/// Contiguous, and nobody else's: it is written over.
fn own(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    if x.can_mut() { x } else { x.copy() }
}

impl Passes for CubeBackend {
    fn momentum_step(
        param: CubeTensor,
        gradient: CubeTensor,
        velocity: CubeTensor,
        numbers: Momentum,
    ) -> (CubeTensor, CubeTensor) {
        let param = into_contiguous(param);
        let [gradient, velocity] = [gradient, velocity].map(own);
        let (client, device) = (param.client.clone(), param.device.clone());
        let row = Row::of(&param);
        let Momentum {
            rate,
            momentum,
            decay,
            trust,
        } = numbers;
        let Some(trust) = trust else {
            sgd_kernel::launch(
                &client,
                row.cubes(),
                DIM,
                param.into_tensor_arg(),
                gradient.clone().into_tensor_arg(),
                velocity.clone().into_tensor_arg(),
                row.len,
                row.chunk,
                rate as f32,
                momentum as f32,
                decay as f32,
            );
            return (gradient, velocity);
        };
        let squares = Shape::from([row.chunks() as usize, 2]);
        let squares = empty_device_contiguous_dtype(client.clone(), device, squares, DType::F32);
        squares_kernel::launch(
            &client,
            row.cubes(),
            DIM,
            param.clone().into_tensor_arg(),
            gradient.clone().into_tensor_arg(),
            squares.clone().into_tensor_arg(),
            row.len,
            row.chunk,
        );
        larc_kernel::launch(
            &client,
            row.cubes(),
            DIM,
            param.into_tensor_arg(),
            gradient.clone().into_tensor_arg(),
            velocity.clone().into_tensor_arg(),
            squares.into_tensor_arg(),
            row.len,
            row.chunk,
            row.chunks(),
            rate as f32,
            momentum as f32,
            decay as f32,
            trust as f32,
            Larc::FLOOR as f32,
        );
        (gradient, velocity)
    }

    fn adam_step(
        param: CubeTensor,
        gradient: CubeTensor,
        first: CubeTensor,
        second: CubeTensor,
        numbers: Moments,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let param = into_contiguous(param);
        let [gradient, first, second] = [gradient, first, second].map(own);
        let row = Row::of(&param);
        let Moments {
            rate,
            beta_1,
            beta_2,
            floor,
            decay,
        } = numbers;
        adam_kernel::launch(
            &param.client.clone(),
            row.cubes(),
            DIM,
            param.into_tensor_arg(),
            gradient.clone().into_tensor_arg(),
            first.clone().into_tensor_arg(),
            second.clone().into_tensor_arg(),
            row.len,
            row.chunk,
            rate,
            beta_1,
            beta_2,
            floor,
            decay,
        );
        (gradient, first, second)
    }
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
                let (param, gradient, squares) = (tensor(), tensor(), tensor());
                squares_kernel::SquaresKernel::new(s, d, t, param, gradient, squares, (), ())
            });
            gpu.compile(DIM, |s, d, t| {
                let (param, gradient, velocity) = (tensor(), tensor(), tensor());
                sgd_kernel::SgdKernel::new(s, d, t, param, gradient, velocity, (), (), (), (), ())
            });
            gpu.compile(DIM, |s, d, t| {
                let (param, gradient) = (tensor(), tensor());
                let (velocity, squares) = (tensor(), tensor());
                larc_kernel::LarcKernel::new(
                    s,
                    d,
                    t,
                    param,
                    gradient,
                    velocity,
                    squares,
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
            gpu.compile(DIM, |s, d, t| {
                let (param, gradient, first, second) = (tensor(), tensor(), tensor(), tensor());
                adam_kernel::AdamKernel::new(
                    s,
                    d,
                    t,
                    param,
                    gradient,
                    first,
                    second,
                    (),
                    (),
                    (),
                    (),
                    (),
                    (),
                    (),
                )
            });
        });
    }
}
