//! The files and links of a tar archive, while it is listed.
//!
//! What is unpacked is what counts: links are followed to the member that they name, and of several members of one
//! name the last one counts, at the place of the first.

use std::cmp::Ordering;
use std::path::Path;

use super::members::{BLOCK, Kind, Member, ReadAt, link_target, path_inside};
use super::names::os_string;
use super::remarks::Remarks;
use crate::error::DataError;

/// What a member is to a set of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Image,
    /// By its name, what may hold the label of an image.
    Label,
    /// Nothing by itself; a link may lead there.
    Other,
}

/// A file or a link of an archive, while the archive is listed.
pub(super) struct Entry {
    /// In blocks.
    pub(super) start: u32,
    pub(super) offset: u32,
    pub(super) size: u64,
    kind: Kind,
    pub(super) linked: bool,
    pub(super) role: Role,
}

/// The files and links of an archive, in its order.
pub(super) struct Catalogue<'a, R> {
    read_at: R,
    /// The archive, for errors.
    archive: &'a str,
    pub(super) entries: Vec<Entry>,
    /// Names one behind another, and where each ends.
    arena: Vec<u8>,
    ends: Vec<usize>,
    /// The number of each link, and where it leads.
    links: Vec<(u32, Box<Path>)>,
    /// Labels that have the same name: the first, and a later one.
    pub(super) duplicate_labels: Vec<(u32, u32)>,
    pub(super) remarks: Remarks,
}

impl<'a, R: ReadAt> Catalogue<'a, R> {
    /// Of the archive that `read_at` reads, called `archive` in errors, before its first member.
    pub(super) fn new(read_at: R, archive: &'a str) -> Self {
        Self {
            read_at,
            archive,
            entries: vec![],
            arena: vec![],
            ends: vec![],
            links: vec![],
            duplicate_labels: vec![],
            remarks: Remarks::default(),
        }
    }

    /// Appends a member of the name `clean`.
    pub(super) fn push(&mut self, member: Member, clean: &Path, role: Role) {
        if matches!(member.kind, Kind::HardLink | Kind::SymbolicLink) {
            let number = self.entries.len() as u32;
            self.links.push((number, member.target.into_boxed_path()));
        }
        // An archive has at most 2³² blocks.
        self.entries.push(Entry {
            start: (member.start / BLOCK) as u32,
            offset: (member.offset / BLOCK) as u32,
            size: member.size,
            kind: member.kind,
            linked: false,
            role,
        });
        self.arena.extend_from_slice(bytes(clean));
        self.ends.push(self.arena.len());
    }

    /// The name of an entry.
    pub(super) fn name(&self, index: u32) -> &[u8] {
        let index = index as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.arena[start..self.ends[index]]
    }

    /// The name of an entry and where it lies, for people.
    pub(super) fn place(&self, index: u32) -> String {
        let name = String::from_utf8_lossy(self.name(index));
        let start = u64::from(self.entries[index as usize].start) * BLOCK;
        format!("{name} (at byte {start})")
    }

    pub(super) fn failed(&self, reason: String) -> DataError {
        failed(self.archive, reason)
    }

    /// The entries with a role, in the order of the archive.
    pub(super) fn of_role(&self, role: Role) -> impl Iterator<Item = u32> {
        (0..)
            .zip(&self.entries)
            .filter_map(move |(index, entry)| (entry.role == role).then_some(index))
    }

    /// The bytes of a file of at most `most`.
    pub(super) fn read(&self, index: u32, most: u64) -> Result<Vec<u8>, String> {
        let Entry { offset, size, .. } = self.entries[index as usize];
        if size > most {
            return Err(format!(
                "{size} bytes are more than the {most} that are read"
            ));
        }
        let mut bytes = vec![0; size as usize];
        (self.read_at)(&mut bytes, u64::from(offset) * BLOCK).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// All entries by name; of one name, by place.
    pub(super) fn by_name(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.entries.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| walk_order(self.name(a), self.name(b)).then(a.cmp(&b)));
        order
    }

