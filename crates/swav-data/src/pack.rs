//! Any set as tar shards: few large files instead of many small ones, in the set's own order.

use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageFormat};
use tar::{Builder, Header};

use crate::error::DataError;
use crate::sample::Sample;
use crate::source::{MARKER, Marker, Source, TarSource};

/// When a shard is full. A shard holds at least one sample, however large that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardSize {
    /// So many samples.
    Samples(u64),
    /// At most so many bytes, headers included.
    Bytes(u64),
}

impl Default for ShardSize {
    /// 256 MB.
    fn default() -> Self {
        Self::Bytes(256_000_000)
    }
}

impl FromStr for ShardSize {
    type Err = String;

    /// `10000` is a number of samples; `256MB`, `1GB`, `512MiB` are bytes.
    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 6] = [
            ("KB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
        ];
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim();
        let scale = match unit {
            "" => Some(1),
            _ => (UNITS.iter())
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .map(|&(_, scale)| scale),
        };
        let number: Option<u64> = number.parse().ok().filter(|&number| number > 0);
        match number.zip(scale).map(|(n, s)| n.checked_mul(s)) {
            Some(Some(samples)) if unit.is_empty() => Ok(Self::Samples(samples)),
            Some(Some(bytes)) => Ok(Self::Bytes(bytes)),
            _ => {
                Err("expected a number of samples, such as 10000, or a size, such as 256MB".into())
            }
        }
    }
}

/// What was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Archives written.
    pub shards: usize,
    /// Samples in them.
    pub samples: usize,
    /// Bytes of all archives.
    pub bytes: u64,
}

