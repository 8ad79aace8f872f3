//! The trait that every source implements.

use std::path::PathBuf;

use crate::error::DataError;
use crate::sample::Sample;

/// A set of images, in a fixed order.
pub trait Source: Send + Sync {
    /// How many samples there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads sample `index`. Any number of threads may read at once.
    ///
    /// # Errors
    /// When the file has gone or the operating system refuses.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn read(&self, index: usize) -> Result<Sample, DataError>;

    /// The path of sample `index`, or `archive:member`, or `file#record`. Bytes that are not UTF-8
    /// show as `�`.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn name(&self, index: usize) -> String;

    /// The class of sample `index`, an index into [`classes`](Source::classes), if it has exactly one.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn label(&self, index: usize) -> Option<u32>;

    /// All labels of sample `index`, indices into [`classes`](Source::classes): none, one, or, where images
    /// are tagged, several.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn labels(&self, index: usize) -> Vec<u32> {
        self.label(index).into_iter().collect()
    }

    /// Names of the classes; empty when there are no labels.
    fn classes(&self) -> &[String];

    /// Where sample `index` lies within the set, without the set's own place: `cat/1.jpg`. Nothing
    /// where samples have no files of their own.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn relative_path(&self, _index: usize) -> Option<PathBuf> {
        None
    }

    /// What tells sample `index` from the others of the set, wherever the set lies: its name within it, or its place in an
    /// archive, whichever takes no reading.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn key(&self, index: usize) -> Vec<u8> {
        let name = match self.relative_path(index) {
            Some(path) => return path.into_os_string().into_encoded_bytes(),
            None => self.name(index),
        };
        let last = name.rsplit(['/', '\\']).next().unwrap_or(&name);
        last.as_bytes().to_vec()
    }

    /// How many bytes sample `index` takes where it is kept, if that is known without reading it.
    ///
    /// # Panics
    /// When `index` is not below [`len`](Source::len).
    fn bytes(&self, _index: usize) -> Option<u64> {
        None
    }

    /// What a person should know who opens the set, one line each: that an index was made anew, or
    /// cannot be kept.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// A line for people: "50,000 images in 10 classes, tar data/train.tar".
    fn describe(&self) -> String;
}
