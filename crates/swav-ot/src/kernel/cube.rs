//! The passes on whatever CubeCL runs on: wgpu, CUDA and the rest.
//!
//! A pass is one or two launches: a cube for each row, or a thread for each column and chunk of rows. Like those for
//! the CPU, they read the scores, and leave a number per prototype or per sample.
//!
//! Exponentials and logarithms are spelled out. Graphics interfaces allow their own to be off by more than what
//! codes are made of (for Vulkan's `exp2`, 3 + 2|x| units in the last place), and may take not-a-number for what they
//! like: so what must stay one is told by its bits.

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubecl::features::Plane;
use cubecl::prelude::*;

use super::Kernels;

/// Threads of a cube.
const THREADS: u32 = 128;

/// Threads that a pass over the columns wants at least, so that no part of the device is idle.
const BUSY: usize = 1 << 16;

/// Rows of a chunk at least, and chunks at most: their sums are added one by one.
const ROWS: usize = 16;
const CHUNKS: usize = 128;

/// Rows that are added up before their sum goes into a larger one: equal numbers round the same way again and again,
/// and thousands of them would drift.
const BLOCK: u32 = 64;

/// Cubes along one axis at most.
const AXIS: u32 = 32_768;

/// Where a search for the largest score or exponent starts; WGSL knows no infinity.
const LOWEST: f32 = -3.0e38;

/// The bits of an `f32` without its sign, and those that are set, at least, in what is infinite or not a number.
const MAGNITUDE: u32 = 0x7fff_ffff;
const INFINITE: u32 = 0x7f80_0000;

/// Whether the device is one of CubeCL's, and the kernels can count to the last of so many scores.
pub(super) fn serves(device: &Device, [sets, samples, prototypes]: [usize; 3]) -> bool {
    let scores = sets as u128 * samples as u128 * prototypes as u128;
    matches!(device.as_dispatch(), DispatchDevice::Cube(_))
        && scores <= u128::from(u32::MAX)
        && sets <= 65_535
}

/// The magnitude as an integer: at least [`INFINITE`] where the number is none.
#[cube]
fn magnitude(x: f32) -> u32 {
    u32::reinterpret(x) & MAGNITUDE
}

/// Not-a-number, made of bits that are known only when the kernel runs: some compilers refuse to make it otherwise.
#[cube]
fn not_a_number(bits: u32) -> f32 {
    f32::reinterpret(bits | 0x7fc0_0000u32)
}

/// `2^x` to 2e-7 relative, for −126 ≤ x ≤ 127; what lies outside counts as the nearer end.
#[cube]
#[allow(clippy::approx_constant, reason = "ln 2 as the fit has it")]
fn exp2(x: f32) -> f32 {
    let x = max(min(x, 127.0f32), -126.0f32);
    let whole = (x + 0.5f32).floor();
    let r = x - whole;
    let p = 1.326_472_7e-3f32;
    let p = p * r + 9.671_513e-3f32;
    let p = p * r + 5.550_733_7e-2f32;
    let p = p * r + 2.402_224_2e-1f32;
    let p = p * r + 6.931_47e-1f32;
    let p = p * r + 1.0f32;
    // 2^whole, by its exponent.
    let exponent = u32::cast_from(whole + 127.0f32) << 23u32;
    p * f32::reinterpret(exponent)
}

/// `log2 x` to 3e-7 absolute, for normal positive x.
#[cube]
fn log2(x: f32) -> f32 {
    let bits = u32::reinterpret(x);
    // x = m·2^e with m between √½ and √2.
    let shifted = bits - 0x3f35_04f3u32 + 0x3f80_0000u32;
    let e = f32::cast_from(shifted >> 23u32) - 127.0f32;
    let m = f32::reinterpret((shifted & 0x007f_ffffu32) + 0x3f35_04f3u32);
    let z = (m - 1.0f32) / (m + 1.0f32);
    let q = z * z;
    // 2·atanh(z)/ln 2
    let series = ((q * 0.320_598_9f32 + 0.412_198_57f32) * q + 0.577_078f32) * q + 0.961_796_7f32;
    e + z * (2.885_39f32 + q * series)
}

