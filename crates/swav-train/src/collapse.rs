//! Recognising, early, that the features have collapsed.

use serde::{Deserialize, Serialize};

use crate::method::Chance;

/// Watches for features that tell nothing apart.
///
/// Two signs count: embeddings that all point the same way (a spread near 0), and a loss that
/// stays at chance (for SwAV ln K, which a network reaches that gives every prototype the same
/// probability). Either
/// may show for a while at the start, so a sign must last: half of `patience` for a warning, all
/// of it to call the run collapsed. Nothing is judged while the prototypes are frozen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collapse {
    chance_loss: Option<f64>,
    first_step: u64,
    patience: u64,
    since: Option<u64>,
    warned: bool,
}

/// What the monitor makes of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong.
    Healthy,
    /// A sign has lasted for half of the patience.
    Warning(String),
    /// A sign has lasted for the whole patience.
    Collapsed(String),
}

impl Collapse {
    /// Spread below which embeddings count as all the same; isotropic ones have 1.
    const LEAST_SPREAD: f64 = 0.05;
    /// Distance from ln K, as a share of it, within which a loss tells nothing apart.
    const CHANCE_BAND: f64 = 0.002;
    const LEAST_PATIENCE: u64 = 200;

    /// A monitor of a method by what it says of chance.
    pub fn new(chance: Chance, steps_per_epoch: u64) -> Self {
        Self {
            chance_loss: chance.loss,
            first_step: chance.from_step,
            patience: steps_per_epoch.max(Self::LEAST_PATIENCE),
            since: None,
            warned: false,
        }
    }

    /// The loss of features that tell nothing apart, where it is known.
    pub fn chance_loss(&self) -> Option<f64> {
        self.chance_loss
    }

    /// Judges one step by its loss and the spread of its embeddings.
    pub fn observe(&mut self, step: u64, loss: f64, spread: f64) -> Verdict {
        if step < self.first_step {
            return Verdict::Healthy;
        }
        let same = spread < Self::LEAST_SPREAD;
        let is_at = |chance: &f64| (loss - chance).abs() < Self::CHANCE_BAND * chance;
        let chance = self.chance_loss.filter(is_at);
        if !same && chance.is_none() {
            self.since = None;
            self.warned = false;
            return Verdict::Healthy;
        }
        let lasted = step - *self.since.get_or_insert(step);
        if lasted >= self.patience {
            return Verdict::Collapsed(describe(chance, loss, spread, lasted));
        }
        if lasted >= self.patience / 2 && !self.warned {
            self.warned = true;
            return Verdict::Warning(describe(chance, loss, spread, lasted));
        }
        Verdict::Healthy
    }
}

/// The sign and how long it has lasted; `chance` is the loss at chance if that is the sign.
fn describe(chance: Option<f64>, loss: f64, spread: f64, lasted: u64) -> String {
    match chance {
        Some(chance) => {
            format!("for {lasted} steps the loss {loss:.4} has stayed at chance, {chance:.4}")
        }
        None => format!(
            "for {lasted} steps the embeddings all point the same way (spread {spread:.3}, healthy is near 1)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chance(from_step: u64) -> Chance {
        Chance {
            loss: Some(512_f64.ln()),
            from_step,
            remedies: "",
        }
    }

    #[test]
    fn a_loss_that_stays_at_ln_k_is_warned_of_and_then_called_a_collapse() {
        let mut monitor = Collapse::new(chance(10), 100);
        let mut verdicts = (0..=210).map(|step| monitor.observe(step, 512_f64.ln(), 1.0));
        assert!(verdicts.by_ref().take(110).all(|v| v == Verdict::Healthy));
        assert!(matches!(verdicts.next(), Some(Verdict::Warning(text)) if text.contains("chance")));
        assert!(matches!(verdicts.last(), Some(Verdict::Collapsed(_))));
    }

    #[test]
    fn one_healthy_step_starts_the_patience_anew() {
        let mut monitor = Collapse::new(chance(0), 100);
        for step in 0..1000 {
            let loss = if step % 90 == 0 { 5.0 } else { 512_f64.ln() };
            assert_eq!(monitor.observe(step, loss, 1.0), Verdict::Healthy);
        }
    }

    #[test]
    fn embeddings_without_spread_are_a_collapse_whatever_the_loss() {
        let mut monitor = Collapse::new(chance(0), 100);
        let last = (0..=200)
            .map(|step| monitor.observe(step, 3.0, 0.01))
            .last();
        assert!(matches!(last, Some(Verdict::Collapsed(text)) if text.contains("same way")));
    }
}
