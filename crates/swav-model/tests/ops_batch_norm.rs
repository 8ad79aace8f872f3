//! The fused batch normalisation, on the CPU and (built with `wgpu`) on a GPU, against Burn's own operations one after the other
//! on the CPU.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use burn::tensor::activation::relu;
use burn::tensor::{DType, Device, Tensor, module};
use common::{host, image, relative};
use swav_model::Ranks;
use swav_model::ops::{Epilogue, Normalised, batch_norm, batch_norm_train, has_maps_of};

const EPSILON: f64 = 1e-5;
/// Single precision, and another order of the sums.
const TOLERANCE: f64 = 1e-5;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Follow {
    Nothing,
    Relu,
    AddRelu,
}

const FOLLOWS: [Follow; 3] = [Follow::Nothing, Follow::Relu, Follow::AddRelu];

impl Follow {
    fn then(self, shortcut: Tensor<3>) -> Epilogue<3> {
        match self {
            Self::Nothing => Epilogue::None,
            Self::Relu => Epilogue::Relu,
            Self::AddRelu => Epilogue::AddRelu(shortcut),
        }
    }

    fn apply(self, y: Tensor<3>, shortcut: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Nothing => y,
            Self::Relu => relu(y),
            Self::AddRelu => relu(y + shortcut),
        }
    }
}

/// Input, shortcut, weight and bias.
fn inputs(shape: [usize; 3], device: &Device) -> (Tensor<3>, Tensor<3>, Tensor<1>, Tensor<1>) {
    let [_, channels, _] = shape;
    (
        image("norm.x", shape, device) * 2.0 + 0.7,
        image("norm.shortcut", shape, device),
        image("norm.weight", [channels], device),
        image("norm.bias", [channels], device),
    )
}

fn ours(
    follow: Follow,
    x: Tensor<3>,
    shortcut: Tensor<3>,
    weight: Tensor<1>,
    bias: Tensor<1>,
) -> Normalised<3> {
    batch_norm_train(
        x,
        weight,
        bias,
        EPSILON,
        follow.then(shortcut),
        &Ranks::default(),
    )
}

fn burns(
    follow: Follow,
    x: Tensor<3>,
    shortcut: Tensor<3>,
    weight: Tensor<1>,
    bias: Tensor<1>,
) -> Normalised<3> {
    let batch = module::batch_norm_train(x, weight, bias, EPSILON);
    Normalised {
        output: follow.apply(batch.output, shortcut),
        mean: batch.mean,
        variance: batch.variance,
    }
}

/// Where there are kernels.
fn devices() -> Vec<Device> {
    vec![
        Device::flex(),
        #[cfg(feature = "wgpu")]
        Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
    ]
}

type Norm = fn(Follow, Tensor<3>, Tensor<3>, Tensor<1>, Tensor<1>) -> Normalised<3>;

/// Output, mean, variance, and the gradients of input, weight, bias and (where it counts) shortcut.
fn results(
    norm: Norm,
    follow: Follow,
    shape: [usize; 3],
    device: &Device,
) -> Vec<(&'static str, Vec<f32>)> {
    let device = device.clone().autodiff();
    let (x, shortcut, weight, bias) = inputs(shape, &device);
    let (x, shortcut) = (x.require_grad(), shortcut.require_grad());
    let (weight, bias) = (weight.require_grad(), bias.require_grad());
    let batch = norm(
        follow,
        x.clone(),
        shortcut.clone(),
        weight.clone(),
        bias.clone(),
    );
    let probe: Tensor<3> = image("norm.gradient", shape, &device);
    let gradients = (batch.output.clone() * probe).sum().backward();
    let mut results = vec![
        ("output", host(batch.output)),
        ("mean", host(batch.mean)),
        ("variance", host(batch.variance)),
        ("input", host(x.grad(&gradients).unwrap())),
        ("weight", host(weight.grad(&gradients).unwrap())),
        ("bias", host(bias.grad(&gradients).unwrap())),
    ];
    if follow == Follow::AddRelu {
        results.push(("shortcut", host(shortcut.grad(&gradients).unwrap())));
    }
    results
}

#[test]
fn outputs_statistics_and_gradients_are_burns() {
    for device in devices() {
        for images in [4, 5, 70] {
            for channels in [1, 3, 16, 33] {
                for pixels in [1, 4, 15, 16, 17, 49, 1000] {
                    for follow in FOLLOWS {
                        check([images, channels, pixels], follow, &device);
                    }
                }
            }
        }
    }
}

