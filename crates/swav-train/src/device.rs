//! Reading back from a device.

use burn::tensor::Tensor;

use crate::TrainError;

/// A tensor's values as 32-bit floats, row-major.
///
/// # Errors
/// If the device has failed meanwhile.
pub fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, TrainError> {
    tensor
        .try_into_data()
        .map_err(|error| TrainError::Device(format!("the device failed: {error}")))?
        .convert::<f32>()
        .try_into_vec()
        .map_err(|error| TrainError::Device(format!("the device gave no floats: {error:?}")))
}
