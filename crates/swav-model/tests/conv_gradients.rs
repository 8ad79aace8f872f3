//! The fast convolution against Burn's own, against finite differences and against itself.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, module};
use common::{host, image, relative};
use swav_model::ops::{conv2d, plainly};

/// Single precision, and another order of the sums.
const TOLERANCE: f64 = 1e-5;

#[derive(Clone, Copy, Debug)]
struct Case {
    images: usize,
    inputs: usize,
    outputs: usize,
    height: usize,
    width: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    groups: usize,
}

impl Case {
    fn fits(&self) -> bool {
        self.kernel <= self.height.min(self.width) + 2 * self.padding
    }

    fn x(&self, device: &Device) -> Tensor<4> {
        let shape = [self.images, self.inputs, self.height, self.width];
        image("conv.x", shape, device)
    }

    fn weight(&self, device: &Device) -> Tensor<4> {
        let inputs = self.inputs / self.groups;
        let shape = [self.outputs, inputs, self.kernel, self.kernel];
        image("conv.weight", shape, device)
    }

    fn ours(&self, x: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
        conv2d(x, weight, self.stride, self.padding, self.groups)
    }

    fn burns(&self, x: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
        let options = ConvOptions::new([self.stride; 2], [self.padding; 2], [1, 1], self.groups);
        module::conv2d(x, weight, None, options)
    }

    /// Output, gradient of the input and gradient of the weight, for a fixed gradient of the output.
    fn results(&self, conv: impl Fn(Tensor<4>, Tensor<4>) -> Tensor<4>) -> [Vec<f32>; 3] {
        let device = Device::flex().autodiff();
        let x = self.x(&device).require_grad();
        let weight = self.weight(&device).require_grad();
        let y = conv(x.clone(), weight.clone());
        let gradient = image("conv.gradient", y.dims(), &device);
        let gradients = (y.clone() * gradient).sum().backward();
        [
            host(y),
            host(x.grad(&gradients).unwrap()),
            host(weight.grad(&gradients).unwrap()),
        ]
    }

    fn check(&self) {
        let ours = self.results(|x, w| self.ours(x, w));
        let burns = self.results(|x, w| self.burns(x, w));
        for (name, (ours, burns)) in ["output", "input", "weight"]
            .iter()
            .zip(ours.iter().zip(&burns))
        {
            if burns.iter().all(|&b| b == 0.0) {
                assert!(
                    ours.iter().all(|&o| o == 0.0),
                    "{self:?}: {name} is not zero"
                );
                continue;
            }
            let error = relative(ours, burns);
            assert!(error <= TOLERANCE, "{self:?}: {name} is off by {error:.1e}");
        }
    }
}

/// Every kernel, stride, padding and grouping, over maps from a single pixel to one of several chunks.
fn cases() -> impl Iterator<Item = Case> {
    let sizes = [(1, 1), (3, 3), (5, 7), (8, 8), (17, 6), (40, 33)];
    let grid = |values: &'static [usize]| {
        move |cases: Vec<Case>, set: fn(&mut Case, usize)| {
            let with = |case: &Case, value| {
                let mut case = *case;
                set(&mut case, value);
                case
            };
            let pairs = cases
                .iter()
                .flat_map(|case| values.iter().map(move |&v| with(case, v)));
            pairs.collect::<Vec<_>>()
        }
    };
    let blank = Case {
        images: 1,
        inputs: 0,
        outputs: 0,
        height: 0,
        width: 0,
        kernel: 1,
        stride: 1,
        padding: 0,
        groups: 1,
    };
    let cases = sizes
        .map(|(height, width)| Case {
            height,
            width,
            ..blank
        })
        .to_vec();
    let cases = grid(&[1, 5])(cases, |case, v| case.images = v);
    let cases = grid(&[1, 3, 5, 7])(cases, |case, v| case.kernel = v);
    let cases = grid(&[1, 2, 3])(cases, |case, v| case.stride = v);
    let cases = grid(&[0, 1, 2, 3])(cases, |case, v| case.padding = v);
    // Groups, and how many channels each takes and yields.
    let cases = grid(&[0, 1, 2, 3])(cases, |case, v| {
        let (groups, inputs, outputs) = [(1, 5, 7), (2, 3, 4), (4, 2, 2), (6, 1, 1)][v];
        (case.groups, case.inputs, case.outputs) = (groups, groups * inputs, groups * outputs);
    });
    cases.into_iter().filter(Case::fits)
}

#[test]
fn output_and_gradients_are_burns_over_all_kernels_strides_paddings_and_groups() {
    let cases: Vec<Case> = cases().collect();
    assert!(cases.len() > 1000, "only {} cases", cases.len());
    cases.iter().for_each(Case::check);
}

