//! Batch normalisation with kernels of our own, and its backward pass.
//!
//! | file | |
//! |---|---|
//! | this | what a backend has to bring ([`Kernels`]), and the graph around it ([`Normalisation`]), once for all backends |
//! | `flex.rs`, `cpu.rs` | the CPU |
//! | `cube.rs` | whatever CubeCL runs on: wgpu, CUDA and the rest |

#[cfg(feature = "flex")]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension};
#[cfg(feature = "fusion")]
use burn::tensor::DType;
use burn::tensor::Tensor;
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};

use super::{Epilogue, Normalised};
use crate::Ranks;

/// Returns whether there are kernels for this map, `[N, C, …]`, or for a number of each of its channels.
pub(super) fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    !super::is_plain() && super::has_kernels(&x.device(), x.shape().num_elements())
}

/// How a map is normalised with statistics of its own.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Added to the variance before its root is taken.
    epsilon: f64,
    /// Over whose maps the statistics are taken.
    ranks: Ranks,
}

/// The passes over a map `x`, `[N, C, …]`, that a backend brings. Maps of a call are all `f32` or all `bf16`; weight, bias, mean and
/// variance are `[C]` and `f32`.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion"),
)]
pub trait Kernels: Backend {
    /// Mean and biased variance of each channel, over the maps of all ranks.
    #[fusion(meta = |x, _| { let c = channels(x); (c.clone(), c) })]
    fn moments(x: FloatTensor<Self>, ranks: Ranks) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// `(x − mean) / √(variance + epsilon) · weight + bias`, perhaps through the ReLU.
    #[fusion(dtype = x, shape = x)]
    fn normalise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
    ) -> FloatTensor<Self>;

    /// The same, plus a shortcut of the shape of `x`, through the ReLU.
    #[fusion(dtype = x, shape = x)]
    fn normalise_add(
        x: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;

    /// The gradients of [`normalise`](Self::normalise) without ReLU, where `mean` and `variance` are the
    /// [`moments`](Self::moments) of `x`: of `x`, and what this rank adds to those of the weight and the bias.
    #[fusion(meta = |x, weight, _, _, _, _| (x.clone(), weight.clone(), weight.clone()))]
    fn gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The same with ReLU; `y` is what [`normalise`](Self::normalise) returned.
    #[fusion(meta = |x, _, weight, _, _, _, _| (x.clone(), weight.clone(), weight.clone()))]
    fn gradients_relu(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The gradients of [`normalise_add`](Self::normalise_add), which returned `y`: of `x`, the weight, the bias and the
    /// shortcut.
    #[fusion(meta = |x, _, weight, _, _, _, _| (x.clone(), weight.clone(), weight.clone(), x.clone()))]
    fn gradients_add(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        settings: Settings,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );
}

/// A number of each channel of a map.
#[cfg(feature = "fusion")]
fn channels(
    x: &burn::backend::fusion::custom::TensorSpec,
) -> burn::backend::fusion::custom::TensorSpec {
    let channels = burn::tensor::Shape::from([x.shape[1]]);
    burn::backend::fusion::custom::TensorSpec::new(channels, DType::F32)
}

/// Batch normalisation with the statistics of the batch, as the graph knows it: output, mean and biased variance. The
/// statistics take no part in the graph.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion"),
    Autodiff,
)]
pub trait Normalisation: Backend {
    /// Perhaps through the ReLU.
    #[fusion(meta = |x, weight, _, _, _, _| (x.clone(), weight.clone(), weight.clone()))]
    fn normalised(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
        relu: bool,
        ranks: Ranks,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Plus a shortcut, through the ReLU.
    #[fusion(meta = |x, _, weight, _, _, _| (x.clone(), weight.clone(), weight.clone()))]
    fn normalised_add(
        x: FloatTensor<Self>,
        shortcut: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f64,
        ranks: Ranks,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Two passes: one for the moments, one to normalise.
macro_rules! without_gradients {
    ($backend:ty) => {
        impl crate::ops::norm::Normalisation for $backend {
            fn normalised(
                x: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                bias: FloatTensor<Self>,
                epsilon: f64,
                relu: bool,
                ranks: crate::Ranks,
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                let (mean, variance) = Self::moments(x.clone(), ranks);
                let (m, v) = (mean.clone(), variance.clone());
                let y = Self::normalise(x, weight, bias, m, v, epsilon, relu);
                (y, mean, variance)
            }

            fn normalised_add(
                x: FloatTensor<Self>,
                shortcut: FloatTensor<Self>,
                weight: FloatTensor<Self>,
                bias: FloatTensor<Self>,
                epsilon: f64,
                ranks: crate::Ranks,
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                let (mean, variance) = Self::moments(x.clone(), ranks);
                let (m, v) = (mean.clone(), variance.clone());
                let y = Self::normalise_add(x, shortcut, weight, bias, m, v, epsilon);
                (y, mean, variance)
            }
        }
    };
}
use without_gradients;

pub(super) fn batch_norm_train<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
    epilogue: Epilogue<D>,
    ranks: Ranks,
) -> Normalised<D> {
    let (x, weight, bias) = (
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    );
    let (output, mean, variance) = match epilogue {
        Epilogue::None => Dispatch::normalised(x, weight, bias, epsilon, false, ranks),
        Epilogue::Relu => Dispatch::normalised(x, weight, bias, epsilon, true, ranks),
        Epilogue::AddRelu(shortcut) => {
            let shortcut = shortcut.into_dispatch();
            Dispatch::normalised_add(x, shortcut, weight, bias, epsilon, ranks)
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
    numbers: [Tensor<1>; 4],
    epsilon: f64,
    epilogue: Epilogue<D>,
) -> Tensor<D> {
    let x = x.into_dispatch();
    let [weight, bias, mean, variance] = numbers.map(Tensor::into_dispatch);
    Tensor::from_dispatch(match epilogue {
        Epilogue::None => Dispatch::normalise(x, weight, bias, mean, variance, epsilon, false),
        Epilogue::Relu => Dispatch::normalise(x, weight, bias, mean, variance, epsilon, true),
        Epilogue::AddRelu(shortcut) => {
            let shortcut = shortcut.into_dispatch();
            Dispatch::normalise_add(x, shortcut, weight, bias, mean, variance, epsilon)
        }
    })
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct SavedForBackward<B: Backend> {
    x: NodeId,
    weight: NodeId,
    /// If it went through the ReLU.
    y: Option<FloatTensor<B>>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    settings: Settings,
}

/// The backward pass: of input, weight and bias.
#[derive(Debug)]
struct BatchNormBackward;

impl<B: Kernels> Backward<B, 3> for BatchNormBackward {
    type State = SavedForBackward<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let saved = ops.state;
        let gradient = gradients.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output(saved.x);
        let weight = checkpointer.retrieve_node_output(saved.weight);
        let (mean, variance, settings) = (saved.mean, saved.variance, saved.settings);
        let (x, weight, bias) = match saved.y {
            None => B::gradients(x, weight, mean, variance, gradient, settings),
            Some(y) => B::gradients_relu(x, y, weight, mean, variance, gradient, settings),
        };
        for (node, found) in ops.parents.into_iter().zip([x, weight, bias]) {
            if let Some(node) = node {
                gradients.register::<B>(node.id, found);
            }
        }
    }
}

/// The backward pass with a shortcut: of input, weight, bias and shortcut.
#[derive(Debug)]
struct BatchNormAddBackward;

impl<B: Kernels> Backward<B, 4> for BatchNormAddBackward {
    type State = SavedForBackward<B>;

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let saved = ops.state;
        let gradient = gradients.consume::<B>(&ops.node);
        let x = checkpointer.retrieve_node_output(saved.x);
        let weight = checkpointer.retrieve_node_output(saved.weight);
        let Some(y) = saved.y else {
            unreachable!("a shortcut is followed by the ReLU")
        };
        let (mean, variance, settings) = (saved.mean, saved.variance, saved.settings);
        let (x, weight, bias, shortcut) =
            B::gradients_add(x, y, weight, mean, variance, gradient, settings);
        for (node, found) in ops.parents.into_iter().zip([x, weight, bias, shortcut]) {
            if let Some(node) = node {
                gradients.register::<B>(node.id, found);
            }
        }
    }
}

/// A tensor that may be part of a graph.
type Node<B, C> = FloatTensor<Autodiff<B, C>>;

impl<B: Kernels + Normalisation, C: CheckpointStrategy> Normalisation for Autodiff<B, C> {
    fn normalised(
        x: Node<B, C>,
        weight: Node<B, C>,
        bias: Node<B, C>,
        epsilon: f64,
        relu: bool,
        ranks: Ranks,
    ) -> (Node<B, C>, Node<B, C>, Node<B, C>) {
        let nodes = [x.node(), weight.node(), bias.node()];
        let prepared = BatchNormBackward.prepare::<C>(nodes);
        let all = ranks.clone();
        let run = |x: Node<B, C>, weight: Node<B, C>| {
            let (x, weight) = (x.into_primitive(), weight.into_primitive());
            B::normalised(x, weight, bias.into_primitive(), epsilon, relu, all)
        };
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let nodes = (prepared.checkpoint(&x), prepared.checkpoint(&weight));
                let (y, mean, variance) = run(x, weight);
                let saved = SavedForBackward {
                    x: nodes.0,
                    weight: nodes.1,
                    y: relu.then(|| y.clone()),
                    mean: mean.clone(),
                    variance: variance.clone(),
                    settings: Settings { epsilon, ranks },
                };
                untracked::<B, C>(prepared.finish(saved, y), mean, variance)
            }
            OpsKind::UnTracked(prepared) => {
                let (y, mean, variance) = run(x, weight);
                untracked::<B, C>(prepared.finish(y), mean, variance)
            }
        }
    }

    fn normalised_add(
        x: Node<B, C>,
        shortcut: Node<B, C>,
        weight: Node<B, C>,
        bias: Node<B, C>,
        epsilon: f64,
        ranks: Ranks,
    ) -> (Node<B, C>, Node<B, C>, Node<B, C>) {
        let nodes = [x.node(), weight.node(), bias.node(), shortcut.node()];
        let prepared = BatchNormAddBackward.prepare::<C>(nodes);
        let all = ranks.clone();
        let run = |x: Node<B, C>, weight: Node<B, C>| {
            let (x, weight) = (x.into_primitive(), weight.into_primitive());
            let (bias, shortcut) = (bias.into_primitive(), shortcut.into_primitive());
            B::normalised_add(x, shortcut, weight, bias, epsilon, all)
        };
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(mut prepared) => {
                let nodes = (prepared.checkpoint(&x), prepared.checkpoint(&weight));
                let (y, mean, variance) = run(x, weight);
                let saved = SavedForBackward {
                    x: nodes.0,
                    weight: nodes.1,
                    y: Some(y.clone()),
                    mean: mean.clone(),
                    variance: variance.clone(),
                    settings: Settings { epsilon, ranks },
                };
                untracked::<B, C>(prepared.finish(saved, y), mean, variance)
            }
            OpsKind::UnTracked(prepared) => {
                let (y, mean, variance) = run(x, weight);
                untracked::<B, C>(prepared.finish(y), mean, variance)
            }
        }
    }
}

/// The statistics take no part in the graph: a running average is made of them.
fn untracked<B: Backend, C: CheckpointStrategy>(
    y: Node<B, C>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
) -> (Node<B, C>, Node<B, C>, Node<B, C>) {
    (y, Node::<B, C>::new(mean), Node::<B, C>::new(variance))
}
