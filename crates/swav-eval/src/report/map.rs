//! A map: embeddings laid out in the plane so that neighbours stay neighbours.
//!
//! UMAP (McInnes, Healy and Melville, [arXiv:1802.03426](https://arxiv.org/abs/1802.03426)) over the exact
//! neighbours that the report has anyway. One thread walks along the edges in a fixed order with random
//! numbers of its own, so the same embeddings give the same map at any number of threads, which no
//! crate promises; 50,000 points take some seconds.

use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;

use super::content::Progress;
use super::neighbours::Table;
use super::page::Packed;
use crate::features::Features;
use swav_train::TrainError;
use swav_train::device::read;

/// The curve 1/(1 + A·d^(2B)) fitted to `min_dist` = 0.3: room enough for points to be told apart.
const A: f32 = 0.992;
const B: f32 = 1.112;

/// Others that a point is pushed away from for each neighbour that it is drawn to.
const REPELLED: usize = 5;

/// The furthest a point is moved at once, in the units of the plane.
const FURTHEST: f32 = 4.0;

/// Half the side of the plane that points start in.
const START: f32 = 10.0;

/// Where each image lies, in 65,535ths of the map's longer side.
#[derive(Debug, Serialize)]
pub(super) struct Map {
    x: Packed,
    y: Packed,
}

impl Map {
    /// Lays out the unit vectors `rows`, whose neighbours are in `table`.
    pub(super) fn of(
        rows: &Features,
        table: &Table,
        device: &Device,
        tell: &mut Progress<'_>,
    ) -> Result<Self, TrainError> {
        let mut places = principal(rows, device)?;
        arrange(&mut places, &edges(table, rows.len()), tell)?;
        let [x, y] = on_grid(&places);
        Ok(Self {
            x: Packed::u16(x),
            y: Packed::u16(y),
        })
    }
}

/// Two points that belong together, and how much: `weight` in (0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
struct Edge {
    from: u32,
    to: u32,
    weight: f32,
}

/// The fuzzy graph (sections 3.1 and 3.2 of the paper): each point is drawn to its nearest with weight 1, to
/// the others the less the further they are, such that the weights add up to the logarithm of their number;
/// what either end thinks of an edge is united, `a + b − a·b`.
fn edges(table: &Table, points: usize) -> Vec<Edge> {
    let k = table.k;
    let mut directed: Vec<(u32, u32, f32)> = Vec::with_capacity(points * k);
    for from in 0..points {
        let cosines = &table.cosines[from * k..][..k];
        let distances: Vec<f32> = cosines
            .iter()
            .map(|cosine| (1.0 - cosine).max(0.0))
            .collect();
        let weights = membership(&distances);
        for (&to, weight) in table.rows[from * k..][..k].iter().zip(weights) {
            let from = from as u32;
            directed.push((from.min(to), from.max(to), weight));
        }
    }
    directed.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)));
    let mut edges: Vec<Edge> = Vec::with_capacity(directed.len());
    for (from, to, weight) in directed {
        match edges.last_mut() {
            Some(edge) if (edge.from, edge.to) == (from, to) => {
                edge.weight += weight - edge.weight * weight;
            }
            _ => edges.push(Edge { from, to, weight }),
        }
    }
    edges
}

/// Weights of neighbours at rising `distances`: exp(−(d − d₀)/σ), where d₀ is the first and σ makes their sum
/// log₂ of their number.
fn membership(distances: &[f32]) -> Vec<f32> {
    let nearest = distances.first().copied().unwrap_or(0.0);
    let weight = |distance: f32, sigma: f32| (-(distance - nearest) / sigma).exp();
    let wanted = (distances.len().max(2) as f32).log2();
    let (mut low, mut high) = (1e-6_f32, 1e3_f32);
    for _ in 0..48 {
        let sigma = (low * high).sqrt();
        let sum: f32 = distances
            .iter()
            .map(|&distance| weight(distance, sigma))
            .sum();
        if sum > wanted {
            high = sigma;
        } else {
            low = sigma;
        }
    }
    distances
        .iter()
        .map(|&distance| weight(distance, high))
        .collect()
}