/// Channels that are cut into several blocks, maps that are cut into bands, gaps copied away.
fn layers() -> impl Iterator<Item = Case> {
    let layers = [
        (3, 16, 32, 3, 1, 1),
        (16, 16, 32, 3, 1, 1),
        (16, 32, 32, 3, 2, 1),
        (16, 32, 32, 1, 2, 1),
        (128, 128, 4, 3, 1, 1),
        (64, 64, 24, 3, 1, 1),
        (256, 256, 6, 3, 1, 1),
        // With too many channels or too few for Winograd's windows.
        (24, 40, 12, 3, 1, 1),
        (130, 70, 4, 3, 1, 1),
        (3, 64, 96, 7, 2, 1),
        // Where they lie, and where that cannot be.
        (64, 256, 24, 1, 1, 1),
        (300, 40, 8, 1, 1, 1),
        (256, 64, 12, 1, 1, 1),
        (16, 7, 8, 1, 1, 1),
        // As linear layers.
        (128, 256, 3, 3, 1, 1),
        (128, 256, 3, 3, 2, 1),
        (256, 256, 2, 3, 1, 1),
        (256, 512, 2, 3, 2, 1),
        (512, 512, 1, 3, 1, 1),
        (512, 2048, 1, 1, 1, 1),
        (600, 300, 3, 1, 1, 1),
        (300, 600, 3, 3, 1, 1),
        (128, 128, 12, 3, 1, 32),
        (128, 128, 12, 3, 2, 32),
    ];
    let case = |(inputs, outputs, size, kernel, stride, groups)| Case {
        images: 7,
        inputs,
        outputs,
        height: size,
        width: size,
        kernel,
        stride,
        padding: kernel / 2,
        groups,
    };
    layers.into_iter().map(case)
}

#[test]
fn output_and_gradients_are_burns_in_the_layers_of_resnets() {
    layers().for_each(|case| case.check());
}

/// Every instruction is that of `f32`, and so is every bit until the result is rounded.
#[test]
fn maps_of_bf16_are_widened_and_their_results_rounded() {
    let rounded = |x: Tensor<4>| x.cast(DType::BF16).cast(DType::F32);
    for case in layers().chain(cases().step_by(7)) {
        let results = |dtype: DType| {
            let device = Device::flex().autodiff();
            let x = rounded(case.x(&device)).cast(dtype).require_grad();
            // Weights are rounded on their way in.
            let weight = match dtype {
                DType::F32 => rounded(case.weight(&device)),
                _ => case.weight(&device),
            };
            let weight = weight.require_grad();
            let y = case.ours(x.clone(), weight.clone());
            assert_eq!(y.dtype(), dtype);
            let gradient = rounded(image("conv.gradient", y.dims(), &device)).cast(dtype);
            let gradients = (y.clone() * gradient).sum().backward();
            let (dx, dw) = (
                x.grad(&gradients).unwrap(),
                weight.grad(&gradients).unwrap(),
            );
            assert_eq!((dx.dtype(), dw.dtype()), (dtype, DType::F32));
            [rounded(y.inner()), rounded(dx), dw].map(host)
        };
        let (found, wanted) = (results(DType::BF16), results(DType::F32));
        for (name, (found, wanted)) in ["output", "input", "weight"]
            .iter()
            .zip(found.iter().zip(&wanted))
        {
            let same = found
                .iter()
                .zip(wanted)
                .all(|(f, w)| f.to_bits() == w.to_bits());
            assert!(
                same,
                "{case:?}: {name} is off by {:.1e}",
                relative(found, wanted)
            );
        }
    }
}

/// Where this crate has no kernels, Burn's operations get the same maps of bf16. They may round more often.
#[test]
fn without_kernels_maps_of_bf16_have_the_same_results_but_for_rounding() {
    for case in layers() {
        let results = |plain: bool| {
            let device = Device::flex().autodiff();
            let x = case.x(&device).cast(DType::BF16).require_grad();
            let weight = case.weight(&device).require_grad();
            let (input, kernel) = (x.clone(), weight.clone());
            let y = match plain {
                true => plainly(|| case.ours(input, kernel)),
                false => case.ours(input, kernel),
            };
            let gradient = image("conv.gradient", y.dims(), &device).cast(DType::BF16);
            let gradients = (y.clone() * gradient).sum().backward();
            let (dx, dw) = (
                x.grad(&gradients).unwrap(),
                weight.grad(&gradients).unwrap(),
            );
            let types = [y.dtype(), dx.dtype(), dw.dtype()];
            assert_eq!(types, [DType::BF16, DType::BF16, DType::F32], "{case:?}");
            let widened = |x: Tensor<4>| host(x.cast(DType::F32));
            [widened(y.inner()), widened(dx), widened(dw)]
        };
        let (plain, ours) = (results(true), results(false));
        for (name, (plain, ours)) in ["output", "input", "weight"]
            .iter()
            .zip(plain.iter().zip(&ours))
        {
            let error = relative(plain, ours);
            assert!(error <= 4e-3, "{case:?}: {name} is off by {error:.1e}");
        }
    }
}

