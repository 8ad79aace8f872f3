//! What a path stands for: one split and not several, the files that a pattern names, and what links,
//! pipes and unknown endings come to.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::{auto, labels, png, put, reds, refused, tree};
use swav_data::{
    Cursor, DataError, Format, Loader, LoaderConfig, Order, Sample, ScanConfig, Source, View, open,
    scan,
};

fn notes(source: &dyn Source) -> String {
    source.notes().join("\n")
}

fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn parquet(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fs::read(folder.join(name)).unwrap()
}

fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|dim| bytes.extend(dim.to_be_bytes()));
    bytes.extend(values);
    bytes
}

/// `count` CIFAR-10 records.
fn cifar(count: u8) -> Vec<u8> {
    let record = |i| std::iter::once(i).chain(std::iter::repeat_n(i, 3072));
    (0..count).flat_map(record).collect()
}

// Splits

#[test]
fn folders_of_several_splits_are_no_set_and_no_classes() {
    for names in [
        &["train/1.png", "val/2.png"][..],
        &["train2017/1.jpg", "val2017/2.jpg", "unlabeled2017/3.jpg"],
        &["Training/a/1.png", "Validation/a/2.png"],
        &["imagenet/train/a/1.png", "imagenet/val/a/2.png"],
        &["cat/train/1.png", "cat/test/2.png", "dog/train/3.png"],
        &["images_train/1.png", "images_test/2.png", "more/3.png"],
        &["cat/1.png", "dog/2.png", "test/3.png"],
        &["1.png", "test/2.png"],
    ] {
        let root = tree(names);
        let error = refused(root.path(), Format::Auto, &["splits", "--data"]);
        assert!(matches!(error, DataError::Format { .. }), "{names:?}");
        let all = open(root.path(), Format::Nested).unwrap();
        assert_eq!(all.len(), names.len(), "{names:?}");
    }
    let root = tree(&["train/1.png", "val/2.png"]);
    let example = root.path().join("train").display().to_string();
    refused(root.path(), Format::Auto, &["train, val", &example]);
    // Asked for, folders are classes.
    let source = open(root.path(), Format::Classes).unwrap();
    assert_eq!(source.classes(), ["train", "val"]);
}

#[test]
fn classes_whose_names_hold_the_word_of_a_split_are_classes() {
    for classes in [
        &["beaker", "pipette", "test_tube"][..],
        &["airplane", "bus", "train"],
        &["test_tube", "train_station", "zebra"],
        &["valid", "invalid"],
        &["latest", "retest"],
        &["with_mask", "without_mask"],
    ] {
        let names: Vec<String> = classes
            .iter()
            .map(|class| format!("{class}/1.png"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let root = tree(&names);
        assert_eq!(
            auto(root.path()).classes().len(),
            classes.len(),
            "{classes:?}"
        );
    }
}

#[test]
fn masks_are_neither_a_class_nor_images_of_the_set() {
    for names in [
        &["images/1.jpg", "masks/1.png"][..],
        &[
            "JPEGImages/1.jpg",
            "SegmentationClass/1.png",
            "SegmentationObject/1.png",
        ],
        &["images/a/1.jpg", "annotations/a/1.png"],
        &["set/leftImg8bit/1.png", "set/gtFine/1.png"],
    ] {
        let root = tree(names);
        refused(
            root.path(),
            Format::Auto,
            &["annotations of them", "--data"],
        );
    }
}

#[test]
fn flat_files_of_several_splits_are_chosen_by_a_pattern() {
    let root = tree(&["x_train2014_1.jpg", "x_train2014_2.jpg", "x_val2014_3.jpg"]);
    let pattern = root.path().join("x_train2014_*.jpg");
    refused(
        root.path(),
        Format::Auto,
        &["train (2), val (1)", &pattern.display().to_string()],
    );
    let source = auto(&pattern);
    assert_eq!(
        (reds(&*source), labels(&*source)),
        (vec![0, 1], vec![None, None])
    );
    put(root.path(), "other.jpg", png(9));
    assert_eq!(auto(root.path()).len(), 4);
}

#[test]
fn archives_and_tables_of_several_splits_are_no_set() {
    let tar = tar_of(&[("a/1.png", &png(1)), ("b/2.png", &png(2))]);
    for (ending, bytes) in [("tar", &tar), ("parquet", &parquet("hub.parquet"))] {
        let files = |names: &[&str]| {
            let root = tree(&[]);
            for name in names {
                put(root.path(), &format!("{name}.{ending}"), bytes);
            }
            root
        };
        for (names, pattern) in [
            (
                &["train-0-of-2", "train-1-of-2", "test-0-of-1"][..],
                "train-*.",
            ),
            (&["emnist-train", "emnist-val"], "emnist-train."),
            (&["000", "001", "test"], "test."),
            (&["a-train", "b-train", "a-test"], "*train*."),
        ] {
            let root = files(names);
            for format in [
                Format::Auto,
                if ending == "tar" {
                    Format::Tar
                } else {
                    Format::Parquet
                },
            ] {
                refused(root.path(), format, &["splits", pattern, "takes all"]);
            }
            let some = auto(root.path().join(format!("{pattern}{ending}")));
            assert!(some.len() < auto(root.path().join(format!("*.{ending}"))).len());
        }
        assert!(!auto(files(&["train-0", "train-1"]).path()).is_empty());
        assert!(!auto(files(&["train-0", "extra-1"]).path()).is_empty());
        assert!(!auto(files(&["latest-0", "retest-1"]).path()).is_empty());
    }
}

#[test]
fn folders_in_an_archive_that_are_splits_are_no_classes() {
    let image = png(1);
    let of = |names: &[&str]| {
        let members: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, &image[..])).collect();
        let root = tree(&[]);
        let path = put(root.path(), "x.tar", tar_of(&members));
        (root, path)
    };
    for names in [
        ["train/cat/1.png", "val/cat/2.png"],
        ["images/1.png", "masks/1.png"],
    ] {
        let (_root, path) = of(&names);
        refused(
            &path,
            Format::Auto,
            &["x.tar", "not classes", "data.format"],
        );
        assert_eq!(open(&path, Format::Tar).unwrap().classes().len(), 2);
    }
    let (_root, path) = of(&["test_tube/1.png", "beaker/2.png"]);
    assert_eq!(auto(&path).classes(), ["beaker", "test_tube"]);
}

