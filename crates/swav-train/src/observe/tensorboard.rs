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

use crc32c::crc32c;
use swav_files::protobuf::Message;

use super::{Event, KnnRecord, Observer, StepRecord, Watched};
use crate::TrainError;

/// Writes each record down where the plan asks for it.
#[derive(Debug, Default)]
pub struct TensorBoard(Option<EventFile>);

impl Observer for TensorBoard {
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError> {
        match (event, &mut self.0) {
            (Event::Begin, file) if run.plan.train.tensorboard => {
                let directory = run.directory.tensorboard();
                *file = Some(EventFile::create(&directory, run.state.step)?);
                Ok(())
            }
            (Event::Logged(record), Some(file)) => file.step(record),
            (Event::Knn(record), Some(file)) => file.knn(record),
            _ => Ok(()),
        }
    }
}

/// One file of events.
#[derive(Debug)]
struct EventFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventFile {
    /// A new file in `directory`, for a run that stands at `step`: what earlier files say of later steps
    /// does not count any more.
    fn create(directory: &Path, step: u64) -> Result<Self, TrainError> {
        create_dir_all(directory).map_err(TrainError::io(directory))?;
        // TensorBoard reads the files of a directory in the order of their names.
        let nanos = since_epoch().as_nanos();
        let process = std::process::id();
        let name = format!("events.out.tfevents.{nanos:020}.swav.{process}");
        let path = directory.join(name);
        let file = BufWriter::new(File::create(&path).map_err(TrainError::io(&path))?);
        let mut events = Self { path, file };
        events.write(0, |event| event.text(FILE_VERSION, "brain.Event:2"))?;
        // TensorBoard drops what it knows of this step and of later ones, and the run has done `step` of them.
        let mut session = Message::default();
        session.number(STATUS, START);
        events.write(step + 1, |event| event.message(SESSION, session))?;
        Ok(events)
    }

    /// The numbers of a logged step.
    fn step(&mut self, record: &StepRecord) -> Result<(), TrainError> {
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
    fn knn(&mut self, record: &KnnRecord) -> Result<(), TrainError> {
        self.scalars(record.step, &[("train/knn".to_string(), record.knn)])
    }

    fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> Result<(), TrainError> {
        let mut summary = Message::default();
        for (tag, value) in values {
            let mut scalar = Message::default();
            scalar.text(TAG, tag);
            scalar.float(SIMPLE_VALUE, *value as f32);
            summary.message(VALUE, scalar);
        }
        self.write(step, |event| event.message(SUMMARY, summary))
    }

    /// Appends one event of `step`, to which `what` adds what it says.
    fn write(&mut self, step: u64, what: impl FnOnce(&mut Message)) -> Result<(), TrainError> {
        let mut event = Message::default();
        event.double(WALL_TIME, since_epoch().as_secs_f64());
        event.number(STEP, step);
        what(&mut event);
        self.file
            .write_all(&framed(event.as_bytes()))
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
const WALL_TIME: u32 = 1;
const STEP: u32 = 2;
const FILE_VERSION: u32 = 3;
const SUMMARY: u32 = 5;
const SESSION: u32 = 7;
// Of `Summary`, and of `Summary.Value`.
const VALUE: u32 = 1;
const TAG: u32 = 1;
const SIMPLE_VALUE: u32 = 2;
// Of `SessionLog`.
const STATUS: u32 = 1;
const START: u64 = 1;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_row_of_whole_records() {
        let directory = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(directory.path(), 40).unwrap();
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
