//! Times whole steps of SwAV on random crops and prints JSON; `cargo xtask bench-step` runs it and makes a
//! table of it.
//!
//!     bench_step [--device cpu|wgpu|cuda] [--arch resnet50] [--crops 2x96+4x48] [--batch 16] [--prototypes 3000]
//!
//! `--arch` is an architecture with the ImageNet stem, or `cifar10-slim`, the network of that recipe.

use std::error::Error;
use std::time::Instant;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Distribution, Tensor};
use serde_json::json;
use swav_model::{BackboneConfig, NetworkConfig, Stem};
use swav_train::config::OptimizerName;
use swav_train::method::{Method, Seen, Swav, SwavPlan};
use swav_train::optim::{OptimizerPlan, Schedule};

const PHASES: [&str; 5] = ["forward", "codes", "loss", "backward", "update"];
/// Steps before the clock counts: they make the optimizer's state and take the memory that is kept.
const WARM_UP: usize = 2;
/// Steps that are timed: at least, and at most while there are seconds left.
const LEAST: usize = 5;
const MOST: usize = 30;
const SECONDS: f64 = 25.0;

fn main() -> Result<(), Box<dyn Error>> {
    keep_freed_memory();
    let case = Case::from_arguments()?;
    let device = open(&case.device)?.autodiff();
    let mut network = case.network()?.init(0, &device);
    let mut optimizer = case.optimizer().init(&network);
    let mut method = case.method(&device);
    let crops: Vec<Tensor<4>> = case
        .groups
        .iter()
        .map(|&(count, size)| {
            let shape = [count * case.batch, 3, size, size];
            Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device)
        })
        .collect();

    let mut steps = Vec::new();
    let begun = Instant::now();
    while steps.len() < WARM_UP + LEAST
        || steps.len() < WARM_UP + MOST && begun.elapsed().as_secs_f64() < SECONDS
    {
        let mut clock = Clock::new(&device);
        // As the trainer has it.
        let current = method.before_step(network.clone());
        let outputs = current.forward(crops.clone());
        clock.lap()?;
        let embeddings = outputs.embeddings.clone().detach().inner();
        let targets = method.targets(&Seen {
            step: 0,
            network: &current,
            crop: &|crop| panic!("SwAV does not look at crop {crop}"),
            embeddings: &embeddings.split(case.batch, 0),
            indices: &[],
            labels: &[],
        });
        clock.lap()?;
        let loss = method.loss(&outputs, &targets, 0..case.batch);
        clock.lap()?;
        let partial = GradientsParams::from_grads(loss.backward(), &current);
        clock.lap()?;
        let mut gradients = GradientsAccumulator::new();
        gradients.accumulate(&current, partial);
        network = optimizer.step(case.rate(), current, gradients.grads());
        clock.lap()?;
        steps.push(clock.laps);
    }

    let timed = &steps[WARM_UP..];
    let step_s = median(timed.iter().map(|laps| laps.iter().sum()));
    let phases: serde_json::Map<_, _> = PHASES
        .iter()
        .enumerate()
        .map(|(i, &phase)| {
            let times = timed.iter().map(|laps| laps[i]);
            (phase.to_string(), json!(median(times)))
        })
        .collect();
    let told = json!({
        "arch": case.arch,
        "crops": case.crops,
        "batch": case.batch,
        "prototypes": case.prototypes,
        "optimizer": case.rule(),
        "images_per_s": case.batch as f64 / step_s,
        "step_s": step_s,
        "peak_rss_mib": peak_rss_mib(),
        "phases_s": phases,
    });
    println!("{told}");
    Ok(())
}

/// What is to be measured.
struct Case {
    device: String,
    arch: String,
    crops: String,
    /// `crops` as (number, size), one for each resolution.
    groups: Vec<(usize, usize)>,
    batch: usize,
    prototypes: usize,
}

impl Case {
    fn from_arguments() -> Result<Self, Box<dyn Error>> {
        let mut case = Self {
            device: "cpu".to_string(),
            arch: "resnet50".to_string(),
            crops: "2x96+4x48".to_string(),
            groups: Vec::new(),
            batch: 16,
            prototypes: 3000,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or("a flag without a value")?;
            match flag.as_str() {
                "--device" => case.device = value,
                "--arch" => case.arch = value,
                "--crops" => case.crops = value,
                "--batch" => case.batch = value.parse()?,
                "--prototypes" => case.prototypes = value.parse()?,
                flag => return Err(format!("{flag} is no flag of this benchmark").into()),
            }
        }
        for group in case.crops.split('+') {
            let (count, size) = group.split_once('x').ok_or("crops are like 2x96+4x48")?;
            case.groups.push((count.parse()?, size.parse()?));
        }
        Ok(case)
    }

    fn network(&self) -> Result<NetworkConfig, Box<dyn Error>> {
        let (name, width, stem) = match self.arch.as_str() {
            "cifar10-slim" => ("resnet18", 0.25, Stem::Cifar),
            name => (name, 1.0, Stem::Imagenet),
        };
        let backbone = BackboneConfig {
            name: name.parse()?,
            width,
            stem,
        };
        Ok(NetworkConfig {
            hidden: backbone.dim().min(2048),
            backbone,
            dim: 128,
            prototypes: vec![self.prototypes],
        })
    }

    fn method(&self, device: &Device) -> Swav {
        let plan = SwavPlan {
            temperature: 0.1,
            epsilon: 0.05,
            iterations: 3,
            assign: vec![0, 1],
            freeze_steps: 0,
            queue: None,
        };
        Swav::new(plan, &[self.prototypes], 128, &device.clone().inner())
    }

    /// What a plan derives for images of this size: small ones come in small sets.
    fn rule(&self) -> &'static str {
        match self.groups.iter().map(|group| group.1).max() {
            Some(0..=48) => "adam",
            _ => "larc",
        }
    }

    fn rate(&self) -> f64 {
        match self.rule() {
            "adam" => 1e-3 * self.batch as f64 / 128.0,
            _ => 0.6 * self.batch as f64 / 256.0,
        }
    }

    fn optimizer(&self) -> OptimizerPlan {
        OptimizerPlan {
            name: match self.rule() {
                "adam" => OptimizerName::Adam,
                _ => OptimizerName::Larc,
            },
            momentum: 0.9,
            weight_decay: 1e-6,
            exclude_bias_and_norm: false,
            schedule: Schedule {
                start: 0.0,
                base: self.rate(),
                end: 0.0,
                warmup: 0,
                steps: 1000,
            },
        }
    }
}

/// Seconds of each phase.
struct Clock<'a> {
    device: &'a Device,
    since: Instant,
    laps: Vec<f64>,
}

impl<'a> Clock<'a> {
    fn new(device: &'a Device) -> Self {
        Self {
            device,
            since: Instant::now(),
            laps: Vec::with_capacity(PHASES.len()),
        }
    }

    /// Ends a phase once the device is done with it.
    fn lap(&mut self) -> Result<(), Box<dyn Error>> {
        self.device.sync()?;
        self.laps.push(self.since.elapsed().as_secs_f64());
        self.since = Instant::now();
        Ok(())
    }
}

fn median(times: impl Iterator<Item = f64>) -> f64 {
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The most memory that the process has held at a time, where the system says so.
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

fn open(name: &str) -> Result<Device, Box<dyn Error>> {
    match name {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        name => Err(format!("no device `{name}` in this build").into()),
    }
}

/// As the program does: what was freed is used again, and not handed back to the system, which would hand out
/// zeroed pages one by one.
fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only sets numbers, before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}
