//! PyTorch's checkpoints, as `torch.save` writes them.
//!
//! Since version 1.6 they are zip archives of a pickle, `data.pkl`, and a file for each storage, `data/KEY`. Before, they
//! were five pickles (a magic number, the version, the machine, the object, the storages' keys), then the storages. Numbers
//! of both are little-endian.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use burn::tensor::{DType, TensorData};

use super::pickle::{Element, LONGEST, Object, Pickle, TensorPlace};
use super::transfer::Shapes;
use super::zip::{self, at};
use super::{WeightsError, malformed};

/// What the oldest layout begins with: 0x1950a86a20f9469cfc6c as a pickle.
pub(super) const LEGACY: &[u8] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";

/// How deep dictionaries of weights lie in others, at most.
const DEEPEST: usize = 8;
/// Entries of dictionaries that are looked at, at most, counting those of a dictionary as often as it is in there.
const MOST_ENTRIES: usize = 1 << 20;

/// Characters of a name that are read: no tensor's is longer.
const LONGEST_NAME: usize = 250;

/// A checkpoint: what it holds by name. Dictionaries in dictionaries join their names by dots. No number has been read yet.
pub(super) struct Checkpoint {
    archive: Archive,
    /// Where each tensor with floating-point values lies.
    places: BTreeMap<String, TensorPlace>,
    /// The entries that are neither tensors nor dictionaries, and the outermost dictionaries, in the order of the file.
    pub(super) others: Vec<String>,
}

/// Opens a checkpoint.
///
/// # Errors
/// If the file cannot be read, is cut off, holds no tensors, or is not what it claims to be.
pub(super) fn open(path: &Path) -> Result<Checkpoint, WeightsError> {
    let io = |source| WeightsError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let archive = Archive::open(file, length).map_err(|reason| malformed(path, reason))?;
    archive
        .checkpoint()
        .map_err(|reason| malformed(path, reason))
}

impl Checkpoint {
    /// Shapes of the tensors.
    pub(super) fn shapes(&self) -> Shapes {
        let shape = |place: &TensorPlace| place.shape.iter().map(|&n| n as usize).collect();
        let places = self.places.iter();
        places
            .map(|(name, place)| (name.clone(), shape(place)))
            .collect()
    }

    /// Whether two names are of one tensor.
    pub(super) fn is_same(&self, one: &str, other: &str) -> bool {
        match (self.places.get(one), self.places.get(other)) {
            (Some(one), Some(other)) => {
                let key = |place: &TensorPlace| self.archive.pickle.text(place.storage.key);
                one.offset == other.offset && one.shape == other.shape && key(one) == key(other)
            }
            _ => false,
        }
    }

    /// Reads a tensor.
    pub(super) fn read(&mut self, name: &str) -> Result<TensorData, String> {
        let place = self.places.get(name).ok_or("it is not there")?.clone();
        self.archive.tensor(&place)
    }
}

/// A checkpoint with the places of its storages.
struct Archive {
    file: File,
    length: u64,
    pickle: Pickle,
    storages: HashMap<String, Stored>,
    /// Storages whose checksum was found to be right.
    checked: HashSet<String>,
    /// Bytes that tensors may yet take: no more than the file has, however they overlap.
    left: u64,
}

impl Archive {
    fn open(mut file: File, length: u64) -> Result<Self, String> {
        let start = at(&mut file, length, 0, length.min(LEGACY.len() as u64))?;
        let (pickle, storages) = if start == LEGACY {
            legacy(&mut file, length)?
        } else {
            zipped(&mut file, length)?
        };
        Ok(Self {
            file,
            length,
            pickle,
            storages,
            checked: HashSet::new(),
            left: length,
        })
    }