fn check(shape: [usize; 3], follow: Follow, device: &Device) {
    let expected = results(burns, follow, shape, &Device::flex());
    let found = results(ours, follow, shape, device);
    for ((name, ours), (_, burns)) in found.iter().zip(&expected) {
        // A gradient of a weight or a bias is a sum of this many values about 1, and may be near 0.
        let terms = shape.iter().product::<usize>() / ours.len();
        let size = burns.iter().map(|b| b * b).sum::<f32>().sqrt();
        let size = f64::from(size.max((terms as f32).sqrt()));
        let differences = ours
            .iter()
            .zip(burns)
            .map(|(o, b)| f64::from(o - b).powi(2));
        let error = differences.sum::<f64>().sqrt() / size;
        assert!(
            error <= TOLERANCE,
            "{shape:?} {follow:?} on {device:?}: {name} is off by {error:.1e}"
        );
    }
}

/// Every instruction is that of `f32`, and so is every bit until the result is rounded.
#[test]
fn maps_of_bf16_are_widened_and_their_results_rounded() {
    let rounded = |x: Tensor<3>| x.cast(DType::BF16).cast(DType::F32);
    for (images, channels, pixels) in [(4, 3, 1), (5, 16, 49), (70, 33, 16), (3, 5, 9000)] {
        let shape = [images, channels, pixels];
        for follow in FOLLOWS {
            let results = |dtype: DType| {
                let device = Device::flex().autodiff();
                let (x, shortcut, weight, bias) = inputs(shape, &device);
                let [x, shortcut] = [x, shortcut].map(|x| rounded(x).cast(dtype).require_grad());
                let (weight, bias) = (weight.require_grad(), bias.require_grad());
                let operands = (x.clone(), shortcut.clone(), weight.clone(), bias.clone());
                let batch = ours(follow, operands.0, operands.1, operands.2, operands.3);
                assert_eq!(batch.output.dtype(), dtype);
                let probe = rounded(image("norm.gradient", shape, &device)).cast(dtype);
                let gradients = (batch.output.clone() * probe).sum().backward();
                let mut maps = vec![rounded(batch.output.inner())];
                maps.extend(
                    [&x, &shortcut]
                        .iter()
                        .filter_map(|x| x.grad(&gradients).map(rounded)),
                );
                let numbers = [
                    batch.mean.inner(),
                    batch.variance.inner(),
                    weight.grad(&gradients).unwrap(),
                    bias.grad(&gradients).unwrap(),
                ];
                let maps = maps.into_iter().map(host);
                maps.chain(numbers.map(host)).collect::<Vec<_>>()
            };
            let (found, wanted) = (results(DType::BF16), results(DType::F32));
            assert_eq!(found.len(), if follow == Follow::AddRelu { 7 } else { 6 });
            for (which, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                let error = relative(found, wanted);
                assert!(
                    error == 0.0,
                    "{shape:?} {follow:?}: {which} is off by {error:.1e}"
                );
            }
        }
    }
}

#[test]
fn maps_can_be_of_f32_everywhere_and_of_bf16_on_the_cpu_but_not_with_wgpu() {
    for device in devices() {
        for device in [device.clone(), device.autodiff()] {
            assert!(has_maps_of(&device, DType::F32), "{device:?}");
            assert!(!has_maps_of(&device, DType::F16), "{device:?}");
            let is_cpu = device.clone().inner() == Device::flex();
            assert_eq!(has_maps_of(&device, DType::BF16), is_cpu, "{device:?}");
        }
    }
}

/// More rows than one chunk of a GPU holds, and columns on the edge of its tiles.
#[test]
fn maps_of_many_chunks_are_burns() {
    for device in devices() {
        for shape in [[9, 31, 4001], [3, 65, 2500]] {
            check(shape, Follow::AddRelu, &device);
        }
    }
}

/// As a convolution leaves them on a GPU: channels last in memory.
#[test]
fn a_map_with_its_channels_last_in_memory_is_the_same_map() {
    for device in devices() {
        let shape = [5, 33, 49];
        let (x, _, weight, bias) = inputs(shape, &device);
        let turned = x
            .clone()
            .permute([0, 2, 1])
            .mul_scalar(1.0)
            .permute([0, 2, 1]);
        let [plain, turned] = [x, turned].map(|x| {
            let batch = batch_norm_train(
                x,
                weight.clone(),
                bias.clone(),
                EPSILON,
                Epilogue::Relu,
                &Ranks::default(),
            );
            host(batch.output)
        });
        assert!(relative(&turned, &plain) <= 1e-6, "{device:?}");
    }
}

