//! `swav export`

use std::path::Path;

use serde::Serialize;
use swav_model::{Stem, weights};
use swav_train::observe::display::say;
use swav_train::{Normalisation, Plan, TrainError, trained};

use super::setup;
use crate::args::{Export, ExportFormat};
use crate::device::Choice;
use crate::output::{print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    checkpoint: &'a Path,
    out: &'a Path,
    bytes: u64,
    backbone: String,
}

/// Writes the weights of a run for other programs.
pub fn export(args: &Export) -> anyhow::Result<()> {
    let (plan, checkpoint) = setup::trained(&args.run)?;
    let device = Choice::Auto.open()?.device;
    let network = trained::network(&checkpoint, &plan, &device)?;
    let written = match args.to {
        ExportFormat::Torchvision => weights::save_backbone_safetensors(&network, &args.out),
        ExportFormat::Safetensors => weights::save_safetensors(&network, &args.out),
        ExportFormat::Onnx => weights::save_onnx(&network, &args.out, &notes(&plan)),
        ExportFormat::Burnpack => weights::save(&network, &args.out),
    };
    written.map_err(TrainError::from)?;
    if args.to == ExportFormat::Torchvision {
        warn_of_differences(&plan);
    }
    let bytes = std::fs::metadata(&args.out).map_or(0, |file| file.len());
    let backbone = plan.model.backbone.name.to_string();
    if args.json {
        return print_json(&Report {
            checkpoint: &checkpoint,
            out: &args.out,
            bytes,
            backbone,
        });
    }
    print(&format!(
        "{}  {backbone}, {:.1} MB",
        args.out.display(),
        bytes as f64 / 1e6
    ))
}

/// How images have to be prepared, as the file says it.
fn notes(plan: &Plan) -> Vec<(&'static str, String)> {
    let Normalisation { mean, std } = Normalisation::EVALUATION;
    vec![
        (
            "input",
            "RGB, 0 to 1, less the mean, over the standard deviation".to_string(),
        ),
        ("mean", format!("{mean:?}")),
        ("std", format!("{std:?}")),
        ("resize", plan.evaluation.resize.to_string()),
        ("crop", plan.evaluation.size.to_string()),
        ("backbone", plan.model.backbone.name.to_string()),
    ]
}

/// Names are torchvision's in any case; shapes are not always.
fn warn_of_differences(plan: &Plan) {
    let backbone = &plan.model.backbone;
    if backbone.stem == Stem::Cifar {
        say(
            "note: the first convolution is 3×3 with stride 1 and no pooling follows: torchvision's model needs \
             `conv1` and `maxpool` replaced before it takes these weights",
        );
    }
    if backbone.width != 1.0 {
        say(format_args!(
            "note: the network is {} times as wide as torchvision's {}",
            backbone.width, backbone.name
        ));
    }
}
