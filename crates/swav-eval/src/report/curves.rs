//! What was written down while training, as columns that a chart takes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use swav_train::TrainError;

/// Points that a curve has at most: more than a screen has columns.
const POINTS: usize = 2_000;

/// Kinds of numbers that a record may hold; a method has a handful.
const COLUMNS: usize = 40;

/// Bytes of a line; what is longer is no record of ours.
const LINE: u64 = 1 << 16;

/// The curves of a run, in memory that does not grow with it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Curves {
    /// Of the logged steps.
    steps: Table,
    /// Of the measurements of kNN accuracy.
    knn: Table,
    /// Steps logged.
    logged: u64,
    /// Seconds that the steps took, by their images a second: without kNN and checkpoints.
    trained_s: f64,
    /// Those of them in which the device waited for data.
    waited_s: f64,
}

impl Curves {
    /// Reads a `metrics.jsonl` of steps of `batch` images; where there is none yet, there are no curves.
    /// What is no record is passed over: the last line of a killed run is cut short.
    pub(super) fn read(path: &Path, batch: usize) -> Result<Self, TrainError> {
        let mut curves = Self::default();
        if !path.exists() {
            return Ok(curves);
        }
        let mut file = BufReader::new(File::open(path).map_err(TrainError::io(path))?);
        let mut line = Vec::new();
        let mut before = 0;
        loop {
            line.clear();
            let read = file.by_ref().take(LINE).read_until(b'\n', &mut line);
            if read.map_err(TrainError::io(path))? == 0 {
                break;
            }
            let Ok(Value::Object(record)) = serde_json::from_slice(&line) else {
                continue;
            };
            if record.contains_key("loss") {
                curves.step(&record, batch, &mut before);
            } else if record.contains_key("knn") {
                curves.knn.push(&record);
            }
        }
        curves.steps.finish();
        curves.knn.finish();
        Ok(curves)
    }

    fn step(&mut self, record: &Map<String, Value>, batch: usize, before: &mut u64) {
        let number = |name| record.get(name).and_then(Value::as_f64).unwrap_or(0.0);
        let step = record.get("step").and_then(Value::as_u64).unwrap_or(0);
        let speed = number("images_per_s");
        if speed > 0.0 {
            let seconds = step.saturating_sub(*before) as f64 * batch as f64 / speed;
            self.trained_s += seconds;
            self.waited_s += seconds * number("wait_share");
        }
        *before = step;
        self.logged += 1;
        self.steps.push(record);
    }
}

/// Columns of equal length by name, without a value where a record had none. Neighbours are averaged,
/// ever more of them, so that there are never many more than [`POINTS`].
#[derive(Debug, Default)]
struct Table {
    columns: BTreeMap<String, Column>,
    rows: usize,
    /// Records that are averaged in a row, and how many the last row has by now.
    stride: usize,
    begun: usize,
}

#[derive(Debug, Default, Clone)]
struct Column {
    rows: Vec<Option<f64>>,
    sum: f64,
    count: usize,
}

impl Column {
    fn close(&mut self) {
        let mean = (self.count > 0).then(|| self.sum / self.count as f64);
        self.rows.push(mean);
        (self.sum, self.count) = (0.0, 0);
    }
}

impl Table {
    fn push(&mut self, record: &Map<String, Value>) {
        for (name, value) in record {
            let Some(value) = value.as_f64() else {
                continue;
            };
            if !self.columns.contains_key(name) {
                if self.columns.len() == COLUMNS {
                    continue;
                }
                let column = Column {
                    rows: vec![None; self.rows],
                    ..Column::default()
                };
                self.columns.insert(name.clone(), column);
            }
            if let Some(column) = self.columns.get_mut(name) {
                column.sum += value;
                column.count += 1;
            }
        }
        self.begun += 1;
        if self.begun >= self.stride.max(1) {
            self.close();
        }
        if self.rows == 2 * POINTS {
            self.halve();
        }
    }

    fn close(&mut self) {
        self.columns.values_mut().for_each(Column::close);
        self.rows += 1;
        self.begun = 0;
    }

    fn halve(&mut self) {
        for column in self.columns.values_mut() {
            let pairs = column.rows.chunks(2).map(|pair| {
                let known: Vec<f64> = pair.iter().flatten().copied().collect();
                (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
            });
            column.rows = pairs.collect();
        }
        self.rows /= 2;
        self.stride = 2 * self.stride.max(1);
    }

    fn finish(&mut self) {
        if self.begun > 0 {
            self.close();
        }
    }
}

impl Serialize for Table {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let short = |value: f64| format!("{value:.5e}").parse().unwrap_or(value);
        serializer.collect_map(self.columns.iter().map(|(name, column)| {
            let rows: Vec<Option<f64>> = column.rows.iter().map(|row| row.map(short)).collect();
            (name, rows)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: &str) -> Curves {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        std::fs::write(&path, lines).unwrap();
        Curves::read(&path, 100).unwrap()
    }

    #[test]
    fn a_run_without_metrics_has_no_curves() {
        let curves = Curves::read(Path::new("nowhere/metrics.jsonl"), 1).unwrap();
        assert_eq!((curves.logged, curves.steps.rows), (0, 0));
    }

    #[test]
    fn lines_that_are_no_records_are_passed_over() {
        let curves = written(
            "{\"step\":1,\"loss\":2.0}\nnonsense\n[1]\n{\"step\":1,\"knn\":0.5,\"k\":20}\n{\"step\":2,\"lo",
        );
        assert_eq!(curves.logged, 1);
        assert_eq!(curves.knn.columns["knn"].rows, [Some(0.5)]);
    }

    #[test]
    fn a_long_run_is_averaged_to_few_points_and_keeps_its_mean() {
        let lines: String = (1..=9_000)
            .map(|step| format!("{{\"step\":{step},\"loss\":{}}}\n", step % 7))
            .collect();
        let curves = written(&lines);
        let rows = &curves.steps.columns["loss"].rows;
        assert!(
            rows.len() >= POINTS && rows.len() <= 2 * POINTS,
            "{}",
            rows.len()
        );
        let mean = rows.iter().flatten().sum::<f64>() / rows.len() as f64;
        assert!((mean - 3.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn time_is_told_from_speed_and_share_of_waiting() {
        let curves = written(
            "{\"step\":10,\"loss\":1,\"images_per_s\":500,\"wait_share\":0.5}\n\
             {\"step\":20,\"loss\":1,\"images_per_s\":1000,\"wait_share\":0}\n",
        );
        assert_eq!((curves.trained_s, curves.waited_s), (3.0, 1.0));
    }

    #[test]
    fn a_number_that_appears_late_has_gaps_before() {
        let curves = written("{\"step\":1,\"loss\":1}\n{\"step\":2,\"loss\":1,\"usage\":4}\n");
        assert_eq!(curves.steps.columns["usage"].rows, [None, Some(4.0)]);
    }
}
