//! What must hold of the kernels whatever they compute.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::cosines;
use swav_ot::{Form, Local, SinkhornConfig, reference, sinkhorn_with};

fn codes(flat: &[f32], shape: [usize; 3], config: &SinkhornConfig) -> Vec<f32> {
    let scores = Tensor::from_data(TensorData::new(flat.to_vec(), shape), &Device::flex());
    let codes = sinkhorn_with(scores, config, Form::Fused, &mut Local).unwrap();
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

#[test]
fn twenty_thousand_samples_or_prototypes_are_within_a_hundred_thousandth_of_each_code() {
    for [samples, prototypes] in [[20_000, 40], [40, 20_000], [1500, 1500]] {
        let flat = cosines(samples, prototypes, 24, 2);
        let scores: Vec<f64> = flat.iter().copied().map(f64::from).collect();
        for epsilon in [0.05, 0.01] {
            let config = SinkhornConfig {
                epsilon,
                iterations: 3,
            };
            let found = codes(&flat, [1, samples, prototypes], &config);
            let expected = reference::sinkhorn(&scores, samples, prototypes, epsilon, 3);
            for (found, expected) in found.into_iter().zip(expected) {
                let error = (f64::from(found) - expected).abs();
                assert!(
                    error <= 1e-5 * expected + 1e-15,
                    "[{samples}, {prototypes}] {epsilon}: {found} for {expected}"
                );
            }
        }
    }
}