    fn checkpoint(self) -> Result<Checkpoint, String> {
        let pickle = &self.pickle;
        let Object::Dict(root) = pickle.root() else {
            return Err(
                "it holds no dictionary of tensors: in PyTorch, save torch.save(model.state_dict(), FILE)"
                    .to_owned(),
            );
        };
        let mut places = BTreeMap::new();
        let (mut others, mut too_large) = (Vec::new(), None);
        let mut open = vec![(String::new(), root, 0)];
        let mut looked_at = 0;
        while let Some((front, entries, depth)) = open.pop() {
            looked_at += entries.len();
            if looked_at > MOST_ENTRIES {
                return Err(format!(
                    "its dictionaries hold more than {MOST_ENTRIES} entries: these are no mere weights"
                ));
            }
            for &(key, value) in entries {
                let Some(key) = pickle.text(key) else {
                    if depth == 0 {
                        others.push("an entry without a name".to_owned());
                    }
                    continue;
                };
                let key: String = key.chars().take(LONGEST_NAME).collect();
                let name = format!("{front}{key}");
                match pickle.get(value) {
                    // An integer counter of PyTorch's, which nothing reads.
                    _ if name.ends_with("num_batches_tracked") => {}
                    Object::Tensor(place) if float(place.storage.element).is_some() => {
                        let bytes = product(&place.shape)
                            .and_then(|count| count.checked_mul(place.storage.element.bytes()));
                        match bytes {
                            Some(bytes) if bytes <= self.length => {
                                places.insert(name, (**place).clone());
                            }
                            // One number seen as many; no weight is.
                            _ => {
                                too_large.get_or_insert_with(|| name.clone());
                                others.push(name);
                            }
                        }
                    }
                    Object::Dict(inner) => {
                        if depth == 0 {
                            others.push(name.clone());
                        }
                        if depth < DEEPEST {
                            open.push((format!("{name}."), inner, depth + 1));
                        }
                    }
                    _ => others.push(name),
                }
            }
        }
        if let (true, Some(name)) = (places.is_empty(), too_large) {
            return Err(format!("tensor `{name}` takes more than the whole file"));
        }
        if places.is_empty() {
            let keys: Vec<_> = others.iter().take(20).map(String::as_str).collect();
            return Err(format!(
                "it holds no tensors with floating-point values; its entries are {}",
                keys.join(", ")
            ));
        }
        Ok(Checkpoint {
            archive: self,
            places,
            others,
        })
    }

    /// Reads the part of a storage that a tensor lies in, and brings its numbers into their order.
    fn tensor(&mut self, place: &TensorPlace) -> Result<TensorData, String> {
        let TensorPlace {
            storage,
            offset,
            shape,
            strides,
        } = place;
        let no_such = || {
            format!(
                "shape {shape:?} goes beyond its storage of {}",
                storage.length
            )
        };
        let key = self.pickle.text(storage.key).unwrap_or_default();
        let stored = self.storages.get(key);
        let Stored { range, checksum } = stored.ok_or("its storage is not there")?.clone();
        let dtype = float(storage.element).ok_or_else(no_such)?;
        let width = storage.element.bytes();

        let count = product(shape).ok_or_else(no_such)?;
        let taken = count.checked_mul(width).ok_or_else(no_such)?;
        self.left = self
            .left
            .checked_sub(taken)
            .ok_or("its tensors take more than the whole file")?;
        let span = span(shape, strides).ok_or_else(no_such)?;
        let last = offset
            .checked_add(span)
            .filter(|last| *last <= storage.length);
        let last = last
            .and_then(|last| last.checked_mul(width))
            .ok_or_else(no_such)?;
        if last > range.end - range.start {
            return Err("its storage is cut off".to_owned());
        }
        if let Some(checksum) = checksum
            && self.checked.insert(key.to_owned())
        {
            zip::check(&mut self.file, range.clone(), checksum)?;
        }
        let bytes = at(
            &mut self.file,
            self.length,
            range.start + offset * width,
            span * width,
        )?;
        let bytes = match rows_first(shape, strides) {
            true => bytes,
            false => gathered(&bytes, shape, strides, width as usize, taken as usize),
        };
        let shape: Vec<usize> = shape.iter().map(|&size| size as usize).collect();
        TensorData::try_from_bytes_vec(bytes, shape, dtype).map_err(|error| error.to_string())
    }
}

/// Where a storage lies.
#[derive(Clone, Debug)]
struct Stored {
    range: Range<u64>,
    /// CRC-32 of its bytes, where the file has one.
    checksum: Option<u32>,
}

