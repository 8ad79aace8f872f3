//! The page of a run: what is in it, and that nothing else is needed to look at it.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use std::fs;

use common::requires::{Python, chromium};
use common::{Space, TINY, png};
use serde_json::Value;

/// A place with a labelled set, and a finished run of six steps on it.
fn trained() -> Space {
    let space = Space::new();
    space.classes("set", &["birds", "boats", "trees"], 8);
    train(&space, "set", &[]);
    space
}

fn train(space: &Space, data: &str, sets: &[&str]) {
    space
        .swav(&format!("train --data {data} --out run"))
        .sets(TINY)
        .sets(sets)
        .run()
        .succeeded();
}

/// The page that `words` write, and the data in it.
fn page(space: &Space, words: &str) -> (String, Value) {
    let output = space.swav(words).arg("--json").run().succeeded();
    let told = output.json();
    let page = fs::read_to_string(space.path(told["out"].as_str().unwrap())).unwrap();
    assert_eq!(told["bytes"], page.len());
    let (_, data) = page.split_once("id=\"data\">").unwrap();
    let (data, _) = data.split_once("</script>").unwrap();
    let data = serde_json::from_str(data).unwrap();
    (page, data)
}

/// How many numbers are packed in `value`.
fn packed(value: &Value) -> usize {
    let (kind, text) = value.as_object().unwrap().iter().next().unwrap();
    let text = text.as_str().unwrap();
    let bytes = text.len() / 4 * 3 - text.bytes().rev().take_while(|&b| b == b'=').count();
    bytes
        / [("u8", 1), ("u16", 2), ("u32", 4)]
            .iter()
            .find(|(k, _)| k == kind)
            .unwrap()
            .1
}

#[test]
fn a_report_holds_all_that_was_seen_and_fetches_nothing() {
    let space = trained();
    let (page, data) = page(&space, "report run");
    assert!(space.path("run/report.html").is_file());
    assert!(page.contains("default-src 'none'"));
    for outside in ["<link", "src=\"http", "@import", "import("] {
        assert!(!page.contains(outside), "{outside}");
    }
    let (look, steps) = (&data["look"], &data["curves"]["steps"]);
    assert_eq!(steps["loss"].as_array().unwrap().len(), 6);
    assert_eq!(steps["code_entropy"].as_array().unwrap().len(), 6);
    assert!((data["chance"].as_f64().unwrap() - 8_f64.ln()).abs() < 1e-9);
    assert_eq!((&look["images"], &look["step"]), (&24.into(), &6.into()));
    assert_eq!(
        look["classes"],
        serde_json::json!(["birds", "boats", "trees"])
    );
    assert_eq!(look["names"][0], "birds/000.png");
    for (field, length) in [
        (&look["labels"], 24),
        (&look["map"]["x"], 24),
        (&look["neighbours"]["rows"], 24 * 8),
        (&look["gallery"]["counts"], 8),
        (&look["gallery"]["best"], 8 * 8),
        (&look["gallery"]["assigned"], 24),
        (&look["pictures"]["tiles"], 24),
    ] {
        assert_eq!(packed(field), length);
    }
    assert_eq!(look["crops"][0]["crops"].as_array().unwrap().len(), 2);
}

#[test]
fn chromium_opens_a_report_from_a_file_and_every_part_of_it_answers() {
    let Some(python) = Python::with(&["playwright"]) else {
        return;
    };
    let Some(chromium) = chromium() else {
        return;
    };
    let space = trained();
    space.swav("report run").run().succeeded();
    let words = ["run/report.html", "--whole", "--browser"];
    let words = [&words[..], &[chromium.to_str().unwrap()]].concat();
    python.run(&space.path(""), "report_page.py", &words);
}

#[test]
fn a_report_is_the_same_each_time() {
    let space = trained();
    let (first, _) = page(&space, "report run --out a.html");
    let (second, _) = page(&space, "report run/checkpoints/step-00000006 --out b.html");
    assert!(first == second);
}

#[test]
fn unlabelled_images_with_hostile_names_stay_within_the_data() {
    let space = Space::new();
    space.file("photos/<img src=x onerror=alert(1)>&'.png", png(0, 1));
    space.file("photos/{{script}}.png", png(1, 1));
    for i in 0..14 {
        space.file(&format!("photos/{i}.png"), png(i % 3, i));
    }
    train(&space, "photos", &[]);
    let (page, data) = page(&space, "report run");
    assert!(!page.contains("<img"), "a name has become markup");
    let names = data["look"]["names"].as_array().unwrap();
    assert!(
        names.contains(&"<img src=x onerror=alert(1)>&'.png".into()),
        "{names:?}"
    );
    assert!(names.contains(&"{{script}}.png".into()));
    assert_eq!(data["look"]["classes"], serde_json::json!([]));
}

