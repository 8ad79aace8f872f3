//! What must hold of k-means, in every implementation and on every device.

mod common;

use burn::tensor::{Tensor, TensorData};
use common::ranks::{cut, on_ranks};
use common::{Place, Random, on_cpu};
use proptest::prelude::*;
use swav_ot::{
    Clusters, Implementation, Local, OtError, Reduce, spherical_kmeans, spherical_kmeans_with,
};

fn unit_vectors(count: usize, dim: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut random = Random::new(seed);
    // Rounded, so that what is slow computes with the very same numbers.
    let round = |value: f64| f64::from(value as f32);
    let vectors = (0..count).map(|_| random.unit_vector(dim).into_iter().map(round).collect());
    vectors.collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn nearest(sample: &[f64], centroids: &[Vec<f64>]) -> usize {
    let start = (0, f64::NEG_INFINITY);
    let best = centroids
        .iter()
        .enumerate()
        .fold(start, |best, (k, centroid)| {
            let product = dot(sample, centroid);
            if product > best.1 { (k, product) } else { best }
        });
    best.0
}

/// As it is defined, in `f64`.
fn slowly(
    samples: &[Vec<f64>],
    mut centroids: Vec<Vec<f64>>,
    iterations: usize,
) -> (Vec<Vec<f64>>, Vec<usize>) {
    for _ in 0..iterations {
        let assignment: Vec<usize> = samples.iter().map(|s| nearest(s, &centroids)).collect();
        for (k, centroid) in centroids.iter_mut().enumerate() {
            let mut sum = vec![0.0; centroid.len()];
            let members = samples.iter().zip(&assignment).filter(|(_, of)| **of == k);
            for (sample, _) in members {
                sum.iter_mut().zip(sample).for_each(|(sum, x)| *sum += x);
            }
            let length = dot(&sum, &sum).sqrt();
            if length > 0.0 {
                *centroid = sum.into_iter().map(|x| x / length).collect();
            }
        }
    }
    let assignment = samples.iter().map(|s| nearest(s, &centroids)).collect();
    (centroids, assignment)
}

fn tensor(rows: &[Vec<f64>], place: &Place) -> Tensor<2> {
    let values: Vec<f32> = rows.iter().flatten().map(|&x| x as f32).collect();
    let shape = [rows.len(), values.len() / rows.len()];
    Tensor::from_data(TensorData::new(values, shape), &place.device)
}

fn cluster(
    samples: &[Vec<f64>],
    centroids: &[Vec<f64>],
    iterations: usize,
    place: &Place,
) -> Result<Clusters, OtError> {
    let (samples, centroids) = (tensor(samples, place), tensor(centroids, place));
    spherical_kmeans_with(
        samples,
        centroids,
        iterations,
        place.implementation,
        &mut Local,
    )
}

fn rows(tensor: Tensor<2>) -> Vec<Vec<f64>> {
    let [_, dim] = tensor.dims();
    let values: Vec<f64> = tensor.into_data().iter().collect();
    values.chunks(dim).map(<[f64]>::to_vec).collect()
}

#[test]
fn clusters_are_those_of_the_definition() {
    for (count, dim, k, iterations) in [
        (1, 1, 1, 1),
        (40, 3, 5, 0),
        (500, 16, 12, 10),
        (701, 33, 70, 4),
        (2000, 128, 130, 3),
    ] {
        let samples = unit_vectors(count, dim, 1);
        let start = samples[count - k..].to_vec();
        let (centroids, assignment) = slowly(&samples, start.clone(), iterations);
        for place in on_cpu() {
            let found = cluster(&samples, &start, iterations, &place).unwrap();
            let same = found.assignment.iter().zip(&assignment);
            let same = same.filter(|(found, expected)| **found as usize == **expected);
            assert_eq!(same.count(), count, "{count}x{dim}, {k} at {place:?}");
            for (found, expected) in rows(found.centroids)
                .iter()
                .flatten()
                .zip(centroids.iter().flatten())
            {
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{found} {expected} at {place:?}"
                );
            }
        }
    }
}