/// The rows along their two directions of largest variance, `[rows, 2]`, stretched to the starting plane.
fn principal(rows: &Features, device: &Device) -> Result<Vec<[f32; 2]>, TrainError> {
    let values = TensorData::new(rows.values.clone(), [rows.len(), rows.dim]);
    let values = Tensor::<2>::from_data(values, device);
    let centred = values.clone() - values.mean_dim(0);
    let covariance = read(centred.clone().transpose().matmul(centred.clone()))?;
    let axes = leading(&covariance, rows.dim);
    let axes = Tensor::<2>::from_data(TensorData::new(axes, [2, rows.dim]), device);
    let places = read(centred.matmul(axes.transpose()))?;
    let largest = places
        .iter()
        .fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
    let place = |pair: &[f32]| [pair[0] / largest * START, pair[1] / largest * START];
    Ok(places.chunks(2).map(place).collect())
}

/// The two leading eigenvectors of a symmetric `[dim, dim]`, one after the other, by orthogonal iteration.
fn leading(matrix: &[f32], dim: usize) -> Vec<f32> {
    let mut random = Random(1);
    let mut axes: [Vec<f32>; 2] = [0, 1].map(|_| (0..dim).map(|_| random.unit() - 0.5).collect());
    let dot = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    for _ in 0..100 {
        for axis in &mut axes {
            *axis = matrix.chunks(dim).map(|row| dot(row, axis)).collect();
        }
        let [first, second] = &mut axes;
        let scale = |axis: &mut Vec<f32>| {
            let length = dot(axis, axis).sqrt().max(f32::MIN_POSITIVE);
            axis.iter_mut().for_each(|value| *value /= length);
        };
        scale(first);
        let along = dot(first, second);
        second
            .iter_mut()
            .zip(&*first)
            .for_each(|(s, f)| *s -= along * f);
        scale(second);
    }
    axes.concat()
}

/// Draws neighbours together and pushes others apart (section 4.2 and algorithm 5 of the paper). An edge is
/// walked along as often as its weight says, each time from both ends.
fn arrange(
    places: &mut [[f32; 2]],
    edges: &[Edge],
    tell: &mut Progress<'_>,
) -> Result<(), TrainError> {
    let rounds = if places.len() <= 10_000 { 500 } else { 200 };
    let heaviest = edges
        .iter()
        .fold(0.0_f32, |most, edge| most.max(edge.weight));
    // Times that each edge is owed; it is walked along when they come to one.
    let mut owed = vec![0.0_f32; edges.len()];
    let mut random = Random(0);
    for round in 0..rounds {
        tell("laying out the map", round, rounds)?;
        let pace = 1.0 - round as f32 / rounds as f32;
        for (edge, owed) in edges.iter().zip(&mut owed) {
            *owed += edge.weight / heaviest;
            if *owed < 1.0 {
                continue;
            }
            *owed -= 1.0;
            for (from, to) in [(edge.from, edge.to), (edge.to, edge.from)] {
                let (from, to) = (from as usize, to as usize);
                let moved = pull(places[from], places[to]).map(|by| by * pace);
                for axis in 0..2 {
                    places[from][axis] += moved[axis];
                    places[to][axis] -= moved[axis];
                }
                for _ in 0..REPELLED {
                    let other = random.below(places.len());
                    if other != from {
                        let moved = push(places[from], places[other]);
                        places[from][0] += moved[0] * pace;
                        places[from][1] += moved[1] * pace;
                    }
                }
            }
        }
    }
    Ok(())
}

/// How `a` is moved towards its neighbour `b`.
fn pull(a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
    let (away, squared) = apart(a, b);
    if squared == 0.0 {
        return [0.0; 2];
    }
    let power = squared.powf(B);
    let factor = -2.0 * A * B * power / (squared * (A * power + 1.0));
    away.map(|along| (factor * along).clamp(-FURTHEST, FURTHEST))
}

/// How `a` is moved away from `b`, with which it has nothing to do.
fn push(a: [f32; 2], b: [f32; 2]) -> [f32; 2] {
    let (away, squared) = apart(a, b);
    if squared == 0.0 {
        // On top of each other no direction is right, but staying is wrong.
        return [FURTHEST; 2];
    }
    let factor = 2.0 * B / ((0.001 + squared) * (A * squared.powf(B) + 1.0));
    away.map(|along| (factor * along).clamp(-FURTHEST, FURTHEST))
}

