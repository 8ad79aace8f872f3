//! SafeTensors files.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::{DType, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{Tensors, WeightsError, export, import, import_backbone, malformed, read};
use crate::network::Network;

/// Writes the whole network as a SafeTensors file under torchvision's names.
///
/// PyTorch reads it with `load_state_dict(safetensors.torch.load_file(path), strict=False)`, or
/// strictly for a model that has the head and the prototypes.
///
/// # Errors
/// If the file cannot be written.
pub fn save_safetensors(network: &Network, path: &Path) -> Result<(), WeightsError> {
    write(&export(network), path)
}

/// Writes the backbone alone as a SafeTensors file under torchvision's names.
///
/// It loads into torchvision's model of the same name strictly, once the classifier `fc`, which no file of ours has,
/// is out of the way.
///
/// # Errors
/// If the file cannot be written.
pub fn save_backbone_safetensors(network: &Network, path: &Path) -> Result<(), WeightsError> {
    let mut tensors = export(network);
    tensors
        .retain(|name, _| !name.starts_with("projection_head") && !name.starts_with("prototypes"));
    write(&tensors, path)
}

fn write(tensors: &Tensors, path: &Path) -> Result<(), WeightsError> {
    let views = tensors
        .iter()
        .map(|(name, data)| {
            let shape = data.shape().as_slice().to_vec();
            let view = TensorView::new(Dtype::F32, shape, data.as_bytes());
            Ok((name.as_str(), view.map_err(|e| malformed(path, e))?))
        })
        .collect::<Result<Vec<_>, WeightsError>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes =
        safetensors::serialize(views, Some(metadata)).map_err(|error| malformed(path, error))?;
    swav_files::write(path, &bytes).map_err(|source| WeightsError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Loads a SafeTensors file with every tensor of the network, as [`import`] does.
///
/// # Errors
/// If the file cannot be read, is no SafeTensors file or a truncated one, or as [`import`].
pub fn load_safetensors(network: Network, path: &Path) -> Result<Network, WeightsError> {
    import(network, tensors(path)?)
}

/// Loads the backbone from a SafeTensors file, as [`import_backbone`] does: one of torchvision, or of
/// any network with the same backbone.
///
/// # Errors
/// If the file cannot be read, is no SafeTensors file or a truncated one, or as [`import_backbone`].
pub fn load_backbone_safetensors(network: Network, path: &Path) -> Result<Network, WeightsError> {
    import_backbone(network, tensors(path)?)
}

fn tensors(path: &Path) -> Result<Tensors, WeightsError> {
    let (tensors, others) = floats(path)?;
    match others.into_iter().next() {
        None => Ok(tensors),
        Some((name, dtype)) => Err(WeightsError::NotFloat { name, dtype }),
    }
}

/// The tensors of a file, and names and types of those that do not hold floating-point values.
pub(super) fn floats(path: &Path) -> Result<(Tensors, Vec<(String, String)>), WeightsError> {
    let bytes = read(path)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| malformed(path, error))?;
    let (mut tensors, mut others) = (Tensors::new(), Vec::new());
    for (name, view) in file.iter() {
        let dtype = match view.dtype() {
            // An integer counter of PyTorch's, which nothing reads.
            _ if name.ends_with("num_batches_tracked") => continue,
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                others.push((name.to_owned(), other.to_string()));
                continue;
            }
        };
        let shape = view.shape().to_vec();
        let data = TensorData::try_from_bytes_vec(view.data().to_vec(), shape, dtype)
            .map_err(|error| malformed(path, format!("tensor `{name}`: {error}")))?;
        tensors.insert(name.to_owned(), data);
    }
    Ok((tensors, others))
}
