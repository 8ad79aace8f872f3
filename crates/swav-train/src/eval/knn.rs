//! Weighted k-nearest-neighbour accuracy.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::Serialize;

use super::features::{Features, read};
use crate::TrainError;

/// How neighbours vote: the k most alike, each with weight exp(s/T) where s is its cosine
/// similarity (Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
/// Discrimination", CVPR 2018, section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KnnConfig {
    /// Neighbours that vote.
    pub k: usize,
    /// T of the weights.
    pub temperature: f64,
}

/// Accuracy of one configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KnnAccuracy {
    /// How neighbours voted.
    #[serde(flatten)]
    pub config: KnnConfig,
    /// Share of the queries whose label won the vote, 0–1.
    pub accuracy: f64,
    /// Queries judged.
    pub queries: usize,
}

/// Whose labels are guessed.
#[derive(Clone, Copy, Debug)]
pub enum Queries<'a> {
    /// Rows of another set.
    Of(&'a Features),
    /// The bank's own rows, each judged by the others.
    LeaveOneOut,
}

/// kNN accuracy of the queries against `bank`, for several configurations in one pass.
///
/// Unlabelled rows are passed over. Similarities are computed in blocks of queries, so that memory
/// stays small whatever the sets. Ties are won by the earlier row and by the smaller label.
///
/// # Errors
/// If there is no labelled row on either side, the two sets differ in width, or the device fails.
pub fn knn(
    bank: &Features,
    queries: Queries<'_>,
    configs: &[KnnConfig],
    device: &Device,
) -> Result<Vec<KnnAccuracy>, TrainError> {
    let (bank_rows, bank_labels) = bank.labelled();
    let (rows, labels) = match queries {
        Queries::Of(features) if features.dim != bank.dim && !features.is_empty() => {
            return Err(TrainError::Recipe(format!(
                "features of {} numbers cannot be compared with features of {}",
                features.dim, bank.dim
            )));
        }
        Queries::Of(features) => features.labelled(),
        Queries::LeaveOneOut => (bank_rows.clone(), bank_labels.clone()),
    };
    if bank_labels.is_empty() || labels.is_empty() {
        return Err(TrainError::Recipe(
            "kNN needs labels on both sides: put the images into one folder per class".to_string(),
        ));
    }

    let dim = bank.dim;
    let bank = unit_rows(bank_rows, dim, device).transpose();
    let classes = bank_labels
        .iter()
        .max()
        .map_or(0, |&label| label as usize + 1);
    let most = configs.iter().map(|config| config.k).max().unwrap_or(0);
    let mut correct = vec![0_usize; configs.len()];
    for (block, labels) in labels.chunks(BLOCK).enumerate() {
        let first = block * BLOCK;
        let values = rows[first * dim..(first + labels.len()) * dim].to_vec();
        let similarities = read(unit_rows(values, dim, device).matmul(bank.clone()))?;
        let votes: Vec<Vec<u32>> = similarities
            .par_chunks(bank_labels.len())
            .enumerate()
            .map(|(i, row)| {
                let own = matches!(queries, Queries::LeaveOneOut).then_some(first + i);
                let nearest = most_alike(row, most, own);
                configs
                    .iter()
                    .map(|config| vote(&nearest, &bank_labels, classes, config))
                    .collect()
            })
            .collect();
        for (winners, label) in votes.iter().zip(labels) {
            for (count, winner) in correct.iter_mut().zip(winners) {
                *count += usize::from(winner == label);
            }
        }
    }
    Ok(configs
        .iter()
        .zip(correct)
        .map(|(&config, correct)| KnnAccuracy {
            config,
            accuracy: correct as f64 / labels.len() as f64,
            queries: labels.len(),
        })
        .collect())
}

/// Queries whose similarities are held at a time.
const BLOCK: usize = 256;

/// `[rows, dim]` on the device, each row of unit length.
fn unit_rows(values: Vec<f32>, dim: usize, device: &Device) -> Tensor<2> {
    let rows = values.len() / dim;
    let rows = Tensor::<2>::from_data(TensorData::new(values, [rows, dim]), device);
    let norms = rows.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    rows / norms
}

