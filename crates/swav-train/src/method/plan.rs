//! The methods there are, and what a plan says of each.

use std::fmt;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use swav_data::CropSpec;
use swav_model::{Network, NetworkConfig};

use super::{
    DeepclusterV2Plan, Method, MocoV2Plan, RandomPlan, SelaV2Plan, SimclrPlan, SupervisedPlan,
    SwavPlan,
};
use crate::config::Recipe;
use crate::plan::{Facts, Ledger, Plan, TrainPlan};

/// Declares the methods: the name in a recipe, the variant, its settings.
macro_rules! methods {
    ($($(#[$doc:meta])* $name:literal => $variant:ident($settings:ident),)*) => {
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

            /// Heads of prototypes that the method has where the recipe names none.
            pub(crate) fn heads(self) -> usize {
                match self { $(Self::$variant => $settings::HEADS,)* }
            }

            /// The settings of the method, derived from what is known.
            pub(crate) fn derive(self, draft: &mut Draft<'_>) -> MethodPlan {
                draft.refuse_foreign_fields(self.as_str(), match self {
                    $(Self::$variant => $settings::FIELDS,)*
                });
                match self {
                    $(Self::$variant => MethodPlan::$variant($settings::derive(draft)),)*
                }
            }
        }

        /// A method with every constant resolved.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "name")]
        pub enum MethodPlan {
            $($(#[$doc])* #[serde(rename = $name)] $variant($settings),)*
        }

        impl MethodPlan {
            /// Its name.
            pub fn name(&self) -> MethodName {
                match self { $(Self::$variant(_) => MethodName::$variant,)* }
            }

            fn settings(&self) -> &dyn MethodSettings {
                match self { $(Self::$variant(settings) => settings,)* }
            }
        }
    };
}

methods! {
    /// Swapping assignments between views.
    "swav" => Swav(SwavPlan),
    /// Predicting clusters that are found before each epoch.
    "deepcluster-v2" => DeepclusterV2(DeepclusterV2Plan),
    /// Predicting labels that an equal partition of all images gives before each epoch.
    "sela-v2" => SelaV2(SelaV2Plan),
    /// Telling the crops of an image from those of all others.
    "simclr" => Simclr(SimclrPlan),
    /// Telling a key from a queue of others.
    "moco-v2" => MocoV2(MocoV2Plan),
    /// Labels.
    "supervised" => Supervised(SupervisedPlan),
    /// Untrained weights, to compare with.
    "random" => Random(RandomPlan),
}

impl MethodPlan {
    /// The method for a `network` that is about to be trained. `device` is without gradients.
    pub fn build(&self, plan: &Plan, network: &Network, device: &Device) -> Box<dyn Method> {
        self.settings().build(plan, network, device)
    }

    /// What it is set to, in a line for people.
    pub fn describe(&self) -> String {
        self.settings().describe()
    }

    /// Bytes of what the method remembers in `plan`: queue, banks, a copy of the network.
    pub(crate) fn memory(&self, plan: &Plan) -> u64 {
        self.settings().memory(plan)
    }

    pub(crate) fn check(&self, plan: &Plan, ledger: &mut Ledger) {
        self.settings().check(plan, ledger);
    }

    /// The temperature τ of the softmax over prototypes, of a method that has them.
    pub fn temperature(&self) -> Option<f64> {
        match self {
            Self::Swav(settings) => Some(settings.temperature),
            Self::DeepclusterV2(settings) => Some(settings.temperature),
            Self::SelaV2(settings) => Some(settings.temperature),
            Self::Simclr(_) | Self::MocoV2(_) | Self::Supervised(_) | Self::Random(_) => None,
        }
    }

    /// The settings of SwAV, if it is SwAV.
    pub fn swav(&self) -> Option<&SwavPlan> {
        match self {
            Self::Swav(settings) => Some(settings),
            _ => None,
        }
    }
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the settings of a method can do.
///
/// Beside these methods a type of settings has an associated `HEADS`, the heads of prototypes it derives, and
/// `FIELDS`, the fields of `[method]` that mean something to it, and `derive`.
pub(crate) trait MethodSettings {
    /// Adds what cannot work in `plan` to the ledger.
    fn check(&self, plan: &Plan, ledger: &mut Ledger);

    /// The method for a `network` that is about to be trained. `device` is without gradients.
    fn build(&self, plan: &Plan, network: &Network, device: &Device) -> Box<dyn Method>;

    /// Bytes of what the method remembers in `plan`.
    fn memory(&self, _plan: &Plan) -> u64 {
        0
    }

    /// What it is set to, in a line for people.
    fn describe(&self) -> String;
}

/// What is known while a method's settings are derived.
pub(crate) struct Draft<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) facts: &'a Facts,
    pub(crate) crops: &'a [CropSpec],
    pub(crate) train: &'a TrainPlan,
    pub(crate) model: &'a NetworkConfig,
    pub(crate) ledger: &'a mut Ledger,
}

impl Draft<'_> {
    /// Crops of one image.
    pub(crate) fn crops_per_image(&self) -> usize {
        self.crops.iter().map(|crop| crop.count).sum()
    }

    /// A field that a method does not know would be ignored, which nobody wants.
    fn refuse_foreign_fields(&mut self, method: &str, known: &[&str]) {
        let given = toml::Table::try_from(&self.recipe.method).unwrap_or_default();
        for field in given.keys().filter(|field| *field != "name") {
            self.ledger.require(known.contains(&field.as_str()), || {
                let known = match known {
                    [] => "no fields".to_string(),
                    fields => fields.join(", "),
                };
                format!("method.{field} means nothing to {method}, which has {known}; leave it out")
            });
        }
    }
}
