//! One outcome for all ranks.

use super::Communicator;
use crate::TrainError;

/// What each rank came to becomes one outcome for all: what is its own where every rank has something, otherwise an error. A
/// failure counts more than an interruption, and of several failures that of the first rank.
///
/// # Errors
/// If a rank has one: its own to that rank, [`TrainError::Rank`] to the others.
pub fn agree<T>(
    own: Result<T, TrainError>,
    ranks: &mut (impl Communicator + ?Sized),
) -> Result<T, TrainError> {
    if ranks.world() == 1 {
        return own;
    }
    const FINE: u32 = 0;
    const INTERRUPTED: u32 = 1;
    const FAILED: u32 = 2;
    let outcome = match &own {
        Ok(_) => FINE,
        Err(TrainError::Interrupted) => INTERRUPTED,
        Err(_) => FAILED,
    };
    match ranks.largest(outcome) {
        FINE => return own,
        INTERRUPTED => return Err(TrainError::Interrupted),
        _ => {}
    }
    let told = match &own {
        Err(error) if outcome == FAILED => format!("{} {error}", error.exit_code()),
        _ => String::new(),
    };
    let told = ranks.gather_texts(&told);
    if let (Err(error), FAILED) = (own, outcome) {
        return Err(error);
    }
    let mut failed = told.iter().enumerate();
    let failed = failed.find_map(|(rank, told)| Some((rank, told.split_once(' ')?)));
    let (rank, (code, reason)) = failed.unwrap_or((0, ("", "")));
    Err(TrainError::Rank {
        rank,
        code: code.parse().unwrap_or(1),
        reason: reason.to_string(),
    })
}

/// What rank 0 makes, on rank 0; the others wait for its outcome and get nothing.
///
/// # Errors
/// If rank 0 has one, on all ranks.
pub fn on_first<T>(
    make: impl FnOnce() -> Result<T, TrainError>,
    ranks: &mut (impl Communicator + ?Sized),
) -> Result<Option<T>, TrainError> {
    let made = match ranks.rank() {
        0 => make().map(Some),
        _ => Ok(None),
    };
    agree(made, ranks)
}
