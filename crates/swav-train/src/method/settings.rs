//! The methods there are, and what a recipe and a plan say of each.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;

use burn::tensor::Device;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use swav_data::CropSpec;
use swav_model::{Network, NetworkConfig};

use super::Method;
use super::deepcluster_v2::{DeepclusterV2Plan, DeepclusterV2Recipe};
use super::moco_v2::{MocoV2Plan, MocoV2Recipe};
use super::random::{RandomPlan, RandomRecipe};
use super::sela_v2::{SelaV2Plan, SelaV2Recipe};
use super::simclr::{SimclrPlan, SimclrRecipe};
use super::supervised::{SupervisedPlan, SupervisedRecipe};
use super::swav::{SwavPlan, SwavRecipe};
use crate::facts::Facts;
use crate::ledger::Ledger;
use crate::optim::OptimizerName;

/// Declares the methods: the name in a recipe, the variant, what a recipe and what a plan says of it.
macro_rules! methods {
    ($($(#[$doc:meta])* $name:literal => $variant:ident($recipe:ident, $plan:ident),)*) => {
        /// The name of a method, as it stands in a recipe.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum MethodName {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl MethodName {
            /// All methods.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name itself.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            fn recipe(self, fields: toml::Table) -> Result<MethodRecipe, toml::de::Error> {
                match self {
                    $(Self::$variant => fields.try_into().map(MethodRecipe::$variant),)*
                }
            }

            fn check_lines(self, text: &str) -> Result<(), toml::de::Error> {
                match self {
                    $(Self::$variant => toml::from_str::<MethodOf<$recipe>>(text).map(drop),)*
                }
            }
        }

        /// `[method]`: the name and what that method can be told.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(tag = "name")]
        pub enum MethodRecipe {
            $($(#[$doc])* #[serde(rename = $name)] $variant($recipe),)*
        }

        impl MethodRecipe {
            fn settings(&self) -> &dyn RecipeSettings {
                match self { $(Self::$variant(recipe) => recipe,)* }
            }
        }

        /// A method with every constant resolved.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "name")]
        pub enum MethodPlan {
            $($(#[$doc])* #[serde(rename = $name)] $variant($plan),)*
        }

        impl MethodPlan {
            /// Its name.
            pub fn name(&self) -> MethodName {
                match self { $(Self::$variant(_) => MethodName::$variant,)* }
            }

            fn settings(&self) -> &dyn PlanSettings {
                match self { $(Self::$variant(plan) => plan,)* }
            }
        }
    };
}

methods! {
    /// Swapping assignments between views.
    "swav" => Swav(SwavRecipe, SwavPlan),
    /// Predicting clusters that are found before each epoch.
    "deepcluster-v2" => DeepclusterV2(DeepclusterV2Recipe, DeepclusterV2Plan),
    /// Predicting labels that an equal partition of all images gives before each epoch.
    "sela-v2" => SelaV2(SelaV2Recipe, SelaV2Plan),
    /// Telling the crops of an image from those of all others.
    "simclr" => Simclr(SimclrRecipe, SimclrPlan),
    /// Telling a key from a queue of others.
    "moco-v2" => MocoV2(MocoV2Recipe, MocoV2Plan),
    /// Labels.
    "supervised" => Supervised(SupervisedRecipe, SupervisedPlan),
    /// Untrained weights, to compare with.
    "random" => Random(RandomRecipe, RandomPlan),
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Default for MethodRecipe {
    /// SwAV, about which nothing is said.
    fn default() -> Self {
        Self::Swav(SwavRecipe::default())
    }
}

impl<'de> Deserialize<'de> for MethodRecipe {
    /// Fields that the method does not have are refused.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = toml::Table::deserialize(deserializer)?;
        let name = match fields.remove("name") {
            None => MethodName::Swav,
            Some(name) => MethodName::deserialize(name).map_err(D::Error::custom)?,
        };
        name.recipe(fields)
            .map_err(|error| D::Error::custom(format!("[method] of {name}: {}", error.message())))
    }
}

/// The section of a recipe in which a method is told of, and no other.
#[derive(Deserialize)]
#[serde(bound = "M: Deserialize<'de>")]
struct MethodOf<M> {
    #[serde(default, rename = "method")]
    _fields: Named<M>,
}

/// The fields of a method beside its name.
struct Named<M>(PhantomData<M>);

impl<M> Default for Named<M> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<'de, M: Deserialize<'de>> Deserialize<'de> for Named<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<M>(PhantomData<M>);

        impl<'de, M: Deserialize<'de>> Visitor<'de> for Fields<M> {
            type Value = Named<M>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                M::deserialize(MapAccessDeserializer::new(WithoutName(fields)))?;
                Ok(Named(PhantomData))
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// A key of a table, unless it is `name`.
struct UnlessName<K>(K);

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for UnlessName<K> {
    type Value = Result<K::Value, K>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let key = String::deserialize(deserializer)?;
        match key.as_str() {
            "name" => Ok(Err(self.0)),
            _ => self.0.deserialize(key.into_deserializer()).map(Ok),
        }
    }
}

/// The fields of a table but `name`.
struct WithoutName<A>(A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutName<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        mut seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        loop {
            match self.0.next_key_seed(UnlessName(seed))? {
                None => return Ok(None),
                Some(Ok(key)) => return Ok(Some(key)),
                Some(Err(unused)) => seed = unused,
            }
            self.0.next_value::<IgnoredAny>()?;
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(seed)
    }
}

impl MethodRecipe {
    /// Reads `[method]` alone out of the `text` of a recipe: an error in it then has a line.
    pub(crate) fn check_lines(text: &str) -> Result<(), toml::de::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Section {
            method: NameOnly,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct NameOnly {
            name: Option<MethodName>,
        }
        let Section { method } = toml::from_str(text)?;
        method.name.unwrap_or(MethodName::Swav).check_lines(text)
    }

    /// The weights as they are drawn.
    pub(crate) fn untrained() -> Self {
        Self::Random(RandomRecipe {})
    }

    /// What the method wants of the rest of a plan.
    pub(crate) fn defaults(&self, facts: &Facts) -> Defaults {
        self.settings().defaults(facts)
    }

    /// The settings of the method, derived from what is known.
    pub(crate) fn derive(&self, context: &MethodContext<'_>, ledger: &mut Ledger) -> MethodPlan {
        self.settings().derive(context, ledger)
    }
}

impl MethodPlan {
    /// The method for a `network` that is about to be trained. `device` is without gradients.
    pub(crate) fn build(
        &self,
        context: &MethodContext<'_>,
        network: &Network,
        device: &Device,
    ) -> Box<dyn Method> {
        self.settings().build(context, network, device)
    }

    /// Adds what cannot work to the ledger.
    pub(crate) fn check(&self, context: &MethodContext<'_>, ledger: &mut Ledger) {
        self.settings().check(context, ledger);
    }

    /// Bytes of what the method remembers: queue, banks, a copy of the network.
    pub(crate) fn memory(&self, context: &MethodContext<'_>) -> u64 {
        self.settings().memory(context)
    }

    /// Whether the method is trained at all.
    pub(crate) fn trains(&self) -> bool {
        self.settings().trains()
    }

    /// What it is set to, in a line for people.
    pub fn describe(&self) -> String {
        self.settings().describe()
    }

    /// The temperature τ of the softmax over prototypes, of a method that has them.
    pub fn temperature(&self) -> Option<f64> {
        self.settings().temperature()
    }

    /// The settings of SwAV, if it is SwAV.
    pub fn swav(&self) -> Option<&SwavPlan> {
        match self {
            Self::Swav(settings) => Some(settings),
            _ => None,
        }
    }
}

/// A run as far as a method is concerned with it.
pub(crate) struct MethodContext<'a> {
    /// Where the training images are.
    pub(crate) data: &'a Path,
    /// Training images.
    pub(crate) images: usize,
    /// Classes of the training images; 0 where there are no labels.
    pub(crate) classes: usize,
    pub(crate) crops: &'a [CropSpec],
    pub(crate) model: &'a NetworkConfig,
    /// Images of a step, of all ranks.
    pub(crate) batch: usize,
    /// Processes that share the run.
    pub(crate) ranks: usize,
    pub(crate) epochs: u64,
    pub(crate) steps_per_epoch: u64,
    pub(crate) steps: u64,
    pub(crate) seed: u64,
}

impl MethodContext<'_> {
    /// Crops of one image.
    pub(crate) fn crops_per_image(&self) -> usize {
        self.crops.iter().map(|crop| crop.count).sum()
    }
}

/// What a method wants of the rest of a plan, where the recipe leaves it open.
pub(crate) struct Defaults {
    /// Heads of prototypes.
    pub(crate) heads: usize,
    /// Whether it is trained at all.
    pub(crate) trains: bool,
    /// Width of the head's hidden layer, if it is not to be that of the features.
    pub(crate) hidden: Option<usize>,
    /// Length of an embedding and why, if it is not to be 128.
    pub(crate) dim: Option<(usize, &'static str)>,
    /// Whether batch norm follows the hidden layer.
    pub(crate) head_norm: bool,
    /// The optimizer of the method's own.
    pub(crate) optimizer: Option<OptimizerDefaults>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            heads: 0,
            trains: true,
            hidden: None,
            dim: None,
            head_norm: true,
            optimizer: None,
        }
    }
}

