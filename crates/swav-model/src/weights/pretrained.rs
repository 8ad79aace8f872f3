//! Weights in whatever file they come.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};

use super::locate::Place;
use super::names::{import_into, second};
use super::recognise::{is_backbone, recognise};
use super::transfer::Shapes;
use super::{Tensors, WeightsError, burnpack, import, malformed, safetensors, torch};
use crate::network::{Network, NetworkConfig};

/// The tensors of a file, and the network they are of.
///
/// Files are recognised by how they begin: PyTorch's `.pth` and `.pth.tar`, SafeTensors, and burnpack. Names are torchvision's
/// or those of the SwAV authors' checkpoints (see [`weights`](crate::weights)), with anything in front of them, and in
/// dictionaries of dictionaries; the architecture is found by the shapes. Of several networks in a file a copy that follows
/// another (`encoder_k`, `momentum_backbone`, an average) counts as less.
/// Pickles are read as data: nothing in a file is ever called, and none takes more memory than a few times its own length.
#[derive(Clone, Debug)]
pub struct Pretrained {
    path: PathBuf,
    config: NetworkConfig,
    tensors: Tensors,
    left_over: Vec<String>,
    beside: Vec<String>,
    front: Option<String>,
    foreign: bool,
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
        let wrong = |reason: String| malformed(path, reason);
        let mut file = Content::open(path)?;
        let all = file.shapes();
        let places = Place::all(&all);
        let place = the_one(&places, &file).map_err(wrong)?;
        let place = place.cloned().unwrap_or_default();

        let mut named = BTreeMap::new();
        let mut left_over = Vec::new();
        for name in all.keys() {
            match place.short(name) {
                Some(short) => drop(named.insert(short, name.clone())),
                // What belongs to another part of the checkpoint is told of as a whole.
                None if name.starts_with(root(&place.front)) => left_over.push(name.clone()),
                None => {}
            }
        }
        // The SwAV authors' code also writes a list of a single head as `prototypes0`.
        if !named.contains_key("prototypes.prototypes1.weight")
            && let Some(only) = named.remove("prototypes.prototypes0.weight")
        {
            named.insert("prototypes.weight".to_owned(), only);
        }
        let shape = |(short, name): (&String, &String)| (short.clone(), all[name].clone());
        let shapes: Shapes = named.iter().map(shape).collect();
        let config = recognise(&shapes).map_err(wrong)?;
        let mut tensors = Tensors::new();
        for (short, name) in named {
            if !belongs(&short, &config) {
                left_over.push(short);
                continue;
            }
            let read = file.read(&name);
            let data = read.map_err(|why| wrong(format!("tensor `{name}`: {why}")))?;
            tensors.insert(short, data);
        }
        left_over.sort();
        let beside = file.others().iter().filter_map(|name| {
            let inner = name.strip_prefix(&place.around);
            let outermost = !name.contains('.') && !place.front.starts_with(&format!("{name}."));
            inner.or(outermost.then_some(name.as_str()))
        });
        Ok(Self {
            path: path.to_owned(),
            config,
            tensors,
            left_over,
            beside: beside.map(str::to_owned).collect(),
            foreign: file.is_foreign(),
            front: (!place.is_plain() || places.len() > 1).then_some(place.front),
        })
    }

    /// What stands in front of the names of the tensors that were taken, where that is not usual or there are other networks in
    /// the file: `module.encoder_q.`.
    pub fn front(&self) -> Option<&str> {
        self.front.as_deref()
    }

    /// Whether the file was written by another program, and so says of its network no more than shapes do.
    pub fn is_foreign(&self) -> bool {
        self.foreign
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

/// Which of the backbones in a file is meant. None if there is none.
///
/// # Errors
/// If there are several, none of them a copy of another.
fn the_one<'a>(places: &'a [Place], file: &Content) -> Result<Option<&'a Place>, String> {
    let Some(first) = places.first() else {
        return Ok(None);
    };
    let equals = |other: &&Place| {
        other.is_copy() == first.is_copy() && !file.is_same(&first.first(), &other.first())
    };
    match places[1..].iter().find(equals) {
        None => Ok(Some(first)),
        Some(other) => Err(format!(
            "it holds several networks, under `{}` and under `{}`: save the one that you mean",
            first.front, other.front
        )),
    }
}

/// The outermost part of what stands in front of a name.
fn root(front: &str) -> &str {
    front.split_inclusive('.').next().unwrap_or_default()
}

/// What a file holds, by the names in it.
enum Content {
    /// Of which nothing is read before it is asked for.
    Torch(Box<torch::Checkpoint>),
    Loaded {
        tensors: Tensors,
        others: Vec<String>,
        own: bool,
    },
}

impl Content {
    fn open(path: &Path) -> Result<Self, WeightsError> {
        let mut start = Vec::new();
        File::open(path)
            .and_then(|file| file.take(64).read_to_end(&mut start))
            .map_err(|source| WeightsError::Io {
                path: path.to_owned(),
                source,
            })?;
        if start.starts_with(b"PK\x03\x04") || start.starts_with(torch::LEGACY) {
            return Ok(Self::Torch(Box::new(torch::open(path)?)));
        }
        if start.starts_with(burnpack::MAGIC) {
            return Ok(Self::Loaded {
                tensors: burnpack::tensors(path)?,
                others: Vec::new(),
                own: true,
            });
        }
        if start.get(8) == Some(&b'{') {
            let (tensors, others) = safetensors::floats(path)?;
            let others = others.into_iter().map(|(name, _)| name).collect();
            return Ok(Self::Loaded {
                tensors,
                others,
                own: false,
            });
        }
        Err(malformed(
            path,
            "it begins as no checkpoint of PyTorch (0.4 or later), no SafeTensors and no burnpack does",
        ))
    }

    /// Burnpack is what this crate writes.
    fn is_foreign(&self) -> bool {
        !matches!(self, Self::Loaded { own: true, .. })
    }

    fn shapes(&self) -> Shapes {
        match self {
            Self::Torch(checkpoint) => checkpoint.shapes(),
            Self::Loaded { tensors, .. } => {
                let shape = |(name, data): (&String, &TensorData)| {
                    (name.clone(), data.shape().as_slice().to_vec())
                };
                tensors.iter().map(shape).collect()
            }
        }
    }

    /// Names of what holds no floating-point values.
    fn others(&self) -> &[String] {
        match self {
            Self::Torch(checkpoint) => &checkpoint.others,
            Self::Loaded { others, .. } => others,
        }
    }

    /// Whether two names are of one tensor, or of equal ones.
    fn is_same(&self, one: &str, other: &str) -> bool {
        match self {
            Self::Torch(checkpoint) => checkpoint.is_same(one, other),
            Self::Loaded { tensors, .. } => tensors.get(one) == tensors.get(other),
        }
    }

    fn read(&mut self, name: &str) -> Result<TensorData, String> {
        match self {
            Self::Torch(checkpoint) => checkpoint.read(name),
            Self::Loaded { tensors, .. } => {
                let found = tensors.remove(name);
                found.ok_or_else(|| "it is not there".to_owned())
            }
        }
    }
}

/// Whether a network of `config` has a tensor of this name.
fn belongs(name: &str, config: &NetworkConfig) -> bool {
    if let Some(head) = name.strip_prefix("projection_head.") {
        let layer = head.split('.').next().unwrap_or_default();
        let listed = match layer {
            "0" => true,
            "1" => config.head_norm,
            layer => layer == second(config).to_string(),
        };
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
