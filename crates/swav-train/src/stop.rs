//! A wish to end, from a signal or a key, that the loops ask for between two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::TrainError;

/// A flag that anyone may raise and every loop looks at.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    requested: AtomicBool,
    heeded: AtomicBool,
}

impl Stop {
    /// Asks for an end; returns whether it had been asked for before.
    pub fn request(&self) -> bool {
        self.0.requested.swap(true, Ordering::SeqCst)
    }

    /// Whether an end has been asked for.
    pub fn requested(&self) -> bool {
        self.heed();
        self.0.requested.load(Ordering::SeqCst)
    }

    /// Refuses to go on once an end has been asked for.
    ///
    /// # Errors
    /// [`TrainError::Interrupted`]
    pub fn heeded(&self) -> Result<(), TrainError> {
        match self.requested() {
            true => Err(TrainError::Interrupted),
            false => Ok(()),
        }
    }

    /// Promises that something will look at the flag before long.
    pub fn heed(&self) {
        self.0.heeded.store(true, Ordering::SeqCst);
    }

    /// Whether something has ever looked at the flag, and so will look again.
    pub fn is_heeded(&self) -> bool {
        self.0.heeded.load(Ordering::SeqCst)
    }
}
