//! What lies where in one tar archive: its headers read once, from the first to the last.
//!
//! What is unpacked is what counts: links are followed to the member that they name, and of several members of one
//! name the last one counts, at the place of the first.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::is_image;
pub(super) use super::members::BLOCK;
use super::members::{Kind, Member, Members, ReadAt, follow, inside};
use super::skipped::Endings;
use super::webdataset;
use crate::error::DataError;

/// The label of an image that has none.
pub(super) const NONE: u32 = u32::MAX;

/// The first member of an archive that was packed by this crate, a [`Marker`] in JSON.
pub(crate) const MARKER: &str = ".swav-shard";

/// What the members of an archive mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Layout {
    /// The first folder of an image names its class.
    #[default]
    Folders,
    /// WebDataset: members with one key are one sample.
    Keys,
}

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
    /// Index into `folders`, or the class itself when it is a number; [`NONE`] without.
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
    start: u32,
    offset: u32,
    size: u64,
    kind: Kind,
    linked: bool,
    pub(super) role: Role,
}

/// The files and links of an archive, in its order.
pub(super) struct Catalogue<'a, R> {
    read: R,
    /// The archive, for errors.
    archive: &'a str,
    pub(super) entries: Vec<Entry>,
    /// Names one behind another, and where each ends.
    arena: Vec<u8>,
    ends: Vec<usize>,
    /// The number of each link, and where it leads.
    links: Vec<(u32, Box<Path>)>,
    /// Labels that have the same name: the first, and a later one.
    pub(super) twice: Vec<(u32, u32)>,
    pub(super) remarks: Remarks,
}

