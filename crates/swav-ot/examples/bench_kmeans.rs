//! Times spherical k-means and prints JSON; `cargo xtask bench-kmeans` runs it and makes a table of it.
//!
//!     bench_kmeans [--device cpu|wgpu|cuda] [--samples 50000] [--dim 128] [--centroids 3000] [--iterations 10]

mod common;

use std::error::Error;
use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use common::{keep_freed_memory, open, times};
use serde_json::json;
use swav_ot::{Form, spherical_kmeans_with};

fn main() -> Result<(), Box<dyn Error>> {
    keep_freed_memory();
    let mut name = "cpu".to_string();
    let [mut samples, mut dim, mut centroids, mut iterations] = [50_000, 128, 3000, 10];
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or("a flag without a value")?;
        match flag.as_str() {
            "--device" => name = value,
            "--samples" => samples = value.parse()?,
            "--dim" => dim = value.parse()?,
            "--centroids" => centroids = value.parse()?,
            "--iterations" => iterations = value.parse()?,
            flag => return Err(format!("no flag {flag}").into()),
        }
    }
    let device = open(&name)?;
    let bank = unit_vectors([samples, dim], &device);
    let start = bank.clone().slice(0..centroids);

    let mut rows = Vec::new();
    for (form, name) in [(Form::Fused, "fused"), (Form::Tensors, "tensors")] {
        let times = times(&device, 3, || {
            black_box(spherical_kmeans_with(
                bank.clone(),
                start.clone(),
                iterations,
                form,
            )?);
            Ok(())
        })?;
        rows.push(json!({ "name": name, "times_ms": times }));
    }
    println!("{}", json!({ "device": name, "rows": rows }));
    Ok(())
}

fn unit_vectors(shape: [usize; 2], device: &Device) -> Tensor<2> {
    let vectors = Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device);
    let lengths = vectors.clone().square().sum_dim(1).sqrt();
    vectors / lengths
}
