//! Transport on its own: marginals of one's own, convergence, potentials, and codes that are hard.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{Place, cosines, places, uniform};
use proptest::prelude::*;
use swav_ot::{
    Local, OtError, SinkhornConfig, Stop, Transport, TransportConfig, balanced_assignment,
    hard_codes, reference, sinkhorn, transport,
};

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn solve(place: &Place, scores: &Tensor<3>, config: &TransportConfig) -> Transport {
    let config = TransportConfig {
        implementation: place.implementation,
        ..config.clone()
    };
    transport(scores.clone(), &config, &mut Local).unwrap()
}

fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f64> {
    tensor.to_data().iter().collect()
}

/// `Σ_i codes_ik / B` for each prototype of one set.
fn shares(codes: &[f64], samples: usize, prototypes: usize) -> Vec<f64> {
    let share = |k| codes.iter().skip(k).step_by(prototypes).sum::<f64>() / samples as f64;
    (0..prototypes).map(share).collect()
}

#[test]
fn rounds_go_on_until_the_marginals_are_met_and_no_longer() {
    let (samples, prototypes) = (120, 30);
    let scores = cosines(samples, prototypes, 16, 1);
    for place in places() {
        let scores = tensor(&scores, [1, samples, prototypes], &place.device);
        let mut before = 0;
        for tolerance in [0.5, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5] {
            let stop = Stop::Converged {
                tolerance,
                at_most: 10_000,
            };
            let config = TransportConfig {
                stop,
                ..TransportConfig::default()
            };
            let found = solve(&place, &scores, &config);
            assert!(found.converged && found.marginal_error <= tolerance);
            assert!(found.iterations >= before, "{place:?} {tolerance}");
            before = found.iterations;

            let shares = shares(&values(&found.codes), samples, prototypes);
            let fair = 1.0 / prototypes as f64;
            let error: f64 = shares.iter().map(|share| (share - fair).abs()).sum();
            assert!((error - found.marginal_error).abs() < 1e-6, "{place:?}");

            if found.iterations > 1 {
                let earlier = TransportConfig {
                    stop: Stop::After(found.iterations - 1),
                    ..config
                };
                assert!(solve(&place, &scores, &earlier).marginal_error > tolerance);
            }
        }
    }
}

#[test]
fn rounds_that_do_not_suffice_are_told() {
    let scores = tensor(&cosines(50, 20, 8, 2), [1, 50, 20], &Device::flex());
    let config = TransportConfig {
        epsilon: 0.005,
        stop: Stop::Converged {
            tolerance: 1e-6,
            at_most: 4,
        },
        ..TransportConfig::default()
    };
    let found = transport(scores, &config, &mut Local).unwrap();
    assert!(!found.converged && found.iterations == 4 && found.marginal_error > 1e-6);
}

#[test]
fn so_many_rounds_give_the_codes_of_so_many_rounds() {
    let scores = cosines(40, 12, 8, 3);
    for rounds in [1, 3, 7] {
        let config = SinkhornConfig {
            iterations: rounds,
            ..SinkhornConfig::default()
        };
        let plain = sinkhorn(tensor(&scores, [40, 12], &Device::flex()), &config).unwrap();
        let config = TransportConfig {
            stop: Stop::After(rounds),
            ..TransportConfig::default()
        };
        let scores = tensor(&scores, [1, 40, 12], &Device::flex());
        let found = transport(scores, &config, &mut Local).unwrap();
        assert_eq!(found.iterations, rounds);
        assert_eq!(values(&found.codes), values(&plain));
    }
}

