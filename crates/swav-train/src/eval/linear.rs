//! Linear classification of frozen features.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use swav_data::Permutation;

use super::features::{Features, read};
use super::scores::Scores;
use crate::{Stop, TrainError};

/// How the classifier is trained: SGD with momentum 0.9, its rate falling to 0 as a cosine, epoch by epoch (Caron et
/// al., NeurIPS 2020, appendix A.6).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LinearConfig {
    /// Passes over the features.
    pub epochs: usize,
    /// Learning rate of the first epoch.
    pub lr: f64,
    /// Weight decay, of weights and biases.
    pub weight_decay: f64,
    /// Features of a step.
    pub batch_size: usize,
    /// Seed of the weights and the order.
    pub seed: u64,
}

impl Default for LinearConfig {
    fn default() -> Self {
        Self {
            epochs: 100,
            lr: 0.3,
            weight_decay: 1e-6,
            batch_size: 256,
            seed: 0,
        }
    }
}

/// One epoch of the classifier.
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

const MOMENTUM: f64 = 0.9;
/// Standard deviation of the first weights.
const SPREAD: f64 = 0.01;
/// Test rows whose logits are there at a time.
const BLOCK: usize = 8192;

/// Trains a linear classifier on `train` and judges it on `test`, both rows of one width with labels below `classes`.
/// Rows without a label are passed over. `progress` is told each epoch.
///
/// The gradient is that of the mean cross-entropy, taken by hand: `xᵀ(softmax(logits) − y)/B`.
///
/// # Errors
/// If there is no labelled row on either side or the two differ in width, if the loss ceases to be a number, or if the
/// run is interrupted.
pub fn linear(
    train: &Features,
    test: &Features,
    classes: usize,
    config: &LinearConfig,
    device: &Device,
    stop: &Stop,
    mut progress: impl FnMut(&LinearEpoch),
) -> Result<LinearResult, TrainError> {
    let (train, test) = (Rows::new(train, device), Rows::new(test, device));
    if train.labels.is_empty() || test.labels.is_empty() {
        return Err(TrainError::Recipe(
            "a classifier needs labels on both sides: put the images into one folder per class"
                .to_string(),
        ));
    }
    let ([count, dim], [_, of_test]) = (train.values.dims(), test.values.dims());
    if dim != of_test {
        return Err(TrainError::Recipe(format!(
            "features of {of_test} numbers cannot be judged by a classifier of {dim}"
        )));
    }
    let batch = config.batch_size.clamp(1, count);
    device.seed(config.seed);
    let normal = Distribution::Normal(0.0, SPREAD);
    let mut layer = Layer {
        weight: Tensor::random([dim, classes], normal, device),
        bias: Tensor::zeros([1, classes], device),
    };
    let mut velocity = Layer {
        weight: layer.weight.zeros_like(),
        bias: layer.bias.zeros_like(),
    };
    let mut epochs = Vec::new();
    for epoch in 0..config.epochs {
        let turn = std::f64::consts::PI * epoch as f64 / config.epochs as f64;
        let rate = 0.5 * config.lr * (1.0 + turn.cos());
        let order = Permutation::new(count as u64, config.seed, epoch as u64);
        let order: Vec<usize> = (0..count as u64).map(|i| order.at(i) as usize).collect();
        let mut loss = Tensor::<1>::zeros([1], device);
        // A last part of a batch would weigh each of its rows more than the others.
        for rows in order.chunks_exact(batch) {
            if stop.requested() {
                return Err(TrainError::Interrupted);
            }
            let (x, y) = train.select(rows, classes, device);
            let logits = layer.logits(x.clone());
            loss = loss - (log_softmax(logits.clone(), 1) * y.clone()).sum() / batch as f64;
            let error = (softmax(logits, 1) - y) / batch as f64;
            let decay = config.weight_decay;
            velocity.weight = velocity.weight * MOMENTUM
                + x.transpose().matmul(error.clone())
                + layer.weight.clone() * decay;
            velocity.bias =
                velocity.bias * MOMENTUM + error.sum_dim(0) + layer.bias.clone() * decay;
            layer.weight = layer.weight - velocity.weight.clone() * rate;
            layer.bias = layer.bias - velocity.bias.clone() * rate;
        }
        let loss = f64::from(read(loss)?[0]) / (count / batch) as f64;
        if !loss.is_finite() {
            return Err(TrainError::Stopped(format!(
                "the classifier's loss is no finite number any more in epoch {}: take a smaller --lr than {}",
                epoch + 1,
                config.lr
            )));
        }
        let scores = layer.judge(&test, classes)?;
        let done = LinearEpoch {
            epoch: epoch + 1,
            loss,
            top1: scores.top1,
            top5: scores.top5,
        };
        progress(&done);
        epochs.push(done);
    }
    LinearResult::new(layer.judge(&test, classes)?, epochs)
}

