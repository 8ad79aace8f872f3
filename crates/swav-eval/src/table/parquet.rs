//! Tables as Parquet: plain values without compression, one page for each column of a row group.
//!
//! (Apache Parquet format specification, 2.10: "File format", "Nested encoding", "Encodings".)

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use parquet_format_safe::thrift::Result as ThriftResult;
use parquet_format_safe::thrift::protocol::TCompactOutputProtocol;
use parquet_format_safe::{
    ColumnChunk, ColumnMetaData, CompressionCodec, ConvertedType, DataPageHeader, Encoding,
    FieldRepetitionType, FileMetaData, ListType, LogicalType, PageHeader, PageType, RowGroup,
    SchemaElement, StringType, Type,
};

use super::{Cell, Kind};
use swav_train::TrainError;
use swav_train::files::AtomicFile;

const MAGIC: &[u8; 4] = b"PAR1";

/// A row group is written when its values take this many bytes: all that is held in memory.
const GROUP: usize = 64 << 20;

/// A table that is being written.
#[derive(Debug)]
pub(crate) struct Parquet {
    file: BufWriter<AtomicFile>,
    path: PathBuf,
    /// Bytes written.
    at: usize,
    columns: Vec<Column>,
    /// Rows of the group that is being gathered.
    rows: usize,
    groups: Vec<RowGroup>,
}

impl Parquet {
    pub(super) fn create(path: &Path, columns: Vec<(String, Kind)>) -> Result<Self, TrainError> {
        let column = |(name, kind)| Column {
            name,
            kind,
            ..Column::default()
        };
        let mut parquet = Self {
            file: BufWriter::new(AtomicFile::create(path).map_err(TrainError::io(path))?),
            path: path.to_path_buf(),
            at: 0,
            columns: columns.into_iter().map(column).collect(),
            rows: 0,
            groups: Vec::new(),
        };
        parquet.put(MAGIC)?;
        Ok(parquet)
    }

    pub(super) fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), TrainError> {
        assert_eq!(cells.len(), self.columns.len(), "a cell for each column");
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.push(cell);
        }
        self.rows += 1;
        if self.columns.iter().map(Column::size).sum::<usize>() >= GROUP {
            self.flush()?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), TrainError> {
        self.flush()?;
        let mut schema = vec![SchemaElement {
            num_children: Some(self.columns.len() as i32),
            ..element("schema", None)
        }];
        schema.extend(self.columns.iter().flat_map(Column::schema));
        let meta = FileMetaData::new(
            1,
            schema,
            self.groups.iter().map(|group| group.num_rows).sum(),
            std::mem::take(&mut self.groups),
            None,
            format!("swav version {}", env!("CARGO_PKG_VERSION")),
            None,
            None,
            None,
        );
        let bytes = self.encode(|out| meta.write_to_out_protocol(out))?;
        self.put(&bytes)?;
        self.put(&(bytes.len() as u32).to_le_bytes())?;
        self.put(MAGIC)?;
        self.file
            .into_inner()
            .map_err(|error| TrainError::io(&self.path)(error.into_error()))?
            .commit()
            .map_err(TrainError::io(&self.path))
    }

    /// Writes the rows gathered as a row group.
    fn flush(&mut self) -> Result<(), TrainError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut chunks = Vec::new();
        let first = self.at;
        for mut column in std::mem::take(&mut self.columns) {
            let start = self.at;
            let levels = column.levels();
            let header = column.page(levels.len());
            let header = self.encode(|out| header.write_to_out_protocol(out))?;
            for bytes in [&header, &levels, &column.values] {
                self.put(bytes)?;
            }
            let size = (self.at - start) as i64;
            let meta = ColumnMetaData::new(
                column.kind.stored(),
                vec![Encoding::PLAIN, Encoding::RLE],
                column.path(),
                CompressionCodec::UNCOMPRESSED,
                i64::from(column.count),
                size,
                size,
                None,
                start as i64,
                None,
                None,
                None,
                None,
                None,
            );
            let chunk =
                ColumnChunk::new(None, start as i64, meta, None, None, None, None, None, None);
            chunks.push(chunk);
            column.clear();
            self.columns.push(column);
        }
        let size = (self.at - first) as i64;
        let rows = std::mem::take(&mut self.rows) as i64;
        let group = RowGroup::new(chunks, size, rows, None, first as i64, size, None);
        self.groups.push(group);
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        self.at += bytes.len();
        self.file
            .write_all(bytes)
            .map_err(TrainError::io(&self.path))
    }

    /// A structure of the format as bytes.
    fn encode(
        &self,
        write: impl FnOnce(&mut TCompactOutputProtocol<&mut Vec<u8>>) -> ThriftResult<usize>,
    ) -> Result<Vec<u8>, TrainError> {
        let mut bytes = Vec::new();
        write(&mut TCompactOutputProtocol::new(&mut bytes))
            .map_err(|error| TrainError::io(&self.path)(std::io::Error::other(error)))?;
        Ok(bytes)
    }
}

