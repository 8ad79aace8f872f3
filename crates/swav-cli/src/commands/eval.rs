//! `swav eval knn`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use swav_data::{Format, Source};
use swav_eval::{Extraction, Features, KnnAccuracy, KnnConfig, Layer, Queries, knn};
use swav_model::Network;
use swav_train::observe::display::Progress;
use swav_train::{Plan, Stop, TrainError, data};

use super::setup::{self, Trained};
use crate::args::Knn;
use crate::output::{print, print_json};

/// What `--json` prints of each network.
#[derive(Serialize)]
struct Report {
    checkpoint: Option<PathBuf>,
    epoch: Option<f64>,
    train: String,
    test: String,
    knn: Vec<KnnAccuracy>,
}

/// Measures kNN accuracy for every k and temperature asked for, of every network.
pub fn eval_knn(args: &Knn, stop: &Stop) -> anyhow::Result<()> {
    let configs = configs(&args.k, &args.temperature)?;
    let runs = setup::all_trained(&args.runs)?;
    let sets = sets_of_all(&runs, args.train.as_deref(), args.test.as_deref())?;
    let device = args.device.device.open()?.device;
    let mut reports = Vec::with_capacity(runs.len());
    for (run, [train, test]) in runs.iter().zip(&sets) {
        let network = run.network(args.untrained, &device)?;
        let extraction = Extraction {
            plan: &run.plan,
            device: &device,
            layer: Layer::Features,
        };
        let bank = collect(&extraction, &network, train, "training images", stop)?;
        let queries = collect(&extraction, &network, test, "test images", stop)?;
        reports.push(Report {
            checkpoint: (!args.untrained).then(|| run.checkpoint.clone()),
            epoch: run.epoch.filter(|_| !args.untrained),
            train: train.describe(),
            test: test.describe(),
            knn: knn(&bank, Queries::Of(&queries), &configs, &device)?,
        });
    }

    match reports.as_slice() {
        [report] if args.json => print_json(report),
        reports if args.json => print_json(&reports),
        reports => print(&table(&runs, reports)),
    }
}

/// A line for each network, k and temperature; one network alone needs no name.
fn table(runs: &[Trained], reports: &[Report]) -> String {
    let head = [format!(
        "{:>6} {:>12} {:>10}",
        "k", "temperature", "accuracy"
    )];
    let rows = |report: &Report| {
        let row = |row: &KnnAccuracy| {
            let KnnConfig { k, temperature } = row.config;
            format!("{k:>6} {temperature:>12} {:>8.2} %", 100.0 * row.accuracy)
        };
        report.knn.iter().map(row).collect::<Vec<_>>()
    };
    if let [report] = reports {
        return [&head[..], &rows(report)].concat().join("\n");
    }
    let names = Names::of(runs);
    let mut lines = vec![format!("{} {}", names.head(), head[0])];
    for (run, report) in runs.iter().zip(reports) {
        let named = rows(report)
            .into_iter()
            .map(|row| format!("{} {row}", names.row(run, report.epoch)));
        lines.extend(named);
    }
    lines.join("\n")
}

/// The columns that tell networks apart.
pub struct Names {
    width: usize,
}

impl Names {
    /// As wide as the longest name.
    pub fn of(runs: &[Trained]) -> Self {
        let width = runs.iter().map(|run| run.name.chars().count()).max();
        Self {
            width: width.unwrap_or(0).max(NETWORK.len()),
        }
    }

    /// What stands above them.
    pub fn head(&self) -> String {
        format!("{NETWORK:<width$} {:>7}", "epoch", width = self.width)
    }

    /// One network, and how long it was trained.
    pub fn row(&self, run: &Trained, epoch: Option<f64>) -> String {
        let epoch = epoch.map_or("–".to_string(), |epoch| format!("{epoch:.2}"));
        format!("{:<width$} {epoch:>7}", run.name, width = self.width)
    }
}

const NETWORK: &str = "network";

/// All features of `source`, with a bar that says how far it is.
pub fn collect(
    extraction: &Extraction,
    network: &Network,
    source: &Arc<dyn Source>,
    what: &str,
    stop: &Stop,
) -> Result<Features, TrainError> {
    let mut progress = Progress::new(what);
    let total = source.len();
    extraction.collect(network, source.clone(), stop, |done| {
        progress.update(done, total);
    })
}

/// The sets of every network; those of one run are opened once.
pub fn sets_of_all(
    runs: &[Trained],
    train: Option<&Path>,
    test: Option<&Path>,
) -> Result<Vec<[Arc<dyn Source>; 2]>, TrainError> {
    let mut all: Vec<[Arc<dyn Source>; 2]> = Vec::with_capacity(runs.len());
    for (i, run) in runs.iter().enumerate() {
        let same = (0..i).find(|&before| runs[before].plan.data == run.plan.data);
        all.push(match same {
            Some(before) => all[before].clone(),
            None => sets(&run.plan, train, test)?,
        });
    }
    Ok(all)
}

/// The labelled sets of an evaluation: those given, or else the run's own.
pub fn sets(
    plan: &Plan,
    train: Option<&Path>,
    test: Option<&Path>,
) -> Result<[Arc<dyn Source>; 2], TrainError> {
    let train = match train {
        Some(path) => setup::open(path, Format::Auto)?,
        None => setup::training_images(plan)?,
    };
    let test_path = test.or(plan.data.test.as_deref()).ok_or_else(|| {
        TrainError::Recipe("the run has no test images: give --test PATH".to_string())
    })?;
    let test = setup::open(test_path, Format::Auto)?;
    let test = data::of_classes(test, train.classes(), test_path)?;
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
    network: &Network,
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
