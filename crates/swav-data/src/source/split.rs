//! Splits of a data set, by the words in names: `train-000.tar`, `val2017`,
//! `emnist-letters-test-images-idx3-ubyte`.
//!
//! A set that holds its training and its test images must not be taken as one, nor its splits as
//! classes. A name alone proves nothing (`test_tube` is a fine class), so what counts is what lies
//! beside it:
//!
//! * two names that differ in the word of the split alone (`train2017` and `val2017`,
//!   `images_train` and `images_test`),
//! * names that all have such a word, and not the same one,
//! * at the top of a set, a folder that is called `test`, `testing`, `val` or `validation` and nothing
//!   more, and among archives any that is called after a held-out split, beside others.
//!
//! Folders of masks beside a folder of images are told by their words as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::DataError;

/// A split of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Split {
    Train,
    Val,
    Test,
}

impl Split {
    /// The split that a name names, if it names exactly one.
    pub(super) fn of(name: &str) -> Option<Self> {
        SplitName::of(name).map(|named| named.split)
    }

    fn of_word(word: &str) -> Option<Self> {
        let thousands = (word.strip_suffix('k')).filter(|rest| rest.ends_with(is_digit));
        let bare = thousands.unwrap_or(word).trim_end_matches(is_digit);
        match bare.strip_suffix("set").unwrap_or(bare) {
            "train" | "training" | "trainval" => Some(Self::Train),
            "val" | "valid" | "validation" | "dev" => Some(Self::Val),
            "test" | "testing" | "eval" | "evaluation" => Some(Self::Test),
            // MNIST's ten thousand.
            "t" if word == "t10k" => Some(Self::Test),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

fn is_digit(letter: char) -> bool {
    letter.is_ascii_digit()
}

/// A name with the word of a split.
struct SplitName {
    split: Split,
    word: String,
    /// The other words.
    rest: Vec<String>,
}

impl SplitName {
    fn of(name: &str) -> Option<Self> {
        let mut found: Option<(Split, String)> = None;
        let mut rest = Vec::new();
        for word in words(name) {
            match (Split::of_word(&word), &found) {
                (None, _) => rest.push(word),
                (Some(split), None) => found = Some((split, word)),
                (Some(split), Some((other, _))) if split == *other => {}
                (Some(_), Some(_)) => return None,
            }
        }
        found.map(|(split, word)| Self { split, word, rest })
    }
}

/// The words of a name in small letters: runs of letters and digits, cut where a capital begins one.
fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut before = ' ';
    let mut letters = name.chars().peekable();
    while let Some(letter) = letters.next() {
        let begins = letter.is_uppercase()
            && (!before.is_uppercase() || letters.peek().is_some_and(|next| next.is_lowercase()));
        if (begins || !letter.is_alphanumeric()) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if letter.is_alphanumeric() {
            word.extend(letter.to_lowercase());
        }
        before = letter;
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Refuses archives or tables in one folder that are of several splits, or of a held-out one beside
/// others.
pub(super) fn check_archives(folder: &Path, names: &[String]) -> Result<(), DataError> {
    let mut found = SplitFiles::default();
    for name in names {
        found.add(name);
    }
    let held_out = found.splits.keys().any(|&split| split != Split::Train);
    match found.splits.len() > 1 || (held_out && found.others > 0) {
        true => Err(found.refusal(folder, "files")),
        false => Ok(()),
    }
}

/// Refuses image files in one folder whose names all have the word of a split, and not the same one.
pub(super) fn check_images(
    folder: &Path,
    names: impl Iterator<Item = String>,
) -> Result<(), DataError> {
    let mut found = SplitFiles::default();
    for name in names {
        found.add(&name);
        if found.others > 0 {
            return Ok(());
        }
    }
    match found.splits.len() > 1 {
        true => Err(found.refusal(folder, "images")),
        false => Ok(()),
    }
}

/// What files have been found of each split.
#[derive(Default)]
struct SplitFiles {
    splits: BTreeMap<Split, FilesOfSplit>,
    others: usize,
}

struct FilesOfSplit {
    count: usize,
    word: String,
    /// What their names begin with.
    common: String,
    /// The last of their names, for its ending.
    last: String,
}

impl SplitFiles {
    fn add(&mut self, name: &str) {
        let Some(SplitName { split, word, .. }) = SplitName::of(name) else {
            self.others += 1;
            return;
        };
        let files = self.splits.entry(split).or_insert_with(|| FilesOfSplit {
            count: 0,
            word,
            common: name.into(),
            last: String::new(),
        });
        files.count += 1;
        let pairs = files.common.char_indices().zip(name.chars());
        let shared = pairs.take_while(|((_, one), other)| one == other).last();
        let shared = shared.map_or(0, |((at, letter), _)| at + letter.len_utf8());
        files.common.truncate(shared);
        files.last = name.into();
    }

    fn refusal(&self, folder: &Path, what: &str) -> DataError {
        let parts = self.splits.iter();
        let mut parts: Vec<String> = parts
            .map(|(split, files)| format!("{} ({})", split.name(), files.count))
            .collect();
        if self.others > 0 {
            parts.push(format!("without such a word ({})", self.others));
        }
        let first = self.splits.values().next();
        let example = first.map_or_else(String::new, FilesOfSplit::pattern);
        let all = first.map_or_else(String::new, |files| format!("*{}", files.ending()));
        DataError::format(
            folder,
            format!(
                "holds {what} of several splits: {}. Choose one with a pattern, such as --data '{}'; \
                 --data '{}' takes all",
                parts.join(", "),
                folder.join(example).display(),
                folder.join(all).display(),
            ),
        )
    }
}

impl FilesOfSplit {
    /// What their names end with, with the dot.
    fn ending(&self) -> String {
        let ending = Path::new(&self.last).extension();
        ending.map_or_else(String::new, |e| format!(".{}", e.to_string_lossy()))
    }

    /// A pattern that these files match, and no others.
    fn pattern(&self) -> String {
        if self.count == 1 {
            return self.last.clone();
        }
        let ending = self.ending();
        let common = self.common.trim_end_matches(is_digit);
        match common.to_lowercase().contains(&self.word) {
            true => format!("{common}*{ending}"),
            false => format!("*{}*{ending}", self.word),
        }
    }
}

/// Refuses folders that are several splits of one set, or images beside their masks. `below` gives the
/// folders with images, relative to `root`.
pub(super) fn check_folders<'a>(
    root: &Path,
    below: impl Iterator<Item = &'a Path>,
) -> Result<(), DataError> {
    let mut siblings: BTreeMap<&Path, BTreeSet<String>> = BTreeMap::new();
    for folder in below {
        if folder == Path::new("") {
            // Images of the root itself lie beside its folders.
            siblings.entry(folder).or_default().insert(".".into());
        }
        for folder in folder.ancestors() {
            let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
                break;
            };
            let known = siblings.entry(parent).or_default();
            if !known.insert(name.to_string_lossy().into_owned()) {
                break;
            }
        }
    }
    for (parent, names) in siblings {
        let place = match parent == Path::new("") {
            true => root.to_path_buf(),
            false => root.join(parent),
        };
        let shown = |names: &[&String]| {
            let names: Vec<&str> = names.iter().take(8).map(|name| name.as_str()).collect();
            names.join(", ")
        };
        if let Some([first, others @ ..]) = splits(&names, parent == Path::new("")).as_deref() {
            let listed = [&[*first], others].concat();
            return Err(DataError::format(
                &place,
                format!(
                    "holds several splits of a set, which are not classes: {}. Choose one, such as \
                     --data {}; data.format = \"nested\" takes all without labels, \"classes\" takes \
                     them for classes",
                    shown(&listed),
                    place.join(first).display(),
                ),
            ));
        }
        if let Some((images, masks)) = masks(&names) {
            return Err(DataError::format(
                &place,
                format!(
                    "holds images ({images}) beside annotations of them ({}). Choose the images: --data \
                     {}; data.format = \"nested\" takes all without labels, \"classes\" takes them for \
                     classes",
                    shown(&masks),
                    place.join(images).display(),
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses an archive whose first folders are several splits of one set, or images beside their masks.
pub(super) fn check_members(archive: &Path, folders: &[String]) -> Result<(), DataError> {
    let names: BTreeSet<String> = folders.iter().cloned().collect();
    let found = match (splits(&names, true), masks(&names)) {
        (Some(found), _) => found,
        (None, Some((images, mut masks))) => {
            masks.insert(0, images);
            masks
        }
        (None, None) => return Ok(()),
    };
    let found: Vec<&str> = found.iter().map(|name| name.as_str()).collect();
    Err(DataError::format(
        archive,
        format!(
            "its folders are parts of a set, which are not classes: {}. Unpack it and name one; \
             data.format = \"tar\" takes them for classes",
            found.join(", ")
        ),
    ))
}

/// Those of some folders that are splits of one set, the training split first.
fn splits(names: &BTreeSet<String>, top: bool) -> Option<Vec<&String>> {
    if names.len() < 2 {
        return None;
    }
    let named = names
        .iter()
        .filter_map(|name| Some((name, SplitName::of(name)?)));
    let named: Vec<(&String, SplitName)> = named.collect();
    let several = |of: &mut dyn Iterator<Item = &SplitName>| {
        let splits: BTreeSet<Split> = of.map(|named| named.split).collect();
        splits.len() > 1
    };
    let pair = named.iter().any(|(_, one)| {
        let alike = named.iter().map(|(_, other)| other);
        several(&mut alike.filter(|other| other.rest == one.rest))
    });
    let all = top && named.len() == names.len() && several(&mut named.iter().map(|(_, n)| n));
    let alone = top
        && named.iter().any(|(_, named)| {
            let word = named.word.trim_end_matches(is_digit);
            let held_out = ["test", "testing", "val", "validation"].contains(&word);
            named.rest.is_empty() && held_out
        });
    if !(pair || all || alone) {
        return None;
    }
    let mut found = named;
    found.sort_by_key(|(_, named)| named.split);
    let mut found: Vec<&String> = found.into_iter().map(|(name, _)| name).collect();
    if !(pair || all) {
        // What is held out is not what should be named as the example.
        let other = |name: &&String| name.as_str() != "." && !found.contains(name);
        let other = names.iter().find(other);
        found.splice(0..0, other);
    }
    Some(found)
}

/// The folder of images and those of annotations, when there are both.
fn masks(names: &BTreeSet<String>) -> Option<(&String, Vec<&String>)> {
    const IMAGES: [&str; 6] = ["image", "images", "img", "imgs", "img8bit", "rgb"];
    const MASKS: [&str; 13] = [
        "annotation",
        "annotations",
        "annot",
        "gt",
        "groundtruth",
        "label",
        "labels",
        "mask",
        "masks",
        "seg",
        "segmentation",
        "segmentations",
        "trimaps",
    ];
    let has = |name: &str, known: &[&str]| words(name).iter().any(|w| known.contains(&w.as_str()));
    let (masks, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| has(name, &MASKS));
    let images = others.into_iter().find(|name| has(name, &IMAGES))?;
    (!masks.is_empty()).then_some((images, masks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_a_word_of_its_own() {
        for (name, split) in [
            ("train", Some(Split::Train)),
            ("train2017", Some(Split::Train)),
            ("imagenet-Training_3.tar", Some(Split::Train)),
            ("trainImages", Some(Split::Train)),
            ("VOC2012trainval", None),
            ("trainval", Some(Split::Train)),
            ("validation-00000-of-00001.parquet", Some(Split::Val)),
            ("dev.3", Some(Split::Val)),
            ("TestSet", Some(Split::Test)),
            ("t10k-images-idx3-ubyte", Some(Split::Test)),
            ("qmnist-test50k-images-idx3-ubyte", Some(Split::Test)),
            ("latest", None),
            ("retest-1", None),
            ("value", None),
            ("trainer", None),
            ("device", None),
            ("train-test", None),
        ] {
            assert_eq!(Split::of(name), split, "{name}");
        }
    }

    fn are_splits(names: &[&str]) -> bool {
        let names = names.iter().map(|name| name.to_string()).collect();
        splits(&names, true).is_some()
    }

    #[test]
    fn splits_are_told_from_classes_by_what_lies_beside() {
        for names in [
            &["train", "val"][..],
            &["train2017", "val2014", "unlabeled2017"],
            &["images_train", "images_val", "extra"],
            &["train-data", "held test"],
            &["cat", "dog", "test"],
        ] {
            assert!(are_splits(names), "{names:?}");
        }
        for names in [
            &["cat", "dog"][..],
            &["airplane", "bus", "train"],
            &["beaker", "test_tube", "train_station"],
            &["valid", "invalid"],
            &["train", "training"],
            &["test"],
        ] {
            assert!(!are_splits(names), "{names:?}");
        }
    }

    #[test]
    fn masks_are_told_beside_images_alone() {
        let found = |names: &[&str]| {
            let names: BTreeSet<String> = names.iter().map(|name| name.to_string()).collect();
            masks(&names).map(|(images, masks)| (images.clone(), masks.len()))
        };
        let voc = ["JPEGImages", "SegmentationClass", "SegmentationObject"];
        assert_eq!(found(&voc), Some(("JPEGImages".into(), 2)));
        assert_eq!(
            found(&["leftImg8bit", "gtFine"]),
            Some(("leftImg8bit".into(), 1))
        );
        assert_eq!(found(&["with_mask", "without_mask"]), None);
        assert_eq!(found(&["images", "photos"]), None);
    }
}
