//! What must hold of codes, whatever the scores: the marginals, the symmetries, and agreement with the
//! slow reference.

mod common;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use common::ranks::on_ranks;
use common::{Place, Random, cosines, places, uniform};
use proptest::prelude::*;
use swav_ot::{Implementation, Local, OtError, SinkhornConfig, reference, sinkhorn, sinkhorn_with};

fn config(epsilon: f64, iterations: usize) -> SinkhornConfig {
    SinkhornConfig {
        epsilon,
        iterations,
    }
}

fn tensor(scores: &[f32], samples: usize, prototypes: usize) -> Tensor<2> {
    let data = TensorData::new(scores.to_vec(), [samples, prototypes]);
    Tensor::from_data(data, &Device::flex())
}

/// Codes `[B, K]` by an implementation, and whatever is wrong with the scores.
fn codes_by(
    place: &Place,
    scores: &[f32],
    [samples, prototypes]: [usize; 2],
    config: &SinkhornConfig,
) -> Vec<f32> {
    let data = TensorData::new(scores.to_vec(), [1, samples, prototypes]);
    let scores = Tensor::from_data(data, &place.device);
    let codes = sinkhorn_with(scores, config, place.implementation, &mut Local).unwrap();
    assert_eq!(codes.dims(), [1, samples, prototypes]);
    codes.into_data().iter().collect()
}

/// Calls `check` with the codes of every implementation on every device.
fn each_implementation(
    scores: &[f32],
    samples: usize,
    prototypes: usize,
    config: &SinkhornConfig,
    check: impl Fn(Vec<f32>, &Place),
) {
    for place in places() {
        check(
            codes_by(&place, scores, [samples, prototypes], config),
            &place,
        );
    }
}

/// The codes of the fused kernels on the CPU.
fn codes(scores: &[f32], samples: usize, prototypes: usize, config: &SinkhornConfig) -> Vec<f32> {
    let codes = sinkhorn(tensor(scores, samples, prototypes), config).unwrap();
    assert_eq!(codes.dims(), [samples, prototypes]);
    codes.into_data().iter().collect()
}

/// The codes `[N, B, K]` of the fused kernels, on one rank.
fn batched_codes(scores: Tensor<3>, config: &SinkhornConfig) -> Tensor<3> {
    sinkhorn_with(scores, config, Implementation::Fused, &mut Local).unwrap()
}

fn oracle(scores: &[f32], samples: usize, prototypes: usize, config: &SinkhornConfig) -> Vec<f64> {
    let scores: Vec<f64> = scores.iter().copied().map(f64::from).collect();
    reference::sinkhorn(
        &scores,
        samples,
        prototypes,
        config.epsilon,
        config.iterations,
    )
}

fn largest_difference<A: Into<f64> + Copy, B: Into<f64> + Copy>(one: &[A], other: &[B]) -> f64 {
    assert_eq!(one.len(), other.len());
    let differences = one.iter().zip(other).map(|(one, other)| {
        let difference = ((*one).into() - (*other).into()).abs();
        assert!(!difference.is_nan());
        difference
    });
    differences.fold(0.0, f64::max)
}

/// What the codes of one column deviate from `B/K` by, relative to all samples.
fn marginal_error(codes: &[f64], samples: usize, prototypes: usize) -> f64 {
    let share = samples as f64 / prototypes as f64;
    let deviation = (0..prototypes).map(|prototype| {
        let sum: f64 = codes.iter().skip(prototype).step_by(prototypes).sum();
        (sum - share).abs()
    });
    deviation.sum::<f64>() / samples as f64
}

const SHAPES: [(usize, usize); 8] = [
    (1, 1),
    (1, 7),
    (7, 1),
    (5, 12),
    (12, 5),
    (64, 30),
    (256, 300),
    (512, 100),
];

#[test]
fn codes_of_cosine_scores_equal_the_reference_to_a_millionth() {
    for (samples, prototypes) in SHAPES {
        let scores = cosines(samples, prototypes, 128, 1);
        for epsilon in [1.0, 0.3, 0.1, 0.05, 0.03, 0.02, 0.01] {
            for iterations in 1..=10 {
                let config = config(epsilon, iterations);
                let expected = oracle(&scores, samples, prototypes, &config);
                let tolerance = if iterations <= 3 { 1e-6 } else { 2e-6 };
                each_implementation(&scores, samples, prototypes, &config, |codes, place| {
                    let error = largest_difference(&codes, &expected);
                    assert!(
                        error <= tolerance,
                        "[{samples}, {prototypes}] {config:?} {place:?}: {error:e}"
                    );
                });
            }
        }
    }
}