/// The `k` largest similarities with their places, in falling order, without place `own`.
fn most_alike(similarities: &[f32], k: usize, own: Option<usize>) -> Vec<(f32, usize)> {
    let mut all: Vec<(f32, usize)> = similarities
        .iter()
        .enumerate()
        .filter(|&(place, _)| Some(place) != own)
        .map(|(place, &similarity)| (similarity, place))
        .collect();
    let falling = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if k < all.len() {
        all.select_nth_unstable_by(k, falling);
        all.truncate(k);
    }
    all.sort_unstable_by(falling);
    all
}

fn vote(nearest: &[(f32, usize)], labels: &[u32], classes: usize, config: &KnnConfig) -> u32 {
    let mut votes = vec![0.0_f64; classes];
    // Weights relative to the most alike: the same winner, and no overflow at a small T.
    let first = nearest.first().map_or(0.0, |&(similarity, _)| similarity);
    for &(similarity, place) in nearest.iter().take(config.k) {
        let weight = (f64::from(similarity - first) / config.temperature).exp();
        votes[labels[place] as usize] += weight;
    }
    let mut winner = 0;
    for (label, &weight) in votes.iter().enumerate() {
        if weight > votes[winner] {
            winner = label;
        }
    }
    winner as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(rows: &[[f32; 2]], labels: &[u32]) -> Features {
        Features {
            values: rows.concat(),
            dim: 2,
            indices: (0..rows.len()).collect(),
            labels: labels.iter().map(|&label| Some(label)).collect(),
        }
    }

    const NEAREST: KnnConfig = KnnConfig {
        k: 1,
        temperature: 0.1,
    };

    #[test]
    fn a_query_takes_the_label_of_the_direction_it_points_in() {
        let bank = features(&[[1.0, 0.0], [0.0, 5.0]], &[0, 1]);
        let queries = features(&[[9.0, 1.0], [0.1, 0.3], [1.0, 0.9]], &[0, 1, 1]);
        let device = Device::flex();
        let result = knn(&bank, Queries::Of(&queries), &[NEAREST], &device).unwrap();
        assert_eq!(result[0].accuracy, 2.0 / 3.0);
    }

    #[test]
    fn left_out_a_row_is_not_its_own_neighbour() {
        let bank = features(&[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], &[0, 0, 1]);
        let result = knn(&bank, Queries::LeaveOneOut, &[NEAREST], &Device::flex()).unwrap();
        assert_eq!(result[0].accuracy, 2.0 / 3.0);
    }

    #[test]
    fn many_far_neighbours_lose_against_a_near_one_at_a_small_temperature() {
        let bank = features(
            &[[1.0, 0.0], [0.5, 0.9], [0.5, 0.9], [0.5, 0.9]],
            &[0, 1, 1, 1],
        );
        let query = features(&[[1.0, 0.01]], &[0]);
        let sharp = KnnConfig {
            k: 4,
            temperature: 0.07,
        };
        let flat = KnnConfig {
            k: 4,
            temperature: 100.0,
        };
        let result = knn(&bank, Queries::Of(&query), &[sharp, flat], &Device::flex()).unwrap();
        assert_eq!((result[0].accuracy, result[1].accuracy), (1.0, 0.0));
    }

    #[test]
    fn rows_without_labels_are_passed_over_and_none_at_all_is_an_error() {
        let mut bank = features(&[[1.0, 0.0], [0.0, 1.0]], &[0, 1]);
        bank.labels[0] = None;
        let queries = features(&[[1.0, 0.0]], &[1]);
        let device = Device::flex();
        let result = knn(&bank, Queries::Of(&queries), &[NEAREST], &device).unwrap();
        assert_eq!(result[0].accuracy, 1.0);
        bank.labels[1] = None;
        assert!(knn(&bank, Queries::Of(&queries), &[NEAREST], &device).is_err());
    }
}