/// The largest value of a cube's threads, for all of them.
#[cube]
fn largest_of_cube(value: f32, shared: &mut Shared<[f32]>, #[comptime] planes: bool) -> f32 {
    reduce(value, shared, planes, true)
}

/// The sum over a cube's threads, for all of them.
#[cube]
fn sum_of_cube(value: f32, shared: &mut Shared<[f32]>, #[comptime] planes: bool) -> f32 {
    reduce(value, shared, planes, false)
}

#[cube]
#[allow(clippy::manual_is_multiple_of, reason = "kernels have no such method")]
fn reduce(
    value: f32,
    shared: &mut Shared<[f32]>,
    #[comptime] planes: bool,
    #[comptime] largest: bool,
) -> f32 {
    // The last reading of what is in there must be over.
    sync_cube();
    let mut left = CUBE_DIM_X;
    if comptime!(planes) {
        let of_plane = if comptime!(largest) {
            plane_max(value)
        } else {
            plane_sum(value)
        };
        left = CUBE_DIM_X / PLANE_DIM;
        if UNIT_POS_X % PLANE_DIM == 0 {
            shared[(UNIT_POS_X / PLANE_DIM) as usize] = of_plane;
        }
    } else {
        shared[UNIT_POS_X as usize] = value;
    }
    sync_cube();
    // Halved until one is left.
    while left > 1 {
        let half = left.div_ceil(2);
        if UNIT_POS_X + half < left {
            let (one, other) = (UNIT_POS_X as usize, (UNIT_POS_X + half) as usize);
            shared[one] = if comptime!(largest) {
                max(shared[one], shared[other])
            } else {
                shared[one] + shared[other]
            };
        }
        sync_cube();
        left = half;
    }
    shared[0]
}

/// `(s − centre − offset)·scale`, by which a score is a power of two.
#[cube]
fn exponent(score: f32, centre: f32, offset: f32, scale: f32) -> f32 {
    (score - centre - offset) * scale
}

/// What a pass over the rows leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Rows {
    /// The codes.
    Codes,
    /// Of each row its largest exponent, and one over the sum relative to it.
    Divisors,
    /// The logarithm of each row's sum, as a potential.
    Potentials,
}

/// One cube for each row: the largest of its exponents, and the sum `Σ_k 2^(x_k − largest)`.
#[cube(launch)]
fn rows_kernel(
    scores: &Tensor<f32>,
    centres: &Tensor<f32>,
    offsets: &Tensor<f32>,
    output: &mut Tensor<f32>,
    samples: u32,
    prototypes: u32,
    scale: f32,
    #[comptime] leaves: Rows,
    #[comptime] planes: bool,
) {
    let mut shared = Shared::<[f32]>::new_slice(THREADS as usize);
    let set = CUBE_POS_Z;
    let sample = CUBE_POS_X + CUBE_POS_Y * CUBE_COUNT_X;
    // The same for all threads of a cube.
    if sample < samples {
        let row = ((set * samples + sample) * prototypes) as usize;
        let columns = (set * prototypes) as usize;
        let centre = centres[set as usize];

        // A running maximum, and the sum relative to it.
        let mut largest = LOWEST.runtime();
        let mut sum = 0.0f32.runtime();
        let mut bits = 0u32.runtime();
        let mut k = UNIT_POS_X;
        while k < prototypes {
            let offset = offsets[columns + k as usize];
            bits = max(bits, magnitude(offset));
            let x = exponent(scores[row + k as usize], centre, offset, scale);
            if x > largest {
                sum = sum * exp2(largest - x) + 1.0f32;
                largest = x;
            } else {
                sum += exp2(x - largest);
            }
            k += CUBE_DIM_X;
        }
        let all = largest_of_cube(largest, &mut shared, planes);
        let sum = sum_of_cube(sum * exp2(largest - all), &mut shared, planes);
        let spoilt = largest_of_cube(f32::cast_from(bits >= INFINITE), &mut shared, planes);

        if comptime!(leaves == Rows::Codes) {
            let weight = 1.0f32 / sum;
            let mut k = UNIT_POS_X;
            while k < prototypes {
                let at = row + k as usize;
                let x = exponent(scores[at], centre, offsets[columns + k as usize], scale);
                output[at] = exp2(x - all) * weight;
                if spoilt > 0.0f32 {
                    output[at] = not_a_number(k);
                }
                k += CUBE_DIM_X;
            }
        } else if UNIT_POS_X == 0 {
            let at = (set * samples + sample) as usize;
            if comptime!(leaves == Rows::Divisors) {
                output[2 * at] = all;
                output[2 * at + 1] = 1.0f32 / sum;
                if spoilt > 0.0f32 {
                    output[2 * at + 1] = not_a_number(sample);
                }
            } else {
                output[at] = (all + log2(sum)) / scale;
                if spoilt > 0.0f32 {
                    output[at] = not_a_number(sample);
                }
            }
        }
    }
}

