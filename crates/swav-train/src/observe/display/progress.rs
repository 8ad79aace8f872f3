//! Progress of a wait: a bar in a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{readable, say};

/// Shown on stderr from the second second on, so that short waits stay silent.
#[derive(Debug)]
pub struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    began: Instant,
    shown: Instant,
}

impl Progress {
    const PATIENCE: Duration = Duration::from_secs(2);
    const INTERVAL: Duration = Duration::from_secs(10);

    /// A wait for `what`.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            bar: None,
            began: Instant::now(),
            shown: Instant::now(),
        }
    }

    /// What is waited for.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// `done` of `total` are through.
    pub fn update(&mut self, done: usize, total: usize) {
        if self.began.elapsed() < Self::PATIENCE {
            return;
        }
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| bar(&self.what));
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        } else if self.shown.elapsed() >= Self::INTERVAL || self.shown == self.began {
            self.shown = Instant::now();
            let left = self
                .began
                .elapsed()
                .mul_f64(total as f64 / done.max(1) as f64 - 1.0);
            say(format_args!(
                "{} {done}/{total}, {} left",
                self.what,
                readable(left)
            ));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0)
        .with_style(style)
        .with_message(what.to_string())
}
