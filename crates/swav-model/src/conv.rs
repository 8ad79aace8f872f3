//! The one place where a convolution is called.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::draw::Draw;
use crate::ops::conv2d;

/// The numbers that define a square convolution without bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvSpec {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) groups: usize,
}

impl ConvSpec {
    /// Every convolution of a ResNet is padded so that stride 1 keeps the size.
    fn padding(&self) -> usize {
        self.kernel / 2
    }

    /// Height (or width) of the output for an input of height (or width) `size`.
    pub(crate) fn output_size(&self, size: usize) -> usize {
        (size + 2 * self.padding() - self.kernel) / self.stride + 1
    }

    pub(crate) fn parameters(&self) -> u64 {
        (self.output * self.input / self.groups * self.kernel * self.kernel) as u64
    }

    pub(crate) fn init(&self, draw: &mut Draw) -> Conv {
        // PyTorch's fan-out counts every output channel, also of a grouped convolution. Burn's own
        // layer divides it by the groups, so the standard deviation is computed here.
        let fan_out = (self.output * self.kernel * self.kernel) as f64;
        let deviation = (2.0 / fan_out).sqrt();
        let shape = [
            self.output,
            self.input / self.groups,
            self.kernel,
            self.kernel,
        ];
        Conv {
            weight: Param::from_tensor(draw.normal(deviation, shape)),
            stride: self.stride,
            padding: self.padding(),
            groups: self.groups,
        }
    }
}

/// A two-dimensional convolution with a square kernel and without bias.
///
/// Initialised as in PyTorch's ResNets: normal, variance 2 / fan-out (He et al., 2015).
#[derive(Module, Debug)]
pub struct Conv {
    weight: Param<Tensor<4>>,
    stride: usize,
    padding: usize,
    groups: usize,
}

impl Conv {
    /// `[N, input, H, W]` to `[N, output, H', W']`.
    ///
    /// # Panics
    /// If the channels of `x` are not those of the weight.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv2d(x, self.weight.val(), self.stride, self.padding, self.groups)
    }
}
