//! `swav eval finetune`

use std::sync::Arc;

use swav_data::Source;
use swav_eval::{FinetuneConfig, Finetuning, Origin, Subset};
use swav_train::observe::display::say;
use swav_train::{State, Stop, TrainError, trained};

use super::classifier::{Report, state, two_classes};
use super::{eval, setup};
use crate::args::Finetune;
use crate::output::note;

/// Trains the whole network of a run on labels and says how good it is.
pub fn eval_finetune(args: &Finetune, stop: &Stop) -> anyhow::Result<()> {
    let wanted = FinetuneConfig::for_share(args.labels);
    let config = FinetuneConfig {
        epochs: args.epochs as usize,
        lr: args.lr.unwrap_or(wanted.lr),
        classifier_lr: args.classifier_lr.unwrap_or(wanted.classifier_lr),
        batch_size: args.batch_size as usize,
        seed: args.seed,
    };
    for (flag, value) in [
        ("--lr", config.lr),
        ("--classifier-lr", config.classifier_lr),
    ] {
        if !(value >= 0.0 && value.is_finite()) {
            let problem = format!("{flag} {value}: it must be a number of at least 0");
            return Err(TrainError::Recipe(problem).into());
        }
    }
    let (plan, checkpoint) = setup::trained(&args.run)?;
    let [train, test] = eval::sets(&plan, args.train.as_deref(), args.test.as_deref())?;
    two_classes(train.as_ref())?;
    let state = state(args.out.as_deref(), args.resume)?;
    let chosen = args.labels.of(train.as_ref(), args.seed);
    let names: Vec<String> = chosen.iter().map(|&index| train.name(index)).collect();
    let learned: Arc<dyn Source> = Arc::new(Subset::of(train.clone(), chosen));

    let device = args.device.device.open()?.device;
    let tracked = device.clone().autodiff();
    let network = if args.untrained {
        State::initial(&plan, &tracked, &mut note)?
    } else {
        trained::network(&checkpoint, &plan, &tracked)?
    };
    let finetuning = Finetuning {
        plan: &plan,
        device: &device,
        config,
        train: learned,
        test: test.clone(),
        origin: Origin::new(
            (!args.untrained).then_some(&checkpoint),
            names.iter().map(String::as_str),
        ),
        state: state.as_deref(),
    };
    let result = finetuning.run(network, stop, |epoch| {
        say(format_args!(
            "epoch {}/{}  loss {:.4}  top-1 {:.2} %",
            epoch.epoch,
            config.epochs,
            epoch.loss,
            100.0 * epoch.top1
        ));
    })?;
    let report = Report {
        checkpoint: (!args.untrained).then_some(&checkpoint),
        epoch: None,
        train: train.describe(),
        test: test.describe(),
        labels: args.labels.to_string(),
        images: names.len(),
        config: &config,
        classes: train.classes(),
        by_class: result.scores.by_class(),
        result,
    };
    if let Some(out) = &args.out {
        report.keep(&out.join("finetune.json"), &names)?;
    }
    report.tell(args.json)
}
