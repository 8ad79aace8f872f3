//! What each command prints and leaves behind when all is well.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::help::Help;
use common::requires::{Python, workspace};
use common::{Space, TINY, TINY_DIM, png};
use serde_json::{Value, json};
use swav_train::method::MethodName;
use swav_train::optim::OptimizerName;
use swav_train::precision::Bf16;
use swav_train::{Facts, Plan, Recipe, Span};

const CLASSES: [&str; 3] = ["birds", "boats", "trees"];

/// A place with two labelled sets.
fn space() -> Space {
    let space = Space::new();
    space.classes("set", &CLASSES, 8);
    space.classes("held", &CLASSES, 4);
    space
}

/// The same with a finished run of six steps.
fn trained() -> Space {
    let space = space();
    space
        .swav("train --data set --test held --out run")
        .sets(TINY)
        .run()
        .succeeded();
    space
}

// Help and devices

#[test]
fn every_command_has_a_summary_and_every_flag_a_help_text() {
    let commands = Help::of_all();
    for (name, help) in &commands {
        assert!(!help.summary.is_empty(), "swav {name} has no summary");
        assert!(help.flags.contains_key("--help"), "swav {name}: {help:?}");
        for (entry, text) in help.entries() {
            assert!(!text.is_empty(), "swav {name}: {entry} has no help text");
        }
    }
    for known in ["", "train", "eval finetune", "data scan", "export"] {
        assert!(commands.contains_key(known), "{known}: {commands:?}");
    }
    let version = Space::new().swav("--version").run().succeeded().stdout;
    assert_eq!(version.trim(), concat!("swav ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_readme_names_no_command_and_no_flag_that_does_not_exist() {
    let commands = Help::of_all();
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let blocks = readme.lines().filter_map(|line| line.strip_prefix("    "));
    let spans = readme.split('`').skip(1).step_by(2);
    let mut count = 0;
    for line in blocks.chain(spans) {
        let Some(call) = line.strip_prefix("swav ") else {
            continue;
        };
        count += 1;
        let mut words = call.split_whitespace().peekable();
        let mut name = String::new();
        while !commands[&name].commands.is_empty()
            && let Some(word) = words.next_if(|word| !word.starts_with('-'))
        {
            name = format!("{name} {word}").trim().to_string();
            assert!(commands.contains_key(&name), "no such command: {line}");
        }
        for word in words.filter(|word| word.starts_with("--")) {
            let flag = word.trim_end_matches(|c: char| !c.is_alphabetic());
            let known = commands[&name].flags.contains_key(flag);
            assert!(known, "no such flag: {flag} in {line}");
        }
    }
    assert!(count > 15, "{count} command lines");
}

#[test]
fn a_benchmark_prints_a_line_of_figures_and_is_no_command_for_users() {
    let space = Space::new();
    let help = space.swav("--help").run().succeeded();
    assert!(!help.stdout.contains("bench"), "{}", help.stdout);
    let cases = [
        "step --arch cifar10-slim --crops 2x16 --batch 4 --prototypes 8",
        "sinkhorn --sizes 64x30,2x16x10",
        "kmeans --samples 64 --dim 8 --centroids 4",
    ];
    for case in cases {
        let call = format!("bench {case} --device cpu");
        let told = space.swav(&call).run().succeeded();
        assert_eq!(told.stdout.lines().count(), 1, "{case}");
        let figures = told.json();
        assert_eq!(figures["device"], "cpu", "{case}");
        match case.starts_with("step") {
            true => assert!(figures["images_per_s"].as_f64() > Some(0.0), "{figures}"),
            false => assert!(
                figures["rows"]
                    .as_array()
                    .is_some_and(|rows| rows.len() >= 2)
            ),
        }
    }
    for (wrong, part) in [
        ("step --crops 2x", "2x"),
        ("step --arch resnet19", "resnet19"),
        ("kmeans --samples 2", "--samples 2"),
    ] {
        let call = format!("bench {wrong} --device cpu");
        space.swav(&call).run().failed(2, &[part]);
    }
}

#[test]
fn devices_are_listed_and_one_of_them_is_the_default() {
    let space = Space::new();
    let output = space.swav("devices").run().succeeded();
    assert!(output.stdout.contains("cpu"), "{}", output.told());
    assert_eq!(output.stdout.matches("(auto)").count(), 1);

    let rows = space.swav("devices --json").run().succeeded().json();
    let rows = rows.as_array().unwrap();
    let default = rows.iter().filter(|row| row["default"] == true).count();
    assert_eq!(default, 1);
    let cpu = rows.iter().find(|row| row["device"] == "cpu").unwrap();
    assert_eq!(cpu["accelerated"], false);
    assert!(cpu["name"].as_str().unwrap().contains("CPU"));
}

// Plan

#[test]
fn plan_derives_a_whole_recipe_from_a_folder_and_says_why() {
    let space = space();
    let output = space.swav("plan --data set --device cpu").run().succeeded();
    for part in [
        "24 images in 3 classes",
        "crops",
        "train.batch_size",
        "a power of two",
        "model.prototypes",
        "optimizer.lr",
        "linear in the batch",
        "memory",
        "time",
    ] {
        assert!(output.stdout.contains(part), "{part}\n{}", output.told());
    }
    assert!(output.stderr.is_empty(), "{}", output.told());
}

#[test]
fn plan_as_json_holds_the_plan_with_every_reason() {
    let space = space();
    let told = space
        .swav("plan --data set --device cpu --json")
        .set("train.epochs=7")
        .run()
        .succeeded()
        .json();
    assert_eq!(told["plan"]["data"]["images"], 24);
    assert_eq!(told["plan"]["data"]["classes"], 3);
    assert_eq!(told["plan"]["train"]["epochs"], 7);
    assert_eq!(told["plan"]["train"]["batch_size"], 2);
    assert_eq!(told["plan"]["train"]["steps"], 7 * 12);
    assert_eq!(told["plan"]["model"]["backbone"]["name"], "resnet18");
    assert!(told["parameters"].as_u64().unwrap() > 10_000_000);
    assert!(told["memory_bytes"].as_u64().unwrap() > 100_000_000);
    assert!(told["seconds"].as_f64().unwrap() > 0.0);
    let derived = told["derived"].as_array().unwrap();
    let reason = |field: &str| {
        let note = derived.iter().find(|note| note["field"] == field)?;
        note["why"].as_str().filter(|why| why.len() > 5)
    };
    for field in [
        "crops",
        "train.batch_size",
        "model.backbone",
        "model.stem",
        "model.hidden",
        "model.prototypes",
        "method.freeze",
        "optimizer.name",
        "optimizer.lr",
        "optimizer.final_lr",
    ] {
        assert!(reason(field).is_some(), "{field}: {derived:?}");
    }
    assert_eq!(
        reason("train.epochs"),
        None,
        "what was given is not derived"
    );
}

#[test]
fn plan_leaves_nothing_behind() {
    let space = space();
    space.swav("plan --data set").run().succeeded();
    let mut left: Vec<_> = fs::read_dir(space.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["held", "set"]);
}

#[test]
fn the_plan_shown_is_the_plan_that_runs() {
    let space = trained();
    let shown = space
        .swav("plan --data set --test held --json")
        .sets(TINY)
        .run()
        .succeeded()
        .json();
    let saved = fs::read_to_string(space.path("run/plan.toml")).unwrap();
    let saved: Value = toml::from_str(&saved).unwrap();
    assert_eq!(without_nulls(&shown["plan"]), saved);
}

/// TOML has no null: it leaves such a field out.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.clone(), without_nulls(value)))
            .collect(),
        _ => value.clone(),
    }
}

