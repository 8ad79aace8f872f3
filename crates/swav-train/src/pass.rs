//! One pass of crops through a network, and the way back from the loss that was made of its outputs.
//!
//! Either the graph keeps all activations of the backbone from the forward to the backward pass, or the pass is
//! *checkpointed* (Chen et al., *Training Deep Nets with Sublinear Memory Cost*, 2016): it keeps the input of each stage of the
//! backbone, and the backward pass computes a stage once more before it goes through it. Gradients and running statistics
//! are the same to the bit, wherever a computation gives the same bits twice.

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use swav_model::{Backbone, Network, Outputs};

use crate::forward::{forward, tracked, untracked};
use crate::precision::Precision;

/// A forward pass that can be gone back once.
pub(crate) struct Pass {
    /// What the network makes of the crops.
    pub(crate) outputs: Outputs,
    /// What a checkpointed pass has kept, by resolution; empty where the graph keeps all.
    groups: Vec<Group>,
}

/// What is kept of the way of the crops of one resolution through the backbone.
struct Group {
    /// Of each stage, its input, which is in no graph.
    inputs: Vec<Tensor<4>>,
    /// The map of the last stage, the leaf at which the graph of the outputs begins.
    map: Tensor<4>,
}

impl Pass {
    /// Sends crops, `[n·B, 3, S, S]` for each resolution, through `network` and updates its running statistics.
    pub(crate) fn forward(
        network: &mut Network,
        crops: Vec<Tensor<4>>,
        precision: Precision,
        checkpointed: bool,
    ) -> Self {
        if !checkpointed {
            return Self {
                outputs: forward(network, crops, precision),
                groups: Vec::new(),
            };
        }
        let silent = untracked(network);
        let groups: Vec<_> = crops
            .into_iter()
            .map(|crops| Group::new(&silent.backbone, crops.cast(precision.dtype())))
            .collect();
        // The statistics of the silent network are those after this pass.
        *network = tracked(&silent);
        let features = groups.iter().map(|group| Backbone::pool(group.map.clone()));
        Self {
            outputs: network.outputs(features.collect()),
            groups,
        }
    }

    /// The gradients of the parameters of `network`, which has made the pass, for a `loss` of its outputs.
    pub(crate) fn backward(self, loss: &Tensor<1>, network: &Network) -> GradientsParams {
        let mut gradients = loss.backward();
        let mut sum = GradientsAccumulator::new();
        let of_graph = GradientsParams::from_module(&mut gradients, network);
        sum.accumulate(network, of_graph);
        // The same parameters, with statistics of their own: these crops have been counted.
        let again = network.clone();
        // A graph that keeps all goes back through the last group first: in the same order, sums are rounded alike.
        for Group { inputs, map } in self.groups.into_iter().rev() {
            let mut gradient = map.grad_remove(&mut gradients);
            drop(map);
            for (stage, input) in inputs.into_iter().enumerate().rev() {
                // Where there is none, the loss does not depend on these crops.
                let Some(of_output) = gradient else { break };
                // Nobody asks for the gradient of images.
                let input = input.set_require_grad(stage > 0);
                let output = again.backbone.stage(stage, input.clone());
                // A backward pass begins with a scalar: the one whose gradient for the output is `of_output`.
                let scalar = (output * Tensor::from_inner(of_output)).sum();
                let mut of_stage = scalar.backward();
                gradient = input.grad_remove(&mut of_stage);
                sum.accumulate(network, GradientsParams::from_grads(of_stage, network));
            }
        }
        sum.grads()
    }
}

impl Group {
    /// Sends images, `[n·B, 3, S, S]`, through `backbone`, which is in no graph.
    fn new(backbone: &Backbone, images: Tensor<4>) -> Self {
        let (mut inputs, mut map) = (Vec::new(), images);
        for stage in 0..Backbone::STAGES {
            inputs.push(map.clone());
            map = backbone.stage(stage, map);
        }
        Self {
            inputs,
            map: map.require_grad(),
        }
    }
}