/// At small epsilons the rounding of a score (6e-8 of 1) over epsilon is what separates the two.
#[test]
fn codes_of_scores_over_the_whole_range_equal_the_reference_up_to_the_rounding_of_a_score() {
    for epsilon in [1.0, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002, 0.001] {
        for (samples, prototypes) in SHAPES {
            let scores = uniform(samples * prototypes, -1.0, 1.0, 2);
            for iterations in [1, 2, 3, 4, 5, 10] {
                let config = config(epsilon, iterations);
                let expected = oracle(&scores, samples, prototypes, &config);
                let rounding = if iterations <= 3 { 3e-8 } else { 1.2e-7 };
                each_implementation(&scores, samples, prototypes, &config, |codes, place| {
                    let error = largest_difference(&codes, &expected);
                    assert!(
                        error <= 3e-7 + rounding / epsilon,
                        "[{samples}, {prototypes}] {config:?} {place:?}: {error:e}"
                    );
                });
            }
        }
    }
}

#[test]
fn codes_without_an_iteration_equal_the_reference() {
    for (samples, prototypes) in SHAPES {
        let scores = cosines(samples, prototypes, 128, 3);
        for epsilon in [1.0, 0.05, 0.01] {
            let config = config(epsilon, 0);
            let expected = oracle(&scores, samples, prototypes, &config);
            let largest = expected.iter().copied().fold(0.0, f64::max);
            let error =
                largest_difference(&codes(&scores, samples, prototypes, &config), &expected);
            assert!(
                error <= 4e-6 * largest,
                "{config:?}: {error:e} of {largest}"
            );
        }
    }
}

#[test]
fn rows_sum_to_one_at_every_epsilon() {
    for (samples, prototypes) in SHAPES {
        let scores = uniform(samples * prototypes, -1.0, 1.0, 3);
        for epsilon in [1.0, 0.05, 0.01, 0.001] {
            for iterations in [1, 2, 3, 4, 9] {
                let config = config(epsilon, iterations);
                each_implementation(&scores, samples, prototypes, &config, |codes, place| {
                    assert!(codes.iter().all(|code| (0.0..=1.0 + 1e-6).contains(code)));
                    for row in codes.chunks(prototypes) {
                        let sum: f64 = row.iter().copied().map(f64::from).sum();
                        assert!((sum - 1.0).abs() < 2e-6, "{config:?} {place:?}: {sum}");
                    }
                });
            }
        }
    }
}

/// The bound is that of Altschuler, Weed and Rigollet (*Near-linear time approximation algorithms for optimal
/// transport via Sinkhorn iteration*, 2017, section 3): a round lowers a potential that starts below `ln(s/l)` by half
/// the squared error or more, where `s` is the sum and `l` the smallest entry of `exp(scores/ε)`.
#[test]
fn shares_of_the_prototypes_become_equal_with_more_iterations() {
    let (samples, prototypes) = (96, 24);
    let scores = cosines(samples, prototypes, 16, 4);
    let error = |iterations| {
        let codes = codes(&scores, samples, prototypes, &config(0.05, iterations));
        let codes: Vec<f64> = codes.into_iter().map(f64::from).collect();
        marginal_error(&codes, samples, prototypes)
    };
    let rounds = [1, 2, 3, 5, 10, 30, 200];
    let errors = rounds.map(error);
    assert!(
        errors.windows(2).all(|pair| pair[1] <= pair[0] + 1e-5),
        "{errors:?}"
    );
    assert!(errors[6] < 1e-5, "{errors:?}");

    let exponents = scores.iter().map(|score| f64::from(*score) / 0.05);
    let sum: f64 = exponents.clone().map(f64::exp).sum();
    let start = sum.ln() - exponents.fold(f64::INFINITY, f64::min);
    for (rounds, error) in rounds.into_iter().zip(errors) {
        let bound = (2.0 * start / rounds as f64).sqrt();
        assert!(error <= bound, "{rounds} rounds: {error} of {bound}");
    }
}

