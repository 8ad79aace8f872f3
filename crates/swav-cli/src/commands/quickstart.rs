//! `swav quickstart`

use serde::Serialize;
use swav_eval::Layer;
use swav_train::Span;
use swav_train::{Outcome, Recipe, State, Stop, TrainError, trained};

use super::eval::accuracy;
use super::{setup, train};
use crate::args::Quickstart;
use crate::output::{note, print, print_json};
use crate::ranks::Ranks;

const RECIPE: &str = include_str!("../../../../configs/quickstart.toml");

/// What `--json` prints: kNN accuracies, 0–1.
#[derive(Serialize)]
struct Report {
    raw_pixels: f64,
    untrained: f64,
    trained: f64,
    run: std::path::PathBuf,
}

/// Trains on the images that ship inside and shows what was learned.
pub fn quickstart(args: &Quickstart, ranks: &Ranks, stop: &Stop) -> anyhow::Result<()> {
    let recipe = Recipe::from_toml(RECIPE, "configs/quickstart.toml")?;
    let recipe = recipe.set_all(&args.overrides)?;
    let found = args.device.device.open()?;
    let prepared = setup::prepare(&recipe, &found, None, 1)?;
    let (plan, source) = (prepared.plan.clone(), prepared.source.clone());
    let test = prepared
        .test
        .clone()
        .ok_or_else(|| TrainError::Recipe("the quickstart needs [data] test".to_string()))?;
    let watch = train::Watch {
        plain: args.plain,
        report_every: Span::Never,
    };
    let path = setup::run_path(args.out.as_deref(), "quickstart");
    let (run, outcome, _) = train::start(prepared, &path, &found, watch, ranks, stop)?;
    if outcome == Outcome::Interrupted {
        train::say_how_to_continue(&run);
        return Err(TrainError::Interrupted.into());
    }

    let sets = [&source, &test];
    let untrained = State::initial(&plan, &found.device, &mut note)?;
    let trained = trained::network(&run.latest()?, &plan, &found.device)?;
    let measure = |layer, network| accuracy(layer, network, &plan, sets, &found.device, stop);
    let report = Report {
        raw_pixels: measure(Layer::Pixels, &untrained)?,
        untrained: measure(Layer::Features, &untrained)?,
        trained: measure(Layer::Features, &trained)?,
        run: run.path().to_path_buf(),
    };
    if args.json {
        return print_json(&report);
    }
    let run = report.run.display();
    print(&format!(
        "kNN accuracy over {} classes, {} images never trained on\n\
         \n\
         {:<20}{:>6.1} %\n{:<20}{:>6.1} %\n{:<20}{:>6.1} %\n\
         \n\
         The run lies in {run}. A page about it:  swav report {run}\n\
         Its features:  swav embed {run} --data DIR --out features.npy\n\
         Your own images:  swav train --data DIR",
        source.classes().len(),
        test.len(),
        "raw pixels",
        100.0 * report.raw_pixels,
        "untrained network",
        100.0 * report.untrained,
        "trained network",
        100.0 * report.trained,
    ))
}
