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
use super::norm::{self, Moments, NormShape, Scaling};
use super::{Normalised, Then};

/// Whether there are kernels for this tensor.
pub(super) fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device() == Device::flex()
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

    /// Batch normalisation with the statistics of the batch, then perhaps the ReLU. Also the mean and
    /// the biased variance of the batch.
    fn normalisation(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The same, but then a shortcut is added, and then comes the ReLU.
    fn normalisation_with_shortcut(
        x: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
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

pub(super) fn batch_norm_train<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
    then: Then<D>,
) -> Normalised<D> {
    let (x, weight, bias) = (
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    );
    let (output, mean, variance) = match then {
        Then::Nothing => <Dispatch as Kernels>::normalisation(x, weight, bias, epsilon, false),
        Then::Relu => <Dispatch as Kernels>::normalisation(x, weight, bias, epsilon, true),
        Then::AddRelu(shortcut) => {
            let shortcut = shortcut.into_dispatch();
            <Dispatch as Kernels>::normalisation_with_shortcut(x, shortcut, weight, bias, epsilon)
        }
    };
    Normalised {
        output: Tensor::from_dispatch(output),
        mean: Tensor::from_dispatch(mean),
        variance: Tensor::from_dispatch(variance),
    }
}

/// Without gradients: for tensors that are not on an autodiff device.
pub(super) fn batch_norm<const D: usize>(
    x: Tensor<D>,
    [weight, bias, mean, variance]: [Tensor<1>; 4],
    epsilon: f64,
    then: Then<D>,
) -> Tensor<D> {
    let (shortcut, relu) = match then {
        Then::Nothing => (None, false),
        Then::Relu => (None, true),
        Then::AddRelu(shortcut) => (Some(primitive(shortcut)), true),
    };
    let moments = moments(&primitive(mean), &primitive(variance));
    let (x, weight, bias) = (primitive(x), primitive(weight), primitive(bias));
    let scaling = Scaling {
        moments: &moments,
        weight: values(&weight),
        epsilon,
    };
    let (shape, shortcut) = (norm_shape(&x), shortcut.as_ref().map(values));
    let y = norm::normalise(&shape, values(&x), &scaling, values(&bias), shortcut, relu);
    Tensor::from_primitive::<Flex>(tensor(y, x.layout().shape().clone()))
}

fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
    match x.try_into_primitive::<Flex>() {
        Ok(x) => x.to_contiguous(),
        Err(e) => panic!("a tensor that `serves` has let pass: {e:?}"),
    }
}

/// The values of a contiguous tensor.
fn values(tensor: &FlexTensor) -> &[f32] {
    let values = tensor.as_slice();
    values.unwrap_or_else(|| panic!("{tensor:?} is not a contiguous tensor of f32"))
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    let layout = Layout::contiguous(shape.into());
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}

fn norm_shape(x: &FlexTensor) -> NormShape {
    let shape = x.layout().shape();
    NormShape {
        images: shape[0],
        channels: shape[1],
        pixels: shape.iter().skip(2).product(),
    }
}

fn moments(mean: &FlexTensor, variance: &FlexTensor) -> Moments {
    Moments {
        mean: values(mean).to_vec(),
        variance: values(variance).to_vec(),
    }
}

/// Output, mean and variance.
fn normalise(
    x: FlexTensor,
    shortcut: Option<FlexTensor>,
    weight: FlexTensor,
    bias: FlexTensor,
    epsilon: f64,
    relu: bool,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let (x, shortcut) = (x.to_contiguous(), shortcut.map(|s| s.to_contiguous()));
    let (weight, bias) = (weight.to_contiguous(), bias.to_contiguous());
    let shape = norm_shape(&x);
    let moments = norm::moments(&shape, values(&x));
    let scaling = Scaling {
        moments: &moments,
        weight: values(&weight),
        epsilon,
    };
    let shortcut = shortcut.as_ref().map(values);
    let y = norm::normalise(&shape, values(&x), &scaling, values(&bias), shortcut, relu);
    (
        tensor(y, x.layout().shape().clone()),
        tensor(moments.mean, [shape.channels]),
        tensor(moments.variance, [shape.channels]),
    )
}

impl Kernels for Flex {
    fn convolution(x: FlexTensor, weight: FlexTensor, shape: ConvShape) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let [height, width] = shape.output_map();
        let y = conv::forward(&shape, values(&x), values(&weight));
        tensor(y, [shape.images, shape.outputs, height, width])
    }

    fn normalisation(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f64,
        relu: bool,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        normalise(x, None, weight, bias, epsilon, relu)
    }

    fn normalisation_with_shortcut(
        x: FlexTensor,
        shortcut: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        epsilon: f64,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        normalise(x, Some(shortcut), weight, bias, epsilon, true)
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
            let dw = conv::weight_gradient(&shape, values(&x.to_contiguous()), values(&gradient));
            let dw = tensor(dw, weight.layout().shape().clone());
            gradients.register::<Flex>(node.id, dw);
        }
        // Images have no node: nobody asks for their gradient, and it is not computed.
        if let Some(node) = x_node {
            let weight = weight.to_contiguous();
            let dx = conv::input_gradient(&shape, values(&gradient), values(&weight));
            let dx = tensor(dx, x.layout().shape().clone());
            gradients.register::<Flex>(node.id, dx);
        }
    }
}