fn zipped(file: &mut File, length: u64) -> Result<(Pickle, HashMap<String, Stored>), String> {
    let entries = zip::entries(file)?;
    let roots = entries
        .keys()
        .filter_map(|name| name.strip_suffix("data.pkl"));
    let root = roots
        .filter(|root| root.is_empty() || root.ends_with('/'))
        .min_by_key(|root| root.len());
    let root = root
        .ok_or("it is a zip archive without the `data.pkl` of PyTorch")?
        .to_owned();
    let entry = |name: &str| entries.get(&format!("{root}{name}"));
    if let Some(order) = entry("byteorder").map(|entry| entry.range.clone())
        && order.end - order.start < 16
    {
        let order = at(file, length, order.start, order.end - order.start)?;
        if order != b"little" {
            return Err("its numbers are big-endian".to_owned());
        }
    }
    let (place, checksum) = entry("data.pkl").map_or((0..0, 0), |e| (e.range.clone(), e.checksum));
    let size = place.end - place.start;
    let bytes = at(file, length, place.start, size.min(LONGEST))?;
    if checksum != 0 {
        zip::check(file, place, checksum)?;
    }
    let pickle = Pickle::read(&mut bytes.as_slice())?;
    let data = format!("{root}data/");
    let storages = entries.into_iter();
    let storages = storages.filter_map(|(name, entry)| {
        let stored = Stored {
            range: entry.range,
            // PyTorch can be told to compute none.
            checksum: (entry.checksum != 0).then_some(entry.checksum),
        };
        Some((name.strip_prefix(&data)?.to_owned(), stored))
    });
    Ok((pickle, storages.collect()))
}

fn legacy(file: &mut File, length: u64) -> Result<(Pickle, HashMap<String, Stored>), String> {
    file.seek(SeekFrom::Start(0))
        .map_err(|error| error.to_string())?;
    let mut input = BufReader::new(&mut *file);
    let mut next = || Pickle::read(&mut input);
    let [_, _, machine, pickle, keys] = [next()?, next()?, next()?, next()?, next()?];
    if let Some(Object::Int(0)) = machine.entry(machine.root(), "little_endian") {
        return Err("its numbers are big-endian".to_owned());
    }
    let mut start = input.stream_position().map_err(|error| error.to_string())?;
    drop(input);
    let elements: HashMap<&str, Element> = pickle
        .objects()
        .iter()
        .filter_map(|object| match object {
            Object::Storage(storage) => Some((pickle.text(storage.key)?, storage.element)),
            _ => None,
        })
        .collect();
    let Object::List(listed) = keys.root() else {
        return Err("it does not list its storages".to_owned());
    };
    let mut storages = HashMap::new();
    for &key in listed {
        let key = keys.text(key).unwrap_or_default();
        let element = elements
            .get(key)
            .ok_or_else(|| format!("storage `{key}` belongs to no tensor"))?;
        let count = at(file, length, start, 8)?;
        let count = count.try_into().map_or(0, u64::from_le_bytes);
        let size = count.checked_mul(element.bytes());
        let end = size
            .and_then(|size| (start + 8).checked_add(size))
            .filter(|end| *end <= length);
        let end = end.ok_or_else(|| format!("storage `{key}` is cut off"))?;
        let stored = Stored {
            range: start + 8..end,
            checksum: None,
        };
        storages.insert(key.to_owned(), stored);
        start = end;
    }
    Ok((pickle, storages))
}

fn float(element: Element) -> Option<DType> {
    match element {
        Element::F64 => Some(DType::F64),
        Element::F32 => Some(DType::F32),
        Element::F16 => Some(DType::F16),
        Element::BF16 => Some(DType::BF16),
        Element::Other(_) => None,
    }
}

fn product(shape: &[u64]) -> Option<u64> {
    shape
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size))
}

/// Elements from the first to the last that a tensor touches.
fn span(shape: &[u64], strides: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    let steps = shape.iter().zip(strides);
    steps.into_iter().try_fold(1u64, |span, (&size, &stride)| {
        span.checked_add((size - 1).checked_mul(stride)?)
    })
}

/// Whether the numbers lie in the order of a plain array.
fn rows_first(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1u64;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == expected;
        expected = expected.saturating_mul(size);
        fits
    })
}

/// The elements of a tensor that lies in another order, such as PyTorch's `channels_last`. All of them are in `bytes`.
fn gathered(bytes: &[u8], shape: &[u64], strides: &[u64], width: usize, size: usize) -> Vec<u8> {
    let mut ordered = Vec::with_capacity(size);
    let mut index = vec![0; shape.len()];
    while ordered.len() < size {
        let at: u64 = index
            .iter()
            .zip(strides)
            .map(|(i, stride)| i * stride)
            .sum();
        let at = at as usize * width;
        ordered.extend_from_slice(&bytes[at..at + width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    ordered
}
