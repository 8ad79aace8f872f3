//! Shapes, sizes and the multi-crop forward.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

mod common;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use common::{backbone, host, image, init, relative, small};
use swav_model::{
    Architecture, Backbone, BatchNorm, Draw, HeadConfig, Network, NetworkConfig, PrototypesConfig,
    Stem,
};

/// The larger of two numbers is this share above the other at most.
fn close(a: u64, b: f64, share: f64) -> bool {
    (a as f64 / b - 1.0).abs() <= share
}

#[test]
fn parameters_and_multiply_adds_are_those_that_torchvision_states() {
    // Name, features, millions of parameters without the classifier, billions of multiply-adds of a
    // 224-pixel image without it. From torchvision's model pages, less the classifier.
    let known = [
        ("resnet18", 512, 11_689_512 - 513_000, 1.814),
        ("resnet34", 512, 21_797_672 - 513_000, 3.664),
        ("resnet50", 2048, 25_557_032 - 2_049_000, 4.089),
        ("resnet101", 2048, 44_549_160 - 2_049_000, 7.801),
        ("resnet152", 2048, 60_192_808 - 2_049_000, 11.514),
        ("resnext50_32x4d", 2048, 25_028_904 - 2_049_000, 4.230),
        ("resnext101_32x8d", 2048, 88_791_336 - 2_049_000, 16.414),
        ("resnext101_64x4d", 2048, 83_455_272 - 2_049_000, 15.460),
        ("wide_resnet50_2", 2048, 68_883_240 - 2_049_000, 11.398),
    ];
    for (name, dim, parameters, macs) in known {
        let config = backbone(name, 1.0, Stem::Imagenet);
        assert_eq!(config.dim(), dim, "{name}");
        assert_eq!(config.parameters(), parameters, "{name}");
        let found = config.macs(224) + (dim * 1000) as u64;
        assert!(close(found, macs * 1e9, 2e-3), "{name}: {found}");
    }
}

#[test]
fn the_estimate_of_parameters_is_the_number_built() {
    let device = Device::flex();
    for name in ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"] {
        for stem in [Stem::Imagenet, Stem::Cifar] {
            let config = backbone(name, 0.25, stem);
            for (hidden, head_norm) in [(0, true), (24, true), (24, false)] {
                let network = NetworkConfig {
                    backbone: config,
                    hidden,
                    head_norm,
                    ..small()
                };
                let tensors = swav_model::weights::export(&network.init(0, &device));
                let trained = tensors
                    .iter()
                    .filter(|(name, _)| !name.contains("running_"));
                let built: usize = trained.map(|(_, data)| data.num_elements()).sum();
                assert_eq!(
                    network.parameters(),
                    built as u64,
                    "{name} {stem:?} {hidden}"
                );
            }
        }
    }
}

#[test]
fn width_multiplies_every_stage() {
    assert_eq!(backbone("resnet18", 0.25, Stem::Cifar).dim(), 128);
    assert_eq!(backbone("resnet50w2", 1.0, Stem::Imagenet).dim(), 4096);
    assert_eq!(backbone("resnet50w5", 1.0, Stem::Imagenet).dim(), 10240);
    let twice = backbone("resnet50", 2.0, Stem::Imagenet).parameters();
    assert_eq!(
        backbone("resnet50w2", 1.0, Stem::Imagenet).parameters(),
        twice
    );
}

#[test]
fn stored_activations_grow_with_the_area_and_dominate_the_image() {
    let config = backbone("resnet50", 1.0, Stem::Imagenet);
    let (small, large) = (config.activations(112), config.activations(224));
    assert!(close(large, 4.0 * small as f64, 0.05), "{small} {large}");
    // 11 M of convolution outputs, and twice that again for the ReLUs' inputs and outputs.
    assert!((20_000_000..40_000_000).contains(&large), "{large}");
}

#[test]
fn stages_are_the_backbone_and_their_inputs_are_as_large_as_counted() {
    let device = Device::flex();
    for (name, stem, size) in [
        ("resnet18", Stem::Imagenet, 45),
        ("resnet50", Stem::Cifar, 24),
    ] {
        let config = backbone(name, 0.125, stem);
        let network = config.init(&mut Draw::new(0, &device));
        let image = image("x", [1, 3, size, size], &device);
        let (mut inputs, mut map) = (0, image.clone());
        for stage in 0..Backbone::STAGES {
            inputs += map.shape().num_elements();
            map = network.stage(stage, map);
        }
        inputs += map.shape().num_elements();
        assert_eq!(config.stage_inputs(size), inputs as u64, "{name}");
        let (features, expected) = (Backbone::pool(map), network.forward(image));
        assert_eq!(features.into_data(), expected.into_data());
    }
}

