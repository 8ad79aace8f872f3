//! Between which bounds the numbers of a recipe lie, all in one place.
//!
//! The bounds are far beyond what anyone trains with. They are there so that whatever a plan is derived from can be
//! multiplied, counted and written down; what then is too large for a machine, the plan's memory says, and what makes no
//! sense for the images or the method at hand, the checks of the plan do: they know what a number is for.

use toml::Value;

use super::Recipe;

/// Each number of a recipe: its name, without the index of a list, the least and the largest value.
const BOUNDS: &[(&str, f64, f64)] = &[
    ("data.workers", 0.0, 4096.0),
    ("data.prefetch", 0.0, 65_536.0),
    ("data.corrupt_budget", 0.0, 1.0),
    ("data.max_pixels", 1.0, 1e12),
    ("crops.count", 1.0, 1024.0),
    ("crops.size", 1.0, 16_384.0),
    ("crops.scale", 0.0, 1.0),
    ("augment.flip", 0.0, 1.0),
    ("augment.grey", 0.0, 1.0),
    ("augment.jitter.probability", 0.0, 1.0),
    ("augment.jitter.brightness", 0.0, 1e6),
    ("augment.jitter.contrast", 0.0, 1e6),
    ("augment.jitter.saturation", 0.0, 1e6),
    ("augment.jitter.hue", 0.0, 0.5),
    ("augment.blur.probability", 0.0, 1.0),
    ("augment.blur.sigma", 0.0, 1e3),
    ("model.width", 0.0, 16.0),
    ("model.hidden", 0.0, 1e6),
    ("model.dim", 0.0, 1e6),
    ("model.prototypes", 0.0, 1e9),
    ("model.sync_bn", 1.0, 1e6),
    ("method.temperature", 0.0, 1e6),
    ("method.epsilon", 0.0, 1e6),
    ("method.iterations", 0.0, 1e6),
    ("method.assign", 0.0, 1e6),
    ("method.queue.length", 0.0, 1e12),
    ("method.momentum", 0.0, 1.0),
    ("method.key_groups", 0.0, 1e6),
    ("method.smoothing", 0.0, 1.0),
    ("optimizer.lr", -1e38, 1e38),
    ("optimizer.final_lr", -1e38, 1e38),
    ("optimizer.start_lr", -1e38, 1e38),
    ("optimizer.momentum", 0.0, 1.0),
    ("optimizer.weight_decay", 0.0, 1e3),
    ("train.epochs", 0.0, 1e9),
    ("train.batch_size", 0.0, 1e9),
    ("train.accumulate", 0.0, 1e9),
    ("train.seed", 0.0, i64::MAX as f64),
    ("train.keep", 0.0, 1e9),
    ("evaluation.size", 1.0, 16_384.0),
];

/// The numbers of `recipe` that lie outside of their bounds, or are no finite numbers.
pub(crate) fn problems(recipe: &Recipe) -> Vec<String> {
    let mut problems = Vec::new();
    match Value::try_from(recipe) {
        Ok(recipe) => visit("", &recipe, &mut |name, number, value| {
            let known = without_index(name);
            let found = BOUNDS.iter().find(|(name, ..)| *name == known);
            let &(_, least, most) = found.unwrap_or(&("", f64::MIN, f64::MAX));
            if !(least..=most).contains(&number) {
                problems.push(format!("{name} = {value} must lie in [{least}, {most}]"));
            }
        }),
        Err(error) => problems.push(format!(
            "the recipe has a number that is too large: {error}"
        )),
    }
    problems
}

/// `crops[0].size` as `crops.size`.
fn without_index(name: &str) -> String {
    match (name.find('['), name.find(']')) {
        (Some(from), Some(to)) => format!("{}{}", &name[..from], &name[to + 1..]),
        _ => name.to_string(),
    }
}

