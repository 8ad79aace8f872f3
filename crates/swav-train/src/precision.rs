//! What crops and activations are computed in.

use std::fmt;
use std::str::FromStr;

use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};

/// Number format of crops and of the backbone's activations. Weights, their gradients and moments, batch-norm statistics, features,
/// head, prototypes, scores and losses are 32-bit floats whatever it is (Micikevicius et al., "Mixed Precision Training", ICLR 2018,
/// with `bf16` for their 16 bits, whose range needs no scaling of the loss).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats throughout.
    F32,
    /// 16-bit floats with the exponent of 32-bit ones. Sums are taken in 32 bits.
    Bf16,
}

impl Precision {
    /// The type of a tensor's elements.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::F32, Self::Bf16];
        let found = all.into_iter().find(|known| known.to_string() == name);
        found.ok_or_else(|| "expected f32 or bf16".to_string())
    }
}

/// What a device does with maps of `bf16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bf16 {
    /// It cannot compute with them.
    Missing,
    /// They take half of the memory, and no less time.
    Smaller,
    /// They take less time too.
    Faster,
}
