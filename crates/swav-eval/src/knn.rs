//! Weighted k-nearest-neighbour accuracy.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::Serialize;

use super::features::Features;
use swav_train::TrainError;
use swav_train::device::read;

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
/// Unlabelled rows are passed over. Ties are won by the earlier row and by the smaller label.
///
/// # Memory
/// Similarities are computed in blocks of both sets, so that beside the features themselves it takes
/// some 200 MB however many rows there are.
///
/// # Errors
/// If there is no labelled row on either side, the two sets differ in width, or the device fails.
pub fn knn(
    bank: &Features,
    queries: Queries<'_>,
    configs: &[KnnConfig],
    device: &Device,
) -> Result<Vec<KnnAccuracy>, TrainError> {
    in_blocks(bank, queries, configs, device, BLOCKS)
}

/// Rows of the queries and of the bank that are compared at a time.
const BLOCKS: [usize; 2] = [4096, 4096];

fn in_blocks(
    bank: &Features,
    queries: Queries<'_>,
    configs: &[KnnConfig],
    device: &Device,
    blocks: [usize; 2],
) -> Result<Vec<KnnAccuracy>, TrainError> {
    let (judged, left_out) = match queries {
        Queries::Of(features) if features.dim != bank.dim && !features.is_empty() => {
            return Err(TrainError::Recipe(format!(
                "features of {} numbers cannot be compared with features of {}",
                features.dim, bank.dim
            )));
        }
        Queries::Of(features) => (features, false),
        Queries::LeaveOneOut => (bank, true),
    };
    let (voters, rows) = (labelled(bank), labelled(judged));
    if voters.is_empty() || rows.is_empty() {
        return Err(TrainError::Recipe(
            "kNN needs labels on both sides: put the images into one folder per class".to_string(),
        ));
    }

    let classes = voters.iter().map(|row| row.label as usize + 1).max();
    let classes = classes.unwrap_or(0);
    let most = configs.iter().map(|config| config.k).max().unwrap_or(0);
    let mut correct = vec![0_usize; configs.len()];
    for queries in rows.chunks(blocks[0]) {
        let units = unit_rows(judged, queries, device);
        let mut nearest = vec![Vec::new(); queries.len()];
        for voters in voters.chunks(blocks[1]) {
            let others = unit_rows(bank, voters, device).transpose();
            let similarities = read(units.clone().matmul(others))?;
            nearest
                .par_iter_mut()
                .zip(similarities.par_chunks(voters.len()))
                .zip(queries)
                .for_each(|((nearest, similarities), query)| {
                    let others = similarities
                        .iter()
                        .zip(voters)
                        .filter(|(_, voter)| !(left_out && voter.place == query.place))
                        .map(|(&similarity, &voter)| Neighbour { similarity, voter });
                    keep_most_alike(nearest, others, most);
                });
        }
        let right: Vec<Vec<bool>> = nearest
            .par_iter()
            .zip(queries)
            .map(|(nearest, query)| {
                let wins = |config| vote(nearest, classes, config) == query.label;
                configs.iter().map(wins).collect()
            })
            .collect();
        for right in &right {
            for (count, &right) in correct.iter_mut().zip(right) {
                *count += usize::from(right);
            }
        }
    }
    Ok(configs
        .iter()
        .zip(correct)
        .map(|(&config, correct)| KnnAccuracy {
            config,
            accuracy: correct as f64 / rows.len() as f64,
            queries: rows.len(),
        })
        .collect())
}

/// A row that has a label.
#[derive(Clone, Copy, Debug)]
struct Labelled {
    place: usize,
    label: u32,
}

fn labelled(features: &Features) -> Vec<Labelled> {
    let labels = features.labels.iter().enumerate();
    labels
        .filter_map(|(place, label)| label.map(|label| Labelled { place, label }))
        .collect()
}

/// Some rows on the device, `[rows, dim]`, each brought to unit length.
fn unit_rows(features: &Features, rows: &[Labelled], device: &Device) -> Tensor<2> {
    let mut values = Vec::with_capacity(rows.len() * features.dim);
    for row in rows {
        values.extend_from_slice(features.row(row.place));
    }
    let rows = Tensor::<2>::from_data(TensorData::new(values, [rows.len(), features.dim]), device);
    let norms = rows.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    rows / norms
}

#[derive(Clone, Copy, Debug)]
struct Neighbour {
    similarity: f32,
    voter: Labelled,
}

/// Takes in `others`, which come later in the bank, and keeps the `k` most alike in falling order.
fn keep_most_alike(
    nearest: &mut Vec<Neighbour>,
    others: impl Iterator<Item = Neighbour>,
    k: usize,
) {
    // One no more alike than the last of k would come behind it.
    let bar = nearest.last().filter(|_| nearest.len() >= k);
    let bar = bar.map(|last| last.similarity);
    nearest.extend(others.filter(|other| bar.is_none_or(|bar| other.similarity > bar)));
    let falling = |a: &Neighbour, b: &Neighbour| {
        (b.similarity.total_cmp(&a.similarity)).then(a.voter.place.cmp(&b.voter.place))
    };
    if k < nearest.len() {
        nearest.select_nth_unstable_by(k, falling);
        nearest.truncate(k);
    }
    nearest.sort_unstable_by(falling);
}

fn vote(nearest: &[Neighbour], classes: usize, config: &KnnConfig) -> u32 {
    let mut votes = vec![0.0_f64; classes];
    // Weights relative to the most alike: the same winner, and no overflow at a small T.
    let first = nearest.first().map_or(0.0, |first| first.similarity);
    for neighbour in nearest.iter().take(config.k) {
        let weight = (f64::from(neighbour.similarity - first) / config.temperature).exp();
        votes[neighbour.voter.label as usize] += weight;
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
    fn blocks_change_nothing() {
        let count = 60;
        let noise = |i: usize| ((i * 2_654_435_761) % 1009) as f32 / 1009.0 - 0.5;
        let bank = Features {
            // Every row comes twice, so that there are ties.
            values: (0..count * 4).map(|i| noise(i % (count * 2))).collect(),
            dim: 4,
            indices: (0..count).collect(),
            labels: (0..count)
                .map(|i| (i % 7 != 3).then_some(i as u32 % 3))
                .collect(),
        };
        let configs = [1, 5, 100].map(|k| KnnConfig { k, ..NEAREST });
        let device = Device::flex();
        for queries in [Queries::Of(&bank), Queries::LeaveOneOut] {
            let measure = |blocks| in_blocks(&bank, queries, &configs, &device, blocks).unwrap();
            let whole = measure([1000, 1000]);
            for blocks in [[1, 1], [7, 3], [1000, 2], [16, 1000]] {
                assert_eq!(measure(blocks), whole, "{blocks:?}");
            }
        }
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
