//! Lists, WebDataset and Parquet: found by themselves, read right, and wrong ones named to the line.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{auto, labels, png, put, reds, refused};
use swav_data::{DataError, Format, decode, open};
use tempfile::TempDir;

fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

// Lists

#[test]
fn a_list_names_images_beside_it_or_anywhere_in_its_own_order() {
    let root = place();
    let far = put(&root, "far/away.png", png(3));
    for (name, red) in [("set/b.png", 1), ("set/a b,c.png", 2)] {
        put(&root, name, png(red));
    }
    let text = format!(
        "\u{feff}# mine\r\nset/b.png\r\n\nset/a b,c.png\n{}\nset/../set/b.png",
        far.display()
    );
    let list = put(&root, "train.txt", text);
    let source = auto(&list);
    assert_eq!(reds(source.as_ref()), [1, 2, 3, 1]);
    assert_eq!(labels(source.as_ref()), [None; 4]);
    assert!(source.name(1).ends_with("a b,c.png"));
    assert!(
        source.describe().contains("4 images, list"),
        "{}",
        source.describe()
    );
}

#[test]
fn classes_of_a_list_are_sorted_by_name_or_by_value() {
    let root = place();
    for i in 0..4 {
        put(&root, &format!("{i}.png"), png(i));
    }
    let names = put(
        &root,
        "n.tsv",
        "0.png\tzebra\n1.png\tant\n2.png\tzebra\n3.png\tbee\n",
    );
    let source = auto(&names);
    assert_eq!(source.classes(), ["ant", "bee", "zebra"]);
    assert_eq!(labels(source.as_ref()), [2, 0, 2, 1].map(Some));
    let numbers = put(
        &root,
        "n.csv",
        "\"0.png\",10\n1.png,9\n2.png, 10 \n3.png,-1\n",
    );
    let source = auto(&numbers);
    assert_eq!(source.classes(), ["-1", "9", "10"]);
    assert_eq!(labels(source.as_ref()), [2, 1, 2, 0].map(Some));
    assert_eq!(reds(source.as_ref()), [0, 1, 2, 3]);
}

#[test]
fn a_wrong_line_is_named_by_its_number() {
    let root = place();
    let format = |text: &str| put(&root, "l.csv", text);
    refused(
        format("name,kind\na.png,1\n"),
        Format::Auto,
        &["l.csv", "line 1", "name,kind", "path,label"],
    );
    refused(
        format("a.png,1\r\n\r\n#\r\nb.png\r\n"),
        Format::List,
        &["line 4", "no class"],
    );
    refused(
        format("a.png,1,train\n"),
        Format::List,
        &["line 1", "a.png,1,train", "name the columns"],
    );
    refused(
        format("a.png,1\n\"b.png,1\nc.png,1\n"),
        Format::List,
        &["line 2", "quote is not closed"],
    );
    refused(
        format("# see,\"this\na.png,1\nb.png,1\n"),
        Format::List,
        &["line 1", "quote is not closed"],
    );
    refused(
        format("a.png,\"one\ntwo.png,1\n"),
        Format::List,
        &["line 1", "quote is not closed"],
    );
    refused(
        format("a.png,1\n\n#\nb.png\n"),
        Format::List,
        &["line 4", "no class"],
    );
    refused(
        format("a.png\nb.png,2\n"),
        Format::List,
        &["line 2", "a class"],
    );
    let error = refused(format("# nothing\n\n"), Format::Auto, &["l.csv"]);
    assert!(matches!(error, DataError::Empty { .. }));
    refused(format("\0\u{1}binary"), Format::List, &["line 1"]);
    // What is missing shows when it is read.
    let source = auto(format("gone.png\n"));
    let message = source.read(0).unwrap_err().to_string();
    assert!(message.contains("gone.png: no such file"), "{message}");
}

#[test]
fn a_csv_list_is_read_as_rfc_4180_has_it() {
    let root = place();
    for (red, name) in ["a,b.png", "say \"hi\".png", "c.png"].iter().enumerate() {
        put(&root, name, png(red as u8));
    }
    let text =
        "\"a,b.png\",\"cat, small\"\r\n\"say \"\"hi\"\".png\" , \"dog\"\r\nc.png,5\" disk\r\n";
    let source = auto(put(&root, "l.csv", text));
    assert_eq!(reds(source.as_ref()), [0, 1, 2]);
    assert_eq!(source.classes(), ["5\" disk", "cat, small", "dog"]);
    assert_eq!(labels(source.as_ref()), [1, 2, 0].map(Some));
    // In a list with tabs a quote is a character.
    let source = auto(put(&root, "l.txt", "say \"hi\".png\tx\n\"a,b.png\"\ty\n"));
    assert_eq!(reds(source.as_ref()), [1, 0]);
    if cfg!(unix) {
        put(&root, "two\nlines.png", png(7));
        let source = auto(put(&root, "n.csv", "c.png,1\n\"two\nlines.png\",2\n"));
        assert_eq!(reds(source.as_ref()), [2, 7]);
    }
}

