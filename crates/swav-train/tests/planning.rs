//! From recipes and facts to plans: what is derived, and what is refused.

use swav_train::method::{MethodName, SwavPlan};
use swav_train::optim::OptimizerName;
use swav_train::precision::{Bf16, Precision};
use swav_train::{Facts, Plan, Recipe, TrainError};

const CIFAR: Facts = Facts {
    images: 50_000,
    classes: 10,
    single_labels: true,
    side: 32,
    accelerated: false,
    bf16: Bf16::Smaller,
    memory: None,
    ranks: 1,
    digest: None,
};
const IMAGENET: Facts = Facts {
    images: 1_281_167,
    classes: 1000,
    single_labels: true,
    side: 375,
    accelerated: true,
    bf16: Bf16::Faster,
    memory: None,
    ranks: 1,
    digest: None,
};
const FOLDER: Facts = Facts {
    images: 1300,
    classes: 0,
    single_labels: false,
    side: 600,
    accelerated: false,
    bf16: Bf16::Smaller,
    memory: None,
    ranks: 1,
    digest: None,
};

fn plan(settings: &[&str], facts: &Facts) -> Result<Plan, TrainError> {
    let mut recipe = Recipe::default().set("data.path=photos")?;
    for setting in settings {
        recipe = recipe.set(setting)?;
    }
    Plan::derive(&recipe, facts)
}

fn swav(plan: &Plan) -> &SwavPlan {
    plan.method.swav().unwrap()
}