#[test]
fn each_prototype_gets_the_share_that_was_asked_for() {
    let (samples, prototypes) = (64, 5);
    let wanted = [1.0, 2.0, 3.0, 4.0, 6.0];
    let scores = uniform(2 * samples * prototypes, -1.0, 1.0, 4);
    for place in places() {
        let scores = tensor(&scores, [2, samples, prototypes], &place.device);
        let config = TransportConfig {
            marginals: Some(wanted.to_vec()),
            ..TransportConfig::default()
        };
        let found = solve(&place, &scores, &config);
        for codes in values(&found.codes).chunks(samples * prototypes) {
            for (share, wanted) in shares(codes, samples, prototypes).iter().zip(wanted) {
                assert!((share - wanted / 16.0).abs() < 1e-4, "{place:?}: {share}");
            }
        }
    }
}

/// The two potentials say all that there is to say: codes are `exp((s − f − g)/ε)`, and of all plans with these
/// marginals theirs has the largest `⟨Q, s⟩ + εH(Q)`, which the dual objective equals.
#[test]
fn potentials_make_the_codes_and_close_the_duality_gap() {
    let (samples, prototypes, epsilon) = (60, 15, 0.1);
    let flat = cosines(samples, prototypes, 8, 5);
    for place in places() {
        let scores = tensor(&flat, [1, samples, prototypes], &place.device);
        let config = TransportConfig {
            epsilon,
            stop: Stop::Converged {
                tolerance: 2e-6,
                at_most: 100_000,
            },
            ..TransportConfig::default()
        };
        let found = solve(&place, &scores, &config);
        let codes = values(&found.codes);
        let (f, g) = (
            values(&found.prototype_potentials),
            values(&found.sample_potentials),
        );
        let mut entropy = 0.0;
        for (at, code) in codes.iter().enumerate() {
            let (i, k) = (at / prototypes, at % prototypes);
            let exponent = (f64::from(flat[at]) - f[k] - g[i]) / epsilon;
            assert!((exponent.exp() - code).abs() < 2e-6, "{place:?} {i} {k}");
            let q = code / samples as f64;
            entropy -= q * q.max(f64::MIN_POSITIVE).ln();
        }
        let score = values(&found.mean_score(&scores))[0];
        let primal = score + epsilon * entropy;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let dual = mean(&f) + mean(&g) + epsilon * (samples as f64).ln();
        assert!((primal - dual).abs() < 1e-6, "{place:?}: {primal} {dual}");
    }
}

#[test]
fn settings_that_cannot_be_met_are_errors_that_name_them() {
    let scores = || tensor(&cosines(6, 3, 8, 6), [1, 6, 3], &Device::flex());
    let refused = |scores, config: &TransportConfig| {
        transport(scores, config, &mut Local).map(drop).unwrap_err()
    };
    let default = TransportConfig::default;
    for tolerance in [0.0, -1.0, f64::NAN, 2.0] {
        let stop = Stop::Converged {
            tolerance,
            at_most: 3,
        };
        let error = refused(scores(), &TransportConfig { stop, ..default() });
        assert!(error.to_string().contains("tolerance"), "{error}");
    }
    let with = |marginals: &[f64]| TransportConfig {
        marginals: Some(marginals.to_vec()),
        ..default()
    };
    let error = refused(scores(), &with(&[1.0, 2.0]));
    assert!(matches!(
        error,
        OtError::Marginals {
            given: 2,
            prototypes: 3
        }
    ));
    for bad in [0.0, -1.0, -5.0, f64::NAN, f64::INFINITY, 1e-300] {
        let error = refused(scores(), &with(&[1.0, bad, 1.0]));
        let OtError::Marginal { prototype, .. } = error else {
            panic!("{bad}: {error}");
        };
        assert_eq!(prototype, 1, "{bad}");
    }
    let error = refused(scores(), &with(&[-1.0, -2.0, -3.0]));
    assert!(matches!(error, OtError::Marginal { prototype: 0, .. }));
    let huge = transport(scores(), &with(&[1e308, 1e308, 1e308]), &mut Local);
    assert!(huge.is_ok(), "only ratios count");
    let epsilon = TransportConfig {
        epsilon: f64::NAN,
        ..default()
    };
    assert!(matches!(refused(scores(), &epsilon), OtError::Epsilon(_)));
    assert_eq!(refused(scores() * f32::NAN, &default()), OtError::NotFinite);
}