#[test]
fn a_stage_and_the_inputs_before_it_are_less_than_all_activations() {
    let config = backbone("resnet50", 1.0, Stem::Imagenet);
    let (all, most) = (
        config.activations(224),
        config.checkpointed_activations(224),
    );
    // The first stage of blocks: 3 × 2 × (64 + 64 + 256) channels and the shortcut's 256, of 56 × 56 pixels, behind an image and
    // a map of 64 channels.
    let pixels = 56 * 56;
    let first = (3 * 2 * (64 + 64 + 256) + 256 + 64) * pixels + 3 * 224 * 224;
    assert_eq!(most, first as u64);
    assert!(
        config.stage_inputs(224) < most && most < all / 2,
        "{most} of {all}"
    );
}

#[test]
fn an_unknown_architecture_is_refused_with_the_known_names() {
    let error = "resnet51".parse::<Architecture>().unwrap_err().to_string();
    assert!(error.contains("`resnet51`"), "{error}");
    for known in Architecture::all() {
        assert!(error.contains(known.name()), "{error}");
        assert_eq!(known.to_string().parse(), Ok(known));
    }
}

#[test]
fn a_configuration_survives_json_and_refuses_unknown_fields() {
    let json = serde_json::to_string(&small()).unwrap();
    assert!(json.contains(r#""name":"resnet18""#) && json.contains(r#""stem":"cifar""#));
    assert_eq!(
        serde_json::from_str::<NetworkConfig>(&json).unwrap(),
        small()
    );
    let typo = json.replace("hidden", "hiden");
    assert!(serde_json::from_str::<NetworkConfig>(&typo).is_err());
}

#[test]
fn a_seed_gives_the_same_weights_each_time() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        let weights = |seed| swav_model::weights::export(&init(&small(), seed, &device));
        let (one, again, other) = (weights(3), weights(3), weights(4));
        assert_eq!(one, again);
        assert_ne!(one, other);
    }
}

#[test]
fn weights_are_drawn_as_pytorch_draws_them() {
    let device = Device::flex();
    let config = NetworkConfig {
        backbone: backbone("resnext50_32x4d", 1.0, Stem::Imagenet),
        hidden: 128,
        head_norm: true,
        dim: 16,
        prototypes: vec![],
    };
    let weights = swav_model::weights::export(&init(&config, 5, &device));
    let values = |name: &str| weights[name].try_to_vec::<f32>().unwrap();
    // Kaiming-normal over fan-out, which for PyTorch counts all groups together.
    for (name, fan_out) in [
        ("conv1.weight", 64 * 49),
        ("layer2.1.conv2.weight", 256 * 9),
    ] {
        let v = values(name);
        let squares: f64 = v.iter().map(|&x| f64::from(x * x)).sum();
        let variance = squares / v.len() as f64;
        assert!(
            (variance * f64::from(fan_out) / 2.0 - 1.0).abs() < 0.05,
            "{name}"
        );
    }
    // Uniform between ±1/√fan-in, weight and bias.
    for (name, fan_in) in [
        ("projection_head.0.weight", 2048.0),
        ("projection_head.3.bias", 128.0),
    ] {
        let largest = values(name).iter().fold(0f32, |a, x| a.max(x.abs()));
        let bound = 1.0 / f32::sqrt(fan_in);
        assert!(
            largest <= bound && largest > 0.8 * bound,
            "{name} {largest} {bound}"
        );
    }
    assert!(values("layer1.0.bn3.weight").iter().all(|&x| x == 1.0));
}

#[test]
fn the_multi_crop_forward_is_the_groups_one_by_one() {
    for (device, training) in [(Device::flex(), false), (Device::flex().autodiff(), true)] {
        let network = init(&small(), 1, &device);
        let large = image("large", [6, 3, 32, 32], &device);
        let small = image("small", [9, 3, 16, 16], &device);
        let outputs = network.forward(vec![large.clone(), small.clone()]);

        let by_hand = |network: &Network| {
            let features = vec![
                network.features(large.clone()),
                network.features(small.clone()),
            ];
            let z = network.head.forward(Tensor::cat(features, 0));
            let length = z.clone().powi_scalar(2).sum_dim(1).sqrt();
            z / length
        };
        let expected = by_hand(&init(&self::small(), 1, &device));
        assert_eq!(outputs.embeddings.dims(), [15, 12]);
        let error = relative(&host(outputs.embeddings.clone()), &host(expected.clone()));
        assert!(error < 1e-6, "{error}");
        for (head, scores) in network
            .prototypes
            .weights()
            .into_iter()
            .zip(&outputs.scores)
        {
            let expected = expected.clone().matmul(head);
            assert!(relative(&host(scores.clone()), &host(expected)) < 1e-6);
        }
        // In one group, and so with one set of statistics, training crops come out differently.
        let halves = vec![large.clone().narrow(0, 0, 3), large.clone().narrow(0, 3, 3)];
        let apart = network.forward(halves).embeddings;
        let together = network.forward(vec![large.clone()]).embeddings;
        let error = relative(&host(apart), &host(together));
        assert_eq!(error > 1e-3, training, "{error}");
    }
}

