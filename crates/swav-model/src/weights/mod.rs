//! Weights in files.
//!
//! | functions | format | for |
//! |---|---|---|
//! | [`save`], [`load`], [`describe`] | burnpack, Burn's own | going on: it keeps parameter ids, which the optimizer's state refers to |
//! | [`save_safetensors`], [`save_backbone_safetensors`], [`load_safetensors`], [`load_backbone_safetensors`] | SafeTensors under torchvision's names | exchange: PyTorch loads it, and what it saves is loaded |
//! | [`Pretrained`] | any of these two, and PyTorch's `.pth` and `.pth.tar` | going on from what others trained |
//! | [`save_onnx`] | ONNX, a graph with its weights | running elsewhere |
//! | [`export`], [`import`], [`import_backbone`] | no file: tensors by torchvision's names | everything else |
//!
//! Burnpack and SafeTensors hold the batch norms' running statistics as of the last forward pass, also when the
//! network is saved in the middle of training. Files are written beside their place and moved into
//! it when complete: a crash leaves the old file or the new one, never half of one.
//!
//! Loading checks every name and shape before it changes anything. A truncated, foreign or
//! mismatching file is an error that says what is wrong, never a panic.
//!
//! # Names
//!
//! Under torchvision's names a backbone is `conv1.weight`, `bn1.running_mean`,
//! `layer1.0.conv1.weight`, `layer1.0.downsample.0.weight` and so on. The rest is named as in the
//! SwAV authors' checkpoints: `projection_head.0` (Linear), `.1` (batch norm) and `.3` (Linear), or
//! `projection_head` alone if it is a single layer; `prototypes.weight`, or with several heads
//! `prototypes.prototypes0.weight` and so on. Linear weights are `[out, in]`, as PyTorch keeps them.

mod burnpack;
mod locate;
mod names;
mod onnx;
mod pickle;
mod pretrained;
mod recognise;
mod safetensors;
mod torch;
mod transfer;
mod zip;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;

pub use burnpack::{describe, load, save};
pub use names::{export, import, import_backbone};
pub use onnx::save_onnx;
pub use pretrained::{Adopted, Pretrained};
pub use safetensors::{
    load_backbone_safetensors, load_safetensors, save_backbone_safetensors, save_safetensors,
};

/// Tensors by name.
pub type Tensors = BTreeMap<String, TensorData>;

/// Why weights could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is truncated, damaged, or of another format.
    #[error("{}: no readable weights: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The tensor does not hold floating-point values.
    #[error("tensor `{name}` holds {dtype}, not floating-point values")]
    NotFloat {
        /// Name of the tensor.
        name: String,
        /// What it holds.
        dtype: String,
    },
    /// The tensors are not those of the network.
    #[error("the weights are not those of this network{0}")]
    Mismatch(Box<Mismatch>),
}

/// How the tensors of a file differ from those of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// What the network is, and what the file says it was saved from, where it says so.
    pub networks: Option<(String, String)>,
    /// Names that the network has and the file has not.
    pub missing: Vec<String>,
    /// Names that the file has and the network has not.
    pub left_over: Vec<String>,
    /// Tensors of different shapes.
    pub shapes: Vec<ShapeMismatch>,
}

/// A tensor whose shape in the file is not that in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// Its name.
    pub name: String,
    /// Its shape in the network.
    pub network: Vec<usize>,
    /// Its shape in the file.
    pub file: Vec<usize>,
}

impl Mismatch {
    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.left_over.is_empty() && self.shapes.is_empty()
    }
}

/// As many entries of a list as a message has room for.
const SHOWN: usize = 5;

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((network, file)) = &self.networks
            && network != file
        {
            write!(f, "; the network is {network}, the file holds {file}")?;
        }
        let shapes: Vec<_> = self.shapes.iter().map(ToString::to_string).collect();
        let lists = [
            ("of another shape", &shapes),
            ("missing in the file", &self.missing),
            ("left over in the file", &self.left_over),
        ];
        for (what, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
            let shown = names[..names.len().min(SHOWN)].join(", ");
            write!(f, "; {} {what}: {shown}", names.len())?;
            if names.len() > SHOWN {
                write!(f, ", …")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for ShapeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            network,
            file,
        } = self;
        write!(
            f,
            "{name} is {network:?} in the network and {file:?} in the file"
        )
    }
}

fn read(path: &Path) -> Result<Vec<u8>, WeightsError> {
    std::fs::read(path).map_err(|source| WeightsError::Io {
        path: path.to_owned(),
        source,
    })
}

fn malformed(path: &Path, reason: impl fmt::Display) -> WeightsError {
    WeightsError::Format {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
