//! The bad files that the ranks of a run meet.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use swav_data::{BadFile, BadKind, DataError, HealthReport};

use crate::TrainError;
use crate::comm::Communicator;
use crate::plan::Plan;

/// What the ranks have met. Each loader knows the files that it has met itself, and the budget is one for all.
pub(crate) struct Health {
    report: HealthReport,
    met: HashSet<usize>,
}

/// A bad file on its way to the other ranks.
#[derive(Serialize, Deserialize)]
struct Met {
    index: usize,
    name: String,
    corrupt: bool,
    reason: String,
}

impl Health {
    /// Nothing has been met yet.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            report: HealthReport {
                bad: Vec::new(),
                total: plan.data.images,
                budget: plan.data.corrupt_budget,
            },
            met: HashSet::new(),
        }
    }

    /// This rank has met its `own` files. Returns what any rank has met for the first time.
    ///
    /// # Errors
    /// If these are more than the budget allows.
    pub(crate) fn meet(
        &mut self,
        own: &[Arc<BadFile>],
        ranks: &mut dyn Communicator,
    ) -> Result<Vec<Arc<BadFile>>, TrainError> {
        let met = match ranks.world() {
            1 => own.to_vec(),
            _ if ranks.largest(u32::from(!own.is_empty())) == 0 => Vec::new(),
            _ => {
                let own: Vec<_> = own.iter().map(|bad| (**bad).clone()).collect();
                bad_of_all(&own, ranks)?.into_iter().map(Arc::new).collect()
            }
        };
        let new: Vec<_> = met
            .into_iter()
            .filter(|bad| self.met.insert(bad.index))
            .collect();
        self.report
            .bad
            .extend(new.iter().map(|bad| (**bad).clone()));
        match new.is_empty() || !self.report.exceeded() {
            true => Ok(new),
            false => Err(DataError::Budget(self.report.clone()).into()),
        }
    }
}

/// The bad files of all ranks, each once, in the order of their indices.
///
/// # Errors
/// If a message cannot be understood.
pub fn bad_of_all(
    own: &[BadFile],
    ranks: &mut dyn Communicator,
) -> Result<Vec<BadFile>, TrainError> {
    if ranks.world() == 1 {
        return Ok(own.to_vec());
    }
    let own = own.iter().map(|bad| Met {
        index: bad.index,
        name: bad.name.clone(),
        corrupt: bad.kind == BadKind::Corrupt,
        reason: bad.reason.clone(),
    });
    let damaged =
        |error: serde_json::Error| TrainError::Device(format!("a message of a rank: {error}"));
    let own = serde_json::to_string(&own.collect::<Vec<_>>()).map_err(damaged)?;
    let mut all = Vec::new();
    for text in ranks.gather_texts(&own) {
        let of_rank: Vec<Met> = serde_json::from_str(&text).map_err(damaged)?;
        all.extend(of_rank.into_iter().map(|met| BadFile {
            index: met.index,
            name: met.name,
            kind: match met.corrupt {
                true => BadKind::Corrupt,
                false => BadKind::Unsupported,
            },
            reason: met.reason,
        }));
    }
    all.sort_by_key(|bad: &BadFile| bad.index);
    all.dedup_by_key(|bad| bad.index);
    Ok(all)
}
