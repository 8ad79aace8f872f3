//! Features of a set of images, one pass in order.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use swav_data::{Cursor, DataError, HealthReport, Loader, LoaderConfig, Order, Sample, Source};
use swav_model::Network;

use swav_train::Plan;
use swav_train::comm::{Communicator, Local, agree};
use swav_train::device::read;
use swav_train::health::bad_of_all;
use swav_train::{Normalisation, Uploader};
use swav_train::{Stop, TrainError};

/// What is taken from the network for each image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The pooled output of the backbone: what other tasks are given.
    Features,
    /// The unit vector behind the projection head: what prototypes are compared with.
    Embeddings,
    /// What the head gives, not brought to unit length: of a classifier, its logits.
    Logits,
    /// The embeddings' scores by the prototypes of all heads, one head behind the other. A network
    /// without prototypes has none.
    Scores,
    /// The normalised pixels themselves, for comparison.
    Pixels,
}

/// Rows of features with the images that they belong to.
#[derive(Clone, Debug, Default)]
pub struct Features {
    /// `[rows, dim]`, row-major.
    pub values: Vec<f32>,
    /// Length of a row.
    pub dim: usize,
    /// Index in the source of each row; a corrupt image has none.
    pub indices: Vec<usize>,
    /// Label of each row.
    pub labels: Vec<Option<u32>>,
}

impl Features {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The i-th row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    /// The rows that have a label, `[rows, dim]`, and their labels.
    pub fn labelled(&self) -> (Vec<f32>, Vec<u32>) {
        let mut rows = Vec::with_capacity(self.values.len());
        let mut labels = Vec::with_capacity(self.len());
        for (i, label) in self.labels.iter().enumerate() {
            if let Some(label) = label {
                rows.extend_from_slice(self.row(i));
                labels.push(*label);
            }
        }
        (rows, labels)
    }

    fn append(&mut self, mut other: Self) {
        self.dim = other.dim;
        self.values.append(&mut other.values);
        self.indices.append(&mut other.indices);
        self.labels.append(&mut other.labels);
    }
}

/// How images are read and seen for features.
#[derive(Clone, Debug)]
pub struct Extraction<'a> {
    /// Resolution, limits and threads.
    pub plan: &'a Plan,
    /// Where the network runs, without gradients.
    pub device: &'a Device,
    /// What is taken.
    pub layer: Layer,
}

impl Extraction<'_> {
    /// Runs `network` over all of `source`, handing each batch's rows to `sink`, which is also told
    /// how many images are done. Memory does not grow with the source.
    ///
    /// Returns what was left out as corrupt.
    ///
    /// # Errors
    /// If more images are corrupt than the plan allows, the network's numbers are no longer finite,
    /// `sink` fails, or the run is interrupted.
    pub fn stream(
        &self,
        network: &Network,
        source: Arc<dyn Source>,
        stop: &Stop,
        sink: impl FnMut(Features, usize) -> Result<(), TrainError>,
    ) -> Result<HealthReport, TrainError> {
        self.stream_over(network, source, stop, &mut Local, sink)
    }

    /// The same over several ranks, each of which computes its part: the rows of all come to the `sink` of rank 0, in the order of
    /// the source.
    ///
    /// # Errors
    /// As [`stream`](Self::stream), on all ranks.
    pub fn stream_over(
        &self,
        network: &Network,
        source: Arc<dyn Source>,
        stop: &Stop,
        ranks: &mut dyn Communicator,
        mut sink: impl FnMut(Features, usize) -> Result<(), TrainError>,
    ) -> Result<HealthReport, TrainError> {
        let total = source.len();
        let batch = batch_of(self.plan.evaluation.size).min(total);
        let config = LoaderConfig {
            batch_size: batch,
            view: self.plan.evaluation.view(),
            order: Order::Sequential,
            workers: self.plan.data.workers,
            prefetch: 2,
            drop_last: false,
            corrupt_budget: self.plan.data.corrupt_budget,
            max_pixels: self.plan.data.max_pixels,
            // Every image comes once.
            cache: 0,
            rank: ranks.rank(),
            world: ranks.world(),
            seed: 0,
        };
        let mut loader = Loader::new(source.clone(), config, Cursor::default())?;
        let uploader = Uploader::new(&Normalisation::EVALUATION, self.device);
        let mut done = 0;
        loop {
            let own = self.next_rows(network, &source, stop, &mut loader, &uploader);
            let own = agree(own, ranks)?;
            if ranks.largest(u32::from(own.is_some())) == 0 {
                break;
            }
            let rows = gather(own.unwrap_or_default(), batch, ranks);
            done = (done + batch * ranks.world()).min(total);
            let written = match ranks.rank() {
                0 if !rows.is_empty() => sink(rows, done),
                _ => Ok(()),
            };
            agree(written, ranks)?;
        }
        let mut health = loader.health();
        health.bad = bad_of_all(&health.bad, ranks)?;
        match health.exceeded() {
            true => Err(DataError::Budget(health).into()),
            false => Ok(health),
        }
    }

    /// The rows of this rank's next batch; none after the last.
    fn next_rows(
        &self,
        network: &Network,
        source: &Arc<dyn Source>,
        stop: &Stop,
        loader: &mut Loader,
        uploader: &Uploader,
    ) -> Result<Option<Features>, TrainError> {
        stop.heeded()?;
        let Some(batch) = loader.next_batch()? else {
            return Ok(None);
        };
        if batch.indices.is_empty() {
            return Ok(Some(Features::default()));
        }
        let images = uploader.group(&batch.groups[0]);
        let rows = match self.layer {
            Layer::Features => network.features(images),
            Layer::Embeddings => network.forward(vec![images]).embeddings,
            Layer::Logits => network.forward(vec![images]).projections,
            Layer::Scores => Tensor::cat(network.forward(vec![images]).scores, 1),
            Layer::Pixels => images.flatten(1, 3),
        };
        let [_, dim] = rows.dims();
        let values = read(rows)?;
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(TrainError::Stopped(format!(
                "the network makes no finite numbers of {}: its weights are no good; take an \
                 earlier checkpoint",
                source.name(batch.indices[at / dim])
            )));
        }
        Ok(Some(Features {
            values,
            dim,
            indices: batch.indices.clone(),
            labels: batch.labels.iter().map(|labels| only(labels)).collect(),
        }))
    }

    /// All features of `source` at once; `progress` is told how many images are done.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn collect(
        &self,
        network: &Network,
        source: Arc<dyn Source>,
        stop: &Stop,
        mut progress: impl FnMut(usize),
    ) -> Result<Features, TrainError> {
        let mut all = Features::default();
        self.stream(network, source, stop, |rows, done| {
            all.append(rows);
            progress(done);
            Ok(())
        })?;
        Ok(all)
    }
}

