//! Gradients as one buffer.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor, TensorData};
use swav_model::Network;

/// The gradients of a network on the host, one behind the other in the order of its parameters.
pub(super) struct Flat {
    /// The parameters that have a gradient.
    ids: Vec<ParamId>,
    pub(super) values: Vec<f32>,
}

impl Flat {
    /// Takes the gradients of `network`.
    pub(super) fn of(network: &Network, gradients: GradientsParams) -> Self {
        let mut take = Take {
            gradients,
            flat: Self {
                ids: Vec::new(),
                values: Vec::with_capacity(network.num_params() + 1),
            },
        };
        network.visit(&mut take);
        take.flat
    }

    /// The gradients of `network` again, each value times `factor`.
    pub(super) fn scaled(&self, network: &Network, factor: f32) -> GradientsParams {
        let mut give = Give {
            ids: self.ids.iter().peekable(),
            rest: &self.values,
            factor,
            gradients: GradientsParams::new(),
        };
        network.visit(&mut give);
        give.gradients
    }
}

struct Take {
    gradients: GradientsParams,
    flat: Flat,
}

impl ModuleVisitor for Take {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            return;
        };
        let data = gradient.into_data().convert_dtype(DType::F32);
        match data.as_slice::<f32>() {
            Ok(values) => self.flat.values.extend_from_slice(values),
            Err(error) => unreachable!("it was converted: {error:?}"),
        }
        self.flat.ids.push(param.id);
    }
}

struct Give<'a> {
    ids: std::iter::Peekable<std::slice::Iter<'a, ParamId>>,
    rest: &'a [f32],
    factor: f32,
    gradients: GradientsParams,
}

impl ModuleVisitor for Give<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.ids.next_if_eq(&&param.id).is_none() {
            return;
        }
        let weights = param.val().inner();
        let (own, rest) = self.rest.split_at(weights.shape().num_elements());
        self.rest = rest;
        let values: Vec<f32> = own.iter().map(|value| value * self.factor).collect();
        let gradient = TensorData::new(values, weights.shape());
        let gradient = Tensor::<D>::from_data(gradient, &weights.device());
        self.gradients.register(param.id, gradient);
    }
}