/// One thread for each column and chunk of rows: the largest of its scores and `Σ 2^((s − largest)·scale)`, which is
/// not-a-number where a score is not finite.
#[cube(launch)]
fn fold_kernel(
    scores: &Tensor<f32>,
    largest: &mut Tensor<f32>,
    sums: &mut Tensor<f32>,
    samples: u32,
    prototypes: u32,
    rows: u32,
    scale: f32,
) {
    let k = ABSOLUTE_POS_X;
    let (chunk, chunks, set) = (CUBE_POS_Y, CUBE_COUNT_Y, CUBE_POS_Z);
    if k < prototypes {
        let mut most = LOWEST.runtime();
        let mut sum = 0.0f32.runtime();
        let mut bits = 0u32.runtime();
        let mut i = chunk * rows;
        let end = min(i + rows, samples);
        while i < end {
            let stop = min(i + BLOCK, end);
            let mut part = 0.0f32.runtime();
            while i < stop {
                let s = scores[((set * samples + i) * prototypes + k) as usize];
                bits = max(bits, magnitude(s));
                if s > most {
                    let factor = exp2((most - s) * scale);
                    sum *= factor;
                    part = part * factor + 1.0f32;
                    most = s;
                } else {
                    part += exp2((s - most) * scale);
                }
                i += 1;
            }
            sum += part;
        }
        let at = ((set * chunks + chunk) * prototypes + k) as usize;
        largest[at] = most;
        sums[at] = sum;
        if bits >= INFINITE {
            sums[at] = not_a_number(k);
        }
    }
}

/// One thread for each column: what the chunks of its rows make together, as a potential less the centre.
#[cube(launch)]
fn unfold_kernel(
    largest: &Tensor<f32>,
    sums: &Tensor<f32>,
    centres: &Tensor<f32>,
    output: &mut Tensor<f32>,
    prototypes: u32,
    chunks: u32,
    scale: f32,
) {
    let k = ABSOLUTE_POS_X;
    let set = CUBE_POS_Z;
    if k < prototypes {
        let first = set * chunks * prototypes + k;
        let mut most = LOWEST.runtime();
        for chunk in 0..chunks {
            most = max(most, largest[(first + chunk * prototypes) as usize]);
        }
        let mut sum = 0.0f32.runtime();
        let mut bits = magnitude(centres[set as usize]);
        for chunk in 0..chunks {
            let at = (first + chunk * prototypes) as usize;
            bits = max(bits, magnitude(sums[at]));
            sum += sums[at] * exp2((largest[at] - most) * scale);
        }
        let at = (set * prototypes + k) as usize;
        output[at] = most - centres[set as usize] + log2(sum) / scale;
        if bits >= INFINITE {
            output[at] = not_a_number(k);
        }
    }
}

/// One thread for each column and chunk of rows: the sum of its codes.
#[cube(launch)]
fn shares_kernel(
    scores: &Tensor<f32>,
    centres: &Tensor<f32>,
    offsets: &Tensor<f32>,
    divisors: &Tensor<f32>,
    output: &mut Tensor<f32>,
    samples: u32,
    prototypes: u32,
    rows: u32,
    scale: f32,
) {
    let k = ABSOLUTE_POS_X;
    let (chunk, chunks, set) = (CUBE_POS_Y, CUBE_COUNT_Y, CUBE_POS_Z);
    if k < prototypes {
        let centre = centres[set as usize];
        let offset = offsets[(set * prototypes + k) as usize];
        let mut sum = 0.0f32.runtime();
        let mut bits = 0u32.runtime();
        let mut i = chunk * rows;
        let end = min(i + rows, samples);
        while i < end {
            let stop = min(i + BLOCK, end);
            let mut part = 0.0f32.runtime();
            while i < stop {
                let row = (2 * (set * samples + i)) as usize;
                let weight = divisors[row + 1];
                bits = max(bits, magnitude(weight));
                let s = scores[((set * samples + i) * prototypes + k) as usize];
                part += exp2(exponent(s, centre, offset, scale) - divisors[row]) * weight;
                i += 1;
            }
            sum += part;
        }
        let at = ((set * chunks + chunk) * prototypes + k) as usize;
        output[at] = sum;
        if bits >= INFINITE {
            output[at] = not_a_number(k);
        }
    }
}

