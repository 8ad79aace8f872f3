//! Our paths and torchvision's names.

use burn::module::Module;
use burn::tensor::{DType, TensorData};

use super::transfer::{Parameter, Parameters, apply, collect, shapes};
use super::{Tensors, WeightsError};
use crate::network::{Network, NetworkConfig};

/// Every tensor of the network under its torchvision name, as f32 in PyTorch's layout.
pub fn export(network: &Network) -> Tensors {
    in_torch_layout(collect(network), network.config())
}

/// Tensors by our paths, under their torchvision names, as f32 in PyTorch's layout.
pub(super) fn in_torch_layout(parameters: Parameters, config: &NetworkConfig) -> Tensors {
    parameters
        .into_iter()
        .map(|(path, parameter)| {
            let data = parameter.data.convert_dtype(DType::F32);
            let data = if is_linear(&path) {
                transpose(data)
            } else {
                data
            };
            (torch_name(&path, config), data)
        })
        .collect()
}

/// Puts tensors under torchvision's names into the whole network. Values of any floating-point type
/// become f32; parameter ids stay those of the network.
///
/// Names may carry the `module.` of PyTorch's DistributedDataParallel. The batch norms'
/// `num_batches_tracked` is passed over, nothing uses it.
///
/// # Errors
/// If a tensor is missing, left over, of another shape, or not of floating-point values.
pub fn import(network: Network, tensors: Tensors) -> Result<Network, WeightsError> {
    let config = network.config().clone();
    import_into(network, "", tensors, &config)
}

/// Puts tensors under torchvision's names into the backbone; head and prototypes stay as they are.
///
/// Takes what [`import`] takes, and also the files of other people: a classifier (`fc`), a projection
/// head and prototypes are passed over, and names may carry a `backbone.` in front.
///
/// # Errors
/// As [`import`].
pub fn import_backbone(mut network: Network, tensors: Tensors) -> Result<Network, WeightsError> {
    const PASSED_OVER: [&str; 4] = ["fc.", "projection_head.", "prototypes.", "head."];
    let tensors = tensors
        .into_iter()
        .map(|(name, data)| {
            let name = without(&name, "module.");
            (without(name, "backbone.").to_owned(), data)
        })
        .filter(|(name, _)| !PASSED_OVER.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    let config = network.config().clone();
    network.backbone = import_into(network.backbone, "backbone.", tensors, &config)?;
    Ok(network)
}

/// Puts tensors into a part of a network of `config`, whose paths in it begin with `place`.
pub(super) fn import_into<M: Module>(
    module: M,
    place: &str,
    tensors: Tensors,
    config: &NetworkConfig,
) -> Result<M, WeightsError> {
    let name = |path: &str| torch_name(&format!("{place}{path}"), config);
    let turned = |path: &str| is_linear(&format!("{place}{path}"));
    let mut tensors: Tensors = tensors
        .into_iter()
        .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .map(|(name, data)| (without(&name, "module.").to_owned(), data))
        .collect();
    let mut parameters = Parameters::new();
    for path in shapes(&module).into_keys() {
        let name = name(&path);
        // The SwAV authors' code also writes a list of a single head as `prototypes0`.
        let found = tensors.remove(&name).or_else(|| {
            let listed = name == "prototypes.weight";
            listed.then(|| tensors.remove("prototypes.prototypes0.weight"))?
        });
        if let Some(data) = found {
            let data = if turned(&path) { transpose(data) } else { data };
            parameters.insert(path, Parameter { id: None, data });
        }
    }
    // What nothing asked for goes along under its own name, to be reported as left over.
    let rest = tensors.into_iter();
    parameters.extend(rest.map(|(name, data)| (name, Parameter { id: None, data })));
    apply(module, parameters).map_err(|error| in_torch_names(error, name, turned))
}

/// Says the names in a report of differences as the file says them.
fn in_torch_names(
    error: WeightsError,
    name: impl Fn(&str) -> String,
    turned: impl Fn(&str) -> bool,
) -> WeightsError {
    match error {
        WeightsError::Mismatch(mut mismatch) => {
            mismatch
                .missing
                .iter_mut()
                .for_each(|path| *path = name(path));
            for shape in &mut mismatch.shapes {
                if turned(&shape.name) {
                    shape.network.reverse();
                    shape.file.reverse();
                }
                shape.name = name(&shape.name);
            }
            WeightsError::Mismatch(mismatch)
        }
        other => other,
    }
}

fn torch_name(path: &str, config: &NetworkConfig) -> String {
    if let Some(path) = path.strip_prefix("backbone.") {
        return backbone_name(path);
    }
    if let Some(path) = path.strip_prefix("head.") {
        if config.hidden == 0 {
            return path.replacen("first.", "projection_head.", 1);
        }
        return path
            .replacen("first.", "projection_head.0.", 1)
            .replacen("norm.", "projection_head.1.", 1)
            .replacen(
                "second.",
                &format!("projection_head.{}.", second(config)),
                1,
            );
    }
    if config.prototypes.len() == 1 {
        return path.replacen("heads.0.", "", 1);
    }
    path.replacen("heads.", "prototypes", 1)
}

/// The place of a head's last layer in PyTorch's sequence, behind the first, perhaps a batch norm, and the ReLU.
pub(super) fn second(config: &NetworkConfig) -> usize {
    if config.head_norm { 3 } else { 2 }
}

fn backbone_name(path: &str) -> String {
    path.replacen("stem.", "", 1)
        .replacen("downsample.conv.", "downsample.0.", 1)
        .replacen("downsample.bn.", "downsample.1.", 1)
}

/// Whether a path is that of a matrix, which PyTorch keeps transposed.
fn is_linear(path: &str) -> bool {
    let ours = path.starts_with("head.") || path.starts_with("prototypes.");
    ours && path.ends_with(".weight") && !path.contains(".norm.")
}

fn without<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// The transpose of a matrix of f32; anything else is handed back as it is, for the checks that
/// follow to refuse.
fn transpose(data: TensorData) -> TensorData {
    let &[rows, columns] = data.shape().as_slice() else {
        return data;
    };
    if !data.dtype().is_float() {
        return data;
    }
    let data = data.convert_dtype(DType::F32);
    let Ok(values) = data.as_slice::<f32>() else {
        return data;
    };
    let transposed = (0..rows * columns)
        .map(|i| values[i % rows * columns + i / rows])
        .collect();
    TensorData::new::<f32, _>(transposed, [columns, rows])
}
