//! Any value in any field of a recipe: it is refused by the field's name, or becomes a plan that can be written, read and run.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use proptest::prelude::*;
use swav_train::comm::Local;
use swav_train::method::MethodRecipe;
use swav_train::observe::{self, Event, Observer, Watched};
use swav_train::precision::Bf16;
use swav_train::{Facts, Parts, Plan, Recipe, RunDirectory, Stop, TrainError, Trainer, data};

/// A network and a set that take milliseconds a step.
const TINY: &str = r#"
[data]
path = "builtin:quickstart/test"
[[crops]]
count = 2
size = 32
scale = [0.3, 1.0]
[model]
backbone = "resnet18"
width = 0.0625
stem = "imagenet"
hidden = 16
dim = 8
prototypes = [8]
[method]
freeze = "never"
[train]
batch_size = 8
epochs = 2
knn = "never"
"#;

const FIELDS: &[&str] = &[
    "data.workers",
    "data.prefetch",
    "data.corrupt_budget",
    "data.max_pixels",
    "crops",
    "crops.0.count",
    "crops.0.size",
    "crops.0.scale",
    "augment.grey",
    "augment.flip",
    "augment.jitter.probability",
    "augment.jitter.brightness",
    "augment.jitter.contrast",
    "augment.jitter.saturation",
    "augment.jitter.hue",
    "augment.blur.probability",
    "augment.blur.sigma",
    "model.backbone",
    "model.width",
    "model.stem",
    "model.hidden",
    "model.head_norm",
    "model.sync_bn",
    "model.dim",
    "model.prototypes",
    "method.name",
    "method.temperature",
    "method.epsilon",
    "method.iterations",
    "method.assign",
    "method.freeze",
    "method.queue",
    "method.queue.length",
    "method.queue.start",
    "method.labels",
    "method.momentum",
    "method.key_groups",
    "method.smoothing",
    "optimizer.name",
    "optimizer.lr",
    "optimizer.final_lr",
    "optimizer.warmup",
    "optimizer.start_lr",
    "optimizer.momentum",
    "optimizer.weight_decay",
    "optimizer.exclude_bias_and_norm",
    "train.epochs",
    "train.batch_size",
    "train.accumulate",
    "train.precision",
    "train.checkpoint_activations",
    "train.seed",
    "train.checkpoint",
    "train.keep",
    "train.log",
    "train.knn",
    "train.on_collapse",
    "train.tensorboard",
    "evaluation.size",
];

/// Methods whose fields and prototypes differ.
const METHODS: &[&[&str]] = &[
    &[],
    &["method.name=deepcluster-v2"],
    &["method.name=sela-v2"],
    &["method.name=simclr"],
    &["method.name=moco-v2"],
    &["method.name=supervised"],
    &["method.name=random"],
];

/// A value as it stands in a recipe.
fn value() -> impl Strategy<Value = String> {
    let integer = prop_oneof![
        4 => (-3i64..70).prop_map(|n| n.to_string()),
        1 => any::<i64>().prop_map(|n| n.to_string()),
        1 => (0u32..64).prop_map(|bits| (1i128 << bits).to_string()),
    ];
    let float = prop_oneof![
        4 => (-0.5f64..2.0).prop_map(|x| format!("{x:?}")),
        2 => any::<f64>().prop_map(|x| format!("{x:?}")),
        1 => Just("nan".to_string()),
        1 => Just("inf".to_string()),
        1 => Just("-inf".to_string()),
        1 => (-320i32..308).prop_map(|e| format!("1.0e{e}")),
    ];
    let span = (
        0u64..50,
        prop_oneof![Just("steps"), Just("epochs"), Just("weeks")],
    );
    let span = prop_oneof![
        4 => span.prop_map(|(n, unit)| format!("\"{n} {unit}\"")),
        1 => (-10i32..300).prop_map(|e| format!("\"1e{e} epochs\"")),
        1 => any::<u64>().prop_map(|n| format!("\"{n} steps\"")),
        1 => Just("\"always\"".to_string()),
        1 => Just("\"never\"".to_string()),
    ];
    let word = prop_oneof![
        Just("\"resnet18\""),
        Just("\"cifar\""),
        Just("\"adam\""),
        Just("\"larc\""),
        Just("\"soft\""),
        Just("\"warn\""),
        Just("\"f32\""),
        Just("\"\""),
        Just("true"),
        Just("{}"),
        Just("{ length = 16, start = \"1 step\" }"),
        Just("{ length = 9223372036854775807 }"),
        Just("{ count = 2 }"),
        Just("1979-05-27"),
    ]
    .prop_map(str::to_string);
    let number = prop_oneof![integer.clone(), float.clone()];
    let list =
        prop::collection::vec(number, 0..4).prop_map(|items| format!("[{}]", items.join(",")));
    prop_oneof![3 => integer, 3 => float, 1 => span, 1 => word, 2 => list]
}

/// Ends a run after some steps.
struct Until(usize);

impl Observer for Until {
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError> {
        if let Event::Step(_) = event {
            self.0 = self.0.saturating_sub(1);
        }
        if self.0 == 0 {
            run.stop.request();
        }
        Ok(())
    }
}