#[test]
fn idx_folders_stand_for_their_one_training_part() {
    let images = |count: u32| idx(&[count, 1, 1], &vec![7; count as usize]);
    let root = tree(&[]);
    for (name, count) in [("test10k", 1), ("test50k", 2), ("train", 3)] {
        let name = format!("qmnist-{name}-images-idx3-ubyte");
        put(root.path(), &name, images(count));
    }
    put(root.path(), "qmnist-train-labels-idx2-int", b"");
    let source = auto(root.path());
    assert_eq!((source.len(), source.label(0)), (3, None));
    assert!(notes(&*source).contains("qmnist-train-labels-idx2-int is not read"));
    let root = tree(&[]);
    for set in ["letters", "digits"] {
        for (split, count) in [("train", 5), ("test", 2)] {
            let name = format!("emnist-{set}-{split}-images-idx3-ubyte");
            put(root.path(), &name, images(count));
        }
    }
    let names = ["emnist-digits-train", "emnist-letters-train", "--data"];
    refused(root.path(), Format::Auto, &names);
    assert_eq!(auto(root.path().join("emnist-letters-t*n-*")).len(), 5);
    // The same images, packed and unpacked.
    let root = tree(&[]);
    put(root.path(), "t10k-images-idx3-ubyte", images(2));
    put(root.path(), "t10k-images-idx3-ubyte.gz", b"\x1F\x8B");
    assert_eq!(auto(root.path()).len(), 2);
}

#[test]
fn a_stray_file_called_like_records_does_not_hide_the_images() {
    let root = tree(&["cat/1.png", "dog/2.png"]);
    put(root.path(), "test.bin", b"no records");
    put(root.path(), "all-images-idx3", b"no table");
    let source = auto(root.path());
    assert_eq!(source.classes(), ["cat", "dog"]);
    assert!(notes(&*source).contains("1 .bin"), "{}", notes(&*source));
    put(root.path(), "test_batch.bin", cifar(2));
    refused(root.path(), Format::Auto, &["test_batch.bin", "two sets"]);
}

#[test]
fn cifar_says_which_files_it_took_and_takes_one_kind() {
    let root = tree(&[]);
    put(root.path(), "data_batch_1.bin", cifar(2));
    put(root.path(), "data_batch_2.bin", cifar(3));
    put(root.path(), "test_batch.bin", cifar(4));
    let source = auto(root.path());
    assert_eq!(source.len(), 5);
    let text = source.describe();
    assert!(
        text.ends_with("(data_batch_1.bin, data_batch_2.bin)"),
        "{text}"
    );
    assert_eq!(auto(root.path().join("data_batch_{2..2}.bin")).len(), 3);
    put(root.path(), "train.bin", vec![0; 3074]);
    refused(root.path(), Format::Auto, &["train.bin", "two sets"]);
}