/// The rows of all ranks, at most `most` of each, in the order of the source; on rank 0 alone.
fn gather(own: Features, most: usize, ranks: &mut dyn Communicator) -> Features {
    if ranks.world() == 1 {
        return own;
    }
    const NONE: i32 = -1;
    let dim = ranks.largest(own.dim as u32) as usize;
    let filled = |mut values: Vec<i32>| {
        values.resize(most, NONE);
        values
    };
    let indices = filled(own.indices.iter().map(|&index| index as i32).collect());
    let labels = own.labels.iter();
    let labels = filled(
        labels
            .map(|label| label.map_or(NONE, |label| label as i32))
            .collect(),
    );
    let (indices, labels) = (
        ranks.gather_integers(&indices),
        ranks.gather_integers(&labels),
    );
    let mut values = own.values;
    values.resize(most * dim, 0.0);
    let values = ranks.gather_floats_on_first(&values, dim);
    let mut all = Features {
        dim,
        ..Features::default()
    };
    if ranks.rank() > 0 {
        return all;
    }
    let mut rows: Vec<usize> = (0..indices.len())
        .filter(|&row| indices[row] != NONE)
        .collect();
    rows.sort_unstable_by_key(|&row| indices[row]);
    for row in rows {
        all.values
            .extend_from_slice(&values[row * dim..(row + 1) * dim]);
        all.indices.push(indices[row] as usize);
        all.labels.push(u32::try_from(labels[row]).ok());
    }
    all
}

/// The class of an image that has one label alone.
fn only(labels: &[u32]) -> Option<u32> {
    match labels {
        [label] => Some(*label),
        _ => None,
    }
}

/// About 2 million pixels a batch: enough to keep a device busy, little enough for any memory.
fn batch_of(side: usize) -> usize {
    (2_000_000 / (side * side).max(1)).clamp(8, 512)
}

/// Some of the images of a source, in the order of `indices`.
pub struct Subset {
    source: Arc<dyn Source>,
    indices: Vec<usize>,
}

impl Subset {
    /// The images `indices` of `source`.
    pub fn of(source: Arc<dyn Source>, indices: Vec<usize>) -> Self {
        Self { source, indices }
    }

    /// At most `limit` images, evenly spread over `source`.
    pub fn spread(source: Arc<dyn Source>, limit: usize) -> Self {
        let count = limit.min(source.len());
        let indices = (0..count).map(|i| i * source.len() / count).collect();
        Self { source, indices }
    }
}

impl Source for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        self.source.read(self.indices[index])
    }

    fn name(&self, index: usize) -> String {
        self.source.name(self.indices[index])
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.source.label(self.indices[index])
    }

    fn labels(&self, index: usize) -> Vec<u32> {
        self.source.labels(self.indices[index])
    }

    fn classes(&self) -> &[String] {
        self.source.classes()
    }

    fn relative_path(&self, index: usize) -> Option<PathBuf> {
        self.source.relative_path(self.indices[index])
    }

    fn key(&self, index: usize) -> Vec<u8> {
        self.source.key(self.indices[index])
    }

    fn bytes(&self, index: usize) -> Option<u64> {
        self.source.bytes(self.indices[index])
    }

    fn describe(&self) -> String {
        format!("{} of {}", self.indices.len(), self.source.describe())
    }
}
