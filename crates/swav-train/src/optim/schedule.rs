//! The learning rate of each step: a linear warm-up, then half a cosine.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// Learning rate per step (iteration), never per epoch.
///
/// For step t < W, the warm-up: `start + (base − start)·t/(W − 1)`, so that both ends are met.
/// After it, with T the remaining steps: `final + ½(base − final)(1 + cos(π(t − W)/T))`.
///
/// Source: Loshchilov & Hutter, SGDR (ICLR 2017), and Caron et al. (NeurIPS 2020), appendix A.1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Rate at the first step of the warm-up.
    pub start: f64,
    /// Rate when the warm-up ends.
    pub base: f64,
    /// Rate that the cosine comes down to.
    #[serde(rename = "final")]
    pub end: f64,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// Steps of the whole run.
    pub steps: u64,
}

impl Schedule {
    /// The same learning rate in all of so many steps.
    pub fn constant(rate: f64, steps: u64) -> Self {
        Self {
            start: rate,
            base: rate,
            end: rate,
            warmup: 0,
            steps,
        }
    }

    /// The learning rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            let last = (self.warmup - 1).max(1) as f64;
            return self.start + (self.base - self.start) * step as f64 / last;
        }
        let remaining = (self.steps - self.warmup).max(1) as f64;
        let phase = PI * (step - self.warmup) as f64 / remaining;
        self.end + 0.5 * (self.base - self.end) * (1.0 + phase.cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper() -> Schedule {
        Schedule {
            start: 0.3,
            base: 4.8,
            end: 0.0048,
            warmup: 10,
            steps: 100,
        }
    }

    #[test]
    fn the_warm_up_meets_both_of_its_ends() {
        assert_eq!(paper().at(0), 0.3);
        assert!((paper().at(9) - 4.8).abs() < 1e-12);
    }

    #[test]
    fn the_cosine_starts_at_the_base_and_approaches_the_final_rate() {
        assert_eq!(paper().at(10), 4.8);
        assert!((paper().at(55) - 0.5 * (4.8 + 0.0048)).abs() < 1e-12);
        assert!(paper().at(99) > 0.0048 && paper().at(99) < 0.01);
    }

    #[test]
    fn a_run_without_warm_up_starts_at_the_base() {
        let schedule = Schedule {
            warmup: 0,
            ..paper()
        };
        assert_eq!(schedule.at(0), 4.8);
    }
}
