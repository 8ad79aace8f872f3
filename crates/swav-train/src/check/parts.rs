//! The parts of a step, each by itself.

use burn::optim::Optimizer;
use burn::tensor::Tensor;
use swav_data::CropGroup;
use swav_model::Ranks;
use swav_model::ops::{Epilogue, batch_norm, batch_norm_train, conv2d};
use swav_ot::{Implementation, Local, SinkhornConfig, sinkhorn_with};

use super::{Case, Place, Results, gradient, named, result};
use crate::TrainError;
use crate::optim::{Adam, Larc, Sgd};
use crate::precision::Precision;
use crate::upload::{Normalisation, Uploader};

/// What a convolution of the backbones is like.
struct Kind {
    name: &'static str,
    kernel: usize,
    stride: usize,
    groups: usize,
    inputs: usize,
    outputs: usize,
    /// Side of the input map.
    size: usize,
}

#[rustfmt::skip]
const KINDS: &[Kind] = &[
    Kind { name: "convolution 7×7, stride 2", kernel: 7, stride: 2, groups: 1, inputs: 3, outputs: 32, size: 32 },
    Kind { name: "convolution 3×3 of images", kernel: 3, stride: 1, groups: 1, inputs: 3, outputs: 32, size: 16 },
    Kind { name: "convolution 3×3", kernel: 3, stride: 1, groups: 1, inputs: 32, outputs: 48, size: 14 },
    Kind { name: "convolution 3×3, small map", kernel: 3, stride: 1, groups: 1, inputs: 64, outputs: 64, size: 3 },
    Kind { name: "convolution 3×3, stride 2", kernel: 3, stride: 2, groups: 1, inputs: 32, outputs: 48, size: 14 },
    Kind { name: "convolution 1×1", kernel: 1, stride: 1, groups: 1, inputs: 32, outputs: 128, size: 14 },
    Kind { name: "convolution 1×1, stride 2", kernel: 1, stride: 2, groups: 1, inputs: 64, outputs: 128, size: 14 },
    Kind { name: "convolution 3×3, 8 groups", kernel: 3, stride: 1, groups: 8, inputs: 32, outputs: 32, size: 14 },
    Kind { name: "convolution 3×3, 8 groups, stride 2", kernel: 3, stride: 2, groups: 8, inputs: 32, outputs: 32, size: 14 },
];

/// Images of a case.
const IMAGES: usize = 8;
const EPSILON: f64 = 1e-5;

/// Of maps of 16 bits: each value is off by up to one part in 512, their sum by less.
const ROUNDED: [f64; 2] = [5e-3, 5e-3];

pub(super) fn cases(precisions: &'static [Precision]) -> Vec<Case> {
    let mut cases = vec![
        Case::exact("upload", upload),
        Case::product("matrix product", product),
    ];
    for &precision in precisions {
        for kind in KINDS {
            let convolution = move |place: &Place| convolution(kind, precision, place);
            cases.push(match precision {
                Precision::F32 => Case::product(kind.name, convolution),
                Precision::Bf16 => Case::bounded(named(kind.name, precision), ROUNDED, convolution),
            });
        }
        for (name, follow) in [
            ("batch norm", Follow::Nothing),
            ("batch norm, ReLU", Follow::Relu),
            ("batch norm, shortcut, ReLU", Follow::AddRelu),
        ] {
            let normalisation = move |place: &Place| normalisation(follow, precision, place);
            cases.push(match precision {
                Precision::F32 => Case::exact(name, normalisation),
                Precision::Bf16 => Case::bounded(named(name, precision), ROUNDED, normalisation),
            });
        }
    }
    cases.extend([
        Case::exact("batch norm of rows", rows),
        Case::exact("batch norm, given statistics", given_statistics),
        Case::exact("codes", codes),
    ]);
    for rule in [Rule::Larc, Rule::Sgd, Rule::Adam] {
        cases.push(Case::exact(rule.name(), move |place| {
            optimizer(rule, place)
        }));
    }
    cases
}

fn upload(place: &Place) -> Result<Results, TrainError> {
    let (count, size) = (5, 11);
    let pixels = (0..count * size * size * 3).map(|i| (i * 89 % 256) as u8);
    let group = CropGroup {
        count,
        size,
        pixels: pixels.collect(),
    };
    let uploader = Uploader::new(&Normalisation::TRAINING, place.device);
    Ok(vec![result("images", uploader.group(&group))?])
}

fn product(place: &Place) -> Result<Results, TrainError> {
    let left = place.normal(1, [192, 320]);
    let right = place.normal(2, [320, 136]);
    Ok(vec![result("product", left.matmul(right))?])
}

fn convolution(kind: &Kind, precision: Precision, place: &Place) -> Result<Results, TrainError> {
    let map = |seed, shape| place.map::<4>(place.normal(seed, shape), precision);
    let x = map(1, [IMAGES, kind.inputs, kind.size, kind.size]);
    let shape = [
        kind.outputs,
        kind.inputs / kind.groups,
        kind.kernel,
        kind.kernel,
    ];
    // Rounded on its way in; the reference gets what is left.
    let weight = match place.plain {
        true => map(2, shape),
        false => place.leaf(2, shape),
    };
    let (input, kernel) = (x.clone(), weight.clone());
    let y = conv2d(input, kernel, kind.stride, kind.kernel / 2, kind.groups);
    let probe = map(3, y.dims());
    let gradients = (y.clone() * probe).sum().backward();
    Ok(vec![
        result("output", y)?,
        gradient("input", &x, &gradients)?,
        gradient("weight", &weight, &gradients)?,
    ])
}