/// Calls `seen` with the name and the value of each number in `value`, which is called `name`.
fn visit(name: &str, value: &Value, seen: &mut impl FnMut(&str, f64, &Value)) {
    match value {
        Value::Integer(number) => seen(name, *number as f64, value),
        Value::Float(number) => seen(name, *number, value),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                match item {
                    Value::Table(_) => visit(&format!("{name}[{i}]"), item, seen),
                    _ => visit(name, item, seen),
                }
            }
        }
        Value::Table(fields) => {
            for (field, value) in fields {
                match name {
                    "" => visit(field, value, seen),
                    _ => visit(&format!("{name}.{field}"), value, seen),
                }
            }
        }
        Value::String(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SyncBn;
    use crate::method::MethodName;
    use swav_data::CropSpec;

    /// A recipe with every number given, with the fields of a method.
    fn full(method: &str) -> Recipe {
        let mut recipe = Recipe::default();
        let data = &mut recipe.data;
        (data.workers, data.prefetch) = (Some(1), Some(1));
        (data.corrupt_budget, data.max_pixels) = (Some(0.5), Some(1));
        recipe.crops.push(CropSpec {
            count: 2,
            size: 32,
            scale: [0.1, 1.0],
        });
        let model = &mut recipe.model;
        (model.width, model.hidden, model.dim) = (Some(1.0), Some(1), Some(1));
        model.prototypes = Some(vec![1]);
        model.sync_bn = Some(SyncBn::Groups(1));
        recipe.method = toml::from_str(method).unwrap();
        let optimizer = &mut recipe.optimizer;
        (optimizer.lr, optimizer.final_lr) = (Some(0.1), Some(0.1));
        (optimizer.start_lr, optimizer.momentum) = (Some(0.1), Some(0.1));
        optimizer.weight_decay = Some(0.1);
        let train = &mut recipe.train;
        (train.epochs, train.batch_size) = (Some(1), Some(1));
        (train.accumulate, train.seed, train.keep) = (Some(1), Some(1), Some(1));
        recipe.evaluation.size = Some(32);
        recipe
    }

    /// The fields of each method, all that there are.
    const METHODS: [&str; 7] = [
        "name = 'swav'\ntemperature = 0.1\nepsilon = 0.1\niterations = 3\nassign = [0]\nfreeze = '1 step'\n\
         queue = { length = 1, start = '1 step' }",
        "name = 'deepcluster-v2'\ntemperature = 0.1\niterations = 3",
        "name = 'sela-v2'\ntemperature = 0.1\nepsilon = 0.1\niterations = 3\nlabels = 'soft'\nfreeze = '1 step'",
        "name = 'simclr'\ntemperature = 0.1",
        "name = 'moco-v2'\ntemperature = 0.1\nmomentum = 0.5\nqueue = { length = 1, start = '1 step' }\n\
         key_groups = 1",
        "name = 'supervised'\nsmoothing = 0.1",
        "name = 'random'",
    ];

    #[test]
    fn every_number_has_bounds_and_every_bound_a_number() {
        let mut names = std::collections::BTreeSet::new();
        for method in METHODS {
            let recipe = Value::try_from(full(method)).unwrap();
            visit("", &recipe, &mut |name, _, _| {
                names.insert(without_index(name));
            });
            assert_eq!(problems(&full(method)), Vec::<String>::new());
        }
        let known = BOUNDS.iter().map(|(name, ..)| name.to_string()).collect();
        assert_eq!(names, known);
    }

    /// Written out, so that a field which is added cannot be forgotten.
    #[test]
    fn the_full_recipes_leave_no_number_out() {
        let Recipe {
            data,
            model,
            method: _,
            optimizer,
            train,
            evaluation,
            crops: _,
            augment: _,
        } = full(METHODS[0]);
        let text = format!("{data:?}{model:?}{optimizer:?}{train:?}{evaluation:?}");
        let left_out: Vec<_> = text.matches(": None").collect();
        // path, test, format, labels; init, backbone, stem, head_norm; name, warmup, exclude_bias_and_norm; precision,
        // checkpoint_activations, checkpoint, log, knn, on_collapse, tensorboard.
        assert_eq!(left_out.len(), 18, "{text}");
        let methods = METHODS.map(|method| full(method).method);
        assert_eq!(methods.len(), MethodName::ALL.len());
        for method in methods {
            assert!(!format!("{method:?}").contains("None"), "{method:?}");
        }
    }

    #[test]
    fn what_is_no_number_or_absurd_is_refused_with_its_name() {
        for (field, value) in [
            ("method.epsilon", "inf"),
            ("method.epsilon", "nan"),
            ("optimizer.weight_decay", "inf"),
            ("model.hidden", "1000000000000"),
            ("model.dim", "1000000000000"),
            ("crops.0.scale", "[-inf, 1.0]"),
            ("augment.jitter.brightness", "1e38"),
        ] {
            let recipe = full(METHODS[0]).set(&format!("{field}={value}")).unwrap();
            let problems = problems(&recipe);
            let name = field.replace(".0", "[0]");
            assert!(
                problems.len() == 1 && problems[0].starts_with(&name),
                "{field}={value}: {problems:?}"
            );
        }
    }
}
