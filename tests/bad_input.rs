//! Whatever the program is given, it ends with the right exit code and a message that names the
//! file, the field or the flag, and it never panics.
//!
//! Exit codes: 2 wrong usage or configuration, 3 data, 4 device, 5 training stopped itself.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use std::fs;

use common::{Call, Space, TINY, copy, png};

/// The classes of the ordinary set, `set`: 24 images.
const CLASSES: [&str; 3] = ["birds", "boats", "trees"];

/// A place with an ordinary set.
fn space() -> Space {
    let space = Space::new();
    space.classes("set", &CLASSES, 8);
    space
}

/// A place with an ordinary set and a finished run of three steps.
fn trained() -> Space {
    let space = space();
    space
        .swav("train --data set --out run")
        .sets(TINY)
        .set("train.epochs=1")
        .run()
        .succeeded();
    space
}

fn train(space: &Space, data: &str) -> Call {
    space
        .swav(&format!("train --data {data} --out out"))
        .sets(TINY)
}

/// Puts a tar archive of (name, content) together; names go in as they are.
fn archive(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        // `set_path` would refuse what a hostile archive holds.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn sixteen_images() -> Vec<(&'static str, Vec<u8>)> {
    const NAMES: [&str; 16] = [
        "a/0.png", "a/1.png", "a/2.png", "a/3.png", "a/4.png", "a/5.png", "a/6.png", "a/7.png",
        "b/0.png", "b/1.png", "b/2.png", "b/3.png", "b/4.png", "b/5.png", "b/6.png", "b/7.png",
    ];
    let members = NAMES.iter().enumerate();
    members.map(|(i, name)| (*name, png(i / 8, i))).collect()
}

