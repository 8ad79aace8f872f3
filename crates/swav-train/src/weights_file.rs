//! Weights from elsewhere: as what is evaluated, and as what a run begins with.

use std::path::{Path, PathBuf};

use swav_model::weights::Pretrained;
use swav_model::{Network, NetworkConfig};

use crate::facts::Facts;
use crate::ledger::Note;
use crate::plan::Plan;
use crate::run::{MODEL, newest_checkpoint};
use crate::{Recipe, TrainError};

/// Who is told what a user should know of the weights, a sentence each.
pub type Notes<'a> = dyn FnMut(String) + 'a;

/// Names that a note has room for.
const SHOWN: usize = 20;

/// The plan by which the network in a file of weights is evaluated. `notes` is told what of the file is of no use.
pub(crate) fn plan(path: &Path, notes: &mut Notes<'_>) -> Result<Plan, TrainError> {
    let pretrained = Pretrained::open(path)?;
    let config = pretrained.config();
    let absent: Vec<_> = [
        ("projection head", config.dim == 0),
        ("prototypes", config.prototypes.is_empty()),
    ]
    .into_iter()
    .filter_map(|(part, absent)| absent.then_some(part.to_owned()))
    .collect();
    tell_unused(path, &pretrained, notes);
    tell(path, "missing", &absent, notes);
    Plan::of_weights(config)
}

/// The network that the weights at `path`, a file or a run, are of.
///
/// # Errors
/// If they cannot be read.
pub fn network(path: &Path) -> Result<NetworkConfig, TrainError> {
    Ok(Pretrained::open(&file(path)?)?.config().clone())
}

/// Plans a run that begins with the weights at `init`, which are of `network`: what the recipe leaves open about its own
/// is as theirs.
///
/// # Errors
/// As [`Plan::derive`]; if the recipe asks for another backbone.
pub fn follow(
    recipe: &Recipe,
    init: &Path,
    network: &NetworkConfig,
    facts: &Facts,
) -> Result<Plan, TrainError> {
    let mut followed = recipe.clone();
    let (backbone, model) = (&network.backbone, &mut followed.model);
    // Width and stem are those of the architecture: another one has its own.
    let name = model
        .backbone
        .get_or_insert_with(|| backbone.name.to_string());
    if name.as_str() == backbone.name.name() {
        model.width.get_or_insert(backbone.width);
        model.stem.get_or_insert(backbone.stem);
    }
    if network.dim > 0 && model.hidden.is_none() && model.dim.is_none() {
        (model.hidden, model.dim) = (Some(network.hidden), Some(network.dim));
        model.head_norm.get_or_insert(network.head_norm);
    }
    let mut plan = Plan::derive(&followed, facts)?;
    let planned = &plan.model.backbone;
    if !planned.is_as(backbone) {
        return Err(TrainError::Recipe(format!(
            "model.init: {} holds a {backbone}, and the recipe asks for a {planned}; leave model.backbone, width and stem \
             out to take what the file holds",
            init.display()
        )));
    }
    if recipe.model.backbone.is_none() {
        let note = Note {
            field: "model.backbone",
            value: planned.name.to_string(),
            why: format!("that of {}", init.display()),
        };
        plan.notes.insert(0, note);
    }
    Ok(plan)
}

/// Puts the weights at `path` into a network that is about to be trained; `notes` is told which.
pub(crate) fn begin(
    network: Network,
    path: &Path,
    notes: &mut Notes<'_>,
) -> Result<Network, TrainError> {
    let pretrained = Pretrained::open(&file(path)?)?;
    tell_unused(path, &pretrained, notes);
    let (network, adopted) = pretrained.give(network)?;
    tell(path, "taken", &adopted.taken, notes);
    for (part, reason) in &adopted.kept {
        notes(format!(
            "{}: {part} not taken, drawn anew: {reason}",
            path.display()
        ));
    }
    Ok(network)
}

/// The file that holds the weights: `path` itself, or that of a run's checkpoint.
fn file(path: &Path) -> Result<PathBuf, TrainError> {
    if path.is_dir() {
        return Ok(newest_checkpoint(path)?.join(MODEL));
    }
    Ok(path.to_path_buf())
}

fn tell_unused(path: &Path, pretrained: &Pretrained, notes: &mut Notes<'_>) {
    if pretrained.is_foreign() {
        notes(format!(
            "{}: by its shapes a {}; padding, pooling and anti-aliasing, which shapes do not show, are taken to be \
             torchvision's",
            path.display(),
            pretrained.config().backbone
        ));
    }
    if let Some(front) = pretrained.front() {
        notes(format!(
            "{}: the network is taken from the tensors under `{front}`",
            path.display()
        ));
    }
    tell(path, "left over", pretrained.left_over(), notes);
    tell(path, "not read", pretrained.beside(), notes);
}

fn tell(path: &Path, what: &str, names: &[impl AsRef<str>], notes: &mut Notes<'_>) {
    if names.is_empty() {
        return;
    }
    let shown: Vec<_> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    notes(format!(
        "{}: {what}: {}{more}",
        path.display(),
        shown.join(", ")
    ));
}
