//! Where among the names of a file a network lies.
//!
//! Every training program puts something of its own in front of torchvision's names: `module.`, `_orig_mod.`,
//! `module.encoder_q.`, `backbone.`, `student.` … and checkpoints hold dictionaries in dictionaries. None of these is looked for
//! by its name. A backbone is wherever a `conv1.weight` and a `layer1.0.conv1.weight` have the same words in front, or a
//! `0.weight` and a `4.0.conv1.weight`, which is how a `Sequential` of the layers calls them.

use super::transfer::Shapes;

/// Words that tell of a copy which follows the network that is trained, or is followed.
const COPIES: &[&str] = &[
    "encoder_k",
    "momentum_backbone",
    "momentum_encoder",
    "backbone_momentum",
    "target_backbone",
    "target_encoder",
    "target_network",
    "model_ema",
    "state_dict_ema",
    "ema",
    // DINO's authors evaluate the teacher.
    "student",
];

/// A backbone in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// What stands in front of the names of its tensors.
    pub(super) front: String,
    /// Whether they go by their number in a `Sequential`.
    numbered: bool,
    /// What stands in front of those of its head and prototypes.
    pub(super) around: String,
}

impl Place {
    /// The backbones of a file, those that are copies of others last.
    pub(super) fn all(shapes: &Shapes) -> Vec<Self> {
        let found = |end: &str, first: &str, numbered: bool| {
            let fronts = shapes.keys().filter_map(|name| name.strip_suffix(end));
            let fronts = fronts.filter(|front| {
                let first = shapes.get(&format!("{front}{first}"));
                first.is_some_and(|shape| shape.len() == 4)
            });
            let places = fronts.map(|front| Self {
                front: front.to_owned(),
                numbered,
                around: around(front, shapes),
            });
            places.collect::<Vec<_>>()
        };
        let mut all = found("layer1.0.conv1.weight", "conv1.weight", false);
        all.extend(found("4.0.conv1.weight", "0.weight", true));
        all.sort_by_key(|place| (place.is_copy(), place.front.len()));
        all
    }

    /// Whether its name says that it follows another network, or is followed.
    pub(super) fn is_copy(&self) -> bool {
        let mut words = self.front.split('.');
        words.any(|word| COPIES.contains(&word))
    }

    /// Whether what stands in front is so common that nobody need be told.
    pub(super) fn is_plain(&self) -> bool {
        const PLAIN: [&str; 5] = ["", "module", "backbone", "state_dict", "model"];
        !self.numbered && self.front.split('.').all(|word| PLAIN.contains(&word))
    }

    /// The name of the first convolution.
    pub(super) fn first(&self) -> String {
        let first = if self.numbered { "0" } else { "conv1" };
        format!("{}{first}.weight", self.front)
    }

    /// Torchvision's name, or that of the SwAV authors for head and prototypes, of the tensor of this name in the file.
    pub(super) fn short(&self, name: &str) -> Option<String> {
        if let Some(rest) = name.strip_prefix(&self.around)
            && (rest.starts_with("projection_head.") || rest.starts_with("prototypes."))
        {
            return Some(rest.to_owned());
        }
        let rest = name.strip_prefix(&self.front)?;
        if !self.numbered {
            return Some(rest.to_owned());
        }
        let (number, rest) = rest.split_once('.')?;
        let layer = match number.parse().ok()? {
            0 => "conv1".to_owned(),
            1 => "bn1".to_owned(),
            stage @ 4..=7_usize => format!("layer{}", stage - 3),
            _ => return None,
        };
        Some(format!("{layer}.{rest}"))
    }
}

/// Head and prototypes lie beside the backbone's tensors, or beside the backbone.
fn around(front: &str, shapes: &Shapes) -> String {
    let parent = front
        .trim_end_matches('.')
        .rfind('.')
        .map_or(0, |at| at + 1);
    let has_head = |around: &&str| {
        let starts = [
            format!("{around}projection_head."),
            format!("{around}prototypes."),
        ];
        let mut names = shapes.keys();
        names.any(|name| starts.iter().any(|start| name.starts_with(start)))
    };
    let places = [front, &front[..parent]];
    places
        .into_iter()
        .find(has_head)
        .unwrap_or(front)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(fronts: &[&str]) -> Shapes {
        let mut shapes = Shapes::new();
        for front in fronts {
            for name in ["conv1.weight", "layer1.0.conv1.weight"] {
                shapes.insert(format!("{front}{name}"), vec![8, 3, 3, 3]);
            }
        }
        shapes
    }

    fn fronts(places: &[Place]) -> Vec<&str> {
        places.iter().map(|place| place.front.as_str()).collect()
    }

    #[test]
    fn whatever_stands_in_front_is_found_and_copies_come_last() {
        for front in [
            "",
            "_orig_mod.",
            "module._orig_mod.",
            "a.b.trunk._feature_blocks.",
        ] {
            assert_eq!(fronts(&Place::all(&shapes(&[front]))), [front]);
        }
        let moco = shapes(&["module.encoder_k.", "module.encoder_q."]);
        let places = Place::all(&moco);
        assert_eq!(fronts(&places), ["module.encoder_q.", "module.encoder_k."]);
        assert!(!places[0].is_copy() && places[1].is_copy());
        let dino = shapes(&["student.backbone.", "teacher.backbone."]);
        assert_eq!(Place::all(&dino)[0].front, "teacher.backbone.");
        assert!(Place::all(&Shapes::new()).is_empty());
    }

    #[test]
    fn a_sequence_of_layers_gets_their_names() {
        let mut shapes = Shapes::new();
        for name in ["backbone.0.weight", "backbone.4.0.conv1.weight"] {
            shapes.insert(name.to_owned(), vec![8, 3, 3, 3]);
        }
        let place = &Place::all(&shapes)[0];
        assert_eq!(place.first(), "backbone.0.weight");
        for (name, short) in [
            ("backbone.0.weight", Some("conv1.weight")),
            ("backbone.1.running_mean", Some("bn1.running_mean")),
            ("backbone.7.1.bn2.bias", Some("layer4.1.bn2.bias")),
            ("backbone.9.weight", None),
            ("fc.weight", None),
        ] {
            assert_eq!(place.short(name).as_deref(), short, "{name}");
        }
    }

    #[test]
    fn a_head_lies_beside_the_backbone_or_among_its_tensors() {
        for (front, head) in [("module.", "module."), ("module.backbone.", "module.")] {
            let mut shapes = shapes(&[front]);
            let name = format!("{head}projection_head.0.weight");
            shapes.insert(name.clone(), vec![4, 8]);
            let place = &Place::all(&shapes)[0];
            assert_eq!(place.around, head);
            assert_eq!(place.short(&name).unwrap(), "projection_head.0.weight");
        }
    }
}
