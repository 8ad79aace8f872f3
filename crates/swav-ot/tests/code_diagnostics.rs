//! What the diagnostics say of codes and prototypes whose state is known.

mod common;

use burn::tensor::{Device, Int, Tensor, TensorData};
use common::{Random, cosines};
use swav_ot::{
    CodeStatistics, Duplicate, SinkhornConfig, assignment_counts, code_entropy, dead_prototypes,
    duplicate_prototypes, marginal_error, sinkhorn, usage_entropy,
};

fn tensor<const B: usize, const K: usize>(rows: [[f32; K]; B]) -> Tensor<2> {
    Tensor::from_floats(rows, &Device::flex())
}

fn number(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_scalar::<f32>())
}

#[test]
fn one_hot_codes_have_no_entropy_and_uniform_ones_ln_k() {
    let hard = tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]);
    assert_eq!(number(code_entropy(&hard)), 0.0);
    let uniform = tensor([[0.25; 4]; 3]);
    assert!((number(code_entropy(&uniform)) - 4_f64.ln()).abs() < 1e-6);
    let mixed = tensor([[0.5, 0.5], [1.0, 0.0]]);
    assert!((number(code_entropy(&mixed)) - 0.5 * 2_f64.ln()).abs() < 1e-6);
}

#[test]
fn the_marginal_error_is_0_for_equal_shares_and_near_2_when_one_prototype_has_all() {
    let equal = tensor([[1.0, 0.0], [0.0, 1.0]]);
    assert_eq!(number(marginal_error(&equal)), 0.0);
    let collapsed = tensor([[1.0, 0.0, 0.0, 0.0]; 5]);
    assert!((number(marginal_error(&collapsed)) - 1.5).abs() < 1e-6);
}

#[test]
fn samples_are_counted_at_their_largest_code() {
    let codes = tensor([[0.6, 0.4, 0.0], [0.1, 0.2, 0.7], [0.9, 0.1, 0.0]]);
    let counts = assignment_counts(&codes);
    assert_eq!(
        counts.to_data().iter::<i64>().collect::<Vec<_>>(),
        [2, 0, 1]
    );
    assert_eq!(dead_prototypes(&counts), [1]);
}

#[test]
fn usage_is_1_when_even_0_when_alone_and_0_when_nothing_was_counted() {
    let usage = |counts: &[i64]| {
        let counts = TensorData::new(counts.to_vec(), [counts.len()]);
        number(usage_entropy(&Tensor::<1, Int>::from_data(
            counts,
            &Device::flex(),
        )))
    };
    assert!((usage(&[3, 3, 3, 3]) - 1.0).abs() < 1e-6);
    assert_eq!(usage(&[0, 7, 0]), 0.0);
    assert_eq!(usage(&[0, 0, 0]), 0.0);
    assert_eq!(usage(&[5]), 0.0);
    assert!((usage(&[2, 2, 0, 0]) - 0.5).abs() < 1e-6);
}

#[test]
fn a_report_tells_a_balanced_batch_from_a_collapsed_one() {
    let scores = cosines(64, 8, 16, 1);
    let scores = Tensor::from_data(TensorData::new(scores, [64, 8]), &Device::flex());
    let config = SinkhornConfig {
        iterations: 30,
        ..SinkhornConfig::default()
    };
    let balanced = CodeStatistics::of(&sinkhorn(scores, &config).unwrap()).read();
    assert_eq!((balanced.used, balanced.dead), (8, 0));
    assert!(balanced.usage_entropy > 0.9 && balanced.busiest < 0.3);
    assert!(balanced.entropy > 0.0 && balanced.entropy < balanced.max_entropy);
    assert!(balanced.marginal_error < 0.01);

    let collapsed = CodeStatistics::of(&tensor([[0.0, 1.0, 0.0]; 6])).read();
    assert_eq!((collapsed.used, collapsed.dead), (1, 2));
    assert_eq!((collapsed.usage_entropy, collapsed.busiest), (0.0, 1.0));
}

#[test]
fn codes_that_are_not_numbers_give_a_report_and_no_panic() {
    let report = CodeStatistics::of(&tensor([[f32::NAN, f32::NAN]; 2])).read();
    assert!(report.entropy.is_nan() || report.marginal_error.is_nan());
}

#[test]
fn a_prototype_that_points_where_an_earlier_one_does_is_its_duplicate() {
    let prototypes = tensor([
        [1.0, 0.0, 0.0],
        [0.0, 2.0, 0.0],
        [3.0, 0.01, 0.0],
        [-1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.5, 0.0],
    ]);
    let duplicates = duplicate_prototypes(&prototypes, 0.99);
    let pairs: Vec<_> = duplicates
        .iter()
        .map(|duplicate| (duplicate.prototype, duplicate.original))
        .collect();
    assert_eq!(pairs, [(2, 0), (6, 1)]);
    assert!(
        duplicates
            .iter()
            .all(|Duplicate { cosine, .. }| *cosine > 0.9999)
    );
}

/// More prototypes than fit into a block, with the duplicate and its original in different ones.
#[test]
fn duplicates_are_found_across_blocks() {
    let (count, dim) = (1100, 32);
    let mut random = Random::new(2);
    let mut rows: Vec<Vec<f64>> = (0..count).map(|_| random.unit_vector(dim)).collect();
    for (copy, original) in [(600, 3), (1099, 600), (1024, 1023)] {
        rows[copy] = rows[original].iter().map(|value| value * 2.0).collect();
    }
    let values: Vec<f32> = rows
        .into_iter()
        .flatten()
        .map(|value| value as f32)
        .collect();
    let prototypes = Tensor::from_data(TensorData::new(values, [count, dim]), &Device::flex());
    let pairs: Vec<_> = duplicate_prototypes(&prototypes, 0.99)
        .into_iter()
        .map(|duplicate| (duplicate.prototype, duplicate.original))
        .collect();
    assert_eq!(pairs.len(), 3);
    assert_eq!(pairs[0], (600, 3));
    assert_eq!(pairs[1], (1024, 1023));
    assert!(pairs[2] == (1099, 600) || pairs[2] == (1099, 3));
}

#[test]
#[should_panic(expected = "code_entropy: the tensor is [0, 3]")]
fn statistics_of_no_codes_panic_with_the_shape() {
    code_entropy(&Tensor::zeros([0, 3], &Device::flex()));
}