/// What a row group has of a column.
#[derive(Debug, Default)]
struct Column {
    name: String,
    kind: Kind,
    /// Values, missing ones counted.
    count: i32,
    /// 0 where a list begins, 1 where it goes on.
    repetition: Runs,
    /// 1 where there is a value, 0 where it is missing.
    definition: Runs,
    values: Vec<u8>,
}

impl Column {
    fn push(&mut self, cell: &Cell<'_>) {
        match (self.kind, *cell) {
            (Kind::Text, Cell::Text(text)) => self.push_text(text),
            (Kind::OptionalText, Cell::OptionalText(text)) => {
                self.definition.push(u8::from(text.is_some()), 1);
                match text {
                    Some(text) => self.push_text(text),
                    None => self.count += 1,
                }
            }
            (Kind::Whole, Cell::Whole(number)) => {
                self.values.extend((number as i64).to_le_bytes());
                self.count += 1;
            }
            (Kind::Real, Cell::Real(number)) => {
                self.values.extend(number.to_le_bytes());
                self.count += 1;
            }
            (Kind::Reals, Cell::Reals(numbers)) => {
                assert!(!numbers.is_empty(), "a list has a number at least");
                self.repetition.push(0, 1);
                self.repetition.push(1, numbers.len() - 1);
                self.definition.push(1, numbers.len());
                let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
                self.values.extend(bytes);
                self.count += numbers.len() as i32;
            }
            (kind, cell) => panic!("{cell:?} in a column of {kind:?}"),
        }
    }

    fn push_text(&mut self, text: &str) {
        self.values.extend((text.len() as u32).to_le_bytes());
        self.values.extend(text.as_bytes());
        self.count += 1;
    }

    /// Bytes it takes.
    fn size(&self) -> usize {
        self.values.len() + self.repetition.bytes.len() + self.definition.bytes.len()
    }

    /// Forgets the values.
    fn clear(&mut self) {
        self.count = 0;
        self.values.clear();
    }

    /// What stands in front of the values of a page, the levels that the kind has.
    fn levels(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (there, runs) in [
            (self.kind == Kind::Reals, &mut self.repetition),
            (
                matches!(self.kind, Kind::Reals | Kind::OptionalText),
                &mut self.definition,
            ),
        ] {
            if there {
                let encoded = runs.finish();
                bytes.extend((encoded.len() as u32).to_le_bytes());
                bytes.extend(encoded);
            }
        }
        bytes
    }

    fn page(&self, levels: usize) -> PageHeader {
        let size = (levels + self.values.len()) as i32;
        let header = DataPageHeader::new(
            self.count,
            Encoding::PLAIN,
            Encoding::RLE,
            Encoding::RLE,
            None,
        );
        PageHeader::new(
            PageType::DATA_PAGE,
            size,
            size,
            None,
            header,
            None,
            None,
            None,
        )
    }

