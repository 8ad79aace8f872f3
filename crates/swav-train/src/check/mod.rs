//! Does a device compute right, and how fast?
//!
//! Everything that a training step is made of is computed twice from the same numbers, on the device as training computes it
//! and on a reference by Burn's own operations, and the results are compared: the upload, matrix products, convolutions of every kind that the backbones have, batch norm, the
//! head, the codes, the optimizers, and whole steps of ResNet-18 and ResNet-50 with the gradients of all parameters; all that has maps
//! in `bf16` too, if the device has it. Then a step and the assignment are timed.

mod parts;
mod speed;
mod steps;

use burn::tensor::{DType, Device, Tensor};
use swav_model::Draw;
use swav_model::ops::{has_maps_of, plainly};

use crate::TrainError;
use crate::device::read;
use crate::precision::Precision;

pub use speed::{Speed, speeds};

/// How exactly a device is held to the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exactness {
    /// Products of single precision.
    Single,
    /// Products of inputs rounded to 10 bits (TF32), as fast kernels for NVIDIA's tensor cores have them.
    Tensor,
}

/// How large the networks are whose steps are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// As they are.
    Full,
    /// An eighth as wide, for a device in software, where the whole would take hours.
    Slim,
}

impl Extent {
    fn width(self) -> f64 {
        match self {
            Self::Full => 1.0,
            Self::Slim => 0.125,
        }
    }
}

/// What came of comparing one thing.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What was computed.
    pub name: String,
    /// The largest relative error of a result, ‖found − expected‖ / ‖expected‖; infinite where a value is not finite.
    pub error: f64,
    /// The most that is allowed.
    pub bound: f64,
    /// Which result is off that far.
    pub result: String,
}

impl Finding {
    /// Whether the error is allowed.
    pub fn is_ok(&self) -> bool {
        self.error <= self.bound
    }
}

/// Named numbers that a case computes.
type Results = Vec<(String, Vec<f32>)>;

/// Computes a case in a place.
type Compute = dyn Fn(&Place) -> Result<Results, TrainError>;

/// Something to compute on either device.
struct Case {
    name: String,
    /// The largest relative error that is allowed, for each exactness.
    bounds: [f64; 2],
    compute: Box<Compute>,
}

/// Where a case is computed.
struct Place<'a> {
    /// Without gradients.
    device: &'a Device,
    /// Whether this is the reference, which does without kernels of our own.
    plain: bool,
}

impl Place<'_> {
    /// Numbers of mean 0 and variance 1 that depend on the seed alone, without gradients.
    fn normal<const D: usize>(&self, seed: u64, shape: [usize; D]) -> Tensor<D> {
        Draw::new(seed, self.device).normal(1.0, shape)
    }

    /// The same on the device with gradients turned on, as a leaf of the graph.
    fn leaf<const D: usize>(&self, seed: u64, shape: [usize; D]) -> Tensor<D> {
        self.normal(seed, shape).autodiff().require_grad()
    }

    /// The leaf of a map with these values, rounded to `precision`. The reference computes in `f32` with what is left of them.
    fn map<const D: usize>(&self, values: Tensor<D>, precision: Precision) -> Tensor<D> {
        let rounded = values.cast(precision.dtype());
        let map = match self.plain {
            true => rounded.cast(DType::F32),
            false => rounded,
        };
        map.autodiff().require_grad()
    }
}

impl Case {
    /// A case whose results are exact but for the order of sums.
    fn exact(
        name: impl Into<String>,
        compute: impl Fn(&Place) -> Result<Results, TrainError> + 'static,
    ) -> Self {
        Self::bounded(name, [1e-4, 1e-4], compute)
    }

    /// A case that multiplies matrices.
    fn product(
        name: impl Into<String>,
        compute: impl Fn(&Place) -> Result<Results, TrainError> + 'static,
    ) -> Self {
        Self::bounded(name, [1e-4, 2e-3], compute)
    }

    fn bounded(
        name: impl Into<String>,
        bounds: [f64; 2],
        compute: impl Fn(&Place) -> Result<Results, TrainError> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            bounds,
            compute: Box::new(compute),
        }
    }
}

/// A result, read back from its device.
fn result<const D: usize>(
    name: impl Into<String>,
    tensor: Tensor<D>,
) -> Result<(String, Vec<f32>), TrainError> {
    Ok((name.into(), read(tensor.cast(DType::F32))?))
}

/// The gradient of a leaf, read back.
fn gradient<const D: usize>(
    name: &str,
    leaf: &Tensor<D>,
    gradients: &burn::tensor::Gradients,
) -> Result<(String, Vec<f32>), TrainError> {
    match leaf.grad(gradients) {
        Some(found) => result(format!("gradient of the {name}"), found),
        None => Ok((format!("gradient of the {name}"), vec![f32::NAN])),
    }
}

/// What a device can be trained in.
fn precisions(device: &Device) -> &'static [Precision] {
    match has_maps_of(device, DType::BF16) {
        true => &[Precision::F32, Precision::Bf16],
        false => &[Precision::F32],
    }
}

