//! Shards: indexed once, noticed when they change, and the same set as what they were packed from.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use swav_data::{
    Augment, CropSpec, Cursor, DataError, Format, Loader, LoaderConfig, Order, Sample, ShardSize,
    Source, TarSource, View, open, pack,
};
use tempfile::TempDir;

fn png(width: u32, height: u32, salt: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_fn(width, height, |x, y| {
        let n = (x * 7919 + y * 104_729 + salt * 31) ^ (x * y * salt);
        image::Rgb([n as u8, (n >> 8) as u8, (n >> 16) as u8])
    });
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn put(root: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

/// Class folders whose names sort differently as strings with separators and as folders.
fn folder() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let names = [
        "a/3.png",
        "a/b.png",
        "a/b/1.png",
        "a-b/1.png",
        "a-b/2.png",
        "a.b/x.png",
        "b/0.png",
        "b/00.png",
        "B/z.png",
        "b/~.png",
        "b/é.png",
    ];
    for (salt, name) in (1..).zip(names) {
        put(root.path(), name, &png(20 + salt % 5, 16 + salt % 3, salt));
    }
    root
}

fn packed(source: &dyn Source, size: &str) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("set");
    let size: ShardSize = size.parse().unwrap();
    let done = pack(source, &out, size, &mut |_| true).unwrap().unwrap();
    assert_eq!(done.samples, source.len());
    let shards = fs::read_dir(&out).unwrap().filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension().is_some_and(|extension| extension == "tar")
    });
    assert_eq!(done.shards, shards.count());
    (root, out)
}

/// All that a source says of its samples.
fn content(source: &dyn Source) -> Vec<(Sample, Option<u32>)> {
    (0..source.len())
        .map(|index| (source.read(index).unwrap(), source.label(index)))
        .collect()
}

fn same(one: &dyn Source, other: &dyn Source) {
    assert_eq!(one.classes(), other.classes());
    assert_eq!(content(one), content(other));
}

#[test]
fn shards_hold_the_same_samples_labels_and_classes_in_the_same_order() {
    let root = folder();
    for format in [Format::Classes, Format::Nested] {
        let source = open(root.path(), format).unwrap();
        for size in ["1", "2", "7", "1000", "4KB", "1MB"] {
            let (_root, out) = packed(source.as_ref(), size);
            let shards = open(&out, Format::Auto).unwrap();
            same(source.as_ref(), shards.as_ref());
            for index in 0..source.len() {
                assert_eq!(source.relative_path(index), shards.relative_path(index));
            }
            // Shards of shards, and the name of each sample in its archive.
            let (_root, again) = packed(shards.as_ref(), "3");
            same(source.as_ref(), open(&again, Format::Tar).unwrap().as_ref());
            assert!(
                shards.name(0).contains("-000000.tar:"),
                "{}",
                shards.name(0)
            );
        }
    }
}

#[test]
fn an_ordinary_tar_of_a_folder_is_in_the_order_of_the_folder() {
    let root = folder();
    let source = open(root.path(), Format::Classes).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    for index in (0..source.len()).rev() {
        let name = source.relative_path(index).unwrap();
        builder
            .append_path_with_name(root.path().join(&name), &name)
            .unwrap();
    }
    let place = tempfile::tempdir().unwrap();
    let path = put(place.path(), "set.tar", &builder.into_inner().unwrap());
    same(source.as_ref(), open(&path, Format::Auto).unwrap().as_ref());
}

/// Samples without files, in an order of labels that no folders have.
struct Made {
    classes: Vec<String>,
}

impl Source for Made {
    fn len(&self) -> usize {
        12
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        let (width, height) = (3 + index as u32, 5);
        let rgb = (0..width * height * 3).map(|i| (i * 7 + index as u32) as u8);
        Ok(Sample::Pixels {
            width,
            height,
            rgb: rgb.collect(),
        })
    }

    fn name(&self, index: usize) -> String {
        format!("made-{index}")
    }

    fn label(&self, index: usize) -> Option<u32> {
        (!self.classes.is_empty()).then_some((index * 7 % 5) as u32)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> String {
        "made".into()
    }
}

#[test]
fn pixels_become_pngs_and_any_names_of_classes_keep_their_numbers() {
    // Neither sorted nor fit for folders; one of them has no image.
    let names = ["zebra", "n/a", "", "n_a", "..", "10", "9"];
    for classes in [names.map(String::from).to_vec(), vec![]] {
        let made = Made { classes };
        let (_root, out) = packed(&made, "5");
        let shards = open(&out, Format::Auto).unwrap();
        assert_eq!(shards.classes(), made.classes());
        for index in 0..made.len() {
            assert_eq!(shards.label(index), made.label(index));
            let Sample::Pixels { width, height, rgb } = made.read(index).unwrap() else {
                unreachable!();
            };
            let name = shards.name(index);
            let image = swav_data::decode(&shards.read(index).unwrap(), &name, 1 << 20).unwrap();
            assert_eq!((image.width, image.height, image.rgb), (width, height, rgb));
        }
    }
}

#[test]
fn packing_stopped_refused_or_failing_leaves_nothing() {
    let images = folder();
    let source = open(images.path(), Format::Classes).unwrap();
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("set");
    let size = ShardSize::Samples(2);
    let stopped = pack(source.as_ref(), &out, size, &mut |done| done < 5).unwrap();
    assert!(stopped.is_none());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);

