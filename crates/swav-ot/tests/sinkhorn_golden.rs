//! Codes against those of an independent program. Regenerate with `tests/golden/method.py`.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use swav_ot::{SinkhornConfig, reference, sinkhorn};

fn doubles(file: &SafeTensors, name: &str) -> Vec<f64> {
    let view = file.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F64, "{name}");
    let chunks = view.data().as_chunks::<8>().0;
    chunks
        .iter()
        .map(|bytes| f64::from_le_bytes(*bytes))
        .collect()
}

fn singles(file: &SafeTensors, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F32, "{name}");
    let chunks = view.data().as_chunks::<4>().0;
    chunks
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect()
}

fn largest_difference(one: impl IntoIterator<Item = f64>, other: &[f64]) -> f64 {
    let one: Vec<f64> = one.into_iter().collect();
    assert_eq!(one.len(), other.len());
    let differences = one
        .iter()
        .zip(other)
        .map(|(one, other)| (one - other).abs());
    differences.fold(0.0, f64::max)
}

#[test]
fn codes_and_their_reference_equal_those_computed_in_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/method_sinkhorn.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();

    let cases = file
        .names()
        .iter()
        .filter(|name| name.ends_with(".codes"))
        .count();
    assert!(cases > 0);
    for case in 0..cases {
        let name = |part: &str| format!("{case}.{part}");
        let view = file.tensor(&name("scores")).unwrap();
        let [samples, prototypes] = view.shape().try_into().unwrap();
        let scores = singles(&file, &name("scores"));
        let expected = doubles(&file, &name("codes"));
        let config = SinkhornConfig {
            epsilon: doubles(&file, &name("epsilon"))[0],
            iterations: doubles(&file, &name("iterations"))[0] as usize,
        };

        let wide: Vec<f64> = scores.iter().copied().map(f64::from).collect();
        let slow = reference::sinkhorn(
            &wide,
            samples,
            prototypes,
            config.epsilon,
            config.iterations,
        );
        let error = largest_difference(slow, &expected);
        assert!(error < 1e-12, "case {case}, reference: {error:e}");

        let data = TensorData::new(scores, [samples, prototypes]);
        let codes = sinkhorn(Tensor::from_data(data, &Device::flex()), &config).unwrap();
        let error = largest_difference(codes.into_data().iter::<f64>(), &expected);
        // With no iterations codes can be larger than one, and so can what they are rounded by.
        let largest = expected.iter().copied().fold(1.0, f64::max);
        assert!(error < 1e-6 * largest, "case {case}, {config:?}: {error:e}");
    }
}