    /// Gives links the bytes of the file that they lead to, if the archive has it.
    pub(super) fn follow_links(&mut self, order: &[u32]) {
        let ends: Vec<Option<u32>> = (self.links.iter())
            .map(|&(link, _)| self.resolve_link(link, order))
            .collect();
        for (&(link, ref target), end) in self.links.iter().zip(ends) {
            let Some(end) = end else {
                if self.entries[link as usize].role != Role::Image {
                    let target = target.display();
                    let case = format!("{} to {target}", self.place(link));
                    self.remarks.links.add(|| case);
                }
                continue;
            };
            let Entry {
                offset, size, kind, ..
            } = self.entries[end as usize];
            let entry = &mut self.entries[link as usize];
            (entry.offset, entry.size, entry.kind, entry.linked) = (offset, size, kind, true);
        }
    }

    /// Where a link leads, as it stands in the archive.
    fn target(&self, link: u32) -> Option<&Path> {
        let found = self
            .links
            .binary_search_by_key(&link, |&(number, _)| number)
            .ok()?;
        Some(&self.links[found].1)
    }

    /// The file at the end of a chain of links.
    fn resolve_link(&self, mut entry: u32, order: &[u32]) -> Option<u32> {
        // As many as Linux follows.
        for _ in 0..=40 {
            let kind = self.entries[entry as usize].kind;
            if !matches!(kind, Kind::HardLink | Kind::SymbolicLink) {
                return Some(entry);
            }
            let target = self.target(entry)?;
            let path = match kind {
                Kind::HardLink => path_inside(target),
                _ => link_target(Path::new(&os_string(self.name(entry).into())), target),
            }?;
            let compare = |other: u32| walk_order(self.name(other), bytes(&path));
            let first = order.partition_point(|&other| compare(other).is_lt());
            let end = order.partition_point(|&other| compare(other).is_le());
            let same = &order[first..end];
            // A hard link was made when what follows it was not there yet.
            let known = match kind {
                Kind::HardLink => same.partition_point(|&other| other < entry),
                _ => same.len(),
            };
            entry = *same[..known].last().or(same.last())?;
        }
        None
    }

    /// Leaves one member of each name.
    pub(super) fn keep_last_of_each_name(&mut self, order: &[u32]) {
        let mut first = 0;
        for (at, &index) in order.iter().enumerate() {
            let before = order[first];
            if at == first || walk_order(self.name(before), self.name(index)).is_ne() {
                first = at;
                continue;
            }
            match self.entries[index as usize].role {
                Role::Image => {
                    if self.entries[before as usize].offset != self.entries[index as usize].offset {
                        let case =
                            format!("{}, replaced by {}", self.place(before), self.place(index));
                        self.remarks.replaced.add(|| case);
                    }
                    self.entries.swap(before as usize, index as usize);
                }
                Role::Label => self.duplicate_labels.push((before, index)),
                Role::Other => {}
            }
            self.entries[index as usize].role = Role::Other;
        }
    }

    /// Refuses an image or a label that cannot be read in place.
    pub(super) fn check(&self, index: u32) -> Result<(), DataError> {
        let entry = &self.entries[index as usize];
        let reason = match entry.kind {
            Kind::File if u32::try_from(entry.size).is_ok() => return Ok(()),
            Kind::File => "is larger than 4 GiB".into(),
            Kind::Sparse => {
                "is sparse, so its bytes do not lie in one piece: make the archive without --sparse (-S)".into()
            }
            Kind::Continued => "begins in another volume: join the volumes to one archive".into(),
            _ => format!(
                "is a link to {}, which is no file of the archive: make the archive with --dereference (-h)",
                self.target(index).unwrap_or(Path::new("")).display()
            ),
        };
        Err(self.failed(format!("member {} {reason}", self.place(index))))
    }
}

/// Compares names as a walk through folders meets them, where `a/1` comes before `a-b/1`: by their
/// bytes, with a separator before all others.
fn walk_order(one: &[u8], other: &[u8]) -> Ordering {
    let key = |&byte: &u8| match byte {
        b'/' => 0,
        byte if char::from(byte) == std::path::MAIN_SEPARATOR => 0,
        byte => byte,
    };
    one.iter().map(key).cmp(other.iter().map(key))
}

pub(super) fn failed(archive: &str, reason: String) -> DataError {
    DataError::Archive {
        file: archive.into(),
        reason,
    }
}

pub(super) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}
