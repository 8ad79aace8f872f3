//! A run of several ranks is the run of one. The ranks are threads here, and what they exchange are copies of memory; processes
//! are in `tests/processes.rs`.

#![allow(clippy::unwrap_used)] // `allow-unwrap-in-tests` does not reach helpers outside of tests

use std::path::Path;
use std::sync::{Arc, Barrier, Mutex};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use swav_data::Source;
use swav_model::{Network, weights};
use swav_train::comm::{Communicator, Engine, Host, Local};
use swav_train::observe::{self, Event, Observer, Watched};
use swav_train::precision::Bf16;
use swav_train::{Facts, Parts, Plan, Recipe, RunDirectory, Stop, TrainError, Trainer, data};

/// Where the ranks of a group meet.
#[derive(Debug)]
struct Meeting {
    barrier: Barrier,
    slots: Mutex<Vec<Vec<u8>>>,
    /// The meetings of the groups that this one was cut into, by their size.
    groups: Mutex<Vec<(usize, Vec<Arc<Meeting>>)>>,
}

impl Meeting {
    fn of(world: usize) -> Arc<Self> {
        Arc::new(Self {
            barrier: Barrier::new(world),
            slots: Mutex::new(vec![Vec::new(); world]),
            groups: Mutex::default(),
        })
    }
}

/// A rank that is a thread.
#[derive(Debug)]
struct Threads {
    rank: usize,
    world: usize,
    meeting: Arc<Meeting>,
}

impl Threads {
    fn fold<T: Copy, const N: usize>(
        &self,
        own: &mut [T],
        bytes: fn(T) -> [u8; N],
        value: fn([u8; N]) -> T,
        with: fn(T, T) -> T,
    ) {
        let sent: Vec<u8> = own.iter().flat_map(|&value| bytes(value)).collect();
        let all = self.gather(&sent);
        // Every rank folds in the same order.
        for (place, own) in own.iter_mut().enumerate() {
            let values = (0..self.world).map(|rank| {
                let at = rank * sent.len() + place * N;
                value(all[at..at + N].try_into().unwrap())
            });
            *own = values.reduce(with).unwrap();
        }
    }
}

impl Engine for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn sum_f32(&self, values: &mut Vec<f32>) {
        self.fold(values, f32::to_ne_bytes, f32::from_ne_bytes, |a, b| a + b);
    }

    fn sum_f64(&self, values: &mut [f64]) {
        self.fold(values, f64::to_ne_bytes, f64::from_ne_bytes, |a, b| a + b);
    }

    fn max_f32(&self, values: &mut [f32]) {
        self.fold(values, f32::to_ne_bytes, f32::from_ne_bytes, f32::max);
    }

    fn gather(&self, own: &[u8]) -> Vec<u8> {
        self.meeting.slots.lock().unwrap()[self.rank] = own.to_vec();
        self.meeting.barrier.wait();
        let all = self.meeting.slots.lock().unwrap().concat();
        self.meeting.barrier.wait();
        assert_eq!(all.len(), own.len() * self.world, "messages of one length");
        all
    }

    fn gather_on_first(&self, own: &[u8]) -> Vec<u8> {
        let all = self.gather(own);
        match self.rank {
            0 => all,
            _ => Vec::new(),
        }
    }

    fn group(&self, size: usize) -> Arc<dyn Engine> {
        let mut groups = self.meeting.groups.lock().unwrap();
        if !groups.iter().any(|(known, _)| *known == size) {
            let meetings = (0..self.world / size).map(|_| Meeting::of(size));
            groups.push((size, meetings.collect()));
        }
        let (_, meetings) = groups.iter().find(|(known, _)| *known == size).unwrap();
        Arc::new(Self {
            rank: self.rank % size,
            world: size,
            meeting: meetings[self.rank / size].clone(),
        })
    }
}