    /// Its elements in the schema: a leaf, or the three levels of a list.
    fn schema(&self) -> Vec<SchemaElement> {
        let required = Some(FieldRepetitionType::REQUIRED);
        let leaf = |name: &str, repetition| SchemaElement {
            type_: Some(self.kind.stored()),
            ..element(name, repetition)
        };
        match self.kind {
            Kind::Whole | Kind::Real => vec![leaf(&self.name, required)],
            Kind::Text | Kind::OptionalText => {
                let repetition = match self.kind {
                    Kind::OptionalText => Some(FieldRepetitionType::OPTIONAL),
                    _ => required,
                };
                vec![SchemaElement {
                    converted_type: Some(ConvertedType::UTF8),
                    logical_type: Some(LogicalType::STRING(StringType::new())),
                    ..leaf(&self.name, repetition)
                }]
            }
            Kind::Reals => vec![
                SchemaElement {
                    num_children: Some(1),
                    converted_type: Some(ConvertedType::LIST),
                    logical_type: Some(LogicalType::LIST(ListType::new())),
                    ..element(&self.name, required)
                },
                SchemaElement {
                    num_children: Some(1),
                    ..element(LIST, Some(FieldRepetitionType::REPEATED))
                },
                leaf(ELEMENT, required),
            ],
        }
    }

    /// The names from the root of the schema to the leaf.
    fn path(&self) -> Vec<String> {
        let mut path = vec![self.name.clone()];
        if self.kind == Kind::Reals {
            path.extend([LIST, ELEMENT].map(str::to_string));
        }
        path
    }
}

/// What the specification calls the levels of a list.
const LIST: &str = "list";
const ELEMENT: &str = "element";

impl Kind {
    fn stored(self) -> Type {
        match self {
            Self::Text | Self::OptionalText => Type::BYTE_ARRAY,
            Self::Whole => Type::INT64,
            Self::Real | Self::Reals => Type::FLOAT,
        }
    }
}

fn element(name: &str, repetition: Option<FieldRepetitionType>) -> SchemaElement {
    SchemaElement::new(
        None,
        None,
        repetition,
        name.to_string(),
        None,
        None,
        None,
        None,
        None,
        None,
    )
}

/// Levels of one bit, run by run: a length as a varint, doubled, and the value.
#[derive(Debug, Default)]
struct Runs {
    bytes: Vec<u8>,
    value: u8,
    length: usize,
}

impl Runs {
    fn push(&mut self, value: u8, length: usize) {
        if length == 0 {
            return;
        }
        if value != self.value {
            self.close();
            self.value = value;
        }
        self.length += length;
    }

    fn close(&mut self) {
        let mut rest = std::mem::take(&mut self.length) << 1;
        if rest == 0 {
            return;
        }
        while rest >= 0x80 {
            self.bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.extend([rest as u8, self.value]);
    }

    /// The runs so far, which are then forgotten.
    fn finish(&mut self) -> Vec<u8> {
        self.close();
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_runs_of_equal_values() {
        let mut runs = Runs::default();
        for (value, length) in [(0, 1), (1, 99), (1, 0), (0, 1), (1, 99), (1, 1)] {
            runs.push(value, length);
        }
        // 99 runs long: 198 as a varint is c6 01.
        assert_eq!(runs.finish(), [2, 0, 0xc6, 1, 1, 2, 0, 0xc8, 1, 1]);
        assert!(runs.finish().is_empty());
    }

    #[test]
    fn a_list_of_one_number_has_no_level_that_goes_on() {
        let mut column = Column {
            kind: Kind::Reals,
            ..Column::default()
        };
        column.push(&Cell::Reals(&[1.0]));
        column.push(&Cell::Reals(&[2.0]));
        assert_eq!(column.levels(), [2, 0, 0, 0, 4, 0, 2, 0, 0, 0, 4, 1]);
        assert_eq!(column.count, 2);
    }
}
