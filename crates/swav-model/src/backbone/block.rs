//! The residual block.

use burn::module::Module;
use burn::tensor::Tensor;

use super::layout::BlockSpec;
use crate::batch_norm::BatchNorm;
use crate::conv::{Conv, ConvSpec};
use crate::draw::Draw;
use crate::ops::Epilogue;
use crate::ranks::Ranks;

/// A residual block: the basic one of two 3×3 convolutions, or the bottleneck of three
/// (He et al., 2016), grouped in a ResNeXt (Xie et al., 2017).
#[derive(Module, Debug)]
pub struct Block {
    conv1: Conv,
    bn1: BatchNorm,
    conv2: Conv,
    bn2: BatchNorm,
    conv3: Option<Conv>,
    bn3: Option<BatchNorm>,
    downsample: Option<Downsample>,
}

/// The shortcut of a block whose output has another shape than its input.
#[derive(Module, Debug)]
struct Downsample {
    conv: Conv,
    bn: BatchNorm,
}

impl Block {
    pub(super) fn new(spec: &BlockSpec, draw: &mut Draw) -> Self {
        let mut pair = |conv: &ConvSpec| {
            let norm = BatchNorm::new(conv.output, draw.device());
            (conv.init(draw), norm)
        };
        let (conv1, bn1) = pair(&spec.convs[0]);
        let (conv2, bn2) = pair(&spec.convs[1]);
        let (conv3, bn3) = spec.convs.get(2).map(&mut pair).unzip();
        let downsample = spec.downsample.as_ref().map(pair);
        Self {
            conv1,
            bn1,
            conv2,
            bn2,
            conv3,
            bn3,
            downsample: downsample.map(|(conv, bn)| Downsample { conv, bn }),
        }
    }

    /// `[N, input, H, W]` to `[N, output, H/stride, W/stride]`.
    ///
    /// # Panics
    /// If the channels of `x` are not those of the block.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.bn.forward(downsample.conv.forward(x.clone())),
            None => x.clone(),
        };
        let x = self.bn1.forward_with(self.conv1.forward(x), Epilogue::Relu);
        let x = self.conv2.forward(x);
        match (&self.conv3, &self.bn3) {
            (Some(conv3), Some(bn3)) => {
                let x = self.bn2.forward_with(x, Epilogue::Relu);
                bn3.forward_with(conv3.forward(x), Epilogue::AddRelu(shortcut))
            }
            _ => self.bn2.forward_with(x, Epilogue::AddRelu(shortcut)),
        }
    }

    pub(super) fn synchronise(&mut self, ranks: &Ranks) {
        let downsample = self
            .downsample
            .as_mut()
            .map(|downsample| &mut downsample.bn);
        let norms = [&mut self.bn1, &mut self.bn2].into_iter();
        for norm in norms.chain(self.bn3.as_mut()).chain(downsample) {
            norm.synchronise(ranks);
        }
    }
}
