//! What images are labelled with for an epoch: a cluster each, by each head.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Bank, Metric};
use crate::comm::Communicator;

/// For each head the cluster of each image of the source, where it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<Vec<i32>>);

impl Labels {
    /// The label of an image that was not seen.
    pub(crate) const NONE: i32 = -1;

    /// The names of the [metrics](Self::metrics).
    pub(crate) const METRICS: [&str; 3] = ["used_clusters", "cluster_entropy", "label_agreement"];

    /// No labels yet, for `heads` heads over `images` images.
    pub fn none(heads: usize, images: usize) -> Self {
        Self(vec![vec![Self::NONE; images]; heads])
    }

    /// Labels anew: the image `indices[i]` gets `clusters[h][i]`, all others none.
    pub fn assign(&mut self, indices: impl Iterator<Item = usize> + Clone, clusters: &[Vec<u32>]) {
        for (labels, clusters) in self.0.iter_mut().zip(clusters) {
            labels.fill(Self::NONE);
            for (index, &cluster) in indices.clone().zip(clusters) {
                labels[index] = cluster as i32;
            }
        }
    }

    /// Labels anew: of the images of a bank, of which this rank has those in `clusters[h]`, and of those that the other ranks have.
    pub(crate) fn assign_all(
        &mut self,
        bank: &Bank,
        clusters: &[Vec<u32>],
        ranks: &mut dyn Communicator,
    ) {
        let indices = bank.indices_of_all(ranks);
        let heads = clusters.iter().map(|clusters| {
            let own: Vec<i32> = clusters.iter().map(|&cluster| cluster as i32).collect();
            let all = ranks.gather_integers(&own).into_iter();
            all.map(|cluster| cluster as u32).collect()
        });
        let clusters: Vec<Vec<u32>> = heads.collect();
        self.assign(indices.into_iter(), &clusters);
    }

    /// The labels of each head, `[images]`, −1 where there is none.
    pub fn heads(&self) -> &[Vec<i32>] {
        &self.0
    }

    /// The labels that were saved.
    pub(crate) fn restore(heads: Vec<Vec<i32>>) -> Self {
        Self(heads)
    }

    /// What each head has for the images `indices`, as distributions `[B, K]` over its number of `clusters`. Images without a
    /// label have zeros, and the others weigh so much more that a mean over all of all ranks is the mean over those with one.
    pub fn distributions(
        &self,
        indices: &[usize],
        clusters: &[usize],
        device: &Device,
        ranks: &mut dyn Communicator,
    ) -> Vec<Tensor<2>> {
        let heads = self.0.iter();
        let labels: Vec<Vec<i32>> = heads
            .map(|head| indices.iter().map(|&index| head[index]).collect())
            .collect();
        let labelled = labels.iter().map(|labels| {
            let labelled = labels.iter().filter(|&&label| label != Self::NONE);
            labelled.count()
        });
        let weights = weights(indices.len(), labelled, ranks);
        let heads = labels.into_iter().zip(clusters).zip(weights);
        heads
            .map(|((labels, &clusters), weight)| one_hot(labels, clusters, device) * weight)
            .collect()
    }

    /// What can be said of the labels, each the mean over the heads of `clusters` clusters: `used_clusters`, the share of
    /// the clusters that have an image; `cluster_entropy`, how even their sizes are, 1 where all are the same; and, where
    /// there were labels `before`, `label_agreement`, how much of them the labels have kept, 1 where one can be told from
    /// the other. The names of clusters do not count: k-means gives them anew.
    pub fn metrics(&self, before: &Self, clusters: &[usize]) -> Vec<Metric> {
        let heads = || self.0.iter().zip(clusters);
        let sizes: Vec<Vec<usize>> = heads().map(|(labels, &k)| sizes(labels, k)).collect();
        let used = sizes.iter().map(|sizes| {
            let used = sizes.iter().filter(|&&size| size > 0).count();
            used as f64 / sizes.len() as f64
        });
        let even = sizes
            .iter()
            .map(|sizes| entropy(sizes) / (sizes.len() as f64).ln());
        let kept = self.0.iter().zip(&before.0);
        let kept: Option<Vec<f64>> = kept.map(|(now, then)| agreement(now, then)).collect();
        let [used, even] = [mean(used), mean(even)];
        let values = [
            Some(used),
            Some(even),
            kept.map(|kept| mean(kept.into_iter())),
        ];
        let named = Self::METRICS.into_iter().zip(values);
        named
            .filter_map(|(name, value)| Some(Metric::new(name, value?)))
            .collect()
    }
}

/// By how much more each of those images weighs that have a label, of which this rank has `labelled` among its `rows`, so that a
/// mean over the rows of all ranks is the mean over those with one.
pub(super) fn weights(
    rows: usize,
    labelled: impl Iterator<Item = usize>,
    ranks: &mut dyn Communicator,
) -> Vec<f64> {
    let mut counts: Vec<f64> = labelled.map(|count| count as f64).collect();
    ranks.add(&mut counts);
    let rows = (rows * ranks.world()) as f64;
    counts
        .into_iter()
        .map(|count| rows / count.max(1.0))
        .collect()
}