#[test]
fn a_first_line_may_name_the_columns() {
    let root = place();
    for red in 0..3 {
        put(&root, &format!("{red}.png"), png(red));
    }
    for text in [
        "path,label\n2.png,dog\n0.png,cat\n",
        "\u{feff}# made by hand\n\nFile Name,Class\n2.png,dog\n0.png,cat\n",
        "row,image,label,score\n0,2.png,dog,1.0\n1,0.png,cat,0.5\n",
        "class,filename\ndog,2.png\ncat,0.png\n",
        "image,caption,label\n2.png,\"two\",dog\n0.png,none,cat\n",
    ] {
        let source = auto(put(&root, "l.csv", text));
        assert_eq!(source.classes(), ["cat", "dog"], "{text}");
        assert_eq!(labels(source.as_ref()), [1, 0].map(Some), "{text}");
        assert_eq!(reds(source.as_ref()), [2, 0], "{text}");
        let source = auto(put(&root, "l.tsv", text.replace(',', "\t")));
        assert_eq!(source.classes(), ["cat", "dog"], "{text}");
    }
    let text = "image,caption,label\n2.png,\"two\nlines\",dog\n0.png,none,cat\n";
    assert_eq!(reds(auto(put(&root, "l.csv", text)).as_ref()), [2, 0]);
    let source = auto(put(&root, "l.csv", "image,width\n1.png,4\n"));
    assert_eq!(
        (reds(source.as_ref()), labels(source.as_ref())),
        (vec![1], vec![None])
    );
}

#[test]
fn an_image_whose_class_is_left_out_has_no_label() {
    let root = place();
    let source = auto(put(&root, "l.csv", "0.png,cat\n1.png,\n2.png,dog\n"));
    assert_eq!(source.classes(), ["cat", "dog"]);
    assert_eq!(labels(source.as_ref()), [Some(0), None, Some(1)]);
    assert_eq!(source.notes(), ["1 of 3 images have no label"]);
    // As features of unlabelled images are listed.
    let source = auto(put(&root, "l.csv", "row,image,label\n0,0.png,\n1,1.png,\n"));
    assert_eq!(labels(source.as_ref()), [None, None]);
    assert!(source.classes().is_empty());
}

#[test]
fn a_line_that_begins_like_a_comment_is_a_file_where_there_is_one() {
    let root = place();
    put(&root, "#1/6.png", png(6));
    put(&root, "#2.png", png(2));
    let text = "# a comment\n#1/6.png\n#3.png\n#2.png\n";
    assert_eq!(reds(auto(put(&root, "l.txt", text)).as_ref()), [6, 2]);
    let text = "#2.png,a\n#1/6.png,b\n#1/7.png,c\n";
    let source = auto(put(&root, "l.csv", text));
    assert_eq!(
        (reds(source.as_ref()), source.classes().len()),
        (vec![2, 6], 2)
    );
}

#[test]
fn a_list_in_another_encoding_is_said_to_be() {
    let root = place();
    refused(
        put(&root, "l.txt", b"\xFF\xFEa\0"),
        Format::Auto,
        &["l.txt", "UTF-16", "UTF-8"],
    );
}

// WebDataset

fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn keys_join_images_with_their_labels_in_the_order_of_the_archive() {
    let (one, two, three) = (png(1), png(2), png(3));
    let root = place();
    let tar = tar_of(&[
        ("d/0002.jpg", &one),
        ("d/0002.cls", b"7\n"),
        ("d/0002.txt", b"a caption"),
        ("d/0001.json", br#"{"label": 3, "text": "x"}"#),
        ("d/0001.png", &two),
        ("d/0003.cls", b"0"),
        ("d/0003.json", br#"{"label": 0}"#),
        ("d/0003.seg.png", &three),
    ]);
    put(&root, "a.tar", &tar);
    put(
        &root,
        "b.tar",
        tar_of(&[("x.png", &three), ("x.cls", b"8")]),
    );
    let source = auto(root.path());
    // A mask goes with its key when there is no image of the key alone.
    assert_eq!(reds(source.as_ref()), [1, 2, 3, 3]);
    assert_eq!(labels(source.as_ref()), [7, 3, 0, 8].map(Some));
    assert_eq!(source.classes().len(), 9);
    assert!(
        source.describe().contains("WebDataset"),
        "{}",
        source.describe()
    );
    assert!(
        source.name(0).ends_with("a.tar:d/0002.jpg"),
        "{}",
        source.name(0)
    );
    // As an ordinary tar, the folder is a class.
    assert_eq!(
        labels(
            open(&root.path().join("a.tar"), Format::Tar)
                .unwrap()
                .as_ref()
        ),
        [None; 3]
    );
}

#[test]
fn captions_without_labels_make_an_unlabelled_set() {
    let image = png(1);
    let root = place();
    let path = put(
        &root,
        "a.tar",
        tar_of(&[
            ("1.png", &image),
            ("1.json", b"{\"text\": 1}"),
            ("2.png", &image),
        ]),
    );
    let source = open(&path, Format::WebDataset).unwrap();
    assert_eq!(labels(source.as_ref()), [None, None]);
}

#[test]
fn wrong_labels_are_named_by_archive_and_key() {
    let image = png(1);
    let of = |members: &[(&str, &[u8])]| {
        let root = place();
        let path = put(&root, "w.tar", tar_of(members));
        (root, path)
    };
    for (label, content, said) in [
        ("1.cls", &b"1\n2"[..], "found \"1\\n2\""),
        ("1.cls", b"-2", "label -2"),
        ("1.cls", b"99999999999", "99999999999"),
        ("1.json", b"{\"label\": [1]}", "\"label\" is [1]"),
        ("1.json", b"{\"label\"", "EOF"),
    ] {
        let (_root, path) = of(&[("1.png", &image), (label, content)]);
        refused(&path, Format::WebDataset, &["w.tar", label, said]);
    }
    let (_root, path) = of(&[("k1.png", &image), ("k1.cls", b"1"), ("k2.png", &image)]);
    refused(&path, Format::Auto, &["w.tar", "key k2", "no label"]);
    let (_root, path) = of(&[
        ("1.png", &image),
        ("2.png", &image),
        ("1.cls", b"1"),
        ("2.cls", b"1"),
    ]);
    refused(&path, Format::Auto, &["w.tar", "next to one another"]);
}

#[test]
fn an_index_made_for_keys_is_not_taken_for_folders() {
    let root = place();
    // Large enough for an index.
    let mut image = png(1);
    image.resize(1 << 20, 0);
    let path = put(
        &root,
        "w.tar",
        tar_of(&[("a/1.png", &image), ("a/1.cls", b"4")]),
    );
    for _ in 0..2 {
        assert_eq!(labels(auto(&path).as_ref()), [Some(4)]);
        assert!(root.path().join("w.tar.index").exists());
        assert_eq!(labels(open(&path, Format::Tar).unwrap().as_ref()), [None]);
    }
}

// Parquet

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

#[test]
fn parquet_of_the_hub_is_read_in_any_order_whatever_its_encoding() {
    for name in [
        "hub.parquet",
        "hub-v2.parquet",
        "hub-zstd.parquet",
        "hub-lz4.parquet",
        "hub-delta.parquet",
    ] {
        let source = auto(fixture(name));
        assert_eq!(source.classes(), ["zebra", "ant"], "{name}");
        assert_eq!(
            reds(source.as_ref()),
            (0..20).collect::<Vec<u8>>(),
            "{name}"
        );
        let expected: Vec<_> = (0..20).map(|i| Some(i % 2)).collect();
        assert_eq!(labels(source.as_ref()), expected);
        assert!(source.name(13).ends_with(&format!("{name}#13")));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let source = &source;
                scope.spawn(move || {
                    for step in 0..60 {
                        let index = (step * 7 + thread * 5) % 20;
                        let sample = source.read(index).unwrap();
                        let image = decode(&sample, "", 100).unwrap();
                        assert_eq!(usize::from(image.rgb[0]), index);
                    }
                });
            }
        });
    }
}

#[test]
fn a_folder_of_parquet_files_is_one_set() {
    let root = place();
    for (name, from) in [
        ("train-00000.parquet", "hub.parquet"),
        ("train-00001.parquet", "hub-v2.parquet"),
    ] {
        fs::copy(fixture(from), root.path().join(name)).unwrap();
    }
    let source = auto(root.path());
    let expected: Vec<u8> = (0..20).chain(0..20).collect();
    assert_eq!(reds(source.as_ref()), expected);
    assert!(
        source.describe().contains("40 images in 2 classes"),
        "{}",
        source.describe()
    );
    assert!(source.name(33).ends_with("train-00001.parquet#13"));
}