// The recipes in configs/

fn configs() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs"))
}

/// ImageNet on a GPU.
const IMAGENET: Facts = Facts {
    images: 1_281_167,
    classes: 1000,
    single_labels: true,
    side: 400,
    accelerated: true,
    bf16: Bf16::Smaller,
    memory: None,
    ranks: 1,
    digest: None,
};

fn planned(name: &str, facts: &Facts) -> Plan {
    let mut recipe = Recipe::from_file(&configs().join(name)).unwrap();
    recipe.data.path = Some("images".into());
    Plan::derive(&recipe, facts).unwrap()
}

#[test]
fn every_recipe_that_ships_can_be_carried_out_on_imagenet() {
    let mut count = 0;
    for entry in fs::read_dir(configs()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".toml") {
            let plan = planned(&name, &IMAGENET);
            assert!(plan.train.steps > 0, "{name}");
            let text = toml::to_string(&plan).unwrap();
            assert_eq!(toml::from_str::<Plan>(&text).unwrap().train, plan.train);
            count += 1;
        }
    }
    assert!(count >= 12, "{count} recipes");
}

/// One line of the paper's table of settings (Caron et al., NeurIPS 2020, appendix A and the
/// published scripts).
struct Published {
    config: &'static str,
    crops: &'static [(usize, usize, [f32; 2])],
    backbone: &'static str,
    hidden: usize,
    epochs: u64,
    batch: usize,
    steps_per_epoch: u64,
    rate: (f64, f64),
    warmup: u64,
    freeze: u64,
    /// Length and first step.
    queue: Option<(usize, u64)>,
}

const MULTI: &[(usize, usize, [f32; 2])] = &[(2, 224, [0.14, 1.0]), (6, 96, [0.05, 0.14])];

const LARGE: Published = Published {
    config: "",
    crops: MULTI,
    backbone: "resnet50",
    hidden: 2048,
    epochs: 0,
    batch: 4096,
    steps_per_epoch: 312,
    rate: (4.8, 0.0048),
    warmup: 3120,
    freeze: 313,
    queue: None,
};

const SMALL: Published = Published {
    batch: 256,
    steps_per_epoch: 5004,
    rate: (0.6, 0.0006),
    warmup: 0,
    freeze: 5005,
    queue: Some((3840, 15 * 5004)),
    ..LARGE
};

const PUBLISHED: &[Published] = &[
    Published {
        config: "swav-100ep.toml",
        epochs: 100,
        ..LARGE
    },
    Published {
        config: "swav-200ep.toml",
        epochs: 200,
        ..LARGE
    },
    Published {
        config: "swav-400ep.toml",
        epochs: 400,
        ..LARGE
    },
    Published {
        config: "swav-800ep.toml",
        epochs: 800,
        ..LARGE
    },
    Published {
        config: "swav-400ep-2x224.toml",
        crops: &[(2, 224, [0.08, 1.0])],
        epochs: 400,
        ..LARGE
    },
    Published {
        config: "swav-200ep-batch256.toml",
        epochs: 200,
        ..SMALL
    },
    Published {
        config: "swav-400ep-batch256.toml",
        epochs: 400,
        ..SMALL
    },
    Published {
        config: "swav-400ep-w2.toml",
        crops: &[(2, 224, [0.14, 1.0]), (4, 96, [0.05, 0.14])],
        backbone: "resnet50w2",
        hidden: 8192,
        epochs: 400,
        ..LARGE
    },
    Published {
        config: "swav-400ep-w4.toml",
        crops: &[(2, 224, [0.08, 1.0]), (4, 96, [0.08, 0.14])],
        backbone: "resnet50w4",
        hidden: 8192,
        epochs: 400,
        batch: 2560,
        steps_per_epoch: 500,
        warmup: 5000,
        queue: Some((2560, 0)),
        ..LARGE
    },
];

#[test]
fn the_recipes_of_the_paper_become_the_settings_of_the_paper() {
    for published in PUBLISHED {
        let name = published.config;
        let plan = planned(name, &IMAGENET);
        let crops: Vec<_> = plan
            .crops
            .iter()
            .map(|crop| (crop.count, crop.size, crop.scale))
            .collect();
        assert_eq!(crops, published.crops, "{name}");
        assert_eq!(
            plan.model.backbone.name.to_string(),
            published.backbone,
            "{name}"
        );
        assert_eq!(plan.model.backbone.width, 1.0, "{name}");
        assert_eq!(plan.model.hidden, published.hidden, "{name}");
        assert_eq!(plan.model.dim, 128, "{name}");
        assert_eq!(plan.model.prototypes, [3000], "{name}");

        assert_eq!(plan.train.epochs, published.epochs, "{name}");
        assert_eq!(plan.train.batch_size, published.batch, "{name}");
        assert_eq!(
            plan.train.steps_per_epoch, published.steps_per_epoch,
            "{name}"
        );
        assert_eq!(
            plan.train.steps,
            published.epochs * published.steps_per_epoch,
            "{name}"
        );

        assert_eq!(plan.optimizer.name, OptimizerName::Larc, "{name}");
        assert_eq!(plan.optimizer.momentum, 0.9, "{name}");
        assert_eq!(plan.optimizer.weight_decay, 1e-6, "{name}");
        assert!(!plan.optimizer.exclude_bias_and_norm, "{name}");
        let schedule = &plan.optimizer.schedule;
        assert_eq!((schedule.base, schedule.end), published.rate, "{name}");
        assert_eq!(schedule.warmup, published.warmup, "{name}");
        assert_eq!(schedule.steps, plan.train.steps, "{name}");
        if published.warmup > 0 {
            assert_eq!(schedule.start, 0.3, "{name}");
            assert_eq!(schedule.at(0), 0.3, "{name}");
        } else {
            assert_eq!(schedule.at(0), published.rate.0, "{name}");
        }
        let last = schedule.at(plan.train.steps - 1);
        assert!(
            (last / published.rate.1 - 1.0).abs() < 0.01,
            "{name}: {last}"
        );

        assert_eq!(plan.method.swav().unwrap().temperature, 0.1, "{name}");
        assert_eq!(plan.method.swav().unwrap().epsilon, 0.05, "{name}");
        assert_eq!(plan.method.swav().unwrap().iterations, 3, "{name}");
        assert_eq!(plan.method.swav().unwrap().assign, [0, 1], "{name}");
        assert_eq!(
            plan.method.swav().unwrap().freeze_steps,
            published.freeze,
            "{name}"
        );
        let queue = plan
            .method
            .swav()
            .unwrap()
            .queue
            .map(|queue| (queue.length, queue.start_step));
        assert_eq!(queue, published.queue, "{name}");
    }
}

