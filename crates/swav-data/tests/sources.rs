//! Every layout opens, in a stable order, and everything wrong with one is said by name.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use swav_data::{DEFAULT_MAX_PIXELS, DataError, Format, Sample, Source, TarSource, decode, open};
use tempfile::TempDir;

/// A PNG of one colour.
fn png(red: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(4, 3, image::Rgb([red, 0, 255 - red]));
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// A folder with PNG files of the given names; file number i has red i.
fn folder(names: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (number, name) in names.iter().enumerate() {
        put(root.path(), name, &png(number as u8));
    }
    root
}

fn put(root: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

fn auto(path: &Path) -> Arc<dyn Source> {
    open(path, Format::Auto).unwrap()
}

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
    let root = folder(&[
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
    let root = folder(&["b.png", "a.jpeg", "c.webp", "d.tiff", "e.TIF", "f.bmp"]);
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
    let root = folder(&["train/cat/1.png", "train/dog/1.png", "test/cat/1.png"]);
    let source = auto(root.path());
    assert!(
        source.describe().contains("nested"),
        "{}",
        source.describe()
    );
    assert_eq!((source.len(), source.label(0)), (3, None));
    assert_eq!(auto(&root.path().join("train")).classes(), ["cat", "dog"]);
    assert_eq!(
        open(root.path(), Format::Classes).unwrap().classes(),
        ["test", "train"]
    );
}

#[test]
fn images_beside_folders_of_images_are_all_found_and_unlabelled() {
    let root = folder(&["1.png", "a/2.png", "b/3.png"]);
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
    let root = folder(&["only.png"]);
    assert_eq!(auto(root.path()).len(), 1);
    assert_eq!(auto(&root.path().join("only.png")).len(), 1);
    assert!(auto(root.path()).describe().starts_with("1 image,"));
}

#[test]
fn missing_and_empty_are_different_errors() {
    let root = folder(&[]);
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
    let root = folder(&["a/1.png", "b/2.png"]);
    std::os::unix::fs::symlink(root.path(), root.path().join("a/up")).unwrap();
    std::os::unix::fs::symlink(root.path().join("a"), root.path().join("b/other")).unwrap();
    std::os::unix::fs::symlink(root.path().join("b"), root.path().join("a/other")).unwrap();
    for format in [Format::Auto, Format::Classes, Format::Nested] {
        let source = open(root.path(), format).unwrap();
        assert_eq!(source.len(), 2, "{format}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_utf8_works() {
    use std::os::unix::ffi::OsStrExt;
    let root = folder(&["a.png"]);
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9.png");
    fs::write(root.path().join(odd), png(9)).unwrap();
    let source = auto(root.path());
    assert_eq!(reds(&*source), [0, 9]);
    assert!(source.name(1).ends_with("caf\u{fffd}.png"));
}

#[test]
fn a_file_that_vanishes_is_an_error_with_its_name() {
    let root = folder(&["a.png", "b.png"]);
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
    let root = folder(&[]);
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
    let root = folder(&[]);
    put(
        root.path(),
        "b.tar",
        &tar_of(&[("cat/1.png", &image), ("ant/1.png", &image)]),
    );
    put(
        root.path(),
        "a.tar",
        &tar_of(&[("dog/1.png", &image), ("cat/2.png", &image)]),
    );
    let source = auto(root.path());
    assert_eq!(source.classes(), ["ant", "cat", "dog"]);
    assert_eq!(labels(&*source), [1, 2, 0, 1].map(Some));
    assert!(source.describe().contains("2 shards"));
}

#[test]
fn a_tar_without_folders_has_no_labels() {
    let image = png(0);
    let root = folder(&[]);
    let path = put(
        root.path(),
        "x.tar",
        &tar_of(&[("1.png", &image), ("a/2.png", &image)]),
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
    let root = folder(&[]);
    let path = put(root.path(), "x.tar", &builder.into_inner().unwrap());
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
        let root = folder(&[]);
        let path = put(
            root.path(),
            "bad.tar",
            &tar_of(&[("a/1.png", &image), (name, &image)]),
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
    let root = folder(&[]);
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
        let root = folder(&[]);
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
    let root = folder(&[]);
    let path = put(root.path(), "x.tar", &[b'x'; 4096]);
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
    let root = folder(&[]);
    let path = put(root.path(), "x.tar", &tar_of(&members));
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
    let root = folder(&[]);
    put(root.path(), "data_batch_1.bin", &cifar(12, 1));
    put(root.path(), "data_batch_2.bin", &cifar(3, 1));
    let test = put(root.path(), "test_batch.bin", &cifar(5, 1));
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
    let root = folder(&[]);
    put(root.path(), "train.bin", &bytes);
    let source = auto(root.path());
    assert_eq!((source.len(), source.label(0)), (4, Some(77)));
    assert!(source.describe().contains("CIFAR-100"));
    let other = put(root.path(), "some.bin", &bytes);
    assert_eq!(auto(&other).len(), 4);
}

#[test]
fn a_cifar_file_cut_short_or_with_wrong_labels_is_an_error() {
    let root = folder(&[]);
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
        let root = folder(&[]);
        let file = put(
            root.path(),
            &format!("train-images-idx3-ubyte{ending}"),
            &pack(&images),
        );
        put(
            root.path(),
            &format!("t10k-images-idx3-ubyte{ending}"),
            &pack(&idx(&[1, 1, 1], &[9])),
        );
        assert_eq!(labels(&*auto(&file)), [None; 3]);
        put(
            root.path(),
            &format!("train-labels-idx1-ubyte{ending}"),
            &pack(&values),
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
    let root = folder(&[]);
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
    put(root.path(), "train-labels-idx1-ubyte", &idx(&[3], &[0; 3]));
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
