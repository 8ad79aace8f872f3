//! Sinkhorn over blocks against Sinkhorn over all of them.

mod common;

use burn::tensor::{Tensor, TensorData};
use common::ranks::{cut, on_ranks};
use common::{cosines, on_cpu, uniform};
use proptest::prelude::*;
use swav_ot::{
    Implementation, Local, OtError, PrototypePotentials, SinkhornConfig, reference, sinkhorn,
};

const K: usize = 37;

/// Scores of blocks of different sizes, and all of them in one piece.
fn blocks(sizes: &[usize], device: &burn::tensor::Device) -> (Vec<Tensor<2>>, Tensor<2>, Vec<f32>) {
    let samples = sizes.iter().sum();
    let flat = cosines(samples, K, 16, 9);
    let whole = Tensor::from_data(TensorData::new(flat.clone(), [samples, K]), device);
    let mut start = 0;
    let parts = sizes.iter().map(|&size| {
        let part = whole.clone().narrow(0, start, size);
        start += size;
        part
    });
    (parts.collect(), whole, flat)
}

fn config(epsilon: f64, iterations: usize) -> SinkhornConfig {
    SinkhornConfig {
        epsilon,
        iterations,
    }
}

fn values(tensor: Tensor<2>) -> Vec<f64> {
    tensor.into_data().iter().collect()
}

#[test]
fn codes_of_blocks_are_those_of_all_scores_at_once() {
    for place in on_cpu()
        .into_iter()
        .filter(|place| place.implementation == Implementation::Fused)
    {
        for sizes in [&[300][..], &[100, 100, 100], &[1, 250, 17, 32]] {
            for (epsilon, iterations) in [(0.05, 1), (0.05, 3), (0.05, 30), (0.02, 10)] {
                let config = config(epsilon, iterations);
                let (parts, whole, flat) = blocks(sizes, &place.device);
                let block = |number: usize| parts[number].clone();
                let found = PrototypePotentials::of_blocks(parts.len(), block, &config, &mut Local)
                    .unwrap();
                let codes = parts.iter().map(|part| found.codes(part.clone()).unwrap());
                let codes = values(Tensor::cat(codes.collect(), 0));

                let at_once = values(sinkhorn(whole, &config).unwrap());
                let scores: Vec<f64> = flat.into_iter().map(f64::from).collect();
                let exact = reference::sinkhorn(&scores, 300, K, epsilon, iterations);
                for ((code, at_once), exact) in codes.iter().zip(at_once).zip(exact) {
                    let what = format!("{sizes:?}, ε {epsilon}, {iterations} rounds at {place:?}");
                    assert!((code - at_once).abs() < 1e-5, "{code} {at_once}: {what}");
                    assert!((code - exact).abs() < 1e-5, "{code} {exact}: {what}");
                }
            }
        }
    }
}

#[test]
fn potentials_read_back_are_the_same_to_the_bit() {
    for place in on_cpu() {
        let (parts, whole, _) = blocks(&[60, 40], &place.device);
        let config = config(0.05, 3);
        let found =
            PrototypePotentials::of_blocks(2, |b| parts[b].clone(), &config, &mut Local).unwrap();
        let numbers = found.numbers();
        assert_eq!(numbers.len(), K + 1);
        let again = PrototypePotentials::from_numbers(&numbers, 0.05, &place.device).unwrap();
        assert_eq!(again.numbers(), numbers);
        let codes =
            |potentials: &PrototypePotentials| values(potentials.codes(whole.clone()).unwrap());
        assert_eq!(codes(&again), codes(&found));
    }
}

#[test]
fn what_leaves_no_potentials_is_an_error() {
    let device = burn::tensor::Device::flex();
    let (parts, _, _) = blocks(&[20, 20], &device);
    let block = |number: usize| parts[number].clone();
    let of = |blocks, config| PrototypePotentials::of_blocks(blocks, block, &config, &mut Local);
    assert!(matches!(of(0, config(0.05, 3)), Err(OtError::Empty(_))));
    assert!(matches!(of(2, config(0.05, 0)), Err(OtError::Empty(_))));
    assert!(matches!(of(2, config(0.0, 3)), Err(OtError::Epsilon(_))));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let spoilt = |number: usize| match number {
            0 => block(0),
            _ => block(1).slice_fill([3..4, 5..6], bad),
        };
        let found = PrototypePotentials::of_blocks(2, spoilt, &config(0.05, 3), &mut Local);
        assert!(matches!(found, Err(OtError::NotFinite)), "{bad}");
    }
    assert!(PrototypePotentials::from_numbers(&[1.0], 0.05, &device).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ranks_with_a_part_of_the_blocks_each_find_the_potentials_of_one_rank_with_all(
        sizes in prop::collection::vec(1_usize..40, 3..8),
        prototypes in 1_usize..40,
        iterations in 1_usize..6,
        cuts in prop::collection::vec(1_usize..1000, 1..=2),
        small in any::<bool>(),
        sums_only in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let config = config(if small { 0.01 } else { 0.05 }, iterations);
        let cuts: Vec<usize> = cuts.iter().enumerate().map(|(i, cut)| 1 + i + cut % (sizes.len() - 2)).collect();
        let ranges = cut(sizes.len(), &cuts);
        prop_assume!(ranges.iter().all(|range| !range.is_empty()));
        for place in on_cpu().into_iter().filter(|place| place.implementation == Implementation::Fused) {
            let blocks: Vec<Tensor<2>> = sizes
                .iter()
                .enumerate()
                .map(|(number, &size)| {
                    let scores = uniform(size * prototypes, -1.0, 1.0, seed ^ number as u64);
                    Tensor::from_data(TensorData::new(scores, [size, prototypes]), &place.device)
                })
                .collect();
            let block = |number: usize| blocks[number].clone();
            let codes = |potentials: &PrototypePotentials, number: usize| {
                values(potentials.codes(block(number)).unwrap())
            };
            let one = PrototypePotentials::of_blocks(blocks.len(), block, &config, &mut Local).unwrap();
            let (found, numbers) = on_ranks(ranges.len(), sums_only, |threads| {
                let own = ranges[threads.rank].clone();
                let block = |number: usize| block(own.start + number);
                PrototypePotentials::of_blocks(own.len(), block, &config, threads).unwrap()
            });
            let maxima = if sums_only { ranges.len() } else { 1 };
            prop_assert_eq!(numbers, iterations * prototypes + maxima * (prototypes + 1));
            for (potentials, own) in found.iter().zip(&ranges) {
                prop_assert_eq!(potentials.numbers(), found[0].numbers());
                for number in own.clone() {
                    for (code, expected) in codes(potentials, number).iter().zip(codes(&one, number)) {
                        prop_assert!((code - expected).abs() < 1e-5, "{code} {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_score_that_is_not_finite_on_one_rank_is_an_error_on_all() {
    let device = burn::tensor::Device::flex();
    let (parts, _, _) = blocks(&[20, 20, 20], &device);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (found, _) = on_ranks(3, false, |threads| {
            let rank = threads.rank;
            let block = |_| match rank {
                1 => parts[1].clone().slice_fill([3..4, 5..6], bad),
                rank => parts[rank].clone(),
            };
            PrototypePotentials::of_blocks(1, block, &config(0.05, 3), threads).err()
        });
        assert_eq!(found, vec![Some(OtError::NotFinite); 3], "{bad}");
    }
}
