//! The binary `swav`: arguments in, exit codes out. The work is done by the libraries.

#![warn(clippy::unwrap_used, clippy::expect_used)]

mod allocator;
mod args;
mod commands;
mod device;
mod failure;
mod memory;
mod output;
mod ranks;
mod signals;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use swav_train::observe::display::{insist, leave_it_to_another};
use swav_train::{Stop, TrainError};

use args::{Bench, Cli, Command, Data, Eval};
use failure::Cause;
use ranks::Ranks;

#[global_allocator]
static ALLOCATOR: allocator::HugePages = allocator::HugePages;

fn main() -> ExitCode {
    let cli = Cli::parse();
    keep_memory();
    quieten_drivers();
    failure::listen();
    let stop = signals::listen();
    let ranks = match Ranks::start() {
        Ok(ranks) => ranks,
        Err(error) => {
            insist(format_args!("error: {error}"));
            return ExitCode::from(error.exit_code());
        }
    };
    if ranks.rank() > 0 {
        leave_it_to_another();
    }
    let (code, own, message) = match catch_unwind(AssertUnwindSafe(|| run(cli, &ranks, &stop))) {
        Ok(Ok(())) => (0, false, String::new()),
        // The panic's own message has been printed; a device that fails in the middle ends here too.
        Err(_) => {
            let cause = Cause::of_panic();
            let code = match cause {
                Cause::Memory | Cause::Device => DEVICE,
                Cause::Defect => DEFECT,
            };
            (code, true, cause.message())
        }
        Ok(Err(error)) => {
            let known = error.downcast_ref::<TrainError>();
            let code = known.map_or(1, TrainError::exit_code);
            let advice = match known {
                Some(TrainError::Device(text)) => failure::advice(text),
                _ => String::new(),
            };
            let elsewhere = matches!(known, Some(TrainError::Rank { .. }));
            let own = code != INTERRUPTED && !elsewhere;
            (code, own, format!("error: {}{advice}", told(&error)))
        }
    };
    let message = match ranks.world() {
        1 => message,
        _ => format!("rank {}: {message}", ranks.rank()),
    };
    ranks.end(own.then_some(code), || insist(message));
    ExitCode::from(code)
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

fn run(cli: Cli, ranks: &Ranks, stop: &Stop) -> anyhow::Result<()> {
    let shares = matches!(
        cli.command,
        Command::Train(_) | Command::Embed(_) | Command::Assign(_) | Command::Bench(Bench::Step(_))
    );
    if ranks.world() > 1 && !shares {
        let problem = "only train, embed and assign can share their work among several processes: start this command once";
        return Err(TrainError::Recipe(problem.to_string()).into());
    }
    match cli.command {
        Command::Quickstart(args) => commands::quickstart(&args, ranks, stop),
        Command::Train(args) => commands::train(&args, ranks, stop),
        Command::Plan(args) => commands::plan(&args),
        Command::Eval(Eval::Knn(args)) => commands::eval_knn(&args, stop),
        Command::Eval(Eval::Linear(args)) => commands::eval_linear(&args, stop),
        Command::Eval(Eval::Finetune(args)) => commands::eval_finetune(&args, stop),
        Command::Embed(args) => commands::embed(&args, ranks, stop),
        Command::Report(args) => commands::report(&args, stop),
        Command::Assign(args) => commands::assign(&args, ranks, stop),
        Command::Export(args) => commands::export(&args),
        Command::Data(Data::Scan(args)) => commands::data_scan(&args, stop),
        Command::Data(Data::Pack(args)) => commands::data_pack(&args, stop),
        Command::Devices(args) => commands::devices(&args),
        Command::Bench(args) => commands::bench(&args, ranks, stop),
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