#[test]
fn every_recipe_of_the_paper_is_held_to_it() {
    for entry in fs::read_dir(configs()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let held = PUBLISHED.iter().any(|published| published.config == name);
        assert!(
            held || !name.starts_with("swav-"),
            "{name} is not in the table"
        );
    }
}

/// A method that SwAV is compared with, on ImageNet (Caron et al., NeurIPS 2020, appendix A.8; Chen et al.,
/// "Improved Baselines with Momentum Contrastive Learning", 2020).
struct Compared {
    config: &'static str,
    crops: &'static [(usize, usize, [f32; 2])],
    epochs: u64,
    batch: usize,
    head: [usize; 2],
    optimizer: OptimizerName,
    rate: (f64, f64),
    warmup_epochs: u64,
    decay: f64,
    method: Value,
}

#[test]
fn the_recipes_of_the_compared_methods_become_the_settings_of_their_papers() {
    const TWO: &[(usize, usize, [f32; 2])] = &[(2, 224, [0.08, 1.0])];
    const SIX: &[(usize, usize, [f32; 2])] = &[(2, 160, [0.08, 1.0]), (4, 96, [0.05, 0.14])];
    let simclr = |config, crops| Compared {
        config,
        crops,
        epochs: 400,
        batch: 4096,
        head: [2048, 128],
        optimizer: OptimizerName::Larc,
        rate: (4.8, 0.0048),
        warmup_epochs: 10,
        decay: 1e-6,
        method: json!({ "name": "simclr", "temperature": 0.1 }),
    };
    let supervised = |config, crops| Compared {
        config,
        crops,
        epochs: 400,
        batch: 4096,
        head: [0, 1000],
        optimizer: OptimizerName::Sgd,
        rate: (1.6, 0.0),
        warmup_epochs: 5,
        decay: 1e-4,
        method: json!({ "name": "supervised", "classes": 1000, "smoothing": 0.0 }),
    };
    let moco = Compared {
        config: "moco-v2-200ep.toml",
        crops: &[(2, 224, [0.2, 1.0])],
        epochs: 200,
        batch: 256,
        head: [2048, 128],
        optimizer: OptimizerName::Sgd,
        rate: (0.03, 0.0),
        warmup_epochs: 0,
        decay: 1e-4,
        method: json!({
            "name": "moco-v2",
            "temperature": 0.2,
            "momentum": 0.999,
            "queue": 65536,
            "key_groups": 8,
        }),
    };
    for wanted in [
        simclr("simclr-400ep-2x224.toml", TWO),
        simclr("simclr-400ep.toml", SIX),
        supervised("supervised-400ep-2x224.toml", TWO),
        supervised("supervised-400ep.toml", SIX),
        moco,
    ] {
        let (name, plan) = (wanted.config, planned(wanted.config, &IMAGENET));
        let crops: Vec<_> = plan
            .crops
            .iter()
            .map(|crop| (crop.count, crop.size, crop.scale))
            .collect();
        assert_eq!(crops, wanted.crops, "{name}");
        assert_eq!(plan.model.backbone.name.to_string(), "resnet50", "{name}");
        assert_eq!([plan.model.hidden, plan.model.dim], wanted.head, "{name}");
        assert!(plan.model.prototypes.is_empty(), "{name}");
        assert_eq!(plan.train.epochs, wanted.epochs, "{name}");
        assert_eq!(plan.train.batch_size, wanted.batch, "{name}");
        assert_eq!(plan.optimizer.name, wanted.optimizer, "{name}");
        assert_eq!(plan.optimizer.momentum, 0.9, "{name}");
        assert_eq!(plan.optimizer.weight_decay, wanted.decay, "{name}");
        let schedule = &plan.optimizer.schedule;
        assert_eq!((schedule.base, schedule.end), wanted.rate, "{name}");
        let warmup = wanted.warmup_epochs * plan.train.steps_per_epoch;
        assert_eq!(schedule.warmup, warmup, "{name}");
        assert_eq!(serde_json::to_value(&plan.method).unwrap(), wanted.method);
    }
}

#[test]
fn moco_has_the_augmentation_of_its_paper() {
    let augment = planned("moco-v2-200ep.toml", &IMAGENET).augment;
    let jitter = &augment.jitter;
    assert_eq!(jitter.probability, 0.8);
    let ranges = [jitter.brightness, jitter.contrast, jitter.saturation];
    assert_eq!((ranges, jitter.hue), ([0.4; 3], 0.1));
    assert_eq!((augment.grey, augment.blur.probability), (0.2, 0.5));
    assert_eq!((augment.blur.sigma, augment.flip), ([0.1, 2.0], 0.5));
}

#[test]
fn moco_is_optimised_as_in_its_paper_where_nothing_is_said() {
    let recipe = |text: &str| {
        let mut recipe = Recipe::from_toml(text, "test").unwrap();
        recipe.data.path = Some("images".into());
        Plan::derive(&recipe, &IMAGENET).unwrap().optimizer
    };
    let own = recipe("[method]\nname = \"moco-v2\"\n[train]\nbatch_size = 512\n");
    assert_eq!((own.name, own.weight_decay), (OptimizerName::Sgd, 1e-4));
    assert_eq!(own.schedule.base, 0.06);
    let given = "[method]\nname = \"moco-v2\"\n[optimizer]\nname = \"larc\"\nweight_decay = 0.0\n";
    let given = recipe(given);
    assert_eq!((given.name, given.weight_decay), (OptimizerName::Larc, 0.0));
    let swav = recipe("[optimizer]\nname = \"sgd\"\n");
    assert_eq!(swav.weight_decay, 1e-6, "the decay is MoCo's, not SGD's");
}

