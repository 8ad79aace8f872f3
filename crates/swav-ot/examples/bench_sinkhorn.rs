//! Times scores to codes and prints JSON; `cargo xtask bench-sinkhorn` runs it and makes a table of it.
//!
//!     bench_sinkhorn [--device cpu|wgpu|cuda] [--sizes 256x3000,3x4096x3000] [--iterations 3]

mod common;

use std::error::Error;
use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use common::{keep_freed_memory, open, times};
use serde_json::json;
use swav_ot::{Form, Local, SinkhornConfig, sinkhorn_with};

fn main() -> Result<(), Box<dyn Error>> {
    keep_freed_memory();
    let (mut device, mut sizes, mut iterations) = ("cpu".to_string(), String::new(), 3);
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or("a flag without a value")?;
        match flag.as_str() {
            "--device" => device = value,
            "--sizes" => sizes = value,
            "--iterations" => iterations = value.parse()?,
            flag => return Err(format!("{flag} is none of --device, --sizes, --iterations").into()),
        }
    }
    let name = device;
    let device = open(&name)?;
    let bandwidth = bandwidth(&device)?;

    let mut rows = Vec::new();
    for size in sizes.split(',') {
        let size: Vec<usize> = size.split('x').map(str::parse).collect::<Result<_, _>>()?;
        let [heads, b, k] = match size[..] {
            [b, k] => [1, b, k],
            [heads, b, k] => [heads, b, k],
            _ => return Err(format!("{size:?} is neither BxK nor HEADSxBxK").into()),
        };
        // The scores are read once at the start, once in each round, and codes are written.
        let bytes = (heads * b * k * size_of::<f32>()) as f64;
        let limit = (iterations + 2) as f64 * bytes / bandwidth * 1e3;
        let config = SinkhornConfig {
            epsilon: 0.05,
            iterations,
        };
        let scores = scores([heads, b, k], &device);
        for (form, name) in [(Form::Tensors, "tensors"), (Form::Fused, "fused")] {
            let step = || sinkhorn_with(scores.clone(), &config, form, &mut Local).map(black_box);
            let times = times(&device, 9, || step().map(drop).map_err(Into::into))?;
            rows.push(json!({
                "heads": heads,
                "b": b,
                "k": k,
                "iterations": iterations,
                "form": name,
                "median_ms": times[times.len() / 2],
                "min_ms": times[0],
                "max_ms": times[times.len() - 1],
                "limit_ms": limit,
            }));
        }
    }
    let told = json!({ "device": name, "bandwidth_gb_s": bandwidth / 1e9, "rows": rows });
    println!("{told}");
    Ok(())
}

/// Cosines of random unit vectors.
fn scores([heads, b, k]: [usize; 3], device: &Device) -> Tensor<3> {
    let unit = |rows: usize| {
        let vectors =
            Tensor::<3>::random([heads, rows, 128], Distribution::Normal(0.0, 1.0), device);
        let lengths = vectors.clone().powf_scalar(2.0).sum_dim(2).sqrt();
        vectors / lengths
    };
    unit(b).matmul(unit(k).swap_dims(1, 2))
}

/// Bytes a second that the device reads, at its best.
fn bandwidth(device: &Device) -> Result<f64, Box<dyn Error>> {
    const FLOATS: usize = 1 << 26;
    let bytes = (FLOATS * size_of::<f32>()) as f64;
    let best = if *device == Device::flex() {
        let values = vec![1.0_f32; FLOATS];
        times(device, 9, || {
            black_box(read(&values));
            Ok(())
        })?
    } else {
        let values = Tensor::<1>::ones([FLOATS], device);
        times(device, 9, || {
            black_box(values.clone().sum());
            Ok(())
        })?
    };
    Ok(bytes / best[0] * 1e3)
}

/// Reads everything, on all cores.
fn read(values: &[f32]) -> f32 {
    use rayon::prelude::*;
    let sum = |values: &[f32]| {
        // Independent sums, so that nothing but memory is waited for.
        let mut sums = [0.0_f32; 64];
        for values in values.chunks_exact(64) {
            sums.iter_mut()
                .zip(values)
                .for_each(|(sum, value)| *sum += value);
        }
        sums.iter().sum::<f32>()
    };
    values.par_chunks(1 << 16).map(sum).sum()
}