/// Rows with a one where their label is, `[B, classes]`; a label of −1 gives zeros.
pub fn one_hot(labels: Vec<i32>, classes: usize, device: &Device) -> Tensor<2> {
    let shape = [labels.len(), 1];
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, shape), device);
    let all = Tensor::<1, Int>::arange(0..classes as i64, device).unsqueeze_dim::<2>(0);
    labels.equal(all).float()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1) as f64;
    values.sum::<f64>() / count
}

/// Images of each cluster.
fn sizes(labels: &[i32], clusters: usize) -> Vec<usize> {
    let mut sizes = vec![0; clusters];
    for &label in labels.iter().filter(|&&label| label != Labels::NONE) {
        sizes[label as usize] += 1;
    }
    sizes
}

/// `−Σ p ln p` of what is `counts` in numbers.
fn entropy(counts: &[usize]) -> f64 {
    let all = counts.iter().sum::<usize>() as f64;
    let counts = counts.iter().filter(|&&count| count > 0);
    let shares = counts.map(|&count| count as f64 / all);
    -shares.map(|share| share * share.ln()).sum::<f64>()
}

/// The normalised mutual information `I/√(H·H)` of two labellings over the images that have a label in both, by which
/// Caron et al. watch how clusters settle ("Deep clustering", ECCV 2018, equation 3); none without such images.
fn agreement(now: &[i32], then: &[i32]) -> Option<f64> {
    let both = now.iter().zip(then);
    let both = both.filter(|(now, then)| **now != Labels::NONE && **then != Labels::NONE);
    let mut pairs: Vec<(i32, i32)> = both.map(|(&now, &then)| (now, then)).collect();
    pairs.sort_unstable();
    let runs = |same: fn(&(i32, i32), &(i32, i32)) -> bool, pairs: &[(i32, i32)]| {
        let counts: Vec<usize> = pairs.chunk_by(same).map(<[_]>::len).collect();
        entropy(&counts)
    };
    let together = runs(|a, b| a == b, &pairs);
    let of_now = runs(|a, b| a.0 == b.0, &pairs);
    pairs.sort_unstable_by_key(|pair| pair.1);
    let of_then = runs(|a, b| a.1 == b.1, &pairs);
    match (pairs.is_empty(), of_now * of_then) {
        (true, _) => None,
        // All in one cluster, then or now: nothing is told.
        (_, 0.0) => Some(0.0),
        (_, product) => Some((of_now + of_then - together) / product.sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Local;

    #[test]
    fn an_image_without_a_label_weighs_nothing_and_the_others_more() {
        let mut labels = Labels::none(1, 5);
        labels.assign([3, 0].into_iter(), &[vec![1, 2]]);
        let device = Device::flex();
        let rows = labels.distributions(&[0, 1, 3, 4], &[3], &device, &mut Local);
        let rows: Vec<f32> = rows[0].clone().into_data().iter().collect();
        let expected = [0., 0., 2., 0., 0., 0., 0., 2., 0., 0., 0., 0.];
        assert_eq!(rows, expected);
    }

    fn labels(heads: &[&[u32]]) -> Labels {
        let mut labels = Labels::none(heads.len(), heads[0].len() + 1);
        let heads: Vec<Vec<u32>> = heads.iter().map(|head| head.to_vec()).collect();
        labels.assign(0..heads[0].len(), &heads);
        labels
    }

    fn metric(metrics: &[Metric], name: &str) -> Option<f64> {
        let metric = metrics.iter().find(|metric| metric.name == name);
        metric.map(|metric| metric.value)
    }

    #[test]
    fn metrics_tell_clusters_in_use_and_how_even_they_are() {
        let none = Labels::none(2, 5);
        let metrics = labels(&[&[0, 0, 1, 1], &[2, 2, 2, 2]]).metrics(&none, &[4, 4]);
        assert_eq!(metric(&metrics, "used_clusters"), Some((0.5 + 0.25) / 2.0));
        assert_eq!(metric(&metrics, "cluster_entropy"), Some((0.5 + 0.0) / 2.0));
        assert_eq!(metric(&metrics, "label_agreement"), None);
    }

    #[test]
    fn labels_agree_if_one_can_be_told_from_the_other_whatever_the_clusters_are_called() {
        let agreement = |now: &[u32], then: &[u32]| {
            let metrics = labels(&[now]).metrics(&labels(&[then]), &[4]);
            metric(&metrics, "label_agreement").unwrap()
        };
        let then = [0, 0, 1, 1, 2, 2, 3, 3];
        assert!((agreement(&then, &then) - 1.0).abs() < 1e-12);
        assert!((agreement(&[3, 3, 0, 0, 1, 1, 2, 2], &then) - 1.0).abs() < 1e-12);
        assert!(agreement(&[0, 1, 0, 1, 0, 1, 0, 1], &then).abs() < 1e-12);
        assert_eq!(agreement(&[1; 8], &then), 0.0);
        // Halves of which each is two of the four: I = ln 2, H = ln 2 and ln 4.
        let halves = agreement(&[0, 0, 0, 0, 1, 1, 1, 1], &then);
        assert!((halves - 0.5_f64.sqrt()).abs() < 1e-12, "{halves}");
    }
}
