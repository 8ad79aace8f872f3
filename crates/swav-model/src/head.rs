//! The projection head.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use crate::batch_norm::BatchNorm;
use crate::draw::Draw;
use crate::ops::{self, Epilogue};
use crate::ranks::Ranks;

/// Sizes of a [`ProjectionHead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadConfig {
    /// Features that come in.
    pub input: usize,
    /// Width of the hidden layer; 0 makes the head a single linear layer without batch norm.
    pub hidden: usize,
    /// Whether batch norm follows the hidden layer.
    pub norm: bool,
    /// Dimensions of the embedding; 0: no head at all, features pass as they are.
    pub output: usize,
}

impl HeadConfig {
    /// Builds the head, its weights drawn from U(±1/√fan-in) as PyTorch draws a linear layer's.
    pub fn init(&self, draw: &mut Draw) -> ProjectionHead {
        if self.output == 0 {
            return ProjectionHead {
                first: None,
                norm: None,
                second: None,
            };
        }
        if self.hidden == 0 {
            return ProjectionHead {
                first: Some(linear(self.input, self.output, true, draw)),
                norm: None,
                second: None,
            };
        }
        ProjectionHead {
            first: Some(linear(self.input, self.hidden, true, draw)),
            norm: self
                .norm
                .then(|| BatchNorm::new(self.hidden, draw.device())),
            second: Some(linear(self.hidden, self.output, true, draw)),
        }
    }

    /// Number of trained values.
    pub fn parameters(&self) -> u64 {
        let linear = |input: usize, output: usize| (input * output + output) as u64;
        if self.output == 0 {
            return 0;
        }
        if self.hidden == 0 {
            return linear(self.input, self.output);
        }
        let norm = if self.norm { 2 * self.hidden as u64 } else { 0 };
        linear(self.input, self.hidden) + norm + linear(self.hidden, self.output)
    }
}

/// Linear, batch norm (but for MoCo's), ReLU, Linear; or a single Linear; or nothing.
///
/// Its output is not normalised: [`Network`](crate::Network) does that.
#[derive(Module, Debug)]
pub struct ProjectionHead {
    first: Option<Linear>,
    norm: Option<BatchNorm>,
    second: Option<Linear>,
}

impl ProjectionHead {
    /// `[N, input]` to `[N, output]`.
    ///
    /// # Panics
    /// If the second axis is not `input`; while training, if N is 1 (see [`BatchNorm::forward`]).
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let mut x = match &self.first {
            Some(first) => ops::linear(x, first),
            None => x,
        };
        let Some(second) = &self.second else {
            return x;
        };
        x = match &self.norm {
            Some(norm) => norm.forward_with(x, Epilogue::Relu),
            None => relu(x),
        };
        ops::linear(x, second)
    }

    pub(crate) fn synchronise(&mut self, ranks: &Ranks) {
        if let Some(norm) = &mut self.norm {
            norm.synchronise(ranks);
        }
    }
}

/// A linear layer as PyTorch draws one: Kaiming-uniform with a = √5, which is U(±1/√fan-in) for weight and bias alike.
pub(crate) fn linear(input: usize, output: usize, bias: bool, draw: &mut Draw) -> Linear {
    let limit = 1.0 / (input as f64).sqrt();
    Linear {
        weight: Param::from_tensor(draw.uniform(limit, [input, output])),
        bias: bias.then(|| Param::from_tensor(draw.uniform(limit, [output]))),
    }
}

/// Shortest length that is told apart from zero, as in PyTorch's `normalize`.
const SHORTEST: f64 = 1e-12;

/// `x` over its length along one axis. Where x is zero so are the result and its gradient.
pub(crate) fn unit(x: Tensor<2>, axis: usize) -> Tensor<2> {
    // The clamp comes before the root: the root's gradient at zero is infinite.
    let squares = x.clone().powi_scalar(2).sum_dim(axis);
    x / squares.clamp_min(SHORTEST * SHORTEST).sqrt()
}
