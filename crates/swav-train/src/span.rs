//! Durations with a unit, `"313 steps"`, `"10 epochs"`, `"always"`, and how often something happens.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest number of TOML, which a plan is written in. No run is as long.
pub(crate) const LONGEST: u64 = i64::MAX as u64;

/// A length of training, as the user writes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Span {
    /// A number of optimizer steps (iterations).
    Steps(u64),
    /// A number of epochs, fractions allowed.
    Epochs(f64),
    /// The whole run.
    Always,
    /// No time at all.
    Never,
}

impl Span {
    /// The span in steps, where an epoch has `steps_per_epoch`; `always` is the largest number of TOML.
    pub fn steps(self, steps_per_epoch: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps.min(LONGEST),
            Self::Epochs(epochs) => {
                let steps = (epochs * steps_per_epoch as f64).round() as u64;
                steps.min(LONGEST)
            }
            Self::Always => LONGEST,
            Self::Never => 0,
        }
    }
}

/// How often something happens: whenever a number of steps is done, or never. In a plan it is that number, and 0 for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval(Option<NonZeroU64>);

impl Interval {
    /// It does not happen.
    pub const NEVER: Self = Self(None);

    /// Whenever `steps` steps are done; never if that is 0.
    pub fn every(steps: u64) -> Self {
        Self(NonZeroU64::new(steps.min(LONGEST)))
    }

    /// What a user means who is asked how often, where an epoch has `steps_per_epoch`: `always` is after each step, and
    /// less than a step is one.
    pub fn of(span: Span, steps_per_epoch: u64) -> Self {
        match span {
            Span::Never => Self::NEVER,
            Span::Always => Self::every(1),
            span => Self::every(span.steps(steps_per_epoch).max(1)),
        }
    }

    /// Whether it never happens.
    pub fn is_never(self) -> bool {
        self.0.is_none()
    }

    /// Whether it happens when `step` steps are done.
    pub fn is_due(self, step: u64) -> bool {
        self.0.is_some_and(|every| step.is_multiple_of(every.get()))
    }
}

impl Serialize for Interval {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.map_or(0, NonZeroU64::get).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(Self::every)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(1) => write!(f, "1 step"),
            Self::Steps(steps) => write!(f, "{steps} steps"),
            Self::Epochs(epochs) if *epochs == 1.0 => write!(f, "1 epoch"),
            Self::Epochs(epochs) => write!(f, "{epochs} epochs"),
            Self::Always => write!(f, "always"),
            Self::Never => write!(f, "never"),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no duration: write a number and a unit, such as \"313 steps\" or \
                 \"10 epochs\", or \"always\" or \"never\""
            )
        };
        let text = text.trim();
        let text = text.strip_prefix("every ").unwrap_or(text);
        match text {
            "always" => return Ok(Self::Always),
            "never" => return Ok(Self::Never),
            _ => {}
        }
        let (number, unit) = text.split_once(char::is_whitespace).ok_or_else(wrong)?;
        match unit.trim() {
            "step" | "steps" | "iteration" | "iterations" => {
                number.parse().map(Self::Steps).map_err(|_| wrong())
            }
            "epoch" | "epochs" => match number.parse::<f64>() {
                Ok(epochs) if epochs.is_finite() && epochs >= 0.0 => Ok(Self::Epochs(epochs)),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_back_what_it_writes() {
        for text in [
            "313 steps",
            "1 step",
            "10 epochs",
            "0.5 epochs",
            "always",
            "never",
        ] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("every 500 steps".parse::<Span>(), Ok(Span::Steps(500)));
    }

    #[test]
    fn a_span_without_a_unit_or_with_a_negative_number_is_refused() {
        for text in [
            "10",
            "ten epochs",
            "-3 steps",
            "-1 epochs",
            "3 weeks",
            "",
            "NaN epochs",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_asked_for_always_is_due_at_each_step_and_never_at_none() {
        let due = |span: Span| -> Vec<u64> {
            let interval = Interval::of(span, 4);
            (1..=6).filter(|&step| interval.is_due(step)).collect()
        };
        assert_eq!(due(Span::Always), [1, 2, 3, 4, 5, 6]);
        assert!(due(Span::Never).is_empty());
        assert_eq!(due(Span::Steps(0)), [1, 2, 3, 4, 5, 6]);
        assert_eq!(due(Span::Steps(3)), [3, 6]);
        assert_eq!(due(Span::Epochs(1.0)), [4]);
        assert!(due(Span::Epochs(1e300)).is_empty());
    }

    #[test]
    fn every_interval_can_be_written_and_read() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct File {
            every: Interval,
        }
        for steps in [0, 1, 7, i64::MAX as u64, u64::MAX] {
            let file = File {
                every: Interval::every(steps),
            };
            let text = toml::to_string(&file).unwrap();
            assert_eq!(toml::from_str::<File>(&text).unwrap(), file, "{text}");
        }
    }

    #[test]
    fn epochs_become_steps_by_the_length_of_an_epoch() {
        assert_eq!(Span::Epochs(1.5).steps(100), 150);
        assert_eq!(Span::Steps(7).steps(100), 7);
    }
}