#[test]
fn the_slim_recipes_differ_in_the_method_alone() {
    let facts = Facts {
        images: 50_000,
        classes: 10,
        single_labels: true,
        side: 32,
        accelerated: false,
        bf16: Bf16::Smaller,
        memory: None,
        ranks: 1,
        digest: None,
    };
    let swav = planned("cifar10-slim.toml", &facts);
    for method in ["simclr", "moco-v2", "supervised"] {
        let plan = planned(&format!("cifar10-slim-{method}.toml"), &facts);
        assert_eq!(plan.method.name().as_str(), method);
        assert_eq!(plan.model.backbone, swav.model.backbone, "{method}");
        assert_eq!(plan.crops, swav.crops, "{method}");
        assert_eq!(plan.augment, swav.augment, "{method}");
        assert_eq!(plan.optimizer, swav.optimizer, "{method}");
        assert_eq!(plan.train, swav.train, "{method}");
        assert_eq!(plan.evaluation, swav.evaluation, "{method}");
    }
}

#[test]
fn the_recipe_for_cifar_takes_the_settings_that_comparisons_are_made_with() {
    let facts = Facts {
        images: 50_000,
        classes: 10,
        single_labels: true,
        side: 32,
        accelerated: false,
        bf16: Bf16::Smaller,
        memory: None,
        ranks: 1,
        digest: None,
    };
    let plan = planned("cifar10-slim.toml", &facts);
    assert_eq!(plan.train.steps_per_epoch, 195);
    assert_eq!(plan.model.prototypes, [512]);
    assert_eq!(plan.optimizer.name, OptimizerName::Adam);
    let schedule = &plan.optimizer.schedule;
    assert_eq!((schedule.warmup, schedule.at(195)), (195, 0.002));
    let swav = plan.method.swav().unwrap();
    assert_eq!((swav.temperature, swav.epsilon), (0.1, 0.03));
    assert_eq!((swav.queue, swav.freeze_steps), (None, 0));
    assert_eq!((plan.evaluation.resize, plan.evaluation.size), (32, 32));
}

#[test]
fn a_duration_in_a_recipe_reads_as_it_is_written() {
    let recipe = Recipe::from_file(&configs().join("photos.toml")).unwrap();
    assert_eq!(recipe.optimizer.warmup, Some(Span::Epochs(10.0)));
}

// Train

#[test]
fn train_leaves_a_plan_the_metrics_of_every_step_and_checkpoints() {
    let space = space();
    let output = space
        .swav("train --data set --test held --out run")
        .sets(TINY)
        .set("train.knn=1 epoch")
        .set("train.checkpoint=1 epoch")
        .run()
        .succeeded();
    assert_eq!(output.stdout.lines().count(), 1, "{}", output.told());
    assert!(output.stdout.starts_with("run"), "{}", output.told());
    assert!(output.stdout.contains("kNN"), "{}", output.told());
    assert!(
        output.stderr.contains("24 images in 3 classes"),
        "{}",
        output.told()
    );

    let plan = Plan::load(&space.path("run/plan.toml")).unwrap();
    assert_eq!(plan.train.steps, 6);
    assert!(plan.data.path.is_absolute());
    assert_eq!(space.checkpoints("run"), ["step-00000003", "step-00000006"]);
    for file in ["model.bpk", "optimizer.bpk", "state.json"] {
        assert!(
            space
                .path("run/checkpoints/step-00000006")
                .join(file)
                .is_file()
        );
    }

    let lines = space.metrics("run");
    let (steps, knn): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.get("loss").is_some());
    assert_eq!(steps.len(), 6);
    assert_eq!(knn.len(), 2);
    for (i, line) in steps.iter().enumerate() {
        let number = |field: &str| line[field].as_f64().unwrap_or(f64::NAN);
        assert_eq!(number("step"), (i + 1) as f64);
        assert!(
            (number("epoch") - (i + 1) as f64 / 3.0).abs() < 1e-9,
            "{line}"
        );
        assert!(number("loss") > 0.0, "{line}");
        assert!(number("lr") > 0.0, "{line}");
        assert!(number("images_per_s") > 0.0, "{line}");
        assert!((0.0..=1.0).contains(&number("wait_share")), "{line}");
        assert!(
            (0.0..=8_f64.ln() + 1e-6).contains(&number("code_entropy")),
            "{line}"
        );
        assert!((1.0..=8.0).contains(&number("used_prototypes")), "{line}");
        assert!((0.0..=2.0).contains(&number("spread")), "{line}");
        assert_eq!(number("bad_files"), 0.0);
        assert_eq!(line.as_object().unwrap().len(), 10, "{line}");
    }
    for (line, step) in knn.iter().zip([3, 6]) {
        assert_eq!(line["step"], step);
        assert_eq!(line["k"], 20);
        assert!(
            (0.0..=1.0).contains(&line["knn"].as_f64().unwrap()),
            "{line}"
        );
    }
}

#[test]
fn train_as_json_prints_the_run_and_its_last_accuracy() {
    let space = space();
    let told = space
        .swav("train --data set --out run --json")
        .sets(TINY)
        .set("train.knn=1 epoch")
        .run()
        .succeeded()
        .json();
    assert_eq!(told["run"], "run");
    let last = space.metrics("run").pop().unwrap();
    assert_eq!(told["knn"], last["knn"]);
    assert!(told["knn"].is_f64(), "{told}");
}

#[test]
fn a_run_without_a_name_goes_to_a_numbered_directory() {
    let space = space();
    for run in ["runs/set", "runs/set-2"] {
        let output = space
            .swav("train --data set")
            .sets(TINY)
            .set("train.epochs=1")
            .run()
            .succeeded();
        assert_eq!(Path::new(output.stdout.trim()), Path::new(run));
        assert!(space.path(run).join("plan.toml").is_file());
    }
}

#[test]
fn two_runs_with_one_seed_are_the_same_to_the_bit() {
    let space = trained();
    space
        .swav("train --data set --test held --out again")
        .sets(TINY)
        .run()
        .succeeded();
    assert_eq!(space.losses("run"), space.losses("again"));
}

#[test]
fn a_tar_of_a_folder_trains_to_the_same_losses_as_the_folder() {
    let space = trained();
    let mut builder = tar::Builder::new(fs::File::create(space.path("set.tar")).unwrap());
    for class in CLASSES {
        builder
            .append_dir_all(class, space.path("set").join(class))
            .unwrap();
    }
    builder.finish().unwrap();
    space
        .swav("train --data set.tar --out packed")
        .sets(TINY)
        .run()
        .succeeded();
    assert_eq!(space.losses("run"), space.losses("packed"));
}

