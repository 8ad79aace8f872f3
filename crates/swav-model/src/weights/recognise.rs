//! From the shapes of tensors to the network that they are of.

use super::Mismatch;
use super::transfer::{Shapes, compare};
use crate::backbone::{Architecture, BackboneConfig, Stem};
use crate::conv::ConvSpec;
use crate::network::NetworkConfig;

/// The network whose tensors have these shapes, by torchvision's names. Tensors that belong to none are passed over; a file with a backbone
/// alone makes a network without a head.
///
/// # Errors
/// If there is no such backbone: says which comes nearest and what differs.
pub(super) fn recognise(shapes: &Shapes) -> Result<NetworkConfig, String> {
    let backbone = backbone(shapes)?;
    let rows = |name: &str| match shapes.get(name).map(Vec::as_slice) {
        Some(&[rows, _]) => rows,
        _ => 0,
    };
    let hidden = rows("projection_head.0.weight");
    let (hidden, head_norm, dim) = match (
        rows("projection_head.weight"),
        rows("projection_head.2.weight"),
    ) {
        (0, 0) => (hidden, true, rows("projection_head.3.weight")),
        (0, dim) => (hidden, false, dim),
        (dim, _) => (0, true, dim),
    };
    // Half a head is none: what there is of it will be left over.
    let head = NetworkConfig {
        backbone,
        hidden: if dim > 0 { hidden } else { 0 },
        head_norm,
        dim,
        prototypes: Vec::new(),
    };
    let listed = (0..).map(|i| rows(&format!("prototypes.prototypes{i}.weight")));
    let prototypes = match rows("prototypes.weight") {
        _ if dim == 0 => Vec::new(),
        0 => listed.take_while(|&count| count > 0).collect(),
        count => vec![count],
    };
    Ok(NetworkConfig { prototypes, ..head })
}

fn backbone(shapes: &Shapes) -> Result<BackboneConfig, String> {
    let Some(&[channels, ..]) = shapes.get("conv1.weight").map(Vec::as_slice) else {
        let names: Vec<_> = shapes.keys().take(3).map(String::as_str).collect();
        return Err(format!(
            "no `conv1.weight` is among its {} tensors ({}, …): these are no weights of a ResNet or ResNeXt under \
             torchvision's names",
            shapes.len(),
            names.join(", ")
        ));
    };
    let found: Shapes = shapes
        .iter()
        .filter(|(name, _)| is_backbone(name))
        .map(|(name, shape)| (name.clone(), shape.clone()))
        .collect();
    let candidates = Architecture::all().flat_map(|name| {
        [Stem::Imagenet, Stem::Cifar].map(|stem| {
            let unwidened = BackboneConfig {
                name,
                width: 1.0,
                stem,
            };
            let width = channels as f64 / unwidened.layout().stem.output as f64;
            BackboneConfig { width, ..unwidened }
        })
    });
    let compared = candidates.map(|config| (compare(&of_backbone(&config), &found), config));
    // Of those alike the first that goes by its own name: a ResNet-50 of double width is a resnet50w2.
    let nearest =
        compared.min_by_key(|(mismatch, config)| (differences(mismatch), config.width != 1.0));
    match nearest {
        Some((mismatch, config)) if differences(&mismatch) == 0 => Ok(config),
        Some((mismatch, config)) => Err(format!(
            "its tensors are those of no known backbone; nearest comes {}{mismatch}",
            config
        )),
        None => Err("no backbone is known".to_owned()),
    }
}

fn differences(mismatch: &Mismatch) -> usize {
    mismatch.missing.len() + mismatch.left_over.len() + mismatch.shapes.len()
}

/// Whether a tensor of this name would be one of a backbone.
pub(super) fn is_backbone(name: &str) -> bool {
    ["conv1.", "bn1.", "layer"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// Name and shape of every tensor of a backbone.
fn of_backbone(config: &BackboneConfig) -> Shapes {
    let layout = config.layout();
    let mut shapes = Shapes::new();
    put(&mut shapes, &layout.stem, "conv1", "bn1");
    for (stage, blocks) in layout.stages.iter().enumerate() {
        for (number, block) in blocks.iter().enumerate() {
            let name = format!("layer{}.{number}", stage + 1);
            for (i, conv) in (1..).zip(&block.convs) {
                put(
                    &mut shapes,
                    conv,
                    &format!("{name}.conv{i}"),
                    &format!("{name}.bn{i}"),
                );
            }
            if let Some(conv) = &block.downsample {
                put(
                    &mut shapes,
                    conv,
                    &format!("{name}.downsample.0"),
                    &format!("{name}.downsample.1"),
                );
            }
        }
    }
    shapes
}

/// A convolution and the batch norm behind it.
fn put(shapes: &mut Shapes, spec: &ConvSpec, conv: &str, norm: &str) {
    let weight = vec![
        spec.output,
        spec.input / spec.groups,
        spec.kernel,
        spec.kernel,
    ];
    shapes.insert(format!("{conv}.weight"), weight);
    for part in ["weight", "bias", "running_mean", "running_var"] {
        shapes.insert(format!("{norm}.{part}"), vec![spec.output]);
    }
}
