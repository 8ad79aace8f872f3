//! Every layout opens, in a stable order, and everything wrong with one is said by name.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{auto, png, put, tree};
use swav_data::{DEFAULT_MAX_PIXELS, DataError, Format, Sample, Source, TarSource, decode, open};
use tempfile::TempDir;

fn failure(path: &Path, format: Format) -> DataError {
    match open(path, format) {
        Ok(source) => panic!("expected an error, opened {}", source.describe()),
        Err(error) => error,
    }
}

/// The red channel of a sample's first pixel.
fn red(source: &dyn Source, index: usize) -> u8 {
    let sample = source.read(index).unwrap();
    decode(&sample, &source.name(index), DEFAULT_MAX_PIXELS)
        .unwrap()
        .rgb[0]
}

fn reds(source: &dyn Source) -> Vec<u8> {
    (0..source.len()).map(|index| red(source, index)).collect()
}

fn labels(source: &dyn Source) -> Vec<Option<u32>> {
    (0..source.len()).map(|index| source.label(index)).collect()
}

/// A tar with these members.
fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // Straight into the field: the safe way refuses the names that these tests are about.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn class_folders_give_labels_in_the_order_of_their_names() {
    let root = tree(&[
        "b/2.png",
        "b/deep/er/1.PNG",
        "a/x.JPG",
        "a/10.png",
        "a/9.png",
    ]);
    let source = auto(root.path());
    assert_eq!(source.classes(), ["a", "b"]);
    assert_eq!(reds(&*source), [3, 4, 2, 0, 1]);
    assert_eq!(labels(&*source), [0, 0, 0, 1, 1].map(Some));
    assert!(
        source
            .describe()
            .starts_with("5 images in 2 classes, class folders")
    );
}

#[test]
fn a_flat_folder_has_no_labels() {
    let root = tree(&["b.png", "a.jpeg", "c.webp", "d.tiff", "e.TIF", "f.bmp"]);
    put(root.path(), "notes.txt", b"not an image");
    put(root.path(), ".hidden.png", b"nor this");
    let source = auto(root.path());
    assert_eq!(source.len(), 6);
    assert_eq!(red(&*source, 0), 1);
    assert!(source.classes().is_empty() && source.label(0).is_none());
    assert!(source.describe().contains("flat folder"));
}

#[test]
fn folders_of_class_folders_are_nested_and_unlabelled_unless_asked_for() {
    let root = tree(&["red/cat/1.png", "red/dog/1.png", "blue/cat/1.png"]);
    let source = auto(root.path());
    assert!(
        source.describe().contains("nested"),
        "{}",
        source.describe()
    );
    assert_eq!((source.len(), source.label(0)), (3, None));
    assert_eq!(auto(root.path().join("red")).classes(), ["cat", "dog"]);
    assert_eq!(
        open(root.path(), Format::Classes).unwrap().classes(),
        ["blue", "red"]
    );
}

#[test]
fn images_beside_folders_of_images_are_all_found_and_unlabelled() {
    let root = tree(&["1.png", "a/2.png", "b/3.png"]);
    assert_eq!(reds(&*auto(root.path())), [0, 1, 2]);
    assert!(auto(root.path()).classes().is_empty());
    let message = failure(root.path(), Format::Classes).to_string();
    assert!(
        message.contains("1.png") && message.contains("nested"),
        "{message}"
    );
}

#[test]
fn one_image_is_a_set_of_one() {
    let root = tree(&["only.png"]);
    assert_eq!(auto(root.path()).len(), 1);
    assert_eq!(auto(root.path().join("only.png")).len(), 1);
    assert!(auto(root.path()).describe().starts_with("1 image,"));
}

