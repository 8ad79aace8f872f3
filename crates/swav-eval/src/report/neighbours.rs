//! What lies near each image: exact nearest neighbours by cosine.

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::Serialize;

use super::content::{Progress, block};
use super::gallery::Best;
use super::page::Packed;
use crate::features::Features;
use swav_train::TrainError;
use swav_train::device::read;

/// Neighbours of each image that are known, and those of them that are shown.
pub(super) const KNOWN: usize = 15;
const SHOWN: usize = 8;

/// Images whose neighbours are shown before one is chosen.
const CHOSEN: usize = 12;

/// Similarities that are held at a time.
const SIMILARITIES: usize = 8 << 20;

/// For each row its nearest others, falling: `[rows, k]`, where k is [`KNOWN`] or all others.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) k: usize,
    pub(super) rows: Vec<u32>,
    pub(super) cosines: Vec<f32>,
}

impl Table {
    /// Compares each of the unit vectors `rows` with all others, a block at a time.
    pub(super) fn of(
        rows: &Features,
        device: &Device,
        tell: &mut Progress<'_>,
    ) -> Result<Self, TrainError> {
        let all = rows.len();
        let k = KNOWN.min(all.saturating_sub(1));
        let values = TensorData::new(rows.values.clone(), [all, rows.dim]);
        let bank = Tensor::<2>::from_data(values, device).transpose();
        let mut table = Self {
            k,
            rows: Vec::with_capacity(all * k),
            cosines: Vec::with_capacity(all * k),
        };
        let size = (SIMILARITIES / all.max(1)).max(1);
        for from in (0..all).step_by(size) {
            tell("nearest neighbours", from, all)?;
            let to = (from + size).min(all);
            let cosines = read(block(rows, from, to, device).matmul(bank.clone()))?;
            let nearest: Vec<Best> = cosines
                .par_chunks(all)
                .enumerate()
                .map(|(i, cosines)| nearest(cosines, from + i, k))
                .collect();
            for &(cosine, row) in nearest.iter().flat_map(|best| &best.0) {
                table.rows.push(row as u32);
                table.cosines.push(cosine);
            }
        }
        Ok(table)
    }
}

/// The `k` rows with the largest cosines, without row `own`.
fn nearest(cosines: &[f32], own: usize, k: usize) -> Best {
    let mut best = Best::default();
    for (row, &cosine) in cosines.iter().enumerate() {
        if row != own {
            best.offer(cosine, row, k);
        }
    }
    best
}

/// The part of a table that the page is given.
#[derive(Debug, Serialize)]
pub(super) struct Neighbours {
    k: usize,
    /// `[rows, k]`
    rows: Packed,
    /// The same, in 255ths.
    cosines: Packed,
    /// Rows that are shown first.
    chosen: Vec<usize>,
    #[serde(skip)]
    pictured: Vec<usize>,
}

impl Neighbours {
    pub(super) fn of(table: &Table, rows: usize) -> Self {
        let k = table.k.min(SHOWN);
        let chosen = CHOSEN.min(rows);
        // From the middle of equal parts: of sorted classes, not of their borders.
        let chosen: Vec<usize> = (0..chosen)
            .map(|i| (2 * i + 1) * rows / (2 * chosen))
            .collect();
        let near = |row: usize| table.rows[row * table.k..][..k].iter().copied();
        let pictured = chosen
            .iter()
            .flat_map(|&row| std::iter::once(row).chain(near(row).map(|near| near as usize)));
        let cosines = |row: usize| table.cosines[row * table.k..][..k].iter().copied();
        Self {
            k,
            rows: Packed::u16((0..rows).flat_map(near).map(|row| row as u16)),
            cosines: Packed::share((0..rows).flat_map(cosines)),
            pictured: pictured.collect(),
            chosen,
        }
    }

    /// Rows that are shown.
    pub(super) fn pictured(&self) -> impl Iterator<Item = usize> {
        self.pictured.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_the_most_alike_others_whatever_the_blocks() {
        let angles = [0.0_f32, 0.1, 3.0, 0.25, 3.2];
        let rows = Features {
            values: angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect(),
            dim: 2,
            indices: (0..5).collect(),
            labels: vec![None; 5],
        };
        let table = Table::of(&rows, &Device::flex(), &mut |_, _, _| Ok(())).unwrap();
        assert_eq!(table.k, 4);
        assert_eq!(table.rows[..2], [1, 3]);
        assert_eq!(table.rows[2 * 4], 4);
        assert!(
            table
                .cosines
                .chunks(4)
                .all(|row| row.is_sorted_by(|a, b| a >= b))
        );
    }
}
