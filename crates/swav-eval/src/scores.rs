//! How well a classifier does: by rank, by class, and what it takes for what.

use serde::{Deserialize, Serialize};

use swav_train::TrainError;

/// What a classifier made of labelled images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Share of the images whose label scored highest, 0–1.
    pub top1: f64,
    /// Share of the images whose label was among the five highest.
    pub top5: f64,
    /// `confusion[label][guess]`: images of a class, by what they were taken for. Serialised up to a hundred classes: beyond
    /// them it is a table for a file of its own.
    #[serde(skip_serializing_if = "is_for_a_file")]
    pub confusion: Vec<Vec<u32>>,
}

fn is_for_a_file(confusion: &[Vec<u32>]) -> bool {
    confusion.len() > 100
}

impl Scores {
    /// Judges rows of `classes` logits by their labels. Of equal logits the label's own counts as the last: a
    /// classifier that tells nothing apart is not right about anything.
    ///
    /// # Panics
    /// If a label is no class, or there are not as many rows as labels.
    pub fn of(logits: &[f32], labels: &[u32], classes: usize) -> Self {
        assert_eq!(logits.len(), labels.len() * classes, "a row for each label");
        let mut confusion = vec![vec![0; classes]; classes];
        let (mut first, mut among_five) = (0, 0);
        for (row, &label) in logits.chunks_exact(classes.max(1)).zip(labels) {
            let own = row[label as usize];
            let before = row
                .iter()
                .enumerate()
                .filter(|&(class, &logit)| {
                    class != label as usize && (logit >= own || own.is_nan())
                })
                .count();
            first += usize::from(before == 0);
            among_five += usize::from(before < 5);
            let best = row.iter().enumerate().filter(|(_, logit)| !logit.is_nan());
            // Of equal ones another than the label, as above.
            let best = best.max_by(|(a, x), (b, y)| {
                let is_label = |class: &usize| *class == label as usize;
                x.total_cmp(y).then(is_label(b).cmp(&is_label(a)))
            });
            let guess = best.map_or(0, |(class, _)| class);
            confusion[label as usize][guess] += 1;
        }
        let share = |count: usize| count as f64 / labels.len().max(1) as f64;
        Self {
            top1: share(first),
            top5: share(among_five),
            confusion,
        }
    }

    /// The share of the images of each class that were taken for what they are; none where there is no image.
    pub fn by_class(&self) -> Vec<Option<f64>> {
        let of_class = |(class, row): (usize, &Vec<u32>)| {
            let all: u32 = row.iter().sum();
            (all > 0).then(|| f64::from(row[class]) / f64::from(all))
        };
        self.confusion.iter().enumerate().map(of_class).collect()
    }
}

/// One epoch of a classifier.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearEpoch {
    /// Epochs done, this one included.
    pub epoch: usize,
    /// Mean loss of its steps.
    pub loss: f64,
    /// Share of the test images whose label scored highest after it, 0–1.
    pub top1: f64,
    /// Share of the test images whose label was among the five highest.
    pub top5: f64,
}

/// What came of a classifier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinearResult {
    /// After the last epoch.
    pub scores: Scores,
    /// The epoch after which most test images were right. It is chosen by the test images: not what one may expect of
    /// others.
    pub best: LinearEpoch,
    /// All epochs.
    pub epochs: Vec<LinearEpoch>,
}

impl LinearResult {
    pub(super) fn new(scores: Scores, epochs: Vec<LinearEpoch>) -> Result<Self, TrainError> {
        let best = epochs
            .iter()
            .copied()
            .reduce(|best, next| if next.top1 > best.top1 { next } else { best });
        Ok(Self {
            scores,
            best: best.ok_or_else(|| TrainError::Recipe("--epochs 0: nothing to train".into()))?,
            epochs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_classes_and_confusion_are_counted() {
        #[rustfmt::skip]
        let logits = [
            0.9, 0.1, 0.0,
            0.2, 0.3, 0.9,
            0.1, 0.8, 0.2,
            0.4, 0.5, 0.3,
        ];
        let scores = Scores::of(&logits, &[0, 1, 1, 2], 3);
        assert_eq!(scores.top1, 0.5);
        assert_eq!(scores.top5, 1.0);
        assert_eq!(scores.confusion, [[1, 0, 0], [0, 1, 1], [0, 1, 0]]);
        assert_eq!(scores.by_class(), [Some(1.0), Some(0.5), Some(0.0)]);
    }

    #[test]
    fn the_fifth_place_counts_and_the_sixth_does_not() {
        let logits = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0];
        assert_eq!(Scores::of(&logits, &[4], 6).top5, 1.0);
        assert_eq!(Scores::of(&logits, &[5], 6).top5, 0.0);
    }

    #[test]
    fn a_classifier_that_tells_nothing_apart_is_never_right() {
        for row in [[1.0; 7], [f32::NAN; 7]] {
            let scores = Scores::of(&row, &[0], 7);
            assert_eq!((scores.top1, scores.top5), (0.0, 0.0));
        }
        assert_eq!(Scores::of(&[1.0; 3], &[0], 3).by_class()[0], Some(0.0));
    }
}
