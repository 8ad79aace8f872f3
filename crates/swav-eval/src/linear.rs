//! Linear classification of frozen features.

use std::fs;
use std::path::Path;

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError, SafeTensors};
use serde::{Deserialize, Serialize};
use swav_model::Draw;

use super::batches::Batches;
use super::classifier_state::{ClassifierState, Origin};
use super::features::Features;
use super::scores::{LinearEpoch, LinearResult, Scores};
use swav_train::device::read;
use swav_train::files::write_atomic;
use swav_train::method::one_hot;
use swav_train::{Stop, TrainError};

/// How the classifier is trained: SGD with momentum 0.9, its rate falling to 0 as a cosine, epoch by epoch (Caron et
/// al., NeurIPS 2020, appendix A.6).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearConfig {
    /// Passes over the features.
    pub epochs: usize,
    /// Learning rate of the first epoch.
    pub lr: f64,
    /// Weight decay, of weights and biases.
    pub weight_decay: f64,
    /// Features of a step.
    pub batch_size: usize,
    /// Seed of the weights, the order and the crops.
    pub seed: u64,
    /// Whether the features are extracted anew in every epoch, from random crops, or once from the whole image.
    pub augment: bool,
}

impl Default for LinearConfig {
    fn default() -> Self {
        Self {
            epochs: 100,
            lr: 0.3,
            weight_decay: 1e-6,
            batch_size: 256,
            seed: 0,
            augment: false,
        }
    }
}

impl LinearConfig {
    /// The learning rate of `epoch`, from 0.
    fn rate(&self, epoch: usize) -> f64 {
        let turn = std::f64::consts::PI * epoch as f64 / self.epochs as f64;
        0.5 * self.lr * (1.0 + turn.cos())
    }
}

const MOMENTUM: f64 = 0.9;
/// Standard deviation of the first weights.
const SPREAD: f64 = 0.01;
/// Test rows whose logits are there at a time.
const BLOCK: usize = 8192;

/// A linear classifier that is being trained.
pub struct Classification<'a> {
    /// How.
    pub config: LinearConfig,
    /// Labels are below it.
    pub classes: usize,
    /// Where it runs, without gradients.
    pub device: &'a Device,
    /// What it begins with, for a state to be known by.
    pub origin: Origin,
    /// Where the state is kept after each epoch, and gone on from if it is there.
    pub state: Option<&'a Path>,
}

impl Classification<'_> {
    /// Trains a classifier on `train` and judges it on `test` after each epoch, both rows of one width. Of the test
    /// rows, those without a label are passed over. `progress` is told each epoch.
    ///
    /// The gradient is that of the mean cross-entropy, taken by hand: `xᵀ(softmax(logits) − y)/B`.
    ///
    /// # Errors
    /// If there is no labelled row on either side or the two differ in width, data, device or disk fail, the state kept
    /// is of another classifier, the loss ceases to be a number, or the run is interrupted.
    pub fn run(
        &self,
        train: &mut dyn Batches,
        test: &Features,
        stop: &Stop,
        mut progress: impl FnMut(&LinearEpoch),
    ) -> Result<LinearResult, TrainError> {
        let (rows, labels) = test.labelled();
        if train.is_empty() || labels.is_empty() {
            return Err(TrainError::Recipe(
                "a classifier needs labels on both sides: put the images into one folder per class"
                    .to_string(),
            ));
        }
        let shape = [labels.len(), test.dim];
        let test = Tensor::<2>::from_data(TensorData::new(rows, shape), self.device);
        let judge = |layer: &Layer| layer.judge(&test, &labels, self.classes);

        let batch = self.config.batch_size.clamp(1, train.len());
        // A last part of a batch would weigh each of its rows more than the others.
        let steps = train.len() / batch;
        let draw = &mut Draw::new(self.config.seed, self.device);
        let mut learner = Learner::new(shape[1], self.classes, draw);
        let mut kept = ClassifierState::new(self.config, self.origin.clone());
        if let Some(state) = self.state
            && let Some(found) = kept.resume(state)?
        {
            learner = learner.load(&found)?;
        }
        let mut scores = None;
        for epoch in kept.epochs.len()..self.config.epochs {
            let rate = self.config.rate(epoch);
            let mut loss = Tensor::<1>::zeros([1], self.device);
            for step in 0..steps {
                if stop.requested() {
                    return Err(TrainError::Interrupted);
                }
                let (x, labels) = train.batch(epoch, step, batch)?;
                if x.dims()[1] != shape[1] {
                    return Err(TrainError::Recipe(format!(
                        "features of {} numbers cannot be judged by a classifier of {}",
                        shape[1],
                        x.dims()[1]
                    )));
                }
                let labels = labels.iter().map(|&label| label as i32).collect();
                let y = one_hot(labels, self.classes, self.device);
                loss = loss + learner.step(x, y, rate, self.config.weight_decay);
            }
            let loss = f64::from(read(loss)?[0]) / steps as f64;
            if !loss.is_finite() {
                return Err(TrainError::Stopped(format!(
                    "the classifier's loss is no finite number any more in epoch {}: take a smaller --lr than {}",
                    epoch + 1,
                    self.config.lr
                )));
            }
            let judged = judge(&learner.layer)?;
            let done = LinearEpoch {
                epoch: epoch + 1,
                loss,
                top1: judged.top1,
                top5: judged.top5,
            };
            scores = Some(judged);
            progress(&done);
            kept.epochs.push(done);
            if let Some(state) = self.state {
                kept.save(state, |folder| learner.save(folder))?;
            }
        }
        let scores = scores.map_or_else(|| judge(&learner.layer), Ok)?;
        LinearResult::new(scores, kept.epochs)
    }
}

