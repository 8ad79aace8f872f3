//! The binary `swav`: arguments in, exit codes out. The work is done by the libraries.

#![warn(clippy::unwrap_used, clippy::expect_used)]

mod allocator;
mod args;
mod commands;
mod device;
mod failure;
mod memory;
mod output;
mod signals;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use swav_train::observe::display::say;
use swav_train::{Stop, TrainError};

use args::{Cli, Command, Data, Eval};
use failure::Cause;

#[global_allocator]
static ALLOCATOR: allocator::HugePages = allocator::HugePages;

fn main() -> ExitCode {
    let cli = Cli::parse();
    keep_memory();
    quieten_drivers();
    failure::listen();
    let stop = signals::listen();
    match catch_unwind(AssertUnwindSafe(|| run(cli, &stop))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        // The panic's own message has been printed; a device that fails in the middle ends here too.
        Err(_) => {
            let cause = Cause::of_panic();
            say(cause.message());
            ExitCode::from(match cause {
                Cause::Memory | Cause::Device => DEVICE,
                Cause::Defect => DEFECT,
            })
        }
        Ok(Err(error)) => {
            let code = error
                .downcast_ref::<TrainError>()
                .map_or(1, TrainError::exit_code);
            let advice = match error.downcast_ref() {
                Some(TrainError::Device(text)) => failure::advice(text),
                _ => String::new(),
            };
            if code != INTERRUPTED {
                say(format_args!("error: {}{advice}", told(&error)));
            }
            ExitCode::from(code)
        }
    }
}

/// The error with its causes, each said once: some tell of their cause themselves.
fn told(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.ends_with(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    told
}

const DEVICE: u8 = 4;
const INTERRUPTED: u8 = 130;
const DEFECT: u8 = 70;

fn run(cli: Cli, stop: &Stop) -> anyhow::Result<()> {
    match cli.command {
        Command::Quickstart(args) => commands::quickstart(&args, stop),
        Command::Train(args) => commands::train(&args, stop),
        Command::Plan(args) => commands::plan(&args),
        Command::Eval(Eval::Knn(args)) => commands::eval_knn(&args, stop),
        Command::Eval(Eval::Linear(args)) => commands::eval_linear(&args, stop),
        Command::Eval(Eval::Finetune(args)) => commands::eval_finetune(&args, stop),
        Command::Embed(args) => commands::embed(&args, stop),
        Command::Report(args) => commands::report(&args, stop),
        Command::Assign(args) => commands::assign(&args, stop),
        Command::Export(args) => commands::export(&args),
        Command::Data(Data::Scan(args)) => commands::data_scan(&args, stop),
        Command::Data(Data::Pack(args)) => commands::data_pack(&args, stop),
        Command::Devices(args) => commands::devices(&args),
        Command::Bench(args) => commands::bench(&args, stop),
    }
}

/// Keeps freed memory in the process: a training step frees and takes the same large tensors again,
/// and giving them back to the system in between costs a fifth of the step on a CPU.
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` only sets numbers, before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
    }
}

/// Keeps drivers for desktops from complaining that there is none: Mesa's prints a dozen lines each time it is asked for
/// devices while this variable is not set.
fn quieten_drivers() {
    #[cfg(all(target_os = "linux", feature = "wgpu"))]
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: there is no other thread yet.
        unsafe { std::env::set_var("XDG_RUNTIME_DIR", std::env::temp_dir()) };
    }
}
