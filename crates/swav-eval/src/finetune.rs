//! Fine-tuning: the whole network is trained on labels, behind a new classifier.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use swav_data::{Cursor, Loader, Source};
use swav_model::{Network, NetworkConfig, weights};

use super::batches::random_crops;
use super::classifier_state::{ClassifierState, Origin};
use super::features::{Extraction, Layer};
use super::scores::{LinearEpoch, LinearResult, Scores};
use super::share::Share;
use swav_train::Plan;
use swav_train::device::read;
use swav_train::files;
use swav_train::method::prediction_loss;
use swav_train::optim::Sgd;
use swav_train::{Normalisation, Uploader};
use swav_train::{Stop, TrainError};

/// How a network is fine-tuned: SGD with momentum 0.9 and without decay, both rates divided by 5 after three fifths
/// and after four fifths of the epochs (Caron et al., NeurIPS 2020, semi-supervised learning on ImageNet).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinetuneConfig {
    /// Passes over the images.
    pub epochs: usize,
    /// Learning rate of the backbone.
    pub lr: f64,
    /// Learning rate of the classifier.
    pub classifier_lr: f64,
    /// Images of a step; at most all there are.
    pub batch_size: usize,
    /// Seed of the classifier, the order and the crops.
    pub seed: u64,
}

impl FinetuneConfig {
    /// The paper's settings for 1 % of the labels, which are taken up to 3 %, or for 10 %.
    pub fn for_share(share: Share) -> Self {
        let (lr, classifier_lr) = match share.fraction() {
            ..=0.03 => (0.02, 5.0),
            _ => (0.01, 0.2),
        };
        Self {
            epochs: 20,
            lr,
            classifier_lr,
            batch_size: 256,
            seed: 0,
        }
    }

    /// What both rates are multiplied by in `epoch`, from 0.
    fn factor(&self, epoch: usize) -> f64 {
        let drops = [3, 4]
            .iter()
            .filter(|&fifths| 5 * epoch >= fifths * self.epochs);
        DROP.powi(drops.count() as i32)
    }
}

const DROP: f64 = 0.2;
const SGD: Sgd = Sgd {
    momentum: 0.9,
    weight_decay: 0.0,
};

/// A network that is being fine-tuned.
pub struct Finetuning<'a> {
    /// Resolution, limits and threads.
    pub plan: &'a Plan,
    /// Where it runs, without gradients.
    pub device: &'a Device,
    /// How.
    pub config: FinetuneConfig,
    /// Images with one label each.
    pub train: Arc<dyn Source>,
    /// Images that it is judged by.
    pub test: Arc<dyn Source>,
    /// What it begins with, for a state to be known by.
    pub origin: Origin,
    /// Where the state is kept after each epoch, and gone on from if it is there.
    pub state: Option<&'a Path>,
}

impl Finetuning<'_> {
    /// Trains the backbone of `network`, whose parameters want gradients, and judges it after each epoch; `progress` is
    /// told.
    ///
    /// # Errors
    /// If there are fewer than two images, one has not exactly one label, data, device or disk fail, the state kept is of another
    /// fine-tuning, the loss ceases to be a number, or the run is interrupted.
    pub fn run(
        &self,
        network: Network,
        stop: &Stop,
        mut progress: impl FnMut(&LinearEpoch),
    ) -> Result<LinearResult, TrainError> {
        let classes = self.train.classes().len();
        let count = self.train.len();
        if count < 2 {
            return Err(TrainError::Recipe(format!(
                "{count} labelled images to fine-tune on: batch norm needs two at least"
            )));
        }
        let batch = self.config.batch_size.clamp(2, count);
        let device = self.device.clone().autodiff();
        let config = NetworkConfig {
            backbone: self.plan.model.backbone,
            hidden: 0,
            head_norm: true,
            dim: classes,
            prototypes: Vec::new(),
        };
        let mut classifier = config.init(self.config.seed, &device);
        classifier.backbone = network.backbone;
        let mut tuned = Tuned {
            network: classifier,
            backbone: ModuleOptimizer::from(SGD),
            classifier: ModuleOptimizer::from(SGD),
        };
        let mut kept = ClassifierState::new(self.config, self.origin.clone());
        if let Some(state) = self.state
            && let Some(found) = kept.resume(state)?
        {
            tuned = tuned.load(&found)?;
        }
        let mut scores = None;
        if kept.epochs.len() < self.config.epochs {
            let cursor = Cursor {
                epoch: kept.epochs.len() as u64,
                position: 0,
            };
            let mut loader = Loader::new(
                self.train.clone(),
                random_crops(self.plan, batch, self.config.seed),
                cursor,
            )?;
            let uploader = Uploader::new(&Normalisation::TRAINING, &device);
            for epoch in kept.epochs.len()..self.config.epochs {
                let factor = self.config.factor(epoch);
                let mut loss = Tensor::<1>::zeros([1], self.device);
                for _ in 0..count / batch {
                    if stop.requested() {
                        return Err(TrainError::Interrupted);
                    }
                    let Some(shown) = loader.next_batch()? else {
                        break;
                    };
                    let images = uploader.group(&shown.groups[0]);
                    let wanted = one_hot(&shown.labels, classes, &device);
                    loader.recycle(shown);
                    loss = loss + tuned.step(images, wanted, &self.config, factor);
                }
                let loss = f64::from(read(loss)?[0]) / (count / batch) as f64;
                if !loss.is_finite() {
                    return Err(self.diverged(epoch));
                }
                let judged = match self.judge(&tuned.network, classes, stop) {
                    Err(TrainError::Stopped(_)) => return Err(self.diverged(epoch)),
                    judged => judged?,
                };
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
                    kept.save(state, |folder| tuned.save(folder))?;
                }
            }
        }
        let scores = match scores {
            Some(scores) => scores,
            None => self.judge(&tuned.network, classes, stop)?,
        };
        LinearResult::new(scores, kept.epochs)
    }

    fn diverged(&self, epoch: usize) -> TrainError {
        TrainError::Stopped(format!(
            "the loss is no finite number any more in epoch {}: take smaller rates than --lr {} and \
             --classifier-lr {}, or an earlier checkpoint of the run",
            epoch + 1,
            self.config.lr,
            self.config.classifier_lr
        ))
    }

    fn judge(&self, network: &Network, classes: usize, stop: &Stop) -> Result<Scores, TrainError> {
        let extraction = Extraction {
            plan: self.plan,
            device: self.device,
            layer: Layer::Logits,
        };
        let network = network.valid();
        let rows = extraction.collect(&network, self.test.clone(), stop, |_| {})?;
        let (logits, labels) = rows.labelled();
        if labels.is_empty() {
            return Err(TrainError::Recipe(
                "the test images have no labels: put them into one folder per class".to_string(),
            ));
        }
        Ok(Scores::of(&logits, &labels, classes))
    }
}

