//! Where images come from: a path, or the set that ships inside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use swav_data::{DataError, Format, Sample, Source, TagSource, TarSource};

use crate::TrainError;

/// The images of `swav quickstart`: Twemoji graphics, CC-BY 4.0 (see `assets/`).
static QUICKSTART: &[u8] = include_bytes!("../../../assets/quickstart.tar");

/// What the paths of the built-in set begin with: `builtin:quickstart/train`, `…/test`.
const BUILTIN: &str = "builtin:quickstart/";

/// Opens a folder, a tar file, a folder of tar shards, or a part of the built-in set.
///
/// # Errors
/// If there is nothing there, nothing that is an image, or the archive is damaged.
pub fn open(path: &Path, format: Format) -> Result<Arc<dyn Source>, TrainError> {
    match builtin_part(path) {
        Some(part) => {
            let source = TarSource::from_static("quickstart", QUICKSTART, &format!("{part}/"))?;
            Ok(Arc::new(source))
        }
        None => Ok(swav_data::open(path, format)?),
    }
}

/// As [`open`]; where there is a text file `labels`, it says what the labels are.
///
/// # Errors
/// As [`open`], and if the file names images that are not there.
pub fn open_labelled(
    path: &Path,
    format: Format,
    labels: Option<&Path>,
) -> Result<Arc<dyn Source>, TrainError> {
    let source = open(path, format)?;
    match labels {
        Some(labels) => Ok(Arc::new(TagSource::open(source, labels)?)),
        None => Ok(source),
    }
}

/// Held-out images with the classes of the images that are trained on: labels are numbers by the order of the class names,
/// and a set that lacks some of the classes has other numbers.
///
/// # Errors
/// If the set has a class that the others do not have, or classes where they have none; `path` is what it is called.
pub fn of_classes(
    test: Arc<dyn Source>,
    classes: &[String],
    path: &Path,
) -> Result<Arc<dyn Source>, TrainError> {
    let own = test.classes();
    if own == classes {
        return Ok(test);
    }
    let (mut numbers, mut unknown) = (Vec::new(), Vec::new());
    for class in own {
        match classes.iter().position(|known| known == class) {
            Some(number) => numbers.push(number as u32),
            None => unknown.push(class.as_str()),
        }
    }
    if !unknown.is_empty() || own.is_empty() {
        let shown = |names: Vec<&str>| match names.as_slice() {
            [] => "none".to_string(),
            names => names[..names.len().min(5)].join(", "),
        };
        let missing = classes.iter().map(String::as_str);
        let missing = missing.filter(|class| !own.iter().any(|known| known == class));
        return Err(TrainError::Recipe(format!(
            "{} has {} classes, the training images have {}, and they are not the same: only in training: {}; only in \
             the test set: {}",
            path.display(),
            own.len(),
            classes.len(),
            shown(missing.collect()),
            shown(unknown),
        )));
    }
    let classes = classes.to_vec();
    Ok(Arc::new(Renumbered {
        source: test,
        classes,
        numbers,
    }))
}

/// A set whose classes have other numbers.
struct Renumbered {
    source: Arc<dyn Source>,
    classes: Vec<String>,
    /// The number of each of its own classes.
    numbers: Vec<u32>,
}

impl Renumbered {
    fn number(&self, label: u32) -> u32 {
        self.numbers[label as usize]
    }
}

impl Source for Renumbered {
    fn len(&self) -> usize {
        self.source.len()
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        self.source.read(index)
    }

    fn name(&self, index: usize) -> String {
        self.source.name(index)
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.source.label(index).map(|label| self.number(label))
    }

    fn labels(&self, index: usize) -> Vec<u32> {
        let labels = self.source.labels(index).into_iter();
        labels.map(|label| self.number(label)).collect()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn relative_path(&self, index: usize) -> Option<PathBuf> {
        self.source.relative_path(index)
    }

    fn key(&self, index: usize) -> Vec<u8> {
        self.source.key(index)
    }

    fn bytes(&self, index: usize) -> Option<u64> {
        self.source.bytes(index)
    }

    fn notes(&self) -> &[String] {
        self.source.notes()
    }

    fn describe(&self) -> String {
        self.source.describe()
    }
}

/// The path as it is kept in a plan: absolute, so that a run continues from anywhere.
///
/// # Errors
/// If the current directory is gone.
pub fn resolve(path: &Path) -> Result<PathBuf, TrainError> {
    if path.as_os_str().is_empty() {
        return Err(TrainError::Recipe(
            "an empty path names no file: leave the option out, or give it a value".to_string(),
        ));
    }
    match builtin_part(path) {
        Some(_) => Ok(path.to_path_buf()),
        // Without what makes two names of one place differ: `set/` is `set`.
        None => std::path::absolute(path)
            .map(|path| path.components().collect())
            .map_err(|error| TrainError::io(path)(error)),
    }
}

fn builtin_part(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix(BUILTIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set of one image of each class.
    struct OfEach(Vec<String>);

    impl OfEach {
        fn set(classes: &[&str]) -> Arc<dyn Source> {
            Arc::new(Self(classes.iter().map(ToString::to_string).collect()))
        }
    }

    impl Source for OfEach {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn read(&self, _: usize) -> Result<Sample, DataError> {
            Ok(Sample::Encoded(Vec::new()))
        }
        fn name(&self, index: usize) -> String {
            self.0[index].clone()
        }
        fn label(&self, index: usize) -> Option<u32> {
            Some(index as u32)
        }
        fn classes(&self) -> &[String] {
            &self.0
        }
        fn describe(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn a_test_set_that_lacks_a_class_is_mapped_by_name() {
        let train = OfEach::set(&["ant", "bee", "cat", "dog"]);
        let test = of_classes(
            OfEach::set(&["bee", "dog"]),
            train.classes(),
            Path::new("t"),
        );
        let test = test.unwrap();
        let labels: Vec<_> = (0..2).map(|i| (test.label(i), test.labels(i))).collect();
        assert_eq!(labels, [(Some(1), vec![1]), (Some(3), vec![3])]);
        assert_eq!(test.classes(), train.classes());
        for wrong in [&["bee", "emu"][..], &[]] {
            let refused = of_classes(OfEach::set(wrong), train.classes(), Path::new("t"));
            let told = refused.map(|_| ()).unwrap_err().to_string();
            assert!(told.contains("ant"), "{told}");
        }
    }
}
