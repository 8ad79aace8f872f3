//! Prototypes: the directions that embeddings are compared with.

use burn::module::{Module, ParamId};
use burn::nn::Linear;
use burn::tensor::Tensor;

use crate::draw::Draw;
use crate::head::{linear, unit};
use crate::ops;

/// Sizes of [`Prototypes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrototypesConfig {
    /// Dimensions of an embedding.
    pub dim: usize,
    /// Number of prototypes of each head. SwAV has one head, DeepCluster-v2 and SeLa-v2 have three;
    /// a method without prototypes has none.
    pub counts: Vec<usize>,
}

impl PrototypesConfig {
    /// Builds the heads, their weights drawn as PyTorch draws a linear layer's. They are not of unit
    /// length yet: see [`Prototypes::normalise`].
    pub fn init(&self, draw: &mut Draw) -> Prototypes {
        let head = |&count: &usize| linear(self.dim, count, false, draw);
        Prototypes {
            heads: self.counts.iter().map(head).collect(),
        }
    }

    /// Number of trained values.
    pub fn parameters(&self) -> u64 {
        self.counts.iter().map(|&k| (k * self.dim) as u64).sum()
    }
}

/// One linear layer without bias per head; column k of its weight `[dim, K]` is prototype k.
#[derive(Module, Debug)]
pub struct Prototypes {
    heads: Vec<Linear>,
}

impl Prototypes {
    /// Scores of `[N, dim]` embeddings: `[N, K]` for each head.
    ///
    /// # Panics
    /// If the second axis is not `dim`.
    pub fn forward(&self, embeddings: Tensor<2>) -> Vec<Tensor<2>> {
        let score = |head: &Linear| ops::linear(embeddings.clone(), head);
        self.heads.iter().map(score).collect()
    }

    /// Brings every prototype to unit length, as SwAV does before each step.
    ///
    /// Ids, and whether a gradient is wanted, stay as they were. A zero prototype stays zero.
    pub fn normalise(mut self) -> Self {
        for head in &mut self.heads {
            head.weight = head.weight.clone().map(|weight| {
                let tracked = weight.is_require_grad();
                unit(weight.detach(), 0).detach().set_require_grad(tracked)
            });
        }
        self
    }

    /// The prototypes of each head, `[dim, K]`, cut off from the graph.
    pub fn weights(&self) -> Vec<Tensor<2>> {
        let weight = |head: &Linear| head.weight.val().detach();
        self.heads.iter().map(weight).collect()
    }

    /// Replaces the prototypes of one head by `[dim, K]` values, as DeepCluster-v2 does with the
    /// centroids of an epoch. Id, and whether a gradient is wanted, stay as they were.
    ///
    /// # Panics
    /// If there is no such head, or if the shape differs.
    pub fn replace(mut self, head: usize, values: Tensor<2>) -> Self {
        let heads = self.heads.len();
        assert!(head < heads, "head {head} of {heads} heads of prototypes");
        let weight = &mut self.heads[head].weight;
        let (expected, found) = (weight.dims(), values.dims());
        assert_eq!(expected, found, "prototypes of head {head}");
        *weight = weight.clone().map(|old| {
            let tracked = old.is_require_grad();
            let device = old.device();
            // As a checkpoint has them, row by row: a product rounds otherwise on a turned view.
            let values = Tensor::from_data(values.into_data(), &device.clone().inner());
            if device.is_autodiff() {
                values.autodiff().set_require_grad(tracked)
            } else {
                values
            }
        });
        self
    }

    /// Ids of the weights, head by head: what a frozen step drops the gradients of.
    pub fn param_ids(&self) -> Vec<ParamId> {
        self.heads.iter().map(|head| head.weight.id).collect()
    }
}
