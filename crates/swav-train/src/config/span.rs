//! Durations with a unit: `"313 steps"`, `"10 epochs"`, `"always"`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
    /// The span in steps, where an epoch has `steps_per_epoch`.
    pub fn steps(self, steps_per_epoch: u64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Epochs(epochs) => (epochs * steps_per_epoch as f64).round() as u64,
            Self::Always => u64::MAX,
            Self::Never => 0,
        }
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
    fn epochs_become_steps_by_the_length_of_an_epoch() {
        assert_eq!(Span::Epochs(1.5).steps(100), 150);
        assert_eq!(Span::Steps(7).steps(100), 7);
    }
}
