//! Recognising, early, that the features have collapsed.

use serde::{Deserialize, Serialize};

/// Watches for features that tell nothing apart.
///
/// Two signs count: embeddings that all point the same way (a spread near 0), and a loss that
/// stays at ln K, which a network reaches that gives every prototype the same probability. Either
/// may show for a while at the start, so a sign must last: half of `patience` for a warning, all
/// of it to call the run collapsed. Nothing is judged while the prototypes are frozen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collapse {
    chance_loss: f64,
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

    /// A monitor that judges from `first_step` on; `chance_loss` is ln K.
    pub fn new(chance_loss: f64, first_step: u64, steps_per_epoch: u64) -> Self {
        Self {
            chance_loss,
            first_step,
            patience: steps_per_epoch.max(Self::LEAST_PATIENCE),
            since: None,
            warned: false,
        }
    }

    /// Judges one step by its loss and the spread of its embeddings.
    pub fn observe(&mut self, step: u64, loss: f64, spread: f64) -> Verdict {
        if step < self.first_step {
            return Verdict::Healthy;
        }
        let same = spread < Self::LEAST_SPREAD;
        let chance = (loss - self.chance_loss).abs() < Self::CHANCE_BAND * self.chance_loss;
        if !same && !chance {
            self.since = None;
            self.warned = false;
            return Verdict::Healthy;
        }
        let lasted = step - *self.since.get_or_insert(step);
        if lasted >= self.patience {
            return Verdict::Collapsed(self.describe(same, loss, spread, lasted));
        }
        if lasted >= self.patience / 2 && !self.warned {
            self.warned = true;
            return Verdict::Warning(self.describe(same, loss, spread, lasted));
        }
        Verdict::Healthy
    }

    fn describe(&self, same: bool, loss: f64, spread: f64, lasted: u64) -> String {
        let sign = if same {
            format!("the embeddings all point the same way (spread {spread:.3}, healthy is near 1)")
        } else {
            format!(
                "the loss {loss:.4} has stayed at chance, ln K = {:.4}",
                self.chance_loss
            )
        };
        format!("for {lasted} steps {sign}. {REMEDIES}")
    }
}

/// What has helped others, most often first.
const REMEDIES: &str = "Try, in this order: method.epsilon=0.03, a longer method.freeze, softer \
    augmentation (augment.jitter, larger crop scales), fewer model.prototypes, a smaller \
    optimizer.lr, or a later method.queue.start";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_stays_at_ln_k_is_warned_of_and_then_called_a_collapse() {
        let mut monitor = Collapse::new(512_f64.ln(), 10, 100);
        let mut verdicts = (0..=210).map(|step| monitor.observe(step, 512_f64.ln(), 1.0));
        assert!(verdicts.by_ref().take(110).all(|v| v == Verdict::Healthy));
        assert!(
            matches!(verdicts.next(), Some(Verdict::Warning(text)) if text.contains("epsilon"))
        );
        assert!(matches!(verdicts.last(), Some(Verdict::Collapsed(_))));
    }

    #[test]
    fn one_healthy_step_starts_the_patience_anew() {
        let mut monitor = Collapse::new(512_f64.ln(), 0, 100);
        for step in 0..1000 {
            let loss = if step % 90 == 0 { 5.0 } else { 512_f64.ln() };
            assert_eq!(monitor.observe(step, loss, 1.0), Verdict::Healthy);
        }
    }

    #[test]
    fn embeddings_without_spread_are_a_collapse_whatever_the_loss() {
        let mut monitor = Collapse::new(512_f64.ln(), 0, 100);
        let last = (0..=200)
            .map(|step| monitor.observe(step, 3.0, 0.01))
            .last();
        assert!(matches!(last, Some(Verdict::Collapsed(text)) if text.contains("same way")));
    }
}