/// A linear layer, or what is gathered about one.
struct Layer {
    /// `[dim, classes]`
    weight: Tensor<2>,
    /// `[1, classes]`
    bias: Tensor<2>,
}

impl Layer {
    fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.clone()) + self.bias.clone()
    }

    fn judge(&self, rows: &Rows, classes: usize) -> Result<Scores, TrainError> {
        let mut logits = Vec::with_capacity(rows.labels.len() * classes);
        for block in rows.values.clone().split(BLOCK, 0) {
            logits.extend(read(self.logits(block))?);
        }
        Ok(Scores::of(&logits, &rows.labels, classes))
    }
}

/// Labelled features on the device.
struct Rows {
    /// `[rows, dim]`
    values: Tensor<2>,
    labels: Vec<u32>,
}

impl Rows {
    fn new(features: &Features, device: &Device) -> Self {
        let (values, labels) = features.labelled();
        let shape = [labels.len(), features.dim];
        Self {
            values: Tensor::from_data(TensorData::new(values, shape), device),
            labels,
        }
    }

    /// Some rows with their one-hot labels.
    fn select(&self, rows: &[usize], classes: usize, device: &Device) -> (Tensor<2>, Tensor<2>) {
        let count = rows.len();
        let labels: Vec<i32> = rows.iter().map(|&row| self.labels[row] as i32).collect();
        let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [count, 1]), device);
        let all = Tensor::<1, Int>::arange(0..classes as i64, device).unsqueeze_dim::<2>(0);
        let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), device);
        (
            self.values.clone().select(0, rows),
            labels.equal(all).float(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three classes around three directions, told apart by a plane.
    fn clouds(count: usize, offset: usize) -> Features {
        let mut features = Features {
            dim: 4,
            ..Features::default()
        };
        for i in offset..offset + count {
            let label = i % 3;
            let noise = |k: usize| ((i * 37 + k * 11) % 17) as f32 / 17.0 - 0.5;
            for k in 0..4 {
                features
                    .values
                    .push(if k == label { 1.0 } else { 0.0 } + 0.6 * noise(k));
            }
            features.indices.push(i);
            features.labels.push((i % 50 != 7).then_some(label as u32));
        }
        features
    }

    #[test]
    fn what_a_plane_can_tell_apart_is_told_apart_and_the_same_way_each_time() {
        let config = LinearConfig {
            epochs: 30,
            batch_size: 16,
            ..LinearConfig::default()
        };
        let device = Device::flex();
        let run = || {
            let (train, test) = (clouds(300, 0), clouds(90, 1000));
            linear(&train, &test, 3, &config, &device, &Stop::default(), |_| {}).unwrap()
        };
        let result = run();
        assert_eq!(result.epochs.len(), 30);
        assert!(result.scores.top1 > 0.97, "{:?}", result.scores);
        assert!(result.epochs[29].loss < result.epochs[0].loss);
        assert!(result.best.top1 >= result.scores.top1);
        assert_eq!(run(), result);
    }

    #[test]
    fn sets_without_labels_or_of_another_width_are_refused() {
        let device = Device::flex();
        let judge = |train: &Features, test: &Features| {
            let config = LinearConfig::default();
            let result = linear(train, test, 3, &config, &device, &Stop::default(), |_| {});
            result.unwrap_err().to_string()
        };
        let mut without = clouds(9, 0);
        without.labels.fill(None);
        assert!(judge(&without, &clouds(9, 0)).contains("labels"));
        let wide = Features {
            dim: 2,
            ..clouds(9, 0)
        };
        assert!(
            judge(
                &clouds(9, 0),
                &Features {
                    values: wide.values[..18].to_vec(),
                    ..wide.clone()
                }
            )
            .contains("2 numbers")
        );
    }
}