fn refusal(settings: &[&str], facts: &Facts) -> String {
    let error = plan(settings, facts).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

#[test]
fn without_a_recipe_everything_is_derived_and_every_derivation_has_a_reason() {
    for facts in [CIFAR, IMAGENET, FOLDER] {
        let plan = plan(&[], &facts).unwrap();
        assert!(plan.notes.iter().all(|note| !note.why.is_empty()));
        assert!(plan.train.steps >= 3000);
        assert!(plan.memory().total() > 0 && plan.macs_per_step() > 0);
    }
}

#[test]
fn large_sets_on_a_gpu_get_the_paper_s_settings() {
    let plan = plan(&["train.batch_size=4096", "train.epochs=400"], &IMAGENET).unwrap();
    assert_eq!(plan.optimizer.name, OptimizerName::Larc);
    assert_eq!(plan.optimizer.schedule.base, 4.8);
    assert_eq!(plan.optimizer.schedule.warmup, 10 * 312);
    assert_eq!(plan.model.prototypes, [3000]);
    assert_eq!(swav(&plan).queue, None);
    let crops: Vec<_> = plan.crops.iter().map(|c| (c.count, c.size)).collect();
    assert_eq!(crops, [(2, 224), (6, 96)]);
}

#[test]
fn the_learning_rate_follows_the_batch() {
    let rate = |batch: &str, name: &str| {
        let plan = plan(&[batch, name], &IMAGENET).unwrap();
        plan.optimizer.schedule.base
    };
    assert_eq!(rate("train.batch_size=256", "optimizer.name=larc"), 0.6);
    assert_eq!(rate("train.batch_size=128", "optimizer.name=larc"), 0.3);
    assert_eq!(rate("train.batch_size=256", "optimizer.name=adam"), 0.002);
}

#[test]
fn a_folder_of_1300_pictures_gets_settings_of_its_own_size() {
    let plan = plan(&[], &FOLDER).unwrap();
    assert_eq!(plan.train.batch_size, 64);
    assert_eq!(plan.model.prototypes, [96]);
    assert_eq!(swav(&plan).freeze_steps, plan.train.steps_per_epoch);
    assert_eq!(swav(&plan).queue, None);
}

#[test]
fn a_queue_is_derived_where_prototypes_are_many_times_the_batch() {
    let queue = |prototypes: &str| swav(&plan(&[prototypes], &FOLDER).unwrap()).queue;
    assert_eq!(queue("model.prototypes=[256]"), None);
    let queue = queue("model.prototypes=[300]").unwrap();
    assert!(queue.length + 64 >= 300 && queue.length.is_multiple_of(64) && queue.length <= 650);
}

#[test]
fn a_run_too_short_for_a_queue_goes_without_one() {
    let plan = plan(&["train.epochs=1", "model.prototypes=[300]"], &FOLDER).unwrap();
    assert_eq!(swav(&plan).queue, None);
    let note = |note: &&swav_train::Note| note.field == "method.queue.length";
    assert!(plan.notes.iter().find(note).unwrap().why.contains("over"));
}

#[test]
fn a_queue_is_rounded_down_to_whole_batches() {
    let settings = [
        "train.batch_size=256",
        "method.queue={length=4000, start=\"15 epochs\"}",
    ];
    let plan = plan(&settings, &IMAGENET).unwrap();
    let queue = swav(&plan).queue.unwrap();
    assert_eq!(queue.length, 3840);
    assert_eq!(queue.start_step, 15 * 5004);
    let text = refusal(&["train.batch_size=256", "method.queue.length=200"], &CIFAR);
    assert!(text.contains("method.queue.length = 200"), "{text}");
}

#[test]
fn what_cannot_work_is_refused_with_the_field_and_the_reason() {
    for (settings, wanted) in [
        (&["train.batch_size=1"][..], "at least two"),
        (&["train.batch_size=0"], "train.batch_size = 0"),
        (&["train.batch_size=60000"], "more than the 50000 images"),
        (
            &["train.batch_size=100", "train.accumulate=3"],
            "no multiple",
        ),
        (
            &["train.batch_size=4", "train.accumulate=4"],
            "at least two",
        ),
        (&["train.epochs=0"], "train.epochs = 0"),
        (&["train.keep=0"], "train.keep = 0"),
        (&["model.prototypes=[60000]"], "more than the 50000 images"),
        (&["model.prototypes=[1]"], "at least two"),
        (&["model.prototypes=[]"], "model.prototypes"),
        (
            &[
                "train.batch_size=16",
                "model.prototypes=[3000]",
                "method.queue.length=0",
            ],
            "cannot be filled",
        ),
        (
            &["method.queue.length=60000"],
            "longer than the 50000 images",
        ),
        (
            &["method.queue={length=2560, start=\"5000 epochs\"}"],
            "never be used",
        ),
        (&["method.temperature=0.0"], "method.temperature"),
        (&["method.epsilon=0.0001"], "method.epsilon"),
        (&["method.iterations=0"], "method.iterations"),
        (&["method.assign=[0, 7]"], "crop 7"),
        (&["method.assign=[]"], "method.assign"),
        (&["method.name=byol"], "byol"),
        (&["optimizer.lr=-1.0"], "optimizer.lr"),
        (&["optimizer.momentum=1.5"], "optimizer.momentum"),
        (&["optimizer.weight_decay=-0.1"], "optimizer.weight_decay"),
        (&["optimizer.warmup=1000 epochs"], "optimizer.warmup"),
        (&["model.width=0.0"], "model.width"),
        (&["model.backbone=resnet19"], "resnet18"),
        (&["data.corrupt_budget=2.0"], "data.corrupt_budget"),
        (
            &["crops=[{count=1, size=32, scale=[0.1, 1.0]}]"],
            "at least two",
        ),
        (
            &["crops=[{count=2, size=32, scale=[1.0, 0.1]}]"],
            "crops[0]",
        ),
    ] {
        let text = refusal(settings, &CIFAR);
        assert!(text.contains(wanted), "{settings:?}: {text}");
    }
}

#[test]
fn several_problems_are_told_at_once() {
    let text = refusal(&["train.keep=0", "method.epsilon=0.0001"], &CIFAR);
    assert!(
        text.contains("train.keep") && text.contains("method.epsilon"),
        "{text}"
    );
}

#[test]
fn a_plan_reads_back_what_it_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plan.toml");
    for facts in [CIFAR, IMAGENET, FOLDER] {
        let mut plan = plan(&["data.test=held-out"], &facts).unwrap();
        plan.save(&path).unwrap();
        plan.notes.clear();
        assert_eq!(Plan::load(&path).unwrap(), plan);
    }
    std::fs::write(&path, "version = 1\n").unwrap();
    let error = Plan::load(&path).unwrap_err().to_string();
    assert!(error.contains("version 1"), "{error}");
}

/// A plan of a method on CIFAR-10.
fn of(method: &str, settings: &[&str]) -> Result<Plan, TrainError> {
    let name = format!("method.name={method}");
    let settings: Vec<&str> = std::iter::once(name.as_str())
        .chain(settings.iter().copied())
        .collect();
    plan(&settings, &CIFAR)
}

#[test]
fn every_method_can_be_planned_without_a_recipe() {
    for method in MethodName::ALL {
        let plan = of(method.as_str(), &[]).unwrap();
        assert_eq!(plan.method.name(), *method);
        assert_eq!(
            plan.train.steps == 0,
            *method == MethodName::Random,
            "{method}"
        );
    }
    let heads = |method| of(method, &[]).unwrap().model.prototypes.len();
    assert_eq!(
        ["swav", "deepcluster-v2", "sela-v2", "simclr"].map(heads),
        [1, 3, 3, 0]
    );
    let classifier = of("supervised", &[]).unwrap().model;
    assert_eq!((classifier.hidden, classifier.dim), (0, 10));
}

#[test]
fn a_plan_of_every_method_reads_back_what_it_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plan.toml");
    for method in MethodName::ALL {
        let mut plan = of(method.as_str(), &[]).unwrap();
        plan.save(&path).unwrap();
        plan.notes.clear();
        assert_eq!(Plan::load(&path).unwrap(), plan, "{method}");
    }
}

