//! Results on stdout.

use std::io::{ErrorKind, Write};

use anyhow::Context;
use serde::Serialize;
use swav_train::observe::display::say;

/// Prints a result; a reader that has gone away is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}

/// Prints a result as JSON.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Says on stderr what a user should know.
pub fn note(message: impl std::fmt::Display) {
    say(format_args!("note: {message}"));
}
