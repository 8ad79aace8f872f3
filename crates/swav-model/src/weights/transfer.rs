//! Between a network and tensors named by their path in it.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Tensor, TensorData};

use super::{Mismatch, ShapeMismatch, WeightsError};

/// A tensor on its way into or out of a network.
pub(super) struct Parameter {
    /// What an optimizer's state refers to; only Burn's own format keeps it.
    pub(super) id: Option<ParamId>,
    pub(super) data: TensorData,
}

/// By path in the module, `backbone.layer1.0.conv1.weight`.
pub(super) type Parameters = BTreeMap<String, Parameter>;

/// Shapes by name.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// Reads every parameter and buffer.
pub(super) fn collect<M: Module>(module: &M) -> Parameters {
    let mut collect = Collect::default();
    module.visit(&mut collect);
    collect.found
}

/// Path and shape of every parameter and buffer, without reading any.
pub(super) fn shapes<M: Module>(module: &M) -> Shapes {
    let mut shapes = Measure::default();
    module.visit(&mut shapes);
    shapes.found
}

/// Puts `parameters` into the module, all or none.
///
/// Ids are taken over where given. Whether a gradient is wanted stays as it was in the module.
pub(super) fn apply<M: Module>(module: M, parameters: Parameters) -> Result<M, WeightsError> {
    let found = parameters.iter();
    let found = found.map(|(name, p)| (name.clone(), p.data.shape().as_slice().to_vec()));
    let mismatch = compare(&shapes(&module), &found.collect());
    if !mismatch.is_empty() {
        return Err(WeightsError::Mismatch(Box::new(mismatch)));
    }
    let parameters = parameters
        .into_iter()
        .map(|(name, p)| {
            let data = floats(&name, p.data)?;
            Ok((name, Parameter { data, ..p }))
        })
        .collect::<Result<_, WeightsError>>()?;
    let mut apply = Apply {
        path: Path::default(),
        parameters,
    };
    Ok(module.map(&mut apply))
}

/// How the tensors of a file differ from those of a network.
pub(super) fn compare(network: &Shapes, file: &Shapes) -> Mismatch {
    let mut mismatch = Mismatch::default();
    for (name, shape) in network {
        match file.get(name) {
            None => mismatch.missing.push(name.clone()),
            Some(found) if found != shape => {
                mismatch.shapes.push(ShapeMismatch {
                    name: name.clone(),
                    network: shape.clone(),
                    file: found.clone(),
                });
            }
            Some(_) => {}
        }
    }
    let unknown = file.keys().filter(|name| !network.contains_key(*name));
    mismatch.left_over = unknown.cloned().collect();
    mismatch
}

/// The same values as f32, in memory of their own: data read from a file may be a view of all of it.
fn floats(name: &str, data: TensorData) -> Result<TensorData, WeightsError> {
    let dtype = data.dtype();
    let not_float = || WeightsError::NotFloat {
        name: name.to_owned(),
        dtype: format!("{dtype:?}"),
    };
    if !dtype.is_float() {
        return Err(not_float());
    }
    let shape = data.shape().clone();
    let values = data
        .convert_dtype(DType::F32)
        .try_to_vec::<f32>()
        .map_err(|_| not_float())?;
    Ok(TensorData::new(values, shape))
}

/// Where a traversal stands.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn join(&self) -> String {
        self.0.join(".")
    }
}

#[derive(Default)]
struct Collect {
    path: Path,
    found: Parameters,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let parameter = Parameter {
            id: Some(param.id),
            data: param.val().into_data(),
        };
        self.found.insert(self.path.join(), parameter);
    }
}

#[derive(Default)]
struct Measure {
    path: Path,
    found: Shapes,
}

impl ModuleVisitor for Measure {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = param.lazy_shape().as_slice().to_vec();
        self.found.insert(self.path.join(), shape);
    }
}

struct Apply {
    path: Path,
    parameters: Parameters,
}

impl ModuleMapper for Apply {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // `compare` has seen to it that there is one, and that the shape is right.
        let Some(parameter) = self.parameters.remove(&self.path.join()) else {
            return param;
        };
        let id = parameter.id.unwrap_or(param.id);
        let device = param.lazy_device();
        let tensor = Tensor::from_data(parameter.data, (&device, DType::F32));
        param.transform_for_load(tensor, id)
    }
}