/// One thread for each column: the sum over the chunks.
#[cube(launch)]
fn sum_kernel(parts: &Tensor<f32>, output: &mut Tensor<f32>, prototypes: u32, chunks: u32) {
    let k = ABSOLUTE_POS_X;
    let set = CUBE_POS_Z;
    if k < prototypes {
        let mut sum = 0.0f32.runtime();
        for chunk in 0..chunks {
            sum += parts[((set * chunks + chunk) * prototypes + k) as usize];
        }
        output[(set * prototypes + k) as usize] = sum;
    }
}

/// The scores in one piece, and how a pass over them is cut up.
struct Problem {
    scores: CubeTensor,
    sets: usize,
    samples: usize,
    prototypes: usize,
    scale: f32,
    /// Whether the device can add up over the threads of a plane.
    planes: bool,
}

impl Problem {
    fn new(scores: CubeTensor, epsilon: f64) -> Self {
        let scores = into_contiguous(scores);
        let shape = scores.meta.shape();
        let (sets, samples, prototypes) = (shape[0], shape[1], shape[2]);
        let planes = scores.client.features().plane.contains(Plane::Ops);
        Self {
            planes,
            scores,
            sets,
            samples,
            prototypes,
            scale: (std::f64::consts::LOG2_E / epsilon) as f32,
        }
    }

    /// Rows of a chunk, and chunks.
    fn chunks(&self) -> (usize, usize) {
        let wanted = BUSY.div_ceil(self.prototypes * self.sets).min(CHUNKS);
        let rows = self.samples.div_ceil(wanted).max(ROWS).min(self.samples);
        (rows, self.samples.div_ceil(rows))
    }

    fn empty(&self, shape: impl Into<Shape>) -> CubeTensor {
        let (client, device) = (self.scores.client.clone(), self.scores.device.clone());
        empty_device_contiguous_dtype(client, device, shape.into(), DType::F32)
    }

    /// Cubes for a pass over the columns, `chunks` times.
    fn columns(&self, chunks: usize) -> CubeCount {
        let cubes = (self.prototypes as u32).div_ceil(THREADS);
        CubeCount::Static(cubes, chunks as u32, self.sets as u32)
    }

    /// A cube for each row.
    fn rows(&self) -> CubeCount {
        let along = (self.samples as u32).min(AXIS);
        let across = (self.samples as u32).div_ceil(along);
        CubeCount::Static(along, across, self.sets as u32)
    }

    fn fold(&self, centres: CubeTensor) -> CubeTensor {
        let (rows, chunks) = self.chunks();
        let parts = || self.empty([self.sets, chunks, self.prototypes]);
        let (largest, sums) = (parts(), parts());
        fold_kernel::launch(
            &self.scores.client,
            self.columns(chunks),
            CubeDim::new_1d(THREADS),
            self.scores.clone().into_tensor_arg(),
            largest.clone().into_tensor_arg(),
            sums.clone().into_tensor_arg(),
            self.samples as u32,
            self.prototypes as u32,
            rows as u32,
            self.scale,
        );
        let output = self.empty([self.sets, self.prototypes]);
        unfold_kernel::launch(
            &self.scores.client,
            self.columns(1),
            CubeDim::new_1d(THREADS),
            largest.into_tensor_arg(),
            sums.into_tensor_arg(),
            into_contiguous(centres).into_tensor_arg(),
            output.clone().into_tensor_arg(),
            self.prototypes as u32,
            chunks as u32,
            self.scale,
        );
        output
    }

