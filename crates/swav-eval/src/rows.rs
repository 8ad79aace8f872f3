//! Features to files, with the images that they belong to.

use std::path::{Path, PathBuf};

use swav_data::Source;

use super::array::{ArrayFormat, ArrayWriter};
use super::features::Features;
use super::table::{Cell, Kind, TableFormat, TableWriter};
use swav_train::TrainError;

/// The formats that features are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFormat {
    /// An array, and beside it a CSV that names the image of each row.
    Array(ArrayFormat),
    /// Parquet, with the columns path, label and features.
    Parquet,
}

impl RowFormat {
    /// By the ending of `path`.
    ///
    /// # Errors
    /// If it is neither `.npy`, `.safetensors` nor `.parquet`.
    pub fn of(path: &Path) -> Result<Self, TrainError> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Ok(Self::Array(ArrayFormat::Npy)),
            Some("safetensors") => Ok(Self::Array(ArrayFormat::SafeTensors)),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(TrainError::Recipe(format!(
                "{}: the ending says how features are written; use .npy, .safetensors or .parquet",
                path.display()
            ))),
        }
    }
}

/// Writes rows as they come.
#[derive(Debug)]
pub struct RowWriter {
    files: Files,
    rows: usize,
    dim: usize,
}

#[derive(Debug)]
enum Files {
    Array {
        values: ArrayWriter,
        names: TableWriter,
    },
    Table(TableWriter),
}

impl RowWriter {
    /// Starts `path`, and for an array `path.csv`; neither is there before [`finish`](Self::finish).
    ///
    /// # Errors
    /// If the directory does not exist or cannot be written.
    pub fn create(path: &Path, format: RowFormat) -> Result<Self, TrainError> {
        let column = |(name, kind): (&str, Kind)| (name.to_string(), kind);
        let files = match format {
            RowFormat::Array(format) => {
                let names = PathBuf::from(format!("{}.csv", path.display()));
                let columns = [
                    ("row", Kind::Whole),
                    ("image", Kind::Text),
                    ("label", Kind::OptionalText),
                ];
                let columns = columns.map(column).to_vec();
                Files::Array {
                    values: ArrayWriter::create(path, format)?,
                    names: TableWriter::create(&names, TableFormat::Csv, columns)?,
                }
            }
            RowFormat::Parquet => {
                let columns = [
                    ("path", Kind::Text),
                    ("label", Kind::OptionalText),
                    ("features", Kind::Reals),
                ];
                let columns = columns.map(column).to_vec();
                Files::Table(TableWriter::create(path, TableFormat::Parquet, columns)?)
            }
        };
        Ok(Self {
            files,
            rows: 0,
            dim: 0,
        })
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
        if let Files::Array { values, .. } = &mut self.files {
            values.append(&rows.values)?;
        }
        for (i, (&index, label)) in rows.indices.iter().zip(&rows.labels).enumerate() {
            let name = source.name(index);
            let class = label.and_then(|label| source.classes().get(label as usize));
            let label = Cell::OptionalText(class.map(String::as_str));
            match &mut self.files {
                Files::Array { names, .. } => {
                    names.row(&[Cell::Whole(self.rows as u64), Cell::Text(&name), label])?;
                }
                Files::Table(table) => {
                    table.row(&[Cell::Text(&name), label, Cell::Reals(rows.row(i))])?;
                }
            }
            self.rows += 1;
        }
        Ok(())
    }

    /// Completes the files; returns rows and their width.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn finish(self) -> Result<(usize, usize), TrainError> {
        match self.files {
            Files::Array { values, names } => {
                values.finish(self.rows, self.dim)?;
                names.finish()?;
            }
            Files::Table(table) => table.finish()?,
        }
        Ok((self.rows, self.dim))
    }
}