#[test]
fn with_given_statistics_outputs_and_gradients_are_burns() {
    let statistics = |channels, device: &Device| {
        let mean: Tensor<1> = image("norm.mean", [channels], device);
        let variance: Tensor<1> = image("norm.variance", [channels], device).abs() + 0.1;
        (mean, variance)
    };
    for shape in [[3, 5, 1], [3, 5, 7], [3, 5, 64]] {
        for follow in FOLLOWS {
            let device = Device::flex();
            let (x, shortcut, weight, bias) = inputs(shape, &device);
            let (mean, variance) = statistics(shape[1], &device);
            let y = module::batch_norm(x, weight, bias, mean, variance, EPSILON);
            let expected = host(follow.apply(y, shortcut));
            for device in devices()
                .into_iter()
                .flat_map(|d| [d.clone(), d.autodiff()])
            {
                let (x, shortcut, weight, bias) = inputs(shape, &device);
                let (mean, variance) = statistics(shape[1], &device);
                let epilogue = follow.then(shortcut);
                let y = batch_norm(x, weight, bias, mean, variance, EPSILON, epilogue);
                let error = relative(&host(y), &expected);
                assert!(
                    error <= TOLERANCE,
                    "{shape:?} {follow:?} on {device:?}: {error:.1e}"
                );
            }
        }
    }
}

/// Sums of squares in single precision would leave nothing of this variance.
#[test]
fn a_small_variance_about_a_large_mean_is_found() {
    let shape = [40, 2, 300];
    for device in devices() {
        let (x, shortcut, weight, bias) = inputs(shape, &device.autodiff());
        let x = x * 0.01 + 1000.0;
        let values = host(x.clone());
        let variance = host(ours(Follow::Nothing, x, shortcut, weight, bias).variance);
        for (channel, variance) in variance.into_iter().enumerate() {
            let of_channel = |image: usize| &values[(image * 2 + channel) * 300..][..300];
            let all: Vec<f64> = (0..40)
                .flat_map(of_channel)
                .map(|&v| f64::from(v))
                .collect();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let expected = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
            let error = (f64::from(variance) / expected - 1.0).abs();
            assert!(
                error < 1e-3,
                "channel {channel}: {variance} instead of {expected}"
            );
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let bits = |threads: usize, shape| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let device = Device::flex();
        let results = pool.install(|| results(ours, Follow::AddRelu, shape, &device));
        let values = results.into_iter().flat_map(|(_, values)| values);
        values.map(f32::to_bits).collect::<Vec<_>>()
    };
    for shape in [[67, 16, 256], [301, 130, 1], [5, 16, 4000]] {
        let one = bits(1, shape);
        for threads in [2, 3, 8] {
            assert!(
                bits(threads, shape) == one,
                "{shape:?} on {threads} threads"
            );
        }
    }
}

/// The gradient is worked on in place. Where the graph gives two parents one gradient, the second must
/// not find the work of the first.
#[test]
fn a_gradient_that_two_share_is_not_overwritten() {
    let shape = [6, 4, 50];
    let gradients = |norm: Norm, device: Device| {
        let device = device.autodiff();
        let (x, other, weight, bias) = inputs(shape, &device);
        let (x, other) = (x.require_grad(), other.require_grad());
        let one = norm(
            Follow::Relu,
            x.clone(),
            other.clone(),
            weight.clone(),
            bias.clone(),
        );
        let two = norm(Follow::Relu, other.clone(), x.clone(), weight, bias);
        let probe: Tensor<3> = image("norm.gradient", shape, &device);
        let sum = one.output + two.output + x.clone();
        let gradients = (sum * probe).sum().backward();
        [&x, &other].map(|t| host(t.grad(&gradients).unwrap()))
    };
    let expected = gradients(burns, Device::flex());
    for device in devices() {
        for (ours, burns) in gradients(ours, device).iter().zip(&expected) {
            assert!(relative(ours, burns) <= TOLERANCE);
        }
    }
}

#[test]
fn not_a_number_passes_the_relu() {
    for device in devices() {
        let x = Tensor::<2>::from_floats([[f32::NAN, 1.0], [2.0, 3.0]], &device);
        let (ones, zeros) = (Tensor::ones([2], &device), Tensor::zeros([2], &device));
        let y = batch_norm(
            x,
            ones.clone(),
            zeros.clone(),
            zeros,
            ones,
            EPSILON,
            Epilogue::Relu,
        );
        assert!(host(y)[0].is_nan(), "{device:?}");
    }
}

#[test]
#[should_panic(expected = "a shortcut has the shape of what it is added to")]
fn a_shortcut_of_another_shape_is_refused() {
    let device = Device::flex();
    let (x, _, weight, bias) = inputs([2, 3, 4], &device);
    let epilogue = Epilogue::AddRelu(Tensor::zeros([2, 3, 1], &device));
    batch_norm_train(x, weight, bias, EPSILON, epilogue, &Ranks::default());
}