    fn pass(&self, centres: CubeTensor, offsets: CubeTensor, leaves: Rows) -> CubeTensor {
        let output = match leaves {
            Rows::Codes => self.empty([self.sets, self.samples, self.prototypes]),
            Rows::Divisors => self.empty([self.sets, self.samples, 2]),
            Rows::Potentials => self.empty([self.sets, self.samples]),
        };
        let client = &self.scores.client;
        rows_kernel::launch(
            client,
            self.rows(),
            CubeDim::new_1d(THREADS),
            self.scores.clone().into_tensor_arg(),
            centres.into_tensor_arg(),
            offsets.into_tensor_arg(),
            output.clone().into_tensor_arg(),
            self.samples as u32,
            self.prototypes as u32,
            self.scale,
            leaves,
            self.planes,
        );
        output
    }

    fn shares(&self, centres: CubeTensor, offsets: CubeTensor) -> CubeTensor {
        let divisors = self.pass(centres.clone(), offsets.clone(), Rows::Divisors);
        let (rows, chunks) = self.chunks();
        let parts = self.empty([self.sets, chunks, self.prototypes]);
        shares_kernel::launch(
            &self.scores.client,
            self.columns(chunks),
            CubeDim::new_1d(THREADS),
            self.scores.clone().into_tensor_arg(),
            centres.into_tensor_arg(),
            offsets.into_tensor_arg(),
            divisors.into_tensor_arg(),
            parts.clone().into_tensor_arg(),
            self.samples as u32,
            self.prototypes as u32,
            rows as u32,
            self.scale,
        );
        let output = self.empty([self.sets, self.prototypes]);
        sum_kernel::launch(
            &self.scores.client,
            self.columns(1),
            CubeDim::new_1d(THREADS),
            parts.into_tensor_arg(),
            output.clone().into_tensor_arg(),
            self.prototypes as u32,
            chunks as u32,
        );
        output
    }
}

impl Kernels for CubeBackend {
    fn with_contiguous_rows(scores: CubeTensor) -> CubeTensor {
        into_contiguous(scores)
    }

    fn prototype_potentials(scores: CubeTensor, centres: CubeTensor, epsilon: f64) -> CubeTensor {
        Problem::new(scores, epsilon).fold(centres)
    }

    fn sample_potentials(
        scores: CubeTensor,
        centres: CubeTensor,
        offsets: CubeTensor,
        epsilon: f64,
    ) -> CubeTensor {
        let (centres, offsets) = (into_contiguous(centres), into_contiguous(offsets));
        Problem::new(scores, epsilon).pass(centres, offsets, Rows::Potentials)
    }

    fn shares(
        scores: CubeTensor,
        centres: CubeTensor,
        offsets: CubeTensor,
        epsilon: f64,
    ) -> CubeTensor {
        let (centres, offsets) = (into_contiguous(centres), into_contiguous(offsets));
        Problem::new(scores, epsilon).shares(centres, offsets)
    }

    fn codes(
        scores: CubeTensor,
        centres: CubeTensor,
        offsets: CubeTensor,
        epsilon: f64,
    ) -> CubeTensor {
        let (centres, offsets) = (into_contiguous(centres), into_contiguous(offsets));
        Problem::new(scores, epsilon).pass(centres, offsets, Rows::Codes)
    }
}

/// The kernels as they are, whether or not Burn is built to fuse operations: through tensors it would put its queue
/// before them.
#[cfg(all(test, feature = "wgpu"))]
mod tests {
    use burn::backend::ops::FloatTensorOps;
    use burn::tensor::TensorData;
    use burn_cubecl::ops::into_data_sync;

    use super::*;
    use crate::reference;

    fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> CubeTensor {
        let device = Device::wgpu(burn::tensor::DeviceKind::DefaultDevice);
        let DispatchDevice::Cube(device) = device.as_dispatch() else {
            panic!("{device:?} is none of CubeCL's");
        };
        CubeBackend::float_from_data(TensorData::new(values.to_vec(), shape), device)
    }

    fn values(tensor: CubeTensor) -> Vec<f64> {
        into_data_sync(tensor).iter().collect()
    }