#[test]
fn what_cannot_work_for_a_method_is_refused_with_the_reason() {
    for (method, settings, wanted) in [
        (
            "simclr",
            &["method.epsilon=0.05"][..],
            "[method] of simclr: unknown field `epsilon`",
        ),
        (
            "simclr",
            &["model.prototypes=[10]"],
            "simclr has no prototypes",
        ),
        (
            "simclr",
            &["crops=[{count=1, size=32, scale=[0.1, 1.0]}]"],
            "at least two",
        ),
        (
            "moco-v2",
            &["method.momentum=1.5"],
            "method.momentum = 1.5 must lie in [0, 1]",
        ),
        (
            "moco-v2",
            &["method.momentum=-0.1"],
            "method.momentum = -0.1",
        ),
        (
            "moco-v2",
            &["method.queue.length=65536"],
            "longer than the 50000 images",
        ),
        (
            "moco-v2",
            &["method.queue.length=10"],
            "shorter than a batch",
        ),
        (
            "moco-v2",
            &["method.key_groups=200"],
            "method.key_groups = 200",
        ),
        (
            "moco-v2",
            &["method.queue.start=1 epochs"],
            "method.queue.start",
        ),
        ("supervised", &["method.smoothing=1.0"], "method.smoothing"),
        ("supervised", &["model.dim=12"], "classifier of 10 classes"),
        (
            "deepcluster-v2",
            &["model.prototypes=[60000]"],
            "more than the 50000 images",
        ),
        (
            "deepcluster-v2",
            &["train.batch_size=30000", "model.prototypes=[40000]"],
            "whole batches of an epoch",
        ),
        (
            "deepcluster-v2",
            &["method.iterations=0"],
            "method.iterations",
        ),
        (
            "sela-v2",
            &["model.prototypes=[60000]"],
            "more than the 50000 images",
        ),
        ("sela-v2", &["method.labels=fuzzy"], "fuzzy"),
        ("sela-v2", &["model.prototypes=[]"], "model.prototypes"),
        ("random", &["train.epochs=2"], "train.epochs = 2"),
    ] {
        let error = of(method, settings).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(
            error.to_string().contains(wanted),
            "{method} {settings:?}: {error}"
        );
    }
    let unlabelled = refusal(&["method.name=supervised"], &FOLDER);
    assert!(unlabelled.contains("no labels"), "{unlabelled}");
}

#[test]
fn a_problem_that_several_heads_share_is_told_once() {
    let text = of("deepcluster-v2", &["model.prototypes=[1, 1, 1]"]).unwrap_err();
    assert_eq!(
        text.to_string().matches("at least two").count(),
        1,
        "{text}"
    );
}

/// Facts of a device with so many GiB.
fn with_memory(facts: &Facts, gib: u64) -> Facts {
    Facts {
        memory: Some(gib << 30),
        ranks: 1,
        ..facts.clone()
    }
}

#[test]
fn a_batch_that_does_not_fit_is_learned_from_in_as_few_parts_as_do() {
    let settings = [
        "model.backbone=resnet50",
        "train.batch_size=256",
        "data.prefetch=1",
        "train.precision=f32",
    ];
    let whole = plan(&settings, &IMAGENET).unwrap();
    assert_eq!(whole.train.accumulate, 1);
    let gib = |plan: &Plan| plan.memory().total() as f64 / f64::from(1 << 30);
    assert!(gib(&whole) > 60.0, "{}", gib(&whole));

    let parted = plan(&settings, &with_memory(&IMAGENET, 24)).unwrap();
    let parts = parted.train.accumulate;
    assert!(parts > 1 && gib(&parted) <= 24.0);
    let fewer = format!("train.accumulate={}", parts / 2);
    let refused = plan(
        &[&settings[..], &[&fewer]].concat(),
        &with_memory(&IMAGENET, 24),
    );
    let told = refused.unwrap_err().to_string();
    for part in ["there are 24.0 GiB", "train.batch_size", "train.accumulate"] {
        assert!(told.contains(part), "{told}");
    }
    let note = parted
        .notes
        .iter()
        .find(|note| note.field == "train.accumulate");
    assert!(note.unwrap().why.contains("at a time"));
}

#[test]
fn what_fits_in_no_parts_is_refused() {
    let settings = ["model.backbone=resnet50w4", "train.batch_size=64"];
    let told = plan(&settings, &with_memory(&IMAGENET, 4))
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("for weights, gradients and moments"),
        "{told}"
    );
}

