//! WebDataset: tar archives in which members with one key are one sample.
//!
//! The key of a member is its path up to the first dot of its last part, its stem the path up to the last dot.
//! Members of a key lie next to one another, which is how such archives are written and what lets them be read in one
//! go. `000123.jpg` is an image; `000123.cls` holds its label, and `000123.json` does when it has a field `"label"`.
//! A label is the number of a class or its name. Images may be of any kind that is known; other members, such as a
//! `txt` with a caption, are passed over.
//!
//! Names may have dots of their own (`img_0.1.png`, `img_0.2.png`), and a sample may have several images, so the key
//! alone does not tell which label is whose. Within a key an image has
//!
//! 1. the label of its own stem (`img_0.1.cls` for `img_0.1.png`), else
//! 2. that of the longest stem which its own goes on from at a dot (`0.cls` for `0.left.png`), else
//! 3. the only label of the key, if no image has it by the rules above (`0.target.cls` for `0.input.png`).
//!
//! An image that goes on from another image's stem and has no label of its own stem (`0.seg.png` beside `0.jpg`) is
//! part of that image, such as a mask, and left out.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::catalogue::{Catalogue, Role};
use super::classes::{NO_LABEL, renumber};
use super::members::ReadAt;
use super::table::{Layout, Table};
use crate::error::DataError;

/// More classes than any set has: a larger number is no label.
pub(super) const MAX_CLASSES: u64 = 10_000_000;

/// What a label says: a number, or the name of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Label {
    Number(u32),
    Name(String),
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => write!(f, "\"{name}\""),
        }
    }
}

/// Whether a member of this name may hold a label.
pub(super) fn is_label(path: &Path) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    is_cls(name) || ends_with(name, b"json")
}

/// Whether a member of this name holds a label and nothing else.
pub(super) fn is_cls(name: &[u8]) -> bool {
    ends_with(name, b"cls")
}

fn ends_with(name: &[u8], extension: &[u8]) -> bool {
    let (stem, found) = name.split_at(stem(name).len());
    !stem.is_empty()
        && found
            .get(1..)
            .is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Whether an image of the archive has a label of its own key, wherever that lies. Labels are read until one is found.
pub(super) fn is_labelled<R: ReadAt>(all: &Catalogue<R>) -> bool {
    if all.of_role(Role::Label).next().is_none() {
        return false;
    }
    let keys: HashSet<&[u8]> = all
        .of_role(Role::Image)
        .map(|image| key(all.name(image)))
        .collect();
    all.of_role(Role::Label)
        .any(|label| keys.contains(key(all.name(label))) && holds_label(all, label))
}

/// Whether a member holds a label: it is a `cls`, or JSON that has one. What is damaged has one if it looks so, since
/// whoever reads it says what is wrong.
fn holds_label<R: ReadAt>(all: &Catalogue<R>, index: u32) -> bool {
    if is_cls(all.name(index)) {
        return true;
    }
    let text = all.read(index, MAX_LABEL_BYTES).unwrap_or_default();
    match label_of_json(&text) {
        Ok(label) => label.is_some(),
        Err(_) => memchr::memmem::find(&text, b"\"label\"").is_some(),
    }
}

/// Longer than any description of an image.
const MAX_LABEL_BYTES: u64 = 1 << 24;

/// The samples of an archive, in its order.
///
/// # Errors
/// When a label cannot be read, two labels of one image differ, some images have a label and others none, some labels
/// are numbers and others names, or the members of a key lie apart.
pub(super) fn table<R: ReadAt>(all: &Catalogue<R>) -> Result<Table, DataError> {
    for &(one, other) in &all.duplicate_labels {
        let (first, second) = (read_label(all, one)?, read_label(all, other)?);
        if first != second {
            return Err(conflict(all, (one, &first), (other, &second)));
        }
    }
    let mut samples = Samples::new(all);
    let mut group = Group::default();
    for (index, entry) in (0..).zip(&all.entries) {
        if entry.role == Role::Other {
            continue;
        }
        let key = key(all.name(index));
        if key != group.key {
            samples.append(std::mem::take(&mut group))?;
            group.key = key;
        }
        match entry.role {
            Role::Image => group.images.push(index),
            _ => group.labels.push(index),
        }
    }
    samples.append(group)?;
    samples.finish()
}

/// Reads a label; nothing when the member has none.
fn read_label<R: ReadAt>(all: &Catalogue<R>, index: u32) -> Result<Option<Label>, DataError> {
    all.check(index)?;
    let text = all.read(index, MAX_LABEL_BYTES);
    let label = text.and_then(|text| match is_cls(all.name(index)) {
        true => label_of_text(&text),
        false => label_of_json(&text),
    });
    label.map_err(|reason| all.failed(format!("member {}: {reason}", all.place(index))))
}

fn conflict<R: ReadAt>(
    all: &Catalogue<R>,
    (one, first): (u32, &Option<Label>),
    (other, second): (u32, &Option<Label>),
) -> DataError {
    let say = |label: &Option<Label>| label.as_ref().map_or("none".into(), Label::to_string);
    all.failed(format!(
        "members {} and {} give one sample two labels, {} and {}: leave one",
        all.place(one),
        all.place(other),
        say(first),
        say(second)
    ))
}

/// Members of one key that lie next to one another.
#[derive(Default)]
struct Group<'a> {
    key: &'a [u8],
    images: Vec<u32>,
    labels: Vec<u32>,
}

