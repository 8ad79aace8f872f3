use burn::tensor::{FloatDType, IndexingUpdateOp, Int, Tensor};

/// Prototypes compared with all others at a time by [`duplicate_prototypes`].
const BLOCK: usize = 512;

/// Mean entropy of the rows of `codes` `[B, K]`, in nats, as a tensor of one element.
///
/// Between 0 (every code is one-hot) and `ln K` (every code is uniform). Codes that stay near `ln K` say that
/// the scores are all alike, which is how a collapse begins.
///
/// # Panics
///
/// If `B` or `K` is 0.
pub fn code_entropy(codes: &Tensor<2>) -> Tensor<1> {
    let codes = detached(codes, "code_entropy");
    let [samples, _] = codes.dims();
    // 0·ln 0 is 0: the logarithm only has to be finite there.
    let logs = codes.clone().clamp_min(f32::MIN_POSITIVE).log();
    (codes * logs).sum().abs() / samples as f64
}

/// How far the prototypes' shares in `codes` `[B, K]` are from equal, as a tensor of one element:
/// `Σ_k |Σ_i q_ik − B/K| / B`.
///
/// 0 when all are equal, near 2 when one prototype has everything. It tells how much the iterations of Sinkhorn left
/// undone; for that, hand in all rows that took part. (Codes of a batch that was balanced together with a
/// queue are not balanced by themselves, and need not be.)
///
/// # Panics
///
/// If `B` or `K` is 0.
pub fn marginal_error(codes: &Tensor<2>) -> Tensor<1> {
    let codes = detached(codes, "marginal_error");
    let [samples, prototypes] = codes.dims();
    let shares = codes.sum_dim(0);
    (shares - samples as f64 / prototypes as f64).abs().sum() / samples as f64
}

/// How many rows of `codes` `[B, K]` have their largest entry at each prototype, `[K]`.
///
/// Works on scores just as well. Sum the counts of several batches to watch usage over more samples than
/// one batch has.
///
/// # Panics
///
/// If `B` or `K` is 0.
pub fn assignment_counts(codes: &Tensor<2>) -> Tensor<1, Int> {
    let codes = detached(codes, "assignment_counts");
    let [samples, prototypes] = codes.dims();
    let device = codes.device();
    let chosen = codes.argmax(1).squeeze_dim(1);
    Tensor::<1, Int>::zeros([prototypes], &device).select_assign(
        0,
        chosen,
        Tensor::ones([samples], &device),
        IndexingUpdateOp::Add,
    )
}

/// Entropy of how `counts` `[K]` are spread over the prototypes, divided by `ln K`, as a tensor of one
/// element: 1 when all are used alike, 0 when one is used alone (and where there is only one, or no count).
///
/// # Panics
///
/// If `K` is 0.
pub fn usage_entropy(counts: &Tensor<1, Int>) -> Tensor<1> {
    let [prototypes] = counts.dims();
    assert!(prototypes > 0, "usage_entropy: counts are [K] = [0]");
    let counts = counts.clone().cast(FloatDType::F32);
    let shares = counts.clone() / counts.sum().clamp_min(1.0);
    let logs = shares.clone().clamp_min(f32::MIN_POSITIVE).log();
    let uniform = (prototypes as f64).ln();
    (shares * logs).sum().abs() / if prototypes > 1 { uniform } else { 1.0 }
}

/// What [`code_entropy`], [`marginal_error`] and [`assignment_counts`] say of one batch of codes, still on the
/// device. Nothing waits for the device until [`read`](Self::read).
#[derive(Debug, Clone)]
pub struct CodeStatistics {
    /// Mean entropy of a code in nats, one element.
    pub entropy: Tensor<1>,
    /// Relative deviation of the prototypes' shares from equal ones, one element.
    pub marginal_error: Tensor<1>,
    /// Samples assigned to each prototype, `[K]`.
    pub counts: Tensor<1, Int>,
}

impl CodeStatistics {
    /// Statistics of `codes`, `[B, K]`.
    ///
    /// # Panics
    ///
    /// If `B` or `K` is 0.
    pub fn of(codes: &Tensor<2>) -> Self {
        Self {
            entropy: code_entropy(codes),
            marginal_error: marginal_error(codes),
            counts: assignment_counts(codes),
        }
    }

