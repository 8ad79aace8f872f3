//! Burn's own format.

use std::path::Path;

use burn::module::ParamId;
use burn::tensor::{Bytes, TensorData};
use burn_store::burn_pack::{Error as PackError, Reader, Tensor as PackTensor, Writer};

use super::names::in_torch_layout;
use super::transfer::{Parameter, Parameters, apply, collect};
use super::{Tensors, WeightsError, malformed, read};
use crate::network::{Network, NetworkConfig};

/// What a file begins with.
pub(super) const MAGIC: &[u8] = b"NRUB";

/// Key of the metadata that holds the [`NetworkConfig`] as JSON.
const CONFIG: &str = "swav.network";

/// Writes the whole network as a burnpack file, parameter ids included.
///
/// The path is taken as it is, no extension is added. An existing file is replaced when the new one
/// is complete.
///
/// # Errors
/// If the file cannot be written.
pub fn save(network: &Network, path: &Path) -> Result<(), WeightsError> {
    let config = serde_json::to_string(network.config())
        .map_err(|error| malformed(path, format!("the configuration: {error}")))?;
    let tensors = collect(network).into_iter().map(|(name, parameter)| {
        let id = parameter.id.map(|id| id.val());
        let (bytes, shape, dtype) = parameter.data.into_parts();
        PackTensor::new(name, dtype, shape, id, bytes)
    });
    Writer::new(tensors.collect())
        .with_metadata(CONFIG, &config)
        .auto_extension(false)
        .write_to_file(path)
        .map_err(|error| cannot_write(path, error))
}

/// Loads what [`save`] wrote into a network of the same configuration.
///
/// Parameter ids become those of the file, so that an optimizer's saved state finds its parameters.
///
/// # Errors
/// If the file cannot be read, is no burnpack file or a truncated one, or holds another network; the
/// error names what is missing, left over, or of another shape.
pub fn load(network: Network, path: &Path) -> Result<Network, WeightsError> {
    let reader = open(path)?;
    let saved = saved_config(&reader, path);
    let parameters = parameters(reader, path)?;
    let here = summary(network.config());
    apply(network, parameters).map_err(|mut error| {
        if let (WeightsError::Mismatch(mismatch), Ok(saved)) = (&mut error, saved) {
            mismatch.networks = Some((here, summary(&saved)));
        }
        error
    })
}

/// The configuration of the network in a file that [`save`] wrote.
///
/// # Errors
/// If the file cannot be read, is no burnpack file or a truncated one, or says nothing of a network.
pub fn describe(path: &Path) -> Result<NetworkConfig, WeightsError> {
    saved_config(&open(path)?, path)
}

/// Every tensor of a file that [`save`] wrote, under its torchvision name.
pub(super) fn tensors(path: &Path) -> Result<Tensors, WeightsError> {
    let reader = open(path)?;
    let config = saved_config(&reader, path)?;
    Ok(in_torch_layout(parameters(reader, path)?, &config))
}

fn parameters(reader: Reader, path: &Path) -> Result<Parameters, WeightsError> {
    let mut parameters = Parameters::new();
    for tensor in reader.into_tensors().map_err(|e| malformed(path, e))? {
        let (name, dtype, shape, id, bytes) =
            tensor.into_parts().map_err(|e| malformed(path, e))?;
        let data = TensorData::try_from_bytes(bytes, shape, dtype)
            .map_err(|e| malformed(path, format!("tensor `{name}`: {e}")))?;
        let id = id.map(ParamId::from);
        parameters.insert(name, Parameter { id, data });
    }
    Ok(parameters)
}

fn open(path: &Path) -> Result<Reader, WeightsError> {
    let bytes = Bytes::from_bytes_vec(read(path)?);
    Reader::from_bytes(bytes).map_err(|error| malformed(path, error))
}

fn saved_config(reader: &Reader, path: &Path) -> Result<NetworkConfig, WeightsError> {
    let json = reader.metadata().get(CONFIG);
    let json = json.ok_or_else(|| malformed(path, "it does not say what network it holds"))?;
    serde_json::from_str(json).map_err(|e| malformed(path, format!("its network: {e}")))
}

fn cannot_write(path: &Path, error: PackError) -> WeightsError {
    let source = match error {
        PackError::IoError(message) => std::io::Error::other(message),
        other => std::io::Error::other(other.to_string()),
    };
    WeightsError::Io {
        path: path.to_owned(),
        source,
    }
}

/// A configuration in a line: `resnet18 (width 0.25, cifar stem), head 64 → 16, prototypes [10]`.
fn summary(config: &NetworkConfig) -> String {
    let NetworkConfig {
        backbone,
        hidden,
        head_norm,
        dim,
        prototypes,
    } = config;
    let norm = if *head_norm {
        ""
    } else {
        " without batch norm"
    };
    format!("{backbone}, head {hidden} → {dim}{norm}, prototypes {prototypes:?}")
}
