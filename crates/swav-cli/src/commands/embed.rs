//! `swav embed`

use std::path::Path;

use serde::Serialize;
use swav_data::Format;
use swav_eval::{Extraction, Layer, RowFormat, RowWriter};
use swav_train::observe::display::{Progress, say};
use swav_train::{Stop, TrainError, trained};

use super::setup;
use crate::args::{Embed, LayerArg};
use crate::output::{print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    out: &'a Path,
    rows: usize,
    dim: usize,
    skipped: usize,
}

/// Writes the features of every image, in the order of the source, as they are computed.
pub fn embed(args: &Embed, stop: &Stop) -> anyhow::Result<()> {
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
    let mut writer = RowWriter::create(&args.out, format)?;
    let device = args.device.device.open()?.device;
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
    let health = extraction.stream(&network, source.clone(), stop, |rows, done| {
        progress.update(done, total);
        writer.append(&rows, source.as_ref())
    })?;
    drop(progress);
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