#[test]
fn the_folders_that_archives_unpack_to_are_looked_into() {
    let root = tree(&[]);
    put(
        root.path(),
        "cifar-10-batches-bin/data_batch_1.bin",
        cifar(2),
    );
    assert_eq!(auto(root.path()).len(), 2);
    put(
        root.path(),
        "MNIST/raw/train-images-idx3-ubyte",
        idx(&[3, 1, 1], &[1; 3]),
    );
    refused(
        root.path(),
        Format::Auto,
        &["MNIST, cifar-10-batches-bin", "--data"],
    );
    fs::remove_dir_all(root.path().join("cifar-10-batches-bin")).unwrap();
    assert_eq!(auto(root.path()).len(), 3);
    let root = tree(&[]);
    put(root.path(), "data/train-0.parquet", parquet("hub.parquet"));
    assert_eq!(auto(root.path()).len(), 20);
}

#[test]
fn pickled_cifar_is_named_and_what_to_download_instead() {
    let root = tree(&[]);
    let file = put(
        root.path(),
        "cifar-10-batches-py/data_batch_1",
        b"\x80\x02}q\x01.",
    );
    put(
        root.path(),
        "cifar-10-batches-py/batches.meta",
        b"\x80\x02.",
    );
    for place in [root.path(), &root.path().join("cifar-10-batches-py"), &file] {
        refused(
            place,
            Format::Auto,
            &["data_batch_1", "pickles", "cifar-10-binary.tar.gz"],
        );
    }
}

// Patterns

#[test]
fn a_pattern_chooses_files_in_the_order_of_their_bytes() {
    let root = tree(&["b/2.png", "a/10.png", "a/9.png", "a/x.txt"]);
    let source = auto(root.path().join("*/*.png"));
    assert_eq!(reds(&*source), [1, 2, 0]);
    assert_eq!(source.relative_path(0).unwrap(), Path::new("a/10.png"));
    assert!(
        source.describe().contains("3 images, files"),
        "{}",
        source.describe()
    );
    assert_eq!(reds(&*auto(root.path().join("{b,a}/?.png"))), [2, 0]);
    assert_eq!(reds(&*auto(root.path().join("**/[29].png"))), [2, 0]);
}

#[test]
fn braces_name_shards_and_each_must_be_there() {
    let root = tree(&[]);
    for number in 0..12u8 {
        let (a, b) = (png(number), png(number));
        let tar = tar_of(&[("a/1.png", &a), ("b/2.png", &b)]);
        put(root.path(), &format!("s-{number:03}.tar"), &tar);
    }
    let source = auto(root.path().join("s-{008..010}.tar"));
    assert_eq!(reds(&*source), [8, 8, 9, 9, 10, 10]);
    assert_eq!(source.classes(), ["a", "b"]);
    assert!(
        source.name(2).ends_with("s-009.tar:a/1.png"),
        "{}",
        source.name(2)
    );
    let missing = refused(
        root.path().join("s-{010..013}.tar"),
        Format::Auto,
        &["s-012.tar"],
    );
    assert!(matches!(missing, DataError::NotFound { .. }));
}

#[test]
fn a_pattern_without_a_match_or_of_several_kinds_is_an_error() {
    let root = tree(&["1.png"]);
    put(root.path(), "a.tar", tar_of(&[("1.png", &png(1))]));
    put(root.path(), "sub/2.png", png(2));
    refused(
        root.path().join("*.webp"),
        Format::Auto,
        &["*.webp", "no file matches"],
    );
    refused(
        root.path().join("[1a].*"),
        Format::Auto,
        &["several kinds", "1.png", "a.tar"],
    );
    refused(root.path().join("s*"), Format::Auto, &["sub is a folder"]);
    refused(root.path().join("[x"), Format::Auto, &["not a pattern"]);
    let missing = refused(root.path().join("none.png"), Format::Auto, &[]);
    assert!(matches!(missing, DataError::NotFound { .. }));
}

#[test]
fn a_file_or_folder_with_the_name_of_a_pattern_is_that_file() {
    let root = tree(&["[old]/a*.png", "[old]/ab.png", "o/c.png"]);
    assert_eq!(reds(&*auto(root.path().join("[old]/a*.png"))), [0]);
    assert_eq!(reds(&*auto(root.path().join("[old]/?b.png"))), [1]);
}

// Links