#[test]
fn no_iterations_give_codes_that_sum_to_one_on_average() {
    let (samples, prototypes) = (10, 4);
    let scores = cosines(samples, prototypes, 16, 5);
    let codes = codes(&scores, samples, prototypes, &config(0.05, 0));
    let total: f64 = codes.iter().copied().map(f64::from).sum();
    assert!((total - samples as f64).abs() < 1e-5);
}

#[test]
fn a_single_prototype_takes_everything_and_a_single_sample_goes_everywhere() {
    let config = SinkhornConfig::default();
    for code in codes(&[0.3, -0.9, 0.1], 3, 1, &config) {
        assert!((code - 1.0).abs() < 1e-6);
    }
    // With one sample every prototype's share is that sample's: uniform, whatever the scores.
    for code in codes(&[0.9, -0.9, 0.1, 0.4], 1, 4, &config) {
        assert!((code - 0.25).abs() < 1e-6);
    }
}

/// The cause of not-a-number codes elsewhere: one sample or prototype that is far from everything
/// vanishes to zero when only the largest of all scores is taken out.
#[test]
fn a_prototype_and_a_sample_far_from_all_others_still_get_their_share() {
    let (samples, prototypes) = (6, 3);
    let mut scores = uniform(samples * prototypes, 0.9, 1.0, 6);
    for sample in 0..samples {
        scores[sample * prototypes] = -1.0;
    }
    scores[..prototypes].fill(-1.0);
    for epsilon in [0.05, 0.01, 0.001] {
        let config = config(epsilon, 3);
        let expected = oracle(&scores, samples, prototypes, &config);
        each_implementation(&scores, samples, prototypes, &config, |codes, place| {
            let error = largest_difference(&codes, &expected);
            assert!(error < 5e-7 + 5e-8 / epsilon, "{place:?}: {error:e}");
            let share: f32 = codes.iter().step_by(prototypes).sum();
            assert!(share > 0.5, "{place:?}: {share}");
        });
    }
}

#[test]
fn many_iterations_at_a_tiny_epsilon_bring_back_entries_that_were_rounded_to_zero() {
    let (samples, prototypes) = (40, 10);
    let scores = uniform(samples * prototypes, -1.0, 1.0, 7);
    let config = config(0.002, 300);
    let expected = oracle(&scores, samples, prototypes, &config);
    each_implementation(&scores, samples, prototypes, &config, |codes, place| {
        let error = largest_difference(&codes, &expected);
        assert!(error < 1e-3, "{place:?}: {error:e}");
    });
}

#[test]
fn scores_in_half_precision_are_cast_up_first() {
    let (samples, prototypes) = (16, 8);
    let scores = tensor(&cosines(samples, prototypes, 16, 8), samples, prototypes);
    for dtype in [FloatDType::F16, FloatDType::BF16] {
        let half = scores.clone().cast(dtype);
        let cast_up = half.clone().cast(FloatDType::F32);
        let config = config(0.005, 3);
        let codes = sinkhorn(half, &config).unwrap().into_data();
        assert_eq!(codes, sinkhorn(cast_up, &config).unwrap().into_data());
    }
}

#[test]
fn codes_are_constants_of_the_graph_that_their_scores_are_in() {
    let scores = tensor(&cosines(4, 3, 8, 9), 4, 3).autodiff().require_grad();
    let codes = sinkhorn(scores.clone() * 2.0, &SinkhornConfig::default()).unwrap();
    assert!(!codes.is_tracked());
    let gradients = (scores.clone() * codes.clone()).sum().backward();
    let gradient = scores.grad(&gradients).unwrap();
    assert_eq!(gradient.into_data(), codes.into_data());
}

#[test]
fn one_score_that_is_not_finite_is_an_error_and_spoils_every_code_where_nobody_looks() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for iterations in [0, 1, 3] {
            let config = config(0.05, iterations);
            let mut scores = cosines(35, 20, 8, 11);
            for at in [6, 34 * 20 + 19] {
                let good = std::mem::replace(&mut scores[at], bad);
                each_implementation(&scores, 35, 20, &config, |codes, place| {
                    assert!(codes.iter().all(|code| code.is_nan()), "{bad} {place:?}");
                });
                let found = sinkhorn(tensor(&scores, 35, 20), &config);
                assert_eq!(found.unwrap_err(), OtError::NotFinite);
                scores[at] = good;
            }
        }
    }
}

