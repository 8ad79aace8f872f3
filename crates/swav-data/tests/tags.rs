//! Labels from a text file: whose they are, and what is said where they cannot be.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use swav_data::{DataError, Format, Source, TagSource, open};
use tempfile::TempDir;

/// Images of the given names, and beside them a file with labels.
struct Place {
    root: TempDir,
}

impl Place {
    fn new(names: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let path = root.path().join("set").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"never decoded here").unwrap();
        }
        Self { root }
    }

    fn images(&self) -> Arc<dyn Source> {
        open(&self.root.path().join("set"), Format::Nested).unwrap()
    }

    fn tagged(&self, file: &str, text: impl AsRef<[u8]>) -> Result<TagSource, DataError> {
        self.tag(self.images(), file, text)
    }

    fn tag(
        &self,
        images: Arc<dyn Source>,
        file: &str,
        text: impl AsRef<[u8]>,
    ) -> Result<TagSource, DataError> {
        let path = self.root.path().join(file);
        fs::write(&path, text).unwrap();
        TagSource::open(images, path)
    }

    fn refusal(&self, file: &str, text: impl AsRef<[u8]>) -> String {
        match self.tagged(file, text) {
            Ok(tags) => panic!("expected an error, opened {}", tags.describe()),
            Err(error) => error.to_string(),
        }
    }
}

fn names_of(source: &dyn Source, index: usize) -> Vec<&str> {
    let labels = source.labels(index).into_iter();
    labels
        .map(|label| source.classes()[label as usize].as_str())
        .collect()
}

#[test]
fn each_image_has_the_labels_of_its_line_whatever_the_order_of_the_lines() {
    let place = Place::new(&["a.jpg", "b/1.jpg", "b/2.jpg", "c.jpg"]);
    let text = "# what is seen\n./b/2.jpg,sea,\"boat, old\"\n\nc.jpg\na.jpg,cat,sea,cat,\n";
    let tags = place.tagged("tags.csv", text).unwrap();
    assert_eq!(tags.classes(), ["boat, old", "cat", "sea"]);
    let found: Vec<_> = (0..4).map(|index| names_of(&tags, index)).collect();
    let none: Vec<&str> = vec![];
    assert_eq!(
        found,
        [
            vec!["cat", "sea"],
            none.clone(),
            vec!["boat, old", "sea"],
            none
        ]
    );
    assert_eq!(tags.label(0), None, "one of several is not the label");
    assert!(
        tags.describe().contains("3 images in 3 classes"),
        "{}",
        tags.describe()
    );
}

#[test]
fn tabs_stand_between_labels_where_the_file_is_no_csv() {
    let place = Place::new(&["a, b.jpg", "c.jpg"]);
    let text = "\u{feff}a, b.jpg\t10\r\nc.jpg\t9\r\n";
    let tags = place.tagged("tags.txt", text).unwrap();
    // Numbers are sorted as numbers.
    assert_eq!(tags.classes(), ["9", "10"]);
    assert_eq!((tags.label(0), tags.label(1)), (Some(1), Some(0)));
}

#[test]
fn labels_of_the_images_own_are_put_aside() {
    let place = Place::new(&["cat/1.jpg", "dog/1.jpg"]);
    let classes = open(&place.root.path().join("set"), Format::Classes).unwrap();
    assert_eq!(classes.label(1), Some(1));
    let tags = place.tag(classes, "tags.csv", "cat/1.jpg,x\n").unwrap();
    assert_eq!(tags.classes(), ["x"]);
    assert_eq!((tags.label(0), tags.label(1)), (Some(0), None));
    assert_eq!(tags.relative_path(1), Some(PathBuf::from("dog/1.jpg")));
}

#[test]
fn images_of_a_list_go_by_the_last_part_of_their_name() {
    let place = Place::new(&["a/1.jpg", "b/1.jpg", "b/2.jpg"]);
    let list = place.root.path().join("list.txt");
    fs::write(
        &list,
        "set/b/2.jpg\nset/a/1.jpg\nset/b/2.jpg\nset/b/1.jpg\n",
    )
    .unwrap();
    let images = open(&list, Format::List).unwrap();
    let tags = place.tag(images.clone(), "tags.csv", "2.jpg,x\n").unwrap();
    // A path that comes twice is one image.
    let labels: Vec<_> = (0..4).map(|index| tags.label(index)).collect();
    assert_eq!(labels, [Some(0), None, Some(0), None]);

    let both = place
        .tag(images, "tags.csv", "1.jpg,x\n")
        .err()
        .unwrap()
        .to_string();
    assert!(
        both.contains("line 1") && both.contains("a/1.jpg") && both.contains("b/1.jpg"),
        "{both}"
    );
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line() {
    let place = Place::new(&["a.jpg", "b.jpg"]);
    let long = [b"a.jpg,".to_vec(), vec![b'x'; 2 << 20]].concat();
    for (text, parts) in [
        (
            &b"a.jpg,x\nz.jpg,x\n"[..],
            &["line 2", "\"z.jpg\"", "\"a.jpg\"", "commas"][..],
        ),
        (
            b"a.jpg,x\n\nb.jpg,x\na.jpg,y\n",
            &["line 4", "\"a.jpg\"", "line 1"],
        ),
        (b"a.jpg,\"x\n", &["line 1", "quote"]),
        (b"a.jpg,\"x\" y\n", &["line 1", "quote"]),
        (b"", &["no image has a label"]),
        (b"# nothing\n\n", &["no image has a label"]),
        (b"a.jpg\nb.jpg,\n", &["no image has a label"]),
        (&long, &["line 1", "1 MiB"]),
        (b"\x00\xFF\xFE", &["line 1", "none of the images"]),
    ] {
        let error = place.refusal("tags.csv", text);
        for part in parts.iter().chain(&["tags.csv"]) {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    let tabs = place.refusal("tags.tsv", "a.jpg,x\n");
    assert!(tabs.contains("tabs"), "{tabs}");
    let absent = TagSource::open(place.images(), place.root.path().join("no.csv"));
    assert!(matches!(absent, Err(DataError::NotFound { .. })));
    assert!(TagSource::open(place.images(), place.root.path()).is_err());
}

#[test]
fn a_first_line_may_name_the_columns() {
    let place = Place::new(&["a.png", "b.png"]);
    for text in [
        "image,label\na.png,cat\nb.png,dog\n",
        "row,Label,path\n0,cat,a.png\n1,dog,b.png\n",
        "file,first,second\na.png,cat\nb.png,,dog\n",
    ] {
        let tags = place.tagged("t.csv", text).unwrap();
        assert_eq!(tags.classes(), ["cat", "dog"], "{text}");
        assert_eq!(names_of(&tags, 1), ["dog"], "{text}");
    }
}

#[test]
fn a_line_that_begins_like_a_comment_is_an_image_where_there_is_one() {
    let place = Place::new(&["#1/a.png", "b.png"]);
    let text = "# \"quoted\" comment\n#1/a.png,cat\n#2/b.png,cow\nb.png,dog\n";
    let tags = place.tagged("t.csv", text).unwrap();
    assert_eq!(tags.classes(), ["cat", "dog"]);
    assert_eq!(names_of(&tags, 0), ["cat"]);
}
