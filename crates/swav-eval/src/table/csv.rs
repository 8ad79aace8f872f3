//! Tables as text with commas (RFC 4180).

use std::path::{Path, PathBuf};

use csv::{Error, ErrorKind, Writer};
use swav_train::TrainError;
use swav_train::files::AtomicFile;

use super::{Cell, Kind};

/// A table that is being written.
#[derive(Debug)]
pub(crate) struct Csv {
    writer: Box<Writer<AtomicFile>>,
    path: PathBuf,
}

impl Csv {
    pub(super) fn create(path: &Path, columns: &[(String, Kind)]) -> Result<Self, TrainError> {
        let file = AtomicFile::create(path).map_err(TrainError::io(path))?;
        let mut csv = Self {
            writer: Box::new(Writer::from_writer(file)),
            path: path.to_path_buf(),
        };
        let names: Vec<Cell<'_>> = columns.iter().map(|(name, _)| Cell::Text(name)).collect();
        csv.row(&names)?;
        Ok(csv)
    }

    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), TrainError> {
        let texts = cells.iter().map(|cell| match *cell {
            Cell::Text(text) => text.to_string(),
            Cell::OptionalText(text) => text.unwrap_or_default().to_string(),
            Cell::Whole(number) => number.to_string(),
            Cell::Real(number) => number.to_string(),
            Cell::Reals(numbers) => {
                let texts: Vec<String> = numbers.iter().map(f32::to_string).collect();
                texts.join(" ")
            }
        });
        self.writer
            .write_record(texts)
            .map_err(|error| self.failed(error))
    }

    pub(super) fn finish(self) -> Result<(), TrainError> {
        let Self { writer, path } = self;
        writer
            .into_inner()
            .map_err(|error| TrainError::io(&path)(error.into_error()))?
            .commit()
            .map_err(TrainError::io(&path))
    }

    fn failed(&self, error: Error) -> TrainError {
        match error.into_kind() {
            ErrorKind::Io(error) => TrainError::io(&self.path)(error),
            other => TrainError::checkpoint(&self.path, format!("{other:?}")),
        }
    }
}
