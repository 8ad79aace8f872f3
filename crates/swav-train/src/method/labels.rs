//! What images are labelled with for an epoch: a cluster each, by each head.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::Metric;

/// For each head the cluster of each image of the source, where it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<Vec<i32>>);

impl Labels {
    /// The label of an image that was not seen.
    const NONE: i32 = -1;

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

    /// The labels of each head, `[images]`, −1 where there is none.
    pub fn heads(&self) -> &[Vec<i32>] {
        &self.0
    }

    /// The labels that were saved.
    pub(crate) fn restore(heads: Vec<Vec<i32>>) -> Self {
        Self(heads)
    }

    /// What `head` has for the images `indices`, as distributions `[B, K]` over `clusters` clusters. Images without a
    /// label have zeros, and the others weigh so much more that a mean over all is the mean over those with one.
    pub fn distributions(
        &self,
        head: usize,
        indices: &[usize],
        clusters: usize,
        device: &Device,
    ) -> Tensor<2> {
        let labels: Vec<i32> = indices.iter().map(|&index| self.0[head][index]).collect();
        let rows = labels.len();
        let labelled = labels.iter().filter(|&&label| label != Self::NONE).count();
        let weight = rows as f64 / labelled.max(1) as f64;
        let labels = TensorData::new(labels, [rows, 1]);
        let labels = Tensor::<2, Int>::from_data(labels, device);
        let all = Tensor::<1, Int>::arange(0..clusters as i64, device).unsqueeze_dim::<2>(0);
        labels.equal(all).float() * weight
    }

    /// The share of the images with a label now that had another one `before`, over all heads; and the share of the
    /// `clusters` that have an image, over all heads.
    pub fn metrics(&self, before: &Self, clusters: &[usize]) -> Vec<Metric> {
        let pairs = self.0.iter().flatten().zip(before.0.iter().flatten());
        let (mut labelled, mut moved) = (0_usize, 0_usize);
        for (&now, &then) in pairs {
            labelled += usize::from(now != Self::NONE);
            moved += usize::from(now != Self::NONE && now != then);
        }
        let used = self.0.iter().zip(clusters).map(|(labels, &clusters)| {
            let mut has = vec![false; clusters];
            for &label in labels.iter().filter(|&&label| label != Self::NONE) {
                has[label as usize] = true;
            }
            has.into_iter().filter(|&has| has).count()
        });
        let share = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        vec![
            Metric::new("used_clusters", share(used.sum(), clusters.iter().sum())),
            Metric::new("moved_images", share(moved, labelled)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_label_weighs_nothing_and_the_others_more() {
        let mut labels = Labels::none(1, 5);
        labels.assign([3, 0].into_iter(), &[vec![1, 2]]);
        let device = Device::flex();
        let rows = labels.distributions(0, &[0, 1, 3, 4], 3, &device);
        let rows: Vec<f32> = rows.into_data().iter().collect();
        let expected = [0., 0., 2., 0., 0., 0., 0., 2., 0., 0., 0., 0.];
        assert_eq!(rows, expected);
    }

    #[test]
    fn metrics_count_clusters_in_use_and_images_that_moved() {
        let mut before = Labels::none(2, 4);
        before.assign([0, 1, 2].into_iter(), &[vec![0, 0, 1], vec![0, 1, 2]]);
        let mut now = before.clone();
        now.assign([0, 1, 2].into_iter(), &[vec![0, 1, 1], vec![0, 1, 2]]);
        let metrics = now.metrics(&before, &[4, 4]);
        assert_eq!(metrics[0].value, 5.0 / 8.0);
        assert_eq!(metrics[1].value, 1.0 / 6.0);
    }
}
