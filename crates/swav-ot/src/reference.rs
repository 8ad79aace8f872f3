//! The slow and obvious form, in `f64` and the log domain: what every fast form is tested against.

/// Sinkhorn-Knopp on `scores`, `samples × prototypes` row by row; returns the codes in the same layout.
///
/// Each round gives every prototype the share `1/K` and then every sample the share `1/B`; the result is
/// multiplied by `B` (Caron et al. 2020, section 3.1). In logarithms a division is a subtraction and a sum a
/// log-sum-exp, so no epsilon is too small for it. With no iterations, the exponentials are only divided by
/// their total.
///
/// # Panics
///
/// If `scores` does not hold `samples × prototypes` numbers, or if there are none.
///
/// # Example
///
/// ```
/// // Each sample prefers another prototype: the codes say so, and nothing has to be evened out.
/// let codes = swav_ot::reference::sinkhorn(&[1.0, 0.0, 0.0, 1.0], 2, 2, 0.05, 3);
/// assert!(codes[0] > 0.999 && codes[3] > 0.999);
/// ```
pub fn sinkhorn(
    scores: &[f64],
    samples: usize,
    prototypes: usize,
    epsilon: f64,
    iterations: usize,
) -> Vec<f64> {
    assert!(
        samples > 0 && prototypes > 0 && scores.len() == samples * prototypes,
        "reference::sinkhorn: {} scores for {samples} samples and {prototypes} prototypes",
        scores.len(),
    );
    let at = |sample: usize, prototype: usize| sample * prototypes + prototype;

    let mut log_q: Vec<f64> = scores.iter().map(|score| score / epsilon).collect();
    let total = log_sum_exp(log_q.iter().copied());
    log_q.iter_mut().for_each(|q| *q -= total);

    for _ in 0..iterations {
        for prototype in 0..prototypes {
            let share = log_sum_exp((0..samples).map(|sample| log_q[at(sample, prototype)]));
            for sample in 0..samples {
                log_q[at(sample, prototype)] -= share + (prototypes as f64).ln();
            }
        }
        for sample in 0..samples {
            let share = log_sum_exp((0..prototypes).map(|prototype| log_q[at(sample, prototype)]));
            for prototype in 0..prototypes {
                log_q[at(sample, prototype)] -= share + (samples as f64).ln();
            }
        }
    }
    log_q.iter().map(|q| q.exp() * samples as f64).collect()
}

/// `ln Σ exp(x)`, with the largest taken out.
fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = values.map(|value| (value - largest).exp()).sum();
    largest + sum.ln()
}
