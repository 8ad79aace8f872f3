use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use burn::tensor::{Int, Tensor};

use crate::OtError;

/// Hard codes by rounding (Caron et al. 2020, section 3.1; Asano et al., *Self-labelling via simultaneous
/// clustering and representation learning*, ICLR 2020): each sample goes to the prototype that has most of it.
/// Codes `[B, K]` to one-hot codes `[B, K]`.
///
/// The codes share the samples out equally, and rounding keeps that about as well as they are hard; where equal
/// shares are needed to the sample, take [`balanced_assignment`].
///
/// # Panics
///
/// If `K` is 0.
pub fn hard_codes(codes: &Tensor<2>) -> Tensor<2> {
    let codes = codes.clone().without_autodiff();
    let [_, prototypes] = codes.dims();
    assert!(prototypes > 0, "hard_codes: codes are [B, K] with K = 0");
    let chosen: Tensor<2, Int> = codes.clone().argmax(1);
    let ones = Tensor::ones(chosen.dims(), (&codes.device(), codes.dtype()));
    codes
        .zeros_like()
        .scatter(1, chosen, ones, burn::tensor::IndexingUpdateOp::Add)
}

/// Hard codes of equal shares, to the sample: the prototype of each row of codes `[B, K]`, where each gets
/// `⌊B/K⌋` or `⌈B/K⌉` samples.
///
/// The largest code of all is granted first, then the next largest whose sample is still free and whose
/// prototype still has room, and so on. Of equal codes the earlier sample, and then the earlier prototype, come
/// first. Runs on the host, after reading the codes.
///
/// # Errors
///
/// [`OtError::Empty`] if `B` or `K` is 0, and [`OtError::NotFinite`] if a code is not a finite number.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use swav_ot::balanced_assignment;
///
/// // Three of four samples are mostly the first prototype's; it may keep two.
/// let codes = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]];
/// let codes = Tensor::<2>::from_floats(codes, &Device::flex());
/// assert_eq!(balanced_assignment(&codes)?, [0, 1, 0, 1]);
/// # Ok::<(), swav_ot::OtError>(())
/// ```
pub fn balanced_assignment(codes: &Tensor<2>) -> Result<Vec<usize>, OtError> {
    let [samples, prototypes] = codes.dims();
    if samples == 0 || prototypes == 0 {
        return Err(OtError::Empty([1, samples, prototypes]));
    }
    let codes: Vec<f32> = codes.to_data().iter().collect();
    if codes.iter().any(|code| !code.is_finite()) {
        return Err(OtError::NotFinite);
    }

    let mut preferences: Vec<Preferences<'_>> =
        codes.chunks(prototypes).map(Preferences::new).collect();
    // Each sample's best preference that was not yet refused. The best of them all is granted or refused next.
    let mut open: BinaryHeap<Preference> = preferences
        .iter_mut()
        .enumerate()
        .filter_map(|(sample, preferences)| preferences.next(sample))
        .collect();
    // Where K does not divide B, only so many prototypes may have one more than the others.
    let (room, mut more) = (samples / prototypes, samples % prototypes);
    let mut granted = vec![0; prototypes];
    let mut assignment = vec![0; samples];
    while let Some(preference) = open.pop() {
        let granted = &mut granted[preference.prototype];
        if *granted < room || (*granted == room && more > 0) {
            more -= usize::from(*granted == room);
            *granted += 1;
            assignment[preference.sample] = preference.prototype;
        } else {
            open.extend(preferences[preference.sample].next(preference.sample));
        }
    }
    Ok(assignment)
}

/// A sample and a prototype that it wants. The larger one is granted first.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Preference {
    code: f32,
    sample: usize,
    prototype: usize,
}

impl Eq for Preference {}

impl PartialOrd for Preference {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Preference {
    fn cmp(&self, other: &Self) -> Ordering {
        let earlier = |preference: &Self| Reverse((preference.sample, preference.prototype));
        let code = self.code.total_cmp(&other.code);
        code.then_with(|| earlier(self).cmp(&earlier(other)))
    }
}

/// The prototypes that a sample wants, best first. Most samples get one of their first few, so the order is found
/// a few at a time.
struct Preferences<'a> {
    codes: &'a [f32],
    best: Vec<usize>,
    yielded: usize,
}

impl<'a> Preferences<'a> {
    fn new(codes: &'a [f32]) -> Self {
        Self {
            codes,
            best: Vec::new(),
            yielded: 0,
        }
    }

    /// The next one of the sample with this number.
    fn next(&mut self, sample: usize) -> Option<Preference> {
        if self.yielded == self.best.len() {
            self.find((4 * self.yielded).max(4));
        }
        let prototype = *self.best.get(self.yielded)?;
        self.yielded += 1;
        Some(Preference {
            code: self.codes[prototype],
            sample,
            prototype,
        })
    }

    /// The `count` best, in order.
    fn find(&mut self, count: usize) {
        let better = |one: &usize, other: &usize| {
            let by_code = self.codes[*other].total_cmp(&self.codes[*one]);
            by_code.then(one.cmp(other))
        };
        let mut best: Vec<usize> = (0..self.codes.len()).collect();
        if count < best.len() {
            best.select_nth_unstable_by(count, better);
            best.truncate(count);
        }
        best.sort_unstable_by(better);
        self.best = best;
    }
}
