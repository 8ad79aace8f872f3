//! What each prototype stands for: its best images, how many it has, how pure they are, and whether it
//! is dead or a copy of another.

use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Serialize;
use swav_model::Network;
use swav_ot::{dead_prototypes, duplicate_prototypes, usage_entropy};

use super::content::{Progress, block};
use super::page::Packed;
use crate::features::Features;
use swav_train::TrainError;
use swav_train::device::read;

/// Scores that are held at a time.
const SCORES: usize = 4 << 20;

/// Best images shown of all prototypes together, and the least and most of one.
const SHOWN: usize = 6_000;
const LEAST: usize = 3;
const MOST: usize = 8;

/// Cosine above which two prototypes are one.
const SAME: f64 = 0.99;

/// What stands for no class and for no prototype.
const NONE: u32 = u32::MAX;

/// The prototypes of the first head.
#[derive(Debug, Serialize)]
pub(super) struct Gallery {
    prototypes: usize,
    heads: usize,
    /// Prototypes that no image likes best.
    dead: usize,
    /// How evenly the images are spread over the prototypes, 0–1.
    usage: f64,
    /// Images that like each prototype best.
    counts: Packed,
    /// The most frequent class among them, or [`NONE`], and its share in 255ths.
    classes: Packed,
    purity: Packed,
    /// The earlier prototype that each is a copy of, or [`NONE`].
    copies: Packed,
    /// The prototype that each image likes best.
    assigned: Packed,
    /// Images with the highest scores of each prototype, `shown` of each, and these cosines in 255ths.
    shown: usize,
    best: Packed,
    cosines: Packed,
    #[serde(skip)]
    pictured: Vec<usize>,
}

impl Gallery {
    /// Scores `rows` by the prototypes of `network`; `None` where it has none. `classes` are the names
    /// of the labels.
    pub(super) fn of(
        network: &Network,
        rows: &Features,
        classes: &[String],
        device: &Device,
        tell: &mut Progress<'_>,
    ) -> Result<Option<Self>, TrainError> {
        let heads = network.prototypes.clone().normalise().weights();
        let Some(head) = heads.first().cloned() else {
            return Ok(None);
        };
        let [_, prototypes] = head.dims();
        let shown = (SHOWN / prototypes).clamp(LEAST, MOST).min(rows.len());
        let mut best = vec![Best::default(); prototypes];
        let mut assigned = Vec::with_capacity(rows.len());
        let size = (SCORES / prototypes).max(1);
        for from in (0..rows.len()).step_by(size) {
            tell("comparing with prototypes", from, rows.len())?;
            let to = (from + size).min(rows.len());
            let scores = read(block(rows, from, to, device).matmul(head.clone()))?;
            for (row, scores) in (from..to).zip(scores.chunks(prototypes)) {
                let mut favourite = 0;
                for (prototype, &score) in scores.iter().enumerate() {
                    best[prototype].offer(score, row, shown);
                    if score > scores[favourite] {
                        favourite = prototype;
                    }
                }
                assigned.push(favourite as u32);
            }
        }

        let mut counts = vec![0_u32; prototypes];
        assigned.iter().for_each(|&p| counts[p as usize] += 1);
        let majority = majority(&assigned, &rows.labels, prototypes, classes.len());
        let mut copies = vec![NONE; prototypes];
        for copy in duplicate_prototypes(&head.transpose(), SAME) {
            copies[copy.prototype] = copy.original as u32;
        }
        let tensor = TensorData::new(counts.iter().map(|&n| n as i32).collect(), [prototypes]);
        let tensor = Tensor::<1, Int>::from_data(tensor, device);
        let usage = f64::from(read(usage_entropy(&tensor))?[0]);
        let places = || best.iter().flat_map(|best| &best.0);
        Ok(Some(Self {
            prototypes,
            heads: heads.len(),
            dead: dead_prototypes(&tensor).len(),
            usage,
            counts: Packed::u32(counts),
            classes: Packed::u32(majority.iter().map(|&(class, _)| class)),
            purity: Packed::share(majority.iter().map(|&(_, share)| share)),
            copies: Packed::u32(copies),
            assigned: Packed::u32(assigned),
            shown,
            best: Packed::u16(places().map(|&(_, row)| row as u16)),
            cosines: Packed::share(places().map(|&(score, _)| score)),
            pictured: places().map(|&(_, row)| row).collect(),
        }))
    }

    /// Rows that are shown.
    pub(super) fn pictured(&self) -> impl Iterator<Item = usize> {
        self.pictured.iter().copied()
    }
}

/// The rows with the highest scores, falling; the earlier row first where they are equal.
#[derive(Clone, Debug, Default)]
pub(super) struct Best(pub(super) Vec<(f32, usize)>);

impl Best {
    /// Takes `row` in if its score is among the `most` highest.
    pub(super) fn offer(&mut self, score: f32, row: usize, most: usize) {
        let full = self.0.len() == most;
        if full && self.0.last().is_none_or(|&(last, _)| score <= last) {
            return;
        }
        let place = self.0.partition_point(|&(other, _)| other >= score);
        if full {
            self.0.pop();
        }
        self.0.insert(place, (score, row));
    }
}

/// Of each prototype the most frequent class of its images and that class's share of those with a
/// label, or [`NONE`] and 0.
fn majority(
    assigned: &[u32],
    labels: &[Option<u32>],
    prototypes: usize,
    classes: usize,
) -> Vec<(u32, f32)> {
    let mut members = vec![Vec::new(); prototypes];
    for (&prototype, label) in assigned.iter().zip(labels) {
        members[prototype as usize].extend(label);
    }
    let mut votes = vec![0_u32; classes];
    let of_one = |labels: &Vec<u32>| {
        votes.fill(0);
        for &label in labels {
            votes[label as usize] += 1;
        }
        // The first of the most frequent.
        let winner = votes
            .iter()
            .enumerate()
            .rev()
            .max_by_key(|&(_, votes)| votes);
        match winner {
            Some((class, &count)) if count > 0 => {
                (class as u32, count as f32 / labels.len() as f32)
            }
            _ => (NONE, 0.0),
        }
    };
    members.iter().map(of_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_kept_in_falling_order_and_the_earlier_of_equals_first() {
        let mut best = Best::default();
        for (row, score) in [0.1, 0.5, 0.5, -0.2, 0.9, 0.5].into_iter().enumerate() {
            best.offer(score, row, 3);
        }
        assert_eq!(best.0, [(0.9, 4), (0.5, 1), (0.5, 2)]);
        let mut none = Best::default();
        none.offer(1.0, 0, 0);
        assert!(none.0.is_empty());
    }

    #[test]
    fn a_prototype_is_as_pure_as_its_most_frequent_class_among_the_labelled() {
        let labels = [Some(1), Some(1), Some(0), None, None, Some(1)];
        let majority = majority(&[0, 0, 0, 0, 2, 3], &labels, 4, 2);
        assert_eq!(majority[0], (1, 2.0 / 3.0));
        assert_eq!(majority[1..], [(NONE, 0.0), (NONE, 0.0), (1, 1.0)]);
    }
}