impl<R: ReadAt> Catalogue<'_, R> {
    fn push(&mut self, member: Member, clean: &Path, role: Role) {
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
    pub(super) fn with(&self, role: Role) -> impl Iterator<Item = u32> {
        (0..)
            .zip(&self.entries)
            .filter_map(move |(index, entry)| (entry.role == role).then_some(index))
    }

    /// The bytes of a file of at most `most`.
    pub(super) fn bytes(&self, index: u32, most: u64) -> Result<Vec<u8>, String> {
        let Entry { offset, size, .. } = self.entries[index as usize];
        if size > most {
            return Err(format!(
                "{size} bytes are more than the {most} that are read"
            ));
        }
        let mut bytes = vec![0; size as usize];
        (self.read)(&mut bytes, u64::from(offset) * BLOCK).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// All entries by name; of one name, by place.
    fn by_name(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.entries.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| walked(self.name(a), self.name(b)).then(a.cmp(&b)));
        order
    }

    /// Gives links the bytes of the file that they lead to, if the archive has it.
    fn follow_links(&mut self, order: &[u32]) {
        let ends: Vec<Option<u32>> = (self.links.iter())
            .map(|&(link, _)| self.end_of(link, order))
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
    fn end_of(&self, mut entry: u32, order: &[u32]) -> Option<u32> {
        // As many as Linux follows.
        for _ in 0..=40 {
            let kind = self.entries[entry as usize].kind;
            if !matches!(kind, Kind::HardLink | Kind::SymbolicLink) {
                return Some(entry);
            }
            let target = self.target(entry)?;
            let path = match kind {
                Kind::HardLink => inside(target),
                _ => follow(
                    Path::new(&super::names::os(self.name(entry).into())),
                    target,
                ),
            }?;
            let compare = |other: u32| walked(self.name(other), bytes(&path));
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
    fn join(&mut self, order: &[u32]) {
        let mut first = 0;
        for (at, &index) in order.iter().enumerate() {
            let before = order[first];
            if at == first || walked(self.name(before), self.name(index)).is_ne() {
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
                Role::Label => self.twice.push((before, index)),
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

/// Reads the headers of an archive of `length` bytes, called `name` in errors, and lists its images
/// below `prefix`: as they lie there in a packed archive and with keys, else sorted by name, a
/// folder's entries together.
///
/// When no layout is asked for, the archive decides: keys when an image has a label of its own key, in whatever place.
pub(super) fn list(
    read: impl ReadAt,
    length: u64,
    asked: Option<Layout>,
    prefix: &Path,
    name: &str,
) -> Result<Table, DataError> {
    let failed = |reason: String| failed(name, reason);
    if length < BLOCK {
        return Err(failed(format!(
            "cut short: {length} bytes are less than one tar header"
        )));
    }
    if length / BLOCK > u64::from(u32::MAX) {
        return Err(failed("larger than 2 TiB: pack it into shards".into()));
    }
    let mut all = Catalogue {
        read: &read,
        archive: name,
        entries: vec![],
        arena: vec![],
        ends: vec![],
        links: vec![],
        twice: vec![],
        remarks: Remarks::default(),
    };
    let mut marker = None;
    for member in Members::new(&read, 0, length) {
        let member = member.map_err(failed)?;
        let Some(clean) = inside(&member.path) else {
            let reason = format!("member {} leaves the archive", member.path.display());
            return Err(failed(reason));
        };
        if member.kind == Kind::Other {
            continue;
        }
        let hidden = clean
            .iter()
            .any(|part| part.as_encoded_bytes().starts_with(b"."));
        let role = match clean.starts_with(prefix) {
            true if hidden => Role::Other,
            true if is_image(&clean) => Role::Image,
            true if webdataset::is_label(&clean) && marker.is_none() => Role::Label,
            _ => Role::Other,
        };
        let belongs = !hidden && clean.starts_with(prefix);
        if role == Role::Other && belongs && member.kind == Kind::File {
            all.remarks.endings.count(&clean);
        }
        let first = member.start == 0 && member.kind == Kind::File && clean == Path::new(MARKER);
        all.push(member, &clean, role);
        if first && asked != Some(Layout::Keys) {
            marker = Some(read_marker(&all).map_err(failed)?);
        }
    }
    let order = all.by_name();
    all.follow_links(&order);
    all.with(Role::Image)
        .try_for_each(|image| all.check(image))?;
    all.join(&order);
    let labelled = webdataset::is_labelled(&all);
    let mut table = match asked {
        Some(Layout::Keys) => webdataset::table(&all)?,
        None if labelled => webdataset::table(&all)?,
        _ => by_folders(&all, &order, prefix, marker, labelled),
    };
    let found = std::mem::take(&mut table.remarks);
    table.remarks = Remarks {
        replaced: all.remarks.replaced,
        links: all.remarks.links,
        endings: all.remarks.endings,
        ..found
    };
    table.labelled = labelled;
    Ok(table)
}

/// The table of images in folders: in the order of their names, or of the archive when it has a marker.
fn by_folders<R: ReadAt>(
    all: &Catalogue<R>,
    order: &[u32],
    prefix: &Path,
    marker: Option<Marker>,
    labelled: bool,
) -> Table {
    let is_image = |&index: &u32| all.entries[index as usize].role == Role::Image;
    let images: Vec<u32> = match marker {
        Some(_) => all.with(Role::Image).collect(),
        None => order.iter().copied().filter(is_image).collect(),
    };
    // Every image lies below the prefix.
    let prefix: PathBuf = prefix.components().collect();
    let skipped = match bytes(&prefix).len() {
        0 => 0,
        length => length + 1,
    };
    let folder_of = |index: u32| first_folder(all.name(index).get(skipped..)?);
    let folders: BTreeSet<&[u8]> = images
        .iter()
        .filter_map(|&index| folder_of(index))
        .collect();
    let folders: Vec<Vec<u8>> = folders.into_iter().map(<[u8]>::to_vec).collect();
    let mut table = Table::default();
    for index in images {
        let found = folder_of(index)
            .map(|name| folders.binary_search_by(|folder| folder.as_slice().cmp(name)));
        let label = match found {
            Some(Ok(number)) => number as u32,
            _ => NONE,
        };
        table.push(&all.entries[index as usize], label);
    }
    if !labelled {
        let labels = all.with(Role::Label);
        let labels = labels.filter(|&label| webdataset::is_cls(all.name(label)));
        labels.for_each(|label| table.remarks.orphans.add(|| all.place(label)));
    }
    table.folders = folders;
    table.marker = marker;
    table
}

/// Compares names as a walk through folders meets them, where `a/1` comes before `a-b/1`: by their
/// bytes, with a separator before all others.
fn walked(one: &[u8], other: &[u8]) -> Ordering {
    let key = |&byte: &u8| match byte {
        b'/' => 0,
        byte if char::from(byte) == std::path::MAIN_SEPARATOR => 0,
        byte => byte,
    };
    one.iter().map(key).cmp(other.iter().map(key))
}

/// Reads the marker, which is the first entry.
fn read_marker<R: ReadAt>(all: &Catalogue<R>) -> Result<Marker, String> {
    /// A million classes with long names.
    const MOST: u64 = 1 << 26;
    let wrong = |what: String| format!("member {MARKER}: {what}");
    let text = all.bytes(0, MOST).map_err(wrong)?;
    let marker: Marker = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if marker.version != Marker::VERSION {
        return Err(wrong(format!(
            "version {}, this program knows {}; pack the images anew",
            marker.version,
            Marker::VERSION
        )));
    }
    if marker.folders().len() != marker.classes.len() {
        return Err(wrong("not as many folders as classes".into()));
    }
    Ok(marker)
}

fn failed(archive: &str, reason: String) -> DataError {
    DataError::Archive {
        file: archive.into(),
        reason,
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

/// The first folder of a member, when it lies in one.
fn first_folder(name: &[u8]) -> Option<&[u8]> {
    let separator = |&byte: &u8| byte == b'/' || char::from(byte) == std::path::MAIN_SEPARATOR;
    name.iter().position(separator).map(|end| &name[..end])
}
