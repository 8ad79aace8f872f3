//! What is known before anything is planned.

use swav_data::{DEFAULT_MAX_PIXELS, Digest, Source, decode};

use crate::TrainError;
use crate::precision::Bf16;

/// Images of a set that are judged by kNN while training goes on, evenly spread.
pub const JUDGED: usize = 5000;

/// What is known about the data and the device before anything is planned.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Training images.
    pub images: usize,
    /// Classes of the training images; 0 where there are no labels.
    pub classes: usize,
    /// Whether there are images with one label alone, which kNN can be judged by.
    pub single_labels: bool,
    /// Median short side of a few images, in pixels.
    pub side: usize,
    /// Whether the device is a GPU.
    pub accelerated: bool,
    /// What the device does with maps of 16 bits.
    pub bf16: Bf16,
    /// Bytes of memory that this rank may take for training, if that is known.
    pub memory: Option<u64>,
    /// Processes that share the run.
    pub ranks: usize,
    /// What tells the set from others, where it was looked at.
    pub digest: Option<Digest>,
}

impl Facts {
    /// Looks at `source`, decoding a few images spread over it.
    ///
    /// # Errors
    /// If none of the images looked at can be decoded.
    pub fn look(
        source: &dyn Source,
        accelerated: bool,
        bf16: Bf16,
        memory: Option<u64>,
        ranks: usize,
    ) -> Result<Self, TrainError> {
        const SAMPLES: usize = 9;
        let images = source.len();
        let looked_at = images.min(JUDGED);
        let mut spread = (0..looked_at).map(|i| i * images / looked_at);
        let mut sides = Vec::new();
        let mut last = None;
        for i in 0..SAMPLES.min(images) {
            let index = i * images / SAMPLES.min(images);
            let name = source.name(index);
            let image = source
                .read(index)
                .and_then(|sample| decode(&sample, &name, DEFAULT_MAX_PIXELS));
            match image {
                Ok(image) => sides.push(image.width.min(image.height) as usize),
                Err(error) => last = Some(error),
            }
        }
        sides.sort_unstable();
        match (sides.get(sides.len() / 2), last) {
            (Some(&side), _) => Ok(Self {
                images,
                classes: source.classes().len(),
                single_labels: spread.any(|index| source.label(index).is_some()),
                side,
                accelerated,
                bf16,
                memory,
                ranks,
                digest: Some(Digest::of(source)),
            }),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(TrainError::Recipe("the data set is empty".to_string())),
        }
    }
}
