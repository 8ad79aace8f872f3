//! What an optimizer needs on the CPU to work on the values themselves.

use burn::backend::Flex;
use burn::tensor::{DType, Device, Tensor};
use burn_flex::FlexTensor;
use swav_model::ops::is_plain;

/// Values of a task; a task takes some microseconds.
pub(super) const CHUNK: usize = 16 * 1024;

/// Whether these are tensors of f32 on the CPU.
pub(super) fn serves<const D: usize>(tensors: &[&Tensor<D>]) -> bool {
    let at_hand = |t: &&Tensor<D>| t.dtype() == DType::F32 && t.device() == Device::flex();
    !is_plain() && tensors.iter().all(at_hand)
}

/// Contiguous and whole, without a second owner of the values.
///
/// # Panics
/// If it is no tensor that [`serves`] lets pass.
pub(super) fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
    let len = x.shape().num_elements();
    match x.try_into_primitive::<Flex>() {
        Ok(x) => {
            let contiguous = x.to_contiguous();
            drop(x);
            if contiguous.storage::<f32>().len() == len {
                return contiguous;
            }
            FlexTensor::from_data(contiguous.into_data())
        }
        Err(e) => panic!("a tensor that `serves` has let pass: {e:?}"),
    }
}

pub(super) fn tensor<const D: usize>(x: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(x)
}
