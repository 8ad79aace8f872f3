//! What the recipe leaves out.

use swav_data::CropSpec;
use swav_model::{BackboneConfig, NetworkConfig, Stem};

use super::TrainPlan;
use crate::TrainError;
use crate::config::{OnCollapse, Recipe};
use crate::facts::Facts;
use crate::ledger::Ledger;
use crate::method::Defaults;
use crate::optim::{OptimizerName, OptimizerPlan, Schedule};
use crate::precision::{Bf16, Precision};
use crate::span::{Interval, Span};

/// Small images keep their size in two crops; larger ones get small crops besides.
pub(super) fn crops(recipe: &Recipe, facts: &Facts, ledger: &mut Ledger) -> Vec<CropSpec> {
    if !recipe.crops.is_empty() {
        return recipe.crops.clone();
    }
    let crop = |count, size, scale| CropSpec { count, size, scale };
    let (crops, why) = match facts.side {
        0..=48 => (
            vec![crop(2, facts.side.max(16), [0.14, 1.0])],
            format!("images of {} px: two crops of the whole size", facts.side),
        ),
        side @ 49..=160 => {
            let large = (side.min(96) / 8) * 8;
            (
                vec![
                    crop(2, large, [0.14, 1.0]),
                    crop(4, (large / 16) * 8, [0.05, 0.14]),
                ],
                format!("images of {side} px: two large crops and four small ones"),
            )
        }
        side if facts.accelerated => (
            vec![crop(2, 224, [0.14, 1.0]), crop(6, 96, [0.05, 0.14])],
            format!("images of {side} px on a GPU: the paper's 2×224 + 6×96"),
        ),
        side => (
            vec![crop(2, 96, [0.14, 1.0]), crop(4, 48, [0.05, 0.14])],
            format!("images of {side} px on the CPU: 2×224 would take days"),
        ),
    };
    let text: Vec<_> = crops
        .iter()
        .map(|crop| format!("{}x{}", crop.count, crop.size))
        .collect();
    ledger.note("crops", text.join("+"), why);
    crops
}

pub(super) fn train(
    recipe: &Recipe,
    defaults: &Defaults,
    facts: &Facts,
    ledger: &mut Ledger,
) -> TrainPlan {
    let wanted = &recipe.train;
    let sixteenth = (facts.images / 16).max(1);
    let batch_size = ledger.or(
        wanted.batch_size,
        "train.batch_size",
        (1 << sixteenth.ilog2()).clamp(2.min(facts.images), 256),
        "a power of two, at most 256 and a sixteenth of the images",
    );
    let accumulate = wanted.accumulate.unwrap_or(1).max(1);
    let steps_per_epoch = (facts.images / batch_size.max(1)) as u64;
    let epochs = match defaults.trains {
        false => wanted.epochs.unwrap_or(0),
        true => ledger.or(
            wanted.epochs,
            "train.epochs",
            3000_u64.div_ceil(steps_per_epoch.max(1)).clamp(100, 800),
            "at least 100 and 3,000 steps, at most 800",
        ),
    };
    let steps = epochs.checked_mul(steps_per_epoch).unwrap_or_else(|| {
        let problem = format!("train.epochs = {epochs} is more than can be counted");
        ledger.problems.push(problem);
        0
    });
    let every = |span: Option<Span>, default: u64| match span {
        Some(span) => Interval::of(span, steps_per_epoch),
        None => Interval::every(default),
    };
    let (fastest, why) = match facts.bf16 {
        Bf16::Faster => (
            Precision::Bf16,
            "the device is faster with maps of 16 bits, and they take half of the memory",
        ),
        Bf16::Smaller => (
            Precision::F32,
            "the device is not faster with bf16, which would halve the memory of the maps",
        ),
        Bf16::Missing => (Precision::F32, "the device has no bf16"),
    };
    let precision = ledger.or(wanted.precision, "train.precision", fastest, why);
    ledger.require(precision == fastest || facts.bf16 != Bf16::Missing, || {
        format!("train.precision = {precision}: the device has no {precision}; take {fastest}")
    });
    let log_steps = if facts.accelerated { 10 } else { 1 };
    let mut plan = TrainPlan {
        epochs,
        batch_size,
        ranks: None,
        accumulate,
        precision,
        checkpoint_activations: wanted.checkpoint_activations.unwrap_or(false),
        seed: wanted.seed.unwrap_or(0),
        steps_per_epoch,
        steps,
        checkpoint_steps: every(wanted.checkpoint, 500),
        keep: wanted.keep.unwrap_or(3),
        log_steps: every(wanted.log, log_steps),
        knn_steps: match facts.single_labels {
            false => Interval::NEVER,
            true => every(wanted.knn, steps_per_epoch.max(1)),
        },
        on_collapse: wanted.on_collapse.unwrap_or(OnCollapse::Stop),
        tensorboard: wanted.tensorboard.unwrap_or(false),
    };
    plan.share_out(facts.ranks, recipe.model.sync_bn.unwrap_or_default());
    plan
}

