//! Backbones: the ResNet family.

mod architecture;
mod block;
mod layout;
mod stem;

use std::fmt;

use burn::module::Module;
use burn::tensor::{DType, Tensor};
use serde::{Deserialize, Serialize};

pub use architecture::{Architecture, UnknownArchitecture};
pub use block::Block;
use layout::{Cost, Layout};
pub use stem::Stem;
use stem::StemLayers;

use crate::draw::Draw;
use crate::ranks::Ranks;

/// Everything that defines a [`Backbone`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneConfig {
    /// The architecture.
    pub name: Architecture,
    /// Factor on every width, on top of the architecture's own: 0.25 makes of a ResNet-18 one of
    /// 16, 32, 64 and 128 channels.
    #[serde(default = "unchanged")]
    pub width: f64,
    /// How images are taken in.
    #[serde(default)]
    pub stem: Stem,
}

fn unchanged() -> f64 {
    1.0
}

/// `resnet18 (width 0.25, cifar stem)`.
impl fmt::Display for BackboneConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stem = match self.stem {
            Stem::Imagenet => "imagenet",
            Stem::Cifar => "cifar",
        };
        write!(f, "{} (width {}, {stem} stem)", self.name, self.width)
    }
}

impl BackboneConfig {
    /// Whether the weights of one are those of the other, under whatever name and width: a ResNet-50 of double width is
    /// a `resnet50w2`.
    pub fn is_as(&self, other: &Self) -> bool {
        self.layout() == other.layout()
    }

    /// Builds the backbone. Convolutions are drawn from N(0, 2/fan-out) in the order of the layers;
    /// batch norms start at weight 1 and bias 0, also the last of a block.
    ///
    /// # Panics
    /// If `width` is not a positive number.
    pub fn init(&self, draw: &mut Draw) -> Backbone {
        let layout = self.checked_layout();
        let stem = StemLayers::new(&layout, draw);
        let [layer1, layer2, layer3, layer4] = layout
            .stages
            .map(|blocks| blocks.iter().map(|b| Block::new(b, draw)).collect());
        Backbone {
            stem,
            layer1,
            layer2,
            layer3,
            layer4,
        }
    }

    /// Features per image: 512 of a ResNet-18 and 2048 of a ResNet-50, times the width.
    pub fn dim(&self) -> usize {
        self.planes(3) * self.name.entry().block.expansion()
    }

    /// Number of trained values.
    pub fn parameters(&self) -> u64 {
        self.cost(1).parameters
    }

    /// Multiply-adds of one forward pass of one `[3, size, size]` image, convolutions alone. A
    /// backward pass costs about twice as many.
    pub fn macs(&self, size: usize) -> u64 {
        self.cost(size).macs
    }

    /// Floats that one `[3, size, size]` image keeps alive from the forward to the backward pass.
    ///
    /// The input of each convolution, and the input and the output of each batch norm with its ReLU, once each: what the
    /// [kernels](crate::ops) of this crate keep. What the backward pass works with comes on top.
    pub fn activations(&self, size: usize) -> u64 {
        self.cost(size).activations
    }

    /// Floats that one `[3, size, size]` image keeps alive at the most where only the inputs of the
    /// [stages](Backbone::stage) are kept from the forward pass: those up to a stage, and the activations of that stage, which
    /// its backward pass computes once more.
    pub fn checkpointed_activations(&self, size: usize) -> u64 {
        self.cost(size).checkpointed
    }

    /// Floats of the inputs of all stages for one `[3, size, size]` image, and of the last map.
    pub fn stage_inputs(&self, size: usize) -> u64 {
        self.cost(size).inputs
    }

    /// Floats of the largest map that one `[3, size, size]` image makes.
    pub fn largest_map(&self, size: usize) -> u64 {
        self.cost(size).largest
    }

    /// The smallest image that is of any use, height or width: the stride of the whole backbone, 32
    /// with the ImageNet stem and 8 with the CIFAR stem. A smaller one still passes, but its last
    /// map is a single pixel made mostly of padding.
    pub fn min_size(&self) -> usize {
        match self.stem {
            Stem::Imagenet => 32,
            Stem::Cifar => 8,
        }
    }

    fn cost(&self, size: usize) -> Cost {
        assert!(size > 0, "an image of size 0 has no cost");
        Cost::new(&self.checked_layout(), size)
    }

    fn checked_layout(&self) -> Layout {
        let width = self.width;
        assert!(
            width.is_finite() && width > 0.0,
            "the width of a backbone must be positive, not {width}"
        );
        self.layout()
    }
}

/// A ResNet or ResNeXt without its classifier.
///
/// Layer by layer the one of torchvision: weights can be taken from there and given back, see
/// [`weights`](crate::weights).
#[derive(Module, Debug)]
pub struct Backbone {
    stem: StemLayers,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
}

impl Backbone {
    /// Number of stages: the stem and four stages of residual blocks.
    pub const STAGES: usize = 5;

    /// `[N, 3, H, W]` to `[N, dim]`: the mean over the pixels of the last map.
    ///
    /// Images are `f32`, or `bf16` for every map to be that too; features are `f32`.
    ///
    /// # Panics
    /// If there are not three channels; while training, if N is 1 and the last map is a single pixel
    /// (see [`BatchNorm::forward`](crate::BatchNorm::forward)).
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        Self::pool((0..Self::STAGES).fold(x, |x, stage| self.stage(stage, x)))
    }

    /// One stage of [`forward`](Self::forward): stage 0, the stem, takes `[N, 3, H, W]`, each other one the map of the stage
    /// before it.
    ///
    /// # Panics
    /// If there is no such stage, if the channels of `x` are not those that the stage takes, and as [`forward`](Self::forward).
    pub fn stage(&self, stage: usize, x: Tensor<4>) -> Tensor<4> {
        let blocks = match stage {
            0 => {
                let shape = x.dims();
                assert_eq!(shape[1], 3, "a backbone takes [N, 3, H, W], not {shape:?}");
                return self.stem.forward(x);
            }
            1 => &self.layer1,
            2 => &self.layer2,
            3 => &self.layer3,
            4 => &self.layer4,
            _ => panic!("there is no stage {stage}, only 0 to 4"),
        };
        blocks.iter().fold(x, |x, block| block.forward(x))
    }

    pub(crate) fn synchronise(&mut self, ranks: &Ranks) {
        self.stem.synchronise(ranks);
        let layers = [
            &mut self.layer1,
            &mut self.layer2,
            &mut self.layer3,
            &mut self.layer4,
        ];
        for block in layers.into_iter().flatten() {
            block.synchronise(ranks);
        }
    }

    /// The end of [`forward`](Self::forward): the map of the last stage, `[N, dim, H, W]`, to its mean over the pixels,
    /// `[N, dim]`.
    pub fn pool(map: Tensor<4>) -> Tensor<2> {
        let [images, channels, height, width] = map.dims();
        map.cast(DType::F32)
            .reshape([images, channels, height * width])
            .mean_dim(2)
            .reshape([images, channels])
    }
}
