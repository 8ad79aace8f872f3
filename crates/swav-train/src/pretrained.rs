//! Weights from elsewhere: as what is evaluated, and as what a run begins with.

use std::path::{Path, PathBuf};

use swav_model::weights::Pretrained;
use swav_model::{Network, NetworkConfig};

use crate::checkpoint::{self, MODEL};
use crate::display::say;
use crate::plan::{Facts, Note, Plan};
use crate::{Recipe, TrainError};

/// Names that a note has room for.
const SHOWN: usize = 20;

/// The plan by which the network in a file of weights is evaluated; says what of the file is of no use.
pub(crate) fn plan(path: &Path) -> Result<Plan, TrainError> {
    let pretrained = Pretrained::open(path)?;
    let config = pretrained.config();
    let absent: Vec<_> = [
        ("projection head", config.dim == 0),
        ("prototypes", config.prototypes.is_empty()),
    ]
    .into_iter()
    .filter_map(|(part, absent)| absent.then_some(part.to_owned()))
    .collect();
    tell_unused(path, &pretrained);
    tell(path, "missing", &absent);
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

/// Puts the weights at `path` into a network that is about to be trained, and says which.
pub(crate) fn begin(network: Network, path: &Path) -> Result<Network, TrainError> {
    let pretrained = Pretrained::open(&file(path)?)?;
    tell_unused(path, &pretrained);
    let (network, adopted) = pretrained.give(network)?;
    tell(path, "taken", &adopted.taken);
    for (part, reason) in &adopted.kept {
        say(format_args!(
            "note: {}: {part} not taken, drawn anew: {reason}",
            path.display()
        ));
    }
    Ok(network)
}

/// The file that holds the weights: `path` itself, or that of a run's checkpoint.
fn file(path: &Path) -> Result<PathBuf, TrainError> {
    if path.is_dir() {
        return Ok(checkpoint::find(path)?.1.join(MODEL));
    }
    Ok(path.to_path_buf())
}

fn tell_unused(path: &Path, pretrained: &Pretrained) {
    if pretrained.is_foreign() {
        say(format_args!(
            "note: {}: by its shapes a {}; padding, pooling and anti-aliasing, which shapes do not show, are taken to be \
             torchvision's",
            path.display(),
            pretrained.config().backbone
        ));
    }
    if let Some(front) = pretrained.front() {
        say(format_args!(
            "note: {}: the network is taken from the tensors under `{front}`",
            path.display()
        ));
    }
    tell(path, "left over", pretrained.left_over());
    tell(path, "not read", pretrained.beside());
}

fn tell(path: &Path, what: &str, names: &[impl AsRef<str>]) {
    if names.is_empty() {
        return;
    }
    let shown: Vec<_> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    say(format_args!(
        "note: {}: {what}: {}{more}",
        path.display(),
        shown.join(", ")
    ));
}
