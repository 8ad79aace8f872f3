//! `swav embed`

use std::path::Path;

use serde::Serialize;
use swav_data::Format;
use swav_eval::{Extraction, Layer, RowFormat, RowWriter};
use swav_train::comm::on_first;
use swav_train::observe::display::{Progress, say};
use swav_train::{Stop, TrainError, trained};

use super::setup;
use crate::args::{Embed, LayerArg};
use crate::output::{print, print_json};
use crate::ranks::Ranks;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    out: &'a Path,
    rows: usize,
    dim: usize,
    skipped: usize,
}

/// Writes the features of every image, in the order of the source, as they are computed.
pub fn embed(args: &Embed, ranks: &Ranks, stop: &Stop) -> anyhow::Result<()> {
    let format = RowFormat::of(&args.out)?;
    let (plan, checkpoint) = setup::trained(&args.run)?;
    if args.layer == LayerArg::Embeddings && plan.model.dim == 0 {
        return Err(TrainError::Recipe(format!(
            "--layer embeddings: {} has no projection head; its features are what it gives",
            args.run.run.display()
        ))
        .into());
    }
    let source = setup::open(&args.data, Format::Auto)?;
    // Before the work: a wrong path must not cost an hour.
    let mut talk = ranks.communicator();
    let mut writer = on_first(|| RowWriter::create(&args.out, format), talk.as_mut())?;
    let device = args.device.device.open_for(ranks)?.device;
    let network = trained::network(&checkpoint, &plan, &device)?;
    let extraction = Extraction {
        plan: &plan,
        device: &device,
        layer: match args.layer {
            LayerArg::Features => Layer::Features,
            LayerArg::Embeddings => Layer::Embeddings,
        },
    };
    let total = source.len();
    let mut progress = Progress::new("embedding");
    let sink = |rows, done| {
        progress.update(done, total);
        match &mut writer {
            Some(writer) => writer.append(&rows, source.as_ref()),
            None => Ok(()),
        }
    };
    let health = extraction.stream_over(&network, source.clone(), stop, talk.as_mut(), sink)?;
    drop(progress);
    let Some(writer) = writer else {
        return Ok(());
    };
    let (rows, dim) = writer.finish()?;
    for bad in &health.bad {
        say(format_args!("skipped {bad}"));
    }
    if args.json {
        return print_json(&Report {
            out: &args.out,
            rows,
            dim,
            skipped: health.bad.len(),
        });
    }
    print(&format!("{}  {rows} × {dim}", args.out.display()))
}