/// The sum of the cosines is what it climbs on (Dhillon and Modha, lemma 3.1).
#[test]
fn no_round_makes_the_clusters_worse() {
    let samples = unit_vectors(600, 8, 2);
    let start = samples[..20].to_vec();
    for place in on_cpu() {
        let quality = |iterations| {
            let found = cluster(&samples, &start, iterations, &place).unwrap();
            let centroids = rows(found.centroids);
            let of = samples.iter().zip(&found.assignment);
            of.map(|(sample, &k)| dot(sample, &centroids[k as usize]))
                .sum::<f64>()
        };
        let all: Vec<f64> = (0..8).map(quality).collect();
        assert!(all.windows(2).all(|two| two[1] >= two[0] - 1e-4), "{all:?}");
        assert!(all[7] > all[0] + 1.0, "{all:?}");
    }
}

#[test]
fn a_centroid_without_samples_or_whose_samples_cancel_out_stays_where_it_is() {
    let samples = [
        [1.0, 0.0, 0.0],
        [0.8, 0.6, 0.0],
        [0.0, 0.0, 1.0],
        [0.0, 0.0, -1.0],
    ]
    .map(|row| row.to_vec());
    // The second is nobody's; the third has two opposite samples, of which each is at a right angle to the first.
    let start = [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.6, 0.0]].map(|row| row.to_vec());
    let samples = &samples[..];
    for place in on_cpu() {
        let found = cluster(samples, &start[..2], 3, &place).unwrap();
        assert_eq!(rows(found.centroids)[1], start[1], "{place:?}");
        let cancelling = [samples[2].clone(), samples[3].clone()];
        let found = cluster(&cancelling, &start[2..], 3, &place).unwrap();
        let kept = rows(found.centroids);
        assert!((kept[0][1] - 0.6).abs() < 1e-7, "{place:?}: {kept:?}");
    }
}

#[test]
fn the_order_of_the_centroids_is_the_order_of_the_clusters() {
    let samples = unit_vectors(300, 12, 3);
    let start = samples[..9].to_vec();
    let order = Random::new(5).permutation(9);
    let turned: Vec<Vec<f64>> = order.iter().map(|&k| start[k].clone()).collect();
    for place in on_cpu() {
        let one = cluster(&samples, &start, 5, &place).unwrap();
        let other = cluster(&samples, &turned, 5, &place).unwrap();
        let back = other.assignment.iter().map(|&k| order[k as usize] as u32);
        assert!(back.eq(one.assignment.iter().copied()), "{place:?}");
    }
}

#[test]
fn clusters_are_the_same_to_the_bit_with_any_number_of_threads() {
    let samples = unit_vectors(3001, 40, 4);
    let start = samples[..301].to_vec();
    for place in on_cpu() {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let found = pool
                .install(|| cluster(&samples, &start, 4, &place))
                .unwrap();
            (found.centroids.into_data(), found.assignment)
        };
        let one = with(1);
        for threads in [2, 3, 7] {
            assert!(with(threads) == one, "{threads} threads at {place:?}");
        }
    }
}

#[test]
fn a_bank_that_is_a_part_of_another_tensor_is_clustered_as_its_copy() {
    let all = unit_vectors(90, 6, 6);
    let start = all[..4].to_vec();
    for place in on_cpu() {
        let part = tensor(&all, &place).slice(30..90);
        let found = spherical_kmeans(part, tensor(&start, &place), 5, &mut Local).unwrap();
        let copied = cluster(
            &all[30..],
            &start,
            5,
            &Place {
                implementation: Implementation::Fused,
                ..place
            },
        )
        .unwrap();
        assert_eq!(found.assignment, copied.assignment);
    }
}

#[test]
fn a_sample_that_is_no_number_is_told_and_not_hidden_in_a_cluster() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut samples = unit_vectors(50, 4, 7);
        let start = samples[..5].to_vec();
        samples[30][2] = bad;
        for place in on_cpu() {
            for iterations in [1, 3] {
                let error = cluster(&samples, &start, iterations, &place).unwrap_err();
                assert_eq!(error, OtError::NotFinite, "{bad} at {place:?}");
            }
        }
    }
}

