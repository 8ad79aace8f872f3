//! Speed of each convolution of a ResNet-50 on the CPU, and of its two gradients, in GFLOP/s of the plain sum.
//!
//! ```text
//! cargo build --release --workspace --example layer_speed
//! target/release/examples/layer_speed [SIZE] [IMAGES] [f32|bf16]
//! ```

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use swav_model::ops::conv2d;

/// Inputs, outputs, kernel, stride, what an image is divided by, and how often it is there.
const LAYERS: [(usize, usize, usize, usize, usize, usize); 23] = [
    (3, 64, 7, 2, 1, 1),
    (64, 64, 1, 1, 4, 1),
    (64, 64, 3, 1, 4, 3),
    (64, 256, 1, 1, 4, 4),
    (256, 64, 1, 1, 4, 2),
    (256, 128, 1, 1, 4, 1),
    (128, 128, 3, 2, 4, 1),
    (128, 512, 1, 1, 8, 4),
    (256, 512, 1, 2, 4, 1),
    (512, 128, 1, 1, 8, 3),
    (128, 128, 3, 1, 8, 3),
    (512, 256, 1, 1, 8, 1),
    (256, 256, 3, 2, 8, 1),
    (256, 1024, 1, 1, 16, 6),
    (512, 1024, 1, 2, 8, 1),
    (1024, 256, 1, 1, 16, 5),
    (256, 256, 3, 1, 16, 5),
    (1024, 512, 1, 1, 16, 1),
    (512, 512, 3, 2, 16, 1),
    (512, 2048, 1, 1, 32, 3),
    (1024, 2048, 1, 2, 16, 1),
    (2048, 512, 1, 1, 32, 2),
    (512, 512, 3, 1, 32, 2),
];

/// The best of so many counts.
const TIMES: usize = 4;

fn main() {
    let argument = |i: usize| std::env::args().nth(i);
    let number = |i: usize, default| argument(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (size, images): (usize, usize) = (number(1, 96), number(2, 32));
    let dtype = match argument(3).as_deref() {
        Some("bf16") => DType::BF16,
        _ => DType::F32,
    };
    let device = Device::flex().autodiff();
    let mut totals = [0.0; 3];
    for (inputs, outputs, kernel, stride, reduced, count) in LAYERS {
        let side = size.div_ceil(reduced);
        let random =
            |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let x = random([images, inputs, side, side]).cast(dtype);
        let w = random([outputs, inputs, kernel, kernel]);
        let best = |of_x: bool, of_w: bool| {
            let time = || {
                let x = x.clone().set_require_grad(of_x);
                let w = w.clone().set_require_grad(of_w);
                let begun = Instant::now();
                let y = conv2d(x, w, stride, kernel / 2, 1);
                let forward = begun.elapsed().as_secs_f64();
                if !(of_x || of_w) {
                    return forward;
                }
                let sum = y.sum();
                let begun = Instant::now();
                let _gradients = sum.backward();
                begun.elapsed().as_secs_f64()
            };
            (0..TIMES).map(|_| time()).fold(f64::INFINITY, f64::min)
        };
        let out = side.div_ceil(stride);
        let flops = 2.0 * (images * outputs * inputs * kernel * kernel * out * out) as f64;
        let times = [best(false, false), best(true, false), best(false, true)];
        for (total, time) in totals.iter_mut().zip(times) {
            *total += time * count as f64;
        }
        let [y, dx, dw] = times.map(|time| flops / time / 1e9);
        println!(
            "{inputs:5} {outputs:5} {kernel}x{kernel}/{stride} {side:3} px x{count}  {y:6.0} {dx:6.0} {dw:6.0}   {:6.2} {:6.2} {:6.2} ms",
            times[0] * 1e3,
            times[1] * 1e3,
            times[2] * 1e3
        );
    }
    let [y, dx, dw] = totals;
    println!("all: forward {y:.3} s, of the input {dx:.3} s, of the weight {dw:.3} s");
}
