//! The images of a tar archive as numbers: offsets, sizes and labels.

use super::catalogue::Entry;
use super::marker::Marker;
use super::remarks::Remarks;

/// What the members of an archive mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Layout {
    /// The first folder of an image names its class.
    #[default]
    Folders,
    /// WebDataset: members with one key are one sample.
    Keys,
}

/// The images of one archive: numbers alone, 13 bytes an image. Names are read from the archive
/// when someone asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) layout: Layout,
    /// Whether an image has a label of its own key.
    pub(super) labelled: bool,
    /// Where the bytes of each image begin, in blocks.
    pub(super) offsets: Vec<u32>,
    /// Their number.
    pub(super) sizes: Vec<u32>,
    /// Blocks of headers in front of them: more than one when the name is long, 0 when they are in `named`.
    pub(super) gaps: Vec<u8>,
    /// Index into `folders`, or the class itself when it is a number; [`NO_LABEL`](super::classes::NO_LABEL) without.
    pub(super) labels: Vec<u32>,
    /// Images whose headers do not lie right in front of their bytes, or are many: number of the image, and the block
    /// where its headers begin. In the order of the images.
    pub(super) named: Vec<(u32, u32)>,
    /// First folders, or the names of classes that WebDataset's labels give; sorted.
    pub(super) folders: Vec<Vec<u8>>,
    pub(super) marker: Option<Marker>,
    pub(super) remarks: Remarks,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    pub(super) fn push(&mut self, entry: &Entry, label: u32) {
        let gap = u8::try_from(entry.offset.wrapping_sub(entry.start)).unwrap_or(0);
        let gap = if entry.linked { 0 } else { gap };
        if gap == 0 {
            self.named.push((self.len() as u32, entry.start));
        }
        self.offsets.push(entry.offset);
        self.sizes.push(entry.size as u32);
        self.gaps.push(gap);
        self.labels.push(label);
    }
}
