//! What a listing leaves out, so that a person can be told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::thousands;

/// Files and folders that were left out.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    /// How many files have each ending, in small letters; the empty one where a name has none.
    endings: BTreeMap<String, usize>,
    /// What is no regular file: how many, and one of them.
    special: Option<(usize, PathBuf)>,
    unreadable: Vec<PathBuf>,
}

impl Skipped {
    /// Counts a file without one of the known endings. What usually lies beside images is not counted.
    pub(super) fn ending(&mut self, name: &Path) {
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
            *self.endings.entry(lower(name.extension())).or_default() += 1;
        }
    }

    /// Counts what is called like an image and is no regular file.
    pub(super) fn special(&mut self, path: PathBuf) {
        let (count, _) = self.special.get_or_insert((0, path));
        *count += 1;
    }

    /// Remembers a folder that may not be read.
    pub(super) fn unreadable(&mut self, folder: PathBuf) {
        self.unreadable.push(folder);
    }

    /// One line for each kind of what was left out.
    pub(super) fn notes(self) -> Vec<String> {
        const SHOWN: usize = 8;
        let mut notes = Vec::new();
        let mut endings: Vec<(String, usize)> = self.endings.into_iter().collect();
        endings.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        if !endings.is_empty() {
            let shown = endings.iter().take(SHOWN);
            let mut shown: Vec<String> = shown
                .map(|(ending, count)| match ending.as_str() {
                    "" => format!("{} without one", thousands(*count)),
                    _ => format!("{} .{ending}", thousands(*count)),
                })
                .collect();
            if endings.len() > SHOWN {
                shown.push("…".into());
            }
            notes.push(format!("left out for their ending: {}", shown.join(", ")));
        }
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