/// Writes all samples of `source` as tar shards `out/NAME-000000.tar`, …, NAME being that of `out`.
///
/// The bytes of an image file go in as they are; pixels (CIFAR, IDX) become PNG files, which lose
/// nothing. Opened again, the shards give the same samples in the same order with the same labels and
/// class names: what is trained on them is what would be trained on the source. Each class is a
/// folder in the archives, so they unpack to class folders. Of samples that would have one name in one archive, all but
/// the first get their place in the archive as a number: `cat/1.jpg`, `cat/1-12.jpg`.
///
/// `progress` is called with the number of samples that are done; when it returns false, packing
/// stops, nothing is left behind and nothing is returned.
///
/// The shards are written to a hidden folder beside `out`, opened and compared with the source, and
/// only then is that folder given its name. A crash leaves the hidden folder, and no `out`.
///
/// # Errors
/// [`DataError::Invalid`] when `out` is there already and not an empty folder; what
/// [`read`](Source::read) has; [`DataError::Io`] when something cannot be written.
pub fn pack(
    source: &dyn Source,
    out: &Path,
    size: ShardSize,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Packed>, DataError> {
    let name = check_free(out)?;
    let name = name.to_string_lossy();
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = parent.join(format!(".{name}.{}", std::process::id()));
    let folder = TemporaryFolder::create(temporary)?;
    let names = MemberNames::of(source);
    let mut packed = Packed {
        shards: 0,
        samples: 0,
        bytes: 0,
    };
    let mut shard: Option<Shard> = None;
    for index in 0..source.len() {
        let bytes = encoded(source.read(index)?, || source.name(index))?;
        let path = names.path(source, index, &bytes);
        let mut free = match &shard {
            Some(shard) => shard.free_path(&path),
            None => path.clone(),
        };
        let cost = archived_bytes(&free, bytes.len());
        if let Some(full) = shard.take_if(|shard| !shard.has_room(size, cost)) {
            packed.bytes += full.finish()?;
            free = path;
        }
        let open = match &mut shard {
            Some(open) => open,
            none => {
                let file = folder.path.join(format!("{name}-{:06}.tar", packed.shards));
                packed.shards += 1;
                none.insert(Shard::create(file, &names.marker)?)
            }
        };
        open.append(&free, &bytes)?;
        packed.samples += 1;
        if !progress(packed.samples) {
            return Ok(None);
        }
    }
    if let Some(last) = shard {
        packed.bytes += last.finish()?;
    }
    compare(source, &folder.path)?;
    folder.commit(out)?;
    Ok(Some(packed))
}

/// The name of `out`, which is not there yet or an empty folder.
fn check_free(out: &Path) -> Result<&std::ffi::OsStr, DataError> {
    let refused = |reason: &str| Err(DataError::Invalid(format!("{}: {reason}", out.display())));
    let Some(name) = out.file_name() else {
        return refused("expected the name of a folder to make");
    };
    if fs::symlink_metadata(out).is_ok_and(|entry| entry.is_symlink()) {
        return refused("is a link; give the folder that it leads to, or a name that is free");
    }
    match fs::read_dir(out) {
        Ok(mut entries) => match entries.next() {
            Some(_) => refused("is there already and not empty; nothing is overwritten"),
            None => Ok(name),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(name),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            refused("is a file; nothing is overwritten")
        }
        Err(error) => Err(DataError::io(out, error)),
    }
}

/// The bytes of a sample as an image file.
fn encoded(sample: Sample, name: impl Fn() -> String) -> Result<Vec<u8>, DataError> {
    match sample {
        Sample::Encoded(bytes) => Ok(bytes),
        Sample::Pixels { width, height, rgb } => {
            let mut png = Vec::new();
            PngEncoder::new_with_quality(&mut png, CompressionType::Default, FilterType::Adaptive)
                .write_image(&rgb, width, height, ExtendedColorType::Rgb8)
                .map_err(|error| DataError::decode(&name(), error.to_string()))?;
            Ok(png)
        }
    }
}

/// What a member takes of its archive: a header, the bytes in whole blocks, and a long name.
fn archived_bytes(path: &Path, bytes: usize) -> u64 {
    const BLOCK: u64 = 512;
    let long = match path.as_os_str().len() {
        0..=100 => 0,
        length => BLOCK + (length as u64).next_multiple_of(BLOCK),
    };
    BLOCK + (bytes as u64).next_multiple_of(BLOCK) + long
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// How the members are called.
struct MemberNames {
    marker: Marker,
    /// The folder of each class; empty without labels.
    folders: Vec<String>,
}

impl MemberNames {
    fn of(source: &dyn Source) -> Self {
        // Labels are for all or for none.
        let labelled = (0..source.len()).all(|index| source.label(index).is_some());
        let classes = match labelled {
            true => source.classes().to_vec(),
            false => vec![],
        };
        let mut taken = HashSet::new();
        let folders: Vec<String> = (classes.iter())
            .map(|class| {
                let clean = folder_name(class);
                let free = |name: &String| !taken.contains(name);
                let name = std::iter::once(clean.clone())
                    .chain((2..).map(|number| format!("{clean}-{number}")))
                    .find(free)
                    .unwrap_or(clean.clone());
                taken.insert(name.clone());
                name
            })
            .collect();
        let marker = Marker {
            version: Marker::VERSION,
            folders: if folders == classes {
                vec![]
            } else {
                folders.clone()
            },
            classes,
        };
        Self { marker, folders }
    }

    /// The path of a sample in its archive.
    fn path(&self, source: &dyn Source, index: usize, bytes: &[u8]) -> PathBuf {
        let own = source
            .relative_path(index)
            .unwrap_or_else(|| format!("{index:09}.{}", extension(bytes)).into());
        let label = source.label(index).map(|label| label as usize);
        match label.and_then(|label| self.folders.get(label)) {
            Some(folder) if own.starts_with(folder) && own.components().count() > 1 => own,
            Some(folder) => Path::new(folder).join(own),
            None => own,
        }
    }
}

/// The name of a class as that of a folder which is neither hidden nor several.
fn folder_name(class: &str) -> String {
    let odd = |c: char| c.is_control() || matches!(c, '/' | '\\' | ':');
    let name: String = class
        .chars()
        .map(|c| if odd(c) { '_' } else { c })
        .collect();
    match name.is_empty() || name.starts_with('.') {
        true => format!("_{name}"),
        false => name,
    }
}

/// The extension that fits the bytes; what is no image keeps counting as one, a corrupt one.
fn extension(bytes: &[u8]) -> &'static str {
    match image::guess_format(bytes) {
        Ok(ImageFormat::Png) => "png",
        Ok(ImageFormat::WebP) => "webp",
        Ok(ImageFormat::Bmp) => "bmp",
        Ok(ImageFormat::Tiff) => "tif",
        _ => "jpg",
    }
}

/// An archive that is being written.
struct Shard {
    path: PathBuf,
    builder: Builder<BufWriter<File>>,
    /// Hashes of the names in it. Two names of one hash cost a number, no sample.
    names: HashSet<u64>,
    samples: u64,
    bytes: u64,
}

impl Shard {
    /// The two blocks at the end of an archive.
    const END: u64 = 1024;

    fn create(path: PathBuf, marker: &Marker) -> Result<Self, DataError> {
        let file = File::create_new(&path).map_err(|error| DataError::io(&path, error))?;
        let mut shard = Self {
            builder: Builder::new(BufWriter::with_capacity(1 << 20, file)),
            path,
            names: HashSet::new(),
            samples: 0,
            bytes: Self::END,
        };
        let text = serde_json::to_vec(marker).map_err(|error| shard.failed(error.into()))?;
        shard.append(Path::new(MARKER), &text)?;
        shard.samples = 0;
        Ok(shard)
    }

    fn has_room(&self, size: ShardSize, cost: u64) -> bool {
        match size {
            ShardSize::Samples(samples) => self.samples < samples,
            ShardSize::Bytes(bytes) => self.samples == 0 || self.bytes + cost <= bytes,
        }
    }

    /// The path of a sample, numbered when another has it.
    fn free_path(&self, path: &Path) -> PathBuf {
        let numbered = |number: u64| {
            let mut name = path.file_stem().unwrap_or_default().to_owned();
            name.push(format!("-{number}"));
            if let Some(extension) = path.extension() {
                name.push(".");
                name.push(extension);
            }
            path.with_file_name(name)
        };
        let mut free = path.to_path_buf();
        // From its own place on, so that many of one name find theirs at once.
        let mut number = self.samples;
        while self.names.contains(&hash(&free)) {
            number += 1;
            free = numbered(number);
        }
        free
    }

    fn append(&mut self, path: &Path, bytes: &[u8]) -> Result<(), DataError> {
        // Owner and time are left out: the same images give the same archive, byte by byte.
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.builder
            .append_data(&mut header, path, bytes)
            .map_err(|error| self.failed(error))?;
        self.names.insert(hash(path));
        self.samples += 1;
        self.bytes += archived_bytes(path, bytes.len());
        Ok(())
    }

    /// Completes the archive and returns its size.
    fn finish(self) -> Result<u64, DataError> {
        let Self { path, builder, .. } = self;
        let write = || {
            let mut writer = builder.into_inner()?;
            writer.flush()?;
            let file = writer.get_ref();
            file.sync_all()?;
            file.metadata().map(|metadata| metadata.len())
        };
        write().map_err(|error| DataError::io(&path, error))
    }

    fn failed(&self, error: io::Error) -> DataError {
        DataError::io(&self.path, error)
    }
}

/// Opens what was written and holds it against the source: number, classes and labels.
fn compare(source: &dyn Source, folder: &Path) -> Result<(), DataError> {
    let packed = TarSource::open(folder)?;
    let labelled = !packed.classes().is_empty();
    let same = packed.len() == source.len()
        && (!labelled || packed.classes() == source.classes())
        && (0..source.len()).all(|index| !labelled || packed.label(index) == source.label(index));
    match same {
        true => Ok(()),
        false => Err(DataError::format(
            folder,
            "the packed set differs from the images; nothing was kept",
        )),
    }
}

/// A folder that is removed unless it is given its name.
struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    fn create(path: PathBuf) -> Result<Self, DataError> {
        // What is in the way is of a run that was killed, by a process of the same number.
        for number in 0..1000 {
            let mut name = path.clone().into_os_string();
            if number > 0 {
                name.push(format!("-{number}"));
            }
            let path = PathBuf::from(name);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(DataError::io(&path, error)),
            }
        }
        Err(DataError::Invalid(format!(
            "{}: a thousand folders of this name are left of runs that were killed; remove them",
            path.display()
        )))
    }

    fn commit(mut self, out: &Path) -> Result<(), DataError> {
        // From here on it is whole, and not to be lost.
        let path = std::mem::take(&mut self.path);
        // An empty folder is in the way of a rename on some systems.
        let moved = match fs::remove_dir(out) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::rename(&path, out),
        };
        moved.map_err(|error| {
            DataError::Invalid(format!(
                "{}: {error}; the shards are whole, and lie in {}",
                out.display(),
                path.display()
            ))
        })
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // There may be nothing to remove.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_samples_or_bytes() {
        let of = |text: &str| text.parse::<ShardSize>();
        assert_eq!(of("10000"), Ok(ShardSize::Samples(10_000)));
        assert_eq!(of("256MB"), Ok(ShardSize::Bytes(256_000_000)));
        assert_eq!(of("1 gib"), Ok(ShardSize::Bytes(1 << 30)));
        for wrong in [
            "",
            "0",
            "0MB",
            "-1",
            "ten",
            "5 parsecs",
            "1.5GB",
            "99999999999999GB",
        ] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_of_classes_become_folders_that_are_seen_and_stay_inside() {
        for (class, folder) in [
            ("cat", "cat"),
            ("n/a", "n_a"),
            ("..", "_.."),
            ("", "_"),
            (".hidden", "_.hidden"),
        ] {
            assert_eq!(folder_name(class), folder);
        }
    }
}
