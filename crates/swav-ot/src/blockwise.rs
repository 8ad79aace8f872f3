//! Sinkhorn-Knopp over more samples than scores can be kept of.

use burn::tensor::{Tensor, TensorData};

use crate::kernel::{Implementation, Potentials, Scores};
use crate::sinkhorn::{detached, next_potentials};
use crate::{OtError, Reduce, SinkhornConfig};

/// What an assignment comes down to: a number for each prototype, with which the code of any sample can be told from
/// its scores alone.
#[derive(Debug, Clone)]
pub struct PrototypePotentials {
    potentials: Potentials,
    epsilon: f64,
}

impl PrototypePotentials {
    /// The potentials of an assignment of all the samples whose scores `block` yields, `[B, K]` for each number below
    /// `blocks`; B may differ from block to block.
    ///
    /// A block is asked for once in each of the rounds, so that one of them at a time needs to be in memory: what is
    /// kept are K numbers. The codes of a block, by [`codes`](Self::codes), are then those that
    /// [`sinkhorn`](crate::sinkhorn) would give to all scores at once, up to rounding.
    ///
    /// Over several ranks each has blocks of its own, at least one; their numbers and sizes may differ from rank to rank.
    /// `reduce` says how sums cross the ranks: numbers of the shape `[1, 1]` or `[1, K]`, as many of them however many
    /// blocks there are. All ranks get the same potentials.
    ///
    /// # Errors
    ///
    /// [`OtError::Empty`] if there is no block, or one has no samples or no prototypes; [`OtError::NotFinite`] if a score
    /// is infinite or not a number, on every rank wherever that score is; and if the configuration is not valid or has no
    /// iterations, which leaves nothing that could be kept. A rank finds an empty block when it comes to it, and the
    /// other ranks may then wait in `reduce`.
    pub fn of_blocks(
        blocks: usize,
        mut block: impl FnMut(usize) -> Tensor<2>,
        config: &SinkhornConfig,
        reduce: &mut (impl Reduce + ?Sized),
    ) -> Result<Self, OtError> {
        config.validate()?;
        if blocks == 0 || config.iterations == 0 {
            return Err(OtError::Empty([blocks, 0, 0]));
        }
        let epsilon = config.epsilon;
        let mut scores = |number| {
            let scores = detached(block(number).unsqueeze_dim(0))?;
            Ok(Scores::new(scores, epsilon, Implementation::Fused))
        };

        let first: Scores = scores(0)?;
        let centres = reduce.max(first.typical());
        let mut offsets = first.prototype_potentials(centres.clone());
        for number in 1..blocks {
            let more = scores(number)?.prototype_potentials(centres.clone());
            offsets = log_sum_exp(offsets, more, epsilon);
        }
        let offsets = reduce.log_sum_exp(offsets, epsilon);
        let mut potentials = Potentials { centres, offsets }.centred();
        for _ in 1..config.iterations {
            let mut shares = scores(0)?.shares(potentials.clone());
            for number in 1..blocks {
                shares = shares + scores(number)?.shares(potentials.clone());
            }
            potentials = next_potentials(potentials, reduce.sum(shares), epsilon);
        }
        let sum = potentials.sum().sum().into_scalar::<f32>();
        if !sum.is_finite() {
            return Err(OtError::NotFinite);
        }
        Ok(Self {
            potentials,
            epsilon,
        })
    }

    /// The codes `[B, K]` of samples with the scores `[B, K]`: each row sums to one.
    ///
    /// # Errors
    ///
    /// [`OtError::Empty`] if `B` or `K` is 0.
    pub fn codes(&self, scores: Tensor<2>) -> Result<Tensor<2>, OtError> {
        let scores = detached(scores.unsqueeze_dim(0))?;
        let scores = Scores::new(scores, self.epsilon, Implementation::Fused);
        Ok(scores.codes(self.potentials.clone()).squeeze_dim(0))
    }

    /// What they are, as K + 1 numbers for a file: one that all have in common, and what each adds to it.
    pub fn numbers(&self) -> Vec<f32> {
        let parts = vec![
            self.potentials.centres.clone(),
            self.potentials.offsets.clone(),
        ];
        Tensor::cat(parts, 1).into_data().iter().collect()
    }

    /// The potentials that [`numbers`](Self::numbers) are of, to the last bit.
    ///
    /// # Errors
    ///
    /// [`OtError::Empty`] if there are fewer than two numbers.
    pub fn from_numbers(
        numbers: &[f32],
        epsilon: f64,
        device: &burn::tensor::Device,
    ) -> Result<Self, OtError> {
        let [centre, offsets @ ..] = numbers else {
            return Err(OtError::Empty([1, 1, 0]));
        };
        if offsets.is_empty() {
            return Err(OtError::Empty([1, 1, 0]));
        }
        let row = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [1, values.len()]);
            Tensor::from_data(data, device)
        };
        Ok(Self {
            potentials: Potentials {
                centres: row(&[*centre]),
                offsets: row(offsets),
            },
            epsilon,
        })
    }
}

/// `ε ln(exp(a/ε) + exp(b/ε))`
fn log_sum_exp(a: Tensor<2>, b: Tensor<2>, epsilon: f64) -> Tensor<2> {
    let largest = a.clone().max_pair(b.clone());
    let part = |x: Tensor<2>| ((x - largest.clone()) / epsilon).exp();
    let sum = part(a) + part(b);
    largest.clone() + sum.log() * epsilon
}
