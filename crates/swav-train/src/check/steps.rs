//! Whole steps: forward, codes, loss, and the gradients of all parameters.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use swav_model::{BackboneConfig, Network, NetworkConfig, Stem, UnknownArchitecture};

use super::{Case, Extent, Place, Results, result};
use crate::TrainError;
use crate::comm::Local;
use crate::device::read;
use crate::method::{Method, Swav, SwavPlan, TargetInputs};

/// Images of a batch.
const BATCH: usize = 8;
const PROTOTYPES: usize = 24;
const DIM: usize = 32;

/// Number and side of the crops of a resolution.
type Group = (usize, usize);

pub(super) fn cases(extent: Extent) -> Vec<Case> {
    // Errors of products grow on their way through a network, and where a ReLU falls to the other side a gradient jumps:
    // more, where batch norm has few values, as on the last maps here.
    let bounds = [0.05, 0.2];
    let case = |name: &'static str, stem, groups: &'static [Group]| {
        Case::bounded(format!("step of {name}"), bounds, move |place| {
            let network = network(name, stem, extent, PROTOTYPES, place.device)?;
            step(network, groups, place)
        })
    };
    vec![
        case("resnet18", Stem::Cifar, &[(2, 32), (2, 20)]),
        case("resnet50", Stem::Imagenet, &[(2, 64)]),
    ]
}

/// A network with the weights that seed 0 draws.
pub(super) fn network(
    name: &str,
    stem: Stem,
    extent: Extent,
    prototypes: usize,
    device: &Device,
) -> Result<Network, TrainError> {
    let backbone = BackboneConfig {
        name: name
            .parse()
            .map_err(|error: UnknownArchitecture| TrainError::Recipe(error.to_string()))?,
        width: extent.width(),
        stem,
    };
    let config = NetworkConfig {
        hidden: backbone.dim(),
        head_norm: true,
        backbone,
        dim: DIM,
        prototypes: vec![prototypes],
    };
    Ok(config.init(0, &device.clone().autodiff()))
}

pub(super) fn method(prototypes: usize, device: &Device) -> Swav {
    Swav::new(SwavPlan::paper(), &[prototypes], DIM, device)
}

/// Loss and gradients of `network` for `crops`, crop-major, of `batch` images.
fn gradients(
    network: &Network,
    method: &mut Swav,
    crops: Vec<Tensor<4>>,
    batch: usize,
) -> (Tensor<1>, GradientsParams) {
    let outputs = network.forward(crops);
    let embeddings = outputs.embeddings.clone().detach().inner();
    let inputs = TargetInputs {
        step: 0,
        network,
        crop: &|crop| unreachable!("SwAV does not look at crop {crop}"),
        embeddings: &embeddings.split(batch, 0),
        indices: &[],
        labels: &[],
    };
    let targets = method.targets(&inputs, &mut Local);
    let loss = method.loss(&outputs, &targets, 0..batch);
    let gradients = GradientsParams::from_grads(loss.backward(), network);
    (loss.inner(), gradients)
}

fn step(network: Network, groups: &[Group], place: &Place) -> Result<Results, TrainError> {
    let mut method = method(PROTOTYPES, place.device);
    let network = method.before_step(network);
    let crops = groups.iter().zip(1..).map(|(&(count, size), seed)| {
        let shape = [count * BATCH, 3, size, size];
        place.normal(seed, shape).autodiff()
    });
    let (loss, gradients) = gradients(&network, &mut method, crops.collect(), BATCH);
    let mut results = vec![result("loss", loss)?];
    let mut all = All {
        gradients: &gradients,
        found: Vec::new(),
        failed: None,
    };
    network.visit(&mut all);
    if let Some(error) = all.failed {
        return Err(error);
    }
    results.push(("gradients of all parameters".to_string(), all.found));
    let running = network
        .valid()
        .features(place.normal(9, [BATCH, 3, 32, 32]));
    results.push(result("features with running statistics", running)?);
    Ok(results)
}

/// The gradients of all parameters, one behind the other.
struct All<'a> {
    gradients: &'a GradientsParams,
    found: Vec<f32>,
    failed: Option<TrainError>,
}

impl ModuleVisitor for All<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            match read(gradient) {
                Ok(values) => self.found.extend(values),
                Err(error) => self.failed = Some(error),
            }
        }
    }
}
