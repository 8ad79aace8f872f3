//! What a person sees while training goes on: a dashboard in a terminal, plain lines elsewhere.

mod dashboard;
mod lines;
mod progress;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use dashboard::Dashboard;
pub use lines::Lines;
pub use progress::Progress;

/// Whether this process has nothing to say but why it fails.
static SILENT: AtomicBool = AtomicBool::new(false);

/// From now on [`say`] is silent: another rank of the run says it.
pub fn leave_it_to_another() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Says something on stderr. Where nobody reads it any more, that is no reason to end a run.
pub fn say(message: impl std::fmt::Display) {
    if !SILENT.load(Ordering::Relaxed) {
        insist(message);
    }
}

/// Says something on stderr, whichever rank this is.
pub fn insist(message: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{message}");
}

/// A duration as people say it: `48s`, `12m 05s`, `3h 20m`.
pub fn readable(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The name of a number as people say it: `code entropy`.
fn spoken(name: &str) -> String {
    name.replace('_', " ")
}

/// A number with two decimals, or none where it is whole.
fn short(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}