#[test]
fn a_row_without_bytes_is_a_bad_sample_and_minus_one_is_no_label() {
    let source = auto(fixture("hub-bare.parquet"));
    assert_eq!(labels(source.as_ref()), [None; 6]);
    let message = source.read(3).unwrap_err().to_string();
    assert!(
        message.contains("hub-bare.parquet#3") && message.contains("no bytes"),
        "{message}"
    );
    let red = |index| decode(&source.read(index).unwrap(), "", 100).unwrap().rgb[0];
    assert_eq!([0, 1, 2, 4, 5].map(red), [0, 1, 2, 4, 5]);
}

#[test]
fn rows_without_a_label_are_counted_and_have_none() {
    let source = auto(fixture("hub-some.parquet"));
    assert_eq!(reds(source.as_ref()), [0, 1, 2, 3, 4, 5]);
    let expected = [Some(1), None, Some(0), None, Some(1), Some(0)];
    assert_eq!(labels(source.as_ref()), expected);
    assert_eq!(source.classes(), ["0", "1"]);
    assert_eq!(source.notes(), ["2 of 6 images have no label"]);
    // A file without any, beside one that has them.
    let root = place();
    for (name, from) in [
        ("0.parquet", "hub.parquet"),
        ("1.parquet", "hub-time.parquet"),
    ] {
        fs::copy(fixture(from), root.path().join(name)).unwrap();
    }
    let source = auto(root.path());
    assert_eq!((source.label(19), source.label(20)), (Some(1), None));
    let notes = source.notes().join("\n");
    assert!(notes.contains("2 of 22 images have no label"), "{notes}");
    assert!(
        source
            .describe()
            .ends_with("(2 files: 0.parquet … 1.parquet)")
    );
}

#[test]
fn decimal_labels_are_what_they_say_and_empty_row_groups_are_nothing() {
    let source = auto(fixture("hub-decimal.parquet"));
    assert_eq!(reds(source.as_ref()), [0, 1, 2, 3]);
    assert_eq!(labels(source.as_ref()), [0, 1, 2, 0].map(Some));
    assert_eq!(source.classes(), ["0", "1", "2"]);
}

#[test]
fn times_are_no_labels() {
    let source = auto(fixture("hub-time.parquet"));
    assert_eq!(labels(source.as_ref()), [None, None]);
    let notes = source.notes().join("\n");
    assert!(notes.contains("label holds no whole numbers"), "{notes}");
}

#[test]
fn what_cannot_be_read_is_said_by_its_name() {
    refused(
        fixture("hub-brotli.parquet"),
        Format::Auto,
        &["hub-brotli", "Brotli", "snappy"],
    );
    refused(
        fixture("hub-two.parquet"),
        Format::Auto,
        &["mask.bytes, photo.bytes", "`image`"],
    );
    refused(
        fixture("hub-half.parquet"),
        Format::Auto,
        &["row 0", "label 0.5 is no whole number"],
    );
    let root = place();
    let whole = fs::read(fixture("hub.parquet")).unwrap();
    for length in [0, 4, 7, 8, 100, whole.len() - 1] {
        let path = put(&root, "cut.parquet", &whole[..length]);
        refused(&path, Format::Auto, &["cut.parquet", "cut short"]);
    }
    let mut encrypted = whole.clone();
    *encrypted.last_mut().unwrap() = b'E';
    refused(
        put(&root, "e.parquet", &encrypted),
        Format::Auto,
        &["encrypted"],
    );
    // No such column.
    let renamed: Vec<u8> = {
        let mut bytes = whole.clone();
        while let Some(at) = bytes.windows(5).position(|w| w == b"bytes") {
            bytes[at..at + 5].copy_from_slice(b"octet");
        }
        bytes
    };
    refused(
        put(&root, "r.parquet", renamed),
        Format::Auto,
        &["no column of images", "image.octet"],
    );
}

#[test]
fn damaged_parquet_never_panics() {
    let root = place();
    for name in [
        "hub.parquet",
        "hub-v2.parquet",
        "hub-bare.parquet",
        "hub-zstd.parquet",
        "hub-lz4.parquet",
        "hub-delta.parquet",
        "hub-decimal.parquet",
    ] {
        let whole = fs::read(fixture(name)).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            let path = put(&root, "d.parquet", &damaged);
            if let Ok(source) = open(&path, Format::Parquet) {
                for index in 0..source.len().min(30) {
                    if let Ok(sample) = source.read(index) {
                        let _ = decode(&sample, "", 10_000);
                    }
                }
            }
        }
    }
}
