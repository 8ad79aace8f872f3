//! The convolutions of a backbone, and what they cost. Building and estimating read the same list.

use super::architecture::BlockKind;
use super::{BackboneConfig, Stem};
use crate::conv::ConvSpec;

/// Every convolution of a backbone, in the order of its blocks.
#[derive(PartialEq)]
pub(crate) struct Layout {
    pub(crate) stem: ConvSpec,
    pub(crate) pool: bool,
    pub(crate) stages: [Vec<BlockSpec>; 4],
}

/// The convolutions of one residual block.
#[derive(PartialEq)]
pub(crate) struct BlockSpec {
    /// Two in a basic block, three in a bottleneck.
    pub(crate) convs: Vec<ConvSpec>,
    /// The shortcut's 1×1 convolution, where the shape changes.
    pub(crate) downsample: Option<ConvSpec>,
}

/// Channels of the first stage of an unwidened ResNet.
const BASE: f64 = 64.0;

impl BackboneConfig {
    /// Channels of stage `stage` (0 to 3), before the expansion of a bottleneck.
    pub(super) fn planes(&self, stage: u32) -> usize {
        let base = BASE * self.name.entry().widen as f64 * self.width;
        (base.round() as usize).max(1) << stage
    }

    pub(crate) fn layout(&self) -> Layout {
        let entry = self.name.entry();
        let stem = ConvSpec {
            input: 3,
            output: self.planes(0),
            kernel: if self.stem == Stem::Cifar { 3 } else { 7 },
            stride: if self.stem == Stem::Cifar { 1 } else { 2 },
            groups: 1,
        };
        let mut input = stem.output;
        let stages = [0, 1, 2, 3].map(|stage| {
            let planes = self.planes(stage);
            let count = entry.blocks[stage as usize];
            let block = |index: usize| {
                // Version 1.5 of the ResNet: a bottleneck takes the stride in its 3×3.
                let stride = if index == 0 && stage > 0 { 2 } else { 1 };
                let spec = self.block(input, planes, stride);
                input = planes * entry.block.expansion();
                spec
            };
            (0..count).map(block).collect()
        });
        Layout {
            stem,
            pool: self.stem == Stem::Imagenet,
            stages,
        }
    }

    fn block(&self, input: usize, planes: usize, stride: usize) -> BlockSpec {
        let entry = self.name.entry();
        let conv = |input, output, kernel, stride, groups| ConvSpec {
            input,
            output,
            kernel,
            stride,
            groups,
        };
        let output = planes * entry.block.expansion();
        let convs = match entry.block {
            BlockKind::Basic => vec![
                conv(input, planes, 3, stride, 1),
                conv(planes, planes, 3, 1, 1),
            ],
            BlockKind::Bottleneck => {
                let group = (planes as f64 * entry.group_width as f64 / BASE) as usize;
                let inner = group.max(1) * entry.groups;
                vec![
                    conv(input, inner, 1, 1, 1),
                    conv(inner, inner, 3, stride, entry.groups),
                    conv(inner, output, 1, 1, 1),
                ]
            }
        };
        let reshaped = stride != 1 || input != output;
        BlockSpec {
            convs,
            downsample: reshaped.then(|| conv(input, output, 1, stride, 1)),
        }
    }
}

/// Size of a map after the 3×3 stride-2 max-pool with padding 1.
pub(super) fn pooled(size: usize) -> usize {
    (size - 1) / 2 + 1
}

/// What one image costs.
#[derive(Default)]
pub(super) struct Cost {
    pub(super) parameters: u64,
    pub(super) macs: u64,
    pub(super) activations: u64,
    pub(super) inputs: u64,
    pub(super) checkpointed: u64,
    pub(super) largest: u64,
}

impl Cost {
    pub(super) fn new(layout: &Layout, size: usize) -> Self {
        let mut cost = Self::default();
        let image = 3 * (size * size) as u64;
        (cost.activations, cost.inputs) = (image, image);
        let (mut size, mut map) = cost.conv(&layout.stem, size);
        cost.activations += map; // the output of batch norm and ReLU
        if layout.pool {
            size = pooled(size);
            map = (layout.stem.output * size * size) as u64;
            cost.activations += 3 * map; // the output, and indices of 64 bits
        }
        cost.end_stage(image, map);
        for stage in &layout.stages {
            let before = cost.activations;
            for block in stage {
                (size, map) = cost.block(block, size);
            }
            cost.end_stage(before, map);
        }
        cost
    }

    /// After a stage that began with `before` activations and ends with a map of `map` floats.
    fn end_stage(&mut self, before: u64, map: u64) {
        let of_stage = self.activations - before;
        self.checkpointed = self.checkpointed.max(self.inputs + of_stage);
        self.inputs += map;
    }

    fn block(&mut self, block: &BlockSpec, size: usize) -> (usize, u64) {
        if let Some(downsample) = &block.downsample {
            self.conv(downsample, size);
        }
        let (mut at, mut map) = (size, 0);
        for conv in &block.convs {
            (at, map) = self.conv(conv, at);
            // A ReLU follows each batch norm, in the last case after the shortcut has been added, and is one with it. Its
            // output is kept, and is what the next convolution keeps.
            self.activations += map;
        }
        (at, map)
    }

    /// A convolution and the batch norm behind it: the batch norm keeps the convolution's output.
    fn conv(&mut self, conv: &ConvSpec, size: usize) -> (usize, u64) {
        let size = conv.output_size(size);
        let pixels = (size * size) as u64;
        let map = conv.output as u64 * pixels;
        self.parameters += conv.parameters() + 2 * conv.output as u64;
        self.macs += conv.parameters() * pixels;
        self.activations += map;
        self.largest = self.largest.max(map);
        (size, map)
    }
}
