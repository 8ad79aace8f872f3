//! Helpers for worker threads: their number, locks, and the messages of panics.

use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// What a caught panic said, where an image is decoded.
pub(crate) fn panic_reason(panic: &(dyn Any + Send)) -> String {
    format!("the decoder panicked: {}", panic_words(panic))
}

/// What a caught panic said.
pub(crate) fn panic_words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// `workers`, or the number of cores when it is zero.
pub(crate) fn worker_count(workers: usize) -> usize {
    match workers {
        0 => thread::available_parallelism().map_or(1, usize::from),
        given => given,
    }
}

/// Locks; a thread that panicked while it held the lock does not matter to what is kept here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