#[test]
fn an_untrained_network_without_prototypes_has_a_map_and_no_gallery() {
    let space = Space::new();
    space.classes("set", &["birds", "boats"], 8);
    let sets = [
        "method.name=random",
        "model.prototypes=[]",
        "train.epochs=0",
    ];
    let tiny = TINY.iter().filter(|set| {
        !["method.", "train.epochs", "model.prototypes"]
            .iter()
            .any(|own| set.starts_with(own))
    });
    let tiny: Vec<&str> = tiny.copied().collect();
    space
        .swav("train --data set --out run")
        .sets(&tiny)
        .sets(&sets)
        .run()
        .succeeded();
    let (_, data) = page(&space, "report run");
    assert_eq!(data["look"]["gallery"], Value::Null);
    assert_eq!(data["curves"]["steps"], serde_json::json!({}));
    assert_eq!(packed(&data["look"]["map"]["y"]), 16);
}

#[test]
fn a_run_without_a_checkpoint_has_curves_and_settings() {
    let space = trained();
    fs::remove_dir_all(space.path("run/checkpoints/step-00000006")).unwrap();
    let steps = fs::read_dir(space.path("run/checkpoints")).unwrap();
    steps.for_each(|entry| fs::remove_dir_all(entry.unwrap().path()).unwrap());
    let output = space.swav("report run").run().succeeded();
    assert!(
        output.stderr.contains("no checkpoint yet"),
        "{}",
        output.told()
    );
    let (_, data) = page(&space, "report run");
    assert_eq!(data["look"], Value::Null);
    assert_eq!(data["plan"]["train"]["epochs"], 2);
}

#[test]
fn other_images_and_fewer_of_them_can_be_looked_at() {
    let space = trained();
    space.flat("photos", 9);
    let (_, data) = page(&space, "report run --data photos --images 5 --out few.html");
    assert_eq!(
        (&data["look"]["images"], &data["look"]["of"]),
        (&5.into(), &9.into())
    );
    let (_, data) = page(&space, "report run --images 0 --out none.html");
    assert_eq!(data["look"], Value::Null);
}

#[test]
fn what_cannot_be_reported_is_refused_before_any_work() {
    let space = trained();
    let cases = [
        ("report nowhere", 2, "nowhere"),
        (
            "report run --out no/such/folder.html",
            2,
            "no/such/folder.html",
        ),
        ("report run --data nowhere", 3, "nowhere"),
        ("report run --images 70000", 2, "65536"),
    ];
    for (words, code, part) in cases {
        space.swav(words).run().failed(code, &[part]);
    }
}

#[test]
fn a_report_while_training_changes_no_loss_and_is_there_at_the_end() {
    let space = trained();
    space
        .swav("train --data set --out watched --report-every")
        .arg("1 epoch")
        .sets(TINY)
        .run()
        .succeeded();
    assert_eq!(space.losses("run"), space.losses("watched"));
    let page = fs::read_to_string(space.path("watched/report.html")).unwrap();
    assert!(
        page.contains("\"step\":6,\"images\":24"),
        "the report is not the last one"
    );
    assert!(!space.path("run/report.html").exists());
    let output = space
        .swav("train --data set --out c --report-every often")
        .run();
    output.failed(2, &["often", "is no duration"]);
}

#[test]
fn event_files_for_tensorboard_are_written_where_asked_for_and_resumed() {
    let space = Space::new();
    space.classes("set", &["birds", "boats"], 8);
    train(
        &space,
        "set",
        &["train.tensorboard=true", "train.checkpoint=1 epoch"],
    );
    let last = space.checkpoints("run").pop().unwrap();
    fs::remove_dir_all(space.path("run/checkpoints").join(last)).unwrap();
    space.swav("train --resume --out run").run().succeeded();
    let files = fs::read_dir(space.path("run/tensorboard")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 2);
    let bytes = fs::read(&files[1]).unwrap();
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(holds(b"brain.Event:2") && holds(b"train/loss") && holds(b"method/code_entropy"));
}