#[cfg(unix)]
mod links {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn two_classes_that_link_to_one_folder_both_have_its_images() {
        let root = tree(&["all/cat/0.png", "all/cat/1.png", "all/dog/2.png"]);
        let view = root.path().join("view");
        fs::create_dir(&view).unwrap();
        for (folder, class) in [("cat", "pet"), ("cat", "tiger"), ("dog", "wolf")] {
            symlink(Path::new("../all").join(folder), view.join(class)).unwrap();
        }
        let source = auto(&view);
        assert_eq!(source.classes(), ["pet", "tiger", "wolf"]);
        assert_eq!(reds(&*source), [0, 1, 0, 1, 2]);
        assert_eq!(labels(&*source), [0, 0, 1, 1, 2].map(Some));
        assert!(notes(&*source).contains("pet and tiger are the same"));
    }

    #[test]
    fn a_link_out_of_its_class_is_refused_by_its_name() {
        for (target, link, what) in [
            ("../dog", "cat/see-also", "class dog"),
            ("../dog/deep", "cat/see-also", "class dog"),
            ("..", "cat/up", "above itself"),
            (".", "cat/self", "above itself"),
            (".", "aaa", "above itself"),
            ("/", "aaa", "above itself"),
        ] {
            let root = tree(&["cat/0.png", "dog/1.png", "dog/deep/2.png"]);
            symlink(target, root.path().join(link)).unwrap();
            for format in [Format::Auto, Format::Classes] {
                refused(root.path(), format, &[link, what, "remove it"]);
            }
        }
    }

    #[test]
    fn links_that_leave_labels_right_are_followed() {
        let root = tree(&["set/cat/0.png", "set/dog/1.png", "more/2.png"]);
        let set = root.path().join("set");
        symlink("../../more", set.join("cat/more")).unwrap();
        symlink("../cat/0.png", set.join("dog/link.png")).unwrap();
        let source = auto(&set);
        assert_eq!(reds(&*source), [0, 2, 1, 0]);
        assert_eq!(labels(&*source), [0, 0, 1, 1].map(Some));
    }

    #[test]
    fn a_lost_and_found_that_may_not_be_read_is_left_out_and_other_folders_are_errors() {
        use std::os::unix::fs::PermissionsExt;
        let root = tree(&["cat/0.png", "dog/1.png", "lost+found/2.png"]);
        let close = |name: &str| {
            let path = root.path().join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
            path
        };
        if fs::read_dir(close("lost+found")).is_ok() {
            // The superuser may read anything.
            return;
        }
        let source = auto(root.path());
        assert_eq!(source.classes(), ["cat", "dog"]);
        assert!(
            notes(&*source).contains("lost+found"),
            "{}",
            notes(&*source)
        );
        let closed = close("dog");
        refused(root.path(), Format::Auto, &[&closed.display().to_string()]);
        for name in ["dog", "lost+found"] {
            let open = fs::Permissions::from_mode(0o755);
            fs::set_permissions(root.path().join(name), open).unwrap();
        }
    }
}

// What is left out

#[test]
fn files_without_a_known_ending_are_counted_by_it() {
    let root = tree(&["cat/1.png", "dog/2.png"]);
    for name in [
        "cat/a.heic",
        "cat/b.HEIC",
        "dog/c.xyz",
        "dog/none",
        "list.dat",
    ] {
        put(root.path(), name, b"");
    }
    for name in [
        ".DS_Store",
        "cat/Thumbs.db",
        "README.md",
        "LICENSE",
        "cat/._1.png",
    ] {
        put(root.path(), name, b"");
    }
    for format in [Format::Auto, Format::Classes, Format::Nested] {
        let source = open(root.path(), format).unwrap();
        let expected = "left out for their ending: 2 .heic, 1 without one, 1 .dat, 1 .xyz";
        assert_eq!(source.notes(), [expected], "{format}");
    }
    let source = open(&root.path().join("cat"), Format::Flat).unwrap();
    assert_eq!(source.notes(), ["left out for their ending: 2 .heic"]);
    assert!(auto(root.path().join("cat/*.png")).notes().is_empty());
}

#[cfg(unix)]
mod special {
    use super::*;

    fn fifo(path: &Path) {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    }