/// The name of a case in a precision: `f32` goes without saying.
fn named(name: &str, precision: Precision) -> String {
    match precision {
        Precision::F32 => name.to_string(),
        Precision::Bf16 => format!("{name}, {precision}"),
    }
}

/// A planted error, to see that the check finds one: the results of the device in the case of this name, a part of a step,
/// are 1 % off. Whole steps are then left out.
pub type Planted<'a> = Option<&'a str>;

/// Compares `device` with `reference` case by case; both are without gradients. `tell` gets the name of a case before it
/// is computed, and the finding after it.
///
/// # Errors
/// If a device fails, or there is no case to plant an error in.
pub fn compare(
    device: &Device,
    reference: &Device,
    (exactness, extent): (Exactness, Extent),
    planted: Planted<'_>,
    tell: &mut dyn FnMut(&str, Option<&Finding>),
) -> Result<Vec<Finding>, TrainError> {
    let precisions = precisions(device);
    let mut cases = parts::cases(precisions);
    // Whether an error is found shows in the parts, and sooner.
    if planted.is_none() {
        cases.extend(steps::cases(extent, precisions));
    }
    if let Some(name) = planted.filter(|name| cases.iter().all(|case| case.name != *name)) {
        let names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
        return Err(TrainError::Recipe(format!(
            "there is no case `{name}`; there are: {}",
            names.join(", ")
        )));
    }
    let mut findings = Vec::with_capacity(cases.len());
    for case in &cases {
        tell(&case.name, None);
        let expected = plainly(|| {
            (case.compute)(&Place {
                device: reference,
                plain: true,
            })
        })?;
        let mut found = (case.compute)(&Place {
            device,
            plain: false,
        })?;
        if planted == Some(case.name.as_str()) {
            let values = found.iter_mut().flat_map(|(_, values)| values);
            values.for_each(|value| *value *= 1.01);
        }
        let bound = match exactness {
            Exactness::Single => case.bounds[0],
            Exactness::Tensor => case.bounds[1],
        };
        let finding = worst(case, bound, &found, &expected);
        tell(&case.name, Some(&finding));
        findings.push(finding);
    }
    Ok(findings)
}

/// The result that is furthest off.
fn worst(case: &Case, bound: f64, found: &Results, expected: &Results) -> Finding {
    let (error, result) = found
        .iter()
        .zip(expected)
        .map(|((name, found), (_, expected))| (relative(found, expected), name))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map_or((f64::INFINITY, "nothing".to_string()), |(error, name)| {
            (error, name.clone())
        });
    Finding {
        name: case.name.clone(),
        error,
        bound,
        result,
    }
}

/// ‖found − expected‖ / ‖expected‖; infinite if a value is not finite or the numbers are not as many.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    let all = found.iter().chain(expected);
    if found.len() != expected.len() || !all.clone().all(|value| value.is_finite()) {
        return f64::INFINITY;
    }
    let square = |value: f64| value * value;
    let off = found.iter().zip(expected);
    let off: f64 = off
        .map(|(&f, &e)| square(f64::from(f) - f64::from(e)))
        .sum();
    let size: f64 = expected.iter().map(|&e| square(f64::from(e))).sum();
    match off == 0.0 {
        true => 0.0,
        false => (off / size.max(f64::MIN_POSITIVE)).sqrt(),
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    const EXACT: (Exactness, Extent) = (Exactness::Single, Extent::Slim);

    fn findings(planted: Planted<'_>) -> Result<Vec<Finding>, TrainError> {
        let device = Device::flex();
        compare(&device, &device, EXACT, planted, &mut |_, _| {})
    }

    #[test]
    fn the_kernels_of_the_cpu_agree_with_burns_operations() {
        let findings = findings(None).unwrap();
        assert!(findings.len() > 30);
        for finding in findings {
            assert!(finding.is_ok(), "{finding:?}");
        }
    }

    #[test]
    fn an_error_of_one_percent_is_found_where_it_is() {
        for planted in ["batch norm, ReLU", "convolution 3×3, bf16"] {
            for wrong in findings(Some(planted)).unwrap() {
                assert_eq!(wrong.is_ok(), wrong.name != planted, "{wrong:?}");
            }
        }
    }

    #[test]
    fn an_error_in_a_case_that_there_is_not_is_refused_with_those_that_there_are() {
        let device = Device::flex();
        let planted = Some("square root");
        let told = compare(&device, &device, EXACT, planted, &mut |_, _| {});
        assert!(told.unwrap_err().to_string().contains("batch norm, ReLU"));
    }

    #[test]
    fn numbers_that_are_not_finite_or_missing_are_infinitely_far_off() {
        assert_eq!(relative(&[1.0, f32::NAN], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(relative(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(relative(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
        assert!((relative(&[3.0, 4.5], &[3.0, 4.0]) - 0.1).abs() < 1e-9);
    }
}
