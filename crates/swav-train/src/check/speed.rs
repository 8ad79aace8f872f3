//! How fast: a training step and the assignment.

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use swav_model::Stem;
use swav_ot::{SinkhornConfig, sinkhorn};

use super::steps::{method, network};
use super::{Extent, precisions};
use crate::TrainError;
use crate::batch::DeviceBatch;
use crate::comm::Local;
use crate::optim::{OptimizerName, OptimizerPlan, Schedule};
use crate::precision::Precision;
use crate::step;

/// Something that was timed.
#[derive(Clone, Debug, PartialEq)]
pub struct Speed {
    /// What was timed, with its size.
    pub name: String,
    /// The middle of the times of one go, in seconds.
    pub seconds: f64,
    /// Images of one go.
    pub images: usize,
}

/// Goes before the clock counts: kernels are compiled and tuned, memory is taken.
const WARM_UP: usize = 2;
/// Goes that are timed: at least, and at most while there are seconds left.
const LEAST: usize = 3;
const MOST: usize = 50;
const SECONDS: f64 = 3.0;

/// Times the assignment of 4096 × 3000 and a step of ResNet-18 on `device`, which is without gradients; or smaller ones of
/// both.
///
/// # Errors
/// If the device fails.
pub fn speeds(device: &Device, extent: Extent) -> Result<Vec<Speed>, TrainError> {
    let mut speeds = vec![assignment(device, extent)?];
    for &precision in precisions(device) {
        speeds.push(step(device, extent, precision)?);
    }
    Ok(speeds)
}

fn assignment(device: &Device, extent: Extent) -> Result<Speed, TrainError> {
    let (samples, prototypes) = match extent {
        Extent::Full => (4096, 3000),
        Extent::Slim => (512, 300),
    };
    let scores = Tensor::<2>::random(
        [samples, prototypes],
        Distribution::Normal(0.0, 0.1),
        device,
    );
    let config = SinkhornConfig::default();
    let seconds = timed(device, || {
        sinkhorn(scores.clone(), &config)
            .map(drop)
            .map_err(|error| TrainError::Device(format!("no codes: {error}")))
    })?;
    Ok(Speed {
        name: format!("codes {samples}×{prototypes}"),
        seconds,
        images: samples,
    })
}

fn step(device: &Device, extent: Extent, precision: Precision) -> Result<Speed, TrainError> {
    let (batch, prototypes) = match extent {
        Extent::Full => (64, 300),
        Extent::Slim => (16, 100),
    };
    let mut network = network("resnet18", Stem::Imagenet, extent, prototypes, device)?;
    let mut method = method(prototypes, device);
    let rate = 0.1;
    let mut optimizer = OptimizerPlan {
        name: OptimizerName::Larc,
        momentum: 0.9,
        weight_decay: 1e-6,
        exclude_bias_and_norm: false,
        schedule: Schedule::constant(rate, 1),
    }
    .init(&network);
    let crops: Vec<Tensor<4>> = [(2, 32), (4, 20)]
        .into_iter()
        .map(|(count, size)| {
            let shape = [count * batch, 3, size, size];
            Tensor::random(shape, Distribution::Normal(0.0, 1.0), device).autodiff()
        })
        .collect();
    let mut crops = DeviceBatch::new(batch, crops);
    let seconds = timed(device, || {
        let learner = step::Learner {
            network: &mut network,
            optimizer: &mut optimizer,
            method: &mut method,
        };
        let mut compute = step::Compute {
            parts: 1,
            precision,
            checkpoint_activations: false,
            ranks: &mut Local,
            phase: &mut |_| {},
        };
        step::step(learner, &mut crops, 0, rate, &mut compute);
        Ok(())
    })?;
    Ok(Speed {
        name: format!(
            "step of resnet18, width {}, 2x32+4x20, batch {batch}, {precision}",
            extent.width()
        ),
        seconds,
        images: batch,
    })
}

/// The middle of the times of `go`, each until the device is done with it.
fn timed(
    device: &Device,
    mut go: impl FnMut() -> Result<(), TrainError>,
) -> Result<f64, TrainError> {
    let mut times = Vec::new();
    let began = Instant::now();
    while times.len() < WARM_UP + LEAST
        || times.len() < WARM_UP + MOST && began.elapsed().as_secs_f64() < SECONDS
    {
        let since = Instant::now();
        go()?;
        device
            .sync()
            .map_err(|error| TrainError::Device(format!("the device failed: {error}")))?;
        times.push(since.elapsed().as_secs_f64());
    }
    let timed = &mut times[WARM_UP..];
    timed.sort_by(f64::total_cmp);
    Ok(timed[timed.len() / 2])
}
