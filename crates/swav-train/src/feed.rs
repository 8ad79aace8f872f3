//! Batches on their way from the loader to the device.
//!
//! A thread of its own takes each batch from the loader and copies what a step will show the network into memory that the
//! device can read by itself, one batch ahead of training: a step finds its crops packed, and only enqueues their upload.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use swav_data::{BadFile, Cursor, DataError, Loader};

use crate::TrainError;
use crate::batch::{self, Batch};
use crate::upload::{Packed, Packer, Uploader};

/// Which crops of a batch a step looks at, and in how many parts.
#[derive(Clone, Debug)]
pub(crate) struct Portions {
    /// Parts of a batch that are learned from one after the other.
    pub(crate) parts: usize,
    /// Of each crop of an image, whether the network is shown it.
    pub(crate) shown: Vec<bool>,
}

/// A batch, packed for the device.
#[derive(Debug)]
pub(crate) struct Fed {
    /// The samples, B indices into the source.
    pub(crate) indices: Vec<usize>,
    /// The labels of each, where the source has any.
    pub(crate) labels: Vec<Vec<u32>>,
    /// Where the next batch starts.
    pub(crate) cursor: Cursor,
    /// The files without an image that were first met on the way to this batch.
    pub(crate) bad: Vec<Arc<BadFile>>,
    /// Of each part, the crops that the network is shown, a group for each resolution.
    parts: Vec<Vec<Packed>>,
    /// The crops that the network is not shown, of all samples, by their place among all crops of an image.
    kept: Vec<(usize, Packed)>,
}

impl Fed {
    fn pack(loaded: &swav_data::Batch, portions: &Portions, packer: &Packer) -> Self {
        let samples = loaded.indices.len();
        let pack =
            |rows, shown: &dyn Fn(usize) -> bool| packer.rows(&loaded.groups, samples, rows, shown);
        let parts = (0..portions.parts).map(|part| {
            let rows = batch::rows(part, portions.parts, samples);
            pack(rows, &|crop| portions.shown[crop])
        });
        let kept = (0..portions.shown.len()).filter(|&crop| !portions.shown[crop]);
        let kept = kept.flat_map(|crop| {
            let packed = pack(0..samples, &|other| other == crop);
            packed.into_iter().map(move |packed| (crop, packed))
        });
        let mut fed = Self {
            indices: loaded.indices.clone(),
            labels: loaded.labels.clone(),
            cursor: loaded.cursor,
            bad: loaded.bad.clone(),
            parts: parts.collect(),
            kept: kept.collect(),
        };
        let kept = fed.kept.iter_mut().map(|(_, packed)| packed);
        packer.stage(fed.parts.iter_mut().flatten().chain(kept));
        fed
    }

    /// As a batch that uploads what a step asks for.
    pub(crate) fn onto<'a>(&'a mut self, uploader: &'a Uploader) -> Uploading<'a> {
        Uploading {
            fed: self,
            uploader,
        }
    }
}

/// A batch on its way to the device.
pub(crate) struct Uploading<'a> {
    fed: &'a mut Fed,
    uploader: &'a Uploader,
}

impl Batch for Uploading<'_> {
    fn indices(&self) -> &[usize] {
        &self.fed.indices
    }

    fn labels(&self) -> &[Vec<u32>] {
        &self.fed.labels
    }

    fn part(&self, part: usize, parts: usize) -> Vec<Tensor<4>> {
        assert_eq!(parts, self.fed.parts.len(), "parts of a packed batch");
        let groups = self.fed.parts[part].iter().cloned();
        groups.map(|packed| self.uploader.images(packed)).collect()
    }

    fn take_part(&mut self, part: usize, _: usize) -> Vec<Tensor<4>> {
        let groups = std::mem::take(&mut self.fed.parts[part]).into_iter();
        groups.map(|packed| self.uploader.images(packed)).collect()
    }

    fn kept(&self, crop: usize) -> Tensor<4> {
        match self.fed.kept.iter().find(|(number, _)| *number == crop) {
            Some((_, packed)) => self.uploader.images(packed.clone()).inner(),
            None => panic!("crop {crop} is none that a method keeps to itself"),
        }
    }
}

/// The thread that packs, and what it has packed.
pub(crate) struct Feed {
    /// None only while it is being dropped.
    fed: Option<Receiver<Result<Fed, DataError>>>,
    thread: Option<JoinHandle<()>>,
    waited: Duration,
}

impl Feed {
    /// Starts to pack the batches of `loader`.
    pub(crate) fn start(mut loader: Loader, portions: Portions, packer: Packer) -> Self {
        // Without room in between, a batch is ready while the one before it is learned from, and no more.
        let (sender, receiver) = sync_channel(0);
        let thread = thread::spawn(move || {
            loop {
                let fed = match loader.next_batch() {
                    Ok(Some(batch)) => {
                        let fed = Fed::pack(&batch, &portions, &packer);
                        loader.recycle(batch);
                        Ok(fed)
                    }
                    Ok(None) => return,
                    Err(error) => Err(error),
                };
                let last = fed.is_err();
                // Nobody takes it any more: the run has ended.
                if sender.send(fed).is_err() || last {
                    return;
                }
            }
        });
        Self {
            fed: Some(receiver),
            thread: Some(thread),
            waited: Duration::ZERO,
        }
    }

    /// Returns the next batch.
    ///
    /// # Errors
    /// As [`Loader::next_batch`], and if there is none any more.
    pub(crate) fn next(&mut self) -> Result<Fed, TrainError> {
        let began = Instant::now();
        let fed = self.fed.as_ref().and_then(|fed| fed.recv().ok());
        self.waited += began.elapsed();
        match fed {
            Some(fed) => Ok(fed?),
            None => Err(TrainError::Recipe(
                "the loader ended although training never does".to_string(),
            )),
        }
    }

    /// Returns how long [`next`](Self::next) has waited, in all. Close to the time of training, it says that loading is the
    /// bottleneck.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // Its next attempt to hand over a batch fails, and it ends.
        self.fed = None;
        if let Some(thread) = self.thread.take() {
            // Where it has panicked, that has been told.
            let _ended = thread.join();
        }
    }
}
