//! The convolution on the CPU (Burn's Flex): the way from a tensor to the kernels and back.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, bf16};
use burn_flex::FlexTensor;

use super::{ConvShape, Products, without_gradients};
use crate::ops::conv;
use crate::ops::element::Element;

/// Computes with the type of a map's elements: `of_elements!(dtype, E => …)`.
macro_rules! of_elements {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $element = f32;
                $body
            }
            DType::BF16 => {
                type $element = bf16;
                $body
            }
            other => panic!("maps are f32 or bf16, not {other:?}"),
        }
    };
}
pub(in crate::ops) use of_elements;

without_gradients!(Flex);

impl Products for Flex {
    fn output(x: FlexTensor, weight: FlexTensor, shape: ConvShape) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let [height, width] = shape.output_map();
        let map = [shape.images, shape.outputs, height, width];
        of_elements!(x.dtype(), E => {
            E::tensor(conv::forward(&shape, E::values(&x), f32::values(&weight)), map)
        })
    }

    fn input_gradient(gradient: FlexTensor, weight: FlexTensor, shape: ConvShape) -> FlexTensor {
        let (gradient, weight) = (gradient.to_contiguous(), weight.to_contiguous());
        let map = [shape.images, shape.inputs, shape.height, shape.width];
        of_elements!(gradient.dtype(), E => {
            let dx = conv::input_gradient(&shape, E::values(&gradient), f32::values(&weight));
            E::tensor(dx, map)
        })
    }

    fn weight_gradient(x: FlexTensor, gradient: FlexTensor, shape: ConvShape) -> FlexTensor {
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        let of_group = shape.inputs / shape.groups;
        let weight = [shape.outputs, of_group, shape.kernel, shape.kernel];
        of_elements!(x.dtype(), E => {
            f32::tensor(conv::weight_gradient(&shape, E::values(&x), E::values(&gradient)), weight)
        })
    }
}