#[test]
fn embeddings_are_of_unit_length_and_zero_has_no_gradient() {
    let device = Device::flex().autodiff();
    let network = init(&small(), 1, &device);
    let outputs = network.forward(vec![image("x", [4, 3, 16, 16], &device)]);
    for length in host(outputs.embeddings.powi_scalar(2).sum_dim(1).sqrt()) {
        assert!((length - 1.0).abs() < 1e-6, "{length}");
    }
    // A head of a single layer maps zero to its bias; without one the embedding is zero over zero.
    let config = NetworkConfig {
        hidden: 0,
        head_norm: true,
        ..small()
    };
    let network = init(&config, 1, &device);
    let tensors = swav_model::weights::export(&network);
    let zeroed = tensors.into_iter().map(|(name, data)| match name.as_str() {
        "projection_head.weight" | "projection_head.bias" => {
            let zeros = vec![0f32; data.num_elements()];
            let shape = data.shape().clone();
            (name, burn::tensor::TensorData::new(zeros, shape))
        }
        _ => (name, data),
    });
    let network = swav_model::weights::import(network, zeroed.collect()).unwrap();
    let x = image("x", [4, 3, 16, 16], &device).require_grad();
    let outputs = network.forward(vec![x.clone()]);
    assert!(host(outputs.embeddings.clone()).iter().all(|&z| z == 0.0));
    let grads = outputs.embeddings.sum().backward();
    assert!(host(x.grad(&grads).unwrap()).iter().all(|&g| g == 0.0));
}

#[test]
fn prototypes_are_normalised_in_place() {
    let device = Device::flex().autodiff();
    let counts = vec![5, 9];
    let prototypes = PrototypesConfig { dim: 4, counts }.init(&mut Draw::new(2, &device));
    let ids = prototypes.param_ids();
    let before = prototypes.weights();
    let prototypes = prototypes.normalise();
    assert_eq!(prototypes.param_ids(), ids);
    for (before, after) in before.into_iter().zip(prototypes.weights()) {
        let length = after.clone().powi_scalar(2).sum_dim(0).sqrt();
        assert!(host(length).iter().all(|l| (l - 1.0).abs() < 1e-6));
        let scaled = before.clone() / before.powi_scalar(2).sum_dim(0).sqrt();
        assert!(relative(&host(after), &host(scaled)) < 1e-6);
    }
    // They still learn, and frozen ones stay frozen.
    let z = image::<2>("z", [3, 4], &device);
    let loss = |p: &swav_model::Prototypes| p.forward(z.clone()).remove(1).sum();
    assert_eq!(gradients(&prototypes, loss(&prototypes)), 1);
    let frozen = prototypes.freeze().normalise();
    let z = z.require_grad();
    let loss = frozen.forward(z).remove(1).sum();
    assert_eq!(gradients(&frozen, loss), 0);
}

/// How many parameters of a module have a gradient.
fn gradients<M: Module>(module: &M, loss: Tensor<1>) -> usize {
    use burn::module::{ModuleVisitor, Param};
    struct Count<'a>(&'a burn::tensor::Gradients, usize);
    impl ModuleVisitor for Count<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.1 += usize::from(param.val().grad(self.0).is_some());
        }
    }
    let gradients = loss.backward();
    let mut count = Count(&gradients, 0);
    module.visit(&mut count);
    count.1
}

#[test]
fn prototypes_can_be_replaced_by_centroids() {
    let device = Device::flex().autodiff();
    let counts = vec![5, 9];
    let prototypes = PrototypesConfig { dim: 4, counts }.init(&mut Draw::new(2, &device));
    let ids = prototypes.param_ids();
    let centroids = image::<2>("centroids", [4, 9], &device);
    let prototypes = prototypes.replace(1, centroids.clone());
    assert_eq!(prototypes.param_ids(), ids);
    assert_eq!(host(prototypes.weights().remove(1)), host(centroids));
}

#[test]
fn every_parameter_of_a_network_learns() {
    let device = Device::flex().autodiff();
    let network = init(&small(), 1, &device);
    let outputs = network.forward(vec![image("x", [4, 3, 16, 16], &device)]);
    let loss = outputs.scores.into_iter().map(|s| s.powi_scalar(2).sum());
    let loss = loss.reduce(|a, b| a + b).unwrap();
    let tensors = swav_model::weights::export(&network);
    let learned = tensors.keys().filter(|name| !name.contains("running_"));
    assert_eq!(gradients(&network, loss), learned.count());
}

