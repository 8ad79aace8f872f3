//! What crops and activations are computed in.

use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};

/// Number format of crops and activations; weights, statistics, scores and losses are 32-bit floats whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats throughout.
    F32,
}

impl Precision {
    /// The type of a tensor's elements.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
        }
    }
}
