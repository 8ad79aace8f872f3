//! Convolutions as they are on GPUs with tensor cores, on whatever GPU there is (built with `wgpu`), against those on the CPU.

#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use burn::tensor::{Device, DeviceType};
use common::{host, image, relative};
use swav_model::ops::{as_on_tensor_cores, conv2d};

/// Single precision, and another order of the sums.
const TOLERANCE: f64 = 2e-5;

/// Images, inputs, height, width, outputs, kernel, stride, padding.
const CASES: [[usize; 8]; 16] = [
    [3, 8, 5, 5, 16, 1, 1, 0],
    [8, 16, 12, 9, 8, 1, 1, 0],
    [2, 8, 6, 7, 16, 3, 1, 1],
    [16, 16, 8, 8, 24, 3, 1, 1],
    [2, 64, 6, 5, 8, 3, 1, 1],
    [40, 72, 7, 7, 16, 3, 1, 1],
    [5, 8, 1, 1, 8, 3, 1, 1],
    [4, 8, 2, 2, 8, 3, 1, 1],
    [3, 16, 8, 8, 32, 3, 2, 1],
    [3, 16, 7, 5, 32, 3, 2, 1],
    [2, 8, 1, 1, 8, 3, 2, 1],
    [3, 16, 8, 8, 32, 1, 2, 0],
    [3, 16, 7, 9, 32, 1, 2, 0],
    [4, 3, 16, 16, 16, 3, 1, 1],
    [3, 3, 32, 32, 16, 7, 2, 3],
    [3, 3, 33, 19, 16, 7, 2, 3],
];

/// Output, and the gradients of the input and the weight.
fn of(case: [usize; 8], device: &Device) -> [Vec<f32>; 3] {
    let [n, c, h, w, o, k, stride, padding] = case;
    let device = &device.clone().autodiff();
    let x = image("conv.x", [n, c, h, w], device).require_grad();
    let weight = image("conv.weight", [o, c, k, k], device).require_grad();
    let y = conv2d(x.clone(), weight.clone(), stride, padding, 1);
    let weights = image("conv.gradient", y.dims(), device);
    let gradients = (y.clone() * weights).sum().backward();
    let [y, dx, dw] = [
        y.inner(),
        x.grad(&gradients).unwrap(),
        weight.grad(&gradients).unwrap(),
    ];
    [host(y), host(dx), host(dw)]
}

#[test]
fn products_are_those_of_the_cpu() {
    let gpu = Device::enumerate(DeviceType::Wgpu)
        .into_iter()
        .next()
        .unwrap();
    for case in CASES {
        let expected = of(case, &Device::flex());
        let found = as_on_tensor_cores(|| of(case, &gpu));
        for ((name, expected), found) in ["y", "dx", "dw"].iter().zip(expected).zip(found) {
            let error = relative(&found, &expected);
            assert!(error < TOLERANCE, "{case:?}: {name} is off by {error:e}");
        }
    }
}
