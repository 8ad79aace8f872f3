//! `swav eval linear`

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use swav_data::Source;
use swav_train::display::{Progress, say};
use swav_train::{
    Extraction, Layer, LinearConfig, LinearResult, State, Stop, Subset, TrainError, checkpoint,
    files, linear,
};

use super::{eval, setup};
use crate::args::Linear;
use crate::output::{print, print_json};

/// What `--json` prints and `--out` keeps.
#[derive(Serialize)]
struct Report<'a> {
    checkpoint: Option<&'a Path>,
    train: String,
    test: String,
    labels: String,
    images: usize,
    config: LinearConfig,
    classes: &'a [String],
    by_class: Vec<Option<f64>>,
    #[serde(flatten)]
    result: LinearResult,
}

/// Classes that are shown for being told apart worst.
const WORST: usize = 5;

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
    let classes = train.classes().len();
    if classes < 2 {
        let problem = format!(
            "{}: a classifier needs two classes or more; put each class into a folder of its own",
            train.describe()
        );
        return Err(TrainError::Recipe(problem).into());
    }
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
        config,
        classes: train.classes(),
        by_class: result.scores.by_class(),
        result,
    };
    if let Some(out) = &args.out {
        keep(&report, &names, out)?;
    }
    if args.json {
        return print_json(&report);
    }
    print(&summary(&report))
}

/// The result in a few lines.
fn summary(report: &Report<'_>) -> String {
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let (scores, best) = (&report.result.scores, &report.result.best);
    let mut text = format!(
        "top-1 {}   top-5 {}   ({} labels, {} images)\nbest  {}   after epoch {} of {}, chosen by the test images",
        percent(scores.top1),
        percent(scores.top5),
        report.labels,
        report.images,
        percent(best.top1),
        best.epoch,
        report.config.epochs,
    );
    let known = report.by_class.iter().enumerate();
    let mut known: Vec<(usize, f64)> = known
        .filter_map(|(c, share)| Some((c, (*share)?)))
        .collect();
    known.sort_by(|a, b| a.1.total_cmp(&b.1));
    text.push_str("\nhardest");
    for (class, share) in known.into_iter().take(WORST) {
        let row = scores.confusion[class].iter().enumerate();
        let taken = row.filter(|&(guess, &count)| guess != class && count > 0);
        let taken = taken.max_by_key(|(_, count)| **count);
        let taken = taken.map_or(String::new(), |(guess, _)| {
            format!(", mostly taken for {}", report.classes[guess])
        });
        let _ = write!(
            text,
            "\n  {:<24} {:>8}{taken}",
            report.classes[class],
            percent(share)
        );
    }
    text
}

/// Writes everything into the directory `out`.
fn keep(report: &Report<'_>, names: &[String], out: &Path) -> anyhow::Result<()> {
    files::write_atomic(
        &out.join("linear.json"),
        &serde_json::to_vec_pretty(report)?,
    )?;
    files::write_atomic(
        &out.join("images.txt"),
        (names.join("\n") + "\n").as_bytes(),
    )?;
    let quoted = |name: &String| format!("\"{}\"", name.replace('"', "\"\""));
    let header: Vec<String> = report.classes.iter().map(quoted).collect();
    let mut csv = format!("class,{}\n", header.join(","));
    for (class, row) in report.classes.iter().zip(&report.result.scores.confusion) {
        let counts: Vec<String> = row.iter().map(u32::to_string).collect();
        csv.push_str(&format!("{},{}\n", quoted(class), counts.join(",")));
    }
    files::write_atomic(&out.join("confusion.csv"), csv.as_bytes())?;
    Ok(())
}
