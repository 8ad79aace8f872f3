//! Tar archives, read in place: an index of offsets when opened, one positioned read a sample.
//!
//! Many small files are slow to list and to copy; a tar shard is one large file. Nothing is
//! unpacked: opening reads the headers alone, or the index that was kept beside the archive, and a
//! sample is read where it lies, so threads do not wait for one another.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tar::{EntryType, Header};

use super::classes::{NO_LABEL, sort_by_name};
use super::compression::{compressed, is_compressed};
use super::describe::{count, extension_list, inventory};
use super::files::Files;
use super::filesystem::{has_extension, read_at};
use super::marker::Marker;
use super::members::{BLOCK, Members, ReadAt, has_valid_checksum, path_inside};
use super::remarks::Remarks;
use super::shard::list;
use super::table::{Layout, Table};
use super::traits::Source;
use super::{index, split};
use crate::error::DataError;
use crate::sample::Sample;
use crate::threads::lock;

/// Tar shards, or a tar that is part of the program.
///
/// * The first folder of a member is its class; with fewer than two such folders, or when some
///   images lie outside of any folder, there are no labels. Several shards share one list of classes.
/// * Members are sorted as a walk through unpacked folders would meet them, shard after shard.
///   Shards made by [`pack`](crate::pack()) say themselves in which order they are and how their
///   classes are called.
/// * `./` in front of a name is tolerated. A name that leaves the archive (`..`, absolute) is an
///   error, whether or not it is an image: such an archive is not to be trusted.
/// * Hidden members and members that are no images are left out.
/// * Hard and symbolic links are followed within the archive. An image that is a link to somewhere else is an error.
/// * Of several members of one name the last one counts, as when the archive is unpacked; a [note](Source::notes) says so.
/// * An archive must end with its end-of-archive block. Without it a copy that stopped between two
///   members would look whole. Archives that were joined with `cat` are read to the last one.
/// * Sparse members, and members that continue from another volume, are refused when they are images.
///
/// # Memory
/// 13 bytes a sample: offset, size, label; 16 more for a link. Names are read from the archive when they are asked for.
///
/// # Index
/// The list of an archive of 1 MiB or more is written beside it (`NAME.tar.index`) and read from
/// there the next time, unless the archive has changed since. Where it cannot be written, a
/// [note](Source::notes) says so. A sample is read together with its header, so an archive that is
/// written over while it is in use is noticed too, unless its members lie where the old ones lay.
#[derive(Debug)]
pub struct TarSource {
    data: Storage,
    /// The first sample of each shard.
    starts: Vec<usize>,
    /// As in [`Table`].
    offsets: Vec<u32>,
    sizes: Vec<u32>,
    gaps: Vec<u8>,
    /// As in [`Table`], for all shards: the number of the image, and where its headers begin.
    named: Vec<(usize, u32)>,
    /// Empty without labels.
    labels: Vec<u32>,
    classes: Vec<String>,
    place: String,
    notes: Vec<String>,
}

/// Where the bytes of the shards are.
#[derive(Debug)]
enum Storage {
    Files(Files),
    Static {
        name: String,
        bytes: &'static [u8],
        prefix: PathBuf,
    },
}

/// Whether the name ends with `.tar`.
pub(super) fn is_tar(path: &Path) -> bool {
    has_extension(path, &["tar"])
}

