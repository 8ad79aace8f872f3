use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};

use crate::kernel::{Implementation, Scores};
use crate::sinkhorn::{check_epsilon, detached, first_potentials, next_potentials};
use crate::{OtError, Reduce};

/// When the rounds end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stop {
    /// After so many rounds, at least one.
    After(usize),
    /// Once the marginals are met.
    Converged {
        /// What `Σ_k |Σ_i q_ik/B − r_k|` may be at most, between 0 and 2. About 1e-6 is what `f32` can tell.
        tolerance: f64,
        /// Rounds after which it is given up.
        at_most: usize,
    },
}

/// A transport problem's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportConfig {
    /// Weight of the entropy, in units of the scores; at least 1e-6.
    pub epsilon: f64,
    /// When the rounds end. Default: at marginals within 1e-4, or after 1000.
    pub stop: Stop,
    /// What each prototype is to get, in any unit: only ratios count. Default: all the same.
    pub marginals: Option<Vec<f64>>,
    /// Which implementation computes.
    pub implementation: Implementation,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            epsilon: 0.05,
            stop: Stop::Converged {
                tolerance: 1e-4,
                at_most: 1000,
            },
            marginals: None,
            implementation: Implementation::Fused,
        }
    }
}

/// A solution of the transport problem, and what it is made of.
///
/// With `s` the scores, `f` and `g` the potentials, and `r` the prototypes' marginals (they sum to one),
///
/// ```text
/// codes_ik = exp((s_ik − f_k − g_i)/ε)         Q = codes/B         Σ_k Q_ik = 1/B         Σ_i Q_ik ≈ r_k
/// ```
///
/// so for the cost `−s`, `−f` and `−g` are the dual potentials of entropic optimal transport, up to a constant
/// that one may take from the other. Over several ranks `B` counts the samples of all of them, and codes and `g` are of
/// the rank's own.
#[derive(Debug, Clone)]
pub struct Transport {
    /// `[N, B, K]`. Each row sums to one.
    pub codes: Tensor<3>,
    /// `f`, `[N, K]`, in units of the scores.
    pub prototype_potentials: Tensor<2>,
    /// `g`, `[N, B]`, in units of the scores.
    pub sample_potentials: Tensor<2>,
    /// Rounds that were made.
    pub iterations: usize,
    /// The largest over the sets of `Σ_k |Σ_i Q_ik − r_k|`.
    pub marginal_error: f64,
    /// Whether the tolerance was met; also true where none was asked for.
    pub converged: bool,
}

impl Transport {
    /// `⟨Q, s⟩`, the mean score of a sample with what it is assigned to: `[N]`. The transport cost is its negative. Over
    /// several ranks it is the mean of the rank's own samples.
    ///
    /// # Panics
    ///
    /// If `scores` have not the shape of the codes.
    pub fn mean_score(&self, scores: &Tensor<3>) -> Tensor<1> {
        let [sets, samples, _] = self.codes.dims();
        assert_eq!(
            scores.dims(),
            self.codes.dims(),
            "mean_score: the scores must be those that the codes were made of"
        );
        let scores = scores.clone().without_autodiff().cast(FloatDType::F32);
        let products = self.codes.clone() * scores;
        products.sum_dims(&[1, 2]).reshape([sets]) / samples as f64
    }
}

