//! What cannot work.

use super::Plan;
use crate::ledger::Ledger;
use crate::span::LONGEST;

/// Adds everything that cannot work in `plan` to the ledger.
pub(super) fn check(plan: &Plan, ledger: &mut Ledger) {
    check_data(plan, ledger);
    check_crops(plan, ledger);
    check_batch(plan, ledger);
    check_ranks(plan, ledger);
    plan.method.check(&plan.context(), ledger);
    check_optimizer(plan, ledger);
}

fn check_data(plan: &Plan, ledger: &mut Ledger) {
    let data = &plan.data;
    ledger.require(data.images >= 2, || {
        format!(
            "{} holds one image; training compares images and needs many",
            data.path.display()
        )
    });
    ledger.require((0.0..=1.0).contains(&data.corrupt_budget), || {
        format!(
            "data.corrupt_budget = {} is a share of the files, between 0 and 1",
            data.corrupt_budget
        )
    });
    ledger.require(data.prefetch > 0, || {
        "data.prefetch = 0: at least one batch must be kept ready".to_string()
    });
}

fn check_crops(plan: &Plan, ledger: &mut Ledger) {
    for (i, crop) in plan.crops.iter().enumerate() {
        if let Err(reason) = crop.validate() {
            let reason = reason.trim_start_matches("crops");
            ledger.problems.push(format!("crops[{i}]{reason}"));
        }
        let least = plan.model.backbone.min_size();
        ledger.require(crop.size >= least, || {
            format!(
                "crops[{i}].size = {}: the backbone needs at least {least} px",
                crop.size
            )
        });
    }
    if let Err(reason) = plan.augment.validate() {
        ledger.problems.push(reason);
    }
}

fn check_batch(plan: &Plan, ledger: &mut Ledger) {
    let train = &plan.train;
    let (batch, micro) = (train.batch_size, train.batch_size / train.accumulate);
    ledger.require(batch >= 1, || {
        "train.batch_size = 0: a step needs at least 2 images".to_string()
    });
    ledger.require(batch <= plan.data.images, || {
        format!(
            "train.batch_size = {batch} is more than the {} images there are; lower it",
            plan.data.images
        )
    });
    ledger.require(batch.is_multiple_of(train.accumulate), || {
        format!(
            "train.batch_size = {batch} is no multiple of train.accumulate = {}",
            train.accumulate
        )
    });
    ledger.require(batch < 1 || micro >= 2, || {
        format!(
            "train.batch_size = {batch} leaves {micro} image per forward pass: batch \
             normalisation and the assignment need at least two; raise it to 2 or more"
        )
    });
    let trains = plan.method.trains();
    ledger.require(trains == (train.epochs > 0), || match trains {
        true => "train.epochs = 0: nothing would be learned".to_string(),
        false => format!(
            "train.epochs = {}: random weights are not trained; leave the field out",
            train.epochs
        ),
    });
    ledger.require(train.keep > 0, || {
        "train.keep = 0 would delete the checkpoint just written; keep at least 1".to_string()
    });
}

/// Adds what of a batch cannot be shared out among the ranks.
pub(super) fn check_ranks(plan: &Plan, ledger: &mut Ledger) {
    let train = &plan.train;
    let Some(ranks) = train.ranks else {
        return;
    };
    let (batch, count, parts) = (train.batch_size, ranks.count, train.accumulate);
    ledger.require(batch.is_multiple_of(count * parts), || match parts {
        1 => format!(
            "train.batch_size = {batch} cannot be shared out among {count} ranks: take a multiple of their number"
        ),
        _ => format!(
            "train.batch_size = {batch} cannot be shared out among {count} ranks in {parts} parts each: take a multiple of \
             {}, or another train.accumulate",
            count * parts
        ),
    });
    let size = ranks.sync_bn.size(count);
    ledger.require(size > 0 && count.is_multiple_of(size), || {
        format!(
            "model.sync_bn = {}: {count} ranks are no whole number of groups of {size}",
            ranks.sync_bn
        )
    });
    let seen = batch / (count * parts) * size.max(1);
    ledger.require(batch < 2 || seen >= 2, || {
        format!(
            "model.sync_bn = {} lets batch norm see {seen} image at a time: it needs at least two; raise train.batch_size \
             or take larger groups",
            ranks.sync_bn
        )
    });
}

fn check_optimizer(plan: &Plan, ledger: &mut Ledger) {
    let (optimizer, steps) = (&plan.optimizer, plan.train.steps);
    let schedule = &optimizer.schedule;
    for (field, rate) in [
        ("lr", schedule.base),
        ("final_lr", schedule.end),
        ("start_lr", schedule.start),
    ] {
        ledger.require(rate.is_finite() && rate >= 0.0, || {
            format!("optimizer.{field} = {rate} must be a number of at least 0")
        });
    }
    ledger.require((0.0..1.0).contains(&optimizer.momentum), || {
        format!(
            "optimizer.momentum = {} must lie in [0, 1)",
            optimizer.momentum
        )
    });
    ledger.require(optimizer.weight_decay >= 0.0, || {
        format!(
            "optimizer.weight_decay = {} must not be negative",
            optimizer.weight_decay
        )
    });
    ledger.require(steps == 0 || schedule.warmup < steps, || {
        let warmup = match schedule.warmup {
            LONGEST => "always".to_string(),
            steps => format!("{steps} steps"),
        };
        format!(
            "optimizer.warmup = {warmup}: the run has {steps} steps, and nothing is left to train after the warm-up; \
             shorten it or train longer"
        )
    });
}
