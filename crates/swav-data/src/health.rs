//! Corrupt files: how many, which, and how many are too many.
//!
//! A crawl of a million images holds a few that are cut short. They must not end a run in its third
//! day, and they must not go by unseen either. So the loader replaces a bad file (see
//! [`Loader`](crate::Loader)), keeps a list, and stops when the list outgrows a budget.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

use crate::decode::{Image, Reduction, decode_reduced};
use crate::error::DataError;
use crate::source::{Sample, Source};

/// A file that could not be read or decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFile {
    /// Its index in the source.
    pub index: usize,
    /// Its path, or `archive:member`.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The corrupt files seen so far, each once, in the order of their indices.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthReport {
    /// The corrupt files.
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

    /// Whether more files are corrupt than the budget allows, or all of them are.
    pub fn exceeded(&self) -> bool {
        self.bad.len() > self.allowed() || (self.total > 0 && self.bad.len() == self.total)
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
        writeln!(
            f,
            "{} of {} files are corrupt; data.corrupt_budget = {} allows {}:",
            self.bad.len(),
            self.total,
            self.budget,
            self.allowed(),
        )?;
        for bad in self.bad.iter().take(SHOWN) {
            writeln!(f, "  {bad}")?;
        }
        if self.bad.len() > SHOWN {
            writeln!(f, "  … and {} more", self.bad.len() - SHOWN)?;
        }
        write!(f, "Remove or repair them, or raise data.corrupt_budget")
    }
}

/// Reads and decodes sample `index` into `image`, smaller where `reduction` allows it, and returns the
/// width and height of the whole; a panic on the way (a bug in a decoder) is a bad file too.
pub(crate) fn try_decode(
    source: &dyn Source,
    index: usize,
    max_pixels: u64,
    image: &mut Image,
    reduction: &Reduction<'_>,
) -> Result<[u32; 2], BadFile> {
    try_decode_showing(source, index, max_pixels, image, reduction, |_| ())
}

/// The same, with a look at the sample between reading and decoding.
pub(crate) fn try_decode_showing(
    source: &dyn Source,
    index: usize,
    max_pixels: u64,
    image: &mut Image,
    reduction: &Reduction<'_>,
    seen: impl FnOnce(&Sample),
) -> Result<[u32; 2], BadFile> {
    let bad = |reason: String| BadFile {
        index,
        name: source.name(index),
        reason,
    };
    let attempt = || -> Result<[u32; 2], DataError> {
        let sample = source.read(index)?;
        seen(&sample);
        match sample {
            // Already pixels: no copy.
            Sample::Pixels { width, height, rgb }
                if u64::from(width) * u64::from(height) <= max_pixels =>
            {
                *image = Image::new(width, height, rgb)
                    .map_err(|reason| DataError::decode(&source.name(index), reason))?;
                Ok([width, height])
            }
            // A name may have to be read from a file, and it is wanted in errors alone.
            sample => decode_reduced(&sample, "", max_pixels, image, reduction).or_else(|_| {
                let name = source.name(index);
                decode_reduced(&sample, &name, max_pixels, image, reduction)
            }),
        }
    };
    match catch_unwind(AssertUnwindSafe(attempt)) {
        Ok(Ok(size)) => Ok(size),
        Ok(Err(error)) => Err(bad(error.to_string())),
        Err(panic) => Err(bad(panic_reason(panic.as_ref()))),
    }
}

/// What a caught panic said.
pub(crate) fn panic_reason(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("the decoder panicked: {said}")
}

/// `workers`, or the number of cores when it is zero.
pub(crate) fn worker_count(workers: usize) -> usize {
    match workers {
        0 => thread::available_parallelism().map_or(1, usize::from),
        given => given,
    }
}

/// Locks; a thread that panicked while it held the lock does not matter to what is kept here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
