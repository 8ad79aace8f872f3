//! `swav report`

use std::path::{Path, PathBuf};
use std::time::Instant;

use swav_data::Format;
use swav_eval::report::{Report, Subject, Written};
use swav_train::observe::display::{Progress, readable, say};
use swav_train::{Plan, RunDirectory, Stop, TrainError, checkpoint, trained};

use super::setup;
use crate::args::ReportArgs;
use crate::output::{note, print, print_json};

/// Writes the page of a run.
pub fn report(args: &ReportArgs, stop: &Stop) -> anyhow::Result<()> {
    let (run, plan, checkpoint) = find(&args.run)?;
    let out = args.out.clone().unwrap_or_else(|| run.report());
    check_writable(&out)?;
    let began = Instant::now();
    let written = match &checkpoint {
        Some(checkpoint) => with_network(args, &run, &plan, checkpoint, &out, stop)?,
        None => {
            say("note: the run has no checkpoint yet; the report shows curves and settings alone");
            let report = Report {
                plan: &plan,
                run: &run,
                chance: None,
                subject: None,
            };
            report.write(&out, &mut |_, _, _| {})?
        }
    };
    if args.json {
        return print_json(&written);
    }
    print(&format!(
        "{}  {:.1} MB, {} images, {} thumbnails, {}",
        written.out.display(),
        written.bytes as f64 / 1e6,
        written.images,
        written.thumbnails,
        readable(began.elapsed())
    ))
}

/// The run that `path` is or lies in, and the checkpoint that is meant, if there is one yet.
fn find(path: &Path) -> Result<(RunDirectory, Plan, Option<PathBuf>), TrainError> {
    if path.join("plan.toml").is_file() {
        let run = RunDirectory::open(path)?;
        let newest = run.list()?.pop().map(|(_, checkpoint)| checkpoint);
        return Ok((run.clone(), Plan::load(&run.plan())?, newest));
    }
    if path.is_file() {
        return Err(TrainError::Checkpoint {
            path: path.to_path_buf(),
            reason: "is a file; a report tells of a run: give its directory".to_string(),
        });
    }
    let (plan, checkpoint) = trained::find(path, &mut note)?;
    let run = checkpoint.ancestors().nth(2).unwrap_or(&checkpoint);
    Ok((RunDirectory::open(run)?, plan, Some(checkpoint)))
}

/// A wrong path must not cost minutes.
fn check_writable(out: &Path) -> Result<(), TrainError> {
    let created = swav_train::files::AtomicFile::create(out);
    created.map(|_| ()).map_err(TrainError::io(out))
}

fn with_network(
    args: &ReportArgs,
    run: &RunDirectory,
    plan: &Plan,
    checkpoint: &Path,
    out: &Path,
    stop: &Stop,
) -> Result<Written, TrainError> {
    let summary = checkpoint::summary(checkpoint)?;
    let mut report = Report {
        plan,
        run,
        chance: summary.chance,
        subject: None,
    };
    if args.images == 0 {
        return report.write(out, &mut |_, _, _| {});
    }
    let source = match &args.data {
        Some(path) => setup::open(path, Format::Auto)?,
        None => setup::open(&plan.data.path, plan.data.format)?,
    };
    let device = args.device.device.open()?.device;
    let network = trained::network(checkpoint, plan, &device)?;
    report.subject = Some(Subject {
        network: &network,
        step: summary.step,
        source,
        images: args.images,
        device: &device,
        stop,
    });
    let mut shown: Option<Progress> = None;
    report.write(out, &mut |what, done, total| {
        shown.take_if(|progress| progress.what() != what);
        shown
            .get_or_insert_with(|| Progress::new(what))
            .update(done, total);
    })
}
