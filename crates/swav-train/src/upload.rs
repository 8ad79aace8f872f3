//! From the loader's bytes to normalised tensors on the device.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use swav_data::CropGroup;

/// Mean and standard deviation of each channel, for values in 0–1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Red, green, blue.
    pub mean: [f32; 3],
    /// Red, green, blue.
    pub std: [f32; 3],
}

impl Normalisation {
    /// What the paper's networks are trained with.
    pub const TRAINING: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.228, 0.224, 0.225],
    };

    /// What they are evaluated with; the red channel differs in the third digit.
    pub const EVALUATION: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
}

/// Uploads the crops of one resolution as bytes and normalises them on the device: `[C·B, 3, S, S]`.
pub fn upload(group: &CropGroup, normalisation: &Normalisation, device: &Device) -> Tensor<4> {
    let side = group.size;
    let rows = group.pixels.len() / (side * side * 3);
    // The loader recycles its buffers, so the tensor takes a copy.
    let data = TensorData::new(group.pixels.clone(), [rows, side, side, 3]);
    let bytes = Tensor::<4, Int>::from_data(data, (device, DType::U8));

    let per_channel =
        |values: [f32; 3]| Tensor::<1>::from_floats(values, device).reshape([1, 3, 1, 1]);
    let scale = per_channel(normalisation.std.map(|std| 1.0 / (255.0 * std)));
    let [r, g, b] = [0, 1, 2].map(|c| -normalisation.mean[c] / normalisation.std[c]);
    let shift = per_channel([r, g, b]);
    bytes.float().permute([0, 3, 1, 2]) * scale + shift
}
