//! Weights in whatever file they come.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::names::import_into;
use super::recognise::{is_backbone, recognise};
use super::transfer::Shapes;
use super::{Tensors, WeightsError, burnpack, import, malformed, safetensors, torch};
use crate::network::{Network, NetworkConfig};

/// The tensors of a file, and the network they are of.
///
/// Files are recognised by how they begin: PyTorch's `.pth` and `.pth.tar`, SafeTensors, and burnpack. Of PyTorch's, the
/// tensors may lie in a `state_dict`; names are torchvision's or those of the SwAV authors' checkpoints (see
/// [`weights`](crate::weights)), and may carry `module.` or `backbone.` in front. The architecture is found by the shapes.
/// Pickles are read as data: nothing in a file is ever called, and none takes more memory than a few times its own length.
#[derive(Clone, Debug)]
pub struct Pretrained {
    path: PathBuf,
    config: NetworkConfig,
    tensors: Tensors,
    left_over: Vec<String>,
    beside: Vec<String>,
}

/// What of [`Pretrained`] weights a network has taken.
#[derive(Clone, Debug, Default)]
pub struct Adopted {
    /// The parts that were taken, each whole.
    pub taken: Vec<&'static str>,
    /// The parts that stayed as they were, each with the reason.
    pub kept: Vec<(&'static str, String)>,
}

impl Pretrained {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, is of another kind, cut off, damaged or hostile, or holds no network of this crate.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let (tensors, beside) = tensors(path)?;
        let mut named = Tensors::new();
        for (name, data) in tensors {
            let short = name.strip_prefix("module.").unwrap_or(&name);
            let short = short.strip_prefix("backbone.").unwrap_or(short);
            if named.insert(short.to_owned(), data).is_some() {
                return Err(malformed(
                    path,
                    format!("`{short}` is in it twice, once as `{name}`"),
                ));
            }
        }
        // The SwAV authors' code also writes a list of a single head as `prototypes0`.
        if !named.contains_key("prototypes.prototypes1.weight")
            && let Some(only) = named.remove("prototypes.prototypes0.weight")
        {
            named.insert("prototypes.weight".to_owned(), only);
        }
        let shape = |(name, data): (&String, &burn::tensor::TensorData)| {
            (name.clone(), data.shape().as_slice().to_vec())
        };
        let shapes: Shapes = named.iter().map(shape).collect();
        let config = recognise(&shapes).map_err(|reason| malformed(path, reason))?;
        let wanted = |name: &String| belongs(name, &config);
        let left_over = named.keys().filter(|name| !wanted(name)).cloned().collect();
        named.retain(|name, _| wanted(name));
        Ok(Self {
            path: path.to_owned(),
            config,
            tensors: named,
            left_over,
            beside,
        })
    }

    /// The network that the tensors are of. Without a head in the file its `dim` is 0.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// Names of the tensors that are of no use here: a classifier `fc`, the parts of another method.
    pub fn left_over(&self) -> &[String] {
        &self.left_over
    }

    /// Names of the entries beside the tensors: an epoch, an optimizer.
    pub fn beside(&self) -> &[String] {
        &self.beside
    }

    /// The network itself, on `device`.
    ///
    /// # Errors
    /// If a tensor is missing, of another shape, or not of floating-point values.
    pub fn into_network(self, device: &Device) -> Result<Network, WeightsError> {
        import(self.config.init(0, device), self.tensors)
            .map_err(|error| malformed(&self.path, error))
    }

    /// Puts the weights into a network: the backbone in any case, head and prototypes where all their names and shapes
    /// agree. Says which were taken and why others were not.
    ///
    /// # Errors
    /// If the backbone is another one.
    pub fn give(self, mut network: Network) -> Result<(Network, Adopted), WeightsError> {
        let (head, rest): (Tensors, Tensors) = self
            .tensors
            .into_iter()
            .partition(|(name, _)| name.starts_with("projection_head"));
        let (prototypes, backbone): (Tensors, Tensors) = rest
            .into_iter()
            .partition(|(name, _)| name.starts_with("prototypes"));
        let config = network.config().clone();
        network.backbone = import_into(network.backbone, "backbone.", backbone, &config)
            .map_err(|error| malformed(&self.path, error))?;
        let mut adopted = Adopted {
            taken: vec!["backbone"],
            kept: Vec::new(),
        };
        match import_into(network.head.clone(), "head.", head, &config) {
            Ok(head) => {
                network.head = head;
                adopted.taken.push("projection head");
            }
            Err(error) => adopted.kept.push(("projection head", error.to_string())),
        }
        if !config.prototypes.is_empty() {
            match import_into(
                network.prototypes.clone(),
                "prototypes.",
                prototypes,
                &config,
            ) {
                Ok(prototypes) => {
                    network.prototypes = prototypes;
                    adopted.taken.push("prototypes");
                }
                Err(error) => adopted.kept.push(("prototypes", error.to_string())),
            }
        }
        Ok((network, adopted))
    }
}

/// Every tensor of a file with floating-point values, by the names in it, and what else it holds.
fn tensors(path: &Path) -> Result<(Tensors, Vec<String>), WeightsError> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(64).read_to_end(&mut start))
        .map_err(|source| WeightsError::Io {
            path: path.to_owned(),
            source,
        })?;
    if start.starts_with(b"PK\x03\x04") || start.starts_with(torch::LEGACY) {
        let checkpoint = torch::read(path)?;
        return Ok((checkpoint.tensors, checkpoint.beside));
    }
    if start.starts_with(burnpack::MAGIC) {
        return Ok((burnpack::tensors(path)?, Vec::new()));
    }
    if start.get(8) == Some(&b'{') {
        let (tensors, others) = safetensors::floats(path)?;
        return Ok((tensors, others.into_iter().map(|(name, _)| name).collect()));
    }
    Err(malformed(
        path,
        "it begins as no checkpoint of PyTorch (0.4 or later), no SafeTensors and no burnpack does",
    ))
}

/// Whether a network of `config` has a tensor of this name.
fn belongs(name: &str, config: &NetworkConfig) -> bool {
    if let Some(head) = name.strip_prefix("projection_head.") {
        let layer = head.split('.').next().unwrap_or_default();
        let listed = matches!(layer, "0" | "1" | "3");
        return config.dim > 0 && listed == (config.hidden > 0);
    }
    if let Some(prototypes) = name.strip_prefix("prototypes.") {
        let number = prototypes
            .strip_prefix("prototypes")
            .and_then(|rest| rest.strip_suffix(".weight"));
        return match number {
            Some(number) => {
                config.prototypes.len() > 1
                    && number
                        .parse()
                        .is_ok_and(|i: usize| i < config.prototypes.len())
            }
            None => config.prototypes.len() == 1 && prototypes == "weight",
        };
    }
    is_backbone(name)
}