#[test]
fn nothing_to_cluster_is_an_error() {
    for place in on_cpu() {
        let none = Tensor::<2>::zeros([0, 3], &place.device);
        let some = Tensor::<2>::ones([2, 3], &place.device);
        let found = spherical_kmeans_with(none, some, 3, place.implementation, &mut Local);
        assert_eq!(found.unwrap_err(), OtError::Empty([1, 0, 2]));
    }
}

/// Samples on a grid so coarse that `f32` adds them up exactly in any order, nearly of unit length.
fn on_a_grid(count: usize, dim: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut samples = unit_vectors(count, dim, seed);
    let values = samples.iter_mut().flatten();
    values.for_each(|value| *value = (*value * 4096.0).round() / 4096.0);
    samples
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ranks_with_a_part_of_the_samples_each_find_the_clusters_of_one_rank_with_all(
        samples in 12_usize..200,
        dim in 4_usize..20,
        clusters in 1_usize..12,
        iterations in 0_usize..6,
        cuts in prop::collection::vec(1_usize..1000, 1..=2),
        seed in any::<u64>(),
    ) {
        let all = on_a_grid(samples, dim, seed);
        // Apart from one another and from both ends: a rank has at least one sample.
        let cuts: Vec<usize> = cuts.iter().enumerate().map(|(i, cut)| 1 + i + cut % (samples - 2)).collect();
        let ranges = cut(samples, &cuts);
        prop_assume!(ranges.iter().all(|range| !range.is_empty()));
        for place in on_cpu() {
            let one = cluster(&all, &all[..clusters], iterations, &place).unwrap();
            let (found, numbers) = on_ranks(ranges.len(), false, |threads| {
                let own = ranges[threads.rank].clone();
                // Each rank brings those of the first centroids that are its own.
                let mut start = vec![vec![0.0; dim]; clusters];
                for k in own.clone().filter(|&sample| sample < clusters) {
                    start[k] = all[k].clone();
                }
                let start = threads.sum(tensor(&start, &place));
                let own = tensor(&all[own], &place);
                spherical_kmeans_with(own, start, iterations, place.implementation, threads).unwrap()
            });
            prop_assert_eq!(numbers, (iterations + 1) * clusters * dim);
            let assignment: Vec<u32> = found.iter().flat_map(|rank| rank.assignment.clone()).collect();
            prop_assert_eq!(&assignment, &one.assignment, "{:?}", place);
            let expected = one.centroids.into_data();
            for rank in found {
                prop_assert!(rank.centroids.into_data() == expected, "{place:?}");
            }
        }
    }
}

#[test]
fn a_centroid_moves_if_it_has_samples_on_one_rank_alone() {
    let samples = [[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]].map(|row| row.to_vec());
    let start = [[1.0, 0.0], [-0.6, 0.8], [0.0, -1.0]].map(|row| row.to_vec());
    for place in on_cpu() {
        let (found, _) = on_ranks(2, false, |threads| {
            let own = [&samples[..2], &samples[2..]][threads.rank];
            let (own, start) = (tensor(own, &place), tensor(&start, &place));
            spherical_kmeans_with(own, start, 1, place.implementation, threads).unwrap()
        });
        for rank in found {
            let centroids = rows(rank.centroids);
            assert_eq!(centroids[1], [-1.0, 0.0], "{place:?}");
            assert_eq!(
                centroids[2],
                [0.0, -1.0],
                "without samples on any rank: {place:?}"
            );
        }
    }
}

#[test]
fn a_sample_that_is_no_number_on_one_rank_is_told_on_all() {
    let samples = unit_vectors(30, 4, 7);
    for place in on_cpu() {
        let (found, _) = on_ranks(3, false, |threads| {
            let mut own = samples[10 * threads.rank..][..10].to_vec();
            if threads.rank == 1 {
                own[5][2] = f64::NAN;
            }
            let (own, start) = (tensor(&own, &place), tensor(&samples[..5], &place));
            spherical_kmeans_with(own, start, 3, place.implementation, threads).err()
        });
        assert_eq!(found, vec![Some(OtError::NotFinite); 3], "{place:?}");
    }
}
