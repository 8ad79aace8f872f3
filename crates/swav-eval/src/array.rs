//! Arrays to files, row by row.

use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use swav_train::TrainError;
use swav_train::files::AtomicFile;

/// The formats that arrays are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayFormat {
    /// NumPy's, version 1.0.
    Npy,
    /// SafeTensors, with one tensor `features`.
    SafeTensors,
}

impl ArrayFormat {
    /// The head of a file of `[rows, dim]` 32-bit floats, [`HEAD`] bytes whatever the numbers:
    /// both formats allow their heads to be padded with spaces.
    fn head(self, rows: usize, dim: usize) -> Vec<u8> {
        match self {
            Self::Npy => {
                let body = HEAD - 10;
                let mut head = b"\x93NUMPY\x01\x00".to_vec();
                head.extend((body as u16).to_le_bytes());
                let text = format!(
                    "{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}"
                );
                head.extend(format!("{text:<width$}\n", width = body - 1).bytes());
                head
            }
            Self::SafeTensors => {
                let body = HEAD - 8;
                let mut head = (body as u64).to_le_bytes().to_vec();
                let end = rows * dim * 4;
                let text = format!(
                    "{{\"features\":{{\"dtype\":\"F32\",\"shape\":[{rows},{dim}],\
                     \"data_offsets\":[0,{end}]}}}}"
                );
                head.extend(format!("{text:<body$}").bytes());
                head
            }
        }
    }
}

/// Bytes before the first row; a multiple of 64, as NumPy aligns them.
const HEAD: usize = 192;

/// Writes an array of which the number of rows is known at its end.
#[derive(Debug)]
pub(super) struct ArrayWriter {
    format: ArrayFormat,
    file: BufWriter<AtomicFile>,
    path: PathBuf,
}

impl ArrayWriter {
    /// Starts `path`, which is not there before [`finish`](Self::finish).
    ///
    /// # Errors
    /// If the directory does not exist or cannot be written.
    pub(super) fn create(path: &Path, format: ArrayFormat) -> Result<Self, TrainError> {
        let mut writer = Self {
            format,
            file: BufWriter::new(AtomicFile::create(path).map_err(TrainError::io(path))?),
            path: path.to_path_buf(),
        };
        writer.put(&[0; HEAD])?;
        Ok(writer)
    }

    /// Appends values, row-major.
    ///
    /// # Errors
    /// If the disk is full.
    pub(super) fn append(&mut self, values: &[f32]) -> Result<(), TrainError> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.put(&bytes)
    }

    /// Completes the file of `[rows, dim]`.
    ///
    /// # Errors
    /// If the disk is full.
    pub(super) fn finish(mut self, rows: usize, dim: usize) -> Result<(), TrainError> {
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(TrainError::io(&self.path))?;
        self.put(&self.format.head(rows, dim))?;
        self.file
            .into_inner()
            .map_err(|error| TrainError::io(&self.path)(error.into_error()))?
            .commit()
            .map_err(TrainError::io(&self.path))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        self.file
            .write_all(bytes)
            .map_err(TrainError::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_the_same_length_whatever_it_says() {
        for format in [ArrayFormat::Npy, ArrayFormat::SafeTensors] {
            assert_eq!(format.head(0, 0).len(), HEAD);
            assert_eq!(format.head(usize::MAX >> 20, 8192).len(), HEAD);
        }
    }

    #[test]
    fn safetensors_reads_what_was_written() {
        let mut bytes = ArrayFormat::SafeTensors.head(2, 3);
        bytes.extend(
            [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]
                .iter()
                .flat_map(|v| v.to_le_bytes()),
        );
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor("features").unwrap();
        assert_eq!(tensor.shape(), [2, 3]);
        assert_eq!(&tensor.data()[20..24], 6.0_f32.to_le_bytes());
    }
}