#[test]
fn a_set_that_is_not_finite_leaves_the_others_alone() {
    let good = cosines(9, 7, 8, 12);
    let mut bad = good.clone();
    bad[10] = f32::NAN;
    for place in places() {
        let data = TensorData::new([bad.clone(), good.clone()].concat(), [2, 9, 7]);
        let scores = Tensor::<3>::from_data(data, &place.device);
        let config = SinkhornConfig::default();
        let codes = sinkhorn_with(scores, &config, place.implementation, &mut Local).unwrap();
        let codes: Vec<f32> = codes.into_data().iter().collect();
        assert!(codes[..63].iter().all(|code| code.is_nan()), "{place:?}");
        assert_eq!(codes[63..], codes_by(&place, &good, [9, 7], &config));
    }
}

#[test]
fn an_empty_batch_and_an_impossible_epsilon_are_errors() {
    for shape in [[0, 3], [3, 0]] {
        let found = sinkhorn(
            Tensor::zeros(shape, &Device::flex()),
            &SinkhornConfig::default(),
        );
        let [samples, prototypes] = shape;
        assert_eq!(found.unwrap_err(), OtError::Empty([1, samples, prototypes]));
    }
    let found = sinkhorn(Tensor::zeros([2, 3], &Device::flex()), &config(0.0, 3));
    assert_eq!(found.unwrap_err(), OtError::Epsilon(0.0));
}

/// Rows that lie apart, columns that do, and a matrix that is a part of another.
#[test]
fn scores_may_lie_in_memory_in_any_way() {
    let (samples, prototypes) = (37, 21);
    let config = SinkhornConfig::default();
    let scores = uniform(samples * prototypes, -1.0, 1.0, 13);
    for place in places() {
        let data = TensorData::new(scores.clone(), [samples, prototypes]);
        let plain = Tensor::<2>::from_data(data, &place.device);
        let expected = codes_by(&place, &scores, [samples, prototypes], &config);
        let wide = Tensor::cat(
            vec![plain.zeros_like(), plain.clone(), plain.zeros_like()],
            1,
        );
        let tall = Tensor::cat(
            vec![plain.zeros_like(), plain.clone(), plain.zeros_like()],
            0,
        );
        let turned = plain.clone().transpose().mul_scalar(1.0);
        let repeated: Tensor<3> = plain
            .clone()
            .unsqueeze_dim::<3>(0)
            .expand([2, samples, prototypes]);
        for strided in [
            wide.narrow(1, prototypes, prototypes).unsqueeze_dim(0),
            tall.narrow(0, samples, samples).unsqueeze_dim(0),
            turned.transpose().unsqueeze_dim(0),
            repeated,
        ] {
            let codes = sinkhorn_with(strided, &config, place.implementation, &mut Local).unwrap();
            let codes: Vec<f32> = codes.into_data().iter().collect();
            for codes in codes.chunks(expected.len()) {
                assert!(largest_difference(codes, &expected) < 1e-6, "{place:?}");
            }
        }
    }
}