#[test]
fn scores_in_half_precision_have_a_mean_score_too() {
    let scores = tensor(&cosines(6, 3, 8, 7), [1, 6, 3], &Device::flex());
    let half = scores.cast(burn::tensor::FloatDType::BF16);
    let found = transport(half.clone(), &TransportConfig::default(), &mut Local).unwrap();
    let mean = values(&found.mean_score(&half))[0];
    assert!((-1.0..=1.0).contains(&mean));
}

#[test]
fn hard_codes_are_one_at_the_largest() {
    let codes = tensor(&[0.2, 0.5, 0.3, 0.9, 0.1, 0.0], [2, 3], &Device::flex());
    let hard = values(&hard_codes(&codes));
    assert_eq!(hard, [0.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn an_assignment_of_codes_that_are_no_numbers_is_an_error() {
    let codes = tensor(&[0.2, f32::NAN], [1, 2], &Device::flex());
    assert_eq!(balanced_assignment(&codes).unwrap_err(), OtError::NotFinite);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The sizes are as equal as they can be, and it is what sorting all codes would grant.
    #[test]
    fn balanced_assignments_are_those_of_granting_the_largest_codes_first(
        samples in 1_usize..60,
        prototypes in 1_usize..25,
        seed in any::<u64>(),
    ) {
        let scores = uniform(samples * prototypes, -1.0, 1.0, seed);
        let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
        let codes = reference::sinkhorn(&scores, samples, prototypes, 0.1, 3);
        let codes: Vec<f32> = codes.into_iter().map(|code| code as f32).collect();
        let found = balanced_assignment(&tensor(&codes, [samples, prototypes], &Device::flex())).unwrap();

        let mut order: Vec<usize> = (0..codes.len()).collect();
        order.sort_by(|&a, &b| codes[b].total_cmp(&codes[a]).then(a.cmp(&b)));
        let (least, mut more) = (samples / prototypes, samples % prototypes);
        let (mut sizes, mut expected) = (vec![0; prototypes], vec![usize::MAX; samples]);
        for at in order {
            let (i, k) = (at / prototypes, at % prototypes);
            let room = sizes[k] < least || (sizes[k] == least && more > 0);
            if expected[i] == usize::MAX && room {
                more -= usize::from(sizes[k] == least);
                sizes[k] += 1;
                expected[i] = k;
            }
        }
        prop_assert_eq!(&found, &expected);
        prop_assert!(sizes.iter().all(|&size| size == least || size == least + 1));
    }

    /// Shapes of every kind, by every implementation, against the slow reference: also relative to each code.
    #[test]
    fn any_shape_at_any_epsilon_is_what_the_reference_says(
        samples in 1_usize..70,
        prototypes in 1_usize..70,
        sets in 1_usize..4,
        iterations in 1_usize..6,
        epsilon in 0.01_f64..1.0,
        seed in any::<u64>(),
    ) {
        let flat = cosines(sets * samples, prototypes, 32, seed);
        for place in places() {
            let scores = tensor(&flat, [sets, samples, prototypes], &place.device);
            let config = TransportConfig { epsilon, stop: Stop::After(iterations), ..TransportConfig::default() };
            let codes = values(&solve(&place, &scores, &config).codes);
            for (codes, scores) in codes.chunks(samples * prototypes).zip(flat.chunks(samples * prototypes)) {
                let scores: Vec<f64> = scores.iter().copied().map(f64::from).collect();
                let expected = reference::sinkhorn(&scores, samples, prototypes, epsilon, iterations);
                for (code, expected) in codes.iter().zip(&expected) {
                    let error = (code - expected).abs();
                    prop_assert!(error <= 1e-5 * expected + 1e-12, "{place:?}: {code} for {expected}");
                }
            }
        }
    }
}