impl TarSource {
    /// Opens one `.tar` file, or all `.tar` files of a folder in the order of their names.
    ///
    /// # Errors
    /// [`DataError::Archive`] naming archive and member when it is cut short, damaged, compressed or
    /// has a member that leaves it; [`DataError::Empty`] without images; [`DataError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        Self::with_layout(path.as_ref(), Some(Layout::Folders))
    }

    /// Opens archives as [`open`](Self::open) does, but with WebDataset's keys: the label of an image
    /// is what stands in the `cls`, or as `"label"` in the `json`, of its own stem: the path without the last extension.
    /// Without one, the label of the longest stem counts that the image's goes on from at a dot (`1.cls` for
    /// `1.left.png`), else the only label of its key (the path up to the first dot).
    ///
    /// Samples stay in the order of the archives. Labels are the numbers of classes, or their names; then the classes are
    /// the sorted names. Where all labels are -1, as in published test sets, there are none. An image whose stem goes on
    /// from another image's and that has no label of its own (`1.seg.png` beside `1.jpg`) is left out, and a
    /// [note](Source::notes) says so.
    ///
    /// # Errors
    /// As [`open`](Self::open); also when a label cannot be read, one image has two, some images have one and others
    /// not, some are numbers and others names, or the members of a key do not lie next to one another.
    pub fn webdataset(path: impl AsRef<Path>) -> Result<Self, DataError> {
        Self::with_layout(path.as_ref(), Some(Layout::Keys))
    }

    /// Opens archives as [`webdataset`](Self::webdataset) does when an image in any of them has a label of its own key,
    /// else as [`open`](Self::open) does.
    pub(super) fn detect(path: &Path) -> Result<Self, DataError> {
        Self::with_layout(path, None)
    }

    /// Reads a tar that is part of the program, as `include_bytes!` gives it. `prefix` picks the
    /// members below a folder, such as `"train/"`; the class is the first folder after it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_static(name: &str, bytes: &'static [u8], prefix: &str) -> Result<Self, DataError> {
        let prefix = PathBuf::from(prefix);
        let length = bytes.len() as u64;
        let table = list(
            read_static(bytes),
            length,
            Some(Layout::Folders),
            &prefix,
            name,
        )?;
        let data = Storage::Static {
            name: name.into(),
            bytes,
            prefix,
        };
        let mut set = JoinedShards::default();
        set.append(table, name);
        set.finish(data, Layout::Folders, name.to_string(), Path::new(name))
    }

    fn with_layout(path: &Path, asked: Option<Layout>) -> Result<Self, DataError> {
        let files = Files::at(path, |name| match is_compressed(name) {
            true => Err(compressed(&path.join(name))),
            false => Ok(is_tar(name)),
        })?;
        let mut set = JoinedShards::default();
        let mut layout = asked;
        let shards = files.len();
        // Some at a time: what is listed waits no longer than for its neighbours.
        const SHARDS_AT_ONCE: usize = 64;
        for first in (0..shards).step_by(SHARDS_AT_ONCE) {
            let last = shards.min(first + SHARDS_AT_ONCE);
            for (shard, listed) in (first..last).zip(list_shards(&files, first..last, asked)) {
                let (table, notes) = listed?;
                if table.len() > 0 && *layout.get_or_insert(table.layout) != table.layout {
                    // Labels in one archive decide for all.
                    drop(set);
                    return Self::with_layout(path, Some(Layout::Keys));
                }
                set.append(table, &files.path(shard).to_string_lossy());
                set.notes.extend(notes);
            }
        }
        let layout = layout.unwrap_or_default();
        let place = format!("{} {}", layout_name(layout), path.display());
        let source = set.finish(Storage::Files(files), layout, place, path)?;
        if asked.is_none() && layout == Layout::Folders {
            split::check_members(path, &source.classes)?;
        }
        Ok(source)
    }

    /// The shard of a sample.
    fn shard(&self, index: usize) -> usize {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        self.starts.partition_point(|&first| first <= index) - 1
    }

    /// The name of a shard.
    fn shard_name(&self, shard: usize) -> String {
        match &self.data {
            Storage::Files(files) => files.path(shard).to_string_lossy().into_owned(),
            Storage::Static { name, .. } => name.clone(),
        }
    }

    /// Reads the name of a member from its headers.
    fn member(&self, index: usize) -> Option<PathBuf> {
        fn at(read: impl ReadAt, block: u32, length: u64) -> Option<PathBuf> {
            let member = Members::new(read, u64::from(block) * BLOCK, length).next()?;
            path_inside(&member.ok()?.path)
        }
        let block = match u32::from(self.gaps[index]) {
            0 => {
                let place = self.named.binary_search_by_key(&index, |&(image, _)| image);
                self.named[place.ok()?].1
            }
            gap => self.offsets[index] - gap,
        };
        match &self.data {
            Storage::Files(files) => {
                let file = files.file(self.shard(index)).ok()?;
                let length = file.metadata().ok()?.len();
                at(
                    |buffer: &mut [u8], at| read_at(&file, buffer, at),
                    block,
                    length,
                )
            }
            Storage::Static { bytes, prefix, .. } => {
                let path = at(read_static(bytes), block, bytes.len() as u64)?;
                path.strip_prefix(prefix).map(Path::to_path_buf).ok()
            }
        }
    }
}

/// Reads from bytes in memory.
fn read_static(bytes: &'static [u8]) -> impl ReadAt {
    move |buffer: &mut [u8], at: u64| {
        let start = usize::try_from(at).ok();
        let found = start.and_then(|start| bytes.get(start..)?.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or(io::Error::from(ErrorKind::UnexpectedEof))?);
        Ok(())
    }
}