/// All that changes from step to step.
struct Learner {
    layer: Layer,
    velocity: Layer,
}

const TENSORS: &str = "classifier.safetensors";

impl Learner {
    fn new(dim: usize, classes: usize, draw: &mut Draw) -> Self {
        let layer = Layer {
            weight: draw.normal(SPREAD, [dim, classes]),
            bias: Tensor::zeros([1, classes], draw.device()),
        };
        let velocity = Layer {
            weight: layer.weight.zeros_like(),
            bias: layer.bias.zeros_like(),
        };
        Self { layer, velocity }
    }

    /// One step on rows `[B, dim]` with labels `[B, classes]`; returns the loss, `[1]`.
    fn step(&mut self, x: Tensor<2>, y: Tensor<2>, rate: f64, decay: f64) -> Tensor<1> {
        let Self { layer, velocity } = self;
        let count = x.dims()[0] as f64;
        let logits = layer.logits(x.clone());
        let loss = -(log_softmax(logits.clone(), 1) * y.clone()).sum() / count;
        let error = (softmax(logits, 1) - y) / count;
        velocity.weight = velocity.weight.clone() * MOMENTUM
            + x.transpose().matmul(error.clone())
            + layer.weight.clone() * decay;
        velocity.bias =
            velocity.bias.clone() * MOMENTUM + error.sum_dim(0) + layer.bias.clone() * decay;
        layer.weight = layer.weight.clone() - velocity.weight.clone() * rate;
        layer.bias = layer.bias.clone() - velocity.bias.clone() * rate;
        loss
    }

