//! `swav bench step`: whole steps of SwAV on random crops.

use std::time::{Duration, Instant};

use burn::optim::ModuleOptimizer;
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;
use swav_model::{BackboneConfig, Network, NetworkConfig, Stem};
use swav_train::batch::DeviceBatch;
use swav_train::comm::{Communicator, Traffic};
use swav_train::method::{Swav, SwavPlan};
use swav_train::observe::display::say;
use swav_train::optim::{OptimizerName, OptimizerPlan, Schedule};
use swav_train::precision::Precision;
use swav_train::step::{Compute, Learner, Phase, step};
use swav_train::{Stop, TrainError};

use super::{WarmUp, median, sync};
use crate::args::BenchStep;
use crate::device::{Choice, Found};
use crate::output::print;
use crate::ranks::Ranks;

/// Steps that are timed: at least, and at most while there are seconds left.
const LEAST: usize = 5;
const MOST: usize = 30;
const SECONDS: f64 = 25.0;
/// Steps that are timed phase by phase where that is a run of its own.
const BY_PHASE: usize = 5;

#[derive(Serialize)]
struct Figures<'a> {
    device: String,
    device_name: String,
    arch: &'a str,
    crops: &'a str,
    /// Processes that share each batch.
    ranks: usize,
    /// Images of a batch, of all of them.
    batch: usize,
    prototypes: usize,
    precision: Precision,
    optimizer: &'static str,
    checkpoint_activations: bool,
    images_per_s: f64,
    step_s: f64,
    /// On the CPU, the most memory that the process has held.
    peak_rss_mib: Option<f64>,
    /// On other devices, what the pools of memory hold at the end: they do not give it back between steps.
    device_memory_mib: Option<f64>,
    phases_s: Phases,
    /// What a rank sends in a step.
    traffic: Traffic,
    /// Of each step before the clock counted: kernels are compiled and tuned in the first.
    warm_up_s: Vec<f64>,
    /// Whether the last of them took about the same time.
    warm_up_settled: bool,
}

#[derive(Serialize)]
struct Phases {
    forward: f64,
    codes: f64,
    loss: f64,
    backward: f64,
    update: f64,
}

/// Times whole training steps, phase by phase.
pub fn bench_step(args: &BenchStep, ranks: &Ranks, stop: &Stop) -> anyhow::Result<()> {
    let case = Case(args);
    let found = args.device.device.open_for(ranks)?;
    if !args.batch.is_multiple_of(ranks.world()) {
        return Err(TrainError::Recipe(format!(
            "--batch {} cannot be shared out among {} ranks",
            args.batch,
            ranks.world()
        ))
        .into());
    }
    let mut training = Training::new(&case, &found, ranks.communicator())?;
    // Waiting for the phases costs nothing on the CPU, which does one after the other anyway.
    let cpu = found.choice == Choice::Cpu;

    let mut warm_up = WarmUp::new(&found, Duration::from_secs(args.warm_up));
    while training.goes_on(!warm_up.is_over() && !stop.requested()) {
        let seconds = training.step(&case, cpu)?.total();
        warm_up.seconds.push(seconds);
        if !cpu {
            let number = warm_up.seconds.len();
            say(format_args!("warm-up step {number}: {seconds:.3} s"));
        }
    }
    let before = training.ranks.traffic();
    let whole = training.steps(&case, LEAST..=MOST, cpu, stop)?;
    let traffic = training.ranks.traffic().since(before, whole.len() as u64);
    let by_phase = match cpu {
        true => None,
        false => Some(training.steps(&case, 1..=BY_PHASE, true, stop)?),
    };

    if ranks.rank() > 0 {
        return Ok(());
    }
    let step_s = median(whole.iter().map(Laps::total));
    let by_phase = by_phase.as_ref().unwrap_or(&whole);
    let phase = |phase: usize| median(by_phase.iter().map(|laps| laps.0[phase]));
    print(&serde_json::to_string(&Figures {
        device: found.choice.to_string(),
        device_name: found.name,
        arch: &args.arch,
        crops: &args.crops.text,
        ranks: ranks.world(),
        batch: args.batch,
        prototypes: args.prototypes,
        precision: args.precision,
        optimizer: case.rule(),
        checkpoint_activations: args.checkpoint_activations,
        images_per_s: args.batch as f64 / step_s,
        step_s,
        peak_rss_mib: cpu.then(peak_rss_mib).flatten(),
        device_memory_mib: device_memory_mib(&found.device),
        phases_s: Phases {
            forward: phase(0),
            codes: phase(1),
            loss: phase(2),
            backward: phase(3),
            update: phase(4),
        },
        traffic,
        warm_up_settled: warm_up.is_settled(),
        warm_up_s: warm_up.seconds,
    })?)
}

/// What is trained, between two steps.
struct Training {
    device: Device,
    network: Network,
    optimizer: ModuleOptimizer,
    method: Swav,
    batch: DeviceBatch,
    ranks: Box<dyn Communicator>,
}

