//! PyTorch's checkpoints, as `torch.save` writes them.
//!
//! Since version 1.6 they are zip archives of a pickle, `data.pkl`, and a file for each storage, `data/KEY`. Before, they
//! were five pickles (a magic number, the version, the machine, the object, the storages' keys), then the storages. Numbers
//! of both are little-endian.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use burn::tensor::{DType, TensorData};

use super::pickle::{Element, LONGEST, Object, Pickle, TensorPlace};
use super::zip::{self, at};
use super::{Tensors, WeightsError, malformed};

/// What the oldest layout begins with: 0x1950a86a20f9469cfc6c as a pickle.
pub(super) const LEGACY: &[u8] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";

/// Names that weights go by where a checkpoint holds more than them.
const WEIGHTS: [&str; 3] = ["state_dict", "model", "model_state_dict"];

/// Characters of a name that are read: no tensor's is longer.
const LONGEST_NAME: usize = 250;

/// The tensors of a checkpoint, and what else is in it.
pub(super) struct Checkpoint {
    pub(super) tensors: Tensors,
    /// Names of the entries that are no weights: the epoch, the optimizer.
    pub(super) beside: Vec<String>,
}

/// Reads the tensors of a checkpoint.
///
/// # Errors
/// If the file cannot be read, is cut off, holds no tensors, or is not what it claims to be.
pub(super) fn read(path: &Path) -> Result<Checkpoint, WeightsError> {
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

/// A checkpoint with the places of its storages.
struct Archive {
    file: File,
    length: u64,
    pickle: Pickle,
    storages: HashMap<String, Range<u64>>,
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
            left: length,
        })
    }

    fn checkpoint(mut self) -> Result<Checkpoint, String> {
        let pickle = &self.pickle;
        let root = pickle.root();
        let Object::Dict(outer) = root else {
            return Err("it holds no dictionary of tensors".to_owned());
        };
        let inner = WEIGHTS.iter().find_map(|name| {
            let entry = pickle.entry(root, name)?;
            matches!(entry, Object::Dict(_)).then_some((*name, entry))
        });
        let (weights, beside) = match inner {
            Some((name, Object::Dict(weights))) => {
                let others = outer
                    .iter()
                    .filter(|(key, _)| pickle.text(*key) != Some(name));
                (weights, others.map(|(key, _)| *key).collect())
            }
            _ => (outer, Vec::new()),
        };
        let name = |key| {
            let name = pickle.text(key).unwrap_or("an entry without a name");
            name.chars().take(LONGEST_NAME).collect::<String>()
        };
        let mut beside: Vec<String> = beside.into_iter().map(name).collect();
        let mut places = Vec::new();
        for &(key, value) in weights {
            match pickle.get(value) {
                // An integer counter of PyTorch's, which nothing reads.
                _ if name(key).ends_with("num_batches_tracked") => {}
                Object::Tensor(place) if float(place.storage.element).is_some() => {
                    places.push((name(key), (**place).clone()));
                }
                _ => beside.push(name(key)),
            }
        }
        if places.is_empty() {
            return Err("it holds no tensors".to_owned());
        }
        let mut tensors = Tensors::new();
        for (name, place) in places {
            let data = self.tensor(&place);
            tensors.insert(
                name.clone(),
                data.map_err(|why| format!("tensor `{name}`: {why}"))?,
            );
        }
        Ok(Checkpoint { tensors, beside })
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
        let range = self.storages.get(key);
        let range = range.ok_or("its storage is not there")?;
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

fn zipped(file: &mut File, length: u64) -> Result<(Pickle, HashMap<String, Range<u64>>), String> {
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
    if let Some(order) = entry("byteorder").filter(|order| order.end - order.start < 16) {
        let order = at(file, length, order.start, order.end - order.start)?;
        if order != b"little" {
            return Err("its numbers are big-endian".to_owned());
        }
    }
    let pickle = entry("data.pkl").cloned().unwrap_or(0..0);
    let size = pickle.end - pickle.start;
    let bytes = at(file, length, pickle.start, size.min(LONGEST))?;
    let pickle = Pickle::read(&mut bytes.as_slice())?;
    let data = format!("{root}data/");
    let storages = entries.into_iter();
    let storages =
        storages.filter_map(|(name, range)| Some((name.strip_prefix(&data)?.to_owned(), range)));
    Ok((pickle, storages.collect()))
}

fn legacy(file: &mut File, length: u64) -> Result<(Pickle, HashMap<String, Range<u64>>), String> {
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
        storages.insert(key.to_owned(), start + 8..end);
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
        Element::Whole(_) => None,
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