    fs::remove_file(images.path().join("b/0.png")).unwrap();
    let error = pack(source.as_ref(), &out, size, &mut |_| true).unwrap_err();
    assert!(error.to_string().contains("0.png"), "{error}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);

    put(&out, "mine.txt", b"mine");
    let source = open(images.path(), Format::Classes).unwrap();
    let error = pack(source.as_ref(), &out, size, &mut |_| true).unwrap_err();
    assert!(matches!(error, DataError::Invalid(_)), "{error}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

/// A tar with some images, large enough for an index.
fn large(root: &Path) -> PathBuf {
    let mut builder = tar::Builder::new(Vec::new());
    for i in (0..6).rev() {
        let long = "long".repeat(if i == 3 { 80 } else { 1 });
        let bytes = png(300, 300, i + 1);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        let name = format!("{}/{i}-{long}.png", ["cat", "dog"][i as usize % 2]);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    put(root, "set.tar", &builder.into_inner().unwrap())
}

#[test]
fn an_index_gives_the_same_set_as_the_archive_itself() {
    let root = tempfile::tempdir().unwrap();
    let path = large(root.path());
    let index = root.path().join("set.tar.index");
    let first = open(&path, Format::Tar).unwrap();
    assert!(index.exists());
    let (held, names) = (
        content(first.as_ref()),
        |source: &dyn Source| -> Vec<String> {
            (0..source.len()).map(|index| source.name(index)).collect()
        },
    );
    let bytes = fs::read(&index).unwrap();
    let second = open(&path, Format::Tar).unwrap();
    assert_eq!(fs::read(&index).unwrap(), bytes, "it was not written anew");
    assert_eq!(held, content(second.as_ref()));
    assert_eq!(names(first.as_ref()), names(second.as_ref()));
    assert!(second.name(4).contains(&"long".repeat(80)) && second.notes().is_empty());
}

#[test]
fn an_index_that_cannot_be_kept_is_a_note_and_no_error() {
    let root = tempfile::tempdir().unwrap();
    let path = large(root.path());
    // In the way, for whoever may write anywhere.
    put(root.path(), "set.tar.index/x", b"");
    let source = open(&path, Format::Tar).unwrap();
    let note = &source.notes()[0];
    assert!(
        note.contains("set.tar.index") && note.contains("cannot be written"),
        "{note}"
    );
    assert_eq!(source.len(), 6);
    let left = fs::read_dir(root.path()).unwrap().count();
    assert_eq!(left, 2, "no unfinished file");
}

#[test]
fn an_archive_that_changes_under_a_reader_is_an_error_that_names_it() {
    let root = tempfile::tempdir().unwrap();
    let path = large(root.path());
    let source = open(&path, Format::Tar).unwrap();
    let whole = fs::read(&path).unwrap();
    // Written anew in place: other headers where images were.
    let mut other = whole.clone();
    other.rotate_left(1536);
    fs::write(&path, &other).unwrap();
    let failures = (0..6).filter(|&index| match source.read(index) {
        Ok(_) => false,
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.contains("set.tar") && message.contains("changed"),
                "{message}"
            );
            assert!(source.name(index).contains("set.tar"));
            true
        }
    });
    assert_eq!(failures.count(), 6);
    fs::write(&path, &whole[..1024]).unwrap();
    let error = source.read(5).unwrap_err().to_string();
    assert!(error.contains("changed"), "{error}");
}

#[test]
fn hundreds_of_shards_are_read_with_few_files_open() {
    let root = tempfile::tempdir().unwrap();
    for i in 0..600 {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        let bytes = (i as u32).to_le_bytes();
        builder
            .append_data(&mut header, "1.png", &bytes[..])
            .unwrap();
        put(
            root.path(),
            &format!("{i:04}.tar"),
            &builder.into_inner().unwrap(),
        );
    }
    let source = TarSource::open(root.path()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let source = &source;
            scope.spawn(move || {
                for step in 0..1200 {
                    let index = (step * 257 + thread * 131) % 600;
                    let bytes = (index as u32).to_le_bytes().to_vec();
                    assert_eq!(source.read(index).unwrap(), Sample::Encoded(bytes));
                }
            });
        }
    });
}