    /// Brings the figures to the host. Five numbers are read, once: this waits for the device.
    pub fn read(&self) -> CodeReport {
        let [prototypes] = self.counts.dims();
        let counts = self.counts.clone().cast(FloatDType::F32);
        let used = counts.clone().clamp_max(1.0).sum();
        let busiest = counts.clone().max() / counts.sum().clamp_min(1.0);
        let figures = Tensor::cat(
            vec![
                self.entropy.clone(),
                self.marginal_error.clone(),
                usage_entropy(&self.counts),
                busiest,
                used,
            ],
            0,
        );
        let figures = figures.into_data();
        let mut figures = figures.iter::<f64>();
        let mut next = || figures.next().unwrap_or(f64::NAN);
        let [entropy, marginal_error, usage_entropy, busiest] = [next(), next(), next(), next()];
        let used = next() as usize;
        CodeReport {
            entropy,
            max_entropy: (prototypes as f64).ln(),
            marginal_error,
            used,
            dead: prototypes - used,
            usage_entropy,
            busiest,
        }
    }
}

/// [`CodeStatistics`] on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CodeReport {
    /// Mean entropy of a code, in nats.
    pub entropy: f64,
    /// The largest value that `entropy` can have: `ln K`.
    pub max_entropy: f64,
    /// Relative deviation of the prototypes' shares from equal ones, see [`marginal_error`].
    pub marginal_error: f64,
    /// Prototypes that at least one sample was assigned to.
    pub used: usize,
    /// Prototypes that none was assigned to. In a batch with fewer samples than prototypes some always are.
    pub dead: usize,
    /// How evenly samples are spread over the prototypes, see [`usage_entropy`].
    pub usage_entropy: f64,
    /// The share of the samples that the most used prototype has.
    pub busiest: f64,
}

/// The prototypes whose count is zero, in ascending order. Reads `counts` `[K]` to the host.
///
/// Says something only about counts of many more samples than there are prototypes.
pub fn dead_prototypes(counts: &Tensor<1, Int>) -> Vec<usize> {
    let counts = counts.to_data();
    let dead = counts.iter::<i64>().enumerate();
    dead.filter(|(_, count)| *count == 0)
        .map(|(prototype, _)| prototype)
        .collect()
}

/// A prototype that points where an earlier one does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duplicate {
    /// The later of the two.
    pub prototype: usize,
    /// The earlier prototype that is closest to it.
    pub original: usize,
    /// The cosine of the angle between them.
    pub cosine: f32,
}

/// Which of `prototypes` `[K, D]` have a cosine of more than `threshold` with an earlier one; 0.99 is a
/// sensible value. Rows need not be of unit length; a row of zeros is like no other.
///
/// The length of the answer is how many prototypes could be removed without loss. Works in blocks, so that no `K × K`
/// table is held, and reads `2·K` numbers to the host.
///
/// # Panics
///
/// If `K` or `D` is 0.
pub fn duplicate_prototypes(prototypes: &Tensor<2>, threshold: f64) -> Vec<Duplicate> {
    let prototypes = detached(prototypes, "duplicate_prototypes");
    let [count, _] = prototypes.dims();
    let device = prototypes.device();
    let lengths = prototypes.clone().square().sum_dim(1).sqrt();
    let units = prototypes / lengths.clamp_min(f32::MIN_POSITIVE);

    let (mut cosines, mut originals) = (Vec::new(), Vec::new());
    for start in (0..count).step_by(BLOCK) {
        let rows = BLOCK.min(count - start);
        let end = start + rows;
        let block = units.clone().narrow(0, start, rows);
        let cosine = block.matmul(units.clone().narrow(0, 0, end).transpose());
        // Each is compared with those before it only: itself and later ones are out of the running.
        let row = Tensor::<1, Int>::arange(start as i64..end as i64, &device);
        let column = Tensor::<1, Int>::arange(0..end as i64, &device);
        let later = column
            .unsqueeze_dim::<2>(0)
            .expand([rows, end])
            .greater_equal(row.unsqueeze_dim::<2>(1).expand([rows, end]));
        let (largest, original) = cosine.mask_fill(later, -2.0).max_dim_with_indices(1);
        cosines.push(largest);
        originals.push(original);
    }
    let cosines = Tensor::cat(cosines, 0).into_data();
    let originals = Tensor::cat(originals, 0).into_data();

    let pairs = cosines.iter::<f32>().zip(originals.iter::<i64>());
    pairs
        .enumerate()
        .filter(|(_, (cosine, _))| f64::from(*cosine) > threshold)
        .map(|(prototype, (cosine, original))| Duplicate {
            prototype,
            original: original as usize,
            cosine,
        })
        .collect()
}

/// A copy in `f32` that no gradient is recorded for.
fn detached(tensor: &Tensor<2>, what: &str) -> Tensor<2> {
    let shape = tensor.dims();
    assert!(
        !shape.contains(&0),
        "{what}: the tensor is {shape:?}, and neither may be 0"
    );
    tensor.clone().without_autodiff().cast(FloatDType::F32)
}
