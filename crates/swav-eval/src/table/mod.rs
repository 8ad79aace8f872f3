//! Tables to files, row by row: memory does not grow with them.

mod csv;
mod parquet;

use std::path::Path;

use csv::Csv;
use parquet::Parquet;

use swav_train::TrainError;

/// The formats that tables are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// Text with commas (RFC 4180), a head of names first.
    Csv,
    /// Apache Parquet, plain and uncompressed.
    Parquet,
}

impl TableFormat {
    /// By the ending of `path`.
    ///
    /// # Errors
    /// If it is neither `.csv` nor `.parquet`.
    pub fn of(path: &Path) -> Result<Self, TrainError> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("csv") => Ok(Self::Csv),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(TrainError::Recipe(format!(
                "{}: the ending says how the table is written; use .csv or .parquet",
                path.display()
            ))),
        }
    }
}

/// What a column holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Text,
    /// Text that some rows lack.
    OptionalText,
    Whole,
    Real,
    /// Several numbers a row, at least one.
    Reals,
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Text(&'a str),
    OptionalText(Option<&'a str>),
    Whole(u64),
    Real(f32),
    Reals(&'a [f32]),
}

/// Writes a table as its rows come.
#[derive(Debug)]
pub(super) enum TableWriter {
    Csv(Csv),
    Parquet(Parquet),
}

impl TableWriter {
    /// Starts `path`, which is not there before [`finish`](Self::finish).
    ///
    /// # Errors
    /// If the directory does not exist or cannot be written.
    pub(super) fn create(
        path: &Path,
        format: TableFormat,
        columns: Vec<(String, Kind)>,
    ) -> Result<Self, TrainError> {
        Ok(match format {
            TableFormat::Csv => Self::Csv(Csv::create(path, &columns)?),
            TableFormat::Parquet => Self::Parquet(Parquet::create(path, columns)?),
        })
    }

    /// Appends a row.
    ///
    /// # Errors
    /// If the disk is full.
    ///
    /// # Panics
    /// If the cells are not of the columns' kinds.
    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), TrainError> {
        match self {
            Self::Csv(csv) => csv.row(cells),
            Self::Parquet(parquet) => parquet.row(cells),
        }
    }

    /// Completes the file.
    ///
    /// # Errors
    /// If the disk is full.
    pub(super) fn finish(self) -> Result<(), TrainError> {
        match self {
            Self::Csv(csv) => csv.finish(),
            Self::Parquet(parquet) => parquet.finish(),
        }
    }
}