#[test]
fn missing_and_empty_are_different_errors() {
    let root = tree(&[]);
    for format in Format::ALL {
        let missing = failure(&root.path().join("nowhere"), format);
        assert!(matches!(&missing, DataError::NotFound { path } if path.ends_with("nowhere")));
        assert!(
            matches!(failure(root.path(), format), DataError::Empty { .. }),
            "{format}"
        );
    }
    put(root.path(), "a.psd", b"");
    put(root.path(), "b.txt", b"");
    fs::create_dir(root.path().join("sub")).unwrap();
    let message = failure(root.path(), Format::Auto).to_string();
    for part in [".jpg", ".webp", "2 files (.psd, .txt) and 1 folder"] {
        assert!(message.contains(part), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn a_loop_of_links_ends() {
    let root = tree(&["a/1.png", "b/2.png"]);
    std::os::unix::fs::symlink(root.path(), root.path().join("a/up")).unwrap();
    std::os::unix::fs::symlink(root.path().join("a"), root.path().join("b/other")).unwrap();
    std::os::unix::fs::symlink(root.path().join("b"), root.path().join("a/other")).unwrap();
    assert_eq!(open(root.path(), Format::Nested).unwrap().len(), 2);
    for format in [Format::Auto, Format::Classes] {
        let message = failure(root.path(), format).to_string();
        assert!(message.contains("a/other: a link"), "{message}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_utf8_works() {
    use std::os::unix::ffi::OsStrExt;
    let root = tree(&["a.png"]);
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9.png");
    fs::write(root.path().join(odd), png(9)).unwrap();
    let source = auto(root.path());
    assert_eq!(reds(&*source), [0, 9]);
    assert!(source.name(1).ends_with("caf\u{fffd}.png"));
}

#[test]
fn a_file_that_vanishes_is_an_error_with_its_name() {
    let root = tree(&["a.png", "b.png"]);
    let source = auto(root.path());
    fs::remove_file(root.path().join("b.png")).unwrap();
    assert!(source.read(1).unwrap_err().to_string().contains("b.png"));
}

#[test]
fn tar_folders_are_classes_and_dots_in_front_are_tolerated() {
    let (one, two, three) = (png(1), png(2), png(3));
    let tar = tar_of(&[
        ("./dog/2.png", &two),
        ("dog/notes.txt", b"no image"),
        ("./cat/3.png", &three),
        ("dog/._1.png", b"hidden"),
        ("dog/1.png", &one),
    ]);
    let root = tree(&[]);
    let path = put(root.path(), "set.tar", &tar);
    let source = auto(&path);
    assert_eq!(source.classes(), ["cat", "dog"]);
    assert_eq!(reds(&*source), [3, 1, 2]);
    assert_eq!(labels(&*source), [0, 1, 1].map(Some));
    assert!(source.name(0).ends_with("set.tar:cat/3.png"));
}

#[test]
fn a_folder_of_tars_is_one_set_with_one_list_of_classes() {
    let image = png(0);
    let root = tree(&[]);
    put(
        root.path(),
        "b.tar",
        tar_of(&[("cat/1.png", &image), ("ant/1.png", &image)]),
    );
    put(
        root.path(),
        "a.tar",
        tar_of(&[("dog/1.png", &image), ("cat/2.png", &image)]),
    );
    let source = auto(root.path());
    assert_eq!(source.classes(), ["ant", "cat", "dog"]);
    assert_eq!(labels(&*source), [1, 2, 0, 1].map(Some));
    assert!(source.describe().contains("2 shards"));
}

#[test]
fn a_tar_without_folders_has_no_labels() {
    let image = png(0);
    let root = tree(&[]);
    let path = put(
        root.path(),
        "x.tar",
        tar_of(&[("1.png", &image), ("a/2.png", &image)]),
    );
    assert_eq!(labels(&*auto(&path)), [None, None]);
}

#[test]
fn long_names_in_a_tar_are_whole() {
    let mut builder = tar::Builder::new(Vec::new());
    let image = png(5);
    for class in ["a", "b"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(image.len() as u64);
        header.set_cksum();
        let name = format!("{class}/{}.png", "long".repeat(60));
        builder.append_data(&mut header, name, &image[..]).unwrap();
    }
    let root = tree(&[]);
    let path = put(root.path(), "x.tar", builder.into_inner().unwrap());
    let source = auto(&path);
    assert_eq!(reds(&*source), [5, 5]);
    assert!(source.name(1).contains(&"long".repeat(60)));
}

#[test]
fn a_part_of_an_embedded_tar_is_picked_by_its_folder() {
    let (one, two) = (png(1), png(2));
    let tar = tar_of(&[
        ("train/cat/1.png", &one),
        ("train/dog/1.png", &two),
        ("test/cat/1.png", &two),
        ("README", b"text"),
    ]);
    let tar: &'static [u8] = Box::leak(tar.into_boxed_slice());
    let train = TarSource::from_static("inside", tar, "train/").unwrap();
    assert_eq!(
        (train.len(), train.classes()),
        (2, &["cat".to_string(), "dog".to_string()][..])
    );
    assert_eq!(reds(&train), [1, 2]);
    assert_eq!(train.name(0), "inside:cat/1.png");
    assert_eq!(
        TarSource::from_static("inside", tar, "test").unwrap().len(),
        1
    );
    assert_eq!(TarSource::from_static("inside", tar, "").unwrap().len(), 3);
    let none = TarSource::from_static("inside", tar, "val/").unwrap_err();
    assert!(matches!(none, DataError::Empty { .. }));
}

#[test]
fn a_member_that_leaves_the_archive_is_an_error_naming_both() {
    let image = png(0);
    for name in [
        "../evil.png",
        "a/../../evil.png",
        "/etc/evil.png",
        "a/../b.txt",
    ] {
        let root = tree(&[]);
        let path = put(
            root.path(),
            "bad.tar",
            tar_of(&[("a/1.png", &image), (name, &image)]),
        );
        let error = failure(&path, Format::Auto);
        assert!(matches!(error, DataError::Archive { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains("bad.tar") && message.contains(name),
            "{message}"
        );
    }
}

#[test]
fn a_tar_cut_short_anywhere_is_an_error_naming_the_file() {
    let image = png(0);
    let whole = tar_of(&[("a/1.png", &image), ("b/2.png", &image)]);
    let root = tree(&[]);
    assert_eq!(whole.len(), 6 * 512);
    for length in [
        0, 1, 511, 512, 513, 600, 1024, 1025, 1536, 1600, 2047, 2048, 2100,
    ] {
        let path = put(root.path(), "cut.tar", &whole[..length]);
        let error = failure(&path, Format::Tar);
        let message = error.to_string();
        assert!(
            matches!(error, DataError::Archive { .. }),
            "{length}: {message}"
        );
        assert!(
            message.contains("cut.tar") && message.contains("cut short"),
            "{length}: {message}"
        );
    }
}

#[test]
fn a_compressed_tar_is_refused_with_a_hint() {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&tar_of(&[("a/1.png", &png(0))])).unwrap();
    let gz = gz.finish().unwrap();
    for name in ["set.tar.gz", "set.tgz", "set.tar"] {
        let root = tree(&[]);
        let path = put(root.path(), name, &gz);
        for place in [path.as_path(), root.path()] {
            let message = failure(place, Format::Tar).to_string();
            assert!(
                message.contains("decompress") && message.contains(name),
                "{message}"
            );
        }
        assert!(
            failure(&path, Format::Auto)
                .to_string()
                .contains("decompress")
        );
    }
}

#[test]
fn something_else_called_tar_is_an_error() {
    let root = tree(&[]);
    let path = put(root.path(), "x.tar", [b'x'; 4096]);
    let message = failure(&path, Format::Auto).to_string();
    assert!(
        message.contains("x.tar") && message.contains("not a tar"),
        "{message}"
    );
}

#[test]
fn many_threads_read_one_tar_at_once() {
    let images: Vec<Vec<u8>> = (0..50).map(png).collect();
    let names: Vec<String> = (0..50).map(|i| format!("c{}/{i:02}.png", i % 2)).collect();
    let members: Vec<(&str, &[u8])> = names
        .iter()
        .zip(&images)
        .map(|(name, bytes)| (&name[..], &bytes[..]))
        .collect();
    let root = tree(&[]);
    let path = put(root.path(), "x.tar", tar_of(&members));
    let source = auto(&path);
    let expected = reds(&*source);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(reds(&*source), expected)));
        }
    });
}

/// `count` CIFAR records; record i has label i mod 10, red i, green 100, blue 200.
fn cifar(count: u8, head: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for i in 0..count {
        bytes.extend(std::iter::repeat_n(i % 10, head));
        for value in [i, 100, 200] {
            bytes.extend([value; 1024]);
        }
    }
    bytes
}

#[test]
fn cifar10_batches_are_one_set_and_the_test_batch_is_its_own() {
    let root = tree(&[]);
    put(root.path(), "data_batch_1.bin", cifar(12, 1));
    put(root.path(), "data_batch_2.bin", cifar(3, 1));
    let test = put(root.path(), "test_batch.bin", cifar(5, 1));
    put(
        root.path(),
        "batches.meta.txt",
        b"airplane\nautomobile\nbird\n\n",
    );
    let source = auto(root.path());
    assert_eq!(source.len(), 15);
    assert_eq!(source.label(13), Some(1));
    assert_eq!(
        source.classes()[..4],
        ["airplane", "automobile", "bird", "3"]
    );
    assert!(source.name(12).ends_with("data_batch_2.bin#0"));
    match source.read(14).unwrap() {
        Sample::Pixels {
            width: 32,
            height: 32,
            rgb,
        } => {
            assert_eq!(rgb.len(), 3072);
            assert!(rgb.chunks(3).all(|pixel| pixel == [2, 100, 200]));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(auto(&test).len(), 5);
    assert!(source.describe().contains("CIFAR-10 "));
}

#[test]
fn cifar100_takes_the_fine_label() {
    let mut bytes = cifar(4, 2);
    bytes[0] = 3;
    bytes[1] = 77;
    let root = tree(&[]);
    put(root.path(), "train.bin", &bytes);
    let source = auto(root.path());
    assert_eq!((source.len(), source.label(0)), (4, Some(77)));
    assert!(source.describe().contains("CIFAR-100"));
    let other = put(root.path(), "some.bin", &bytes);
    assert_eq!(auto(&other).len(), 4);
}

#[test]
fn a_cifar_file_cut_short_or_with_wrong_labels_is_an_error() {
    let root = tree(&[]);
    let path = put(root.path(), "data_batch_1.bin", &cifar(2, 1)[..5000]);
    let message = failure(&path, Format::Auto).to_string();
    assert!(
        message.contains("5000") && message.contains("data_batch_1"),
        "{message}"
    );
    let mut wrong = cifar(2, 1);
    wrong[3073] = 10;
    put(root.path(), "data_batch_1.bin", &wrong);
    let message = failure(&path, Format::Cifar).to_string();
    assert!(
        message.contains("record 1") && message.contains("label 10"),
        "{message}"
    );
}

fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|dim| bytes.extend(dim.to_be_bytes()));
    bytes.extend(values);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

#[test]
fn idx_files_are_read_plain_and_gzipped_with_and_without_labels() {
    let images = idx(&[3, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    let values = idx(&[3], &[7, 0, 2]);
    for (ending, packed) in [("", false), (".gz", true)] {
        let pack = |bytes: &[u8]| if packed { gzip(bytes) } else { bytes.to_vec() };
        let root = tree(&[]);
        let file = put(
            root.path(),
            &format!("train-images-idx3-ubyte{ending}"),
            pack(&images),
        );
        put(
            root.path(),
            &format!("t10k-images-idx3-ubyte{ending}"),
            pack(&idx(&[1, 1, 1], &[9])),
        );
        assert_eq!(labels(&*auto(&file)), [None; 3]);
        put(
            root.path(),
            &format!("train-labels-idx1-ubyte{ending}"),
            pack(&values),
        );
        for place in [root.path(), &file] {
            let source = auto(place);
            assert_eq!(labels(&*source), [7, 0, 2].map(Some));
            assert_eq!(source.classes().len(), 8);
            let rgb = vec![8, 8, 8, 9, 9, 9, 10, 10, 10, 11, 11, 11];
            assert_eq!(
                source.read(2).unwrap(),
                Sample::Pixels {
                    width: 2,
                    height: 2,
                    rgb
                }
            );
        }
    }
}

#[test]
fn damaged_idx_files_are_errors_that_say_what_is_wrong() {
    let root = tree(&[]);
    let name = "train-images-idx3-ubyte";
    let path = root.path().join(name);
    let case = |bytes: &[u8], words: &str| {
        fs::write(&path, bytes).unwrap();
        let message = failure(&path, Format::Idx).to_string();
        assert!(
            message.contains(words) && message.contains(name),
            "{message}"
        );
    };
    let whole = idx(&[2, 2, 2], &[0; 8]);
    case(&whole[..20], "only 4");
    case(&whole[..9], "cut short");
    case(&[&whole[..], &[1]].concat(), "more are there");
    case(b"PNG?", "not an IDX file");
    case(&idx(&[u32::MAX, u32::MAX, u32::MAX], &[]), "impossible");
    case(&idx(&[u32::MAX, 1000, 1000], &[1]), "only 1");
    let packed = gzip(&idx(&[2, 20, 20], &[7; 800]));
    case(&packed[..packed.len() - 9], "only");
    let packed = gzip(&whole);
    case(&packed[..packed.len() - 3], "gzip trailer");
    case(&idx(&[4, 4], &[0; 16]), "[n, height, width(, 3)]");
    fs::write(&path, &whole).unwrap();
    put(root.path(), "train-labels-idx1-ubyte", idx(&[3], &[0; 3]));
    let message = failure(&path, Format::Idx).to_string();
    assert!(message.contains("labels [3] for 2 images"), "{message}");
}

#[test]
fn formats_have_one_name_in_recipes_and_messages() {
    for format in Format::ALL {
        let json = serde_json::to_string(&format).unwrap();
        assert_eq!(json, format!("\"{format}\""));
        assert_eq!(serde_json::from_str::<Format>(&json).unwrap(), format);
    }
}

// Tar archives as tools write them.

/// One member, header and bytes in whole blocks.
fn member(name: &str, kind: u8, link: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn file(name: &str, bytes: &[u8]) -> Vec<u8> {
    member(name, b'0', "", bytes)
}

/// A PAX header with these records.
fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let digits = |n: usize| n.to_string().len();
        let length = rest + digits(rest + digits(rest));
        text.extend(format!("{length} {key}=").bytes());
        text.extend(*value);
        text.push(b'\n');
    }
    member("pax", b'x', "", &text)
}

/// An archive of members, with its end.
fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    let mut out = members.concat();
    out.resize(out.len() + 1024, 0);
    out
}

/// A folder with one archive in it.
fn placed(bytes: &[u8]) -> (TempDir, PathBuf) {
    let root = tree(&[]);
    let path = put(root.path(), "x.tar", bytes);
    (root, path)
}

fn opened(bytes: &[u8]) -> (TempDir, Arc<dyn Source>) {
    let (root, path) = placed(bytes);
    let source = auto(&path);
    (root, source)
}

/// Asserts that an archive is refused, in these words.
fn refused(bytes: &[u8], format: Format, words: &[&str]) {
    let (_root, path) = placed(bytes);
    let error = failure(&path, format);
    assert!(matches!(error, DataError::Archive { .. }), "{error:?}");
    let message = error.to_string();
    for word in words.iter().chain(&["x.tar"]) {
        assert!(message.contains(word), "{word}: {message}");
    }
}

fn paths(source: &dyn Source) -> Vec<String> {
    (0..source.len())
        .map(|index| source.relative_path(index).unwrap().display().to_string())
        .collect()
}

#[test]
fn links_in_a_tar_are_the_file_that_they_lead_to() {
    let (one, two) = (png(1), png(2));
    let bytes = archive(&[
        file("cat/1.png", &one),
        file(".objects/ab12", &two),
        member("dog/hard.png", b'1', "./cat/1.png", &[]),
        member("dog/soft.png", b'2', "../cat/1.png", &[]),
        member("dog/chain.png", b'2', "soft.png", &[]),
        member("dog/hidden.png", b'2', "../.objects/ab12", &[]),
        member("dog/notes", b'2', "/etc/passwd", &[]),
    ]);
    let (_root, source) = opened(&bytes);
    assert_eq!(
        paths(&*source),
        [
            "cat/1.png",
            "dog/chain.png",
            "dog/hard.png",
            "dog/hidden.png",
            "dog/soft.png"
        ]
    );
    assert_eq!(reds(&*source), [1, 1, 1, 2, 1]);
    assert_eq!(labels(&*source), [0, 1, 1, 1, 1].map(Some));
    assert!(source.name(3).ends_with("x.tar:dog/hidden.png"));
    let note = source.notes().join("\n");
    assert!(
        note.contains("lead to no file") && note.contains("dog/notes"),
        "{note}"
    );
}

#[test]
fn an_image_that_is_a_link_out_of_the_tar_is_refused_by_name() {
    let image = png(1);
    for (kind, target) in [
        (b'2', "/data/1.png"),
        (b'2', "../../1.png"),
        (b'2', "missing.png"),
        (b'2', "a/link.png"),
        (b'1', "missing.png"),
    ] {
        let bytes = archive(&[
            file("a/1.png", &image),
            member("a/link.png", kind, target, &[]),
        ]);
        refused(
            &bytes,
            Format::Auto,
            &["a/link.png", "link to", target, "dereference"],
        );
    }
}

#[test]
fn a_hard_link_keeps_the_file_that_it_was_made_from() {
    let (old, new) = (png(1), png(2));
    let bytes = archive(&[
        file("a.png", &old),
        member("hard.png", b'1', "a.png", &[]),
        member("soft.png", b'2', "a.png", &[]),
        file("a.png", &new),
    ]);
    let (_root, source) = opened(&bytes);
    assert_eq!(paths(&*source), ["a.png", "hard.png", "soft.png"]);
    assert_eq!(reds(&*source), [2, 1, 2]);
}

#[test]
fn of_members_with_one_name_the_last_counts_and_a_note_says_so() {
    let images: Vec<Vec<u8>> = (0..4).map(png).collect();
    let bytes = archive(&[
        file("cat/1.png", &images[0]),
        file("dog/1.png", &images[1]),
        file("./cat/1.png", &images[2]),
    ]);
    let (_root, source) = opened(&bytes);
    assert_eq!(reds(&*source), [2, 1]);
    let note = source.notes().join("\n");
    assert!(
        note.contains("cat/1.png (at byte 0), replaced by cat/1.png (at byte 2048)"),
        "{note}"
    );
    // With keys, at the place of the first.
    let bytes = archive(&[
        file("1.png", &images[0]),
        file("1.cls", b"5"),
        file("2.png", &images[1]),
        file("2.cls", b"6"),
        file("1.png", &images[3]),
    ]);
    let (_root, source) = opened(&bytes);
    assert_eq!(reds(&*source), [3, 1]);
    assert_eq!(labels(&*source), [5, 6].map(Some));
}

#[test]
fn archives_joined_with_cat_are_read_to_the_last() {
    let (one, two) = (png(1), png(2));
    let mut bytes = archive(&[file("cat/1.png", &one)]);
    bytes.resize(10240, 0);
    bytes.extend(archive(&[file("dog/2.png", &two)]));
    let (_root, source) = opened(&bytes);
    assert_eq!(reds(&*source), [1, 2]);
    assert_eq!(labels(&*source), [0, 1].map(Some));

    let whole = archive(&[file("cat/1.png", &one)]);
    // Padding of any length is no member.
    for zeros in [0, 1, 511, 512, 9000] {
        let mut padded = whole.clone();
        padded.resize(whole.len() + zeros, 0);
        assert_eq!(opened(&padded).1.len(), 1, "{zeros}");
    }
    let behind = [&whole[..], &[b'x'; 512]].concat();
    refused(&behind, Format::Auto, &["behind the end-of-archive block"]);
    let behind = [&whole[..], b"text"].concat();
    refused(&behind, Format::Auto, &["the last 4 bytes"]);
    let cut = [&whole[..], &file("dog/2.png", &two)].concat();
    refused(
        &cut,
        Format::Auto,
        &["cut short", "end-of-archive block is missing"],
    );
}

#[test]
fn volume_labels_and_global_headers_are_no_members() {
    let image = png(1);
    // As GNU tar writes it, without a size.
    let mut label = tar::Header::new_gnu();
    label.as_mut_bytes()[..8].copy_from_slice(b"my label");
    label.set_entry_type(tar::EntryType::new(b'V'));
    label.set_cksum();
    let bytes = archive(&[label.as_bytes().to_vec(), file("a/1.png", &image)]);
    assert_eq!(paths(&*opened(&bytes).1), ["a/1.png"]);
    for kind in [b'V', b'g'] {
        let bytes = archive(&[
            member("/my/label.png", kind, "", &[]),
            file("a/1.png", &image),
        ]);
        let (_root, source) = opened(&bytes);
        assert_eq!(paths(&*source), ["a/1.png"]);
    }
}

#[test]
fn sparse_images_are_refused_as_sparse_and_other_sparse_members_passed_over() {
    let image = png(1);
    // The old form, with a map that goes on in a second block.
    let old = |name: &str| {
        let mut header = member(name, b'S', "", &[]);
        header[482] = 1;
        let mut map = vec![0; 512];
        map[0] = b'x';
        let mut sized = tar::Header::new_gnu();
        sized.as_mut_bytes().copy_from_slice(&header);
        sized.set_size(5);
        sized.set_cksum();
        let mut data = b"bytes".to_vec();
        data.resize(512, 0);
        [sized.as_bytes().to_vec(), map, data].concat()
    };
    // The PAX form, version 1.0.
    let new = |name: &str| {
        let records: [(&str, &[u8]); 3] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.name", name.as_bytes()),
            ("GNU.sparse.realsize", b"300000"),
        ];
        [pax(&records), file("GNUSparseFile.0/x", b"1\n0\n5\n")].concat()
    };
    for sparse in [&old as &dyn Fn(&str) -> Vec<u8>, &new] {
        let bytes = archive(&[file("a/1.png", &image), sparse("b/2.png")]);
        refused(&bytes, Format::Auto, &["b/2.png", "is sparse"]);
        let bytes = archive(&[
            file("a/1.png", &image),
            sparse("b/2.npy"),
            file("b/3.png", &image),
        ]);
        assert_eq!(paths(&*opened(&bytes).1), ["a/1.png", "b/3.png"]);
    }
}

#[test]
fn members_with_attributes_of_any_size_are_read_under_their_names() {
    let images: Vec<Vec<u8>> = (0..3).map(png).collect();
    let long = format!("b/{}.png", "é".repeat(200));
    for size in [1, 130_000, 131_072, 400_000] {
        // Binary, with line breaks in it.
        let attribute: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let bytes = archive(&[
            file("a/0.png", &images[0]),
            pax(&[
                ("SCHILY.xattr.user.thumb", &attribute),
                ("path", long.as_bytes()),
                ("size", images[1].len().to_string().as_bytes()),
            ]),
            file("short.png", &images[1]),
            file("c/2.png", &images[2]),
        ]);
        let (_root, source) = opened(&bytes);
        assert_eq!(paths(&*source), ["a/0.png", &long, "c/2.png"], "{size}");
        assert_eq!(reds(&*source), [0, 1, 2]);
    }
}

#[test]
fn each_kind_of_damage_in_a_tar_is_said_as_what_it_is() {
    let image = png(1);
    let good = file("a/1.png", &image);
    let mut wrong = good.clone();
    wrong[0] = b'b';
    refused(
        &archive(&[good.clone(), wrong]),
        Format::Auto,
        &["damaged", "byte 1024"],
    );
    let lonely = archive(&[good.clone(), pax(&[("path", b"b.png")])]);
    refused(&lonely, Format::Auto, &["damaged", "announces a member"]);
    let odd = member("pax", b'x', "", b"99 path=b.png\n");
    refused(
        &archive(&[odd, good.clone()]),
        Format::Auto,
        &["damaged", "PAX header at byte 0"],
    );
    let mut huge = tar::Header::new_gnu();
    huge.set_path("a/2.png").unwrap();
    huge.set_size(5 << 30);
    huge.set_cksum();
    let cut = archive(&[huge.as_bytes().to_vec()]);
    refused(&cut, Format::Auto, &["cut short", "a/2.png"]);
    let continued = member("a/2.png", b'M', "", &image);
    refused(
        &archive(&[good, continued]),
        Format::Auto,
        &["a/2.png", "volume"],
    );
}

// Labels of WebDataset archives.

/// A tar with files of these names; file number i has red i when it is an image.
fn keyed(members: &[(&str, &str)]) -> Vec<u8> {
    let files = (0..)
        .zip(members)
        .map(|(number, &(name, text))| match text {
            "" => file(name, &png(number)),
            text => file(name, text.as_bytes()),
        });
    archive(&files.collect::<Vec<_>>())
}

#[test]
fn an_image_has_the_label_of_its_own_stem() {
    for (extension, text) in [
        ("cls", ["0", "1", "2"]),
        (
            "json",
            [r#"{"label": 0}"#, r#"{"label":1}"#, r#"{"label": 2}"#],
        ),
    ] {
        let names = ["img_0.1", "img_0.2", "img_0.3"];
        let images = names.map(|name| format!("{name}.png"));
        let labelled = names.map(|name| format!("{name}.{extension}"));
        let member = |i: usize| [(&images[i][..], ""), (&labelled[i][..], text[i])];
        let pairs: Vec<_> = (0..3).flat_map(member).collect();
        let apart: Vec<_> = (0..3)
            .map(|i| member(i)[0])
            .chain((0..3).rev().map(|i| member(i)[1]))
            .collect();
        for members in [pairs, apart] {
            let (_root, source) = opened(&keyed(&members));
            assert_eq!(labels(&*source), [0, 1, 2].map(Some), "{members:?}");
        }
    }
}

#[test]
fn several_images_share_the_label_of_what_their_stems_begin_with() {
    let (_root, source) = opened(&keyed(&[
        ("0.left.png", ""),
        ("0.right.png", ""),
        ("0.cls", "4"),
        ("1.a.1.png", ""),
        ("1.a.cls", "5"),
        ("1.b.1.png", ""),
        ("1.cls", "6"),
        ("2.input.png", ""),
        ("2.target.cls", "7"),
        ("v1.0/3.png", ""),
        ("v1.0/3.cls", "0"),
    ]));
    assert_eq!(labels(&*source), [4, 4, 5, 6, 7, 0].map(Some));
}

#[test]
fn two_labels_for_one_image_are_refused_naming_both() {
    let json = r#"{"label": 1}"#;
    for members in [
        [("0.png", ""), ("0.cls", "0"), ("0.json", json)],
        [("0.png", ""), ("0.cls", "0"), ("0.CLS", "1")],
        [("0.cls", "0"), ("0.png", ""), ("0.cls", "1")],
    ] {
        let second = members
            .iter()
            .rev()
            .find(|member| !member.1.is_empty())
            .unwrap();
        refused(
            &keyed(&members),
            Format::Auto,
            &[
                "0.cls (at byte",
                &format!("{} (at byte", second.0),
                "0 and 1",
            ],
        );
    }
    // An update at the end of the archive is not passed over.
    let late = keyed(&[
        ("0.png", ""),
        ("0.cls", "0"),
        ("1.png", ""),
        ("1.cls", "0"),
        ("0.cls", "1"),
    ]);
    refused(
        &late,
        Format::Auto,
        &["0.cls (at byte 1024)", "0.cls (at byte 4096)"],
    );
    let (_root, source) = opened(&keyed(&[("0.png", ""), ("0.cls", "1"), ("0.json", json)]));
    assert_eq!(labels(&*source), [Some(1)]);
}

#[test]
fn images_that_are_part_of_another_are_left_out_with_a_note() {
    let members = [
        ("0.jpg", ""),
        ("0.seg.png", ""),
        ("0.cls", "0"),
        ("1.depth.png", ""),
        ("1.jpg", ""),
        ("1.cls", "1"),
        ("2.jpg", ""),
        ("2.flip.png", ""),
        ("2.cls", "2"),
        ("2.flip.cls", "0"),
    ];
    let (_root, source) = opened(&keyed(&members));
    assert_eq!(paths(&*source), ["0.jpg", "1.jpg", "2.jpg", "2.flip.png"]);
    assert_eq!(labels(&*source), [0, 1, 2, 0].map(Some));
    let note = source.notes().join("\n");
    assert!(
        note.contains("masks: 2") && note.contains("0.seg.png"),
        "{note}"
    );
}

#[test]
fn labels_may_be_names_and_classes_are_the_names_in_order() {
    let root = tree(&[]);
    let json = r#"{"label": "ant"}"#;
    put(
        root.path(),
        "a.tar",
        keyed(&[
            ("0.png", ""),
            ("0.cls", "dog\n"),
            ("1.png", ""),
            ("1.json", json),
        ]),
    );
    put(
        root.path(),
        "b.tar",
        keyed(&[
            ("0.png", ""),
            ("0.cls", "cat"),
            ("1.png", ""),
            ("1.cls", "dog"),
        ]),
    );
    let source = auto(root.path());
    assert_eq!(source.classes(), ["ant", "cat", "dog"]);
    assert_eq!(labels(&*source), [2, 0, 1, 2].map(Some));

    put(
        root.path(),
        "c.tar",
        keyed(&[("0.png", ""), ("0.cls", "3")]),
    );
    let message = failure(root.path(), Format::Auto).to_string();
    for word in ["a.tar", "c.tar", "numbers", "names"] {
        assert!(message.contains(word), "{message}");
    }
    let mixed = keyed(&[
        ("0.png", ""),
        ("0.cls", "dog"),
        ("1.png", ""),
        ("1.cls", "3"),
    ]);
    refused(&mixed, Format::Auto, &["0.cls", "1.cls", "number", "name"]);
}

#[test]
fn labels_of_minus_one_are_none() {
    let (_root, source) = opened(&keyed(&[
        ("0.png", ""),
        ("0.cls", "-1"),
        ("1.png", ""),
        ("1.cls", "-1"),
    ]));
    assert_eq!(labels(&*source), [None, None]);
    assert!(source.classes().is_empty());
}

#[test]
fn labels_are_seen_wherever_they_come() {
    // Behind many members without one, in capitals, and as Python writes them.
    let mut names: Vec<(String, String)> = (0..100)
        .map(|i| (format!("{i:03}.txt"), "caption".into()))
        .collect();
    for i in 100..110 {
        let (label, text) = match i % 2 {
            0 => (format!("{i}.CLS"), format!("{}", i % 3)),
            _ => (
                format!("{i}.JSON"),
                format!("{{\"similarity\": NaN, \"label\": {}}}", i % 3),
            ),
        };
        names.extend([(format!("{i}.PNG"), String::new()), (label, text)]);
    }
    let members: Vec<(&str, &str)> = names
        .iter()
        .map(|(name, text)| (&name[..], &text[..]))
        .collect();
    let (_root, source) = opened(&keyed(&members));
    let expected: Vec<Option<u32>> = (100..110).map(|i| Some(i % 3)).collect();
    assert_eq!(labels(&*source), expected);

    // Images, then labels: their order is said to be wrong, however many there are.
    let images: Vec<String> = (0..70).map(|i| format!("{i:03}.png")).collect();
    let classes: Vec<String> = (0..70).map(|i| format!("{i:03}.cls")).collect();
    let mut members: Vec<(&str, &str)> = images.iter().map(|name| (&name[..], "")).collect();
    members.extend(classes.iter().map(|name| (&name[..], "1")));
    refused(
        &keyed(&members),
        Format::Auto,
        &["000.png", "000.cls", "next to one another"],
    );

    // Only in a later shard.
    let root = tree(&[]);
    put(root.path(), "a.tar", keyed(&[("0.png", "")]));
    put(
        root.path(),
        "b.tar",
        keyed(&[("1.png", ""), ("1.cls", "1")]),
    );
    let message = failure(root.path(), Format::Auto).to_string();
    assert!(message.contains("some keys have a label"), "{message}");
    // A shard without images has no say.
    put(root.path(), "a.tar", keyed(&[("README.txt", "text")]));
    assert_eq!(labels(&*auto(root.path())), [Some(1)]);
}

#[test]
fn labels_may_be_links() {
    let bytes = archive(&[
        file("0.png", &png(0)),
        file("0.cls", b"3"),
        file("1.png", &png(1)),
        member("1.cls", b'1', "0.cls", &[]),
        file("2.png", &png(2)),
        member("2.cls", b'2', "0.cls", &[]),
    ]);
    assert_eq!(labels(&*opened(&bytes).1), [3, 3, 3].map(Some));
    let broken = archive(&[
        file("0.png", &png(0)),
        member("0.cls", b'2', "../labels/0.cls", &[]),
    ]);
    refused(&broken, Format::Auto, &["0.cls", "link to ../labels/0.cls"]);
}

#[test]
fn labels_without_an_image_are_said() {
    let (_root, source) = opened(&keyed(&[
        ("__index__.json", r#"{"label": 5}"#),
        ("0.png", ""),
        ("0.cls", "1"),
        ("9.cls", "1"),
    ]));
    assert_eq!(labels(&*source), [Some(1)]);
    let note = source.notes().join("\n");
    assert!(note.contains("no image of their archive: 2"), "{note}");
    let (_root, source) = opened(&keyed(&[("0.png", ""), ("9.cls", "1")]));
    assert_eq!(labels(&*source), [None]);
    assert!(source.notes().join("\n").contains("9.cls"));
}

#[test]
fn what_describes_a_whole_archive_is_no_label() {
    let large = format!("{{\"label\": \"{}\"}}", "x".repeat(17 << 20));
    let bytes = archive(&[
        file("meta.json", large.as_bytes()),
        file("broken.json", b"{"),
        member("index.json", b'2', "../index.json", &[]),
        file("0.png", &png(0)),
        file("0.cls", b"1"),
    ]);
    assert_eq!(labels(&*opened(&bytes).1), [Some(1)]);
}

#[test]
fn damaged_json_beside_an_image_is_said_and_not_passed_over() {
    for text in [r#"{"label": 3"#, r#"{"label": 3}}"#, r#"{"label": [3]}"#] {
        refused(
            &keyed(&[("0.png", ""), ("0.json", text)]),
            Format::Auto,
            &["0.json"],
        );
    }
    // Without a label it is a matter of its own.
    let (_root, source) = opened(&keyed(&[("0.png", ""), ("0.json", "not JSON")]));
    assert_eq!(labels(&*source), [None]);
}

#[test]
fn a_prefix_that_is_an_image_itself_is_no_folder() {
    let tar: &'static [u8] = Box::leak(archive(&[file("a.png", &png(1))]).into_boxed_slice());
    assert_eq!(
        TarSource::from_static("inside", tar, "a.png")
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn members_that_are_left_out_for_their_ending_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("set.tar");
    let mut builder = tar::Builder::new(Vec::new());
    let names = [
        "0.png",
        "0.label",
        "1.png",
        "1.label",
        "1.cls.txt",
        "README.md",
        ".hidden.xyz",
    ];
    for name in names {
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        header.set_cksum();
        builder
            .append_data(&mut header, name, &b"1234"[..])
            .unwrap();
    }
    std::fs::write(&path, builder.into_inner().unwrap()).unwrap();
    let source = swav_data::open(&path, Format::Auto).unwrap();
    assert_eq!(source.len(), 2);
    assert_eq!(
        source.notes(),
        ["left out for their ending: 2 .label, 1 .txt"]
    );
}
