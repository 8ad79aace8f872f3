//! Event files that TensorBoard reads: the numbers of `metrics.jsonl` once more, for those who compare many
//! runs there.
//!
//! A file is a row of TFRecords, each its length, a checksum of that, a protocol buffer `Event`, and a
//! checksum of that ([TFRecord](https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details),
//! [event.proto](https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/util/event.proto)).

use std::fs::{File, create_dir_all};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::TrainError;
use crate::metrics::{KnnRecord, StepRecord};

/// One file of events.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Events {
    /// A new file in `directory`, for a run that stands at `step`: what earlier files say of later steps
    /// does not count any more.
    ///
    /// # Errors
    /// If the directory cannot be written.
    pub fn create(directory: &Path, step: u64) -> Result<Self, TrainError> {
        create_dir_all(directory).map_err(TrainError::io(directory))?;
        // TensorBoard reads the files of a directory in the order of their names.
        let nanos = since_epoch().as_nanos();
        let process = std::process::id();
        let name = format!("events.out.tfevents.{nanos:020}.swav.{process}");
        let path = directory.join(name);
        let file = BufWriter::new(File::create(&path).map_err(TrainError::io(&path))?);
        let mut events = Self { path, file };
        events.write(0, &bytes(FILE_VERSION, b"brain.Event:2"))?;
        if step > 0 {
            // TensorBoard drops what it knows of this step and of later ones, and the run has done this one.
            events.write(step + 1, &bytes(SESSION, &varint(STATUS, START)))?;
        }
        Ok(events)
    }

    /// The numbers of a logged step.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn step(&mut self, record: &StepRecord) -> Result<(), TrainError> {
        let own = record.method.iter();
        let own = own.map(|(name, value)| (format!("method/{name}"), *value));
        let mut values = vec![
            ("train/loss".to_string(), record.loss),
            ("train/lr".to_string(), record.lr),
            ("train/epoch".to_string(), record.epoch),
            ("train/spread".to_string(), record.spread),
            ("speed/images_per_s".to_string(), record.images_per_s),
            ("speed/wait_share".to_string(), record.wait_share),
        ];
        values.extend(own);
        self.scalars(record.step, &values)
    }

    /// A measured kNN accuracy.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn knn(&mut self, record: &KnnRecord) -> Result<(), TrainError> {
        self.scalars(record.step, &[("train/knn".to_string(), record.knn)])
    }

    fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> Result<(), TrainError> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut scalar = bytes(TAG, tag.as_bytes());
            scalar.push(SIMPLE_VALUE << 3 | FIXED_32);
            scalar.extend((*value as f32).to_le_bytes());
            summary.extend(bytes(VALUE, &scalar));
        }
        self.write(step, &bytes(SUMMARY, &summary))
    }

    /// Appends one event that says `what` of `step`.
    fn write(&mut self, step: u64, what: &[u8]) -> Result<(), TrainError> {
        let mut event = vec![WALL_TIME << 3 | FIXED_64];
        event.extend(since_epoch().as_secs_f64().to_le_bytes());
        event.extend(varint(STEP, step));
        event.extend(what);
        self.file
            .write_all(&framed(&event))
            .and_then(|()| self.file.flush())
            .map_err(TrainError::io(&self.path))
    }
}

fn since_epoch() -> std::time::Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

// Fields of `Event`.
const WALL_TIME: u8 = 1;
const STEP: u8 = 2;
const FILE_VERSION: u8 = 3;
const SUMMARY: u8 = 5;
const SESSION: u8 = 7;
// Of `Summary`, and of `Summary.Value`.
const VALUE: u8 = 1;
const TAG: u8 = 1;
const SIMPLE_VALUE: u8 = 2;
// Of `SessionLog`.
const STATUS: u8 = 1;
const START: u64 = 1;

// How a field is written.
const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED_32: u8 = 5;

/// A field that is a number.
fn varint(field: u8, value: u64) -> Vec<u8> {
    let mut out = vec![field << 3 | VARINT];
    digits(value, &mut out);
    out
}

/// A field that is text or another message.
fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | LENGTH];
    digits(value.len() as u64, &mut out);
    out.extend(value);
    out
}

/// A number seven bits at a time, the low ones first.
fn digits(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A TFRecord.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(crc32c(&length)).to_le_bytes());
    record.extend(data);
    record.extend(masked(crc32c(data)).to_le_bytes());
    record
}

/// A checksum of data that may hold checksums itself.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C, the one of Castagnoli (RFC 3720, appendix B.4), bit by bit: a record has a few hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    !data.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn numbers_are_written_seven_bits_at_a_time() {
        assert_eq!(varint(2, 1), [0x10, 1]);
        assert_eq!(varint(2, 300), [0x10, 0xac, 0x02]);
        assert_eq!(bytes(3, b"ab"), [0x1a, 2, b'a', b'b']);
    }

    #[test]
    fn a_file_is_a_row_of_whole_records() {
        let directory = tempfile::tempdir().unwrap();
        let mut events = Events::create(directory.path(), 40).unwrap();
        let knn = KnnRecord {
            step: 41,
            epoch: 1.0,
            knn: 0.5,
            k: 20,
        };
        events.knn(&knn).unwrap();
        let bytes = std::fs::read(&events.path).unwrap();
        let mut rest = bytes.as_slice();
        let mut records = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let data = &rest[12..12 + length];
            assert_eq!(framed(data), rest[..16 + length]);
            records.push(data.to_vec());
            rest = &rest[16 + length..];
        }
        // The version, the beginning after step 40, the measurement.
        assert_eq!(records.len(), 3);
        assert!(records[0].ends_with(b"brain.Event:2"));
        assert!(records[1].ends_with(&[0x10, 41, 0x3a, 2, 0x08, 1]));
        let half = 0.5_f32.to_le_bytes();
        assert!(records[2].ends_with(&half), "{:?}", records[2]);
    }
}