impl Training {
    fn new(case: &Case<'_>, found: &Found, ranks: Box<dyn Communicator>) -> anyhow::Result<Self> {
        let device = found.device.clone().autodiff();
        let mut network = case.network()?.init(0, &device);
        network.synchronise(&ranks.batch_norm(ranks.world()));
        let batch = case.0.batch / ranks.world();
        let crops = case.0.crops.groups.iter().map(|&(count, size)| {
            let shape = [count * batch, 3, size, size];
            Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device)
        });
        Ok(Self {
            optimizer: case.optimizer().init(&network),
            method: case.method(&device),
            batch: DeviceBatch::new(batch, crops.collect()),
            network,
            device,
            ranks,
        })
    }

    /// Whether any rank wants another step: all take as many.
    fn goes_on(&mut self, wanted: bool) -> bool {
        self.ranks.largest(u32::from(wanted)) > 0
    }

    /// One step; its time by phase, for which the device has to be waited for each time, or as a whole.
    fn step(&mut self, case: &Case<'_>, by_phase: bool) -> anyhow::Result<Laps> {
        let mut clock = Clock::new(&self.device, by_phase);
        let learner = Learner {
            network: &mut self.network,
            optimizer: &mut self.optimizer,
            method: &mut self.method,
        };
        let mut compute = Compute {
            parts: 1,
            precision: case.0.precision,
            checkpoint_activations: case.0.checkpoint_activations,
            ranks: self.ranks.as_mut(),
            phase: &mut |phase| clock.lap(phase),
        };
        step(learner, &mut self.batch, 0, case.rate(), &mut compute);
        clock.finish()
    }

    /// As many steps as there is time for. A request to stop ends them early, if one at least has been timed.
    fn steps(
        &mut self,
        case: &Case<'_>,
        number: std::ops::RangeInclusive<usize>,
        by_phase: bool,
        stop: &Stop,
    ) -> anyhow::Result<Vec<Laps>> {
        let begun = Instant::now();
        let mut steps = Vec::new();
        let more = |done: usize| {
            let in_time = done < *number.end() && begun.elapsed().as_secs_f64() < SECONDS;
            (done < *number.start() || in_time) && !stop.requested()
        };
        while self.goes_on(more(steps.len())) {
            steps.push(self.step(case, by_phase)?);
        }
        match steps.is_empty() {
            true => Err(TrainError::Interrupted.into()),
            false => Ok(steps),
        }
    }
}

/// What is to be measured.
struct Case<'a>(&'a BenchStep);

impl Case<'_> {
    fn network(&self) -> anyhow::Result<NetworkConfig> {
        let (name, width, stem) = match self.0.arch.as_str() {
            "cifar10-slim" => ("resnet18", 0.25, Stem::Cifar),
            name => (name, 1.0, Stem::Imagenet),
        };
        let name = name
            .parse()
            .map_err(|error| TrainError::Recipe(format!("--arch: {error}, or cifar10-slim")))?;
        let backbone = BackboneConfig { name, width, stem };
        Ok(NetworkConfig {
            hidden: backbone.dim().min(2048),
            head_norm: true,
            backbone,
            dim: 128,
            prototypes: vec![self.0.prototypes],
        })
    }

    fn method(&self, device: &Device) -> Swav {
        let device = device.clone().inner();
        Swav::new(SwavPlan::paper(), &[self.0.prototypes], 128, &device)
    }

    /// What a plan derives for images of this size: small ones come in small sets.
    fn rule(&self) -> &'static str {
        match self.0.crops.groups.iter().map(|group| group.1).max() {
            Some(0..=48) => "adam",
            _ => "larc",
        }
    }

    fn rate(&self) -> f64 {
        match self.rule() {
            "adam" => 1e-3 * self.0.batch as f64 / 128.0,
            _ => 0.6 * self.0.batch as f64 / 256.0,
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

/// Seconds of each phase of a step, or of the step as a whole.
struct Laps(Vec<f64>);

impl Laps {
    fn total(&self) -> f64 {
        self.0.iter().sum()
    }
}

/// Takes the time of a step.
struct Clock<'a> {
    device: &'a Device,
    by_phase: bool,
    since: Instant,
    laps: anyhow::Result<Vec<f64>>,
}

impl<'a> Clock<'a> {
    fn new(device: &'a Device, by_phase: bool) -> Self {
        Self {
            device,
            by_phase,
            since: Instant::now(),
            laps: Ok(Vec::new()),
        }
    }

    /// Ends a phase, once the device is done with it. The last one ends with the step.
    fn lap(&mut self, phase: Phase) {
        if self.by_phase && phase != Phase::Update {
            self.read();
        }
    }

    /// Ends the step, once the device is done with it.
    fn finish(mut self) -> anyhow::Result<Laps> {
        self.read();
        self.laps.map(Laps)
    }

    fn read(&mut self) {
        let synced = sync(self.device).map_err(anyhow::Error::from);
        let seconds = self.since.elapsed().as_secs_f64();
        match (&mut self.laps, synced) {
            (Ok(laps), Ok(())) => laps.push(seconds),
            (laps, Err(error)) => *laps = Err(error),
            (Err(_), Ok(())) => {}
        }
        self.since = Instant::now();
    }
}

/// The most memory that the process has held at a time, where the system says so.
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

/// What the pools of a device hold, where they say so.
fn device_memory_mib(device: &Device) -> Option<f64> {
    let usage = device.memory_pool_usage()?;
    Some(usage.bytes_reserved as f64 / (1 << 20) as f64)
}
