//! The plan of a network that no run has trained.

use std::path::PathBuf;

use swav_model::{NetworkConfig, Stem};

use super::{EvaluationPlan, Plan};
use crate::TrainError;
use crate::config::Recipe;
use crate::facts::Facts;
use crate::method::MethodRecipe;
use crate::precision::Bf16;

/// Side of the images that networks with this stem are made for.
fn side(stem: Stem) -> usize {
    match stem {
        Stem::Imagenet => 224,
        Stem::Cifar => 32,
    }
}

impl Plan {
    /// A plan to evaluate the network of a weights file by. It knows of no images, and is not for training.
    ///
    /// # Errors
    /// If the defaults of a recipe do not hold together.
    pub(crate) fn of_weights(network: &NetworkConfig) -> Result<Self, TrainError> {
        let mut recipe = Recipe::default();
        recipe.data.path = Some(PathBuf::new());
        if network.prototypes.is_empty() {
            recipe.method = MethodRecipe::untrained();
        }
        let side = side(network.backbone.stem);
        let facts = Facts {
            images: 1000,
            classes: 0,
            single_labels: false,
            side,
            accelerated: false,
            bf16: Bf16::Smaller,
            memory: None,
            ranks: 1,
            digest: None,
        };
        let mut plan = Self::derive(&recipe, &facts)?;
        plan.model = network.clone();
        plan.evaluation = EvaluationPlan::of(side, network.backbone.stem);
        Ok(plan)
    }

    /// Images are to be seen in evaluation at `size` pixels, resized in proportion.
    ///
    /// # Errors
    /// If the backbone makes nothing of images so small.
    pub fn see_at(&mut self, size: usize) -> Result<(), TrainError> {
        let backbone = &self.model.backbone;
        let least = backbone.min_size();
        if size < least {
            return Err(TrainError::Recipe(format!(
                "--size {size}: the backbone needs at least {least} px"
            )));
        }
        self.evaluation = EvaluationPlan::of(size, backbone.stem);
        Ok(())
    }

    /// Whether it is of a weights file, without images of its own.
    pub fn is_of_weights(&self) -> bool {
        self.data.path.as_os_str().is_empty()
    }
}
