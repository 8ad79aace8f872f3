//! `metrics.jsonl`: one JSON object a line, for every logged step and every kNN measurement.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Event, Observer, Watched};
use crate::TrainError;
use crate::files::write_atomic;

/// One logged step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// The same in epochs.
    pub epoch: f64,
    /// Loss of this step.
    pub loss: f64,
    /// Learning rate of this step.
    pub lr: f64,
    /// Training images a second since the last record.
    pub images_per_s: f64,
    /// Share of the time since the last record that was spent waiting for data.
    pub wait_share: f64,
    /// Spread of the embeddings: 1 if they point every way alike, 0 if they are all the same.
    pub spread: f64,
    /// Corrupt files met so far.
    pub bad_files: usize,
    /// What the method says of the step, by name: for SwAV the entropy of the codes in nats,
    /// `code_entropy`, and the prototypes that some sample liked best, `used_prototypes`.
    #[serde(flatten)]
    pub method: BTreeMap<String, f64>,
}

/// One kNN measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnnRecord {
    /// Steps done.
    pub step: u64,
    /// The same in epochs.
    pub epoch: f64,
    /// Share of the queries whose label won, 0–1.
    pub knn: f64,
    /// Neighbours that voted.
    pub k: usize,
}

/// Writes each record down.
#[derive(Debug, Default)]
pub struct Metrics(Option<MetricsFile>);

impl Observer for Metrics {
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError> {
        match (event, &mut self.0) {
            (Event::Begin, file) => {
                *file = Some(MetricsFile::open(&run.directory.metrics(), run.state.step)?);
                Ok(())
            }
            (Event::Logged(record), Some(file)) => file.write(record),
            (Event::Knn(record), Some(file)) => file.write(record),
            _ => Ok(()),
        }
    }
}

/// Whether the file at `path` holds a kNN accuracy of `step`.
pub fn holds_knn(path: &Path, step: u64) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut records = text
        .lines()
        .filter_map(|line| serde_json::from_str::<KnnRecord>(line).ok());
    records.any(|record| record.step == step)
}

/// Appends records; a line is whole or not there.
#[derive(Debug)]
struct MetricsFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl MetricsFile {
    /// Opens `path` for a run that stands at `step`: later lines, which a killed run may have left
    /// behind, are dropped, since their steps are about to be done again.
    fn open(path: &Path, step: u64) -> Result<Self, TrainError> {
        if path.exists() {
            let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
            let kept: String = text
                .lines()
                .filter(|line| step_of(line).is_some_and(|at| at <= step))
                .flat_map(|line| [line, "\n"])
                .collect();
            write_atomic(path, kept.as_bytes())?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(TrainError::io(path))?;
        Ok(Self {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
        })
    }

    fn write(&mut self, record: &impl Serialize) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(record)
            .map_err(|error| TrainError::checkpoint(&self.path, error.to_string()))?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .and_then(|()| self.file.flush())
            .map_err(TrainError::io(&self.path))
    }
}

fn step_of(line: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    value.get("step")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reopening_drops_the_lines_of_steps_that_will_be_done_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let record = |step| KnnRecord {
            step,
            epoch: 0.0,
            knn: 0.5,
            k: 20,
        };
        let mut file = MetricsFile::open(&path, 0).unwrap();
        (1..=5).for_each(|step| file.write(&record(step)).unwrap());
        drop(file);
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(b"{\"step\": 6, \"kn"))
            .unwrap();

        let mut file = MetricsFile::open(&path, 3).unwrap();
        file.write(&record(4)).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<_> = text.lines().filter_map(step_of).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
    }
}
