//! The way from a tensor to the kernels and back, and the backward passes.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{Bytes, DType, Device, Shape, Tensor};
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::{FlexTensor, Layout};

use super::conv::{self, ConvShape};

/// Whether there are kernels for this tensor.
pub(super) fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device() == Device::flex()
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
    Tensor::from_dispatch(<Dispatch as Kernels>::convolution(x, weight, shape))
}

/// What is added to the backends.
#[backend_extension(Flex, Autodiff)]
pub trait Kernels: Backend {
    /// The convolution of an input with a weight.
    fn convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self>;

    /// The gradient of the input, from the gradient of the output and the weight.
    fn convolution_input_gradient(
        gradient: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self>;

    /// The gradient of the weight, from the input and the gradient of the output.
    fn convolution_weight_gradient(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self>;
}

impl Kernels for Flex {
    fn convolution(x: FlexTensor, weight: FlexTensor, shape: ConvShape) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let [height, width] = shape.output_map();
        tensor([shape.images, shape.outputs, height, width], |y| {
            conv::forward(&shape, values(&x), values(&weight), y)
        })
    }

    fn convolution_input_gradient(
        gradient: FlexTensor,
        weight: FlexTensor,
        shape: ConvShape,
    ) -> FlexTensor {
        let (gradient, weight) = (gradient.to_contiguous(), weight.to_contiguous());
        tensor(
            [shape.images, shape.inputs, shape.height, shape.width],
            |dx| conv::input_gradient(&shape, values(&gradient), values(&weight), dx),
        )
    }

    fn convolution_weight_gradient(
        x: FlexTensor,
        gradient: FlexTensor,
        shape: ConvShape,
    ) -> FlexTensor {
        let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
        let inputs = shape.inputs / shape.groups;
        tensor([shape.outputs, inputs, shape.kernel, shape.kernel], |dw| {
            conv::weight_gradient(&shape, values(&x), values(&gradient), dw)
        })
    }
}

/// The values of a contiguous tensor.
fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("a contiguous tensor of f32")
}

/// A tensor of what `fill` writes over zeros.
fn tensor<const D: usize>(shape: [usize; D], fill: impl FnOnce(&mut [f32])) -> FlexTensor {
    let mut values = vec![0.0; shape.iter().product()];
    fill(&mut values);
    let layout = Layout::contiguous(Shape::from(shape));
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}

impl<B: Backend + Kernels, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Convolution;

        impl<B: Backend + Kernels> Backward<B, 2> for Convolution {
            type State = (NodeId, NodeId, ConvShape);

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                gradients: &mut Gradients,
                checkpointer: &mut Checkpointer,
            ) {
                let (x, weight, shape) = ops.state;
                let [x_node, weight_node] = ops.parents;
                let gradient = gradients.consume::<B>(&ops.node);
                let x = checkpointer.retrieve_node_output::<FloatTensor<B>>(x);
                let weight = checkpointer.retrieve_node_output::<FloatTensor<B>>(weight);
                if let Some(node) = weight_node {
                    let gradient = B::convolution_weight_gradient(x, gradient.clone(), shape);
                    gradients.register::<B>(node.id, gradient);
                }
                // The images themselves have no node: their gradient is not computed.
                if let Some(node) = x_node {
                    let gradient = B::convolution_input_gradient(gradient, weight, shape);
                    gradients.register::<B>(node.id, gradient);
                }
            }
        }

        let nodes = [x.node(), weight.node()];
        match Convolution.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight), shape);
                let y = B::convolution(x.into_primitive(), weight.into_primitive(), shape);
                prepared.finish(state, y)
            }
            OpsKind::UnTracked(prepared) => {
                let y = B::convolution(x.into_primitive(), weight.into_primitive(), shape);
                prepared.finish(y)
            }
        }
    }

    fn convolution_input_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: ConvShape,
    ) -> FloatTensor<Self> {
        unimplemented!("the gradient of a gradient")
    }

    fn convolution_weight_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: ConvShape,
    ) -> FloatTensor<Self> {
        unimplemented!("the gradient of a gradient")
    }
}