pub(super) fn model(
    recipe: &Recipe,
    defaults: &Defaults,
    facts: &Facts,
    ledger: &mut Ledger,
) -> Result<NetworkConfig, TrainError> {
    let wanted = &recipe.model;
    let small = facts.side <= 48;
    let (backbone, why) = if facts.accelerated && !small {
        ("resnet50", "a GPU and images of some size")
    } else {
        (
            "resnet18",
            "the smallest backbone, for the CPU or for small images",
        )
    };
    let name = ledger.or(
        wanted.backbone.clone(),
        "model.backbone",
        backbone.to_string(),
        why,
    );
    let stem = match (wanted.stem, small) {
        (Some(stem), _) => stem,
        (None, true) => {
            ledger.note("model.stem", "cifar", "small images: 3×3 stem, no pooling");
            Stem::Cifar
        }
        (None, false) => Stem::Imagenet,
    };
    let width = wanted.width.unwrap_or(1.0);
    if !(width > 0.0 && width <= 16.0) {
        return Err(TrainError::Recipe(format!(
            "model.width = {width} must lie above 0 and at most at 16"
        )));
    }
    let backbone = BackboneConfig {
        name: name
            .parse()
            .map_err(|error| TrainError::Recipe(format!("model.backbone: {error}")))?,
        width,
        stem,
    };
    let hidden = match (wanted.hidden, defaults.hidden) {
        (None, Some(hidden)) => hidden,
        (hidden, _) => ledger.or(
            hidden,
            "model.hidden",
            backbone.dim().min(2048),
            "as wide as the features, at most 2048",
        ),
    };
    let dim = match defaults.dim {
        Some((dim, why)) => ledger.or(wanted.dim, "model.dim", dim, why),
        None => wanted.dim.unwrap_or(128),
    };
    let prototypes = match (&wanted.prototypes, defaults.heads) {
        (Some(counts), _) => counts.clone(),
        (None, 0) => Vec::new(),
        (None, heads) => {
            let derived = vec![prototypes_for(facts); heads];
            ledger.note(
                "model.prototypes",
                format!("{derived:?}"),
                "2.65 √images, at least 10 × the classes, at most 3000 and a quarter of the images",
            );
            derived
        }
    };
    Ok(NetworkConfig {
        backbone,
        hidden,
        head_norm: wanted.head_norm.unwrap_or(defaults.head_norm),
        dim,
        prototypes,
    })
}

/// The paper's 3000 at ImageNet's 1.28 million images, growing with the square root of their
/// number, and never so many that a prototype could not expect four images.
fn prototypes_for(facts: &Facts) -> usize {
    let by_images = (2.65 * (facts.images as f64).sqrt()).round() as usize;
    let limit = (facts.images / 4).clamp(2, 3000);
    by_images.max(10 * facts.classes).clamp(2, limit)
}

pub(super) fn optimizer(
    recipe: &Recipe,
    defaults: &Defaults,
    facts: &Facts,
    train: &TrainPlan,
    ledger: &mut Ledger,
) -> OptimizerPlan {
    let wanted = &recipe.optimizer;
    let own = defaults.optimizer.as_ref();
    let name = wanted.name.unwrap_or_else(|| {
        let (name, why) = match own {
            Some(own) => (own.name, own.why),
            None if facts.images >= 100_000 => (OptimizerName::Larc, "the paper's, for large sets"),
            None => (OptimizerName::Adam, "small sets see too few steps for LARC"),
        };
        ledger.note("optimizer.name", name.as_str(), why);
        name
    });
    let decay = match own.filter(|own| own.name == name) {
        Some(own) => ledger.or(
            wanted.weight_decay,
            "optimizer.weight_decay",
            own.weight_decay,
            own.why,
        ),
        None => wanted.weight_decay.unwrap_or(1e-6),
    };
    let batch = train.batch_size as f64;
    let (rate, why) = match name {
        OptimizerName::Larc => {
            let small = (0.6 * batch / 256.0).min(4.8);
            (
                small.max(4.8 * batch / 4096.0),
                "linear in the batch: 0.6 at 256, 4.8 from 2048 to 4096",
            )
        }
        OptimizerName::Sgd => (0.03 * batch / 256.0, "linear in the batch: 0.03 at 256"),
        OptimizerName::Adam | OptimizerName::Adamw => {
            (1e-3 * batch / 128.0, "linear in the batch: 0.001 at 128")
        }
    };
    let lr = ledger.or(wanted.lr, "optimizer.lr", rate, why);
    let final_lr = ledger.or(
        wanted.final_lr,
        "optimizer.final_lr",
        lr / 1000.0,
        "a thousandth of the learning rate",
    );
    let warmup = match wanted.warmup {
        Some(span) => span.steps(train.steps_per_epoch),
        None if train.batch_size >= 2048 => {
            ledger.note("optimizer.warmup", "10 epochs", "a large batch");
            train.steps_per_epoch.saturating_mul(10)
        }
        None => 0,
    };
    OptimizerPlan {
        name,
        momentum: wanted.momentum.unwrap_or(0.9),
        weight_decay: decay,
        exclude_bias_and_norm: wanted.exclude_bias_and_norm.unwrap_or(false),
        schedule: Schedule {
            start: wanted.start_lr.unwrap_or(lr / 16.0),
            base: lr,
            end: final_lr,
            warmup,
            steps: train.steps,
        },
    }
}
