//! Batches as a step asks for them.

use std::ops::Range;

use burn::tensor::Tensor;

/// A batch of B images, of which a step sees one part after the other.
pub trait Batch {
    /// Of each image, its index in the source.
    fn indices(&self) -> &[usize];

    /// Of each image, its labels; none where the source has none.
    fn labels(&self) -> &[Vec<u32>];

    /// Of one of `parts` parts, R images, the crops that the network is shown: for each resolution `[n·R, 3, S, S]`,
    /// crop-major.
    fn part(&self, part: usize, parts: usize) -> Vec<Tensor<4>>;

    /// The same for the last time: memory may go free.
    fn take_part(&mut self, part: usize, parts: usize) -> Vec<Tensor<4>> {
        self.part(part, parts)
    }

    /// The crop of that number of every image, which the method keeps from the network: `[B, 3, S, S]`, without gradients.
    ///
    /// # Panics
    /// If the network is shown it, or there is no such crop.
    fn kept(&self, crop: usize) -> Tensor<4>;
}

/// The images of one of `parts` parts of a batch of `images`.
pub(crate) fn rows(part: usize, parts: usize, images: usize) -> Range<usize> {
    part * images / parts..(part + 1) * images / parts
}

/// A batch whose crops are on the device already.
#[derive(Clone, Debug)]
pub struct DeviceBatch {
    /// Of each image, its index in the source.
    pub indices: Vec<usize>,
    /// Of each image, its labels.
    pub labels: Vec<Vec<u32>>,
    /// The crops that the network is shown: for each resolution `[n·B, 3, S, S]`, crop-major.
    pub crops: Vec<Tensor<4>>,
    /// The crops that the method keeps to itself, by their numbers among all crops of an image: `[B, 3, S, S]`.
    pub kept: Vec<(usize, Tensor<4>)>,
}

impl DeviceBatch {
    /// A batch of `images` images, numbered from 0, without labels, all of whose crops the network is shown.
    pub fn new(images: usize, crops: Vec<Tensor<4>>) -> Self {
        Self {
            indices: (0..images).collect(),
            labels: Vec::new(),
            crops,
            kept: Vec::new(),
        }
    }
}

impl Batch for DeviceBatch {
    fn indices(&self) -> &[usize] {
        &self.indices
    }

    fn labels(&self) -> &[Vec<u32>] {
        &self.labels
    }

    fn part(&self, part: usize, parts: usize) -> Vec<Tensor<4>> {
        let images = self.indices.len();
        let rows = rows(part, parts, images);
        let of_part = |crops: &Tensor<4>| {
            let each = crops.clone().split(images, 0).into_iter();
            Tensor::cat(each.map(|crop| crop.slice(rows.clone())).collect(), 0)
        };
        match parts {
            1 => self.crops.clone(),
            _ => self.crops.iter().map(of_part).collect(),
        }
    }

    fn kept(&self, crop: usize) -> Tensor<4> {
        match self.kept.iter().find(|(number, _)| *number == crop) {
            Some((_, images)) => images.clone().inner(),
            None => panic!("crop {crop} is none that a method keeps to itself"),
        }
    }
}