/// Does `work` on each of `world` ranks at once; returns what each found.
fn on_ranks<T: Send>(world: usize, work: impl Fn(Box<dyn Communicator>) -> T + Sync) -> Vec<T> {
    if world == 1 {
        return vec![work(Box::new(Local))];
    }
    let meeting = Meeting::of(world);
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .map(|rank| {
                let meeting = meeting.clone();
                let work = &work;
                scope.spawn(move || {
                    let engine = Threads {
                        rank,
                        world,
                        meeting,
                    };
                    work(Box::new(Host::new(Arc::new(engine))))
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// A network and a set that take milliseconds a step.
const TINY: &str = r#"
[data]
path = "builtin:quickstart/test"
workers = 1
[[crops]]
count = 2
size = 32
scale = [0.3, 1.0]
[[crops]]
count = 2
size = 24
scale = [0.1, 0.3]
[model]
backbone = "resnet18"
width = 0.0625
stem = "cifar"
hidden = 16
[optimizer]
name = "sgd"
lr = 0.000002
[train]
batch_size = 16
epochs = 20
log = "1 step"
knn = "never"
checkpoint = "never"
"#;

/// The recipe `TINY` with the sections of a method, which go before its own.
fn recipe(sections: &str) -> Recipe {
    fn merge(into: &mut toml::Table, from: toml::Table) {
        for (key, value) in from {
            match (into.get_mut(&key), value) {
                (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
                (_, value) => {
                    into.insert(key, value);
                }
            }
        }
    }
    let mut all: toml::Table = TINY.parse().unwrap();
    merge(&mut all, sections.parse().unwrap());
    Recipe::from_toml(&all.to_string(), "tiny").unwrap()
}

fn images() -> Arc<dyn Source> {
    data::open(Path::new("builtin:quickstart/test"), Default::default()).unwrap()
}

fn plan(recipe: &Recipe, ranks: usize) -> Plan {
    let facts = Facts::look(images().as_ref(), false, Bf16::Smaller, None, ranks).unwrap();
    Plan::derive(recipe, &facts).unwrap()
}

/// What rank 0 has seen of a run.
#[derive(Clone, Default)]
struct Seen {
    losses: Vec<f64>,
    /// The weights after the first step.
    weights: Vec<f64>,
}

/// Looks at a run, and ends it after some steps.
struct Until {
    steps: u64,
    seen: Arc<Mutex<Seen>>,
    /// Whether the weights are rounded once more before the first step.
    rounds: bool,
}

impl Observer for Until {
    fn notice(&mut self, event: Event<'_>, run: &mut Watched<'_>) -> Result<(), TrainError> {
        let mut seen = self.seen.lock().unwrap();
        match event {
            Event::Begin if self.rounds => {
                run.state.network = run.state.network.clone().map(&mut Round);
            }
            Event::Logged(record) => {
                seen.losses.push(record.loss);
                if record.step == 1 {
                    seen.weights = learned(&run.state.network);
                }
                if record.step >= self.steps {
                    run.stop.request();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn learned(network: &Network) -> Vec<f64> {
    let mut named: Vec<_> = weights::export(network).into_iter().collect();
    named.retain(|(name, _)| !name.contains("running"));
    named.sort_by(|one, other| one.0.cmp(&other.0));
    let values = named.iter().flat_map(|(_, data)| data.iter::<f64>());
    values.collect()
}

/// Changes every weight by its last bit.
struct Round;

impl ModuleMapper for Round {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weights| {
            let learned = weights.is_require_grad();
            let rounded = weights.inner() * (1.0 + f64::from(f32::EPSILON));
            Tensor::from_inner(rounded).set_require_grad(learned)
        })
    }
}

/// How a run of some ranks is trained.
struct Training<'a> {
    recipe: &'a Recipe,
    world: usize,
    steps: u64,
    rounds: bool,
}

impl Training<'_> {
    /// Trains until all steps are done: from the beginning, or on from what is in `directory`.
    fn run(&self, directory: &Path) -> Seen {
        let path = directory.join("run");
        let resumes = path.join("plan.toml").is_file();
        if !resumes {
            RunDirectory::create(&path).unwrap();
        }
        let plan = plan(self.recipe, self.world);
        let seen = on_ranks(self.world, |ranks| {
            let seen = Arc::<Mutex<Seen>>::default();
            let mut observers = match ranks.rank() {
                0 => observe::standard(),
                _ => observe::followers(),
            };
            observers.push(Box::new(Until {
                steps: self.steps,
                seen: seen.clone(),
                rounds: self.rounds,
            }));
            let parts = Parts {
                source: images(),
                device: Device::flex(),
                ranks,
                stop: Stop::default(),
                observers,
            };
            let run = RunDirectory::of_first_rank(&path);
            let (recipe, plan) = (self.recipe.clone(), plan.clone());
            let trainer = match resumes {
                true => Trainer::resume(recipe, plan, run, parts),
                false => Trainer::start(recipe, plan, run, parts),
            };
            trainer.and_then(Trainer::run).unwrap();
            let seen = seen.lock().unwrap();
            seen.clone()
        });
        for rank in &seen {
            assert_eq!(rank.losses, seen[0].losses, "all ranks see the same losses");
            assert_eq!(rank.weights, seen[0].weights, "and have the same weights");
        }
        seen[0].clone()
    }

    fn fresh(&self) -> Seen {
        self.run(tempfile::tempdir().unwrap().path())
    }
}

/// A training of `recipe` by `world` ranks for some steps.
fn by(world: usize, recipe: &Recipe, steps: u64) -> Training<'_> {
    Training {
        recipe,
        world,
        steps,
        rounds: false,
    }
}

/// The largest relative difference of losses.
fn apart(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected);
    let differences = differences.map(|(found, expected)| (found / expected - 1.0).abs());
    differences.fold(0.0, f64::max)
}

/// How far two movements of the weights from `start` differ, in the length of one of them.
fn moved_apart(start: &[f64], found: &[f64], expected: &[f64]) -> f64 {
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let differs = length(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    differs / length(&mut expected.iter().zip(start).map(|(a, b)| a - b))
}

const STEPS: u64 = 24;

/// One rank against two and four: over some steps with a rate so small that what is rounded otherwise does not grow, and over
/// the first step at a rate that moves the weights.
fn is_the_run_of_one(sections: &str) {
    let slow = recipe(sections);
    let one = by(1, &slow, STEPS).fresh();
    let quick = slow
        .clone()
        .set_all(&["optimizer.lr=0.05".to_string()])
        .unwrap();
    let start = learned(
        &plan(&quick, 1)
            .model
            .init(quick.train.seed.unwrap_or(0), &Device::flex()),
    );
    let quick_one = by(1, &quick, 1).fresh();
    for world in [2, 4] {
        let found = by(world, &slow, STEPS).fresh();
        let error = apart(&found.losses, &one.losses);
        let found = by(world, &quick, 1).fresh();
        let moved = moved_apart(&start, &found.weights, &quick_one.weights);
        println!("{world} ranks: losses {error:.1e}, first step {moved:.1e}");
        assert!(
            error < 1e-4,
            "losses of {world} ranks are off by {error:.1e}"
        );
        assert!(
            moved < 0.03,
            "the first step of {world} ranks is off by {moved:.1e}"
        );
    }
}

const SWAV: &str = r#"
[model]
dim = 8
prototypes = [12, 16]
[method]
name = "swav"
freeze = "2 steps"
queue = { length = 32, start = "1 step" }
[train]
accumulate = 2
"#;

const DEEPCLUSTER: &str = r#"
[model]
dim = 8
prototypes = [6, 8]
[method]
name = "deepcluster-v2"
"#;

const SELA: &str = r#"
[model]
dim = 8
prototypes = [6, 8]
[method]
name = "sela-v2"
labels = "hard"
"#;

const SIMCLR: &str = r#"
[model]
dim = 8
[method]
name = "simclr"
"#;

const MOCO: &str = r#"
[model]
dim = 8
[method]
name = "moco-v2"
key_groups = 4
queue = { length = 64 }
"#;

const SUPERVISED: &str = r#"
[method]
name = "supervised"
"#;

#[test]
fn swav_with_queue_parts_and_several_heads() {
    is_the_run_of_one(SWAV);
}

#[test]
fn deepcluster_v2() {
    is_the_run_of_one(DEEPCLUSTER);
}

#[test]
fn sela_v2() {
    // With another weight of the entropy an image may lie so evenly between two prototypes that rounding decides on its label.
    is_the_run_of_one(&SELA.replace("labels", "epsilon = 0.01\nlabels"));
}

#[test]
fn sela_v2_with_soft_labels() {
    is_the_run_of_one(&SELA.replace("hard", "soft"));
}

#[test]
fn simclr() {
    is_the_run_of_one(SIMCLR);
}

#[test]
fn simclr_in_parts() {
    is_the_run_of_one(&format!("{SIMCLR}[train]\naccumulate = 2\n"));
}

#[test]
fn moco_v2() {
    is_the_run_of_one(MOCO);
}

#[test]
fn supervised() {
    is_the_run_of_one(SUPERVISED);
}

/// Trains `first` steps with some ranks and the rest with others, against the same steps without a break.
fn goes_on(sections: &str, first: u64, worlds: [usize; 2]) -> f64 {
    let (recipe, steps) = (recipe(sections), first + 8);
    let directory = tempfile::tempdir().unwrap();
    by(worlds[0], &recipe, first).run(directory.path());
    let rest = by(worlds[1], &recipe, steps).run(directory.path());
    let whole = by(worlds[0], &recipe, steps).fresh();
    apart(&rest.losses, &whole.losses[first as usize..])
}

#[test]
fn a_run_goes_on_with_as_many_ranks_to_the_bit_and_with_others_up_to_rounding() {
    // In the middle of the second epoch, with a queue, banks, labels, keys.
    let soft = SELA.replace("hard", "soft");
    for sections in [SWAV, DEEPCLUSTER, &soft, MOCO] {
        assert_eq!(goes_on(sections, 9, [2, 2]), 0.0, "{sections}");
        for worlds in [[2, 1], [1, 4], [4, 2]] {
            let error = goes_on(sections, 9, worlds);
            println!("{worlds:?}: {error:.1e}");
            assert!(error < 1e-4, "{worlds:?}: off by {error:.1e}: {sections}");
        }
    }
}

/// What is rounded otherwise grows in training, from one process to many as within one: a run whose weights differ in their
/// last bit comes as far from the run of one as the run of two ranks does.
#[test]
fn ranks_differ_from_one_as_rounding_does() {
    let recipe = recipe(SWAV)
        .set_all(&["optimizer.lr=0.0001".to_string()])
        .unwrap();
    let one = by(1, &recipe, 20).fresh();
    let two = by(2, &recipe, 20).fresh();
    let rounds = Training {
        rounds: true,
        ..by(1, &recipe, 20)
    };
    let rounded = rounds.fresh();
    let errors = [&two, &rounded].map(|other| apart(&other.losses, &one.losses));
    println!(
        "two ranks {:.1e}, the last bit {:.1e}",
        errors[0], errors[1]
    );
    assert!(errors[0] < 30.0 * errors[1], "{errors:?}");
}

#[test]
fn batch_norm_over_some_of_the_ranks_sees_other_batches() {
    let with =
        |sync_bn: &str| recipe(&SWAV.replace("dim = 8", &format!("dim = 8\nsync_bn = {sync_bn}")));
    let [all, groups, none] =
        ["\"all\"", "2", "\"none\""].map(|of| by(4, &with(of), 6).fresh().losses);
    let one = by(1, &recipe(SWAV), 6).fresh().losses;
    assert!(apart(&all, &one) < 1e-4);
    for (other, what) in [(&groups, "pairs"), (&none, "each by itself")] {
        let error = apart(other, &one);
        assert!(error > 1e-3, "{what}: {error:.1e}");
    }
    assert!(apart(&groups, &none) > 1e-3);
}
