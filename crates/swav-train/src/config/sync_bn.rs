//! Over which ranks batch norm takes its statistics.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `model.sync_bn = "all"`, `"none"` or the size of a group of ranks, such as `8` (Caron et al., NeurIPS 2020, appendix A.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncBn {
    /// All ranks together: the statistics of one process.
    #[default]
    All,
    /// Each rank by itself.
    None,
    /// Each group of so many ranks that follow one another.
    Groups(usize),
}

impl SyncBn {
    /// Ranks of a group, of `ranks` in all.
    pub fn size(self, ranks: usize) -> usize {
        match self {
            Self::All => ranks,
            Self::None => 1,
            Self::Groups(size) => size,
        }
    }
}

impl fmt::Display for SyncBn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => write!(f, "all"),
            Self::None => write!(f, "none"),
            Self::Groups(size) => write!(f, "{size}"),
        }
    }
}

impl Serialize for SyncBn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::None => serializer.serialize_str("none"),
            Self::Groups(size) => serializer.serialize_u64(*size as u64),
        }
    }
}

impl<'de> Deserialize<'de> for SyncBn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Expected;

        impl Visitor<'_> for Expected {
            type Value = SyncBn;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\", \"none\" or a number of ranks, such as 8")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<SyncBn, E> {
                match text {
                    "all" => Ok(SyncBn::All),
                    "none" => Ok(SyncBn::None),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: Error>(self, size: u64) -> Result<SyncBn, E> {
                usize::try_from(size).map(SyncBn::Groups).map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, size: i64) -> Result<SyncBn, E> {
                usize::try_from(size)
                    .map(SyncBn::Groups)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(size), &self))
            }
        }

        deserializer.deserialize_any(Expected)
    }
}
