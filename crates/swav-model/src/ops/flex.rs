//! The convolution on the CPU (Burn's Flex): the way from a tensor to the kernels and back, and the backward pass.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Device, Tensor, bf16};
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::FlexTensor;

use super::conv::{self, ConvShape};
use super::element::Element;

/// Whether there are kernels for this tensor.
pub(super) fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    !super::is_plain() && x.device() == Device::flex()
}

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
pub(super) use of_elements;

/// What is added to the backend. Maps are `f32` or `bf16`, and so is the result; weights and their gradients are `f32`.
#[backend_extension(Flex, Autodiff)]
pub trait Convolution: Backend {
    /// The convolution of an input with a weight.
    fn convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self>;
}

pub(super) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    stride: usize,
    padding: usize,
    groups: usize,
) -> Tensor<4> {
    let ([images, inputs, height, width], [outputs, _, kernel, _]) = (x.dims(), weight.dims());
    let shape = ConvShape {
        images,
        inputs,
        outputs,
        height,
        width,
        kernel,
        stride,
        padding,
        groups,
    };
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::convolution(x, weight, shape))
}

impl Convolution for Flex {
    fn convolution(x: FlexTensor, weight: FlexTensor, shape: ConvShape) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let [height, width] = shape.output_map();
        let map = [shape.images, shape.outputs, height, width];
        of_elements!(x.dtype(), E => {
            E::tensor(conv::forward(&shape, E::values(&x), f32::values(&weight)), map)
        })
    }
}

/// The backward pass of a convolution: of the input, then of the weight.
#[derive(Debug)]
struct ConvolutionBackward;

impl Backward<Flex, 2> for ConvolutionBackward {
    /// Input and weight.
    type State = (NodeId, NodeId, ConvShape);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let (x, weight, shape) = ops.state;
        let [x_node, weight_node] = ops.parents;
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let x: FlexTensor = checkpointer.retrieve_node_output(x);
        let weight: FlexTensor = checkpointer.retrieve_node_output(weight);
        if let Some(node) = weight_node {
            let x = x.to_contiguous();
            let dw = of_elements!(x.dtype(), E => {
                conv::weight_gradient(&shape, E::values(&x), E::values(&gradient))
            });
            let dw = f32::tensor(dw, weight.layout().shape().clone());
            gradients.register::<Flex>(node.id, dw);
        }
        // Images have no node: nobody asks for their gradient, and it is not computed.
        if let Some(node) = x_node {
            let weight = weight.to_contiguous();
            let shape_of_x = x.layout().shape().clone();
            let dx = of_elements!(gradient.dtype(), E => {
                let dx = conv::input_gradient(&shape, E::values(&gradient), f32::values(&weight));
                E::tensor(dx, shape_of_x)
            });
            gradients.register::<Flex>(node.id, dx);
        }
    }
}

impl<C: CheckpointStrategy> Convolution for Autodiff<Flex, C> {
    fn convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node()];
        match ConvolutionBackward
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight), shape);
                let y = Flex::convolution(x.into_primitive(), weight.into_primitive(), shape);
                prepared.finish(state, y)
            }
            OpsKind::UnTracked(prepared) => {
                let y = Flex::convolution(x.into_primitive(), weight.into_primitive(), shape);
                prepared.finish(y)
            }
        }
    }
}