impl<'a> Group<'a> {
    /// The labels by their stems, and the members that hold them.
    fn labels_by_stem<R: ReadAt>(
        &self,
        all: &'a Catalogue<R>,
    ) -> Result<HashMap<&'a [u8], (u32, Label)>, DataError> {
        let mut labels: HashMap<&[u8], (u32, Label)> = HashMap::new();
        for &index in &self.labels {
            let Some(label) = read_label(all, index)? else {
                continue;
            };
            match labels.entry(stem(all.name(index))) {
                Entry::Vacant(place) => {
                    place.insert((index, label));
                }
                Entry::Occupied(known) if known.get().1 != label => {
                    let (other, known) = known.remove();
                    return Err(conflict(all, (other, &Some(known)), (index, &Some(label))));
                }
                Entry::Occupied(_) => {}
            }
        }
        Ok(labels)
    }
}

/// By what the image of a label is recognised elsewhere in the archive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum MissingImage<'a> {
    /// There is no image next to the label.
    Key(&'a [u8]),
    /// The images next to the label are of others.
    Stem(&'a [u8]),
}

/// The samples that were found so far.
struct Samples<'a, R> {
    all: &'a Catalogue<'a, R>,
    table: Table,
    /// The number of each name of a class, in the order of appearance.
    names: HashMap<String, u32>,
    /// A label that is a number, and one that is a name.
    number: Option<u32>,
    name: Option<u32>,
    /// An image without a label.
    bare: Option<u32>,
    /// Labels that no image has.
    orphans: Vec<(u32, MissingImage<'a>)>,
}

impl<'a, R: ReadAt> Samples<'a, R> {
    fn new(all: &'a Catalogue<'a, R>) -> Self {
        Self {
            all,
            table: Table {
                layout: Layout::Keys,
                ..Table::default()
            },
            names: HashMap::new(),
            number: None,
            name: None,
            bare: None,
            orphans: vec![],
        }
    }

    /// Appends the samples of a group.
    fn append(&mut self, group: Group<'a>) -> Result<(), DataError> {
        let all = self.all;
        if group.images.is_empty() {
            // They may be of any kind: a description of the whole archive, for one.
            let labels = group.labels.into_iter();
            let labels = labels.filter(|&label| holds_label(all, label));
            self.orphans
                .extend(labels.map(|label| (label, MissingImage::Key(group.key))));
            return Ok(());
        }
        let labels = group.labels_by_stem(all)?;
        let Group { key, images, .. } = group;
        let stem = |image: u32| stem(all.name(image));
        let stems: HashSet<&[u8]> = images.iter().map(|&image| stem(image)).collect();
        let mut claimed: HashSet<&[u8]> = HashSet::new();
        let mut samples = Vec::with_capacity(images.len());
        for image in images {
            let own = stem(image);
            if !labels.contains_key(own)
                && shorter_stems(own, key).any(|other| stems.contains(other))
            {
                self.table.remarks.parts.add(|| all.place(image));
                continue;
            }
            let label = std::iter::once(own)
                .chain(shorter_stems(own, key))
                .find(|&stem| labels.contains_key(stem));
            claimed.extend(label);
            samples.push((image, label));
        }
        let only = match (labels.len(), claimed.len()) {
            (1, 0) => labels.keys().next().copied(),
            _ => None,
        };
        claimed.extend(only);
        let orphans = labels.iter().filter(|(stem, _)| !claimed.contains(*stem));
        self.orphans
            .extend(orphans.map(|(stem, &(label, _))| (label, MissingImage::Stem(stem))));
        for (image, stem) in samples {
            let label = match stem.or(only).and_then(|stem| labels.get(stem)) {
                Some((member, label)) => self.number(*member, label),
                None => {
                    self.bare.get_or_insert(image);
                    NO_LABEL
                }
            };
            self.table.push(&all.entries[image as usize], label);
        }
        Ok(())
    }

    /// A label as it stands in the table.
    fn number(&mut self, member: u32, label: &Label) -> u32 {
        match label {
            Label::Number(number) => {
                self.number.get_or_insert(member);
                *number
            }
            Label::Name(name) => {
                self.name.get_or_insert(member);
                let next = self.names.len() as u32;
                match self.names.get(name) {
                    Some(&number) => number,
                    None => *self.names.entry(name.clone()).or_insert(next),
                }
            }
        }
    }

    fn finish(mut self) -> Result<Table, DataError> {
        let all = self.all;
        self.orphans.sort_unstable_by_key(|&(label, _)| label);
        self.check_neighbours()?;
        let labelled = self.number.or(self.name);
        if let (Some(_), Some(bare)) = (labelled, self.bare) {
            return Err(all.failed(format!(
                "key {} has an image and no label, while others have one: {}; give each image a cls \
                 or a json with \"label\", next to it in the archive, or leave out all",
                String::from_utf8_lossy(key(all.name(bare))),
                all.place(bare)
            )));
        }
        if let (Some(number), Some(name)) = (self.number, self.name) {
            return Err(all.failed(format!(
                "member {} has the number of a class and member {} a name: give all labels as numbers, or all as names",
                all.place(number),
                all.place(name)
            )));
        }
        for &(label, _) in &self.orphans {
            self.table.remarks.orphans.add(|| all.place(label));
        }
        let mut names: Vec<(String, u32)> = self.names.into_iter().collect();
        names.sort_unstable();
        if !names.is_empty() {
            renumber(&names, &mut self.table.labels);
        }
        self.table.folders = names
            .into_iter()
            .map(|(name, _)| name.into_bytes())
            .collect();
        Ok(self.table)
    }

    /// Refuses a label whose image lies elsewhere in the archive.
    fn check_neighbours(&self) -> Result<(), DataError> {
        let all = self.all;
        if self.orphans.is_empty() {
            return Ok(());
        }
        let sought: HashMap<MissingImage, u32> = self
            .orphans
            .iter()
            .map(|&(label, sought)| (sought, label))
            .collect();
        for image in all.of_role(Role::Image) {
            let name = all.name(image);
            let found = sought
                .get(&MissingImage::Key(key(name)))
                .or(sought.get(&MissingImage::Stem(stem(name))));
            if let Some(&label) = found {
                return Err(all.failed(format!(
                    "image {} and label {} belong together and lie apart: the members of a key must lie next to one \
                     another (`tar --sort=name`)",
                    all.place(image),
                    all.place(label)
                )));
            }
        }
        Ok(())
    }
}

/// The label in a `cls`: a number, or the name of a class.
fn label_of_text(text: &[u8]) -> Result<Option<Label>, String> {
    let text = std::str::from_utf8(text)
        .map_err(|_| "expected a label, found no UTF-8 text".to_string())?;
    label_of_word(text.trim_start_matches('\u{feff}').trim())
}

fn label_of_word(text: &str) -> Result<Option<Label>, String> {
    /// More than the name of any class.
    const LONGEST: usize = 1000;
    let start: String = text.chars().take(20).collect();
    if text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
        return Err(format!(
            "expected one number or name of a class, found \"{}\"",
            start.escape_debug()
        ));
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || digits.is_empty() {
        return Ok(Some(Label::Name(text.into())));
    }
    match text.parse::<i64>() {
        // As published test sets have it.
        Ok(-1) => Ok(None),
        Ok(number) if (0..MAX_CLASSES as i64).contains(&number) => {
            Ok(Some(Label::Number(number as u32)))
        }
        _ => Err(format!("label {start} is no number of a class")),
    }
}

/// The label of a JSON object, if it has one.
fn label_of_json(text: &[u8]) -> Result<Option<Label>, String> {
    #[derive(Deserialize)]
    struct Object {
        label: Option<serde_json::Value>,
    }
    // A list would do as well for serde.
    if text.trim_ascii_start().first() != Some(&b'{') {
        let value: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(&plain(text));
        return value.map(|_| None).map_err(|error| error.to_string());
    }
    let Object { label } =
        serde_json::from_slice(&plain(text)).map_err(|error| error.to_string())?;
    match label {
        None => Ok(None),
        Some(serde_json::Value::String(name)) => {
            label_of_word(&name).map_err(|reason| format!("\"label\": {reason}"))
        }
        Some(serde_json::Value::Number(number)) => {
            // pandas writes whole numbers as 3.0 in a column with gaps.
            let whole = number.as_f64().filter(|number| number.fract() == 0.0);
            let text = whole.map_or(number.to_string(), |whole| format!("{whole:.0}"));
            match whole {
                Some(_) => label_of_word(&text).map_err(|reason| format!("\"label\": {reason}")),
                None => Err(format!(
                    "\"label\" is {text}, which is no number of a class"
                )),
            }
        }
        Some(other) => Err(format!(
            "\"label\" is {other}, expected the number or the name of a class"
        )),
    }
}

/// JSON without the numbers that only Python writes: `NaN` and `Infinity` become null.
fn plain(text: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    if !WORDS
        .iter()
        .any(|word| memchr::memmem::find(text, word).is_some())
    {
        return text.into();
    }
    let (mut plain, mut rest, mut quoted) = (Vec::with_capacity(text.len() + 16), text, false);
    while let Some((&byte, after)) = rest.split_first() {
        let word = WORDS.iter().find(|word| !quoted && rest.starts_with(word));
        if let Some(word) = word {
            plain.extend_from_slice(b"null");
            rest = &rest[word.len()..];
            continue;
        }
        let length = match byte {
            b'\\' if quoted => rest.len().min(2),
            b'"' => {
                quoted = !quoted;
                1
            }
            _ => 1,
        };
        plain.extend_from_slice(&rest[..length]);
        rest = &after[length - 1..];
    }
    plain.into()
}

/// The path up to the first dot of its last part.
fn key(name: &[u8]) -> &[u8] {
    let start = last_part(name);
    let dot = name[start..].iter().position(|&byte| byte == b'.');
    &name[..dot.map_or(name.len(), |dot| start + dot)]
}

/// The path up to the last dot of its last part.
fn stem(name: &[u8]) -> &[u8] {
    let start = last_part(name);
    let dot = name[start..].iter().rposition(|&byte| byte == b'.');
    &name[..dot.map_or(name.len(), |dot| start + dot)]
}

fn last_part(name: &[u8]) -> usize {
    let separator = |&byte: &u8| byte == b'/' || char::from(byte) == std::path::MAIN_SEPARATOR;
    name.iter().rposition(separator).map_or(0, |at| at + 1)
}

/// What a stem goes on from at a dot, the longest first, down to its key.
fn shorter_stems<'a>(stem: &'a [u8], key: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let dots = (key.len()..stem.len()).rev().filter(|&at| stem[at] == b'.');
    dots.map(|dot| &stem[..dot])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_numbers_or_names() {
        let number = |number| Ok(Some(Label::Number(number)));
        for text in ["7", " 7\r\n", "007", "+7", "\u{feff}7"] {
            assert_eq!(label_of_text(text.as_bytes()), number(7), "{text:?}");
        }
        assert_eq!(label_of_text("-1".as_bytes()), Ok(None));
        assert_eq!(
            label_of_text("n01440764\n".as_bytes()),
            Ok(Some(Label::Name("n01440764".into())))
        );
        for wrong in ["", "-2", "10000000", "99999999999999999999", "3\n5", "\0"] {
            assert!(label_of_text(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn json_is_read_as_python_writes_it() {
        for text in [
            r#"{"label": 3}"#,
            r#"{"label": 3.0, "text": "\ud83d NaN \" Infinity"}"#,
            r#"{"a": NaN, "label": "3", "b": [-Infinity, Infinity, {"label": 9}]}"#,
        ] {
            assert_eq!(
                label_of_json(text.as_bytes()),
                Ok(Some(Label::Number(3))),
                "{text}"
            );
        }
        for text in [
            "{}",
            "[3]",
            "3",
            r#"{"label": null}"#,
            r#"{"label": NaN}"#,
            r#"{"label": -1}"#,
        ] {
            assert_eq!(label_of_json(text.as_bytes()), Ok(None), "{text}");
        }
        assert_eq!(
            label_of_json(br#"{"label": "NaN"}"#),
            Ok(Some(Label::Name("NaN".into())))
        );
        for wrong in [
            "{",
            "",
            r#"{"label": 3.5}"#,
            r#"{"label": [1]}"#,
            r#"{"label": true}"#,
            r#"{"label": Na}"#,
        ] {
            assert!(label_of_json(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_and_stems_end_at_dots_of_the_last_part() {
        assert_eq!(key(b"a.b/0.left.png"), b"a.b/0");
        assert_eq!(stem(b"a.b/0.left.png"), b"a.b/0.left");
        assert_eq!(
            (key(b"a.b/c"), stem(b"a.b/c")),
            (&b"a.b/c"[..], &b"a.b/c"[..])
        );
        let all: Vec<&[u8]> = shorter_stems(b"a.b/0.1.x", b"a.b/0").collect();
        assert_eq!(all, [&b"a.b/0.1"[..], b"a.b/0"]);
    }
}
