//! Tar archives, read in place: an index of offsets when opened, one positioned read a sample.
//!
//! Many small files are slow to list and to copy; a tar shard is one large file. Nothing is
//! unpacked: opening reads the headers alone, and a sample is one `pread`, so threads do not wait
//! for one another.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, EntryType};

use super::{Sample, Source, count, entries, extension_list, inventory, is_image, read_at};
use crate::error::DataError;

/// Tar shards, or a tar that is part of the program.
///
/// * The first folder of a member is its class; with fewer than two such folders, or when some
///   images lie outside of any folder, there are no labels. Several shards share one list of classes.
/// * `./` in front of a name is tolerated. A name that leaves the archive (`..`, absolute) is an
///   error, whether or not it is an image: such an archive is not to be trusted.
/// * Hidden members and members that are no images are left out.
/// * An archive must end with its end-of-archive block. Without it a copy that stopped between two
///   members would look whole.
#[derive(Debug)]
pub struct TarSource {
    shards: Vec<Shard>,
    members: Vec<Member>,
    classes: Vec<String>,
    labelled: bool,
    place: String,
}

#[derive(Debug)]
struct Shard {
    name: String,
    data: Data,
}

/// Where the bytes of a shard are.
#[derive(Debug)]
enum Data {
    File(PathBuf, File),
    Static(&'static [u8]),
}

#[derive(Debug)]
struct Member {
    shard: u32,
    label: u32,
    offset: u64,
    size: u64,
    /// As in the archive, without `./` and without the prefix.
    path: PathBuf,
}

const BLOCK: u64 = 512;

/// Whether the name ends with `.tar`.
pub(super) fn is_tar(path: &Path) -> bool {
    path.extension()
        .is_some_and(|found| found.eq_ignore_ascii_case("tar"))
}

/// Whether the name says that this is a compressed tar.
pub(super) fn is_compressed(path: &Path) -> bool {
    let name = path.to_string_lossy().to_ascii_lowercase();
    ["tgz", "tbz2", "txz", "tzst"]
        .iter()
        .any(|end| name.ends_with(&format!(".{end}")))
        || ["gz", "bz2", "xz", "zst"]
            .iter()
            .any(|end| name.ends_with(&format!(".tar.{end}")))
}

impl TarSource {
    /// Opens one `.tar` file, or all `.tar` files of a folder in the order of their names.
    ///
    /// # Errors
    /// [`DataError::Archive`] naming archive and member when it is cut short, damaged, compressed or
    /// has a member that leaves it; [`DataError::Empty`] without images; [`DataError::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let files = if path.is_dir() {
            let all = entries(path)?;
            if let Some(packed) = all.iter().find(|entry| is_compressed(entry)) {
                return Err(compressed(packed));
            }
            all.into_iter().filter(|entry| is_tar(entry)).collect()
        } else {
            vec![path.to_path_buf()]
        };
        let mut shards = Vec::with_capacity(files.len());
        for file in files {
            let handle = File::open(&file).map_err(|error| DataError::io(&file, error))?;
            let name = file.to_string_lossy().into_owned();
            shards.push(Shard {
                name,
                data: Data::File(file, handle),
            });
        }
        let place = format!("tar {}", path.display());
        Self::index(shards, Path::new(""), place)?.checked(path)
    }

    /// Reads a tar that is part of the program, as `include_bytes!` gives it. `prefix` picks the
    /// members below a folder, such as `"train/"`; the class is the first folder after it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_static(name: &str, bytes: &'static [u8], prefix: &str) -> Result<Self, DataError> {
        let shard = Shard {
            name: name.into(),
            data: Data::Static(bytes),
        };
        Self::index(vec![shard], Path::new(prefix), name.to_string())?.checked(Path::new(name))
    }

    fn index(shards: Vec<Shard>, prefix: &Path, place: String) -> Result<Self, DataError> {
        let mut members = Vec::new();
        for (number, shard) in shards.iter().enumerate() {
            let before = members.len();
            match &shard.data {
                Data::File(path, file) => {
                    if is_compressed(path) || starts_compressed(file) {
                        return Err(compressed(path));
                    }
                    let length = file.metadata().map_err(|e| DataError::io(path, e))?.len();
                    list(
                        file,
                        length,
                        number as u32,
                        prefix,
                        &shard.name,
                        &mut members,
                    )?;
                }
                Data::Static(bytes) => {
                    let length = bytes.len() as u64;
                    list(
                        Cursor::new(*bytes),
                        length,
                        number as u32,
                        prefix,
                        &shard.name,
                        &mut members,
                    )?;
                }
            }
            members[before..].sort_by(|a, b| bytes(&a.path).cmp(bytes(&b.path)));
        }
        let folders: BTreeSet<&[u8]> = members
            .iter()
            .filter_map(|member| first_folder(&member.path))
            .collect();
        let labelled = folders.len() > 1
            && members
                .iter()
                .all(|member| first_folder(&member.path).is_some());
        let mut classes = Vec::new();
        let mut labels = Vec::new();
        if labelled {
            let folders: Vec<&[u8]> = folders.into_iter().collect();
            labels = members
                .iter()
                .map(|member| {
                    let folder = first_folder(&member.path).unwrap_or_default();
                    folders.binary_search(&folder).unwrap_or_default() as u32
                })
                .collect();
            classes = folders
                .iter()
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect();
        }
        for (member, label) in members.iter_mut().zip(labels) {
            member.label = label;
        }
        Ok(Self {
            shards,
            members,
            classes,
            labelled,
            place,
        })
    }

    fn checked(self, path: &Path) -> Result<Self, DataError> {
        if self.members.is_empty() {
            let found = match self.shards.len() {
                0 => inventory(path),
                1 => "other members only".into(),
                n => format!("other members only in {n} archives"),
            };
            let looked_for = if self.shards.is_empty() {
                ".tar".into()
            } else {
                extension_list()
            };
            return Err(DataError::Empty {
                path: path.into(),
                looked_for,
                found,
            });
        }
        Ok(self)
    }
}

