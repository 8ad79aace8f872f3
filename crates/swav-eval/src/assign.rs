//! Which prototype an image belongs to, and how clearly.

use std::path::Path;

use serde::Serialize;
use swav_data::Source;

use super::features::Features;
use super::table::{Cell, Kind, TableFormat, TableWriter};
use swav_train::Plan;
use swav_train::TrainError;

/// Where an image stands among the prototypes of one head. Of equal scores the first prototype's wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assignment {
    /// The prototype with the highest score.
    pub cluster: usize,
    /// Its score: the cosine of embedding and prototype.
    pub score: f32,
    /// The prototype that comes next.
    pub runner_up: usize,
    /// Its score.
    pub runner_up_score: f32,
    /// Entropy of softmax(scores/τ) in nats: 0 for one prototype alone, ln K for all alike.
    pub entropy: f32,
}

impl Assignment {
    /// From the scores of one head and the temperature τ.
    ///
    /// # Panics
    /// If there are fewer than two scores.
    pub fn of(scores: &[f32], temperature: f64) -> Self {
        assert!(scores.len() >= 2, "a runner-up needs two prototypes");
        let (mut cluster, mut runner_up) = if scores[1] > scores[0] {
            (1, 0)
        } else {
            (0, 1)
        };
        for (prototype, &score) in scores.iter().enumerate().skip(2) {
            if score > scores[cluster] {
                (cluster, runner_up) = (prototype, cluster);
            } else if score > scores[runner_up] {
                runner_up = prototype;
            }
        }
        // With e = (score − best)/τ: H = ln Σ exp e − Σ e·exp e / Σ exp e.
        let (mut sum, mut weighted) = (0.0, 0.0);
        for &score in scores {
            let exponent = f64::from(score - scores[cluster]) / temperature;
            sum += exponent.exp();
            weighted += exponent * exponent.exp();
        }
        Self {
            cluster,
            score: scores[cluster],
            runner_up,
            runner_up_score: scores[runner_up],
            entropy: (sum.ln() - weighted / sum) as f32,
        }
    }
}

/// How the images spread over the prototypes of one head.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Clusters {
    /// Prototypes there are.
    pub prototypes: usize,
    /// Prototypes that an image was assigned to.
    pub used: usize,
    /// Images of the prototype that has most.
    pub largest: u64,
}

/// Writes assignments as scores come.
#[derive(Debug)]
pub struct AssignmentWriter {
    table: TableWriter,
    temperature: f64,
    /// Of each head, the images of each prototype.
    counts: Vec<Vec<u64>>,
    images: usize,
}

impl AssignmentWriter {
    /// Starts `path`, which is not there before [`finish`](Self::finish): a row for each image with the
    /// columns path, cluster, score, runner_up, runner_up_score and entropy. Where the network has several
    /// heads of prototypes, all but the path come once for each head, with `_0`, `_1` and so on behind
    /// their names.
    ///
    /// # Errors
    /// If the plan's method has no prototypes to assign images to, or the directory does not exist or cannot
    /// be written.
    pub fn create(path: &Path, format: TableFormat, plan: &Plan) -> Result<Self, TrainError> {
        let heads = &plan.model.prototypes;
        let temperature = match plan.method.temperature() {
            Some(temperature) if temperature > 0.0 && heads.iter().all(|&k| k >= 2) => temperature,
            _ => {
                return Err(TrainError::Recipe(format!(
                    "the run's method, {}, has no prototypes to assign images to: write the features with \
                     `swav embed` and cluster those",
                    plan.method.name()
                )));
            }
        };
        let mut columns = vec![("path".to_string(), Kind::Text)];
        for head in 0..heads.len() {
            let behind = if heads.len() == 1 {
                String::new()
            } else {
                format!("_{head}")
            };
            columns.extend(COLUMNS.map(|(name, kind)| (format!("{name}{behind}"), kind)));
        }
        Ok(Self {
            table: TableWriter::create(path, format, columns)?,
            temperature,
            counts: heads
                .iter()
                .map(|&prototypes| vec![0; prototypes])
                .collect(),
            images: 0,
        })
    }

    /// Appends the images of `scores`, rows of [`Layer::Scores`](super::Layer::Scores); `source` names them.
    ///
    /// # Errors
    /// If the disk is full.
    ///
    /// # Panics
    /// If the rows are not as wide as all heads together.
    pub fn append(&mut self, scores: &Features, source: &dyn Source) -> Result<(), TrainError> {
        for (i, &index) in scores.indices.iter().enumerate() {
            let name = source.name(index);
            let mut cells = vec![Cell::Text(&name)];
            let mut rest = scores.row(i);
            for counts in &mut self.counts {
                let (head, others) = rest.split_at(counts.len());
                rest = others;
                let found = Assignment::of(head, self.temperature);
                counts[found.cluster] += 1;
                cells.extend([
                    Cell::Whole(found.cluster as u64),
                    Cell::Real(found.score),
                    Cell::Whole(found.runner_up as u64),
                    Cell::Real(found.runner_up_score),
                    Cell::Real(found.entropy),
                ]);
            }
            assert!(rest.is_empty(), "scores of {} heads", self.counts.len());
            self.table.row(&cells)?;
            self.images += 1;
        }
        Ok(())
    }

    /// Completes the file; returns the number of images and how they spread over each head.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn finish(self) -> Result<(usize, Vec<Clusters>), TrainError> {
        self.table.finish()?;
        let clusters = |counts: &Vec<u64>| Clusters {
            prototypes: counts.len(),
            used: counts.iter().filter(|&&images| images > 0).count(),
            largest: counts.iter().copied().max().unwrap_or(0),
        };
        Ok((self.images, self.counts.iter().map(clusters).collect()))
    }
}

const COLUMNS: [(&str, Kind); 5] = [
    ("cluster", Kind::Whole),
    ("score", Kind::Real),
    ("runner_up", Kind::Whole),
    ("runner_up_score", Kind::Real),
    ("entropy", Kind::Real),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_highest_scores_are_found_wherever_they_stand() {
        for (scores, cluster, runner_up) in [
            ([0.9, 0.1, 0.5], 0, 2),
            ([0.1, 0.9, 0.5], 1, 2),
            ([0.1, 0.5, 0.9], 2, 1),
            ([0.5, 0.1, 0.9], 2, 0),
            ([0.5, 0.9, 0.1], 1, 0),
            ([0.5, 0.5, 0.5], 0, 1),
            ([-0.5, 0.2, 0.2], 1, 2),
        ] {
            let found = Assignment::of(&scores, 0.1);
            assert_eq!(
                (found.cluster, found.runner_up),
                (cluster, runner_up),
                "{scores:?}"
            );
            assert_eq!(found.score, scores[cluster]);
            assert_eq!(found.runner_up_score, scores[runner_up]);
        }
    }

    #[test]
    fn entropy_is_ln_k_for_scores_that_are_alike_and_0_for_one_that_stands_alone() {
        let entropy = |scores: &[f32], temperature| Assignment::of(scores, temperature).entropy;
        assert!((entropy(&[0.3; 8], 0.1) - 8.0_f32.ln()).abs() < 1e-6);
        assert!(entropy(&[0.9, -0.9, -0.9], 0.001).abs() < 1e-6);
        // p = (3/4, 1/4).
        let wanted = 4.0_f32.ln() - 0.75 * 3.0_f32.ln();
        assert!((entropy(&[0.1 * 3.0_f32.ln(), 0.0], 0.1) - wanted).abs() < 1e-6);
    }
}