impl Source for TarSource {
    fn len(&self) -> usize {
        self.offsets.len()
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        let shard = self.shard(index);
        let offset = u64::from(self.offsets[index]) * BLOCK;
        let size = self.sizes[index];
        match &self.data {
            Storage::Static { bytes, .. } => {
                let start = offset as usize;
                Ok(Sample::Encoded(
                    bytes[start..start + size as usize].to_vec(),
                ))
            }
            Storage::Files(files) => {
                let file = files.file(shard)?;
                let path = || files.path(shard);
                let failed = |error: std::io::Error| match error.kind() {
                    ErrorKind::UnexpectedEof => changed(&path()),
                    _ => DataError::io(&path(), error),
                };
                let mut header = Header::new_old();
                read_at(&file, header.as_mut_bytes(), offset - BLOCK).map_err(failed)?;
                if !is_header_of(&header, size, self.gaps[index]) {
                    return Err(changed(&path()));
                }
                let mut buffer = vec![0; size as usize];
                read_at(&file, &mut buffer, offset).map_err(failed)?;
                Ok(Sample::Encoded(buffer))
            }
        }
    }

    fn name(&self, index: usize) -> String {
        let shard = self.shard(index);
        let archive = self.shard_name(shard);
        match self.member(index) {
            Some(path) => format!("{archive}:{}", path.display()),
            // The archive has gone or changed; whoever reads the sample says so.
            None => format!("{archive}:#{}", index - self.starts[shard]),
        }
    }

    fn relative_path(&self, index: usize) -> Option<PathBuf> {
        self.member(index)
    }

    fn key(&self, index: usize) -> Vec<u8> {
        let shard = self.shard(index) as u64;
        let place = [
            shard.to_le_bytes(),
            u64::from(self.offsets[index]).to_le_bytes(),
        ];
        place.concat()
    }

    fn bytes(&self, index: usize) -> Option<u64> {
        self.sizes.get(index).map(|&size| size.into())
    }