fn config(workers: usize) -> LoaderConfig {
    let crops = vec![
        CropSpec {
            count: 2,
            size: 16,
            scale: [0.14, 1.0],
        },
        CropSpec {
            count: 3,
            size: 8,
            scale: [0.05, 0.14],
        },
    ];
    LoaderConfig {
        batch_size: 4,
        view: View::MultiCrop {
            crops,
            augment: Augment::default(),
        },
        order: Order::Shuffled { seed: 9 },
        workers,
        seed: 9,
        corrupt_budget: 0.2,
        ..LoaderConfig::default()
    }
}

/// Samples, labels, pixels and the cursor of some batches.
type Batches = Vec<(Vec<usize>, Vec<Vec<u32>>, Vec<Vec<u8>>, Cursor)>;

fn batches(source: &Arc<dyn Source>, workers: usize, start: Cursor, count: usize) -> Batches {
    let mut loader = Loader::new(Arc::clone(source), config(workers), start).unwrap();
    (0..count)
        .map(|_| {
            let batch = loader.next_batch().unwrap().unwrap();
            let pixels = batch.groups.iter().map(|group| group.pixels.clone());
            let pixels = pixels.collect();
            (
                batch.indices.clone(),
                batch.labels.clone(),
                pixels,
                batch.cursor,
            )
        })
        .collect()
}