// Embed

/// Shape and values of an array as `embed` writes it.
fn read_npy(bytes: &[u8]) -> ([usize; 2], Vec<f32>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!((10 + length).is_multiple_of(64), "NumPy aligns values");
    let head = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
    assert!(head.contains("'descr': '<f4'"), "{head}");
    assert!(head.contains("'fortran_order': False"), "{head}");
    assert!(head.ends_with('\n'), "{head}");
    let (_, shape) = head.split_once("'shape': (").unwrap();
    let (shape, _) = shape.split_once(')').unwrap();
    let sides: Vec<usize> = shape.split(", ").map(|n| n.parse().unwrap()).collect();
    let values = floats(&bytes[10 + length..]);
    assert_eq!(values.len(), sides[0] * sides[1]);
    (sides.try_into().unwrap(), values)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    chunks
        .iter()
        .map(|chunk| f32::from_le_bytes(*chunk))
        .collect()
}

#[test]
fn embed_writes_a_row_per_image_in_both_formats_with_the_same_values() {
    let space = trained();
    let told = space
        .swav("embed run --data held --out a.npy --json")
        .run()
        .succeeded()
        .json();
    assert_eq!(told["rows"], 12);
    assert_eq!(told["dim"], TINY_DIM);
    assert_eq!(told["skipped"], 0);
    let output = space
        .swav("embed run --data held --out b.safetensors")
        .run()
        .succeeded();
    assert_eq!(output.stdout, format!("b.safetensors  12 × {TINY_DIM}\n"));

    let (shape, values) = read_npy(&fs::read(space.path("a.npy")).unwrap());
    assert_eq!(shape, [12, TINY_DIM]);
    assert!(values.iter().all(|value| value.is_finite()));
    assert!(values.iter().any(|value| *value != values[0]));

    let bytes = fs::read(space.path("b.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.names(), ["features"]);
    let tensor = file.tensor("features").unwrap();
    assert_eq!(tensor.shape(), shape);
    assert_eq!(floats(tensor.data()), values);

    let names = fs::read_to_string(space.path("a.npy.csv")).unwrap();
    assert_eq!(
        names,
        fs::read_to_string(space.path("b.safetensors.csv")).unwrap()
    );
    let rows: Vec<Vec<&str>> = names
        .lines()
        .map(|line| line.split(',').collect())
        .collect();
    assert_eq!(rows[0], ["row", "image", "label"]);
    assert_eq!(rows.len(), 13);
    for (i, row) in rows[1..].iter().enumerate() {
        let class = CLASSES[i / 4];
        assert_eq!(row[0], i.to_string());
        assert!(
            Path::new(row[1]).ends_with(format!("{class}/{:03}.png", i % 4)),
            "{row:?}"
        );
        assert_eq!(row[2], class);
    }
}

#[test]
fn embed_gives_the_same_bytes_each_time_and_from_each_name_of_a_checkpoint() {
    let space = trained();
    let read = |name: &str| fs::read(space.path(name)).unwrap();
    for (run, out) in [
        ("run", "a.npy"),
        ("run", "b.npy"),
        ("run/checkpoints/step-00000006", "c.npy"),
    ] {
        space
            .swav(&format!("embed {run} --data held --out {out}"))
            .run()
            .succeeded();
        assert_eq!(read(out), read("a.npy"));
    }
    // An old file is replaced.
    space
        .swav("embed run --data set --out b.npy")
        .run()
        .succeeded();
    assert_ne!(read("b.npy"), read("a.npy"));
}

#[test]
fn embeddings_are_unit_vectors_of_the_length_in_the_recipe() {
    let space = trained();
    space
        .swav("embed run --data held --out a.npy --layer embeddings")
        .run()
        .succeeded();
    let (shape, values) = read_npy(&fs::read(space.path("a.npy")).unwrap());
    assert_eq!(shape, [12, 8]);
    for row in values.chunks(8) {
        let norm: f32 = row.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-5, "{norm}");
    }
}

#[test]
fn embed_takes_unlabelled_images_and_names_with_commas() {
    let space = trained();
    space.file("photos/a, b.png", common::png(0, 1));
    space.file("photos/c.png", common::png(1, 2));
    space
        .swav("embed run --data photos --out a.npy")
        .run()
        .succeeded();
    let names = fs::read_to_string(space.path("a.npy.csv")).unwrap();
    let rows: Vec<&str> = names.lines().collect();
    assert!(rows[1].ends_with("a, b.png\","), "{names}");
    assert!(rows[2].ends_with("c.png,"), "{names}");
}

#[test]
fn embed_writes_parquet_that_begins_and_ends_as_it_should() {
    let space = trained();
    let told = space
        .swav("embed run --data held --out f.parquet --json")
        .run()
        .succeeded()
        .json();
    assert_eq!(
        (&told["rows"], &told["dim"]),
        (&12.into(), &TINY_DIM.into())
    );
    let bytes = fs::read(space.path("f.parquet")).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    assert!(!space.path("f.parquet.csv").exists());
}

// Assign

/// The lines of a CSV without quotes, by the names of their columns.
fn read_csv(text: &str) -> Vec<HashMap<&str, &str>> {
    let mut lines = text.lines().map(|line| line.split(','));
    let names: Vec<&str> = lines.next().unwrap().collect();
    lines
        .map(|line| names.iter().copied().zip(line).collect())
        .collect()
}

#[test]
fn assign_tells_the_cluster_of_each_image_and_how_clear_it_is() {
    let space = trained();
    let output = space
        .swav("assign run --data held --out c.csv")
        .run()
        .succeeded();
    assert!(
        output.stdout.starts_with("c.csv  12 images\n"),
        "{}",
        output.told()
    );
    let text = fs::read_to_string(space.path("c.csv")).unwrap();
    let head = "path,cluster,score,runner_up,runner_up_score,entropy\n";
    assert!(text.starts_with(head), "{text}");
    let rows = read_csv(&text);
    assert_eq!(rows.len(), 12);
    for (i, row) in rows.iter().enumerate() {
        assert!(Path::new(row["path"]).ends_with(format!("{}/{:03}.png", CLASSES[i / 4], i % 4)));
        let cluster = |column: &str| row[column].parse::<usize>().unwrap();
        assert!(
            cluster("cluster") < 8 && cluster("runner_up") < 8,
            "{row:?}"
        );
        assert_ne!(row["cluster"], row["runner_up"]);
        let number = |column: &str| row[column].parse::<f32>().unwrap();
        let (score, next) = (number("score"), number("runner_up_score"));
        assert!(
            (-1.0..=1.000_001).contains(&score) && next <= score,
            "{row:?}"
        );
        assert!(
            (0.0..=8.0_f32.ln() + 1e-5).contains(&number("entropy")),
            "{row:?}"
        );
    }

    let told = space
        .swav("assign run --data held --out c.parquet --json")
        .run()
        .succeeded()
        .json();
    let mut clusters: Vec<&str> = rows.iter().map(|row| row["cluster"]).collect();
    clusters.sort_unstable();
    clusters.dedup();
    assert_eq!(told["images"], 12);
    assert_eq!(told["heads"][0]["prototypes"], 8);
    assert_eq!(told["heads"][0]["used"], clusters.len());
}

#[test]
fn every_head_of_prototypes_has_columns_of_its_own() {
    let space = space();
    space
        .swav("train --data set --out run")
        .sets(TINY)
        .set("model.prototypes=[8,4]")
        .run()
        .succeeded();
    let output = space
        .swav("assign run --data held --out c.csv")
        .run()
        .succeeded();
    assert!(output.stdout.contains("head 1: "), "{}", output.told());
    let text = fs::read_to_string(space.path("c.csv")).unwrap();
    for row in read_csv(&text) {
        assert_eq!(row.len(), 11, "{row:?}");
        assert!(row["cluster_1"].parse::<usize>().unwrap() < 4, "{row:?}");
    }
}

#[test]
fn numpy_pyarrow_and_safetensors_read_the_same_from_their_formats() {
    let Some(python) = Python::with(&["numpy", "pyarrow", "safetensors"]) else {
        return;
    };
    for data in ["held", "flat"] {
        let space = trained();
        space.flat("flat", 5);
        for out in ["f.npy", "f.parquet", "f.safetensors"] {
            space
                .swav(&format!("embed run --data {data} --out {out}"))
                .run()
                .succeeded();
        }
        for out in ["c.csv", "c.parquet"] {
            space
                .swav(&format!("assign run --data {data} --out {out}"))
                .run()
                .succeeded();
        }
        python.run(&space.path(""), "tables.py", &[]);
    }
}

// Eval

#[test]
fn knn_says_what_numpy_says() {
    let Some(python) = Python::with(&["numpy"]) else {
        return;
    };
    let space = trained();
    for (data, out) in [("set", "train.npy"), ("held", "test.npy")] {
        space
            .swav(&format!("embed run --data {data} --out {out}"))
            .run()
            .succeeded();
    }
    let words = ["train.npy", "test.npy", "1,3,20", "0.07,0.5"];
    let wanted = python.run(&space.path(""), "golden/knn.py", &words);
    let wanted: Value = serde_json::from_str(&wanted).unwrap();
    let told = space
        .swav("eval knn run --k 1,3,20 --temperature 0.07,0.5 --json")
        .run()
        .succeeded()
        .json();
    let rows = told["knn"].as_array().unwrap();
    assert_eq!(rows.len(), wanted.as_array().unwrap().len());
    for (row, wanted) in rows.iter().zip(wanted.as_array().unwrap()) {
        for field in ["k", "temperature", "accuracy"] {
            assert_eq!(row[field], wanted[field], "{row} {wanted}");
        }
    }
}

#[test]
fn knn_accuracy_is_told_for_every_k_and_temperature() {
    let space = trained();
    let output = space
        .swav("eval knn run --k 1,5,20 --temperature 0.07,0.1")
        .run()
        .succeeded();
    assert_eq!(output.stdout.lines().count(), 7, "{}", output.told());
    let told = space
        .swav("eval knn run --k 1,5,20 --temperature 0.07,0.1 --json")
        .run()
        .succeeded()
        .json();
    let rows = told["knn"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    for row in rows {
        assert!(
            (0.0..=1.0).contains(&row["accuracy"].as_f64().unwrap()),
            "{row}"
        );
        assert_eq!(row["queries"], 12);
    }
    assert_eq!((&rows[0]["k"], &rows[5]["k"]), (&1.into(), &20.into()));
    assert!(
        told["checkpoint"]
            .as_str()
            .unwrap()
            .ends_with("step-00000006")
    );
    assert!(told["train"].as_str().unwrap().contains("24 images"));

    let untrained = space
        .swav("eval knn run --untrained --json")
        .run()
        .succeeded();
    assert_eq!(untrained.json()["checkpoint"], Value::Null);
}

#[test]
fn an_image_is_its_own_nearest_neighbour() {
    let space = trained();
    let told = space
        .swav("eval knn run --test set --k 1 --temperature 0.07 --json")
        .run()
        .succeeded()
        .json();
    assert_eq!(told["knn"][0]["accuracy"], 1.0);
}

#[test]
fn the_accuracy_while_training_is_the_accuracy_afterwards() {
    let space = space();
    let trained = space
        .swav("train --data set --test held --out run --json")
        .sets(TINY)
        .set("train.knn=1 epoch")
        .run()
        .succeeded()
        .json();
    let measured = space
        .swav("eval knn run --k 20 --temperature 0.1 --json")
        .run()
        .succeeded()
        .json();
    assert_eq!(trained["knn"], measured["knn"][0]["accuracy"]);
}

// Quickstart

#[test]
fn quickstart_trains_on_what_ships_inside_and_tells_three_accuracies() {
    let space = Space::new();
    let told = space
        .swav("quickstart --json")
        .sets(&[
            "crops=[{count=2,size=32,scale=[0.3,1.0]}]",
            "model.width=0.0625",
            "model.stem=imagenet",
            "train.epochs=1",
            "train.knn=never",
        ])
        .run()
        .succeeded()
        .json();
    for accuracy in ["raw_pixels", "untrained", "trained"] {
        let value = told[accuracy].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&value), "{told}");
    }
    let run = told["run"].as_str().unwrap();
    assert_eq!(Path::new(run), Path::new("runs/quickstart"));
    assert!(space.path("runs/quickstart/plan.toml").is_file());

    let output = space
        .swav("eval knn runs/quickstart --k 20 --temperature 0.1 --json")
        .run()
        .succeeded();
    assert_eq!(output.json()["knn"][0]["accuracy"], told["trained"]);
}

