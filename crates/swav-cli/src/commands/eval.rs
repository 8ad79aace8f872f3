//! `swav eval knn`

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use swav_data::{Format, Source};
use swav_train::display::Progress;
use swav_train::{
    Extraction, KnnAccuracy, KnnConfig, Layer, Plan, Queries, State, Stop, TrainError, checkpoint,
    data, knn,
};

use super::setup;
use crate::args::Knn;
use crate::output::{print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    checkpoint: Option<&'a Path>,
    train: String,
    test: String,
    knn: &'a [KnnAccuracy],
}

/// Measures kNN accuracy for every k and temperature asked for.
pub fn eval_knn(args: &Knn, stop: &Stop) -> anyhow::Result<()> {
    let configs = configs(&args.k, &args.temperature)?;
    let (plan, checkpoint) = setup::trained(&args.run)?;
    let [train, test] = sets(&plan, args.train.as_deref(), args.test.as_deref())?;

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
    let bank = collect(&train, "training images")?;
    let queries = collect(&test, "test images")?;
    let result = knn(&bank, Queries::Of(&queries), &configs, &device)?;

    if args.json {
        return print_json(&Report {
            checkpoint: (!args.untrained).then_some(&checkpoint),
            train: train.describe(),
            test: test.describe(),
            knn: &result,
        });
    }
    let mut lines = vec![format!(
        "{:>6} {:>12} {:>10}",
        "k", "temperature", "accuracy"
    )];
    lines.extend(result.iter().map(|row| {
        format!(
            "{:>6} {:>12} {:>8.2} %",
            row.config.k,
            row.config.temperature,
            100.0 * row.accuracy
        )
    }));
    print(&lines.join("\n"))
}

/// The labelled sets of an evaluation: those given, or else the run's own.
pub fn sets(
    plan: &Plan,
    train: Option<&Path>,
    test: Option<&Path>,
) -> Result<[Arc<dyn Source>; 2], TrainError> {
    let train = match train {
        Some(path) => data::open(path, Format::Auto)?,
        None => setup::training_images(plan)?,
    };
    let test_path = test.or(plan.data.test.as_deref()).ok_or_else(|| {
        TrainError::Recipe("the run has no test images: give --test PATH".to_string())
    })?;
    let test = data::open(test_path, Format::Auto)?;
    setup::same_classes(train.as_ref(), test.as_ref(), test_path)?;
    Ok([train, test])
}

fn configs(ks: &[usize], temperatures: &[f64]) -> Result<Vec<KnnConfig>, TrainError> {
    if ks.contains(&0) {
        return Err(TrainError::Recipe(
            "--k 0: at least one neighbour votes".to_string(),
        ));
    }
    if let Some(wrong) = temperatures.iter().find(|t| t.is_nan() || **t <= 0.0) {
        return Err(TrainError::Recipe(format!(
            "--temperature {wrong}: it must be above 0"
        )));
    }
    let all = |&k: &usize| {
        temperatures
            .iter()
            .map(move |&temperature| KnnConfig { k, temperature })
    };
    Ok(ks.iter().flat_map(all).collect())
}

/// Of what a plan says about its own data; kept apart so that `quickstart` can use it too.
pub fn accuracy(
    layer: Layer,
    network: &swav_model::Network,
    plan: &Plan,
    sets: [&Arc<dyn Source>; 2],
    device: &burn::tensor::Device,
    stop: &Stop,
) -> Result<f64, TrainError> {
    let extraction = Extraction {
        plan,
        device,
        layer,
    };
    let mut progress = Progress::new("kNN");
    let total = sets[0].len() + sets[1].len();
    let bank = extraction.collect(network, sets[0].clone(), stop, |done| {
        progress.update(done, total);
    })?;
    let queries = extraction.collect(network, sets[1].clone(), stop, |done| {
        progress.update(sets[0].len() + done, total);
    })?;
    let config = KnnConfig {
        k: 20,
        temperature: 0.1,
    };
    Ok(knn(&bank, Queries::Of(&queries), &[config], device)?[0].accuracy)
}
