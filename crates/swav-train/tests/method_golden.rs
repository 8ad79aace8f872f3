//! One SwAV step against `tests/golden/method.py`.

mod common;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use common::{Golden, relative_error};
use safetensors::tensor::{Dtype, TensorView};
use swav_model::{BackboneConfig, Network, NetworkConfig, Outputs, Stem};
use swav_train::comm::Local;
use swav_train::method::{Method, QueuePlan, Swav, SwavPlan, TargetInputs, Targets};

const CASES: [&str; 5] = ["two", "four", "two_queue", "four_queue", "two_filling"];

/// The largest relative error that 32-bit floats are allowed against PyTorch's 64-bit ones.
const TOLERANCE: f64 = 1e-5;

struct Step {
    golden: Golden,
    case: &'static str,
    device: Device,
    network: Network,
    method: Swav,
    batch: usize,
    crops: usize,
}

impl Step {
    fn new(case: &'static str) -> Self {
        let golden = Golden::open("method_swav.safetensors");
        let device = Device::flex().autodiff();
        let (_, raw) = golden.values(&format!("{case}.prototypes_raw"));
        let (prototypes, dim) = (raw[0], raw[1]);
        let mut network = network(prototypes, dim, &device);
        let weights = golden
            .tensor::<2>(&format!("{case}.prototypes_raw"), &device)
            .transpose();
        network.prototypes = network.prototypes.map(&mut Put(weights));
        let method = method(&golden, case, prototypes, dim, &device.clone().inner());
        Self {
            batch: golden.number("batch") as usize,
            crops: golden.number(&format!("{case}.crops")) as usize,
            golden,
            case,
            device,
            network,
            method,
        }
    }

    fn expected(&self, name: &str) -> Vec<f64> {
        self.golden.values(&format!("{}.{name}", self.case)).0
    }
}

fn network(prototypes: usize, dim: usize, device: &Device) -> Network {
    let config = NetworkConfig {
        backbone: BackboneConfig {
            name: "resnet18".parse().unwrap(),
            width: 0.125,
            stem: Stem::Cifar,
        },
        hidden: 8,
        head_norm: true,
        dim,
        prototypes: vec![prototypes],
    };
    config.init(0, device)
}

/// Puts given values in the place of the one matrix of a module.
struct Put(Tensor<2>);

impl ModuleMapper for Put {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape: [usize; D] = self.0.dims().to_vec().try_into().unwrap();
        param.map(|_| self.0.clone().reshape(shape).detach().require_grad())
    }
}

/// SwAV by the constants of the file; its queue travels through a checkpoint's file.
fn method(golden: &Golden, case: &str, prototypes: usize, dim: usize, device: &Device) -> Swav {
    let before = format!("{case}.queue_before");
    let queue = golden.has(&before).then(|| golden.values(&before));
    let plan = SwavPlan {
        temperature: golden.number("temperature"),
        epsilon: golden.number("epsilon"),
        iterations: golden.number("iterations") as usize,
        assign: vec![0, 1],
        freeze_steps: 0,
        queue: queue.as_ref().map(|(_, shape)| QueuePlan {
            length: shape[1],
            start_step: 0,
        }),
    };
    let mut method = Swav::new(plan, &[prototypes], dim, device);
    if let Some((values, shape)) = queue {
        let ring = shape[1] * shape[2];
        let filled = values[..ring]
            .chunks(dim)
            .filter(|row| row.iter().any(|&v| v != 0.0))
            .count();
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|&v| (v as f32).to_le_bytes())
            .collect();
        let view = |i: usize| {
            let part = &bytes[4 * i * ring..4 * (i + 1) * ring];
            TensorView::new(Dtype::F32, shape[1..].to_vec(), part).unwrap()
        };
        let directory = tempfile::tempdir().unwrap();
        safetensors::serialize_to_file(
            [("ring0", view(0)), ("ring1", view(1))],
            Some([("filled".to_string(), filled.to_string())].into()),
            &directory.path().join("queue.safetensors"),
        )
        .unwrap();
        method.load(directory.path(), device, &Local).unwrap();
    }
    method
}

fn targets(method: &mut Swav, network: &Network, embeddings: &[Tensor<2>]) -> Targets {
    method.targets(
        &TargetInputs {
            step: 0,
            network,
            crop: &common::no_crop,
            embeddings,
            indices: &[],
            labels: &[],
        },
        &mut Local,
    )
}

