//! Counts of unusual members of archives, such as masks and labels without an image, with the first of each.

use serde::{Deserialize, Serialize};

use super::skipped::Endings;

/// Something that was met while archives were listed: how often, and the first case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remark {
    count: u64,
    first: String,
}

impl Remark {
    pub(super) fn add(&mut self, case: impl FnOnce() -> String) {
        if self.count == 0 {
            self.first = case();
        }
        self.count += 1;
    }

    fn merge(&mut self, other: Self, archive: &str) {
        if self.count == 0 && other.count > 0 {
            self.first = format!("{archive}: {}", other.first);
        }
        self.count += other.count;
    }
}

/// What a person should know of the members of archives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remarks {
    /// Images that belong to another image of their key: masks, depth maps.
    pub(super) parts: Remark,
    /// Members whose place a later one of the same name took.
    pub(super) replaced: Remark,
    /// Labels without an image.
    pub(super) orphans: Remark,
    /// Links to folders, and links that leave the archive.
    pub(super) links: Remark,
    /// Members that are neither images nor labels.
    pub(super) endings: Endings,
}

impl Remarks {
    /// Adds what was met in `archive`.
    pub(super) fn merge(&mut self, other: Self, archive: &str) {
        self.parts.merge(other.parts, archive);
        self.replaced.merge(other.replaced, archive);
        self.orphans.merge(other.orphans, archive);
        self.links.merge(other.links, archive);
        self.endings.merge(other.endings);
    }

    /// A line for each thing that was met.
    pub(super) fn notes(&self) -> Vec<String> {
        let line = |remark: &Remark, what: &str| {
            let Remark { count, first } = remark;
            (*count > 0).then(|| format!("{what}: {count} (the first: {first})"))
        };
        let lines = [
            line(
                &self.parts,
                "images left out because they belong to another image of the same key, such as masks",
            ),
            line(
                &self.replaced,
                "members left out because a later member has the same name, as when the archive is unpacked",
            ),
            line(
                &self.orphans,
                "labels that belong to no image of their archive",
            ),
            line(
                &self.links,
                "links passed over because they lead to no file of their archive",
            ),
            self.endings.note(),
        ];
        lines.into_iter().flatten().collect()
    }
}