    /// The tensors by name.
    fn tensors(&mut self) -> [(&'static str, &mut Tensor<2>); 4] {
        let Self { layer, velocity } = self;
        [
            ("weight", &mut layer.weight),
            ("bias", &mut layer.bias),
            ("velocity.weight", &mut velocity.weight),
            ("velocity.bias", &mut velocity.bias),
        ]
    }

    /// Writes the tensors into `folder`.
    fn save(&mut self, folder: &Path) -> Result<(), TrainError> {
        let mut values = Vec::new();
        for (name, tensor) in self.tensors() {
            let shape = tensor.dims().to_vec();
            let bytes = read(tensor.clone())?.into_iter().flat_map(f32::to_le_bytes);
            values.push((name, shape, bytes.collect::<Vec<u8>>()));
        }
        let path = folder.join(TENSORS);
        let failed = |error: SafeTensorError| TrainError::checkpoint(&path, error.to_string());
        let views = values.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(failed)?;
            Ok((*name, view))
        });
        let views = views.collect::<Result<Vec<_>, TrainError>>()?;
        let bytes = safetensors::serialize(views, None).map_err(failed)?;
        write_atomic(&path, &bytes)
    }

    /// Reads what [`save`](Self::save) wrote.
    fn load(mut self, folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(TENSORS);
        let damaged = |what: String| TrainError::checkpoint(&path, format!("is damaged: {what}"));
        let bytes = fs::read(&path).map_err(TrainError::io(&path))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
        for (name, tensor) in self.tensors() {
            let found = file
                .tensor(name)
                .map_err(|error| damaged(error.to_string()))?;
            if found.shape() != tensor.dims() || found.dtype() != Dtype::F32 {
                return Err(damaged(format!("{name} has the shape {:?}", found.shape())));
            }
            let values = found
                .data()
                .as_chunks()
                .0
                .iter()
                .copied()
                .map(f32::from_le_bytes);
            let values = TensorData::new(values.collect::<Vec<f32>>(), tensor.dims());
            *tensor = Tensor::from_data(values, &tensor.device());
        }
        Ok(self)
    }
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

    fn judge(
        &self,
        rows: &Tensor<2>,
        labels: &[u32],
        classes: usize,
    ) -> Result<Scores, TrainError> {
        let mut logits = Vec::with_capacity(labels.len() * classes);
        for block in rows.clone().split(BLOCK, 0) {
            logits.extend(read(self.logits(block))?);
        }
        Ok(Scores::of(&logits, labels, classes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::batches::Cached;
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

    fn classify(
        train: &Features,
        test: &Features,
        config: LinearConfig,
        state: Option<&Path>,
        stop: &Stop,
        progress: impl FnMut(&LinearEpoch),
    ) -> Result<LinearResult, TrainError> {
        let device = Device::flex();
        let classification = Classification {
            config,
            classes: 3,
            device: &device,
            origin: Origin::new(None, []),
            state,
        };
        let mut train = Cached::new(train, config.seed, &device);
        classification.run(&mut train, test, stop, progress)
    }

    const CONFIG: LinearConfig = LinearConfig {
        epochs: 30,
        lr: 0.3,
        weight_decay: 1e-6,
        batch_size: 16,
        seed: 0,
        augment: false,
    };

    #[test]
    fn what_a_plane_can_tell_apart_is_told_apart_and_the_same_way_each_time() {
        let run = || {
            let (train, test) = (clouds(300, 0), clouds(90, 1000));
            classify(&train, &test, CONFIG, None, &Stop::default(), |_| {}).unwrap()
        };
        let result = run();
        assert_eq!(result.epochs.len(), 30);
        assert!(result.scores.top1 > 0.97, "{:?}", result.scores);
        assert!(result.epochs[29].loss < result.epochs[0].loss);
        assert!(result.best.top1 >= result.scores.top1);
        assert_eq!(run(), result);
    }

    #[test]
    fn a_classifier_that_goes_on_gives_the_numbers_of_one_that_was_never_stopped() {
        let (train, test) = (clouds(300, 0), clouds(90, 1000));
        let whole = classify(&train, &test, CONFIG, None, &Stop::default(), |_| {}).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for at in [7, 8, 22] {
            let stop = Stop::default();
            let told = classify(&train, &test, CONFIG, Some(folder.path()), &stop, |epoch| {
                if epoch.epoch == at {
                    stop.request();
                }
            });
            assert!(matches!(told, Err(TrainError::Interrupted)), "{told:?}");
        }
        for _ in 0..2 {
            let stop = Stop::default();
            let parts = classify(&train, &test, CONFIG, Some(folder.path()), &stop, |_| {});
            assert_eq!(parts.unwrap(), whole);
        }
        let other = LinearConfig { lr: 0.2, ..CONFIG };
        let told = classify(
            &train,
            &test,
            other,
            Some(folder.path()),
            &Stop::default(),
            |_| {},
        );
        assert!(told.unwrap_err().to_string().contains("other settings"));
        let tensors = folder.path().join("epoch-0030").join(TENSORS);
        let bytes = fs::read(&tensors).unwrap();
        fs::write(&tensors, &bytes[..bytes.len() / 2]).unwrap();
        let told = classify(
            &train,
            &test,
            CONFIG,
            Some(folder.path()),
            &Stop::default(),
            |_| {},
        );
        assert!(told.unwrap_err().to_string().contains("is damaged"));
    }

    #[test]
    fn sets_without_labels_or_of_another_width_are_refused() {
        let judge = |train: &Features, test: &Features| {
            let result = classify(train, test, CONFIG, None, &Stop::default(), |_| {});
            result.unwrap_err().to_string()
        };
        let mut without = clouds(9, 0);
        without.labels.fill(None);
        assert!(judge(&without, &clouds(9, 0)).contains("labels"));
        assert!(judge(&clouds(9, 0), &without).contains("labels"));
        let narrow = Features {
            dim: 2,
            values: clouds(9, 0).values[..18].to_vec(),
            ..clouds(9, 0)
        };
        assert!(judge(&clouds(9, 0), &narrow).contains("2 numbers"));
    }
}