#[test]
fn outputs_are_cut_into_parts_wherever_that_falls() {
    for images in [1, 9] {
        for outputs in (2..1200).step_by(6).flat_map(|least| [least, least + 2]) {
            let case = Case {
                images,
                inputs: 2,
                outputs,
                height: 8,
                width: 8,
                kernel: 1,
                stride: 1,
                padding: 0,
                groups: 1,
            };
            case.check();
        }
    }
}

#[test]
fn gradients_are_finite_differences() {
    let device = Device::flex();
    for (kernel, stride, padding, groups) in
        [(3, 1, 1, 1), (3, 2, 1, 2), (1, 2, 0, 1), (5, 3, 3, 1)]
    {
        let case = Case {
            images: 2,
            inputs: 4,
            outputs: 6,
            height: 7,
            width: 5,
            kernel,
            stride,
            padding,
            groups,
        };
        let [_, dx, dw] = case.results(|x, w| case.ours(x, w));
        let loss = |x: Tensor<4>, w: Tensor<4>| -> f64 {
            let y = case.ours(x, w);
            let gradient = host(image("conv.gradient", y.dims(), &device));
            let pairs = host(y).into_iter().zip(gradient);
            pairs.map(|(y, g)| f64::from(y) * f64::from(g)).sum()
        };
        let (x, w) = (case.x(&device), case.weight(&device));
        // The loss is linear in either, so a step of 1 makes no error but that of rounding.
        let moved = |tensor: &Tensor<4>, at: usize| {
            let mut values = host(tensor.clone());
            values[at] += 1.0;
            Tensor::<1>::from_floats(values.as_slice(), &device).reshape(tensor.dims())
        };
        let base = loss(x.clone(), w.clone());
        for (at, &gradient) in dx.iter().enumerate() {
            let difference = loss(moved(&x, at), w.clone()) - base;
            assert!(
                (difference - f64::from(gradient)).abs() < 1e-4,
                "{case:?}: input {at}"
            );
        }
        for (at, &gradient) in dw.iter().enumerate() {
            let difference = loss(x.clone(), moved(&w, at)) - base;
            assert!(
                (difference - f64::from(gradient)).abs() < 1e-4,
                "{case:?}: weight {at}"
            );
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    let bits = |threads, case: &Case| {
        let results = pool(threads).install(|| case.results(|x, w| case.ours(x, w)));
        results.map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let base = Case {
        images: 37,
        inputs: 16,
        outputs: 24,
        height: 16,
        width: 16,
        kernel: 3,
        stride: 1,
        padding: 1,
        groups: 1,
    };
    for case in [
        base,
        Case {
            outputs: 48,
            ..base
        },
        Case { stride: 2, ..base },
        Case { groups: 4, ..base },
        Case {
            height: 3,
            width: 3,
            ..base
        },
        Case {
            kernel: 1,
            padding: 0,
            ..base
        },
        // Linear layers with many images, inputs and outputs, which threads share.
        Case {
            images: 700,
            inputs: 300,
            outputs: 200,
            height: 1,
            width: 1,
            ..base
        },
        Case {
            images: 300,
            inputs: 128,
            outputs: 200,
            height: 2,
            width: 2,
            ..base
        },
    ] {
        let one = bits(1, &case);
        for threads in [2, 3, 8] {
            assert!(bits(threads, &case) == one, "{case:?} on {threads} threads");
        }
    }
}

#[test]
fn an_input_without_a_gradient_gets_none_and_the_weight_still_does() {
    let device = Device::flex().autodiff();
    let x: Tensor<4> = image("conv.x", [2, 3, 8, 8], &device);
    let weight = image("conv.weight", [4, 3, 3, 3], &device).require_grad();
    let gradients = conv2d(x.clone(), weight.clone(), 1, 1, 1).sum().backward();
    assert!(x.grad(&gradients).is_none());
    assert!(weight.grad(&gradients).is_some());
}

#[test]
fn an_input_that_is_a_view_is_read_as_what_it_shows() {
    let device = Device::flex();
    let x: Tensor<4> = image("conv.x", [3, 9, 8, 4], &device);
    let weight: Tensor<4> = image("conv.weight", [3, 4, 3, 3], &device);
    let view = x.permute([1, 3, 0, 2]).slice([2..7, 0..4, 0..3, 1..8]);
    let copy =
        Tensor::<1>::from_floats(host(view.clone()).as_slice(), &device).reshape([5, 4, 3, 7]);
    let expected = host(conv2d(copy, weight.clone(), 1, 1, 1));
    assert_eq!(host(conv2d(view, weight, 1, 1, 1)), expected);
}

#[test]
#[should_panic(expected = "does not fit into 2×5 padded by 1")]
fn a_kernel_larger_than_the_padded_map_is_refused_with_the_sizes() {
    let device = Device::flex();
    let x = Tensor::zeros([1, 1, 2, 5], &device);
    conv2d(x, Tensor::zeros([1, 1, 5, 5], &device), 1, 1, 1);
}
