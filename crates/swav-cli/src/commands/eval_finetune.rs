//! `swav eval finetune`

use std::path::PathBuf;
use std::sync::Arc;

use swav_data::Source;
use swav_train::display::say;
use swav_train::{FinetuneConfig, Finetuning, State, Stop, Subset, TrainError, checkpoint};

use super::classifier::{Report, two_classes};
use super::{eval, setup};
use crate::args::Finetune;

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
    let state = state(args)?;
    let chosen = args.labels.of(train.as_ref(), args.seed);
    let names: Vec<String> = chosen.iter().map(|&index| train.name(index)).collect();
    let learned: Arc<dyn Source> = Arc::new(Subset::of(train.clone(), chosen));

    let device = args.device.device.open()?.device;
    let tracked = device.clone().autodiff();
    let network = if args.untrained {
        State::untrained(&plan, &tracked)
    } else {
        checkpoint::load_network(&checkpoint, &plan, &tracked)?
    };
    let finetuning = Finetuning {
        plan: &plan,
        device: &device,
        config,
        train: learned,
        test: test.clone(),
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
        args.out.as_deref().map(|out| out.join("finetune.json")),
        &names,
        args.json,
    )
}

/// The folder of `--out` where the state is kept, made if it is not there.
fn state(args: &Finetune) -> Result<Option<PathBuf>, TrainError> {
    let Some(out) = &args.out else {
        return Ok(None);
    };
    let state = out.join("state");
    if state.exists() && !args.resume {
        return Err(TrainError::Checkpoint {
            path: out.clone(),
            reason:
                "already holds a fine-tuning: continue it with --resume, or choose another --out"
                    .to_string(),
        });
    }
    std::fs::create_dir_all(&state).map_err(|source| TrainError::Io {
        path: state.clone(),
        source,
    })?;
    Ok(Some(state))
}
