//! What must hold of the kernels whatever they compute.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::cosines;
use swav_ot::{Implementation, Local, SinkhornConfig, reference, sinkhorn_with};

fn codes(flat: &[f32], shape: [usize; 3], config: &SinkhornConfig) -> Vec<f32> {
    let scores = Tensor::from_data(TensorData::new(flat.to_vec(), shape), &Device::flex());
    let codes = sinkhorn_with(scores, config, Implementation::Fused, &mut Local).unwrap();
    codes.into_data().iter().collect()
}

/// Large enough for many chunks, for codes that are written past the caches, and neither size a multiple of anything.
#[test]
fn codes_are_the_same_to_the_bit_with_any_number_of_threads() {
    let config = SinkhornConfig::default();
    for shape in [[1, 4099, 1027], [3, 700, 301], [5, 33, 17]] {
        let [sets, samples, prototypes] = shape;
        let flat = cosines(sets * samples, prototypes, 16, 1);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build()
                .unwrap()
                .install(|| codes(&flat, shape, &config))
        };
        let one = with(1);
        for threads in [2, 3, 7] {
            assert!(with(threads) == one, "{shape:?} with {threads} threads");
        }
    }
}

fn held_to_the_reference(flat: &[f32], [sets, samples, prototypes]: [usize; 3], epsilon: f64) {
    let config = SinkhornConfig {
        epsilon,
        iterations: 3,
    };
    let found = codes(flat, [sets, samples, prototypes], &config);
    let size = samples * prototypes;
    for (found, scores) in found.chunks(size).zip(flat.chunks(size)) {
        let scores: Vec<f64> = scores.iter().copied().map(f64::from).collect();
        let expected = reference::sinkhorn(&scores, samples, prototypes, epsilon, 3);
        for (found, expected) in found.iter().zip(expected) {
            let error = (f64::from(*found) - expected).abs();
            assert!(
                error <= 1e-5 * expected + 1e-15,
                "[{sets}, {samples}, {prototypes}] {epsilon}: {found} for {expected}"
            );
        }
    }
}

/// Equal numbers round the same way each time they are added; sums of thousands of them must not drift.
#[test]
fn thousands_of_equal_samples_are_within_a_hundred_thousandth_too() {
    for [samples, prototypes, kinds] in [
        [4096, 10, 2],
        [4096, 10, 8],
        [20_000, 2, 2],
        [20_000, 10, 8],
        [20_000, 40, 1],
        [127, 20_000, 1],
        [3, 20_000, 3],
    ] {
        let few = cosines(kinds, prototypes, 16, 3);
        let rows = (0..samples).flat_map(|sample| {
            let kind = sample * kinds / samples;
            few[kind * prototypes..][..prototypes].iter().copied()
        });
        let flat: Vec<f32> = rows.collect();
        held_to_the_reference(&flat, [1, samples, prototypes], 0.05);
        held_to_the_reference(&vec![0.25; flat.len()], [1, samples, prototypes], 0.05);
    }
}

/// Sets that get a thread each, and sets that share the threads.
#[test]
fn many_sets_are_solved_as_one_is() {
    for shape in [[6, 200, 97], [3, 700, 301]] {
        let [sets, samples, prototypes] = shape;
        let flat = cosines(sets * samples, prototypes, 16, 4);
        held_to_the_reference(&flat, shape, 0.05);
    }
}

#[test]
fn twenty_thousand_samples_or_prototypes_are_within_a_hundred_thousandth_of_each_code() {
    for [samples, prototypes] in [[20_000, 40], [40, 20_000], [1500, 1500]] {
        let flat = cosines(samples, prototypes, 24, 2);
        for epsilon in [0.05, 0.01] {
            held_to_the_reference(&flat, [1, samples, prototypes], epsilon);
        }
    }
}
