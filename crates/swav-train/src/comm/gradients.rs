//! Gradients on their way to the other ranks.

use std::iter::Peekable;
use std::vec;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use swav_model::Network;

use super::floats;

/// From so many values on, a gradient is a message of its own and is never copied; smaller ones share one.
const LARGE: usize = 1 << 16;

/// Replaces the gradients of `network` by their sums over the ranks, and `more` likewise: `sum` replaces the values that it is
/// given by theirs. Calls and lengths depend on the network alone.
pub(super) fn sum_all(
    network: &Network,
    gradients: GradientsParams,
    more: &mut [f32],
    sum: &mut dyn FnMut(&mut Vec<f32>),
) -> GradientsParams {
    let mut take = Take {
        gradients,
        large: Vec::new(),
        small: Vec::new(),
        flat: more.to_vec(),
        sum,
    };
    network.visit(&mut take);
    let Take {
        large,
        small,
        mut flat,
        sum,
        ..
    } = take;
    sum(&mut flat);
    let (of_more, rest) = flat.split_at(more.len());
    more.copy_from_slice(of_more);
    let mut give = Give {
        large: large.into_iter().peekable(),
        small: small.into_iter().peekable(),
        rest,
        gradients: GradientsParams::new(),
    };
    network.visit(&mut give);
    give.gradients
}

/// Sums the large gradients, and puts the small ones behind one another.
struct Take<'a> {
    gradients: GradientsParams,
    large: Vec<(ParamId, Vec<f32>)>,
    small: Vec<ParamId>,
    flat: Vec<f32>,
    sum: &'a mut dyn FnMut(&mut Vec<f32>),
}

impl ModuleVisitor for Take<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            return;
        };
        let mut values = floats(gradient);
        if values.len() < LARGE {
            self.flat.extend_from_slice(&values);
            self.small.push(param.id);
        } else {
            (self.sum)(&mut values);
            self.large.push((param.id, values));
        }
    }
}

/// Gives the sums back.
struct Give<'a> {
    large: Peekable<vec::IntoIter<(ParamId, Vec<f32>)>>,
    small: Peekable<vec::IntoIter<ParamId>>,
    rest: &'a [f32],
    gradients: GradientsParams,
}

impl ModuleVisitor for Give<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let weights = param.val().inner();
        let values = if let Some((_, values)) = self.large.next_if(|(id, _)| *id == param.id) {
            values
        } else if self.small.next_if_eq(&param.id).is_some() {
            let (own, rest) = self.rest.split_at(weights.shape().num_elements());
            self.rest = rest;
            own.to_vec()
        } else {
            return;
        };
        let gradient = TensorData::new(values, weights.shape());
        let gradient = Tensor::<D>::from_data(gradient, &weights.device());
        self.gradients.register(param.id, gradient);
    }
}