#[derive(Clone, Copy)]
enum Follow {
    Nothing,
    Relu,
    AddRelu,
}

fn normalisation(
    follow: Follow,
    precision: Precision,
    place: &Place,
) -> Result<Results, TrainError> {
    // More channels than a tile has, and rows that no chunk divides.
    let shape = [IMAGES, 37, 13, 13];
    // A mean that is large beside the deviation.
    let x = place.map::<4>(place.normal(1, shape) * 0.5 + 3.0, precision);
    let shortcut = place.map(place.normal(2, shape), precision);
    let weight = place.leaf(3, [37]);
    let bias = place.leaf(4, [37]);
    let then = match follow {
        Follow::Nothing => Epilogue::None,
        Follow::Relu => Epilogue::Relu,
        Follow::AddRelu => Epilogue::AddRelu(shortcut.clone()),
    };
    let batch = batch_norm_train(
        x.clone(),
        weight.clone(),
        bias.clone(),
        EPSILON,
        then,
        &Ranks::default(),
    );
    let probe = place.map(place.normal(5, shape), precision);
    let gradients = (batch.output.clone() * probe).sum().backward();
    let mut results = vec![
        result("output", batch.output)?,
        result("mean", batch.mean)?,
        result("variance", batch.variance)?,
        gradient("input", &x, &gradients)?,
        gradient("weight", &weight, &gradients)?,
        gradient("bias", &bias, &gradients)?,
    ];
    if let Follow::AddRelu = follow {
        results.push(gradient("shortcut", &shortcut, &gradients)?);
    }
    Ok(results)
}

/// As in the head.
fn rows(place: &Place) -> Result<Results, TrainError> {
    let shape = [200, 70];
    let x = place.leaf(1, shape);
    let (weight, bias) = (place.leaf(2, [70]), place.leaf(3, [70]));
    let batch = batch_norm_train(
        x.clone(),
        weight.clone(),
        bias.clone(),
        EPSILON,
        Epilogue::<2>::Relu,
        &Ranks::default(),
    );
    let probe = place.normal(4, shape).autodiff();
    let gradients = (batch.output.clone() * probe).sum().backward();
    Ok(vec![
        result("output", batch.output)?,
        gradient("input", &x, &gradients)?,
        gradient("weight", &weight, &gradients)?,
        gradient("bias", &bias, &gradients)?,
    ])
}

fn given_statistics(place: &Place) -> Result<Results, TrainError> {
    let number = |seed| place.normal(seed, [37]);
    let shape = [IMAGES, 37, 13, 13];
    let (x, shortcut) = (place.normal(1, shape), place.normal(2, shape));
    let variance = number(6).square() + 0.1;
    let then = Epilogue::AddRelu(shortcut);
    let y = batch_norm(x, number(3), number(4), number(5), variance, EPSILON, then);
    Ok(vec![result("output", y)?])
}

fn codes(place: &Place) -> Result<Results, TrainError> {
    let scores = place.normal(1, [1, 300, 257]) * 0.1;
    let form = match place.plain {
        true => Implementation::TensorOps,
        false => Implementation::Fused,
    };
    let codes = sinkhorn_with(scores, &SinkhornConfig::default(), form, &mut Local)
        .map_err(|error| TrainError::Device(format!("the codes could not be computed: {error}")))?;
    Ok(vec![result("codes", codes)?])
}

#[derive(Clone, Copy)]
enum Rule {
    Larc,
    Sgd,
    Adam,
}

impl Rule {
    fn name(self) -> &'static str {
        match self {
            Self::Larc => "optimizer LARC",
            Self::Sgd => "optimizer SGD",
            Self::Adam => "optimizer Adam",
        }
    }
}

/// Three steps, so that moments and corrections take part, over more values than kernels take at once.
fn optimizer(rule: Rule, place: &Place) -> Result<Results, TrainError> {
    fn steps<O: Optimizer>(optimizer: O, rate: f64, place: &Place) -> Tensor<2> {
        let shape = [700, 400];
        let mut param = place.normal(1, shape);
        let mut state = None;
        for step in 0..3 {
            let gradient = place.normal(2 + step, shape);
            (param, state) = optimizer.step(rate, param, gradient, state);
        }
        param
    }
    let sgd = Sgd {
        momentum: 0.9,
        weight_decay: 1e-4,
    };
    let larc = Larc {
        trust: Larc::TRUST,
        weight_decay: 1e-4,
        sgd: Sgd {
            weight_decay: 0.0,
            ..sgd
        },
    };
    let param = match rule {
        Rule::Larc => steps(larc, 4.8, place),
        Rule::Sgd => steps(sgd, 0.1, place),
        Rule::Adam => steps(Adam::new(0.9, 1e-4), 0.01, place),
    };
    Ok(vec![result("parameter", param)?])
}
