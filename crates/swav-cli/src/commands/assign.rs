//! `swav assign`

use std::path::Path;

use serde::Serialize;
use swav_data::Format;
use swav_eval::{AssignmentWriter, Clusters, Extraction, Layer, TableFormat};
use swav_train::comm::on_first;
use swav_train::observe::display::{Progress, say};
use swav_train::{Stop, TrainError, trained};

use super::setup;
use crate::args::Assign;
use crate::output::{print, print_json};
use crate::ranks::Ranks;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    out: &'a Path,
    images: usize,
    skipped: usize,
    heads: Vec<Clusters>,
}

/// Writes the cluster of every image, in the order of the source, as they are computed.
pub fn assign(args: &Assign, ranks: &Ranks, stop: &Stop) -> anyhow::Result<()> {
    let format = TableFormat::of(&args.out)?;
    let (plan, checkpoint) = setup::trained(&args.run)?;
    if plan.is_of_weights() && plan.model.prototypes.is_empty() {
        return Err(TrainError::Checkpoint {
            path: checkpoint,
            reason: "holds no prototypes to assign images to: write the features with `swav embed` and cluster those"
                .to_string(),
        }
        .into());
    }
    let source = setup::open(&args.data, Format::Auto)?;
    // Before the work: a wrong path must not cost an hour.
    let mut talk = ranks.communicator();
    let mut writer = on_first(
        || AssignmentWriter::create(&args.out, format, &plan),
        talk.as_mut(),
    )?;
    let device = args.device.device.open_for(ranks)?.device;
    let mut network = trained::network(&checkpoint, &plan, &device)?;
    // The last step of training has moved them off unit length, and scores are cosines.
    network.prototypes = network.prototypes.normalise();
    let extraction = Extraction {
        plan: &plan,
        device: &device,
        layer: Layer::Scores,
    };
    let total = source.len();
    let mut progress = Progress::new("assigning");
    let sink = |scores, done| {
        progress.update(done, total);
        match &mut writer {
            Some(writer) => writer.append(&scores, source.as_ref()),
            None => Ok(()),
        }
    };
    let health = extraction.stream_over(&network, source.clone(), stop, talk.as_mut(), sink)?;
    drop(progress);
    let Some(writer) = writer else {
        return Ok(());
    };
    let (images, heads) = writer.finish()?;
    for bad in &health.bad {
        say(format_args!("skipped {bad}"));
    }
    if args.json {
        return print_json(&Report {
            out: &args.out,
            images,
            skipped: health.bad.len(),
            heads,
        });
    }
    let mut lines = vec![format!("{}  {images} images", args.out.display())];
    lines.extend(heads.iter().enumerate().map(|(head, clusters)| {
        let name = match heads.len() {
            1 => String::new(),
            _ => format!("head {head}: "),
        };
        format!(
            "{name}{} of {} clusters, {} images in the largest",
            clusters.used, clusters.prototypes, clusters.largest
        )
    }));
    print(&lines.join("\n"))
}
