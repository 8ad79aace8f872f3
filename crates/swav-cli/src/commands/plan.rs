//! `swav plan`

use std::fmt::Write;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;
use swav_train::observe::display::readable;
use swav_train::{Plan, readable_bytes};

use super::setup;
use crate::args::PlanArgs;
use crate::device::Found;
use crate::output::{print, print_json};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    device: String,
    parameters: u64,
    memory_bytes: u64,
    seconds: f64,
    derived: Vec<Derived<'a>>,
    plan: &'a Plan,
}

#[derive(Serialize)]
struct Derived<'a> {
    field: &'a str,
    value: &'a str,
    why: &'a str,
}

/// Shows what would run.
pub fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let recipe = setup::recipe(&args.recipe)?;
    let found = args.device.device.open()?;
    let prepared = setup::prepare(&recipe, &found, None, 1)?;
    let plan = &prepared.plan;
    let time = time_estimate(plan, &found.device);
    if args.json {
        return print_json(&Report {
            device: found.name,
            parameters: plan.model.parameters(),
            memory_bytes: plan.memory().total(),
            seconds: time.as_secs_f64(),
            derived: plan
                .notes
                .iter()
                .map(|note| Derived {
                    field: note.field,
                    value: &note.value,
                    why: &note.why,
                })
                .collect(),
            plan,
        });
    }
    let mut text = summary(plan, &prepared.source.describe(), &found);
    write!(
        text,
        "\nmemory    about {}\ntime      about {} (from the speed of a matrix product here; rough)",
        readable_bytes(plan.memory().total()),
        readable(time)
    )?;
    print(&text)
}

/// The plan in a few lines, with everything that was derived and why.
pub fn summary(plan: &Plan, data: &str, found: &Found) -> String {
    let train = &plan.train;
    let crops: Vec<_> = plan
        .crops
        .iter()
        .map(|crop| format!("{}×{}", crop.count, crop.size))
        .collect();
    let mut text = format!(
        "data      {data}\n\
         device    {} ({})\n\
         network   {}, {} → {} → {} → {:?} prototypes, {:.1} M weights\n\
         crops     {}\n\
         method    {}: {}\n\
         training  {} epochs of {} steps of {} images in {}; {:?}, lr {:.3e} → {:.3e}\n",
        found.name,
        found.choice,
        plan.model.backbone.name,
        plan.model.backbone.dim(),
        plan.model.hidden,
        plan.model.dim,
        plan.model.prototypes,
        plan.model.parameters() as f64 / 1e6,
        crops.join(" + "),
        plan.method.name(),
        plan.method.describe(),
        train.epochs,
        train.steps_per_epoch,
        train.batch_size,
        train.precision,
        plan.optimizer.name,
        plan.optimizer.schedule.base,
        plan.optimizer.schedule.end,
    );
    if train.checkpoint_activations {
        text.push_str(
            "          activations are computed once more in the backward pass, to save memory: about a third more computation\n",
        );
    }
    if !plan.notes.is_empty() {
        text.push_str("derived\n");
        for note in &plan.notes {
            text.push_str(&format!("  {note}\n"));
        }
    }
    text
}

/// Share of a matrix product's speed that a training step reaches: what `cifar10-slim` was seen to
/// reach on two AVX2 cores, kNN included. Other networks and devices differ, so the estimate is rough.
const EFFICIENCY: f64 = 0.65;

/// From the multiply-adds of a step and the speed of a matrix product on this device, now.
fn time_estimate(plan: &Plan, device: &Device) -> Duration {
    const SIDE: usize = 768;
    const ROUNDS: u32 = 4;
    let draw = || Tensor::<2>::random([SIDE, SIDE], Distribution::Default, device);
    let (a, b) = (draw(), draw());
    let run = || a.clone().matmul(b.clone()).sum().into_scalar::<f32>();
    run();
    let began = Instant::now();
    (0..ROUNDS).for_each(|_| {
        run();
    });
    let seconds = began.elapsed().as_secs_f64() / f64::from(ROUNDS);
    let macs_per_second = (SIDE * SIDE * SIDE) as f64 / seconds * EFFICIENCY;
    let macs = plan.macs_per_step() as f64 * plan.train.steps as f64;
    Duration::try_from_secs_f64(macs / macs_per_second).unwrap_or(Duration::MAX)
}
