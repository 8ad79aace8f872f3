//! `swav eval linear`

use std::path::Path;
use std::sync::Arc;

use swav_data::Source;
use swav_eval::{
    Augmented, Batches, Cached, Classification, Extraction, Layer, LinearConfig, LinearResult,
    Origin, Subset,
};
use swav_model::Network;
use swav_train::observe::display::say;
use swav_train::{Stop, TrainError};

use super::classifier::{Report, state, two_classes};
use super::eval::{Names, collect, sets_of_all};
use super::setup::{self, Trained};
use crate::args::{Linear, Switch};
use crate::output::{print, print_json};

/// Trains a linear classifier on the features of each network and says how good it is.
pub fn eval_linear(args: &Linear, stop: &Stop) -> anyhow::Result<()> {
    for (flag, value) in [("--lr", args.lr), ("--weight-decay", args.weight_decay)] {
        if !(value >= 0.0 && value.is_finite()) {
            let problem = format!("{flag} {value}: it must be a number of at least 0");
            return Err(TrainError::Recipe(problem).into());
        }
    }
    let config = LinearConfig {
        epochs: args.epochs as usize,
        lr: args.lr,
        weight_decay: args.weight_decay,
        batch_size: args.batch_size as usize,
        seed: args.seed,
        augment: args.augment == Switch::On,
    };
    let runs = setup::all_trained(&args.runs)?;
    let sets = sets_of_all(&runs, args.train.as_deref(), args.test.as_deref())?;
    let mut all = Vec::with_capacity(runs.len());
    for (run, sets) in runs.iter().zip(&sets) {
        let classes = two_classes(sets[0].as_ref())?;
        let out = args.out.as_ref().map(|out| match runs.len() {
            1 => out.clone(),
            _ => out.join(&run.name),
        });
        let state = state(out.as_deref(), args.resume)?;
        all.push((run, sets, classes, out, state));
    }

    let device = args.device.device.open()?.device;
    let mut reports = Vec::with_capacity(runs.len());
    for (run, [train, test], classes, out, state) in &all {
        if runs.len() > 1 {
            say(format_args!("{}", run.name));
        }
        let chosen = args.labels.of(train.as_ref(), args.seed);
        let names: Vec<String> = chosen.iter().map(|&index| train.name(index)).collect();
        let learned: Arc<dyn Source> = Arc::new(Subset::of(train.clone(), chosen));
        let checkpoint: Option<&Path> = (!args.untrained).then_some(&run.checkpoint);
        let classification = Classification {
            config,
            classes: *classes,
            device: &device,
            origin: Origin::new(checkpoint, names.iter().map(String::as_str)),
            state: state.as_deref(),
        };
        let network = run.network(args.untrained, &device)?;
        let result = classify(&classification, run, &network, [&learned, test], stop)?;
        let report = Report {
            checkpoint,
            epoch: run.epoch.filter(|_| !args.untrained),
            train: train.describe(),
            test: test.describe(),
            labels: args.labels.to_string(),
            images: names.len(),
            config: &config,
            classes: train.classes(),
            by_class: result.scores.by_class(),
            result,
        };
        if let Some(out) = out {
            report.keep(&out.join("linear.json"), &names)?;
        }
        reports.push(report);
    }
    match reports.as_slice() {
        [report] => report.tell(args.json),
        reports if args.json => print_json(&reports),
        reports => print(&table(&runs, reports)),
    }
}

/// Trains the classifier on features that are extracted once, or anew in every epoch.
fn classify(
    classification: &Classification,
    run: &Trained,
    network: &Network,
    [learned, test]: [&Arc<dyn Source>; 2],
    stop: &Stop,
) -> Result<LinearResult, TrainError> {
    let Classification { config, device, .. } = *classification;
    let extraction = Extraction {
        plan: &run.plan,
        device,
        layer: Layer::Features,
    };
    let of_test = collect(&extraction, network, test, "test images", stop)?;
    let mut rows: Box<dyn Batches> = if config.augment {
        let images = learned.clone();
        Box::new(Augmented::new(
            &run.plan,
            device,
            network,
            images,
            config.seed,
        ))
    } else {
        let of_train = collect(&extraction, network, learned, "training images", stop)?;
        Box::new(Cached::new(&of_train, config.seed, device))
    };
    // Epochs on features that are there are too short to tell of each.
    let every = match config.augment {
        true => 1,
        false => (config.epochs / 10).max(1),
    };
    classification.run(rows.as_mut(), &of_test, stop, |epoch| {
        if epoch.epoch.is_multiple_of(every) {
            say(format_args!(
                "epoch {}/{}  loss {:.4}  top-1 {:.2} %",
                epoch.epoch,
                config.epochs,
                epoch.loss,
                100.0 * epoch.top1
            ));
        }
    })
}

/// A line for each network.
fn table(runs: &[Trained], reports: &[Report<LinearConfig>]) -> String {
    let names = Names::of(runs);
    let mut lines = vec![format!(
        "{} {:>9} {:>9} {:>9}",
        names.head(),
        "top-1",
        "top-5",
        "best"
    )];
    lines.extend(runs.iter().zip(reports).map(|(run, report)| {
        let LinearResult { scores, best, .. } = &report.result;
        let [first, among_five, best] =
            [scores.top1, scores.top5, best.top1].map(|share| format!("{:.2} %", 100.0 * share));
        let name = names.row(run, report.epoch);
        format!("{name} {first:>9} {among_five:>9} {best:>9}")
    }));
    lines.join("\n")
}
