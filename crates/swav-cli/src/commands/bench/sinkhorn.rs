//! `swav bench sinkhorn`: scores to codes.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;
use swav_ot::{Implementation, Local, SinkhornConfig, sinkhorn_with};

use super::times;
use crate::args::BenchSinkhorn;
use crate::device::{Choice, Found};
use crate::output::print;

/// Runs that are timed, at least.
const LEAST: usize = 9;

#[derive(Serialize)]
struct Figures {
    device: String,
    device_name: String,
    bandwidth_gb_s: f64,
    rows: Vec<Row>,
}

/// One form at one size.
#[derive(Serialize)]
struct Row {
    heads: usize,
    b: usize,
    k: usize,
    iterations: usize,
    form: &'static str,
    median_ms: f64,
    min_ms: f64,
    max_ms: f64,
    /// What reading and writing alone would take.
    limit_ms: f64,
}

/// Times scores to codes in each form, beside what memory allows.
pub fn sinkhorn(args: &BenchSinkhorn) -> anyhow::Result<()> {
    let found = args.device.device.open()?;
    let iterations = args.iterations;
    let bandwidth = bandwidth(&found)?;
    let mut rows = Vec::new();
    for size in &args.sizes {
        let [heads, b, k] = size.0;
        // The scores are read once at the start, once in each round, and codes are written.
        let bytes = (heads * b * k * size_of::<f32>()) as f64;
        let limit_ms = (iterations + 2) as f64 * bytes / bandwidth * 1e3;
        let config = SinkhornConfig {
            epsilon: 0.05,
            iterations,
        };
        let scores = scores(size.0, &found.device);
        for (form, name) in [
            (Implementation::TensorOps, "tensors"),
            (Implementation::Fused, "fused"),
        ] {
            let times = times(&found, LEAST, || {
                black_box(sinkhorn_with(scores.clone(), &config, form, &mut Local)?);
                Ok(())
            })?;
            rows.push(Row {
                heads,
                b,
                k,
                iterations,
                form: name,
                median_ms: times[times.len() / 2],
                min_ms: times[0],
                max_ms: times[times.len() - 1],
                limit_ms,
            });
        }
    }
    print(&serde_json::to_string(&Figures {
        device: found.choice.to_string(),
        device_name: found.name,
        bandwidth_gb_s: bandwidth / 1e9,
        rows,
    })?)
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
fn bandwidth(found: &Found) -> anyhow::Result<f64> {
    const FLOATS: usize = 1 << 26;
    let bytes = (FLOATS * size_of::<f32>()) as f64;
    let best = if found.choice == Choice::Cpu {
        let values = vec![1.0_f32; FLOATS];
        times(found, LEAST, || {
            black_box(read(&values));
            Ok(())
        })?
    } else {
        let values = Tensor::<1>::ones([FLOATS], &found.device);
        times(found, LEAST, || {
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
