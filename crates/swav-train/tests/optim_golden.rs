//! Optimizers and the schedule against `tests/golden/method.py`.

mod common;

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use common::{Golden, relative_error};
use swav_train::optim::{OptimizerName, OptimizerPlan, Schedule};

#[derive(Module, Debug)]
struct Parameters {
    weight: Param<Tensor<2>>,
    zero_bias: Param<Tensor<1>>,
    no_gradient: Param<Tensor<1>>,
    pause: Param<Tensor<2>>,
    absent: Param<Tensor<1>>,
    large: Param<Tensor<2>>,
}

impl Parameters {
    fn start(golden: &Golden, device: &Device) -> Self {
        let vector = |name| Param::from_tensor(golden.tensor::<1>(name, device));
        let matrix = |name| Param::from_tensor(golden.tensor::<2>(name, device));
        Self {
            weight: matrix("start.weight"),
            zero_bias: vector("start.zero_bias"),
            no_gradient: vector("start.no_gradient"),
            pause: matrix("start.pause"),
            absent: vector("start.absent"),
            large: matrix("start.large"),
        }
    }

    fn gradients(&self, golden: &Golden, step: usize, device: &Device) -> GradientsParams {
        let mut gradients = GradientsParams::new();
        for (name, id) in [
            ("weight", self.weight.id),
            ("pause", self.pause.id),
            ("large", self.large.id),
        ] {
            gradients.register(
                id,
                golden.tensor::<2>(&format!("grad.{step}.{name}"), device),
            );
        }
        for (name, id) in [
            ("zero_bias", self.zero_bias.id),
            ("no_gradient", self.no_gradient.id),
            ("absent", self.absent.id),
        ] {
            let name = format!("grad.{step}.{name}");
            if golden.has(&name) {
                gradients.register(id, golden.tensor::<1>(&name, device));
            }
        }
        gradients
    }

    fn check(&self, golden: &Golden, after: &str, tolerance: f64) {
        let compare = |name: &str, error: f64| {
            assert!(error < tolerance, "{after}.{name} is off by {error:.2e}");
        };
        let expected = |name: &str| golden.values(&format!("{after}.{name}")).0;
        let (vectors, matrices) = (
            [
                ("zero_bias", &self.zero_bias),
                ("no_gradient", &self.no_gradient),
                ("absent", &self.absent),
            ],
            [
                ("weight", &self.weight),
                ("pause", &self.pause),
                ("large", &self.large),
            ],
        );
        for (name, param) in vectors {
            compare(name, relative_error(param.val().inner(), &expected(name)));
        }
        for (name, param) in matrices {
            compare(name, relative_error(param.val().inner(), &expected(name)));
        }
    }
}

/// Burn takes Adam's bias correction 1 − βᵗ in 32 bits, where half of the digits cancel.
fn tolerance(name: OptimizerName) -> f64 {
    match name {
        OptimizerName::Larc | OptimizerName::Sgd => 2e-6,
        OptimizerName::Adam | OptimizerName::Adamw => 2e-5,
    }
}

fn five_steps(file: &str, run: &str, name: OptimizerName, decay: &str) {
    let golden = Golden::open(file);
    let device = Device::flex();
    let plan = OptimizerPlan {
        name,
        momentum: golden.number("momentum"),
        weight_decay: golden.number(decay),
        exclude_bias_and_norm: false,
        schedule: Schedule::constant(0.0, 5),
    };
    let mut parameters = Parameters::start(&golden, &device.clone().autodiff());
    let mut optimizer = plan.init(&parameters);
    for (step, rate) in golden.values("rates").0.into_iter().enumerate() {
        let gradients = parameters.gradients(&golden, step, &device);
        parameters = optimizer.step(rate, parameters, gradients);
        parameters.check(&golden, &format!("{run}.after.{step}"), tolerance(name));
    }
}

#[test]
fn larc_takes_the_reference_s_five_steps_with_the_paper_s_decay_and_with_a_strong_one() {
    let file = "method_larc.safetensors";
    five_steps(file, "recipe", OptimizerName::Larc, "recipe.weight_decay");
    five_steps(file, "decay", OptimizerName::Larc, "decay.weight_decay");
}

#[test]
fn sgd_adam_and_adamw_take_pytorch_s_five_steps() {
    let file = "method_optimizers.safetensors";
    five_steps(file, "sgd", OptimizerName::Sgd, "weight_decay");
    five_steps(file, "adam", OptimizerName::Adam, "weight_decay");
    five_steps(file, "adamw", OptimizerName::Adamw, "weight_decay");
}

#[test]
fn biases_and_norms_can_be_left_out_of_decay_and_scaling() {
    let golden = Golden::open("method_larc.safetensors");
    let device = Device::flex();
    let plan = |exclude_bias_and_norm| OptimizerPlan {
        name: OptimizerName::Larc,
        momentum: 0.9,
        weight_decay: 0.05,
        exclude_bias_and_norm,
        schedule: Schedule::constant(0.0, 1),
    };
    let start = Parameters::start(&golden, &device.clone().autodiff());
    let step = |exclude| {
        let gradients = start.gradients(&golden, 0, &device);
        plan(exclude)
            .init(&start)
            .step(0.5, start.clone(), gradients)
    };
    let (with, without) = (step(false), step(true));
    assert_eq!(with.weight.val().to_data(), without.weight.val().to_data());
    let plain = start.absent.val().inner() - golden.tensor::<1>("grad.0.absent", &device) * 0.5;
    assert_eq!(without.absent.val().to_data(), plain.to_data());
    assert_ne!(with.absent.val().to_data(), plain.to_data());
}

#[test]
fn the_schedule_gives_the_reference_s_rate_at_every_iteration() {
    let golden = Golden::open("method_schedule.safetensors");
    for case in 0..5 {
        let number = |name: &str| golden.number(&format!("{case}.{name}"));
        let schedule = Schedule {
            start: number("start"),
            base: number("base"),
            end: number("final"),
            warmup: number("warmup") as u64,
            steps: number("total") as u64,
        };
        for (step, expected) in golden.values(&format!("{case}.rates")).0.iter().enumerate() {
            let found = schedule.at(step as u64);
            assert!(
                (found - expected).abs() <= 1e-12 * expected.abs().max(1e-3),
                "case {case}, step {step}: {found} instead of {expected}"
            );
        }
    }
}