    /// Two rounds by hand, beside the reference.
    #[test]
    fn passes_without_fusion_make_the_codes_of_the_reference() {
        let epsilon = 0.05;
        for [samples, prototypes] in [[1, 1], [7, 300], [300, 7], [33, 129], [600, 257]] {
            let mut state = 1_u64;
            let mut next = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            };
            let scores: Vec<f32> = (0..samples * prototypes).map(|_| next()).collect();
            let (centre, size) = ([0.5_f32], [1, samples, prototypes]);
            let on_device = || (tensor(&scores, size), tensor(&centre, [1, 1]));

            let (s, c) = on_device();
            let first = values(CubeBackend::prototype_potentials(s, c, epsilon));
            let offsets = |values: &[f64]| -> CubeTensor {
                let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
                tensor(&values, [1, prototypes])
            };
            let (s, c) = on_device();
            let shares = values(CubeBackend::shares(s, c, offsets(&first), epsilon));
            let total: f64 = shares.iter().sum();
            assert!((total / samples as f64 - 1.0).abs() < 1e-5);
            let second: Vec<f64> = first
                .iter()
                .zip(&shares)
                .map(|(potential, share)| potential + epsilon * share.ln())
                .collect();
            let (s, c) = on_device();
            let mut problem = Problem::new(s, epsilon);
            let codes = values(problem.pass(c.clone(), offsets(&second), Rows::Codes));
            problem.planes = false;
            let without_planes = values(problem.pass(c, offsets(&second), Rows::Codes));
            for (one, other) in codes.iter().zip(&without_planes) {
                assert!(
                    (one - other).abs() < 1e-6,
                    "{one} with planes, {other} without"
                );
            }
            let (s, c) = on_device();
            let sums = values(CubeBackend::sample_potentials(
                s,
                c,
                offsets(&second),
                epsilon,
            ));

            let wide: Vec<f64> = scores.iter().copied().map(f64::from).collect();
            let expected = reference::sinkhorn(&wide, samples, prototypes, epsilon, 2);
            for (at, (code, expected)) in codes.iter().zip(&expected).enumerate() {
                assert!(
                    (code - expected).abs() < 2e-6,
                    "{samples} {prototypes}: {code} for {expected}"
                );
                let (i, k) = (at / prototypes, at % prototypes);
                let exponent = (wide[at] - f64::from(centre[0]) - second[k] - sums[i]) / epsilon;
                // The potentials have been rounded on their way.
                assert!((exponent.exp() - code).abs() < 1e-5);
            }
        }
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
        let cube = CubeDim::new_1d(THREADS);
        check(include_str!("cube.rs"), |gpu| {
            for leaves in [Rows::Codes, Rows::Divisors, Rows::Potentials] {
                for planes in [false, true] {
                    gpu.compile(cube, |s, d, t| {
                        let (scores, centres, offsets, output) =
                            (tensor(), tensor(), tensor(), tensor());
                        rows_kernel::RowsKernel::new(
                            s,
                            d,
                            t,
                            scores,
                            centres,
                            offsets,
                            output,
                            (),
                            (),
                            (),
                            leaves,
                            planes,
                        )
                    });
                }
            }
            gpu.compile(cube, |s, d, t| {
                let (scores, largest, sums) = (tensor(), tensor(), tensor());
                fold_kernel::FoldKernel::new(s, d, t, scores, largest, sums, (), (), (), ())
            });
            gpu.compile(cube, |s, d, t| {
                let (largest, sums, centres, output) = (tensor(), tensor(), tensor(), tensor());
                unfold_kernel::UnfoldKernel::new(
                    s,
                    d,
                    t,
                    largest,
                    sums,
                    centres,
                    output,
                    (),
                    (),
                    (),
                )
            });
            gpu.compile(cube, |s, d, t| {
                let (scores, centres, offsets) = (tensor(), tensor(), tensor());
                let (divisors, output) = (tensor(), tensor());
                shares_kernel::SharesKernel::new(
                    s,
                    d,
                    t,
                    scores,
                    centres,
                    offsets,
                    divisors,
                    output,
                    (),
                    (),
                    (),
                    (),
                )
            });
            gpu.compile(cube, |s, d, t| {
                sum_kernel::SumKernel::new(s, d, t, tensor(), tensor(), (), ())
            });
        });
    }
}
