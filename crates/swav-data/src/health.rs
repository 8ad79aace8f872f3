//! Corrupt files: how many, which, and how many are too many.
//!
//! A crawl of a million images holds a few that are cut short. They must not end a run in its third
//! day, and they must not go by unseen either. So the loader replaces a bad file (see
//! [`Loader`](crate::Loader)), keeps a list, and stops when the corrupt ones outgrow a budget. An image of
//! a kind that is not read is replaced and listed too, but says nothing about how sound the set is:
//! it counts against no budget.

use std::fmt;

/// Why a file gives no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadKind {
    /// It is damaged, no image at all, too large, or cannot be read. It counts against the budget.
    Corrupt,
    /// It is a whole image of a kind that is not read. It does not count against the budget.
    Unsupported,
}

/// A file that could not be read or decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    /// Its index in the source.
    pub index: usize,
    /// Its path, or `archive:member`.
    pub name: String,
    /// Whether it is corrupt or of a kind that is not read.
    pub kind: BadKind,
    /// What is wrong with it.
    pub reason: String,
}

/// The corrupt and unsupported files seen so far, each once, in the order of their indices.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthReport {
    /// The files of either kind.
    pub bad: Vec<BadFile>,
    /// How many samples the source has.
    pub total: usize,
    /// The share of them that may be corrupt, from 0 to 1.
    pub budget: f64,
}

impl HealthReport {
    /// How many corrupt files the budget allows.
    pub fn allowed(&self) -> usize {
        allowed(self.budget, self.total)
    }

    /// How many files are corrupt.
    pub fn corrupt(&self) -> usize {
        self.of_kind(BadKind::Corrupt).count()
    }

    /// How many files are images of a kind that is not read.
    pub fn unsupported(&self) -> usize {
        self.of_kind(BadKind::Unsupported).count()
    }

    /// Whether more files are corrupt than the budget allows, or no file gives an image.
    pub fn exceeded(&self) -> bool {
        self.corrupt() > self.allowed() || self.nothing_left()
    }

    fn nothing_left(&self) -> bool {
        self.total > 0 && self.bad.len() == self.total
    }

    fn of_kind(&self, kind: BadKind) -> impl Iterator<Item = &BadFile> {
        self.bad.iter().filter(move |bad| bad.kind == kind)
    }
}

/// `budget` · `total`, rounded down; a product that should be whole but misses by rounding counts
/// as whole.
pub(crate) fn allowed(budget: f64, total: usize) -> usize {
    (budget * total as f64 + 1e-9).floor() as usize
}

impl fmt::Display for BadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Most reasons are errors that begin with the file themselves.
        if self.reason.starts_with(&self.name) {
            write!(f, "{}", self.reason)
        } else {
            write!(f, "{}: {}", self.name, self.reason)
        }
    }
}

impl fmt::Display for HealthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 100;
        let (total, budget, allowed) = (self.total, self.budget, self.allowed());
        let (corrupt, unsupported) = (self.corrupt(), self.unsupported());
        if self.nothing_left() {
            writeln!(f, "None of the {total} files can be used")?;
        }
        for (kind, count) in [
            (BadKind::Corrupt, corrupt),
            (BadKind::Unsupported, unsupported),
        ] {
            match (kind, count) {
                // A report without a bad file still says what the budget is.
                (BadKind::Unsupported, 0) => continue,
                (BadKind::Corrupt, 0) if unsupported > 0 => continue,
                (BadKind::Corrupt, _) => writeln!(
                    f,
                    "{corrupt} of {total} files are corrupt; data.corrupt_budget = {budget} allows {allowed}:"
                )?,
                (BadKind::Unsupported, _) => writeln!(
                    f,
                    "{unsupported} of {total} files are images of a kind that is not supported:"
                )?,
            }
            for bad in self.of_kind(kind).take(SHOWN) {
                writeln!(f, "  {bad}")?;
            }
            if count > SHOWN {
                writeln!(f, "  … and {} more", count - SHOWN)?;
            }
        }
        match self.nothing_left() {
            true => write!(f, "Remove, repair or convert them"),
            false => write!(
                f,
                "Remove or repair the corrupt files, or raise data.corrupt_budget (in a recipe) or \
                 --corrupt-budget (of a command)"
            ),
        }
    }
}
