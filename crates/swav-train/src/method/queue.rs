//! Embeddings of earlier batches that take part in the assignment.

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::span::Span;

/// `[method] queue = { length = 3840, start = "15 epochs" }`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueRecipe {
    /// Embeddings kept per assigning crop, rounded down to a multiple of the batch; 0: no queue.
    pub length: Option<usize>,
    /// When it begins to fill.
    pub start: Option<Span>,
}

/// A first-in, first-out store of unit embeddings, one ring per assigning crop.
///
/// With a small batch there are fewer samples than prototypes and the equal partition means
/// little; the queue lends the assignment the embeddings of earlier batches. Only the codes of
/// the current batch are used (Caron et al., NeurIPS 2020, section 3.1 and appendix A.2).
///
/// It affects the codes from the step after it has become full, and it is never emptied again. Over several ranks each keeps the
/// embeddings of its own images, and the assignment is over all of them.
#[derive(Clone, Debug)]
pub struct Queue {
    rings: Vec<Tensor<2>>,
    length: usize,
    filled: usize,
}

impl Queue {
    /// An empty queue of `length` embeddings of `dim` numbers for each of `crops` crops.
    pub fn new(crops: usize, length: usize, dim: usize, device: &Device) -> Self {
        Self {
            rings: vec![Tensor::zeros([length, dim], device); crops],
            length,
            filled: 0,
        }
    }

    /// A queue with the given contents, newest first; `filled` rows of each ring are real.
    ///
    /// # Panics
    /// If there is no ring or the rings differ in length.
    pub fn restore(rings: Vec<Tensor<2>>, filled: usize) -> Self {
        let length = rings[0].dims()[0];
        assert!(
            rings.iter().all(|ring| ring.dims()[0] == length),
            "the rings of a queue are of one length"
        );
        Self {
            rings,
            length,
            filled,
        }
    }

    /// The embeddings of one assigning crop, `[length, dim]`, newest first, once all are real.
    pub fn ready(&self, crop: usize) -> Option<Tensor<2>> {
        (self.filled >= self.length).then(|| self.rings[crop].clone())
    }

    /// Puts the batch's embeddings, `[B, dim]` for each assigning crop, in front of the queue.
    ///
    /// # Panics
    /// If there are not as many tensors as rings.
    pub fn push(&mut self, embeddings: &[Tensor<2>]) {
        assert_eq!(embeddings.len(), self.rings.len(), "one tensor per ring");
        let mut pushed = 0;
        for (ring, new) in self.rings.iter_mut().zip(embeddings) {
            pushed = new.dims()[0].min(self.length);
            let kept = self.length - pushed;
            let new = new.clone().narrow(0, 0, pushed);
            *ring = match kept {
                0 => new,
                _ => Tensor::cat(vec![new, ring.clone().narrow(0, 0, kept)], 0),
            };
        }
        self.filled = (self.filled + pushed).min(self.length);
    }

    /// All rings, `[length, dim]` each.
    pub fn rings(&self) -> &[Tensor<2>] {
        &self.rings
    }

    /// Rows of each ring that hold embeddings.
    pub fn filled(&self) -> usize {
        self.filled
    }
}
