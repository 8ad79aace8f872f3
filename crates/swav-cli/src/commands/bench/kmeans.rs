//! `swav bench kmeans`: clusters of a bank of embeddings.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;
use swav_ot::{Implementation, Local, spherical_kmeans_with};
use swav_train::TrainError;

use super::times;
use crate::args::BenchKmeans;
use crate::output::print;

/// Runs that are timed, at least.
const LEAST: usize = 3;

#[derive(Serialize)]
struct Figures {
    device: String,
    device_name: String,
    rows: Vec<Row>,
}

/// One form.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    /// In order of length.
    times_ms: Vec<f64>,
}

/// Times spherical k-means in each form.
pub fn kmeans(args: &BenchKmeans) -> anyhow::Result<()> {
    if args.centroids > args.samples {
        return Err(TrainError::Recipe(format!(
            "--centroids {} are more than --samples {}: they begin as different samples",
            args.centroids, args.samples
        ))
        .into());
    }
    let found = args.device.device.open()?;
    let bank = unit_vectors([args.samples, args.dim], &found.device);
    let start = bank.clone().slice(0..args.centroids);
    let mut rows = Vec::new();
    for (form, name) in [
        (Implementation::Fused, "fused"),
        (Implementation::TensorOps, "tensors"),
    ] {
        let times_ms = times(&found, LEAST, || {
            let (bank, start) = (bank.clone(), start.clone());
            black_box(spherical_kmeans_with(
                bank,
                start,
                args.iterations,
                form,
                &mut Local,
            )?);
            Ok(())
        })?;
        rows.push(Row { name, times_ms });
    }
    print(&serde_json::to_string(&Figures {
        device: found.choice.to_string(),
        device_name: found.name,
        rows,
    })?)
}

fn unit_vectors(shape: [usize; 2], device: &Device) -> Tensor<2> {
    let vectors = Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device);
    let lengths = vectors.clone().square().sum_dim(1).sqrt();
    vectors / lengths
}