#[test]
fn codes_loss_gradients_and_queue_of_a_step_are_pytorchs() {
    for case in CASES {
        let mut step = Step::new(case);
        let network = step.method.before_step(step.network.clone());
        let raw = step
            .golden
            .tensor::<2>(&format!("{case}.embeddings_raw"), &step.device)
            .require_grad();
        let norms = raw.clone().square().sum_dim(1).sqrt();
        let embeddings = raw.clone() / norms;
        let outputs = Outputs {
            projections: raw.clone(),
            scores: network.prototypes.forward(embeddings.clone()),
            embeddings: embeddings.clone(),
        };
        let check = |name: &str, found: Tensor<2>| {
            let error = relative_error(found, &step.expected(name));
            assert!(error < TOLERANCE, "{case}: {name} is off by {error:.2e}");
        };
        check(
            "prototypes",
            network.prototypes.weights()[0].clone().transpose(),
        );
        check("scores", outputs.scores[0].clone());

        let by_crop: Vec<_> = (0..step.crops)
            .map(|crop| {
                let rows = embeddings.clone().narrow(0, crop * step.batch, step.batch);
                rows.detach().inner()
            })
            .collect();
        let targets = targets(&mut step.method, &network, &by_crop);
        for i in [0, 1] {
            let error = relative_error(targets.0[i].clone(), &step.expected(&format!("codes.{i}")));
            assert!(
                error < TOLERANCE,
                "{case}: codes of crop {i} are off by {error:.2e}"
            );
        }

        let loss = step.method.loss(&outputs, &targets, 0..step.batch);
        let error = relative_error(loss.clone(), &step.expected("loss"));
        assert!(error < TOLERANCE, "{case}: the loss is off by {error:.2e}");

        let gradients = loss.backward();
        let of_raw = raw.grad(&gradients).unwrap();
        let error = relative_error(of_raw, &step.expected("grad_embeddings_raw"));
        assert!(
            error < 1e-4,
            "{case}: the embeddings' gradient is off by {error:.2e}"
        );
        let id = network.prototypes.param_ids()[0];
        let of_prototypes =
            burn::optim::GradientsParams::from_grads(gradients, &network.prototypes)
                .get::<2>(id)
                .unwrap();
        let error = relative_error(of_prototypes.transpose(), &step.expected("grad_prototypes"));
        assert!(
            error < 1e-4,
            "{case}: the prototypes' gradient is off by {error:.2e}"
        );

        if let Some(queue) = step.method.queue() {
            let found = Tensor::cat(queue.rings().to_vec(), 0);
            let error = relative_error(found, &step.expected("queue_after"));
            assert!(error < TOLERANCE, "{case}: the queue is off by {error:.2e}");
        }
    }
}

#[test]
fn a_queue_that_is_not_full_yet_changes_no_code() {
    let mut filling = Step::new("two_filling");
    let mut without = Step::new("two_filling");
    without.method = method(&without.golden, "two", 12, 16, &Device::flex());
    let codes = [&mut filling, &mut without].map(|step| {
        let network = step.method.before_step(step.network.clone());
        let rows: Vec<Tensor<2>> = (0..2)
            .map(|i| Tensor::ones([8, 16], &Device::flex()) * (0.1 + 0.1 * i as f32))
            .collect();
        let targets = targets(&mut step.method, &network, &rows);
        targets.0[0].to_data()
    });
    assert_eq!(codes[0], codes[1]);
    assert_eq!(filling.method.queue().unwrap().filled(), 24);
}

#[test]
fn prototypes_are_frozen_before_the_step_that_the_plan_names_and_not_from_then_on() {
    let golden = Golden::open("method_swav.safetensors");
    let device = Device::flex();
    let network = network(12, 16, &device);
    let plan = SwavPlan {
        temperature: 0.1,
        epsilon: 0.05,
        iterations: 3,
        assign: vec![0, 1],
        freeze_steps: 313,
        queue: None,
    };
    drop(golden);
    let method = Swav::new(plan, &[12], 16, &device);
    assert_eq!(method.frozen(312, &network), network.prototypes.param_ids());
    assert!(method.frozen(313, &network).is_empty());
}