#[test]
fn one_seed_gives_the_same_bytes_from_folder_and_shards_at_any_number_of_threads() {
    let root = folder();
    // Among them a file that is none: what stands in for it is the same too.
    put(root.path(), "b/1.png", b"no image");
    let source = open(root.path(), Format::Classes).unwrap();
    let (_root, out) = packed(source.as_ref(), "5");
    let shards = open(&out, Format::Auto).unwrap();
    let expected = batches(&source, 1, Cursor::default(), 9);
    assert!(expected.last().unwrap().3.epoch >= 2, "several epochs");
    for workers in [1, 2, 7] {
        for set in [&source, &shards] {
            assert_eq!(batches(set, workers, Cursor::default(), 9), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_resume_at_any_cursor_goes_on_with_the_same_bytes_from_folder_and_shards(
        at in 0usize..12,
        workers in prop::sample::select(vec![1usize, 2, 7]),
        from_shards: bool,
    ) {
        static SET: std::sync::OnceLock<(TempDir, TempDir, Batches)> = std::sync::OnceLock::new();
        let (images, place, expected) = SET.get_or_init(|| {
            let images = folder();
            let source = open(images.path(), Format::Classes).unwrap();
            let (place, _) = packed(source.as_ref(), "4");
            let expected = batches(&source, 2, Cursor::default(), 15);
            (images, place, expected)
        });
        let path = if from_shards { place.path().join("set") } else { images.path().into() };
        let source = open(&path, Format::Auto);
        // `a.b` and the others are class folders to anyone who asks.
        let source = if from_shards { source } else { open(&path, Format::Classes) }.unwrap();
        let start = expected[at].3;
        prop_assert_eq!(&batches(&source, workers, start, 3)[..], &expected[at + 1..at + 4]);
    }
}

/// A tar with these members.
fn tar_of(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn labels(source: &dyn Source) -> Vec<Option<u32>> {
    (0..source.len()).map(|index| source.label(index)).collect()
}

#[test]
fn an_archive_that_was_replaced_at_equal_size_and_time_has_its_own_labels() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("set.tar");
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let write = |path: &Path, labels: [&str; 6]| {
        let members = (0..6).zip(labels).flat_map(|(i, label)| {
            let image = (format!("{i}.png"), png(300, 300, 1));
            [image, (format!("{i}.cls"), label.as_bytes().to_vec())]
        });
        fs::write(path, tar_of(&members.collect::<Vec<_>>())).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    };
    write(&path, ["0", "1", "0", "1", "0", "1"]);
    assert_eq!(labels(&*open(&path, Format::Auto).unwrap())[1], Some(1));
    assert!(root.path().join("set.tar.index").exists());
    // In place, as `cp -p` does.
    write(&path, ["0", "0", "0", "1", "1", "1"]);
    let source = open(&path, Format::Auto).unwrap();
    assert_eq!(labels(&*source), [0, 0, 0, 1, 1, 1].map(Some));
    assert!(
        source.notes()[0].contains("set.tar.index"),
        "{:?}",
        source.notes()
    );
    // Beside it and renamed, as `rsync -t` does.
    let other = root.path().join("other");
    write(&other, ["1", "1", "1", "0", "0", "0"]);
    fs::rename(&other, &path).unwrap();
    assert_eq!(
        labels(&*open(&path, Format::Auto).unwrap()),
        [1, 1, 1, 0, 0, 0].map(Some)
    );
    // And what has not changed is not listed anew.
    assert!(open(&path, Format::Auto).unwrap().notes().is_empty());
}

#[test]
fn an_index_remembers_whether_there_are_labels_and_what_was_noted() {
    let root = tempfile::tempdir().unwrap();
    let members = |label: &str| -> Vec<(String, Vec<u8>)> {
        let sample = (0..6).flat_map(|i| {
            let mask = (format!("{i}.seg.png"), png(3, 3, 1));
            [
                (format!("{i}.png"), png(300, 300, 1)),
                mask,
                (format!("{i}.{label}"), b"1".to_vec()),
            ]
        });
        sample.collect()
    };
    // Labelled: notes come again, and an index made for folders does not hide the labels.
    let path = put(root.path(), "a/set.tar", &tar_of(&members("cls")));
    assert_eq!(labels(&*open(&path, Format::Tar).unwrap()), [None; 12]);
    let first = open(&path, Format::Auto).unwrap();
    assert_eq!(labels(&*first), [Some(1); 6]);
    let second = open(&path, Format::Auto).unwrap();
    assert!(
        second.notes().len() == 1 && second.notes()[0].contains("masks: 6"),
        "{:?}",
        second.notes()
    );
    assert_eq!(labels(&*second), [Some(1); 6]);
    // Unlabelled: one listing serves both.
    let path = put(root.path(), "b/set.tar", &tar_of(&members("txt")));
    assert_eq!(labels(&*open(&path, Format::Auto).unwrap()), [None; 12]);
    for format in [Format::Auto, Format::Tar] {
        let notes = open(&path, format).unwrap().notes().to_vec();
        assert_eq!(notes, ["left out for their ending: 6 .txt"]);
    }
}

#[test]
fn links_and_long_headers_come_out_of_an_index_with_their_names() {
    let root = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let image = png(300, 300, 1);
    for i in 0..6 {
        let attribute = vec![b'x'; 200_000];
        builder
            .append_pax_extensions([("SCHILY.xattr.user.x", &attribute[..])])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(image.len() as u64);
        builder
            .append_data(&mut header, format!("a/{i}.png"), &image[..])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Link);
        builder
            .append_link(&mut header, format!("b/{i}.png"), format!("a/{i}.png"))
            .unwrap();
    }
    let path = put(root.path(), "set.tar", &builder.into_inner().unwrap());
    let first = open(&path, Format::Auto).unwrap();
    let second = open(&path, Format::Auto).unwrap();
    assert!(first.notes().is_empty() && second.notes().is_empty());
    for source in [first, second] {
        assert_eq!(source.len(), 12);
        for i in 0..12 {
            let name = format!("{}/{}.png", ["a", "b"][i / 6], i % 6);
            assert_eq!(source.relative_path(i), Some(name.into()));
            assert_eq!(source.read(i).unwrap(), Sample::Encoded(image.clone()));
        }
    }
}

#[test]
fn samples_of_one_name_are_packed_under_names_of_their_own() {
    let root = tempfile::tempdir().unwrap();
    for (salt, shard) in (1..).zip(["a.tar", "b.tar", "c.tar"]) {
        let members = [
            ("0.png".to_string(), png(9, 9, salt)),
            ("0.cls".to_string(), vec![b'0' + salt as u8 % 2]),
        ];
        put(root.path(), shard, &tar_of(&members));
    }
    let source = open(root.path(), Format::Auto).unwrap();
    let (_root, out) = packed(&*source, "100");
    let shards = open(&out, Format::Auto).unwrap();
    same(&*source, &*shards);
    assert_eq!(shards.relative_path(2), Some("1/0-3.png".into()));
    assert!(shards.notes().is_empty(), "{:?}", shards.notes());
}

#[test]
fn packing_keeps_the_labels_of_dotted_names() {
    let root = tempfile::tempdir().unwrap();
    let members = (0..4).flat_map(|i| {
        let name = format!("v1.{i}");
        [
            (format!("{name}.png"), png(9, 9, i)),
            (format!("{name}.cls"), ["dog", "cat"][i as usize % 2].into()),
        ]
    });
    let path = put(
        root.path(),
        "set.tar",
        &tar_of(&members.collect::<Vec<_>>()),
    );
    let source = open(&path, Format::Auto).unwrap();
    let (_root, out) = packed(&*source, "3");
    let shards = open(&out, Format::Auto).unwrap();
    same(&*source, &*shards);
    assert_eq!(shards.classes(), ["cat", "dog"]);
    assert_eq!(labels(&*shards), [1, 0, 1, 0].map(Some));
}