    fn label(&self, index: usize) -> Option<u32> {
        assert!(index < self.len(), "sample {index} of {}", self.len());
        self.labels.get(index).copied()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn describe(&self) -> String {
        let mut text = format!("{}, {}", count(self.len(), self.classes.len()), self.place);
        if self.starts.len() > 1 {
            text += &format!(" ({} shards)", self.starts.len());
        }
        text
    }
}

/// Lists a stretch of shards on several threads; results in their order.
fn list_shards(
    files: &Files,
    shards: std::ops::Range<usize>,
    asked: Option<Layout>,
) -> Vec<Result<(Table, Vec<String>), DataError>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(shards.start);
    let done = Mutex::new(Vec::with_capacity(shards.len()));
    let work = || {
        loop {
            let shard = next.fetch_add(1, Ordering::Relaxed);
            if shard >= shards.end {
                break;
            }
            let mut notes = Vec::new();
            let listed = index::read_or_list(&files.path(shard), asked, &mut notes);
            lock(&done).push((shard, listed.map(|table| (table, notes))));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(shards.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut done = std::mem::take(&mut *lock(&done));
    done.sort_by_key(|(shard, _)| *shard);
    done.into_iter().map(|(_, listed)| listed).collect()
}

/// Shards while they are joined to one set.
#[derive(Default)]
struct JoinedShards {
    starts: Vec<usize>,
    all: Table,
    named: Vec<(usize, u32)>,
    /// The number of each folder, or name of a class, in the order of appearance.
    folders: HashMap<Vec<u8>, u32>,
    /// An archive with keys whose labels are numbers, and one whose labels are names.
    numbers: Option<String>,
    names: Option<String>,
    remarks: Remarks,
    /// What all shards so far say of themselves, if they agree.
    marker: Option<Marker>,
    notes: Vec<String>,
}

impl JoinedShards {
    fn append(&mut self, table: Table, archive: &str) {
        match self.starts.is_empty() {
            true => self.marker = table.marker,
            false if self.marker != table.marker => self.marker = None,
            false => {}
        }
        let start = self.all.len();
        self.starts.push(start);
        let named = table.named.into_iter();
        self.named
            .extend(named.map(|(image, block)| (start + image as usize, block)));
        self.remarks.merge(table.remarks, archive);
        if table.labels.iter().any(|&label| label != NO_LABEL) {
            let kind = if table.folders.is_empty() {
                &mut self.numbers
            } else {
                &mut self.names
            };
            kind.get_or_insert_with(|| archive.into());
        }
        self.all.offsets.extend(table.offsets);
        self.all.sizes.extend(table.sizes);
        self.all.gaps.extend(table.gaps);
        let numbers: Vec<u32> = (table.folders.into_iter())
            .map(|folder| {
                let next = self.folders.len() as u32;
                *self.folders.entry(folder).or_insert(next)
            })
            .collect();
        // Where classes have numbers, a label is one already, and there are no names.
        let number = |label: u32| numbers.get(label as usize).copied().unwrap_or(label);
        self.all.labels.extend(table.labels.into_iter().map(number));
    }

    fn finish(
        self,
        data: Storage,
        layout: Layout,
        place: String,
        path: &Path,
    ) -> Result<TarSource, DataError> {
        let Self {
            starts,
            mut all,
            named,
            folders,
            numbers,
            names,
            remarks,
            marker,
            mut notes,
        } = self;
        notes.extend(remarks.notes());
        if all.len() == 0 {
            let (looked_for, found) = match starts.len() {
                0 => (".tar".into(), inventory(path)),
                1 => (extension_list(), "other members only".into()),
                n => (
                    extension_list(),
                    format!("other members only in {n} archives"),
                ),
            };
            return Err(DataError::Empty {
                path: path.into(),
                looked_for,
                found,
            });
        }
        let whole = all.labels.iter().all(|&label| label != NO_LABEL);
        if layout == Layout::Keys && !whole && all.labels.iter().any(|&label| label != NO_LABEL) {
            return Err(DataError::Archive {
                file: path.to_string_lossy().into_owned(),
                reason: "some keys have a label (.cls or .json) and others have none, in one archive or in \
                         several: give all of them one, or none"
                    .into(),
            });
        }
        if let (Layout::Keys, Some(numbers), Some(names)) = (layout, numbers, names) {
            return Err(DataError::Archive {
                file: path.to_string_lossy().into_owned(),
                reason: format!(
                    "the labels in {numbers} are numbers and those in {names} names: give all as numbers, or all as names"
                ),
            });
        }
        let classes = match (layout, marker) {
            (Layout::Keys, _) if whole && !folders.is_empty() => {
                sort_by_name(folders, &mut all.labels)
            }
            (Layout::Keys, _) if whole => {
                let most = all.labels.iter().max().copied().unwrap_or_default();
                (0..=most).map(|number| number.to_string()).collect()
            }
            (Layout::Folders, Some(marker)) if !marker.classes.is_empty() => {
                relabel_by_marker(&mut all.labels, &folders, &marker).map_err(|reason| {
                    DataError::Archive {
                        file: path.to_string_lossy().into_owned(),
                        reason,
                    }
                })?;
                marker.classes
            }
            (Layout::Folders, None) if whole && folders.len() > 1 => {
                sort_by_name(folders, &mut all.labels)
            }
            _ => vec![],
        };
        if classes.is_empty() {
            all.labels = vec![];
        }
        all.offsets.shrink_to_fit();
        all.sizes.shrink_to_fit();
        all.gaps.shrink_to_fit();
        all.labels.shrink_to_fit();
        Ok(TarSource {
            data,
            starts,
            offsets: all.offsets,
            sizes: all.sizes,
            gaps: all.gaps,
            named,
            labels: all.labels,
            classes,
            place,
            notes,
        })
    }
}

/// From numbers in the order of appearance to the numbers of the classes in a packed set.
fn relabel_by_marker(
    labels: &mut [u32],
    folders: &HashMap<Vec<u8>, u32>,
    marker: &Marker,
) -> Result<(), String> {
    let known: HashMap<&[u8], u32> = (marker.folders().iter().map(String::as_bytes))
        .zip(0..)
        .collect();
    let mut numbers = vec![NO_LABEL; folders.len()];
    for (folder, &number) in folders {
        numbers[number as usize] = *known.get(folder.as_slice()).ok_or_else(|| {
            let folder = String::from_utf8_lossy(folder);
            format!("folder {folder} is not among the classes that the packed set names")
        })?;
    }
    for label in labels {
        *label = *numbers
            .get(*label as usize)
            .ok_or("an image lies in no folder, while the packed set has classes")?;
    }
    Ok(())
}

/// Whether `header` announces a file of `size` bytes. With other headers in front, which there may be unless the gap is
/// one block, the size may stand there instead.
fn is_header_of(header: &Header, size: u32, gap: u8) -> bool {
    has_valid_checksum(header)
        && matches!(
            header.entry_type(),
            EntryType::Regular | EntryType::Continuous
        )
        && (gap != 1
            || header
                .entry_size()
                .is_ok_and(|told| told == u64::from(size)))
}

fn changed(path: &Path) -> DataError {
    DataError::Archive {
        file: path.to_string_lossy().into_owned(),
        reason: "has changed since it was opened; start again, and remove the .index beside it if \
                 that does not help"
            .into(),
    }
}

fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::Folders => "tar",
        Layout::Keys => "WebDataset",
    }
}