/// Trains two steps. What ends it may be anything that a user is told of.
fn run(recipe: &Recipe, plan: &Plan) -> Result<(), TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    let run = RunDirectory::create(&directory.path().join("run")).unwrap();
    let source = data::open(Path::new("builtin:quickstart/test"), plan.data.format).unwrap();
    let mut observers = observe::standard();
    observers.push(Box::new(Until(2)));
    let parts = Parts {
        source,
        device: Device::flex(),
        ranks: Box::new(Local),
        stop: Stop::default(),
        observers,
    };
    let trained =
        Trainer::start(recipe.clone(), plan.clone(), run.clone(), parts).and_then(Trainer::run);
    match trained {
        Ok(_) => {}
        // A loss that is no number, or codes that collapse, are what such settings may lead to.
        Err(TrainError::Stopped(_)) => {}
        // The images of the set have more.
        Err(TrainError::Data(_)) if plan.data.max_pixels < 72 * 72 => {}
        Err(error) => return Err(TestCaseError::fail(format!("two steps: {error}"))),
    }
    let read = Plan::load(&run.plan()).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert_eq!(&without_notes(plan), &read);
    let again = Recipe::from_file(&run.recipe()).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert_eq!(recipe, &again);
    Ok(())
}

fn without_notes(plan: &Plan) -> Plan {
    Plan {
        notes: Vec::new(),
        ..plan.clone()
    }
}

#[test]
fn any_value_of_any_field_is_refused_by_name_or_makes_a_plan_that_runs() {
    let source = data::open(Path::new("builtin:quickstart/test"), Default::default()).unwrap();
    let facts = Facts::look(source.as_ref(), false, Bf16::Smaller, Some(1 << 30), 1).unwrap();
    let tiny = Recipe::from_toml(TINY, "tiny").unwrap();
    let (planned, trained) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let cases = std::env::var("SWAV_TEST_CASES").ok();
    let cases = cases.and_then(|cases| cases.parse().ok()).unwrap_or(1000);
    let case = (0..FIELDS.len(), 0..METHODS.len(), value());
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |((field, method, value) in case)| {
        let field = FIELDS[field];
        let mut recipe = tiny.clone();
        if method > 0 {
            recipe.model.prototypes = None;
            recipe.method = MethodRecipe::default();
        }
        if METHODS[method] == ["method.name=supervised"] {
            (recipe.model.hidden, recipe.model.dim) = (None, None);
        }
        if METHODS[method] == ["method.name=random"] {
            recipe.train.epochs = None;
        }
        for setting in METHODS[method] {
            recipe = recipe.set(setting).unwrap();
        }
        let assignment = format!("{field}={value}");
        let name = field.replace(".0", "[0]");
        let planned_as = recipe.set(&assignment).and_then(|recipe| {
            Ok((Plan::derive(&recipe, &facts)?, recipe))
        });
        match planned_as {
            Err(error) => {
                prop_assert_eq!(error.exit_code(), 2);
                let told = error.to_string();
                // A field may be refused for another that it no longer goes with: then that one is named.
                let parts = [field, &name, field.split('.').next().unwrap()];
                prop_assert!(parts.iter().any(|part| told.contains(part)), "{}: {}", assignment, told);
            }
            Ok((plan, recipe)) => {
                planned.fetch_add(1, Ordering::Relaxed);
                let text = toml::to_string(&plan).map_err(|e| TestCaseError::fail(format!("{assignment}: {e}")))?;
                let read: Plan = toml::from_str(&text).map_err(|e| TestCaseError::fail(format!("{assignment}: {e}")))?;
                prop_assert_eq!(&without_notes(&plan), &read, "{}", assignment);
                if plan.macs_per_step() < 200_000_000 && plan.data.workers < 64 && plan.data.prefetch < 64 {
                    trained.fetch_add(1, Ordering::Relaxed);
                    run(&recipe, &plan).map_err(|e| TestCaseError::fail(format!("{assignment}: {e}")))?;
                }
            }
        }
    });
    let (planned, trained) = (planned.into_inner(), trained.into_inner());
    println!("{cases} cases, {planned} plans, {trained} runs of two steps");
    assert!(
        planned > cases as usize / 25 && trained > cases as usize / 50,
        "{planned}, {trained}"
    );
}

/// A field that is added and forgotten here would not be tried.
#[test]
fn all_fields_of_a_recipe_are_tried() {
    let of_section = ["data", "model", "optimizer", "train", "evaluation"]
        .map(|section| (section, Recipe::default()));
    let of_method = METHODS.iter().map(|settings| {
        let of_method = settings
            .iter()
            .try_fold(Recipe::default(), |recipe, s| recipe.set(s));
        ("method", of_method.unwrap())
    });
    for (section, recipe) in of_section.into_iter().chain(of_method) {
        let error = recipe.set(&format!("{section}.no_such_field=1"));
        let told = error.unwrap_err().to_string();
        let Some((_, known)) = told.split_once("expected") else {
            assert!(told.contains("there are no fields"), "{told}");
            continue;
        };
        let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        for name in known.iter().filter(|&&name| name != section) {
            let field = format!("{section}.{name}");
            let by_path = [
                "data.path",
                "data.test",
                "data.format",
                "data.labels",
                "model.init",
            ];
            assert!(
                FIELDS.contains(&field.as_str()) || by_path.contains(&field.as_str()),
                "{field}"
            );
        }
    }
}