/// A PNG that announces `side` × `side` pixels and holds next to none.
fn announced(side: u32) -> Vec<u8> {
    let mut bytes = png(0, 0);
    // Behind the signature: length (4), "IHDR" (4), width (4), height (4), five bytes, checksum (4).
    bytes[16..20].copy_from_slice(&side.to_be_bytes());
    bytes[20..24].copy_from_slice(&side.to_be_bytes());
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// The checksum of PNG chunks.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// Runs a table of settings that must all be refused with exit code 2 and the given words, by
/// `plan` and `train` alike; collects all that go wrong.
#[track_caller]
fn refused(space: &Space, table: &[(&[&str], &[&str])]) {
    refused_over(space, TINY, table);
}

/// The same over other settings than the tiny recipe's.
#[track_caller]
fn refused_over(space: &Space, base: &[&str], table: &[(&[&str], &[&str])]) {
    let mut wrong = Vec::new();
    for (assignments, parts) in table {
        for call in [
            space.swav("plan --data set"),
            space.swav("train --data set --out out"),
        ] {
            let output = call.sets(base).sets(assignments).run();
            wrong.extend(output.check_failure(2, parts).err());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(!space.path("out").exists(), "a refused run leaves nothing");
}

// Data

#[test]
fn a_folder_that_is_missing_empty_or_without_images_is_a_data_error() {
    let space = Space::new();
    space.folder("empty");
    space.file("notes/readme.txt", "no image");
    space.file("notes/more/film.mp4", "no image either");
    space.file("set.zip", "PK\x03\x04");
    for (data, parts) in [
        ("nowhere", &["nowhere", "no such file"][..]),
        ("empty", &["empty", "no image"]),
        ("notes", &["notes", "no image", ".txt"]),
        ("set.zip", &["set.zip"]),
    ] {
        train(&space, data).run().failed(3, parts);
        space
            .swav(&format!("plan --data {data}"))
            .run()
            .failed(3, parts);
    }
    assert!(!space.path("out").exists(), "a refused run leaves nothing");
}

#[test]
fn no_data_at_all_is_a_usage_error_that_says_what_to_give() {
    let space = Space::new();
    for command in ["train", "plan"] {
        space.swav(command).run().failed(2, &["--data"]);
    }
}

#[test]
fn one_image_is_refused_because_training_compares_images() {
    let space = Space::new();
    space.flat("set", 1);
    train(&space, "set").run().failed(2, &["set", "one image"]);
    space
        .swav("plan --data set")
        .run()
        .failed(2, &["set", "one image"]);
    space
        .swav("plan --data set/000.png")
        .run()
        .failed(2, &["000.png", "one image"]);
}

#[test]
fn fewer_images_than_a_batch_are_refused_with_both_numbers() {
    let space = Space::new();
    space.flat("set", 5);
    train(&space, "set")
        .set("model.prototypes=[4]")
        .run()
        .failed(2, &["train.batch_size = 8", "5 images"]);
}

#[test]
fn a_handful_of_images_trains_with_what_is_derived_for_them() {
    let space = Space::new();
    space.flat("set", 5);
    space
        .swav("train --data set --out out")
        .set("train.epochs=1")
        .set("model.width=0.0625")
        .run()
        .succeeded();
}

#[test]
fn a_file_that_is_no_image_ends_a_run_that_allows_none_and_is_named() {
    let space = space();
    space.file("set/birds/notes.jpg", "these are no pixels");
    train(&space, "set")
        .run()
        .failed(3, &["notes.jpg", "1 of 25 files", "data.corrupt_budget"]);
}

#[test]
fn corrupt_files_within_the_budget_are_counted_and_replaced() {
    let space = Space::new();
    space.classes("set", &CLASSES, 7);
    space.file("set/birds/empty.png", "");
    space.file("set/boats/short.png", &png(1, 1)[..300]);
    space.file("set/trees/text.jpg", "these are no pixels");
    let output = train(&space, "set")
        .set("data.corrupt_budget=0.2")
        .run()
        .succeeded();
    let last = space.metrics("out").pop().unwrap();
    assert_eq!(last["bad_files"], 3, "{last}");
    for name in ["empty.png", "short.png", "text.jpg"] {
        let told = output.stderr.matches(name).count();
        assert_eq!(told, 1, "{name} is told of once\n{}", output.told());
    }

    let output = space
        .swav("embed out --data set --out features.npy --json")
        .run()
        .succeeded();
    let result = output.json();
    assert_eq!(
        (&result["rows"], &result["skipped"]),
        (&21.into(), &3.into())
    );
}

#[test]
fn a_header_that_announces_too_many_pixels_is_refused_before_it_is_decoded() {
    let space = space();
    space.file("set/boats/bomb.png", announced(60_000));
    train(&space, "set")
        .run()
        .failed(3, &["bomb.png", "60000 × 60000"]);
}

#[test]
fn a_header_that_lies_within_the_limit_is_a_corrupt_file() {
    let space = space();
    space.file("set/boats/liar.png", announced(4_000));
    train(&space, "set").run().failed(3, &["liar.png"]);
}

#[test]
fn a_tar_that_was_cut_short_is_recognised_wherever_it_was_cut() {
    let space = Space::new();
    let whole = archive(&sixteen_images());
    space.file("whole.tar", &whole);
    train(&space, "whole.tar")
        .set("train.epochs=1")
        .run()
        .succeeded();
    let member = 512 + sixteen_images()[0].1.len().next_multiple_of(512);
    for (cut, at) in [
        ("within a member", whole.len() / 2 + 100),
        ("between two members", member),
        ("within a header", member + 100),
        ("within the first header", 100),
        ("before anything", 0),
    ] {
        space.file("cut.tar", &whole[..at]);
        let output = space.swav("plan --data cut.tar").run();
        if let Err(reason) = output.check_failure(3, &["cut.tar", "cut short"]) {
            panic!("{cut}: {reason}");
        }
    }
}

#[test]
fn a_tar_with_a_member_that_leaves_it_is_not_trusted() {
    let space = Space::new();
    for name in ["../outside.png", "a/../../outside.png", "/etc/outside.png"] {
        let mut members = sixteen_images();
        members.push((name, png(0, 0)));
        space.file("set.tar", archive(&members));
        train(&space, "set.tar")
            .run()
            .failed(3, &["set.tar", "outside.png", "leaves"]);
    }
}

#[test]
fn a_compressed_tar_and_a_file_that_is_none_are_refused_with_their_names() {
    let space = Space::new();
    space.file("set.tar.gz", [0x1F, 0x8B, 8, 0, 0, 0, 0, 0]);
    space.file("text.tar", "this is no archive\n".repeat(200));
    for name in ["set.tar.gz", "text.tar"] {
        train(&space, name).run().failed(3, &[name]);
    }
}

#[test]
fn packing_never_overwrites_and_leaves_nothing_behind_when_refused() {
    let space = space();
    space.file("full/keep.txt", "mine");
    space.file("file", "mine");
    for (words, parts) in [
        ("data pack set full", &["full", "not empty"][..]),
        ("data pack set file", &["file", "overwritten"]),
        (
            "data pack set out --shard-size 0",
            &["--shard-size", "256MB"],
        ),
        ("data pack set out --shard-size 5parsecs", &["5parsecs"]),
        ("data pack set", &["<OUT>"]),
    ] {
        space.swav(words).run().failed(2, parts);
    }
    space
        .swav("data pack nowhere out")
        .run()
        .failed(3, &["nowhere", "no such file"]);
    space
        .swav("data pack set no/such/out")
        .run()
        .failed(3, &["no/such"]);
    let mut names: Vec<_> = fs::read_dir(space.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["file", "full", "set"]);
    assert_eq!(fs::read(space.path("full/keep.txt")).unwrap(), b"mine");
}

#[test]
fn a_scan_that_cannot_be_written_down_is_refused_before_the_work() {
    let space = space();
    for (words, code, parts) in [
        ("data scan nowhere", 3, &["nowhere", "no such file"][..]),
        ("data scan set --out found.xls", 2, &["found.xls", ".csv"]),
        ("data scan set --out no/such/f.csv", 2, &["no/such"]),
        ("data scan set --min-size -4", 2, &["-4"]),
        ("data scan set --format zip", 2, &["zip", "classes"]),
        ("data", 2, &["scan", "pack"]),
    ] {
        space.swav(words).run().failed(code, parts);
    }
    assert!(!space.path("found.xls").exists());
}

#[test]
fn a_packed_set_that_lost_a_part_or_was_tampered_with_is_told_by_name() {
    let space = Space::new();
    // Large enough for an index beside it.
    let noise = image::RgbImage::from_fn(400, 400, |x, y| {
        let n = (x * 7919 + y * 104_729) ^ (x * y * 31);
        image::Rgb([n as u8, (n >> 8) as u8, (n >> 16) as u8])
    });
    for class in ["birds", "boats"] {
        for i in 0..3 {
            let path = space.file(&format!("set/{class}/{i}.png"), "");
            noise.save(path).unwrap();
        }
    }
    space.swav("data pack set shards").run().succeeded();
    let shard = space.path("shards/shards-000000.tar");
    let index = space.path("shards/shards-000000.tar.index");
    assert!(index.exists());
    let whole = fs::read(&shard).unwrap();

    fs::write(&shard, &whole[..whole.len() / 2]).unwrap();
    space
        .swav("plan --data shards")
        .run()
        .failed(3, &["shards-000000.tar", "cut short"]);

    fs::write(&shard, &whole).unwrap();
    let output = space.swav("data scan shards").run();
    assert_eq!(output.code, Some(0), "{}", output.told());
    assert!(
        output.stderr.contains("has changed since"),
        "{}",
        output.told()
    );

    let mut damaged = fs::read(&index).unwrap();
    damaged[40] ^= 1;
    fs::write(&index, damaged).unwrap();
    let output = space.swav("data scan shards").run().succeeded();
    assert!(output.stderr.contains("damaged"), "{}", output.told());
    let output = space.swav("data scan shards").run().succeeded();
    assert!(!output.stderr.contains("note"), "{}", output.told());
}

// Recipe

#[test]
fn an_unknown_field_is_refused_with_the_file_the_line_and_the_nearest_name() {
    let space = space();
    for (text, parts) in [
        (
            "[train]\nepoch = 3\n",
            &["r.toml", "line 2", "`epochs`"][..],
        ),
        (
            "[optimiser]\nlr = 3\n",
            &["r.toml", "line 1", "`optimizer`"],
        ),
        ("[train]\nepochs = -3\n", &["r.toml", "line 2", "-3"]),
        (
            "[train]\nepochs = \"three\"\n",
            &["r.toml", "line 2", "three"],
        ),
        ("[train\nepochs = 3\n", &["r.toml", "line 1"]),
        (
            "[[crops]]\ncount = 2\nsize = -32\nscale = [0.1, 1.0]\n",
            &["r.toml", "line 3", "-32"],
        ),
        (
            "[method]\nfreeze = \"3 weeks\"\n",
            &["r.toml", "line 2", "3 weeks"],
        ),
        (
            "[optimizer]\nname = \"addam\"\n",
            &["r.toml", "line 2", "`adam`"],
        ),
        ("\u{0}\u{1}binary", &["r.toml"]),
    ] {
        space.file("r.toml", text);
        space
            .swav("train --config r.toml --data set --out out")
            .run()
            .failed(2, parts);
    }
    space
        .swav("plan --config missing.toml --data set")
        .run()
        .failed(2, &["missing.toml"]);
    space
        .swav("plan --config set --data set")
        .run()
        .failed(2, &["recipe set"]);
}

#[test]
fn a_malformed_override_is_refused_with_the_flag_as_it_was_given() {
    let space = space();
    refused(
        &space,
        &[
            (
                &["train.epochs"],
                &["--set train.epochs", "section.field=value"],
            ),
            (
                &["train.bach_size=8"],
                &["--set train.bach_size=8", "`batch_size`"],
            ),
            (&["trian.epochs=8"], &["--set trian.epochs=8", "`train`"]),
            (&["train.epochs=many"], &["--set train.epochs=many"]),
            (&["train.epochs="], &["--set train.epochs="]),
            (&["train.batch_size=-8"], &["--set train.batch_size=-8"]),
            (&["train.epochs.more=1"], &["--set train.epochs.more=1"]),
            (&["crops.7.size=32"], &["--set crops.7.size=32", "7"]),
            (&["crops.0.size=-32"], &["--set crops.0.size=-32"]),
            (&["=3"], &["--set =3"]),
            (&["method.freeze=10"], &["--set method.freeze=10"]),
        ],
    );
}

#[test]
fn settings_that_a_method_cannot_work_with_are_refused_by_the_name_of_their_field() {
    let space = Space::new();
    space.classes("set", &["a", "b"], 8);
    let moco = "method.name=moco-v2";
    // The tiny recipe is SwAV's.
    refused(
        &space,
        &[(
            &["method.name=simclr"],
            &["--set method.freeze", "simclr", "unknown field `freeze`"],
        )],
    );
    let of_any = TINY.iter().copied();
    let of_any: Vec<_> = of_any
        .filter(|setting| !setting.starts_with("method."))
        .collect();
    refused_over(
        &space,
        &of_any,
        &[
            (&["method.name=simclr"], &["simclr has no prototypes"]),
            (
                &["method.name=supervised"],
                &["supervised has no prototypes", "model.dim = 8"],
            ),
            (
                &["method.name=supervised", "method.smoothing=1"],
                &["method.smoothing = 1 must lie in [0, 1)"],
            ),
            (
                &["method.name=supervised", "method.smoothing=-0.1"],
                &["method.smoothing = -0.1"],
            ),
            (
                &[moco, "method.momentum=1.001"],
                &["method.momentum = 1.001", "[0, 1]"],
            ),
            (&[moco, "method.momentum=-1"], &["method.momentum = -1"]),
            (&[moco, "method.momentum=nan"], &["method.momentum = nan"]),
            (
                &[moco, "method.queue={length=800}"],
                &["method.queue.length = 800", "longer than the 16 images"],
            ),
            (
                &[moco, "method.key_groups=5"],
                &["method.key_groups = 5", "8 images"],
            ),
            (&[moco, "method.key_groups=0"], &["method.key_groups = 0"]),
            (
                &[moco, "crops=[{count=1,size=32,scale=[0.3,1.0]}]"],
                &["crops", "at least two"],
            ),
        ],
    );
}

#[test]
fn settings_that_cannot_work_are_refused_by_the_name_of_their_field() {
    refused(
        &space(),
        &[
            (
                &["train.batch_size=1"],
                &["train.batch_size = 1", "2 or more"],
            ),
            (&["train.batch_size=0"], &["train.batch_size = 0"]),
            (
                &["train.batch_size=25"],
                &["train.batch_size = 25", "24 images"],
            ),
            (
                &["train.accumulate=3"],
                &["train.batch_size = 8", "train.accumulate = 3"],
            ),
            (&["train.accumulate=8"], &["train.batch_size = 8"]),
            (&["train.epochs=0"], &["train.epochs = 0"]),
            (&["train.keep=0"], &["train.keep = 0"]),
            (
                &["train.precision=f8"],
                &["--set train.precision=f8", "f32"],
            ),
            (
                &["model.prototypes=[25]"],
                &["model.prototypes = 25", "24 images"],
            ),
            (
                &[
                    "model.prototypes=[20]",
                    "train.batch_size=2",
                    "method.queue.length=0",
                ],
                &["model.prototypes = 20", "2 samples", "method.queue.length"],
            ),
            (&["model.prototypes=[1]"], &["model.prototypes = 1"]),
            (&["model.prototypes=[]"], &["model.prototypes"]),
            (&["model.dim=0"], &["model.dim"]),
            (&["model.width=0"], &["model.width = 0"]),
            (&["model.width=-1"], &["model.width = -1"]),
            (
                &["model.backbone=resnet19"],
                &["model.backbone", "resnet19", "resnet18"],
            ),
            (&["model.stem=big"], &["--set model.stem=big", "imagenet"]),
            (
                &["method.queue.length=32"],
                &["method.queue.length = 32", "24 images"],
            ),
            (
                &["method.queue.length=7"],
                &["method.queue.length = 7", "batch of 8"],
            ),
            (
                &["method.queue={length=8,start=\"99 epochs\"}"],
                &["method.queue.start", "6 steps"],
            ),
            (&["method.epsilon=0"], &["method.epsilon = 0"]),
            (&["method.epsilon=nan"], &["method.epsilon"]),
            (&["method.temperature=0"], &["method.temperature = 0"]),
            (&["method.temperature=nan"], &["method.temperature"]),
            (&["method.iterations=0"], &["method.iterations = 0"]),
            (&["method.assign=[2]"], &["method.assign", "crop 2"]),
            (&["method.assign=[]"], &["method.assign"]),
            (&["method.name=byol"], &["method.name", "simclr"]),
            (&["optimizer.lr=-1"], &["optimizer.lr = -1"]),
            (&["optimizer.lr=inf"], &["optimizer.lr = inf"]),
            (&["optimizer.momentum=1"], &["optimizer.momentum = 1"]),
            (
                &["optimizer.weight_decay=-1"],
                &["optimizer.weight_decay = -1"],
            ),
            (&["optimizer.weight_decay=nan"], &["optimizer.weight_decay"]),
            (&["optimizer.warmup=9 epochs"], &["optimizer.warmup", "6"]),
            (&["data.corrupt_budget=2"], &["data.corrupt_budget = 2"]),
            (&["data.corrupt_budget=nan"], &["data.corrupt_budget"]),
            (&["data.prefetch=0"], &["data.prefetch = 0"]),
            (&["data.format=zip"], &["--set data.format=zip"]),
            (
                &["crops=[{count=1,size=32,scale=[0.3,1.0]}]"],
                &["crops", "at least two"],
            ),
            (&["crops.0.size=16"], &["crops[0].size = 16", "32 px"]),
            (&["crops.0.size=0"], &["crops[0]"]),
            (&["crops.0.count=0"], &["crops[0]"]),
            (&["crops.0.scale=[0.5,0.1]"], &["crops[0]", "scale"]),
            (&["augment.grey=1.5"], &["augment", "grey"]),
            (
                &["augment.jitter.brightness=-0.4"],
                &["augment", "brightness"],
            ),
        ],
    );
}

#[test]
fn absurd_numbers_are_refused_rather_than_tried() {
    let space = space();
    for (assignment, part) in [
        ("train.epochs=18446744073709551615", "train.epochs"),
        ("train.epochs=9223372036854775807", "train.epochs"),
        ("train.batch_size=9223372036854775807", "train.batch_size"),
        ("model.prototypes=[9223372036854775807]", "model.prototypes"),
        ("crops.0.count=9223372036854775807", "crops[0]"),
        ("crops.0.size=9223372036854775807", "crops[0]"),
        (
            "method.queue.length=9223372036854775807",
            "method.queue.length",
        ),
    ] {
        // Only `plan`: what is let through by mistake would train for ever.
        space
            .swav("plan --data set")
            .sets(TINY)
            .set(assignment)
            .run()
            .failed(2, &[part]);
    }
}

#[test]
fn several_problems_are_all_told_at_once() {
    space()
        .swav("plan --data set")
        .sets(TINY)
        .sets(&["train.batch_size=25", "method.epsilon=0", "optimizer.lr=-1"])
        .run()
        .failed(2, &["train.batch_size", "method.epsilon", "optimizer.lr"]);
}

#[test]
fn a_recipe_for_imagenet_is_refused_on_a_few_images_with_every_reason() {
    let space = space();
    let recipe = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../configs/swav-200ep-batch256.toml"
    );
    space
        .swav("plan --data set --config")
        .arg(recipe)
        .run()
        .failed(
            2,
            &[
                "train.batch_size",
                "model.prototypes",
                "method.queue.length",
                "24 images",
            ],
        );
}

// Directories, runs and checkpoints

#[test]
fn a_directory_that_is_taken_is_not_written_to() {
    let space = trained();
    let before = space.checkpoints("run");
    space
        .swav("train --data set --out run")
        .sets(TINY)
        .run()
        .failed(2, &["run", "already holds a run", "--resume"]);
    assert_eq!(space.checkpoints("run"), before);

    space.file("taken/letter.txt", "mine");
    space
        .swav("train --data set --out taken")
        .sets(TINY)
        .run()
        .failed(2, &["taken", "not empty"]);
    let left: Vec<_> = fs::read_dir(space.path("taken")).unwrap().collect();
    assert_eq!(left.len(), 1);

    space
        .swav("train --data set --out taken/letter.txt")
        .sets(TINY)
        .run()
        .failed(2, &["letter.txt"]);
    space
        .swav("train --data set --out taken/letter.txt/run")
        .sets(TINY)
        .run()
        .failed(2, &["letter.txt"]);
}

#[test]
fn a_damaged_checkpoint_is_refused_with_the_name_of_the_file() {
    let space = trained();
    let checkpoint = "step-00000003";
    for file in ["model.bpk", "optimizer.bpk", "state.json"] {
        for damage in ["cut", "flipped", "emptied", "gone"] {
            let run = format!("{damage}-{file}");
            copy(&space.path("run"), &space.path(&run));
            let path = space
                .path(&run)
                .join("checkpoints")
                .join(checkpoint)
                .join(file);
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            match damage {
                "cut" => bytes.truncate(middle),
                "flipped" => bytes[middle] ^= 0x80,
                "emptied" => bytes.clear(),
                _ => fs::remove_file(&path).unwrap(),
            }
            if damage != "gone" {
                fs::write(&path, bytes).unwrap();
            }
            space
                .swav(&format!("embed {run} --data set --out {run}.npy"))
                .run()
                .failed(2, &[checkpoint, file]);
            space
                .swav(&format!("train --resume --out {run}"))
                .run()
                .failed(2, &[checkpoint, file]);
            assert!(!space.path(&format!("{run}.npy")).exists());
        }
    }
}

#[test]
fn a_damaged_plan_is_refused_with_its_name() {
    let space = trained();
    let whole = fs::read_to_string(space.path("run/plan.toml")).unwrap();
    let cut = &whole[..whole.len() / 2];
    let newer = whole.replace("version = 2", "version = 99");
    let without = whole.replace("prefetch", "prefech");
    let strange = whole.replace("resnet18", "resnet19");
    for text in [cut, "", &newer, &without, &strange] {
        fs::write(space.path("run/plan.toml"), text).unwrap();
        for call in [
            "embed run --data set --out f.npy",
            "train --resume --out run",
        ] {
            space.swav(call).run().failed(2, &["run", "plan.toml"]);
        }
    }
    assert_ne!(newer, whole);
    assert_ne!(without, whole);
}

#[test]
fn a_checkpoint_of_another_architecture_is_refused_and_both_are_named() {
    let space = trained();
    let whole = fs::read_to_string(space.path("run/plan.toml")).unwrap();
    for (from, to, both) in [
        (
            "name = \"resnet18\"",
            "name = \"resnet34\"",
            ["resnet18", "resnet34"],
        ),
        ("width = 0.0625", "width = 0.125", ["0.0625", "0.125"]),
        ("hidden = 16", "hidden = 24", ["16", "24"]),
        ("dim = 8", "dim = 9", ["8", "9"]),
    ] {
        let edited = whole.replace(from, to);
        assert_ne!(edited, whole, "{from}");
        fs::write(space.path("run/plan.toml"), edited).unwrap();
        for call in [
            "embed run --data set --out f.npy",
            "train --resume --out run",
        ] {
            space.swav(call).run().failed(2, &both);
        }
    }
}

#[test]
fn what_is_no_run_and_no_checkpoint_is_refused_by_its_name() {
    let space = trained();
    space.file("file.bpk", "no checkpoint");
    space.folder("empty");
    for (run, parts) in [
        ("nowhere", ["nowhere", "does not exist"]),
        ("empty", ["empty", "plan.toml"]),
        ("set", ["set", "plan.toml"]),
        ("file.bpk", ["file.bpk", "begins as no checkpoint"]),
        ("run/checkpoints", ["run/checkpoints", "plan.toml"]),
    ] {
        for call in [
            format!("embed {run} --data set --out f.npy"),
            format!("eval knn {run} --test set"),
        ] {
            space.swav(&call).run().failed(2, &parts);
        }
    }
    assert!(!space.path("f.npy").exists());
}

#[test]
fn a_run_without_a_checkpoint_is_refused_by_what_needs_one() {
    let space = trained();
    fs::remove_dir_all(space.path("run/checkpoints/step-00000003")).unwrap();
    space
        .swav("embed run --data set --out f.npy")
        .run()
        .failed(2, &["run", "no checkpoint"]);
    fs::remove_dir(space.path("run/checkpoints")).unwrap();
    space
        .swav("embed run --data set --out f.npy")
        .run()
        .failed(2, &["run", "checkpoints"]);
}

// Devices

#[test]
fn a_device_that_is_not_there_is_named_together_with_those_that_are() {
    let space = trained();
    for call in [
        "plan --data set --device cuda:7",
        "train --data set --out out --device cuda:7",
        "embed run --data set --out f.npy --device cuda:7",
        "eval knn run --test set --device wgpu:7",
        "quickstart --out out --device wgpu:7",
    ] {
        space.swav(call).run().failed(4, &["--device", ":7", "cpu"]);
    }
    assert!(!space.path("out").exists());
    assert!(!space.path("f.npy").exists());
}

#[test]
fn a_device_that_this_binary_was_built_without_is_told_with_the_feature() {
    let space = space();
    for (device, there) in [
        ("cuda", cfg!(feature = "cuda")),
        ("wgpu", cfg!(feature = "wgpu")),
    ] {
        if !there {
            let feature = format!("--features {device}");
            space
                .swav(&format!("train --data set --out out --device {device}"))
                .run()
                .failed(4, &["--device", device, &feature]);
        }
    }
}

#[test]
fn a_device_of_no_kind_is_a_usage_error() {
    let space = space();
    for device in [
        "nonsense", "cpu:1", "cuda:x", "cuda:-1", "auto:0", "wgpu:1:2",
    ] {
        space
            .swav(&format!("train --data set --out out --device {device}"))
            .run()
            .failed(2, &["--device", device]);
    }
}

// Features and accuracy

#[test]
fn a_file_that_features_cannot_go_to_is_refused_before_the_work() {
    let space = trained();
    space.file("wall", "a file in the way");
    space.folder("folder.npy");
    for (out, parts) in [
        ("x.txt", ["x.txt", ".npy"]),
        ("x", ["x", ".safetensors"]),
        ("missing/x.npy", ["missing/x.npy", "error"]),
        ("wall/x.npy", ["wall/x.npy", "error"]),
        ("folder.npy", ["folder.npy", "directory"]),
    ] {
        let output = space
            .swav(&format!("embed run --data set --out {out}"))
            .run()
            .failed(2, &parts);
        assert!(!output.stderr.contains("embedding"), "{}", output.told());
    }
    for (out, parts) in [
        ("x.npy", ["x.npy", ".parquet"]),
        ("x", ["x", ".csv"]),
        ("missing/x.csv", ["missing/x.csv", "error"]),
        ("wall/x.parquet", ["wall/x.parquet", "error"]),
    ] {
        space
            .swav(&format!("assign run --data set --out {out}"))
            .run()
            .failed(2, &parts);
    }
    let left: Vec<_> = fs::read_dir(space.path("folder.npy")).unwrap().collect();
    assert!(left.is_empty());
}

#[test]
fn features_of_missing_images_are_a_data_error_that_leaves_no_file() {
    let space = trained();
    space
        .swav("embed run --data nowhere --out f.npy")
        .run()
        .failed(3, &["nowhere"]);
    space.file("broken/a.png", "no pixels");
    space
        .swav("embed run --data broken --out f.npy")
        .run()
        .failed(3, &["broken", "a.png"]);
    let left: Vec<_> = fs::read_dir(space.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "run" && name != "set" && name != "broken")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn images_cannot_be_assigned_to_prototypes_that_a_method_does_not_have() {
    let space = space();
    space
        .swav("train --data set --out run")
        .sets(&[
            "method.name=random",
            "model.backbone=resnet18",
            "model.width=0.0625",
        ])
        .run()
        .succeeded();
    space
        .swav("assign run --data set --out c.csv")
        .run()
        .failed(2, &["random", "prototypes", "swav embed"]);
    assert!(!space.path("c.csv").exists());
}

#[test]
fn knn_without_labels_or_with_other_classes_is_refused() {
    let space = trained();
    space.flat("flat", 8);
    space.classes("others", &["birds", "cars", "trees"], 3);
    space.swav("eval knn run").run().failed(2, &["--test"]);
    space
        .swav("eval knn run --test others")
        .run()
        .failed(2, &["others", "boats", "cars"]);
    space
        .swav("eval knn run --test flat")
        .run()
        .failed(2, &["flat", "classes"]);
    space
        .swav("eval knn run --train flat --test flat")
        .run()
        .failed(2, &["labels", "one folder per class"]);
    space
        .swav("eval knn run --test nowhere")
        .run()
        .failed(3, &["nowhere"]);
    for (option, part) in [
        ("--k 0", "--k 0"),
        ("--k many", "--k"),
        ("--k -3", "-3"),
        ("--temperature 0", "--temperature 0"),
        ("--temperature nan", "--temperature"),
    ] {
        space
            .swav(&format!("eval knn run --test set {option}"))
            .run()
            .failed(2, &[part]);
    }
}

#[test]
fn a_test_set_with_other_classes_is_refused_before_training() {
    let space = space();
    space.classes("others", &["birds", "cars", "trees"], 3);
    train(&space, "set --test others")
        .run()
        .failed(2, &["others", "boats", "cars"]);
    train(&space, "set --test nowhere")
        .run()
        .failed(3, &["nowhere"]);
    assert!(!space.path("out").exists());
}

#[test]
fn usage_errors_name_what_is_wrong() {
    let space = Space::new();
    for (call, part) in [
        ("", "Usage"),
        ("trian", "train"),
        ("train --dta set", "--data"),
        ("train --resume", "--out"),
        ("embed", "RUN"),
        ("embed run --data set", "--out"),
        (
            "embed run --data set --out f.npy --layer pixels",
            "embeddings",
        ),
        ("eval", "knn"),
        ("eval linear", "linear"),
    ] {
        space.swav(call).run().failed(2, &[part]);
    }
}

// Training that stops itself

#[test]
fn a_collapse_stops_training_and_names_the_remedies() {
    let space = space();
    // At this temperature every prototype is as likely as any other: the loss is ln K for ever.
    let chance = [
        "method.temperature=1000",
        "train.batch_size=4",
        "train.epochs=60",
        "train.checkpoint=never",
    ];
    let output = train(&space, "set").sets(&chance).run().failed(
        5,
        &[
            "stayed at chance",
            "method.epsilon",
            "method.freeze",
            "model.prototypes",
            "train.on_collapse=warn",
        ],
    );
    let stopped = space.losses("out").len();
    assert!((200..210).contains(&stopped), "stopped at {stopped}");
    assert!(
        output.stderr.contains("may be a collapse"),
        "{}",
        output.told()
    );
    let dump = space.checkpoints("out");
    assert!(
        dump.iter().all(|name| output.stderr.contains(name)),
        "{dump:?}\n{}",
        output.told()
    );
    assert_eq!(dump.len(), 1, "{dump:?}");
}

#[test]
fn a_loss_that_is_no_number_stops_training_and_leaves_the_last_good_checkpoint_as_it_was() {
    let space = space();
    let explosion = [
        "optimizer.name=sgd",
        "optimizer.start_lr=0.01",
        "optimizer.lr=1e30",
        "optimizer.warmup=5 steps",
        "train.checkpoint=1 steps",
        "train.epochs=4",
    ];
    let output = train(&space, "set")
        .sets(&explosion)
        .run()
        .failed(5, &["no finite number", "non-finite-step-", "optimizer.lr"]);
    let left = space.checkpoints("out");
    let dump = left
        .iter()
        .find(|name| name.starts_with("non-finite"))
        .unwrap();
    assert!(output.stderr.contains(dump), "{}", output.told());
    assert!(
        left.iter().any(|name| name.starts_with("step-")),
        "{left:?}"
    );
    let losses = space.losses("out");
    assert!(
        losses
            .iter()
            .all(|(_, loss)| f64::from_bits(*loss).is_finite())
    );

    // The checkpoint of the step before the explosion can be used.
    space
        .swav("embed out/checkpoints/step-00000001 --data set --out f.npy")
        .run()
        .succeeded();
    let bytes = fs::read(space.path("f.npy")).unwrap();
    let (values, []) = bytes[192..].as_chunks::<4>() else {
        panic!("not a whole number of values");
    };
    assert!(
        values
            .iter()
            .all(|value| f32::from_le_bytes(*value).is_finite())
    );

    // Nothing is measured with weights that are no numbers.
    for command in ["embed --out bad.npy", "assign --out bad.csv"] {
        space
            .swav(&format!("{command} --data set out/checkpoints/{dump}"))
            .run()
            .failed(5, &["no finite numbers", "earlier checkpoint"]);
    }
    assert!(!space.path("bad.npy").exists() && !space.path("bad.csv").exists());

    // What was dumped is never continued from, and the same cause has the same end.
    space
        .swav("train --resume --out out")
        .run()
        .failed(5, &["no finite number", dump]);
}

// Pipes

#[test]
fn a_reader_of_stdout_that_has_gone_away_is_no_error() {
    let space = space();
    for call in ["devices", "devices --json", "--help", "plan --data set"] {
        let mut child = space.swav(call).spawn();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{call}: {stderr}");
        assert!(!stderr.contains("panicked"), "{call}: {stderr}");
    }
}

#[test]
fn a_reader_of_stderr_that_has_gone_away_does_not_end_training() {
    let space = space();
    let mut child = train(&space, "set").spawn();
    drop(child.stderr.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(space.losses("out").len(), 6);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "out");
}

#[test]
fn a_classifier_without_labels_or_with_settings_that_cannot_work_is_refused() {
    let space = trained();
    space.flat("unlabelled", 4);
    for (call, told) in [
        (
            "--train unlabelled --test unlabelled",
            &["unlabelled", "two classes"][..],
        ),
        ("--test unlabelled", &["unlabelled", "classes"]),
        ("--test set --labels 0%", &["0%", "share of the labels"]),
        ("--test set --labels many", &["many", "10%"]),
        ("--test set --lr=-1", &["--lr -1"]),
        ("--test set --lr=NaN", &["--lr NaN"]),
        ("--test set --epochs 0", &["--epochs"]),
        ("--test set --batch-size 0", &["--batch-size"]),
        ("--test set --augment maybe", &["--augment", "on"]),
        ("--test set --resume", &["--out"]),
        ("nowhere --test set", &["nowhere"]),
    ] {
        let call = format!("eval linear run {call}");
        space.swav(&call).run().failed(2, told);
    }
    space
        .swav("eval linear run --test set --lr 1e30")
        .run()
        .failed(5, &["no finite number", "--lr"]);

    let call = "eval linear run --test set --epochs 1 --out linear";
    space.swav(call).run().succeeded();
    space.swav(call).run().failed(2, &["linear", "--resume"]);
    for change in ["--seed 1", "--augment on", "--untrained", "--labels 50%"] {
        space
            .swav(&format!("{call} --resume {change}"))
            .run()
            .failed(2, &["linear", "other settings"]);
    }
    let tensors = space.path("linear/state/epoch-0001/classifier.safetensors");
    fs::write(&tensors, b"not tensors").unwrap();
    space
        .swav(&format!("{call} --resume"))
        .run()
        .failed(2, &["classifier.safetensors", "damaged"]);
}

#[test]
fn a_fine_tuning_that_cannot_work_is_refused_and_one_that_is_there_not_overwritten() {
    let space = trained();
    space.flat("unlabelled", 4);
    for (call, told) in [
        (
            "--train unlabelled --test unlabelled",
            &["unlabelled", "two classes"][..],
        ),
        ("--test unlabelled", &["unlabelled", "classes"]),
        ("--test set --labels 0%", &["0%", "share of the labels"]),
        ("--test set --lr=-1", &["--lr -1"]),
        ("--test set --classifier-lr=NaN", &["--classifier-lr NaN"]),
        ("--test set --epochs 0", &["--epochs"]),
        ("--test set --batch-size 1", &["--batch-size"]),
        ("--test set --resume", &["--out"]),
    ] {
        let call = format!("eval finetune run {call}");
        space.swav(&call).run().failed(2, told);
    }
    space
        .swav("eval finetune run --test set --lr 1e30")
        .run()
        .failed(5, &["no finite number", "--lr"]);

    let call = "eval finetune run --test set --epochs 1 --out tuned";
    space.swav(call).run().succeeded();
    space.swav(call).run().failed(2, &["tuned", "--resume"]);
    space
        .swav(&format!("{call} --resume --seed 1"))
        .run()
        .failed(2, &["tuned", "other settings"]);
    let model = space.path("tuned/state/epoch-0001/model.bpk");
    fs::write(&model, "nonsense").unwrap();
    space
        .swav(&format!("{call} --resume"))
        .run()
        .failed(2, &["model.bpk"]);
}
