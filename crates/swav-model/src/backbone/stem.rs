//! The first layers of a backbone.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::batch_norm::BatchNorm;
use crate::conv::Conv;
use crate::draw::Draw;
use crate::ops::Epilogue;
use crate::ranks::Ranks;

/// How the first layers take an image in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7×7 convolution with stride 2, then 3×3 max-pool with stride 2: a quarter of the size.
    #[default]
    Imagenet,
    /// 3×3 convolution with stride 1 and no max-pool, for images of about 32 pixels.
    Cifar,
}

/// Convolution, batch norm, ReLU and, in the ImageNet stem, max-pool.
#[derive(Module, Debug)]
pub(super) struct StemLayers {
    conv1: Conv,
    bn1: BatchNorm,
    pool: bool,
}

impl StemLayers {
    pub(super) fn new(layout: &Layout, draw: &mut Draw) -> Self {
        Self {
            conv1: layout.stem.init(draw),
            bn1: BatchNorm::new(layout.stem.output, draw.device()),
            pool: layout.pool,
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.bn1.forward_with(self.conv1.forward(x), Epilogue::Relu);
        if self.pool { max_pool(x) } else { x }
    }

    pub(super) fn synchronise(&mut self, ranks: &Ranks) {
        self.bn1.synchronise(ranks);
    }
}

/// 3×3 max-pool with stride 2. The border of one pixel never wins, not even over negative values:
/// it is −∞, as in PyTorch.
fn max_pool(x: Tensor<4>) -> Tensor<4> {
    let options = MaxPoolOptions {
        stride: [2, 2],
        padding: [(1, 1); 2],
        ..MaxPoolOptions::new([3, 3])
    };
    max_pool2d(x, options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn the_border_of_the_max_pool_does_not_win_over_negative_values() {
        let device = Device::flex();
        let rows = [
            [-1.0, -2.0, -3.0, -4.0],
            [-5.0, -6.0, -7.0, -8.0],
            [-9.0, -10.0, -11.0, -12.0],
            [-13.0, -14.0, -15.0, -16.0],
        ];
        let x = Tensor::<2>::from_floats(rows, &device).reshape([1, 1, 4, 4]);
        let y = max_pool(x).reshape([4]);
        let expected = Tensor::<1>::from_floats([-1.0, -2.0, -5.0, -6.0], &device);
        assert_eq!(y.into_data(), expected.into_data());
    }
}
