//! What a method remembers, as a SafeTensors file of a checkpoint.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::TrainError;
use crate::comm::{Communicator, share};

/// Named tensors on their way to disk.
#[derive(Debug, Default)]
pub(crate) struct TensorFile {
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
    numbers: HashMap<String, String>,
}

impl TensorFile {
    /// Adds a float tensor.
    pub(crate) fn tensor(&mut self, name: impl Into<String>, tensor: &Tensor<2>) {
        let data = tensor.to_data().convert_dtype(DType::F32);
        let (shape, bytes) = (tensor.dims().to_vec(), data.bytes().to_vec());
        self.tensors.push((name.into(), Dtype::F32, shape, bytes));
    }

    /// Adds a float tensor of which each rank has rows: it becomes one.
    pub(crate) fn rows(
        &mut self,
        name: impl Into<String>,
        rows: &Tensor<2>,
        ranks: &mut dyn Communicator,
    ) {
        let whole = ranks.gather_on_first(rows.clone());
        if ranks.rank() == 0 {
            self.tensor(name, &whole);
        }
    }

    /// Adds a list of whole numbers.
    pub(crate) fn integers(&mut self, name: impl Into<String>, values: &[i32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors
            .push((name.into(), Dtype::I32, vec![values.len()], bytes));
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.numbers.insert(name.to_string(), value.to_string());
    }

    /// Writes everything to `path`, if this is rank 0.
    pub(crate) fn save(self, path: &Path, ranks: &dyn Communicator) -> Result<(), TrainError> {
        if ranks.rank() > 0 {
            return Ok(());
        }
        let failed =
            |error: safetensors::SafeTensorError| TrainError::checkpoint(path, error.to_string());
        let views = self
            .tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| {
                Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        safetensors::serialize_to_file(views, Some(self.numbers), path).map_err(failed)
    }
}

/// Named tensors as they were found on disk.
#[derive(Debug)]
pub(crate) struct SavedTensors {
    path: PathBuf,
    bytes: Vec<u8>,
    numbers: HashMap<String, String>,
}

impl SavedTensors {
    /// Reads the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, TrainError> {
        let bytes = std::fs::read(path).map_err(TrainError::io(path))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| TrainError::checkpoint(path, format!("is damaged: {error}")))?;
        Ok(Self {
            path: path.to_path_buf(),
            numbers: metadata.metadata().clone().unwrap_or_default(),
            bytes,
        })
    }

    /// The tensor `name`, which must be of `shape`.
    pub(crate) fn tensor(
        &self,
        name: &str,
        shape: [usize; 2],
        device: &Device,
    ) -> Result<Tensor<2>, TrainError> {
        let values = self.values(name, Dtype::F32, &shape, f32::from_le_bytes)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), device))
    }

    /// The rows of the tensor `name` that are this rank's, of as many as `shape` says.
    pub(crate) fn rows(
        &self,
        name: &str,
        [rows, width]: [usize; 2],
        device: &Device,
        ranks: &dyn Communicator,
    ) -> Result<Tensor<2>, TrainError> {
        let whole = self.tensor(name, [rows * ranks.world(), width], device)?;
        Ok(share(whole, ranks))
    }

    /// The list `name`, which must hold `length` numbers.
    pub(crate) fn integers(&self, name: &str, length: usize) -> Result<Vec<i32>, TrainError> {
        self.values(name, Dtype::I32, &[length], i32::from_le_bytes)
    }

    /// The list `name`, which must hold `length` numbers of the `range`.
    pub(crate) fn integers_in(
        &self,
        name: &str,
        length: usize,
        range: Range<i64>,
    ) -> Result<Vec<i32>, TrainError> {
        let values = self.integers(name, length)?;
        match values
            .iter()
            .find(|&&value| !range.contains(&i64::from(value)))
        {
            None => Ok(values),
            Some(value) => Err(self.damaged(format!(
                "`{name}` holds {value}, which lies outside of {range:?}"
            ))),
        }
    }

    /// The number `name`.
    pub(crate) fn number(&self, name: &str) -> Result<u64, TrainError> {
        let number = self.numbers.get(name).and_then(|text| text.parse().ok());
        number.ok_or_else(|| self.damaged(format!("the number `{name}` is missing")))
    }

    fn values<T>(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        read: impl Fn([u8; 4]) -> T,
    ) -> Result<Vec<T>, TrainError> {
        let file =
            SafeTensors::deserialize(&self.bytes).map_err(|e| self.damaged(e.to_string()))?;
        let view = file.tensor(name).map_err(|e| self.damaged(e.to_string()))?;
        if view.shape() != shape || view.dtype() != dtype {
            return Err(self.damaged(format!(
                "`{name}` is {:?} of {:?}, the plan wants {shape:?} of {dtype:?}",
                view.shape(),
                view.dtype()
            )));
        }
        let words = view.data().chunks_exact(4);
        Ok(words.map(|b| read([b[0], b[1], b[2], b[3]])).collect())
    }

    /// What to say of a file that holds what it cannot.
    pub(crate) fn damaged(&self, reason: String) -> TrainError {
        TrainError::checkpoint(&self.path, reason)
    }
}
