//! The marker of a packed archive: its first member, which lists the classes.

use serde::{Deserialize, Serialize};

/// The first member of an archive that was packed by this crate, a [`Marker`] in JSON.
pub(crate) const MARKER: &str = ".swav-shard";

/// What a packed archive says of itself: that its images are in the order of the set, and how the
/// classes are called and counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Marker {
    pub(crate) version: u32,
    /// Empty without labels.
    pub(crate) classes: Vec<String>,
    /// The folder of each class in the archive, where that is not its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) folders: Vec<String>,
}

impl Marker {
    /// The one version there is.
    pub(crate) const VERSION: u32 = 1;

    /// The folder of each class.
    pub(super) fn folders(&self) -> &[String] {
        match self.folders.is_empty() {
            true => &self.classes,
            false => &self.folders,
        }
    }
}
