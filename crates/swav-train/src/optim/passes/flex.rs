//! The passes on the CPU (Burn's Flex).

use burn::backend::Flex;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::{Moments, Momentum, Passes};
use crate::optim::larc::Larc;

/// Values of a task; a task takes some microseconds.
const CHUNK: usize = 16 * 1024;

impl Passes for Flex {
    fn momentum_step(
        param: FlexTensor,
        gradient: FlexTensor,
        velocity: FlexTensor,
        numbers: Momentum,
    ) -> (FlexTensor, FlexTensor) {
        let [param, mut gradient, mut velocity] = [param, gradient, velocity].map(whole);
        let values: &[f32] = param.storage();
        let Scaling { ratio, decay } = Scaling::of(&numbers, values, gradient.storage());
        let (rate, momentum) = (numbers.rate as f32, numbers.momentum as f32);
        // Written over where nobody else holds them: only then does `storage_mut` not copy.
        let new = gradient.storage_mut::<f32>().par_chunks_mut(CHUNK);
        let velocities = velocity.storage_mut::<f32>().par_chunks_mut(CHUNK);
        new.zip(velocities)
            .zip(values.par_chunks(CHUNK))
            .for_each(|((new, velocity), values)| {
                for ((new, v), &p) in new.iter_mut().zip(velocity).zip(values) {
                    *v = momentum * *v + ratio * (*new + decay * p);
                    *new = p - rate * *v;
                }
            });
        (gradient, velocity)
    }

    fn adam_step(
        param: FlexTensor,
        gradient: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        numbers: Moments,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let [param, mut gradient] = [param, gradient].map(whole);
        let [mut first, mut second] = [first, second].map(whole);
        let Moments {
            rate,
            beta_1,
            beta_2,
            floor,
            decay,
        } = numbers;
        let values: &[f32] = param.storage();
        let new = gradient.storage_mut::<f32>().par_chunks_mut(CHUNK);
        let moments = first.storage_mut::<f32>().par_chunks_mut(CHUNK);
        let moments = moments.zip(second.storage_mut::<f32>().par_chunks_mut(CHUNK));
        new.zip(moments).zip(values.par_chunks(CHUNK)).for_each(
            |((new, (first, second)), values)| {
                let moments = first.iter_mut().zip(second);
                for ((new, (m, v)), &p) in new.iter_mut().zip(moments).zip(values) {
                    let g = *new + decay * p;
                    *m = beta_1 * *m + (1.0 - beta_1) * g;
                    *v = beta_2 * *v + (1.0 - beta_2) * g * g;
                    *new = p - rate * *m / (v.sqrt() + floor);
                }
            },
        );
        (gradient, first, second)
    }
}

/// What becomes of a gradient: `ratio · (g + decay · p)`.
struct Scaling {
    ratio: f32,
    decay: f32,
}

impl Scaling {
    fn of(numbers: &Momentum, param: &[f32], gradient: &[f32]) -> Self {
        let &Momentum { decay, trust, .. } = numbers;
        let (ratio, decay) = match trust {
            None => (1.0, decay),
            Some(trust) => match (norm(param), norm(gradient)) {
                (0.0, _) | (_, 0.0) => (1.0, 0.0),
                (p, g) => (trust * p / (g + decay * p + Larc::FLOOR), decay),
            },
        };
        Self {
            ratio: ratio as f32,
            decay: decay as f32,
        }
    }
}

/// The Euclidean norm; sums are cut by the length alone, so the number of threads changes nothing.
fn norm(values: &[f32]) -> f64 {
    let chunks = values.par_chunks(CHUNK).map(sum_of_squares);
    let sums: Vec<f64> = chunks.collect();
    sums.iter().sum::<f64>().sqrt()
}

fn sum_of_squares(values: &[f32]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (vectors, rest) = values.as_chunks::<LANES>();
    for vector in vectors {
        for (sum, value) in sums.iter_mut().zip(vector) {
            *sum += value * value;
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += value * value;
    }
    sums.iter().map(|&sum| f64::from(sum)).sum()
}

/// Contiguous and whole, without a second owner of the values.
fn whole(x: FlexTensor) -> FlexTensor {
    let len = x.layout().num_elements();
    let contiguous = x.to_contiguous();
    drop(x);
    if contiguous.storage::<f32>().len() == len {
        return contiguous;
    }
    FlexTensor::from_data(contiguous.into_data())
}
