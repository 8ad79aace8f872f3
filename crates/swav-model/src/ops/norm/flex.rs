//! The passes on the CPU (Burn's Flex).

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, bf16};
use burn_flex::FlexTensor;

use super::cpu::{self, Moments, NormShape, Scaling};
use super::{Kernels, Settings, without_gradients};
use crate::Ranks;
use crate::ops::convolution::of_elements;
use crate::ops::element::Element;

without_gradients!(Flex);

impl Kernels for Flex {
    fn moments(x: FlexTensor, ranks: Ranks) -> (FlexTensor, FlexTensor) {
        let x = x.to_contiguous();
        let shape = norm_shape(&x);
        let Moments {
            mut mean,
            mut variance,
        } = of_elements!(x.dtype(), E => cpu::moments(&shape, E::values(&x)));
        if !ranks.is_alone() {
            ranks.moments(shape.images * shape.pixels, &mut mean, &mut variance);
        }
        let channels = [shape.channels];
        (f32::tensor(mean, channels), f32::tensor(variance, channels))
    }

    fn normalise(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        epsilon: f64,
        relu: bool,
    ) -> FlexTensor {
        let numbers = [weight, bias, mean, variance];
        of_elements!(x.dtype(), E => normalise::<E>(x, None, numbers, epsilon, relu))
    }

    fn normalise_add(
        x: FlexTensor,
        shortcut: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        epsilon: f64,
    ) -> FlexTensor {
        let numbers = [weight, bias, mean, variance];
        of_elements!(x.dtype(), E => normalise::<E>(x, Some(shortcut), numbers, epsilon, true))
    }

    fn gradients(
        x: FlexTensor,
        weight: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        gradient: FlexTensor,
        settings: Settings,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let numbers = [weight, mean, variance];
        let ([x, weight, bias], _) = of_elements!(x.dtype(), E => {
            gradients::<E>(x, None, numbers, gradient, &settings, false)
        });
        (x, weight, bias)
    }

    fn gradients_relu(
        x: FlexTensor,
        y: FlexTensor,
        weight: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        gradient: FlexTensor,
        settings: Settings,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let numbers = [weight, mean, variance];
        let ([x, weight, bias], _) = of_elements!(x.dtype(), E => {
            gradients::<E>(x, Some(y), numbers, gradient, &settings, false)
        });
        (x, weight, bias)
    }

    fn gradients_add(
        x: FlexTensor,
        y: FlexTensor,
        weight: FlexTensor,
        mean: FlexTensor,
        variance: FlexTensor,
        gradient: FlexTensor,
        settings: Settings,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        let numbers = [weight, mean, variance];
        let ([x, weight, bias], rest) = of_elements!(x.dtype(), E => {
            gradients::<E>(x, Some(y), numbers, gradient, &settings, true)
        });
        let Some(shortcut) = rest else {
            unreachable!("the gradient of the shortcut was asked for")
        };
        (x, weight, bias, shortcut)
    }
}

fn norm_shape(x: &FlexTensor) -> NormShape {
    let shape = x.layout().shape();
    NormShape {
        images: shape[0],
        channels: shape[1],
        pixels: shape.iter().skip(2).product(),
    }
}

fn moments(mean: &FlexTensor, variance: &FlexTensor) -> Moments {
    Moments {
        mean: f32::values(mean).to_vec(),
        variance: f32::values(variance).to_vec(),
    }
}

fn normalise<E: Element>(
    x: FlexTensor,
    shortcut: Option<FlexTensor>,
    numbers: [FlexTensor; 4],
    epsilon: f64,
    relu: bool,
) -> FlexTensor {
    let (x, shortcut) = (x.to_contiguous(), shortcut.map(|s| s.to_contiguous()));
    let [weight, bias, mean, variance] = numbers.map(|n| n.to_contiguous());
    let scaling = Scaling {
        moments: &moments(&mean, &variance),
        weight: f32::values(&weight),
        epsilon,
    };
    let shortcut = shortcut.as_ref().map(E::values);
    let shape = norm_shape(&x);
    let y = cpu::normalise(
        &shape,
        E::values(&x),
        &scaling,
        f32::values(&bias),
        shortcut,
        relu,
    );
    E::tensor(y, x.layout().shape().clone())
}

/// Gradients of the input, the weight, the bias and, if it is wanted, the shortcut. `numbers` are weight, mean and
/// variance.
fn gradients<E: Element>(
    x: FlexTensor,
    y: Option<FlexTensor>,
    numbers: [FlexTensor; 3],
    gradient: FlexTensor,
    settings: &Settings,
    shortcut: bool,
) -> ([FlexTensor; 3], Option<FlexTensor>) {
    let (x, y) = (x.to_contiguous(), y.map(|y| y.to_contiguous()));
    let [weight, mean, variance] = numbers.map(|n| n.to_contiguous());
    // Written over where nobody else holds it: only then does `storage_mut` not copy.
    let mut gradient = contiguous(gradient);
    let shape = norm_shape(&x);
    let found = cpu::gradients(
        &shape,
        E::values(&x),
        y.as_ref().map(E::values),
        &Scaling {
            moments: &moments(&mean, &variance),
            weight: f32::values(&weight),
            epsilon: settings.epsilon,
        },
        E::values_mut(&mut gradient),
        shortcut,
        &settings.ranks,
    );
    let channels = [shape.channels];
    let (weight, bias) = (
        f32::tensor(found.weight, channels),
        f32::tensor(found.bias, channels),
    );
    match found.x {
        Some(dx) => {
            let dx = E::tensor(dx, x.layout().shape().clone());
            ([dx, weight, bias], Some(gradient))
        }
        None => ([gradient, weight, bias], None),
    }
}

/// `to_contiguous`, but without a second owner of the values.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let contiguous = tensor.to_contiguous();
    drop(tensor);
    contiguous
}
