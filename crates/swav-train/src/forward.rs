//! Around a forward pass: a network that leaves no trace, and its outputs by crop.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use swav_model::{Network, Outputs};

use crate::precision::Precision;

/// What `network` makes of crops, `[n·B, 3, S, S]` for each resolution, computed in `precision`.
pub(crate) fn forward(network: &Network, crops: Vec<Tensor<4>>, precision: Precision) -> Outputs {
    let crops = crops.into_iter().map(|crops| crops.cast(precision.dtype()));
    network.forward(crops.collect())
}

/// The network with batch statistics as in training but without a graph, and with running
/// statistics of its own, so that looking at a batch does not count as having trained on it.
pub(crate) fn untracked(network: &Network) -> Network {
    network.valid().train().map(&mut Untrack)
}

/// The network with the graph that [`untracked`] took from it, and with the running statistics that it has now.
pub(crate) fn tracked(network: &Network) -> Network {
    network.valid().train()
}

/// Takes parameters out of the graph, and leaves it to [`Module::train`] to take them in again.
struct Untrack;

impl ModuleMapper for Untrack {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|value| value.set_require_grad(false))
    }
}

/// The embeddings of each crop over all forward passes, `[B, dim]`, without gradients; each pass
/// saw `rows` samples.
pub(crate) fn by_crop(forwards: &[Outputs], rows: usize) -> Vec<Tensor<2>> {
    let detached: Vec<_> = forwards
        .iter()
        .map(|outputs| outputs.embeddings.clone().detach().inner())
        .collect();
    let crops = detached.first().map_or(0, |first| first.dims()[0] / rows);
    (0..crops)
        .map(|crop| {
            let parts = detached
                .iter()
                .map(|embeddings| embeddings.clone().narrow(0, crop * rows, rows));
            Tensor::cat(parts.collect(), 0)
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution, TensorData};
    use swav_model::{BackboneConfig, NetworkConfig, Stem};

    /// A network that takes milliseconds.
    pub(crate) fn network(device: &Device) -> Network {
        let config = NetworkConfig {
            backbone: BackboneConfig {
                name: "resnet18".parse().unwrap(),
                width: 0.0625,
                stem: Stem::Imagenet,
            },
            hidden: 8,
            head_norm: true,
            dim: 8,
            prototypes: vec![4],
        };
        config.init(1, device)
    }

    fn evaluated(network: &Network, images: &Tensor<4>) -> TensorData {
        network.valid().features(images.clone().inner()).to_data()
    }

    #[test]
    fn a_forward_pass_without_a_graph_is_that_of_training_and_moves_no_running_statistics() {
        let device = Device::flex().autodiff();
        let network = network(&device);
        let images = Tensor::random([4, 3, 16, 16], Distribution::Default, &device);
        let before = evaluated(&network, &images);

        let silent = untracked(&network).forward(vec![images.clone()]);
        assert_eq!(evaluated(&network, &images), before);
        assert!(!silent.embeddings.is_require_grad());

        let trained = network.forward(vec![images.clone()]);
        assert_eq!(
            silent.embeddings.to_data(),
            trained.embeddings.inner().to_data()
        );
        assert_ne!(evaluated(&network, &images), before);
    }

    #[test]
    fn a_network_is_tracked_again_with_the_statistics_of_the_untracked_one_and_what_was_frozen_stays_so()
     {
        let device = Device::flex().autodiff();
        let mut network = network(&device);
        network.prototypes = network.prototypes.freeze();
        let images = Tensor::random([4, 3, 16, 16], Distribution::Default, &device);
        let silent = untracked(&network);
        silent.forward(vec![images.clone()]);
        let again = tracked(&silent);
        network.forward(vec![images.clone()]);
        assert_eq!(evaluated(&again, &images), evaluated(&network, &images));
        let features = again.features(images.clone()).detach();
        let outputs = again.outputs(vec![features]);
        assert!(outputs.embeddings.is_tracked());
        let unit = outputs.embeddings.detach();
        assert!(!again.prototypes.forward(unit)[0].is_tracked());
    }

    #[test]
    fn embeddings_of_several_passes_are_put_together_by_crop() {
        let device = Device::flex();
        let outputs = |first: f32| {
            let numbers = [first, first + 1.0, first + 2.0, first + 3.0];
            let embeddings = Tensor::<1>::from_floats(numbers, &device).reshape([4, 1]);
            Outputs {
                projections: embeddings.clone(),
                embeddings,
                scores: Vec::new(),
            }
        };
        let crops = by_crop(&[outputs(0.0), outputs(10.0)], 2);
        let values = |crop: usize| crops[crop].to_data().try_to_vec::<f32>().unwrap();
        assert_eq!(values(0), [0.0, 1.0, 10.0, 11.0]);
        assert_eq!(values(1), [2.0, 3.0, 12.0, 13.0]);
    }
}
