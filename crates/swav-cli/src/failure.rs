//! What a device says when it fails, and what to do about it.
//!
//! CubeCL reports a kernel that does not compile or cannot be launched as a warning of its log, and fails when somebody reads what
//! that kernel was to write. The last warning is kept here, and told together with the failure.

use std::panic;
use std::sync::{Mutex, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// The last message of a panic, and the last warning of a device.
static LAST: Mutex<Last> = Mutex::new(Last {
    panic: None,
    warning: None,
});

struct Last {
    panic: Option<String>,
    warning: Option<String>,
}

fn with_last<T>(act: impl FnOnce(&mut Last) -> T) -> T {
    act(&mut LAST.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Keeps the warnings of what runs on a device.
struct Listener;

impl Log for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let crates = ["cubecl", "cubek", "burn", "wgpu"];
        let target = metadata.target();
        metadata.level() <= Level::Warn && crates.iter().any(|name| target.starts_with(name))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            with_last(|last| last.warning = Some(record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Begins to listen to panics and to devices.
pub fn listen() {
    let told = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        with_last(|last| last.panic = Some(info.to_string()));
        told(info);
    }));
    // Another logger cannot be there.
    if log::set_logger(&Listener).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
}

/// What ended the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// There was not enough memory.
    Memory,
    /// The device has failed otherwise.
    Device,
    /// A defect.
    Defect,
}

impl Cause {
    /// The cause of the panic that has just ended a command.
    pub fn of_panic() -> Self {
        with_last(|last| {
            let texts = [last.panic.as_deref(), last.warning.as_deref()];
            if texts.into_iter().flatten().any(tells_of_memory) {
                Self::Memory
            } else if last.warning.is_some() {
                Self::Device
            } else {
                Self::Defect
            }
        })
    }

    /// What is said at the end.
    pub fn message(self) -> String {
        match self {
            Self::Memory => format!("error: out of memory; checkpoints are intact. {REMEDY}"),
            Self::Device => format!(
                "error: the device failed; checkpoints are intact. {}`swav devices --check` tells whether it computes right",
                last_warning()
            ),
            Self::Defect => {
                "error: this is a defect of swav or a failure of the device; checkpoints are intact"
                    .to_string()
            }
        }
    }
}

/// What helps where memory does not suffice.
const REMEDY: &str = "Set train.checkpoint_activations = true, which computes activations once more rather than keep them; lower \
                      train.batch_size or raise train.accumulate, which learns from a batch in parts; or take fewer or \
                      smaller crops, a smaller model.width or fewer model.prototypes";

/// What is added to the message of an error of a device.
pub fn advice(error: &str) -> String {
    if tells_of_memory(error) {
        return format!(". {REMEDY}");
    }
    match last_warning() {
        warning if warning.is_empty() => warning,
        warning => format!(". {}", warning.trim_end()),
    }
}

/// `It reported: … `, or nothing.
fn last_warning() -> String {
    with_last(|last| match &last.warning {
        Some(warning) => format!("It reported: {}. ", warning.trim().trim_end_matches('.')),
        None => String::new(),
    })
}

/// Whether a message of Burn, CubeCL or a driver says that memory ran out.
fn tells_of_memory(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    [
        "out of memory",
        "out-of-memory",
        "outofmemory",
        "out_of_memory",
        "out of device memory",
        "can't allocate buffer of size",
        "buffertoobig",
        "buffer too big",
        "not enough memory",
        "memory allocation of",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drivers_say_of_memory_is_understood() {
        for told in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "called `Result::unwrap()` on an `Err` value: BufferTooBig(4294967296)",
            "wgpu error: Out of Memory",
            // CubeCL's own words.
            "out of device memory allocating 4294967296 bytes",
            "can't allocate buffer of size: 4294967296",
            "An out-of-memory error happened during launch",
            "Not enough memory left on device",
        ] {
            assert!(tells_of_memory(told), "{told}");
        }
        for told in ["the memory of the device is fine", "index out of bounds"] {
            assert!(!tells_of_memory(told), "{told}");
        }
    }

    #[test]
    fn memory_that_ran_out_is_told_with_what_helps() {
        assert!(Cause::Memory.message().contains("train.accumulate"));
        assert!(
            Cause::Memory
                .message()
                .contains("train.checkpoint_activations = true")
        );
        assert!(advice("the device failed: out of memory").contains("train.batch_size"));
    }
}
