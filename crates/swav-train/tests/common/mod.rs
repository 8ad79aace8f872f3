//! Golden files as tensors.

use std::path::PathBuf;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// One of the files in `tests/golden/`; its README says what each tensor is.
pub struct Golden {
    bytes: Vec<u8>,
}

impl Golden {
    pub fn open(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/golden")
            .join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { bytes }
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    #[allow(dead_code)] // not every test asks
    pub fn has(&self, name: &str) -> bool {
        self.file().tensor(name).is_ok()
    }

    /// Values and shape, as f64.
    pub fn values(&self, name: &str) -> (Vec<f64>, Vec<usize>) {
        let file = self.file();
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        let values = match view.dtype() {
            Dtype::F32 => view
                .data()
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
                .collect(),
            Dtype::F64 => view
                .data()
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            other => panic!("{name} is of {other:?}"),
        };
        (values, view.shape().to_vec())
    }

    pub fn number(&self, name: &str) -> f64 {
        self.values(name).0[0]
    }

    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let (values, shape) = self.values(name);
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        let shape: [usize; D] = shape.try_into().unwrap();
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

/// ‖found − expected‖ / ‖expected‖, or ‖found‖ where nothing is expected.
pub fn relative_error<const D: usize>(found: Tensor<D>, expected: &[f64]) -> f64 {
    let found = found.into_data().try_to_vec::<f32>().unwrap();
    assert_eq!(found.len(), expected.len());
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let difference = squares(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - b));
    let length = squares(&mut expected.iter().copied());
    (difference / if length > 0.0 { length } else { 1.0 }).sqrt()
}

/// For methods that look at embeddings alone.
#[allow(dead_code)] // not every test has a method
pub fn no_crop(crop: usize) -> Tensor<4> {
    panic!("crop {crop} is not looked at")
}
