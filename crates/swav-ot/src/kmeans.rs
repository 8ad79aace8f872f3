//! Spherical k-means: clusters of directions.

use burn::tensor::{Tensor, TensorData};

use crate::{Implementation, OtError, Reduce};

/// What k-means ends with.
#[derive(Debug, Clone)]
pub struct Clusters {
    /// `[K, d]`, each row of unit length. The same on every rank.
    pub centroids: Tensor<2>,
    /// The cluster of each sample of this rank, N numbers below K.
    pub assignment: Vec<u32>,
}

/// Spherical k-means over `samples` `[N, d]` of unit length, from `centroids` `[K, d]` of unit length on (Dhillon and
/// Modha, 2001; with the settings of DeepCluster-v2, Caron et al. 2020, appendix A.4).
///
/// In each of `iterations` rounds every sample goes to the centroid of the largest inner product, of equal ones the
/// first, and every centroid to the mean of its samples, brought to unit length. A centroid without samples, or whose
/// samples cancel each other out, stays where it is. The samples are assigned once more at the end.
///
/// Deterministic: the order of the sums is that of the samples, whatever the number of threads. On the CPU (feature
/// `flex`) the scores are never written; elsewhere a block of them at a time.
///
/// # Ranks
///
/// Over several ranks each has samples of its own, N of them, at least one, and `reduce` says how sums cross the ranks. All
/// ranks end with the same centroids, those of one rank that has all the samples, up to the rounding of the sums.
///
/// - The sums of the clusters, `[K, d]`, cross once in each round, and nothing else does. A mean that is brought to unit
///   length needs no counts, and no objective is computed: the number of rounds is fixed.
/// - A centroid is without samples if it is on all ranks. It stays where it is, so no rank draws a replacement.
/// - `centroids` must hold the same bits on every rank. Where they are samples of different ranks, each rank writes those
///   that it holds into zeros, and [`Reduce::sum`] makes the whole of them.
///
/// # Errors
///
/// [`OtError::Empty`] if there is no sample, no centroid or no dimension: then nothing has crossed the ranks.
/// [`OtError::NotFinite`] if a centroid is no finite number at the end, which a sample of some rank must have been then;
/// all ranks return it.
///
/// # Panics
///
/// If samples and centroids differ in their dimensions.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use swav_ot::{Local, spherical_kmeans};
///
/// let device = Device::flex();
/// let samples = Tensor::<2>::from_floats([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]], &device);
/// let start = samples.clone().slice([0..2]);
/// let found = spherical_kmeans(samples, start, 10, &mut Local)?;
/// assert_eq!(found.assignment, [0, 0, 1, 1]);
/// # Ok::<(), swav_ot::OtError>(())
/// ```
pub fn spherical_kmeans(
    samples: Tensor<2>,
    centroids: Tensor<2>,
    iterations: usize,
    reduce: &mut (impl Reduce + ?Sized),
) -> Result<Clusters, OtError> {
    spherical_kmeans_with(
        samples,
        centroids,
        iterations,
        Implementation::Fused,
        reduce,
    )
}

/// [`spherical_kmeans`] by a given implementation. There is a kernel for the CPU alone.
///
/// # Errors
///
/// As [`spherical_kmeans`].
///
/// # Panics
///
/// As [`spherical_kmeans`].
pub fn spherical_kmeans_with(
    samples: Tensor<2>,
    centroids: Tensor<2>,
    iterations: usize,
    implementation: Implementation,
    reduce: &mut (impl Reduce + ?Sized),
) -> Result<Clusters, OtError> {
    let (samples, mut centroids) = (samples.without_autodiff(), centroids.without_autodiff());
    let ([count, dim], [clusters, of_centroids]) = (samples.dims(), centroids.dims());
    assert_eq!(dim, of_centroids, "dimensions of samples and of centroids");
    if count == 0 || clusters == 0 || dim == 0 {
        return Err(OtError::Empty([1, count, clusters]));
    }
    #[cfg(feature = "flex")]
    if implementation == Implementation::Fused
        && let Some(found) = flex::cluster(&samples, &centroids, iterations, reduce)
    {
        return found;
    }
    #[cfg(not(feature = "flex"))]
    let _ = implementation;
    for _ in 0..iterations {
        let assignment = nearest(&samples, &centroids);
        let sums = reduce.sum(sums(&samples, &assignment, &centroids));
        centroids = directions(sums, centroids);
    }
    let assignment = nearest(&samples, &centroids);
    if !centroids.clone().sum().into_scalar::<f32>().is_finite() {
        return Err(OtError::NotFinite);
    }
    let assignment = assignment.into_iter().flat_map(|block| {
        let block: Vec<u32> = block.into_data().iter().collect();
        block
    });
    Ok(Clusters {
        assignment: assignment.collect(),
        centroids,
    })
}

/// Scores that are there at a time.
const BLOCK_SCORES: usize = 1 << 24;

/// The best centroid of each sample, block by block.
fn nearest(samples: &Tensor<2>, centroids: &Tensor<2>) -> Vec<Tensor<1, burn::tensor::Int>> {
    let clusters = centroids.dims()[0];
    let turned = centroids.clone().transpose();
    let blocks = samples.clone().split((BLOCK_SCORES / clusters).max(1), 0);
    let best = |block: Tensor<2>| block.matmul(turned.clone()).argmax(1).squeeze_dim(1);
    blocks.into_iter().map(best).collect()
}