#[test]
fn only_epsilons_that_f32_can_divide_by_are_valid() {
    for epsilon in [1.0, 0.05, 1e-6] {
        assert!(config(epsilon, 3).validate().is_ok());
    }
    for epsilon in [0.0, -0.05, 1e-7, f64::NAN, f64::INFINITY] {
        assert!(config(epsilon, 3).validate().is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn permuting_samples_and_prototypes_permutes_the_codes(
        samples in 1_usize..20,
        prototypes in 1_usize..20,
        seed in any::<u64>(),
        small in any::<bool>(),
    ) {
        let config = config(if small { 0.005 } else { 0.05 }, 3);
        let scores = uniform(samples * prototypes, -1.0, 1.0, seed);
        let mut random = Random::new(seed ^ 1);
        let rows = random.permutation(samples);
        let columns = random.permutation(prototypes);
        let permute = |values: &[f32]| -> Vec<f32> {
            rows.iter()
                .flat_map(|row| columns.iter().map(move |column| row * prototypes + column))
                .map(|at| values[at])
                .collect()
        };
        let expected = permute(&codes(&scores, samples, prototypes, &config));
        let found = codes(&permute(&scores), samples, prototypes, &config);
        prop_assert!(largest_difference(&found, &expected) < 4e-6);
    }

    #[test]
    fn adding_a_constant_to_all_scores_changes_nothing(
        samples in 1_usize..20,
        prototypes in 1_usize..20,
        iterations in 0_usize..5,
        seed in any::<u64>(),
        // Sums that are exact in f32, so that the scores differ by the constant and nothing else.
        constant in -8_i32..8,
    ) {
        let config = config(0.05, iterations);
        let scores: Vec<f32> = uniform(samples * prototypes, -1.0, 1.0, seed)
            .into_iter()
            .map(|score| (score * 1024.0).round() / 1024.0)
            .collect();
        let shifted: Vec<f32> = scores.iter().map(|score| score + constant as f32).collect();
        let error = largest_difference(
            &codes(&scores, samples, prototypes, &config),
            &codes(&shifted, samples, prototypes, &config),
        );
        // Potentials as large as the constant are rounded as coarsely as it is; with no iterations the largest
        // code can be as large as the batch.
        let largest = if iterations == 0 { samples as f64 } else { 1.0 };
        prop_assert!(error < 1e-5 * largest, "{error:e}");
    }

    #[test]
    fn a_batch_of_problems_gives_the_same_codes_as_one_at_a_time(
        sets in 1_usize..5,
        samples in 1_usize..12,
        prototypes in 1_usize..12,
        iterations in 0_usize..6,
        seed in any::<u64>(),
    ) {
        let config = config(0.05, iterations);
        let scores: Vec<Tensor<2>> = (0..sets)
            .map(|set| uniform(samples * prototypes, -1.0, 1.0, seed ^ set as u64))
            .map(|scores| tensor(&scores, samples, prototypes))
            .collect();
        let batched = batched_codes(Tensor::stack(scores.clone(), 0), &config);
        let alone = |scores| sinkhorn(scores, &config).unwrap();
        let looped = scores.into_iter().map(alone).collect();
        let looped: Tensor<3> = Tensor::stack(looped, 0);
        let [batched, looped] = [batched, looped].map(|codes| {
            codes.into_data().iter::<f32>().collect::<Vec<f32>>()
        });
        prop_assert!(largest_difference(&batched, &looped) < 1e-6);
    }
}

/// Codes `[N, B, K]` from ranks that hold `split[rank]` samples each, and how many numbers a rank sent.
fn over_ranks(
    scores: &Tensor<3>,
    config: SinkhornConfig,
    split: &[usize],
    sums_only: bool,
) -> (Tensor<3>, usize) {
    let (codes, numbers) = on_ranks(split.len(), sums_only, |threads| {
        let start = split[..threads.rank].iter().sum();
        let own = scores.clone().narrow(1, start, split[threads.rank]);
        sinkhorn_with(own, &config, Implementation::Fused, threads).unwrap()
    });
    (Tensor::cat(codes, 1), numbers)
}

#[test]
fn four_ranks_give_the_codes_of_one() {
    let (sets, samples, prototypes) = (2, 64, 20);
    let scores = uniform(sets * samples * prototypes, -1.0, 1.0, 10);
    let data = TensorData::new(scores, [sets, samples, prototypes]);
    let scores = Tensor::<3>::from_data(data, &Device::flex());
    for epsilon in [0.05, 0.01] {
        for iterations in [0, 1, 3, 5] {
            for split in [[16, 16, 16, 16], [1, 40, 20, 3]] {
                for sums_only in [false, true] {
                    let config = config(epsilon, iterations);
                    let (found, _) = over_ranks(&scores, config, &split, sums_only);
                    let alone = batched_codes(scores.clone(), &config);
                    let found: Vec<f32> = found.into_data().iter().collect();
                    let alone: Vec<f32> = alone.into_data().iter().collect();
                    let error = largest_difference(&found, &alone);
                    let largest = if iterations == 0 { samples as f64 } else { 1.0 };
                    assert!(error < 1e-6 * largest, "{config:?} {split:?}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn a_rank_sends_a_number_for_each_prototype_and_round_and_one_more_each_and_one_at_the_start() {
    let scores = Tensor::<3>::zeros([1, 8, 20], &Device::flex());
    let (_, numbers) = over_ranks(&scores, SinkhornConfig::default(), &[2, 2, 2, 2], false);
    assert_eq!(numbers, 20 * (3 + 1) + 1);
}
