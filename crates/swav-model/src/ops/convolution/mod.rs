//! Convolution with kernels of our own, and its backward pass.
//!
//! | file | |
//! |---|---|
//! | this | what a backend has to bring ([`Products`]), and the graph around it ([`Convolution`]), once for all backends |
//! | `flex.rs` | the CPU: the way from a tensor to the kernels of [`conv`](super::conv) and back |
//! | `cube.rs` | GPUs with tensor cores |
//! | `dense.rs` | what is done to maps on these before: a stride becomes channels |

#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cube")]
mod dense;
#[cfg(feature = "flex")]
mod flex;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};

#[cfg(feature = "cube")]
pub(super) use dense::conv2d as conv2d_on_tensor_cores;
#[cfg(feature = "flex")]
pub(super) use flex::of_elements;

/// The numbers that define a convolution of `[images, inputs, height, width]` with weights
/// `[outputs, inputs / groups, kernel, kernel]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvShape {
    pub(crate) images: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) groups: usize,
}

impl ConvShape {
    pub(crate) fn output_size(&self, size: usize) -> usize {
        (size + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Height and width of the output.
    pub(crate) fn output_map(&self) -> [usize; 2] {
        [self.output_size(self.height), self.output_size(self.width)]
    }
}

/// The three products of a convolution that a backend brings. Maps are `f32` or `bf16`, and so is what comes of them; weights and
/// their gradient are `f32`.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion"),
)]
pub trait Products: Backend {
    /// The output.
    #[fusion(meta = |x, _, shape| {
        let [height, width] = shape.output_map();
        map_of(x, [shape.images, shape.outputs, height, width])
    })]
    fn output(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self>;

    /// The gradient of the input, for that of the output.
    #[fusion(meta = |gradient, _, shape| {
        map_of(gradient, [shape.images, shape.inputs, shape.height, shape.width])
    })]
    fn input_gradient(
        gradient: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self>;

    /// The gradient of the weight, for that of the output.
    #[fusion(meta = |_, _, shape| weight_of(shape))]
    fn weight_gradient(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self>;
}

/// A map of this shape with the elements of another.
#[cfg(feature = "fusion")]
fn map_of(
    map: &burn::backend::fusion::custom::TensorSpec,
    shape: [usize; 4],
) -> burn::backend::fusion::custom::TensorSpec {
    burn::backend::fusion::custom::TensorSpec::new(shape.into(), map.dtype)
}

/// The weight of a convolution.
#[cfg(feature = "fusion")]
fn weight_of(shape: &ConvShape) -> burn::backend::fusion::custom::TensorSpec {
    let of_group = shape.inputs / shape.groups;
    let shape = [shape.outputs, of_group, shape.kernel, shape.kernel];
    burn::backend::fusion::custom::TensorSpec::new(shape.into(), burn::tensor::DType::F32)
}

/// The convolution as the graph knows it.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion"),
    Autodiff,
)]
pub trait Convolution: Backend {
    /// The convolution of an input with a weight.
    #[fusion(meta = |x, _, shape| {
        let [height, width] = shape.output_map();
        map_of(x, [shape.images, shape.outputs, height, width])
    })]
    fn convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        shape: ConvShape,
    ) -> FloatTensor<Self>;
}

/// Where there are no gradients, a convolution is its output.
macro_rules! without_gradients {
    ($backend:ty) => {
        impl crate::ops::convolution::Convolution for $backend {
            fn convolution(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                shape: ConvShape,
            ) -> FloatTensor<Self> {
                Self::output(x, weight, shape)
            }
        }
    };
}
use without_gradients;

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

/// The backward pass of a convolution: of the input, then of the weight.
#[derive(Debug)]
struct ConvolutionBackward;

impl<B: Products> Backward<B, 2> for ConvolutionBackward {
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
        let gradient = gradients.consume::<B>(&ops.node);
        let x: FloatTensor<B> = checkpointer.retrieve_node_output(x);
        let weight: FloatTensor<B> = checkpointer.retrieve_node_output(weight);
        if let Some(node) = weight_node {
            let dw = B::weight_gradient(x, gradient.clone(), shape);
            gradients.register::<B>(node.id, dw);
        }
        // Images have no node: nobody asks for their gradient, and it is not computed.
        if let Some(node) = x_node {
            let dx = B::input_gradient(gradient, weight, shape);
            gradients.register::<B>(node.id, dx);
        }
    }
}

impl<B: Products + Convolution, C: CheckpointStrategy> Convolution for Autodiff<B, C> {
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
                let y = B::convolution(x.into_primitive(), weight.into_primitive(), shape);
                prepared.finish(state, y)
            }
            OpsKind::UnTracked(prepared) => {
                let y = B::convolution(x.into_primitive(), weight.into_primitive(), shape);
                prepared.finish(y)
            }
        }
    }
}