/// All that changes from step to step.
struct Tuned {
    /// Its head is the classifier, and there are no prototypes.
    network: Network,
    backbone: ModuleOptimizer,
    classifier: ModuleOptimizer,
}

const MODEL: &str = "model.bpk";
const VELOCITIES: [&str; 2] = ["backbone.bpk", "classifier.bpk"];

impl Tuned {
    /// One step; returns the loss, `[1]`.
    fn step(
        &mut self,
        images: Tensor<4>,
        wanted: Tensor<2>,
        config: &FinetuneConfig,
        factor: f64,
    ) -> Tensor<1> {
        let logits = self.network.forward(vec![images]).projections;
        let loss = prediction_loss(logits, wanted, 1.0);
        let mut gradients = loss.backward();
        let Network { backbone, head, .. } = &mut self.network;
        let of_backbone = GradientsParams::from_module(&mut gradients, backbone);
        let of_head = GradientsParams::from_module(&mut gradients, head);
        *backbone = (self.backbone).step(config.lr * factor, backbone.clone(), of_backbone);
        *head = (self.classifier).step(config.classifier_lr * factor, head.clone(), of_head);
        loss.inner()
    }

    /// Writes weights and velocities into `folder`.
    fn save(&self, folder: &Path) -> Result<(), TrainError> {
        weights::save(&self.network, &folder.join(MODEL))?;
        for (optimizer, name) in [&self.backbone, &self.classifier].iter().zip(VELOCITIES) {
            let path = folder.join(name);
            optimizer
                .save(&path)
                .map_err(|error| TrainError::written(&path, error.to_string()))?;
        }
        for name in VELOCITIES.into_iter().chain([MODEL]) {
            files::sync(&folder.join(name))?;
        }
        Ok(())
    }

    /// Reads what [`save`](Self::save) wrote.
    fn load(mut self, folder: &Path) -> Result<Self, TrainError> {
        self.network = weights::load(self.network, &folder.join(MODEL))?;
        let load = |optimizer: ModuleOptimizer, name: &str| {
            let path = folder.join(name);
            optimizer
                .load(&path)
                .map_err(|error| TrainError::checkpoint(&path, format!("is damaged: {error}")))
        };
        self.backbone = load(self.backbone, VELOCITIES[0])?;
        self.classifier = load(self.classifier, VELOCITIES[1])?;
        Ok(self)
    }
}

/// Rows with a one for each label, `[B, classes]`.
fn one_hot(labels: &[Vec<u32>], classes: usize, device: &Device) -> Tensor<2> {
    let mut wanted = vec![0.0_f32; labels.len() * classes];
    for (row, labels) in wanted.chunks_exact_mut(classes).zip(labels) {
        for &label in labels {
            row[label as usize] = 1.0;
        }
    }
    Tensor::from_data(TensorData::new(wanted, [labels.len(), classes]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rates_fall_after_epochs_12_and_16_of_20() {
        let config = FinetuneConfig::for_share(Share::ALL);
        let rates: Vec<f64> = (0..20).map(|epoch| config.factor(epoch)).collect();
        assert!(rates[..12].iter().all(|&rate| rate == 1.0));
        assert!(rates[12..16].iter().all(|&rate| rate == 0.2));
        assert!(rates[16..].iter().all(|&rate| (rate - 0.04).abs() < 1e-15));
    }

    #[test]
    fn few_labels_have_rates_of_their_own() {
        let rates = |share: &str| {
            let config = FinetuneConfig::for_share(share.parse().unwrap());
            (config.lr, config.classifier_lr)
        };
        assert_eq!(rates("1%"), (0.02, 5.0));
        assert_eq!(rates("10%"), (0.01, 0.2));
        assert_eq!(rates("100%"), (0.01, 0.2));
    }
}
