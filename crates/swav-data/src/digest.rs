//! Whether a set is the one it was: a few numbers that depend on what it holds and in which order, and not on where it lies.

use serde::{Deserialize, Serialize};

use crate::source::Source;

/// What a set holds, in three numbers. Two sets with equal digests have, as far as can be told without reading them, the same
/// images under the same indices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    /// Of the names of the images within the set, or their places in an archive.
    pub names: String,
    /// Of the names of the classes and the labels of all images.
    pub labels: String,
    /// Of the lengths of the files.
    pub sizes: String,
}

impl Digest {
    /// Names and lengths are looked at of so many images at most, spread over the set: each is a question to the file system.
    /// Labels, which are at hand, are all looked at.
    pub const SAMPLES: usize = 1 << 14;

    /// The digest of a set.
    pub fn of(source: &dyn Source) -> Self {
        let images = source.len();
        let (mut names, mut labels, mut sizes) = (Fnv::new(), Fnv::new(), Fnv::new());
        for class in source.classes() {
            labels.text(class.as_bytes());
        }
        if !source.classes().is_empty() {
            for index in 0..images {
                for label in source.labels(index) {
                    labels.number(label.into());
                }
                labels.number(u64::MAX);
            }
        }
        let samples = images.min(Self::SAMPLES);
        for i in 0..samples {
            let index = (i as u128 * images as u128 / samples as u128) as usize;
            names.text(&source.key(index));
            sizes.number(source.bytes(index).unwrap_or(u64::MAX));
        }
        Self {
            names: names.shown(),
            labels: labels.shown(),
            sizes: sizes.shown(),
        }
    }

    /// What differs from another digest, in words.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("names of images", &self.names, &other.names),
            ("labels", &self.labels, &other.labels),
            ("sizes of files", &self.sizes, &other.sizes),
        ];
        let differ = pairs.into_iter().filter(|(_, one, other)| one != other);
        differ.map(|(what, ..)| what).collect()
    }
}

/// FNV-1a of 64 bits (Fowler, Noll and Vo).
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }

    fn number(&mut self, number: u64) {
        number
            .to_le_bytes()
            .into_iter()
            .for_each(|byte| self.byte(byte));
    }

    /// With its length, so that "ab", "c" is not "a", "bc".
    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        text.iter().for_each(|&byte| self.byte(byte));
    }

    fn shown(&self) -> String {
        format!("{:016x}", self.0)
    }
}