// Data

#[test]
fn a_packed_folder_has_the_same_plan_and_trains_to_the_same_losses() {
    let space = trained();
    let output = space
        .swav("data pack set shards --shard-size 10 --json")
        .run()
        .succeeded();
    let told = output.json();
    assert_eq!((&told["images"], &told["shards"]), (&24.into(), &3.into()));
    let mut names: Vec<String> = fs::read_dir(space.path("shards"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let expected = [
        "shards-000000.tar",
        "shards-000001.tar",
        "shards-000002.tar",
    ];
    assert_eq!(names, expected);
    space
        .swav("train --data shards --test held --out packed")
        .sets(TINY)
        .run()
        .succeeded();
    assert_eq!(space.losses("run"), space.losses("packed"));
}

#[test]
fn packing_twice_gives_the_same_bytes() {
    let space = space();
    for out in ["one/set", "two/set"] {
        space.folder(out.split('/').next().unwrap());
        space
            .swav(&format!("data pack set {out} --shard-size 6KB"))
            .run()
            .succeeded();
    }
    let read = |out: &str| fs::read(space.path(out).join("set-000001.tar")).unwrap();
    assert_eq!(read("one/set"), read("two/set"));
}

#[test]
fn scan_lists_what_is_corrupt_twice_there_or_too_small() {
    let space = Space::new();
    space.classes("set", &CLASSES, 4);
    let clean = space.swav("data scan set").run().succeeded();
    assert_eq!(clean.stdout, "problem\tfile\tdetail\n");
    assert!(
        clean.stderr.contains("12 images: 0 corrupt"),
        "{}",
        clean.told()
    );

    space.file("set/birds/copy.png", png(0, 2));
    space.file("set/boats/cut.png", &png(1, 1)[..300]);
    let small = image::RgbImage::new(40, 9);
    small.save(space.path("set/trees/small.png")).unwrap();
    let output = space.swav("data scan set --min-size 10").run();
    assert_eq!(output.code, Some(3), "{}", output.told());
    let rows: Vec<Vec<&str>> = output
        .stdout
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(rows.len(), 4, "{}", output.told());
    for ((row, problem), (file, detail)) in rows[1..]
        .iter()
        .zip(["duplicate", "corrupt", "small"])
        .zip([
            ("copy.png", "002.png"),
            ("cut.png", ""),
            ("small.png", "40x9"),
        ])
    {
        assert_eq!(row[0], problem, "{}", output.told());
        assert!(row[1].ends_with(file) && row[2].contains(detail), "{row:?}");
    }
    assert!(output.stderr.contains("1 of 15 images in set are corrupt"));

    // A file takes the table, and shards say the same as the folder.
    space.swav("data pack set shards --json").run().succeeded();
    for (data, out) in [("set", "found.csv"), ("shards", "found.json")] {
        let output = space
            .swav(&format!(
                "data scan {data} --min-size 10 --out {out} --workers 3"
            ))
            .run();
        assert_eq!(output.code, Some(3), "{}", output.told());
        assert!(output.stdout.starts_with(out), "{}", output.told());
    }
    let csv = fs::read_to_string(space.path("found.csv")).unwrap();
    assert_eq!(csv.lines().count(), 4);
    let json: Value = serde_json::from_slice(&fs::read(space.path("found.json")).unwrap()).unwrap();
    assert_eq!(json["findings"].as_array().unwrap().len(), 3);
    let kinds = ["corrupt", "duplicates", "small"].map(|kind| json[kind].as_u64().unwrap());
    assert_eq!(kinds, [1, 1, 1]);
}

#[test]
fn duplicates_and_small_images_alone_are_no_fault() {
    let space = Space::new();
    space.classes("set", &CLASSES, 2);
    space.file("set/birds/copy.png", png(0, 1));
    let output = space
        .swav("data scan set --min-size 33 --json")
        .run()
        .succeeded();
    let told = output.json();
    assert_eq!(
        (&told["duplicates"], &told["small"]),
        (&1.into(), &7.into())
    );
}

#[test]
fn a_run_of_every_method_can_be_embedded_and_evaluated() {
    let space = space();
    let plain: Vec<&str> = TINY
        .iter()
        .filter(|set| !["model.pro", "method.fr", "train.epo"].contains(&&set[..9]))
        .copied()
        .collect();
    for method in MethodName::ALL {
        let mut settings = plain.clone();
        let dim = match method {
            MethodName::Supervised => {
                settings.retain(|set| {
                    !set.starts_with("model.hidden") && !set.starts_with("model.dim")
                });
                CLASSES.len()
            }
            _ => 8,
        };
        if *method != MethodName::Random {
            settings.push("train.epochs=1");
        }
        if method.as_str() == "swav"
            || method.as_str().ends_with("-v2") && *method != MethodName::MocoV2
        {
            settings.push("model.prototypes=[4]");
        }
        let name = format!("method.name={method}");
        let run = format!("run-{method}");
        space
            .swav(&format!("train --data set --test held --out {run}"))
            .sets(&settings)
            .set(&name)
            .run()
            .succeeded();
        for (layer, width) in [("features", TINY_DIM), ("embeddings", dim)] {
            space
                .swav(&format!(
                    "embed {run} --data held --out a.npy --layer {layer}"
                ))
                .run()
                .succeeded();
            let (shape, values) = read_npy(&fs::read(space.path("a.npy")).unwrap());
            assert_eq!(shape, [12, width], "{method}, {layer}");
            let unit = |row: &[f32]| (row.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5;
            assert!(
                layer == "features" || values.chunks(width).all(unit),
                "{method}"
            );
        }
        let told = space.swav(&format!("eval knn {run} --k 5 --json")).run();
        assert_eq!(told.succeeded().json()["knn"][0]["queries"], 12, "{method}");
    }
}

#[test]
fn random_weights_are_saved_and_measured_without_training() {
    let space = Space::new();
    space.classes("set", &["a", "b"], 8);
    let output = space
        .swav("train --data set --out run --json")
        .sets(&["method.name=random", "train.batch_size=8"])
        .run()
        .succeeded();
    assert_eq!(space.checkpoints("run"), ["step-00000000"]);
    assert!(output.json()["knn"].as_f64().is_some(), "{}", output.told());
    space
        .swav("embed run --data set --out f.npy")
        .run()
        .succeeded();
    space.swav("train --resume --out run").run().succeeded();
}

#[test]
fn a_linear_classifier_is_trained_judged_and_kept() {
    let space = Space::new();
    space.classes("set", &["a", "b", "c"], 12);
    space.classes("test", &["a", "b", "c"], 4);
    space
        .swav("train --data set --test test --out run")
        .sets(TINY)
        .run()
        .succeeded();
    let call = "eval linear run --epochs 12 --batch-size 8 --labels 50% --json --out";
    let output = space.swav(&format!("{call} linear")).run().succeeded();
    let told = output.json();
    assert_eq!(told["images"], 18);
    assert_eq!(told["epochs"].as_array().map(Vec::len), Some(12));
    let confusion = told["scores"]["confusion"].as_array().unwrap();
    let judged: u64 = confusion
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(|count| count.as_u64().unwrap())
        .sum();
    assert_eq!(judged, 12);
    assert!(told["scores"]["top1"].as_f64() <= told["best"]["top1"].as_f64());

    let images = std::fs::read_to_string(space.path("linear/images.txt")).unwrap();
    for class in ["a", "b", "c"] {
        let of_class = |line: &&str| line.contains(&format!("set/{class}/"));
        assert_eq!(images.lines().filter(of_class).count(), 6, "{images}");
    }
    let csv = std::fs::read_to_string(space.path("linear/confusion.csv")).unwrap();
    assert!(csv.starts_with("class,\"a\",\"b\",\"c\"\n\"a\","), "{csv}");
    let kept = std::fs::read_to_string(space.path("linear/linear.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(kept, told);

    // The same again, to the last digit, and what is kept is not trained anew.
    let again = space.swav(&format!("{call} again")).run();
    assert_eq!(again.succeeded().json(), told);
    let resumed = space.swav(&format!("{call} linear --resume")).run();
    assert_eq!(resumed.succeeded().json(), told);
}

#[test]
fn a_linear_classifier_learns_from_other_crops_in_each_epoch_and_resumes() {
    let space = trained();
    let call = "eval linear run --test set --augment on --epochs 6 --batch-size 8 --json";
    let told = space.swav(call).run().succeeded().json();
    assert_eq!(told["config"]["augment"], true);
    let still = space
        .swav(&call.replace("--augment on", "--augment off"))
        .run()
        .succeeded()
        .json();
    assert_ne!(told["epochs"], still["epochs"]);

    let mut child = space.swav(&format!("{call} --out parts")).spawn();
    let begun = || {
        fs::read_dir(space.path("parts/state")).is_ok_and(|state| {
            state
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with("epoch-"))
        })
    };
    while !begun() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().unwrap();
    let parts = space
        .swav(&format!("{call} --out parts --resume"))
        .run()
        .succeeded()
        .json();
    assert_eq!(parts, told);
}

#[test]
fn several_checkpoints_are_judged_at_once() {
    let space = space();
    space
        .swav("train --data set --test held --out run")
        .sets(TINY)
        .sets(&["train.checkpoint=1 epoch", "train.epochs=2", "train.keep=5"])
        .run()
        .succeeded();
    let all = space.checkpoints("run");
    assert!(all.len() >= 2, "{all:?}");
    let paths: Vec<String> = all
        .iter()
        .map(|name| format!("run/checkpoints/{name}"))
        .collect();
    let paths = paths.join(" ");

    let knn = format!("eval knn {paths} --k 3 --temperature 0.1");
    let told = space
        .swav(&format!("{knn} --json"))
        .run()
        .succeeded()
        .json();
    for (report, path) in told.as_array().unwrap().iter().zip(paths.split(' ')) {
        let alone = space
            .swav(&format!("eval knn {path} --k 3 --temperature 0.1 --json"))
            .run()
            .succeeded()
            .json();
        assert_eq!(*report, alone);
    }
    assert_eq!(told.as_array().unwrap().last().unwrap()["epoch"], 2.0);
    let table = space.swav(&knn).run().succeeded().stdout;
    assert_eq!(table.lines().count(), 1 + all.len(), "{table}");
    for name in &all {
        assert!(table.contains(&format!("run-{name}")), "{table}");
    }

    let linear = format!("eval linear {paths} --epochs 3 --batch-size 8 --out linear");
    let table = space.swav(&linear).run().succeeded().stdout;
    assert_eq!(table.lines().count(), 1 + all.len(), "{table}");
    for name in &all {
        assert!(
            space
                .path(&format!("linear/run-{name}/linear.json"))
                .is_file()
        );
    }
    let told = space
        .swav(&format!("{linear} --resume --json"))
        .run()
        .succeeded()
        .json();
    assert_eq!(told.as_array().map(Vec::len), Some(all.len()));
}

/// A fine-tuning of four epochs with a momentum and a drop of the rates in them.
const FINETUNE: &str = "eval finetune run --epochs 4 --batch-size 8 --labels 50% --json";

#[test]
fn a_network_is_fine_tuned_judged_and_kept() {
    let space = trained();
    let output = space
        .swav(&format!("{FINETUNE} --out tuned"))
        .run()
        .succeeded();
    let told = output.json();
    assert_eq!(told["images"], 12);
    assert_eq!(told["epochs"].as_array().unwrap().len(), 4);
    assert_eq!(told["config"]["lr"], 0.01);
    let kept = fs::read_to_string(space.path("tuned/finetune.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), told);
    assert!(space.path("tuned/confusion.csv").is_file());
    let images = fs::read_to_string(space.path("tuned/images.txt")).unwrap();
    assert_eq!(images.lines().count(), 12);
    let states: Vec<_> = fs::read_dir(space.path("tuned/state"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(states, ["epoch-0004"]);
}

#[test]
fn fine_tuning_teaches_the_whole_network() {
    let space = trained();
    let told = space
        .swav("eval finetune run --epochs 30 --batch-size 8 --lr 0.01 --classifier-lr 0.02 --test set --json")
        .run()
        .succeeded()
        .json();
    let loss = |epoch: usize| told["epochs"][epoch]["loss"].as_f64().unwrap();
    assert!(loss(29) < 0.5 * loss(0), "{told}");
}

#[test]
fn a_fine_tuning_that_goes_on_gives_the_numbers_of_one_that_was_never_stopped() {
    let space = trained();
    let whole = space
        .swav(&format!("{FINETUNE} --out whole"))
        .run()
        .succeeded()
        .json();
    let mut child = space.swav(&format!("{FINETUNE} --out parts")).spawn();
    let begun = || {
        fs::read_dir(space.path("parts/state")).is_ok_and(|state| {
            state
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with("epoch-"))
        })
    };
    while !begun() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let _ = child.kill();
    child.wait().unwrap();
    let parts = space
        .swav(&format!("{FINETUNE} --out parts --resume"))
        .run()
        .succeeded()
        .json();
    assert_eq!(parts, whole);
}

#[test]
fn a_test_set_that_lacks_a_class_is_judged_by_the_names_of_the_others() {
    let space = trained();
    let folders = fs::read_dir(space.path("set")).unwrap();
    let mut classes: Vec<String> = folders
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    classes.sort();
    // By its number the last class would be another one.
    for class in [&classes[0], &classes[classes.len() - 1]] {
        let [from, to] = ["set", "fewer"].map(|set| space.path(&format!("{set}/{class}")));
        common::copy(&from, &to);
    }
    let told = space
        .swav("eval knn run --test fewer --k 1 --temperature 0.1 --json")
        .run()
        .succeeded()
        .json();
    // Each image is its own nearest neighbour.
    assert_eq!(told["knn"][0]["accuracy"], 1.0, "{told:#}");
}