/// Solves the transport problem for `scores` `[N, B, K]`: as [`sinkhorn`](crate::sinkhorn), but until the marginals
/// are met if so wished, with marginals of one's own, and with the potentials.
///
/// Reads a number from the device in each round where a tolerance is set, and a few at the end.
///
/// # Errors
///
/// [`OtError::NotFinite`] if a score is infinite or not a number; [`OtError::Empty`] if `N`, `B` or `K` is 0; and
/// if a setting is not what it must be, by its name. Only the first is found after something has crossed the ranks.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use swav_ot::{Local, TransportConfig, transport};
///
/// // Four samples that all like the first of two prototypes best; it may have three of them.
/// let scores = Tensor::<3>::from_floats(
///     [[[0.9, 0.1], [0.8, 0.2], [0.9, 0.0], [0.7, 0.6]]],
///     &Device::flex(),
/// );
/// let config = TransportConfig {
///     marginals: Some(vec![3.0, 1.0]),
///     ..TransportConfig::default()
/// };
/// let found = transport(scores, &config, &mut Local)?;
/// let chosen: Vec<i64> = found.codes.argmax(2).into_data().iter().collect();
/// assert_eq!(chosen, [0, 0, 0, 1]);
/// assert!(found.converged && found.marginal_error <= 1e-4);
/// # Ok::<(), swav_ot::OtError>(())
/// ```
pub fn transport(
    scores: Tensor<3>,
    config: &TransportConfig,
    reduce: &mut (impl Reduce + ?Sized),
) -> Result<Transport, OtError> {
    let (epsilon, stop) = (config.epsilon, config.stop);
    check_epsilon(epsilon)?;
    if let Stop::Converged { tolerance, .. } = stop
        && !(tolerance > 0.0 && tolerance < 2.0)
    {
        return Err(OtError::Tolerance(tolerance));
    }
    let scores = detached(scores)?;
    let [_, _, prototypes] = scores.dims();
    // What each prototype is to get, relative to the average one, `[1, K]`.
    let wanted = wanted(config.marginals.as_deref(), prototypes, &scores.device())?;

    let scores = Scores::new(scores, epsilon, config.implementation);
    let mut potentials = first_potentials(&scores, epsilon, reduce);
    potentials.offsets = potentials.offsets - wanted.clone().log() * epsilon;
    let mut iterations = 1;
    let (marginal_error, converged) = loop {
        let shares = reduce.sum(scores.shares(potentials.clone()));
        let error = marginal_error(&shares, &wanted);
        if !error.is_finite() {
            return Err(OtError::NotFinite);
        }
        let (ends, converged) = match stop {
            Stop::After(rounds) => (iterations >= rounds, true),
            Stop::Converged { tolerance, at_most } => {
                let met = error <= tolerance;
                (met || iterations >= at_most, met)
            }
        };
        if ends {
            break (error, converged);
        }
        potentials = next_potentials(potentials, shares / wanted.clone(), epsilon);
        iterations += 1;
    };
    Ok(Transport {
        codes: scores.codes(potentials.clone()),
        sample_potentials: scores.sample_potentials(potentials.clone()),
        prototype_potentials: potentials.sum(),
        iterations,
        marginal_error,
        converged,
    })
}

/// `K·r_k` as `[1, K]`.
fn wanted(
    marginals: Option<&[f64]>,
    prototypes: usize,
    device: &Device,
) -> Result<Tensor<2>, OtError> {
    let device = (device, DType::F32);
    let Some(marginals) = marginals else {
        return Ok(Tensor::ones([1, prototypes], device));
    };
    if marginals.len() != prototypes {
        return Err(OtError::Marginals {
            given: marginals.len(),
            prototypes,
        });
    }
    let refused = |prototype: usize| OtError::Marginal {
        prototype,
        value: marginals[prototype],
    };
    let is_share = |share: &f64| *share > 0.0 && share.is_finite();
    if let Some(prototype) = marginals.iter().position(|share| !is_share(share)) {
        return Err(refused(prototype));
    }
    let mean: f64 = marginals
        .iter()
        .map(|share| share / prototypes as f64)
        .sum();
    let relative: Vec<f32> = marginals
        .iter()
        .map(|share| (share / mean) as f32)
        .collect();
    if let Some(prototype) = relative.iter().position(|share| !share.is_normal()) {
        return Err(refused(prototype));
    }
    let data = TensorData::new(relative, [1, prototypes]);
    Ok(Tensor::from_data(data, device))
}

/// The largest over the sets of `Σ_k |share_k/B − r_k|`, where the shares sum to B.
fn marginal_error(shares: &Tensor<2>, wanted: &Tensor<2>) -> f64 {
    let [_, prototypes] = shares.dims();
    let relative = shares.clone() / shares.clone().mean_dim(1) - wanted.clone();
    let errors = relative.abs().sum_dim(1) / prototypes as f64;
    let errors: Vec<f64> = errors.into_data().iter().collect();
    // Not `f64::max`, which forgets what is not a number.
    errors
        .into_iter()
        .fold(0.0, |most, error| if error <= most { most } else { error })
}
