//! `swav bench …`: what `cargo xtask bench-…` runs.
//!
//! The benchmarks are part of the program, and not examples of the crates, because a program with a GPU's backend is
//! large and a machine with a GPU need not have cargo: one file serves it.

mod kmeans;
mod sinkhorn;
mod step;

use std::time::{Duration, Instant};

use burn::tensor::Device;
use swav_train::{Stop, TrainError};

use crate::args::Bench;
use crate::device::{Choice, Found};
use crate::ranks::Ranks;

/// Measures, and prints the figures as one line of JSON.
pub fn bench(args: &Bench, ranks: &Ranks, stop: &Stop) -> anyhow::Result<()> {
    match args {
        Bench::Step(args) => step::bench_step(args, ranks, stop),
        Bench::Sinkhorn(args) => sinkhorn::sinkhorn(args),
        Bench::Kmeans(args) => kmeans::kmeans(args),
    }
}

/// Waits until a device has done all that it was told to.
fn sync(device: &Device) -> Result<(), TrainError> {
    device
        .sync()
        .map_err(|error| TrainError::Device(format!("the device failed: {error}")))
}

/// What runs before the clock counts, until memory is taken and kernels are compiled and tuned.
struct WarmUp {
    /// How often at least.
    least: usize,
    /// How often at most.
    most: usize,
    /// For how long at most.
    limit: Duration,
    /// Seconds of each run.
    seconds: Vec<f64>,
}

impl WarmUp {
    /// The longest and the shortest of the last runs may differ by this factor.
    const SPREAD: f64 = 1.2;

    /// Two runs on the CPU, which tunes nothing; on other devices until three runs in a row take about the same time, or
    /// `limit` is over.
    fn new(found: &Found, limit: Duration) -> Self {
        let (least, most) = match found.choice {
            Choice::Cpu => (2, 2),
            _ => (5, 50),
        };
        Self {
            least,
            most,
            limit,
            seconds: Vec::new(),
        }
    }

    /// Whether the clock may count.
    fn is_over(&self) -> bool {
        let runs = self.seconds.len();
        let spent: f64 = self.seconds.iter().sum();
        runs >= self.most
            || runs >= self.least && self.is_settled()
            || spent >= self.limit.as_secs_f64()
    }

    /// Whether the last runs took about the same time. Of so few runs as on the CPU nothing is asked.
    fn is_settled(&self) -> bool {
        let [.., last, second, third] = self.seconds[..] else {
            return self.seconds.len() >= self.most;
        };
        let last = [last, second, third];
        let (least, most) = last.iter().fold((f64::INFINITY, 0.0_f64), |ends, &time| {
            (ends.0.min(time), ends.1.max(time))
        });
        most <= Self::SPREAD * least
    }
}

/// Milliseconds of many runs, `least` or more, in order of length; after a warm-up, and until the device is done.
fn times(
    found: &Found,
    least: usize,
    mut run: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f64>> {
    let mut timed = || {
        let begun = Instant::now();
        run()?;
        sync(&found.device)?;
        Ok::<_, anyhow::Error>(begun.elapsed().as_secs_f64())
    };
    let mut warm_up = WarmUp::new(found, Duration::from_secs(60));
    while !warm_up.is_over() {
        warm_up.seconds.push(timed()?);
    }
    let warm = warm_up.seconds.last().copied().unwrap_or(1.0);
    // About two seconds.
    let runs = ((2.0 / warm) as usize).clamp(least, 300);
    let mut times = (0..runs)
        .map(|_| Ok(timed()? * 1e3))
        .collect::<anyhow::Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The time in the middle, of one at least.
fn median(times: impl Iterator<Item = f64>) -> f64 {
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: &[f64], least: usize, most: usize) -> WarmUp {
        WarmUp {
            least,
            most,
            limit: Duration::from_secs(60),
            seconds: seconds.to_vec(),
        }
    }

    #[test]
    fn a_warm_up_on_the_cpu_is_two_runs() {
        assert!(!after(&[1.0], 2, 2).is_over());
        assert!(after(&[9.0, 1.0], 2, 2).is_over());
    }

    #[test]
    fn a_warm_up_goes_on_while_kernels_are_tuned() {
        assert!(!after(&[1.0, 1.0, 1.0], 5, 50).is_over());
        assert!(!after(&[30.0, 8.0, 1.0, 1.0, 2.0], 5, 50).is_over());
        assert!(after(&[30.0, 8.0, 1.0, 1.1, 1.0], 5, 50).is_over());
        assert!(after(&[30.0, 31.0], 5, 50).is_over(), "the time is over");
    }
}
