//! What is derived, with the reason, and what is wrong, while a plan takes shape.

use std::fmt::{self, Display};

/// One derived setting and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The field of the recipe.
    pub field: &'static str,
    /// The value it got.
    pub value: String,
    /// Why.
    pub why: String,
}

impl Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24} {:<22} {}", self.field, self.value, self.why)
    }
}

/// Collects what is derived and what is wrong while a plan takes shape.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) notes: Vec<Note>,
    pub(crate) problems: Vec<String>,
}

impl Ledger {
    /// The user's value, or else the derived one with a note.
    pub(crate) fn or<T: Display>(
        &mut self,
        given: Option<T>,
        field: &'static str,
        derived: T,
        why: impl Into<String>,
    ) -> T {
        if let Some(given) = given {
            return given;
        }
        self.note(field, &derived, why);
        derived
    }

    pub(crate) fn note(
        &mut self,
        field: &'static str,
        value: impl Display,
        why: impl Into<String>,
    ) {
        self.notes.push(Note {
            field,
            value: value.to_string(),
            why: why.into(),
        });
    }

    pub(crate) fn require(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if holds {
            return;
        }
        // Heads alike have one problem, not three.
        let problem = problem();
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}
