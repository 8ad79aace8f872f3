//! Images per second of a training step of the backbone on the CPU, forward and backward.
//!
//! ```text
//! cargo build --release --workspace --example conv_speed
//! target/release/examples/conv_speed [slim|resnet18|resnet50]…
//! ```

use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use swav_model::{BackboneConfig, Stem};

/// Name, architecture, width, stem, size and number of the images.
const CASES: [(&str, &str, f64, Stem, usize, usize); 3] = [
    ("slim", "resnet18", 0.25, Stem::Cifar, 32, 512),
    ("resnet18", "resnet18", 1.0, Stem::Imagenet, 32, 64),
    ("resnet50", "resnet50", 1.0, Stem::Imagenet, 96, 16),
];
/// The best of so many steps counts: the others were disturbed.
const STEPS: usize = 5;

fn main() -> Result<(), swav_model::UnknownArchitecture> {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    for (name, architecture, width, stem, size, images) in CASES {
        if !chosen.is_empty() && !chosen.iter().any(|c| c == name) {
            continue;
        }
        let device = Device::flex().autodiff();
        let config = BackboneConfig {
            name: architecture.parse()?,
            width,
            stem,
        };
        let backbone = config.init(&mut swav_model::Draw::new(0, &device));
        let x = Tensor::<4>::random([images, 3, size, size], Distribution::Default, &device);
        let step = || {
            let start = Instant::now();
            let features = backbone.forward(x.clone());
            let forward = start.elapsed();
            let _gradients = features.sum().backward();
            (start.elapsed(), forward)
        };
        let best = (0..STEPS).map(|_| step()).min();
        let (total, forward) = best.unwrap_or((Duration::MAX, Duration::MAX));
        println!(
            "{name:10} {:7.1} images/s, forward {:.3} s, backward {:.3} s",
            images as f64 / total.as_secs_f64(),
            forward.as_secs_f64(),
            (total - forward).as_secs_f64(),
        );
    }
    Ok(())
}