fn apart(a: [f32; 2], b: [f32; 2]) -> ([f32; 2], f32) {
    let away = [a[0] - b[0], a[1] - b[1]];
    (away, away[0] * away[0] + away[1] * away[1])
}

/// Both axes in 65,535ths of the longer side, centred.
fn on_grid(places: &[[f32; 2]]) -> [Vec<u16>; 2] {
    let bounds = [0, 1].map(|axis| {
        let all = places.iter().map(|place| place[axis]);
        all.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        })
    });
    let longer = bounds
        .iter()
        .fold(f32::MIN_POSITIVE, |most, (low, high)| most.max(high - low));
    [0, 1].map(|axis| {
        let (low, high) = bounds[axis];
        let middle = (low + high) / 2.0;
        let on_grid = |place: &[f32; 2]| {
            (((place[axis] - middle) / longer + 0.5) * f32::from(u16::MAX)).round() as u16
        };
        places.iter().map(on_grid).collect()
    })
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): good enough to throw points about.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.word()) * bound as u64) >> 32) as usize
    }

    fn unit(&mut self) -> f32 {
        self.word() as f32 / u32::MAX as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unit vectors around a few directions of 8 dimensions.
    fn bunches(each: usize, bunches: usize) -> Features {
        let mut random = Random(7);
        let mut values = Vec::new();
        for i in 0..each * bunches {
            let mut row: Vec<f32> = (0..8).map(|_| 0.3 * (random.unit() - 0.5)).collect();
            row[i % bunches] += 1.0;
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            values.extend(row.iter().map(|value| value / length));
        }
        Features {
            values,
            dim: 8,
            indices: (0..each * bunches).collect(),
            labels: vec![None; each * bunches],
        }
    }

    fn laid_out(rows: &Features) -> Vec<[f32; 2]> {
        let device = Device::flex();
        let table = Table::of(rows, &device, &mut |_, _, _| Ok(())).unwrap();
        let mut places = principal(rows, &device).unwrap();
        arrange(&mut places, &edges(&table, rows.len()), &mut |_, _, _| {
            Ok(())
        })
        .unwrap();
        places
    }

    #[test]
    fn bunches_come_out_apart_and_the_same_each_time() {
        let rows = bunches(60, 5);
        let places = laid_out(&rows);
        assert_eq!(places, laid_out(&rows));
        for i in 0..places.len() {
            let nearest = (0..places.len())
                .filter(|&j| j != i)
                .min_by(|&a, &b| {
                    let distance = |j: usize| apart(places[i], places[j]).1;
                    distance(a).total_cmp(&distance(b))
                })
                .unwrap();
            assert_eq!(nearest % 5, i % 5, "the neighbour of {i} is {nearest}");
        }
    }

    #[test]
    fn weights_fall_with_distance_and_add_up_to_the_logarithm() {
        let distances: Vec<f32> = (1..=15).map(|i| 0.01 * i as f32).collect();
        let weights = membership(&distances);
        assert_eq!(weights[0], 1.0);
        assert!(weights.is_sorted_by(|a, b| a > b));
        let sum: f32 = weights.iter().sum();
        assert!((sum - 15_f32.log2()).abs() < 1e-3, "{sum}");
    }

    #[test]
    fn one_image_and_equal_images_have_a_place_too() {
        for count in [1, 2, 20] {
            let rows = Features {
                values: [1.0, 0.0].repeat(count),
                dim: 2,
                indices: (0..count).collect(),
                labels: vec![None; count],
            };
            let places = laid_out(&rows);
            assert!(places.iter().flatten().all(|value| value.is_finite()));
            assert_eq!(on_grid(&places)[0].len(), count);
        }
    }

    #[test]
    fn the_grid_keeps_the_shape_of_the_map() {
        let [x, y] = on_grid(&[[0.0, 0.0], [10.0, 5.0]]);
        assert_eq!(x, [0, 65_535]);
        assert!(
            (i32::from(y[1]) - i32::from(y[0]) - 32_768).abs() <= 1,
            "{y:?}"
        );
    }
}
