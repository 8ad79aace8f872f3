//! Learning from labels, and from a text file with them.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use std::time::{Duration, Instant};

use common::{Call, Space};

/// A classifier that takes milliseconds a step.
const CLASSIFIER: &[&str] = &[
    "method.name=supervised",
    "crops=[{count=2,size=32,scale=[0.3,1.0]}]",
    "model.backbone=resnet18",
    "model.width=0.0625",
    "model.stem=imagenet",
    "train.batch_size=8",
    "train.epochs=3",
    "train.checkpoint=2 steps",
    "data.labels=tags.csv",
];

/// 24 images without classes of their own. Each has its kind and its size as labels, and every fourth none.
fn tagged() -> Space {
    let space = Space::new();
    space.flat("set", 24);
    let kinds = ["red", "green", "\"blue, deep\"", "ochre"];
    let lines = (0..24).filter(|i| i % 4 != 3).map(|i| {
        let size = if i < 12 { "small" } else { "large" };
        format!("{i:03}.png,{},{size}\n", kinds[i % 4])
    });
    space.file("tags.csv", lines.collect::<String>());
    space
}

fn train(space: &Space, run: &str) -> Call {
    space
        .swav(&format!("train --data set --out {run}"))
        .sets(CLASSIFIER)
}

#[test]
fn a_classifier_is_trained_by_tags() {
    let space = tagged();
    let plan = space.swav("plan --data set --json").sets(CLASSIFIER);
    let plan = plan.run().succeeded().json()["plan"].clone();
    assert_eq!(plan["data"]["classes"], 5);
    assert_eq!(plan["model"]["dim"], 5);
    assert_eq!(
        plan["train"]["knn_steps"], 0,
        "no image has one label alone"
    );

    let told = train(&space, "run").run().succeeded();
    assert!(
        told.stderr.contains("18 images in 5 classes by"),
        "{}",
        told.told()
    );
    let losses = space.losses("run");
    assert_eq!(losses.len(), 9);
    // Two labels an image: no loss is below the entropy of its target, ln 2.
    for (step, loss) in losses {
        let loss = f64::from_bits(loss);
        assert!(loss > 0.69 && loss < 10.0, "step {step}: {loss}");
    }
}

#[test]
fn a_run_with_tags_is_resumed_with_them_after_it_was_killed() {
    let space = tagged();
    train(&space, "whole").run().succeeded();

    let mut child = train(&space, "killed").spawn();
    let began = Instant::now();
    while space.losses("killed").len() < 4 {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "no steps are done"
        );
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().unwrap();
    space.swav("train --resume --out killed").run().succeeded();
    assert_eq!(space.losses("killed"), space.losses("whole"));
}

#[test]
fn a_run_is_not_resumed_with_other_classes_than_it_was_started_with() {
    let space = tagged();
    train(&space, "run").run().succeeded();
    space.file("tags.csv", "000.png,red\n001.png,green\n");
    space
        .swav("train --resume --out run")
        .run()
        .failed(2, &["5 classes", "now there are 2", "tags.csv"]);
}

#[test]
fn images_with_one_label_each_are_judged_by_it() {
    let space = Space::new();
    space.flat("set", 24);
    let lines = (0..24).map(|i| format!("{i:03}.png,{}\n", ["a", "b", "c", "d"][i % 4]));
    space.file("tags.csv", lines.collect::<String>());
    let told = train(&space, "run").arg("--json").run().succeeded();
    assert!(told.json()["knn"].as_f64().is_some(), "{}", told.told());
    // The run knows its labels, a test set in folders of the same names has the same classes.
    space.classes("held", &["a", "b", "c", "d"], 2);
    let told = space
        .swav("eval knn run --test held --k 5 --json")
        .run()
        .succeeded();
    assert_eq!(told.json()["knn"][0]["queries"], 8, "{}", told.told());
}

#[test]
fn labels_that_cannot_be_are_refused_before_a_run_is_made() {
    let space = tagged();
    for (text, code, parts) in [
        (
            "999.png,red\n",
            3,
            &["tags.csv", "line 1", "\"999.png\""][..],
        ),
        (
            "000.png,red\n000.png,green\n",
            3,
            &["tags.csv", "line 2", "line 1"],
        ),
        ("", 3, &["tags.csv", "no image has a label"]),
        ("000.png,red\n", 2, &["two classes", "one class"]),
    ] {
        space.file("tags.csv", text);
        train(&space, "run").run().failed(code, parts);
        assert!(!space.path("run").exists(), "{text}");
    }
    std::fs::remove_file(space.path("tags.csv")).unwrap();
    train(&space, "run")
        .run()
        .failed(3, &["tags.csv", "no such file"]);
    let unlabelled: Vec<_> = CLASSIFIER
        .iter()
        .filter(|s| !s.starts_with("data.labels"))
        .copied()
        .collect();
    for command in ["plan", "train"] {
        space
            .swav(&format!("{command} --data set"))
            .sets(&unlabelled)
            .run()
            .failed(2, &["supervised", "no labels", "data.labels"]);
    }
}