impl Source for TarSource {
    fn len(&self) -> usize {
        self.members.len()
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        let member = &self.members[index];
        match &self.shards[member.shard as usize].data {
            Data::File(path, file) => {
                let mut buffer = vec![0; member.size as usize];
                read_at(file, &mut buffer, member.offset).map_err(|e| DataError::io(path, e))?;
                Ok(Sample::Encoded(buffer))
            }
            Data::Static(bytes) => {
                let start = member.offset as usize;
                Ok(Sample::Encoded(
                    bytes[start..start + member.size as usize].to_vec(),
                ))
            }
        }
    }

    fn name(&self, index: usize) -> String {
        let member = &self.members[index];
        format!(
            "{}:{}",
            self.shards[member.shard as usize].name,
            member.path.display()
        )
    }

    fn label(&self, index: usize) -> Option<u32> {
        let member = &self.members[index];
        self.labelled.then_some(member.label)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> String {
        let mut text = format!("{}, {}", count(self.len(), self.classes.len()), self.place);
        if self.shards.len() > 1 {
            text += &format!(" ({} shards)", self.shards.len());
        }
        text
    }
}

/// Reads the headers of an archive of `length` bytes and appends its images below `prefix`.
fn list(
    reader: impl Read + Seek,
    length: u64,
    shard: u32,
    prefix: &Path,
    name: &str,
    members: &mut Vec<Member>,
) -> Result<(), DataError> {
    let failed = |reason: String| DataError::Archive {
        file: name.into(),
        reason,
    };
    // A whole archive is a whole number of blocks.
    let damaged = |error: io::Error| match length.is_multiple_of(BLOCK) {
        false => failed(format!("cut short, or not a tar archive: {error}")),
        true => failed(format!("not a tar archive, or a damaged one: {error}")),
    };
    if length < BLOCK {
        return Err(failed(format!(
            "cut short: {length} bytes are less than one tar header"
        )));
    }
    let mut archive = Archive::new(reader);
    let mut end = 0;
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let (offset, size) = (entry.raw_file_position(), entry.size());
        let kind = entry.header().entry_type();
        end = offset.saturating_add(size.div_ceil(BLOCK).saturating_mul(BLOCK));
        if offset.saturating_add(size) > length {
            let reason = format!("cut short: {} reaches beyond the end", path.display());
            return Err(failed(reason));
        }
        let Some(clean) = inside(&path) else {
            let reason = format!("member {} leaves the archive", path.display());
            return Err(failed(reason));
        };
        let hidden = clean
            .iter()
            .any(|part| part.as_encoded_bytes().starts_with(b"."));
        if hidden || !is_image(&clean) {
            continue;
        }
        let Ok(below) = clean.strip_prefix(prefix) else {
            continue;
        };
        match kind {
            EntryType::Regular | EntryType::Continuous => {
                members.push(Member {
                    shard,
                    label: 0,
                    offset,
                    size,
                    path: below.into(),
                });
            }
            EntryType::GNUSparse => {
                return Err(failed(format!("member {} is sparse", path.display())));
            }
            // Folders and links hold no bytes.
            _ => {}
        }
    }
    if end.saturating_add(BLOCK) > length {
        let reason = "cut short: the end-of-archive block is missing";
        return Err(failed(reason.into()));
    }
    Ok(())
}

/// `path` without `./`; nothing when it leaves the archive.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

/// The first folder of a member, when it lies in one.
fn first_folder(path: &Path) -> Option<&[u8]> {
    let mut parts = path.iter();
    let first = parts.next()?;
    parts.next().map(|_| first.as_encoded_bytes())
}

/// Whether the file starts as gzip, bzip2, xz or zstd data do.
fn starts_compressed(file: &File) -> bool {
    const MAGIC: [&[u8]; 4] = [
        &[0x1F, 0x8B],
        b"BZh",
        &[0xFD, b'7', b'z', b'X', b'Z'],
        &[0x28, 0xB5, 0x2F, 0xFD],
    ];
    let mut start = [0; 5];
    read_at(file, &mut start, 0).is_ok() && MAGIC.iter().any(|magic| start.starts_with(magic))
}

fn compressed(path: &Path) -> DataError {
    DataError::Archive {
        file: path.to_string_lossy().into_owned(),
        reason: "compressed, so no member can be read on its own; decompress it first \
                 (`gunzip`, `unxz`, `zstd -d` …): images hardly shrink in any case"
            .into(),
    }
}
