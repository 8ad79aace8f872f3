//! The architectures by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A member of the ResNet family, by the name it goes by: `"resnet50".parse()`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Architecture(&'static Entry);

/// A name that is no [`Architecture`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no backbone `{name}`; there are {}", known())]
pub struct UnknownArchitecture {
    name: String,
}

/// A row of the table of architectures.
#[derive(PartialEq, Eq)]
pub(super) struct Entry {
    name: &'static str,
    pub(super) block: BlockKind,
    /// Blocks in each of the four stages.
    pub(super) blocks: [usize; 4],
    /// Factor on every width (w2, w4, w5 of the SwAV paper).
    pub(super) widen: usize,
    /// Groups of the 3×3 convolution of a bottleneck.
    pub(super) groups: usize,
    /// Channels of a group in the first stage.
    pub(super) group_width: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1, 3×3, 1×1; the output is four times as wide as the 3×3 of a plain ResNet.
    Bottleneck,
}

impl BlockKind {
    pub(super) fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }
}

const fn basic(name: &'static str, blocks: [usize; 4]) -> Entry {
    Entry {
        name,
        block: BlockKind::Basic,
        blocks,
        widen: 1,
        groups: 1,
        group_width: 64,
    }
}

const fn bottleneck(name: &'static str, blocks: [usize; 4], widen: usize) -> Entry {
    Entry {
        block: BlockKind::Bottleneck,
        widen,
        ..basic(name, blocks)
    }
}

const fn resnext(
    name: &'static str,
    blocks: [usize; 4],
    groups: usize,
    group_width: usize,
) -> Entry {
    Entry {
        groups,
        group_width,
        ..bottleneck(name, blocks, 1)
    }
}

const R50: [usize; 4] = [3, 4, 6, 3];
const R101: [usize; 4] = [3, 4, 23, 3];

static ENTRIES: [Entry; 18] = [
    basic("resnet18", [2, 2, 2, 2]),
    basic("resnet34", R50),
    bottleneck("resnet50", R50, 1),
    bottleneck("resnet101", R101, 1),
    bottleneck("resnet152", [3, 8, 36, 3], 1),
    bottleneck("resnet200", [3, 24, 36, 3], 1),
    bottleneck("resnet50w2", R50, 2),
    bottleneck("resnet50w4", R50, 4),
    bottleneck("resnet50w5", R50, 5),
    resnext("wide_resnet50_2", R50, 1, 128),
    resnext("wide_resnet101_2", R101, 1, 128),
    resnext("resnext50_32x4d", R50, 32, 4),
    resnext("resnext101_32x4d", R101, 32, 4),
    resnext("resnext101_32x8d", R101, 32, 8),
    resnext("resnext101_32x16d", R101, 32, 16),
    resnext("resnext101_32x32d", R101, 32, 32),
    resnext("resnext101_32x48d", R101, 32, 48),
    resnext("resnext101_64x4d", R101, 64, 4),
];

fn known() -> String {
    let names: Vec<_> = Architecture::all().map(Architecture::name).collect();
    names.join(", ")
}

impl Architecture {
    /// Every architecture, smallest family first.
    pub fn all() -> impl Iterator<Item = Self> {
        ENTRIES.iter().map(Self)
    }

    /// The name, as it is parsed.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    pub(super) fn entry(self) -> &'static Entry {
        self.0
    }
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownArchitecture {
            name: name.to_owned(),
        };
        Self::all()
            .find(|known| known.name() == name)
            .ok_or_else(unknown)
    }
}

impl TryFrom<String> for Architecture {
    type Error = UnknownArchitecture;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl From<Architecture> for String {
    fn from(architecture: Architecture) -> Self {
        architecture.name().to_owned()
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
