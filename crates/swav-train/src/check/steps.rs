//! Whole steps: forward, codes, loss, and the gradients of all parameters.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use swav_model::{BackboneConfig, Network, NetworkConfig, Stem, UnknownArchitecture};

use super::{Case, Extent, Place, Results, named, result};
use crate::TrainError;
use crate::comm::Local;
use crate::device::read;
use crate::method::{Method, Swav, SwavPlan, TargetInputs};
use crate::precision::Precision;

/// Images of a batch.
const BATCH: usize = 8;
const PROTOTYPES: usize = 24;
const DIM: usize = 32;

/// Number and side of the crops of a resolution.
type Group = (usize, usize);

pub(super) fn cases(extent: Extent, precisions: &[Precision]) -> Vec<Case> {
    // Errors of products grow on their way through a network, and where a ReLU falls to the other side a gradient jumps:
    // more, where batch norm has few values, as on the last maps here.
    let case = |name: &'static str, stem, groups: &'static [Group], precision| {
        let bounds = match precision {
            Precision::F32 => [0.05, 0.2],
            // PyTorch's gradients are as far from those of f32 with random weights: 0.3 to 0.5.
            Precision::Bf16 => [0.7, 0.7],
        };
        let named = named(&format!("step of {name}"), precision);
        Case::bounded(named, bounds, move |place| {
            let network = network(name, stem, extent, PROTOTYPES, place.device)?;
            step(network, groups, precision, place)
        })
    };
    let resnet18 = |&precision| case("resnet18", Stem::Cifar, &[(2, 32), (2, 20)], precision);
    let mut cases: Vec<_> = precisions.iter().map(resnet18).collect();
    // In f32 alone: through so many layers, rounding maps leaves nothing of a gradient to compare.
    let groups = &[(2, 64)];
    cases.push(case("resnet50", Stem::Imagenet, groups, Precision::F32));
    cases
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

fn step(
    network: Network,
    groups: &[Group],
    precision: Precision,
    place: &Place,
) -> Result<Results, TrainError> {
    let mut method = method(PROTOTYPES, place.device);
    let network = method.before_step(network);
    let crops = groups.iter().zip(1..).map(|(&(count, size), seed)| {
        let shape = [count * BATCH, 3, size, size];
        place
            .map(place.normal(seed, shape), precision)
            .set_require_grad(false)
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