    #[test]
    fn a_pipe_called_like_an_image_is_left_out_with_a_note() {
        let root = tree(&["cat/a.png", "dog/b.png"]);
        fifo(&root.path().join("cat/pipe.png"));
        let _socket = std::os::unix::net::UnixListener::bind(root.path().join("dog/s.png"));
        std::os::unix::fs::symlink("/dev/zero", root.path().join("dog/zero.png")).unwrap();
        for format in [Format::Auto, Format::Classes, Format::Nested] {
            let source = open(root.path(), format).unwrap();
            assert_eq!(source.len(), 2);
            assert!(
                notes(&*source).contains("pipe.png and 2 more"),
                "{}",
                notes(&*source)
            );
        }
        refused(
            root.path().join("cat/pipe.png"),
            Format::Auto,
            &["pipe.png", "a FIFO"],
        );
        refused(
            root.path().join("dog/s.png"),
            Format::Auto,
            &["s.png", "a socket"],
        );
        refused("/dev/zero", Format::Auto, &["/dev/zero", "a device"]);
    }

    #[test]
    fn what_became_a_pipe_since_it_was_listed_is_an_error_when_read() {
        let root = tree(&["a.png", "b.png"]);
        put(root.path(), "list.txt", b"a.png\nb.png\n");
        for source in [auto(root.path()), auto(root.path().join("list.txt"))] {
            let path = root.path().join("b.png");
            fs::remove_file(&path).unwrap();
            fifo(&path);
            let message = source.read(1).unwrap_err().to_string();
            assert!(
                message.contains("b.png") && message.contains("a FIFO"),
                "{message}"
            );
            let report = scan(&*source, &ScanConfig::default(), &|_| true).unwrap();
            assert_eq!(report.corrupt(), 1);
        }
    }

    #[test]
    fn archives_and_tables_that_are_pipes_are_no_files() {
        for name in [
            "x.tar",
            "x.parquet",
            "x.bin",
            "x-images-idx3-ubyte",
            "x.csv",
        ] {
            let root = tree(&[]);
            let path = root.path().join(name);
            fifo(&path);
            refused(&path, Format::Auto, &[name, "a FIFO"]);
            let error = refused(root.path(), Format::Auto, &[]);
            assert!(matches!(error, DataError::Empty { .. }), "{error}");
        }
    }
}

// Sources that panic

/// A source whose calls panic, as the words in `what` say.
struct Upset(&'static str);

impl Upset {
    fn in_worker() -> bool {
        let thread = std::thread::current();
        thread
            .name()
            .is_some_and(|name| name.starts_with("swav-data"))
    }
}

impl Source for Upset {
    fn len(&self) -> usize {
        assert!(self.0 != "len" || !Self::in_worker(), "no length here");
        8
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        match index {
            3 if self.0 == "name" => Ok(Sample::Encoded(b"nonsense".to_vec())),
            _ => Ok(Sample::Encoded(png(index as u8))),
        }
    }

    fn name(&self, index: usize) -> String {
        assert!(self.0 != "name", "no name for {index}");
        format!("upset-{index}")
    }

    fn label(&self, index: usize) -> Option<u32> {
        assert!(self.0 != "label", "no label for {index}");
        Some(0)
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn describe(&self) -> String {
        "upset".into()
    }
}

fn loader(what: &'static str, workers: usize) -> Loader {
    let config = LoaderConfig {
        batch_size: 4,
        view: View::Centre { resize: 4, size: 4 },
        order: Order::Sequential,
        workers,
        drop_last: false,
        corrupt_budget: 0.5,
        ..LoaderConfig::default()
    };
    Loader::new(Arc::new(Upset(what)), config, Cursor::default()).unwrap()
}

#[test]
fn a_panic_over_a_name_is_a_bad_file_and_not_the_end() {
    let mut loader = loader("name", 2);
    let first = loader.next_batch().unwrap().unwrap();
    assert_eq!(first.indices, [0, 1, 2]);
    let report = loader.health();
    assert_eq!(report.bad[0].name, "sample 3");
    let report = scan(&Upset("name"), &ScanConfig::default(), &|_| true).unwrap();
    assert_eq!(report.corrupt(), 1);
}

#[test]
fn a_panic_over_a_label_is_an_error_with_its_words() {
    let error = loader("label", 1).next_batch().unwrap_err().to_string();
    assert!(
        error.contains("upset-0") && error.contains("no label for 0"),
        "{error}"
    );
}

#[test]
fn a_worker_that_dies_ends_the_loading_with_its_words() {
    for workers in [1, 4] {
        let mut loader = loader("len", workers);
        for _ in 0..2 {
            let error = loader.next_batch().unwrap_err();
            assert!(matches!(error, DataError::Stopped(_)), "{error:?}");
            assert!(error.to_string().contains("no length here"), "{error}");
        }
    }
}