/// An optimizer that a method brings.
pub(crate) struct OptimizerDefaults {
    pub(crate) name: OptimizerName,
    /// Weight decay, with this optimizer alone.
    pub(crate) weight_decay: f64,
    pub(crate) why: &'static str,
}

/// What a recipe says of a method.
pub(crate) trait RecipeSettings {
    /// What the method wants of the rest of a plan.
    fn defaults(&self, _facts: &Facts) -> Defaults {
        Defaults::default()
    }

    /// The settings of the method, derived from what is known.
    fn derive(&self, context: &MethodContext<'_>, ledger: &mut Ledger) -> MethodPlan;
}

/// What a plan says of a method.
pub(crate) trait PlanSettings {
    /// Adds what cannot work to the ledger.
    fn check(&self, context: &MethodContext<'_>, ledger: &mut Ledger);

    /// The method for a `network` that is about to be trained. `device` is without gradients.
    fn build(
        &self,
        context: &MethodContext<'_>,
        network: &Network,
        device: &Device,
    ) -> Box<dyn Method>;

    /// Bytes of what the method remembers.
    fn memory(&self, _context: &MethodContext<'_>) -> u64 {
        0
    }

    /// Whether it is trained at all.
    fn trains(&self) -> bool {
        true
    }

    /// The temperature of the softmax over prototypes, of a method that has them.
    fn temperature(&self) -> Option<f64> {
        None
    }

    /// What it is set to, in a line for people.
    fn describe(&self) -> String;
}
