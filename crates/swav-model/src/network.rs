//! Backbone, head and prototypes together.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, BackboneConfig};
use crate::draw::Draw;
use crate::head::{HeadConfig, ProjectionHead, unit};
use crate::prototypes::{Prototypes, PrototypesConfig};
use crate::ranks::Ranks;

/// Everything that defines a [`Network`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// Width of the head's hidden layer; 0 makes the head a single linear layer.
    pub hidden: usize,
    /// Whether batch norm follows the hidden layer, as in every method here but MoCo.
    #[serde(default = "with_norm", skip_serializing_if = "Clone::clone")]
    pub head_norm: bool,
    /// What the head gives; 0: there is no head, and an embedding is the features brought to unit length.
    pub dim: usize,
    /// Number of prototypes of each head.
    pub prototypes: Vec<usize>,
}

/// What configurations mean that were written before there was a choice.
fn with_norm() -> bool {
    true
}

impl NetworkConfig {
    /// Builds the network on `device` with the weights that `seed` draws: the same on every device.
    pub fn init(&self, seed: u64, device: &Device) -> Network {
        let draw = &mut Draw::new(seed, device);
        Network {
            backbone: self.backbone.init(draw),
            head: self.head().init(draw),
            prototypes: self.heads().init(draw),
            config: self.clone(),
        }
    }

    /// Number of trained values.
    pub fn parameters(&self) -> u64 {
        self.backbone.parameters() + self.head().parameters() + self.heads().parameters()
    }

    /// Dimensions of an embedding.
    pub fn embedding(&self) -> usize {
        match self.dim {
            0 => self.backbone.dim(),
            dim => dim,
        }
    }

    fn head(&self) -> HeadConfig {
        HeadConfig {
            input: self.backbone.dim(),
            hidden: self.hidden,
            norm: self.head_norm,
            output: self.dim,
        }
    }

    fn heads(&self) -> PrototypesConfig {
        PrototypesConfig {
            dim: self.embedding(),
            counts: self.prototypes.clone(),
        }
    }
}

/// Backbone, projection head and prototypes.
#[derive(Module, Debug)]
pub struct Network {
    /// Images to features.
    pub backbone: Backbone,
    /// Features to embeddings.
    pub head: ProjectionHead,
    /// Embeddings to scores.
    pub prototypes: Prototypes,
    #[module(skip)]
    config: NetworkConfig,
}

/// What a [`Network`] makes of C crops of B images. Rows are crop-major: row `c·B + b` is crop c of
/// image b.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// What the head gives, `[C·B, dim]`, or the features without one: of a classifier, its logits.
    pub projections: Tensor<2>,
    /// The projections, `[C·B, dim]`, brought to unit length.
    pub embeddings: Tensor<2>,
    /// For each head of prototypes, `[C·B, K]`.
    pub scores: Vec<Tensor<2>>,
}

impl Network {
    /// The multi-crop forward.
    ///
    /// Each group holds the crops of one resolution, `[crops·B, 3, H, W]`, crop-major. A group is one
    /// pass of the backbone, and so one set of batch-norm statistics; the head and the prototypes
    /// run once over the crops of all groups.
    ///
    /// # Panics
    /// If there is no group, if a group has not three channels, or, while training, if there are too
    /// few images for batch norm (see [`BatchNorm::forward`](crate::BatchNorm::forward)).
    pub fn forward(&self, groups: Vec<Tensor<4>>) -> Outputs {
        self.outputs(groups.into_iter().map(|x| self.features(x)).collect())
    }

    /// The end of [`forward`](Self::forward): head and prototypes over the features of each group, `[crops·B, dim of the
    /// backbone]`.
    ///
    /// # Panics
    /// If there is no group, or one of other features.
    pub fn outputs(&self, features: Vec<Tensor<2>>) -> Outputs {
        assert!(
            !features.is_empty(),
            "a forward pass needs at least one group"
        );
        let projections = self.head.forward(Tensor::cat(features, 0));
        let embeddings = unit(projections.clone(), 1);
        Outputs {
            scores: self.prototypes.forward(embeddings.clone()),
            projections,
            embeddings,
        }
    }

    /// The backbone alone: `[N, 3, H, W]` to `[N, dim]`, what evaluations use.
    ///
    /// # Panics
    /// As [`Network::forward`].
    pub fn features(&self, x: Tensor<4>) -> Tensor<2> {
        self.backbone.forward(x)
    }

    /// From now on, all batch norms take their statistics over the images of all `ranks`, each of which has as many.
    pub fn synchronise(&mut self, ranks: &Ranks) {
        self.backbone.synchronise(ranks);
        self.head.synchronise(ranks);
    }

    /// What the network was built from.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }
}
