//! Tables as text with commas (RFC 4180).

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{Cell, Kind};
use crate::TrainError;
use crate::files::AtomicFile;

/// A table that is being written.
#[derive(Debug)]
pub(in crate::eval) struct Csv {
    file: BufWriter<AtomicFile>,
    path: PathBuf,
    line: String,
}

impl Csv {
    pub(super) fn create(path: &Path, columns: &[(String, Kind)]) -> Result<Self, TrainError> {
        let mut csv = Self {
            file: BufWriter::new(AtomicFile::create(path)?),
            path: path.to_path_buf(),
            line: String::new(),
        };
        let names: Vec<Cell<'_>> = columns.iter().map(|(name, _)| Cell::Text(name)).collect();
        csv.row(&names)?;
        Ok(csv)
    }

    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), TrainError> {
        self.line.clear();
        for (place, cell) in cells.iter().enumerate() {
            if place > 0 {
                self.line.push(',');
            }
            // Writing to a string cannot fail.
            let _ = match *cell {
                Cell::Text(text) => write!(self.line, "{}", quoted(text)),
                Cell::OptionalText(text) => write!(self.line, "{}", quoted(text.unwrap_or(""))),
                Cell::Whole(number) => write!(self.line, "{number}"),
                Cell::Real(number) => write!(self.line, "{number}"),
                Cell::Reals(numbers) => {
                    let texts: Vec<String> = numbers.iter().map(f32::to_string).collect();
                    write!(self.line, "{}", texts.join(" "))
                }
            };
        }
        self.line.push('\n');
        self.file
            .write_all(self.line.as_bytes())
            .map_err(TrainError::io(&self.path))
    }

    pub(super) fn finish(self) -> Result<(), TrainError> {
        self.file
            .into_inner()
            .map_err(|error| TrainError::io(&self.path)(error.into_error()))?
            .commit()
    }
}

/// A field as it stands in a line.
fn quoted(text: &str) -> Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_commas_and_quotes_are_quoted() {
        assert_eq!(quoted("a/b.jpg"), "a/b.jpg");
        assert_eq!(quoted("a, \"b\".jpg"), "\"a, \"\"b\"\".jpg\"");
    }
}