#[test]
fn a_single_layer_head_is_a_linear_map() {
    let device = Device::flex();
    let config = HeadConfig {
        input: 6,
        hidden: 0,
        norm: true,
        output: 3,
    };
    let head = config.init(&mut Draw::new(2, &device));
    assert_eq!(head.num_params(), 6 * 3 + 3);
    let (x, y) = (
        image::<2>("x", [2, 6], &device),
        image::<2>("y", [2, 6], &device),
    );
    let sum = head.forward(x.clone() + y.clone()) + head.forward(x.zeros_like());
    let parts = head.forward(x) + head.forward(y);
    assert!(relative(&host(sum), &host(parts)) < 1e-5);
}

#[test]
fn a_head_without_batch_norm_looks_at_each_row_alone() {
    let device = Device::flex().autodiff();
    let config = HeadConfig {
        input: 6,
        hidden: 5,
        norm: false,
        output: 3,
    };
    let head = config.init(&mut Draw::new(2, &device));
    assert_eq!(head.num_params(), 6 * 5 + 5 + 5 * 3 + 3);
    let (x, y) = (
        image::<2>("x", [2, 6], &device),
        image::<2>("y", [2, 6], &device),
    );
    let together = head.forward(Tensor::cat(vec![x.clone(), y.clone()], 0));
    let apart = Tensor::cat(vec![head.forward(x.clone()), head.forward(y)], 0);
    assert!(relative(&host(together), &host(apart)) < 1e-6);
    // It is no linear map: there is a ReLU in it.
    let doubled = head.forward(x.clone() * 2.0) + head.forward(x.zeros_like());
    assert!(relative(&host(doubled), &host(head.forward(x) * 2.0)) > 1e-3);
}

#[test]
fn batch_norm_keeps_the_unbiased_variance() {
    let device = Device::flex().autodiff();
    let norm = BatchNorm::new(1, &device);
    let x = Tensor::<2>::from_floats([[1.0], [3.0], [5.0]], &device);
    let y = norm.forward(x);
    // Normalised with the biased variance 8/3, kept as the unbiased 4.
    let expected = [-2.0, 0.0, 2.0].map(|d: f32| d / (8.0f32 / 3.0).sqrt());
    assert!(relative(&host(y), &expected) < 1e-5);
    assert!((host(norm.running_mean())[0] - 0.3).abs() < 1e-6);
    assert!((host(norm.running_var())[0] - (0.9 + 0.4)).abs() < 1e-6);
}

#[test]
fn a_clone_has_running_statistics_of_its_own() {
    // Burn's RunningState is shared between clones: a momentum encoder would follow its original.
    let device = Device::flex().autodiff();
    let norm = BatchNorm::new(1, &device);
    let clone = norm.clone();
    norm.forward(Tensor::<2>::from_floats([[1.0], [3.0]], &device));
    assert_eq!(host(clone.running_mean()), [0.0]);
    assert!((host(norm.running_mean())[0] - 0.2).abs() < 1e-6);
}

#[test]
fn frozen_and_evaluated_batch_norms_leave_their_statistics_alone() {
    let device = Device::flex().autodiff();
    let norm = BatchNorm::new(1, &device).freeze();
    let y = norm.forward(Tensor::<2>::from_floats([[1.0], [3.0]], &device));
    assert!(relative(&host(y), &[1.0, 3.0]) < 1e-4);
    let norm = norm.unfreeze().valid();
    norm.forward(Tensor::<2>::from_floats([[1.0], [3.0]], &Device::flex()));
    assert_eq!(host(norm.running_mean()), [0.0]);
    assert_eq!(host(norm.train().running_var()), [1.0]);
}

#[test]
#[should_panic(expected = "single value per channel")]
fn batch_norm_refuses_to_train_on_one_value() {
    let device = Device::flex().autodiff();
    BatchNorm::new(2, &device).forward(Tensor::<4>::ones([1, 2, 1, 1], &device));
}

#[test]
#[should_panic(expected = "[N, 3, H, W], not [2, 1, 8, 8]")]
fn a_grey_image_is_refused() {
    let device = Device::flex();
    init(&small(), 1, &device).features(Tensor::ones([2, 1, 8, 8], &device));
}

#[test]
fn images_down_to_the_smallest_size_pass() {
    let device = Device::flex().autodiff();
    for (stem, smallest) in [(Stem::Imagenet, 32), (Stem::Cifar, 8)] {
        let config = backbone("resnet18", 0.125, stem);
        assert_eq!(config.min_size(), smallest);
        let network = config.init(&mut Draw::new(1, &device));
        for size in [smallest, smallest + 1, 2 * smallest - 1] {
            let x = image("x", [2, 3, size, size], &device);
            assert_eq!(network.forward(x).dims(), [2, config.dim()]);
        }
    }
}
