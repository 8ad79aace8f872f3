//! What several methods ask of a run.

use super::settings::{MethodContext, MethodName};
use crate::ledger::Ledger;

/// Of a method that holds the crops of an image against each other.
pub(super) fn check_several_crops(context: &MethodContext<'_>, ledger: &mut Ledger) {
    ledger.require(context.crops_per_image() >= 2, || {
        "crops: one crop has no other to predict; take at least two of each image".to_string()
    });
}

/// Of a method with prototypes.
pub(super) fn check_prototypes(context: &MethodContext<'_>, ledger: &mut Ledger) {
    let (heads, images) = (&context.model.prototypes, context.images);
    ledger.require(!heads.is_empty() && context.model.dim > 0, || {
        "model.prototypes and model.dim must not be empty or 0".to_string()
    });
    for &prototypes in heads {
        ledger.require(prototypes >= 2, || {
            format!("model.prototypes = {prototypes}: at least two are needed to tell images apart")
        });
        ledger.require(prototypes <= images, || {
            format!(
                "model.prototypes = {prototypes} is more than the {images} images: most would stay empty; \
                 about 10 × the classes is a good number"
            )
        });
    }
}

/// Of a method without prototypes.
pub(super) fn check_no_prototypes(
    method: MethodName,
    context: &MethodContext<'_>,
    ledger: &mut Ledger,
) {
    let heads = &context.model.prototypes;
    ledger.require(heads.is_empty(), || {
        format!("model.prototypes = {heads:?}: {method} has no prototypes; leave the field out")
    });
}

/// Of a method whose clusters are made of the images of one epoch.
pub(super) fn check_clusters(context: &MethodContext<'_>, ledger: &mut Ledger) {
    let rows = context.steps_per_epoch as usize * context.batch;
    for &clusters in &context.model.prototypes {
        ledger.require(clusters <= rows || clusters > context.images, || {
            format!(
                "model.prototypes = {clusters} is more than the {rows} images that the whole batches of an epoch hold: \
                 some clusters would stay empty; lower it or train.batch_size"
            )
        });
    }
}

/// Holds the temperature of a softmax to what can be computed with.
pub(super) fn check_temperature(temperature: f64, ledger: &mut Ledger) {
    ledger.require(temperature > 0.0 && temperature.is_finite(), || {
        format!("method.temperature = {temperature} must be above 0")
    });
}

/// Holds an assignment's settings to what can be computed with.
pub(super) fn check_sinkhorn(epsilon: f64, iterations: usize, ledger: &mut Ledger) {
    ledger.require(epsilon >= 0.001, || {
        format!("method.epsilon = {epsilon} is below 0.001, where 32-bit floats give out")
    });
    ledger.require(iterations > 0, || {
        "method.iterations = 0 leaves the partition unequal, which ends in collapse; 3 is usual"
            .to_string()
    });
}
