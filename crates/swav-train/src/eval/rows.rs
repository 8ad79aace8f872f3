//! Features to files, row by row: memory does not grow with the set.

use std::fmt::Write as _;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use swav_data::Source;

use super::features::Features;
use crate::TrainError;
use crate::files::AtomicFile;

/// The formats that features are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// NumPy's, version 1.0.
    Npy,
    /// SafeTensors, with one tensor `features`.
    SafeTensors,
}

impl RowFormat {
    /// By the ending of `path`.
    ///
    /// # Errors
    /// If it is neither `.npy` nor `.safetensors`.
    pub fn of(path: &Path) -> Result<Self, TrainError> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("safetensors") => Ok(Self::SafeTensors),
            _ => Err(TrainError::Recipe(format!(
                "{}: the ending says how features are written; use .npy or .safetensors",
                path.display()
            ))),
        }
    }

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

/// Writes rows as they come, and beside them a CSV that names the image of each row.
#[derive(Debug)]
pub struct RowWriter {
    format: RowFormat,
    rows: usize,
    dim: usize,
    values: BufWriter<AtomicFile>,
    names: BufWriter<AtomicFile>,
    path: PathBuf,
}

impl RowWriter {
    /// Starts `path` and `path.csv`; neither is there before [`finish`](Self::finish).
    ///
    /// # Errors
    /// If the directory does not exist or cannot be written.
    pub fn create(path: &Path, format: RowFormat) -> Result<Self, TrainError> {
        let names = PathBuf::from(format!("{}.csv", path.display()));
        let mut writer = Self {
            format,
            rows: 0,
            dim: 0,
            values: BufWriter::new(AtomicFile::create(path)?),
            names: BufWriter::new(AtomicFile::create(&names)?),
            path: path.to_path_buf(),
        };
        writer.put(&[0; HEAD])?;
        writer.put_names("row,image,label\n")?;
        Ok(writer)
    }

    /// Appends rows; `source` names their images.
    ///
    /// # Errors
    /// If the disk is full.
    ///
    /// # Panics
    /// If the rows are of another width than those before.
    pub fn append(&mut self, rows: &Features, source: &dyn Source) -> Result<(), TrainError> {
        assert!(
            self.rows == 0 || self.dim == rows.dim,
            "rows of {} numbers after rows of {}",
            rows.dim,
            self.dim
        );
        self.dim = rows.dim;
        let bytes: Vec<u8> = rows.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.put(&bytes)?;
        let mut lines = String::new();
        for (&index, label) in rows.indices.iter().zip(&rows.labels) {
            let class = label.and_then(|label| source.classes().get(label as usize));
            let label = class.map_or("", String::as_str);
            // Writing to a string cannot fail.
            let _ = writeln!(
                lines,
                "{},{},{}",
                self.rows,
                quoted(&source.name(index)),
                quoted(label)
            );
            self.rows += 1;
        }
        self.put_names(&lines)
    }

    /// Completes both files; returns rows and their width.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn finish(mut self) -> Result<(usize, usize), TrainError> {
        let head = self.format.head(self.rows, self.dim);
        let path = self.path.clone();
        self.values
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.values.write_all(&head))
            .map_err(TrainError::io(&path))?;
        for file in [self.values, self.names] {
            file.into_inner()
                .map_err(|error| TrainError::io(&path)(error.into_error()))?
                .commit()?;
        }
        Ok((self.rows, self.dim))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        self.values
            .write_all(bytes)
            .map_err(TrainError::io(&self.path))
    }

    fn put_names(&mut self, text: &str) -> Result<(), TrainError> {
        self.names
            .write_all(text.as_bytes())
            .map_err(TrainError::io(&self.path))
    }
}

/// A CSV field (RFC 4180).
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_the_same_length_whatever_it_says() {
        for format in [RowFormat::Npy, RowFormat::SafeTensors] {
            assert_eq!(format.head(0, 0).len(), HEAD);
            assert_eq!(format.head(usize::MAX >> 20, 8192).len(), HEAD);
        }
    }

    #[test]
    fn safetensors_reads_what_was_written() {
        let mut bytes = RowFormat::SafeTensors.head(2, 3);
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

    #[test]
    fn names_with_commas_and_quotes_are_quoted() {
        assert_eq!(quoted("a/b.jpg"), "a/b.jpg");
        assert_eq!(quoted("a, \"b\".jpg"), "\"a, \"\"b\"\".jpg\"");
    }
}