/// What the backward pass of a normalisation needs.
#[derive(Clone, Debug)]
struct Normalisation {
    x: NodeId,
    weight: NodeId,
    /// If it went through the ReLU.
    output: Option<FlexTensor>,
    mean: FlexTensor,
    variance: FlexTensor,
    epsilon: f64,
}

impl Normalisation {
    /// Gradients of the input, the weight, the bias and, if it is wanted, the shortcut.
    fn backward(
        self,
        gradient: FlexTensor,
        checkpointer: &mut Checkpointer,
        shortcut: bool,
    ) -> ([FlexTensor; 3], Option<FlexTensor>) {
        let x: FlexTensor = checkpointer.retrieve_node_output(self.x);
        let weight: FlexTensor = checkpointer.retrieve_node_output(self.weight);
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let output = self.output.map(|y| y.to_contiguous());
        // Written over where nobody else holds it: only then does `storage_mut` not copy.
        let mut gradient = contiguous(gradient);
        let shape = norm_shape(&x);
        let found = norm::gradients(
            &shape,
            values(&x),
            output.as_ref().map(values),
            &Scaling {
                moments: &moments(&self.mean, &self.variance),
                weight: values(&weight),
                epsilon: self.epsilon,
            },
            gradient.storage_mut(),
            shortcut,
        );
        let channels = [shape.channels];
        let (weight, bias) = (tensor(found.weight, channels), tensor(found.bias, channels));
        match found.x {
            Some(dx) => {
                let dx = tensor(dx, x.layout().shape().clone());
                ([dx, weight, bias], Some(gradient))
            }
            None => ([gradient, weight, bias], None),
        }
    }
}

/// `to_contiguous`, but without a second owner of the values.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let contiguous = tensor.to_contiguous();
    drop(tensor);
    contiguous
}

/// The backward pass of a normalisation: of input, weight and bias.
#[derive(Debug)]
struct NormalisationBackward;

impl Backward<Flex, 3> for NormalisationBackward {
    type State = Normalisation;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let (found, _) = ops.state.backward(gradient, checkpointer, false);
        for (node, gradient) in ops.parents.into_iter().zip(found) {
            if let Some(node) = node {
                gradients.register::<Flex>(node.id, gradient);
            }
        }
    }
}

/// The backward pass of a normalisation with a shortcut: of input, weight, bias and shortcut.
#[derive(Debug)]
struct ShortcutBackward;

impl Backward<Flex, 4> for ShortcutBackward {
    type State = Normalisation;

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let wanted = ops.parents[3].is_some();
        let (found, shortcut) = ops.state.backward(gradient, checkpointer, wanted);
        for (node, gradient) in ops
            .parents
            .into_iter()
            .zip(found.into_iter().chain(shortcut))
        {
            if let Some(node) = node {
                gradients.register::<Flex>(node.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> Kernels for Autodiff<Flex, C> {
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

    fn normalisation(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [x.node(), weight.node(), bias.node()];
        let prepared = NormalisationBackward.prepare::<C>(nodes);
        let run = |x: FloatTensor<Self>, weight: FloatTensor<Self>| {
            let (x, weight) = (x.into_primitive(), weight.into_primitive());
            normalise(x, None, weight, bias.into_primitive(), epsilon, relu)
        };
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let nodes = (prepared.checkpoint(&x), prepared.checkpoint(&weight));
                let (y, mean, variance) = run(x, weight);
                let state = Normalisation {
                    x: nodes.0,
                    weight: nodes.1,
                    output: relu.then(|| y.clone()),
                    mean: mean.clone(),
                    variance: variance.clone(),
                    epsilon,
                };
                untracked(prepared.finish(state, y), mean, variance)
            }
            OpsKind::UnTracked(prepared) => {
                let (y, mean, variance) = run(x, weight);
                untracked(prepared.finish(y), mean, variance)
            }
        }
    }

    fn normalisation_with_shortcut(
        x: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [x.node(), weight.node(), bias.node(), shortcut.node()];
        let prepared = ShortcutBackward.prepare::<C>(nodes);
        let run = |x: FloatTensor<Self>, weight: FloatTensor<Self>| {
            let (x, weight) = (x.into_primitive(), weight.into_primitive());
            let shortcut = Some(shortcut.into_primitive());
            normalise(x, shortcut, weight, bias.into_primitive(), epsilon, true)
        };
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let nodes = (prepared.checkpoint(&x), prepared.checkpoint(&weight));
                let (y, mean, variance) = run(x, weight);
                let state = Normalisation {
                    x: nodes.0,
                    weight: nodes.1,
                    output: Some(y.clone()),
                    mean: mean.clone(),
                    variance: variance.clone(),
                    epsilon,
                };
                untracked(prepared.finish(state, y), mean, variance)
            }
            OpsKind::UnTracked(prepared) => {
                let (y, mean, variance) = run(x, weight);
                untracked(prepared.finish(y), mean, variance)
            }
        }
    }
}

/// A tensor that may be part of a graph.
type Node = FloatTensor<Autodiff<Flex>>;

/// The statistics take no part in the graph: a running average is made of them.
fn untracked(y: Node, mean: FlexTensor, variance: FlexTensor) -> (Node, Node, Node) {
    (y, Node::new(mean), Node::new(variance))
}