#[test]
fn the_parts_of_the_memory_follow_what_they_are_made_of() {
    let of = |settings: &[&str]| plan(settings, &FOLDER).unwrap().memory();
    let base = of(&["train.batch_size=32", "optimizer.name=larc"]);
    let double = of(&["train.batch_size=64", "optimizer.name=larc"]);
    assert_eq!(double.activations, 2 * base.activations);
    assert_eq!(double.weights, base.weights);
    let adam = of(&["train.batch_size=32", "optimizer.name=adam"]);
    assert_eq!(adam.weights * 3, base.weights * 4);
    let parted = of(&[
        "train.batch_size=32",
        "optimizer.name=larc",
        "train.accumulate=4",
    ]);
    assert_eq!(parted.activations * 4, base.activations);
    assert_eq!(parted.host, base.host);
}

#[test]
fn maps_are_of_bf16_where_the_device_is_faster_with_them_and_where_that_is_asked_for() {
    let derived = |bf16, settings: &[&str]| {
        let facts = Facts { bf16, ..CIFAR };
        let plan = plan(settings, &facts).unwrap();
        let why = plan
            .notes
            .iter()
            .find(|note| note.field == "train.precision");
        (plan.train.precision, why.map(|note| note.why.clone()))
    };
    for (bf16, precision, why) in [
        (Bf16::Faster, Precision::Bf16, "faster"),
        (Bf16::Smaller, Precision::F32, "halve the memory"),
        (Bf16::Missing, Precision::F32, "no bf16"),
    ] {
        let (found, note) = derived(bf16, &[]);
        assert_eq!(found, precision);
        assert!(note.unwrap().contains(why));
        let asked = derived(bf16, &["train.precision=f32"]);
        assert_eq!(asked, (Precision::F32, None));
    }
    let asked = derived(Bf16::Smaller, &["train.precision=bf16"]);
    assert_eq!(asked, (Precision::Bf16, None));
    let missing = Facts {
        bf16: Bf16::Missing,
        ..CIFAR
    };
    let refused = refusal(&["train.precision=bf16"], &missing);
    assert!(refused.contains("train.precision = bf16: the device has no bf16; take f32"));
}

#[test]
fn activations_that_are_computed_once_more_take_less_memory_and_a_third_more_computation() {
    let resnet50 = "model.backbone=resnet50";
    for facts in [FOLDER, IMAGENET] {
        let kept = plan(&[resnet50], &facts).unwrap();
        let settings = [resnet50, "train.checkpoint_activations=true"];
        let checkpointed = plan(&settings, &facts).unwrap();
        let activations = |plan: &Plan| plan.memory().activations as f64;
        let ratio = activations(&checkpointed) / activations(&kept);
        assert!((0.2..0.6).contains(&ratio), "{ratio}");
        assert_eq!(
            (checkpointed.memory().weights, checkpointed.memory().host),
            (kept.memory().weights, kept.memory().host)
        );
        assert_eq!(3 * checkpointed.macs_per_step(), 4 * kept.macs_per_step());
    }
}

#[test]
fn computing_activations_once_more_is_the_first_remedy_where_it_helps() {
    let batch = ["model.backbone=resnet50", "train.batch_size=128"];
    let checkpointed = plan(
        &[&batch[..], &["train.checkpoint_activations=true"]].concat(),
        &IMAGENET,
    );
    let total = checkpointed.unwrap().memory().total();
    let takes = format!("about {}", swav_train::readable_bytes(total));
    let fits = (total >> 30) + 1;
    let told = |settings: &[&str], gib| {
        let settings = [&batch[..], settings].concat();
        refusal(&settings, &with_memory(&IMAGENET, gib))
    };
    let remedy = "train.checkpoint_activations = true";

    let refused = told(&["train.accumulate=1"], fits);
    let place = |part: &str| refused.find(part).unwrap_or_else(|| panic!("{refused}"));
    assert!(place(remedy) < place("lower train.batch_size"), "{refused}");
    assert!(place(remedy) < place(&takes), "{refused}");
    assert!(refused.contains("a third more computation"), "{refused}");

    // Where it would not fit either, or has been set.
    let refused = told(&["train.accumulate=1"], fits - 2);
    assert!(!refused.contains(remedy), "{refused}");
    let set = ["train.accumulate=1", "train.checkpoint_activations=true"];
    let refused = told(&set, fits - 2);
    assert!(!refused.contains(remedy), "{refused}");
    assert!(refused.contains("Lower train.batch_size"), "{refused}");

    // Where parts are derived, which change what batch norm sees, their reason says so.
    let parted = plan(&batch, &with_memory(&IMAGENET, fits)).unwrap();
    assert!(parted.train.accumulate > 1);
    let is_of_parts = |note: &&swav_train::Note| note.field == "train.accumulate";
    let why = &parted.notes.iter().find(is_of_parts).unwrap().why;
    assert!(why.contains(remedy) && why.contains("at once"), "{why}");
}
