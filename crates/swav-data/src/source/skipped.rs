//! What a listing leaves out, so that a person can be told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::describe::thousands;

/// How many files were left out for each ending, in small letters; the empty one where a name has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Endings(BTreeMap<String, usize>);

impl Endings {
    /// Different endings that are told apart.
    const MAX_ENDINGS: usize = 100;

    /// Counts a file without one of the known endings. What usually lies beside images is not counted.
    pub(super) fn count(&mut self, name: &Path) {
        const COMPANIONS: [&str; 8] = [
            "readme",
            "license",
            "licence",
            "thumbs",
            "desktop",
            "changelog",
            "copying",
            "makefile",
        ];
        let lower = |part: Option<&std::ffi::OsStr>| {
            part.map_or_else(String::new, |part| part.to_string_lossy().to_lowercase())
        };
        if !COMPANIONS.contains(&lower(name.file_stem()).as_str()) {
            self.add(lower(name.extension()), 1);
        }
    }

    /// Adds what was left out elsewhere.
    pub(super) fn merge(&mut self, other: Self) {
        for (ending, count) in other.0 {
            self.add(ending, count);
        }
    }

    fn add(&mut self, ending: String, count: usize) {
        if self.0.len() < Self::MAX_ENDINGS || self.0.contains_key(&ending) {
            *self.0.entry(ending).or_default() += count;
        }
    }

    /// A line about them, if there are any.
    pub(super) fn note(&self) -> Option<String> {
        const SHOWN: usize = 8;
        let mut endings: Vec<(&String, &usize)> = self.0.iter().collect();
        endings.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let shown = endings.iter().take(SHOWN);
        let mut shown: Vec<String> = shown
            .map(|(ending, count)| match ending.as_str() {
                "" => format!("{} without one", thousands(**count)),
                _ => format!("{} .{ending}", thousands(**count)),
            })
            .collect();
        if endings.len() > SHOWN {
            shown.push("…".into());
        }
        (!shown.is_empty()).then(|| format!("left out for their ending: {}", shown.join(", ")))
    }
}

/// Files and folders that were left out.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    endings: Endings,
    /// What is no regular file: how many, and one of them.
    special: Option<(usize, PathBuf)>,
    unreadable: Vec<PathBuf>,
}

impl Skipped {
    /// Counts a file without one of the known endings.
    pub(super) fn count_ending(&mut self, name: &Path) {
        self.endings.count(name);
    }

    /// Counts what is called like an image and is no regular file.
    pub(super) fn count_special(&mut self, path: PathBuf) {
        let (count, _) = self.special.get_or_insert((0, path));
        *count += 1;
    }

    /// Remembers a folder that may not be read.
    pub(super) fn add_unreadable(&mut self, folder: PathBuf) {
        self.unreadable.push(folder);
    }

    /// One line for each kind of what was left out.
    pub(super) fn notes(self) -> Vec<String> {
        let mut notes: Vec<String> = self.endings.note().into_iter().collect();
        if let Some((count, path)) = self.special {
            let more = match count {
                1 => String::new(),
                n => format!(" and {} more", thousands(n - 1)),
            };
            notes.push(format!(
                "left out, because a FIFO, a socket or a device is no image: {}{more}",
                path.display()
            ));
        }
        let unreadable = self.unreadable.iter();
        notes.extend(
            unreadable.map(|folder| format!("left out, not readable: {}", folder.display())),
        );
        notes
    }
}
