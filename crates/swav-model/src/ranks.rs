//! Batch norm over the images of several processes.

use std::fmt::Debug;
use std::sync::Arc;

/// Adds numbers up over the processes that share a batch.
///
/// Every process makes the same calls in the same order, and gets the same bits back.
pub trait SumOverRanks: Debug + Send + Sync {
    /// How many processes there are.
    fn count(&self) -> usize;

    /// Replaces each value by its sum over the processes.
    fn sum(&self, values: &mut [f64]);
}

/// The processes over whose images batch norm takes its statistics: by default this one alone, otherwise synchronised batch
/// norm (Caron et al., NeurIPS 2020, appendix A.1).
///
/// Each process sends 2 C + 1 numbers of 64 bits for a layer of C channels in the forward pass, and as many in the backward
/// pass. The statistics are those of one process that has all images, up to rounding; processes need not have equally many.
#[derive(Clone, Debug, Default)]
pub struct Ranks(Option<Arc<dyn SumOverRanks>>);

impl Ranks {
    /// The processes that `sum` adds up over.
    pub fn new(sum: Arc<dyn SumOverRanks>) -> Self {
        Self((sum.count() > 1).then_some(sum))
    }

    /// How many processes there are.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(1, |ranks| ranks.count())
    }

    /// Whether this process has all images.
    pub(crate) fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Turns the mean and the biased variance of `n` values of each channel into those over all processes.
    #[cfg(any(feature = "flex", feature = "cube"))]
    pub(crate) fn moments(&self, n: usize, mean: &mut [f32], variance: &mut [f32]) {
        let own = mean.iter().zip(&*variance);
        let own = own.map(|(&mean, &variance)| (f64::from(mean), f64::from(variance)));
        let (mut sums, mut squares): (Vec<_>, Vec<_>) = own
            .map(|(mean, variance)| (n as f64 * mean, n as f64 * (variance + mean * mean)))
            .unzip();
        let all = self.sums(n, [&mut sums, &mut squares]);
        for (channel, (sum, square)) in sums.iter().zip(&squares).enumerate() {
            let of_all = sum / all;
            mean[channel] = of_all as f32;
            variance[channel] = (square / all - of_all * of_all).max(0.0) as f32;
        }
    }

    /// Adds up two sums over `n` values of each channel, in one message. Returns over how many values they then are.
    #[cfg(any(feature = "flex", feature = "cube"))]
    pub(crate) fn sums(&self, n: usize, [one, other]: [&mut [f64]; 2]) -> f64 {
        let Some(ranks) = &self.0 else {
            return n as f64;
        };
        let mut values = [&*one, &*other, &[n as f64]].concat();
        ranks.sum(&mut values);
        let (first, rest) = values.split_at(one.len());
        one.copy_from_slice(first);
        other.copy_from_slice(&rest[..other.len()]);
        rest[other.len()]
    }
}