/// The sum of the samples of each cluster, by a product with the matrix of who belongs where: unlike adding up
/// in whatever order threads arrive, it comes out the same every time.
fn sums(
    samples: &Tensor<2>,
    assignment: &[Tensor<1, burn::tensor::Int>],
    centroids: &Tensor<2>,
) -> Tensor<2> {
    let clusters = centroids.dims()[0];
    let device = centroids.device();
    let all = Tensor::<1, burn::tensor::Int>::arange(0..clusters as i64, &device);
    let mut start = 0;
    let mut sums = centroids.zeros_like();
    for block in assignment {
        let rows = block.dims()[0];
        let belongs = block
            .clone()
            .unsqueeze_dim::<2>(0)
            .equal(all.clone().unsqueeze_dim(1));
        let samples = samples.clone().narrow(0, start, rows);
        sums = sums + belongs.float().matmul(samples);
        start += rows;
    }
    sums
}

/// The sums brought to unit length; the centroid where the sum has none.
fn directions(sums: Tensor<2>, centroids: Tensor<2>) -> Tensor<2> {
    let lengths = sums.clone().square().sum_dim(1).sqrt();
    let empty = lengths.clone().equal_scalar(0.0).expand(sums.dims());
    (sums / lengths).mask_where(empty, centroids)
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::Flex;
    use burn::tensor::{DType, Device, Tensor, TensorData};
    use rayon::prelude::*;

    use super::Clusters;
    use crate::kernel::nearest::nearest;
    use crate::{OtError, Reduce};

    /// All of it on slices, if that is where the samples are.
    pub(super) fn cluster(
        samples: &Tensor<2>,
        centroids: &Tensor<2>,
        iterations: usize,
        reduce: &mut (impl Reduce + ?Sized),
    ) -> Option<Result<Clusters, OtError>> {
        if samples.device() != Device::flex() || samples.dtype() != DType::F32 {
            return None;
        }
        let shape = centroids.dims();
        let mut centroids: Vec<f32> = centroids.to_data().iter().collect();
        let samples = samples.clone().try_into_primitive::<Flex>().ok()?;
        let samples = samples.to_contiguous();
        let samples: &[f32] = samples.as_slice()?;
        for _ in 0..iterations {
            let assignment = nearest(samples, &centroids, shape[1]);
            let sums = sums(samples, &assignment, shape);
            let sums = Tensor::from_data(TensorData::new(sums, shape), &Device::flex());
            let sums: Vec<f32> = reduce.sum(sums).into_data().iter().collect();
            move_to(&mut centroids, &sums, shape[1]);
        }
        if centroids.iter().any(|value| !value.is_finite()) {
            return Some(Err(OtError::NotFinite));
        }
        Some(Ok(Clusters {
            assignment: nearest(samples, &centroids, shape[1]),
            centroids: Tensor::from_data(TensorData::new(centroids, shape), &Device::flex()),
        }))
    }

    /// The sum of the samples of each cluster, `[K, d]`, in their order.
    fn sums(samples: &[f32], assignment: &[u32], [clusters, dim]: [usize; 2]) -> Vec<f32> {
        // Samples by cluster: those of cluster k are `order[starts[k]..starts[k + 1]]`.
        let mut starts = vec![0; clusters + 1];
        for &cluster in assignment {
            starts[cluster as usize + 1] += 1;
        }
        for k in 1..starts.len() {
            starts[k] += starts[k - 1];
        }
        let mut places = starts.clone();
        let mut order = vec![0; assignment.len()];
        for (sample, &cluster) in assignment.iter().enumerate() {
            let place = &mut places[cluster as usize];
            order[*place] = sample;
            *place += 1;
        }
        let mut sums = vec![0.0; clusters * dim];
        sums.par_chunks_exact_mut(dim)
            .zip(starts.par_windows(2))
            .for_each(|(sum, range)| {
                for &sample in &order[range[0]..range[1]] {
                    for (sum, &value) in sum.iter_mut().zip(&samples[sample * dim..]) {
                        *sum += value;
                    }
                }
            });
        sums
    }

    /// Moves each centroid to the direction of its sum, if that has one.
    fn move_to(centroids: &mut [f32], sums: &[f32], dim: usize) {
        centroids
            .par_chunks_exact_mut(dim)
            .zip(sums.par_chunks_exact(dim))
            .for_each(|(centroid, sum)| {
                let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
                if length != 0.0 {
                    let unit = sum.iter().map(|value| value / length);
                    centroid
                        .iter_mut()
                        .zip(unit)
                        .for_each(|(to, value)| *to = value);
                }
            });
    }
}

/// K different samples to begin with: the rows `chosen` of `samples`.
///
/// # Panics
/// If there is no such row.
pub fn centroids_from(samples: &Tensor<2>, chosen: &[usize]) -> Tensor<2> {
    let rows: Vec<i64> = chosen.iter().map(|&row| row as i64).collect();
    let count = rows.len();
    let rows = TensorData::new(rows, [count]);
    samples
        .clone()
        .select(0, Tensor::from_data(rows, &samples.device()))
}
