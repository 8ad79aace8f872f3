//! Trained networks, wherever they are: in a run, in one of its checkpoints, or in a file of weights.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use swav_model::Network;
use swav_model::weights::{self, Pretrained};

use crate::TrainError;
use crate::checkpoint::require_whole;
use crate::plan::Plan;
use crate::run::{MODEL, RunDirectory, STATE};
use crate::weights_file::{self, Notes};

/// A trained network: its plan and the checkpoint that holds it.
///
/// `path` is a run directory, whose newest checkpoint is meant, one checkpoint of a run, or a file of weights (see
/// [`Pretrained`]), with which comes a plan that knows of no images. `notes` is told what of such a file is of no use, or
/// missing.
///
/// # Errors
/// If it is none of these.
pub fn find(path: &Path, notes: &mut Notes<'_>) -> Result<(Plan, PathBuf), TrainError> {
    if path.is_file() {
        return Ok((weights_file::plan(path, notes)?, path.to_path_buf()));
    }
    if path.is_dir() && path.join(STATE).is_file() {
        let checkpoint = std::path::absolute(path).map_err(TrainError::io(path))?;
        let run = checkpoint.parent().and_then(Path::parent).ok_or_else(|| {
            TrainError::checkpoint(
                path,
                "lies in no run directory, where its plan.toml would be",
            )
        })?;
        let plan = Plan::load(&run.join("plan.toml"))?;
        return Ok((plan, checkpoint));
    }
    let run = RunDirectory::open(path)?;
    Ok((Plan::load(&run.plan())?, run.latest()?))
}

/// Reads the network of what [`find`] has found: a checkpoint, or a file of weights.
///
/// # Errors
/// If it is damaged, belongs to another architecture, or is no readable file of weights.
pub fn network(path: &Path, plan: &Plan, device: &Device) -> Result<Network, TrainError> {
    if path.is_file() {
        return Ok(Pretrained::open(path)?.into_network(device)?);
    }
    require_whole(path)?;
    let network = plan.model.init(plan.train.seed, device);
    Ok(weights::load(network, &path.join(MODEL))?)
}
