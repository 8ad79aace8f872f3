//! `swav eval linear`

use std::sync::Arc;

use swav_data::Source;
use swav_train::display::{Progress, say};
use swav_train::{
    Extraction, Layer, LinearConfig, State, Stop, Subset, TrainError, checkpoint, linear,
};

use super::classifier::{Report, two_classes};
use super::{eval, setup};
use crate::args::Linear;

/// Trains a linear classifier on the features of a run and says how good it is.
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
    };
    let (plan, checkpoint) = setup::trained(&args.run)?;
    let [train, test] = eval::sets(&plan, args.train.as_deref(), args.test.as_deref())?;
    let classes = two_classes(train.as_ref())?;
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).map_err(|source| TrainError::Io {
            path: out.clone(),
            source,
        })?;
    }
    let chosen = args.labels.of(train.as_ref(), args.seed);
    let names: Vec<String> = chosen.iter().map(|&index| train.name(index)).collect();
    let learned: Arc<dyn Source> = Arc::new(Subset::of(train.clone(), chosen));

    let device = args.device.device.open()?.device;
    let network = if args.untrained {
        State::untrained(&plan, &device)
    } else {
        checkpoint::load_network(&checkpoint, &plan, &device)?
    };
    let extraction = Extraction {
        plan: &plan,
        device: &device,
        layer: Layer::Features,
    };
    let collect = |source: &Arc<dyn Source>, what: &str| {
        let mut progress = Progress::new(what);
        let total = source.len();
        extraction.collect(&network, source.clone(), stop, |done| {
            progress.update(done, total);
        })
    };
    let features = [
        collect(&learned, "training images")?,
        collect(&test, "test images")?,
    ];
    let every = (config.epochs / 10).max(1);
    let [of_train, of_test] = &features;
    let result = linear(
        of_train,
        of_test,
        classes,
        &config,
        &device,
        stop,
        |epoch| {
            if epoch.epoch.is_multiple_of(every) {
                say(format_args!(
                    "epoch {}/{}  loss {:.4}  top-1 {:.2} %",
                    epoch.epoch,
                    config.epochs,
                    epoch.loss,
                    100.0 * epoch.top1
                ));
            }
        },
    )?;

    let report = Report {
        checkpoint: (!args.untrained).then_some(&checkpoint),
        train: train.describe(),
        test: test.describe(),
        labels: args.labels.to_string(),
        images: names.len(),
        config: &config,
        classes: train.classes(),
        by_class: result.scores.by_class(),
        result,
    };
    report.tell(
        args.out.as_deref().map(|out| out.join("linear.json")),
        &names,
        args.json,
    )
}
