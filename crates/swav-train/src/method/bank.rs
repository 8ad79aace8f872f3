//! Memory banks: what the network made of every image when it last saw it.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor};

use super::EmbeddedBatch;
use super::tensor_file::{SavedTensors, TensorFile};
use crate::TrainError;
use crate::comm::Communicator;

/// The embeddings of a whole epoch, one bank for each of the first crops (Caron et al., NeurIPS 2020, appendix A.4).
///
/// A bank is kept as the batches that it came in: to remember a batch is to put it in the place of the one an epoch
/// ago, and nothing else moves. Images that an epoch leaves out, since they fill no batch, are not in it. Over several ranks each has
/// the images of its own part of every batch.
#[derive(Clone, Debug)]
pub struct Bank {
    /// `embeddings[crop][batch]`, `[B, dim]`.
    embeddings: Vec<Vec<Tensor<2>>>,
    /// `indices[batch]`, B indices into the source.
    indices: Vec<Vec<usize>>,
}

impl Bank {
    /// Banks of nothing, for `crops` crops.
    pub fn new(crops: usize) -> Self {
        Self {
            embeddings: vec![Vec::new(); crops],
            indices: Vec::new(),
        }
    }

    /// Remembers the batches of a whole epoch, if there are any.
    ///
    /// # Panics
    /// If a batch has fewer embeddings than there are banks.
    pub fn fill(&mut self, epoch: Vec<EmbeddedBatch>) {
        for (place, batch) in epoch.into_iter().enumerate() {
            self.put(place, &batch.indices, &batch.embeddings);
        }
    }

    /// Remembers the batch at `place` in the epoch: the images' indices and, for each bank, unit embeddings `[B, dim]`.
    ///
    /// # Panics
    /// If `place` lies beyond the end, or there are fewer embeddings than banks.
    pub fn put(&mut self, place: usize, indices: &[usize], embeddings: &[Tensor<2>]) {
        assert!(place <= self.indices.len(), "batch {place} of a bank");
        let end = place == self.indices.len();
        for (bank, embeddings) in self.embeddings.iter_mut().zip(embeddings) {
            let embeddings = alone(embeddings);
            match end {
                true => bank.push(embeddings),
                false => bank[place] = embeddings,
            }
        }
        match end {
            true => self.indices.push(indices.to_vec()),
            false => self.indices[place] = indices.to_vec(),
        }
    }

    /// The batches of a bank, `[B, dim]` each.
    pub fn batches(&self, bank: usize) -> &[Tensor<2>] {
        &self.embeddings[bank]
    }

    /// A bank in one piece, `[N, dim]`.
    pub fn whole(&self, bank: usize) -> Tensor<2> {
        Tensor::cat(self.embeddings[bank].clone(), 0)
    }

    /// The indices of the images, in the order of the rows.
    pub fn indices(&self) -> impl Iterator<Item = usize> + Clone {
        self.indices.iter().flatten().copied()
    }

    /// Rows of a bank.
    pub fn len(&self) -> usize {
        self.indices.iter().map(Vec::len).sum()
    }

    /// Whether nothing has been remembered yet.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The same over all ranks, in the order of [`Communicator::gather`].
    pub fn indices_of_all(&self, ranks: &mut dyn Communicator) -> Vec<usize> {
        let own: Vec<i32> = self.indices().map(|index| index as i32).collect();
        let all = ranks.gather_integers(&own).into_iter();
        all.map(|index| index as usize).collect()
    }

    pub(crate) fn save(
        &self,
        directory: &Path,
        ranks: &mut dyn Communicator,
    ) -> Result<(), TrainError> {
        let mut memory = TensorFile::default();
        memory.number("batches", self.indices.len() as u64);
        if !self.is_empty() {
            for bank in 0..self.embeddings.len() {
                memory.rows(format!("bank{bank}"), &self.whole(bank), ranks);
            }
            let own: Vec<i32> = self.indices().map(|index| index as i32).collect();
            memory.integers("indices", &ranks.gather_integers(&own));
        }
        memory.save(&directory.join(FILE), ranks)
    }

    /// Reads banks of batches of which this rank has `batch` images with embeddings of `dim` numbers, of a set of `images`.
    pub(crate) fn load(
        &mut self,
        directory: &Path,
        [batch, dim]: [usize; 2],
        images: usize,
        device: &Device,
        ranks: &dyn Communicator,
    ) -> Result<(), TrainError> {
        let found = SavedTensors::open(&directory.join(FILE))?;
        let batches = found.number("batches")? as usize;
        let (rank, world) = (ranks.rank(), ranks.world());
        let all = images / (batch * world);
        if batches != 0 && batches != all {
            return Err(found.damaged(format!("holds {batches} batches of {all}")));
        }
        let mut loaded = Self::new(self.embeddings.len());
        if batches > 0 {
            let rows = batches * batch;
            for (number, bank) in loaded.embeddings.iter_mut().enumerate() {
                let whole = found.rows(&format!("bank{number}"), [rows, dim], device, ranks)?;
                *bank = whole.split(batch, 0).iter().map(alone).collect();
            }
            let indices = found.integers_in("indices", rows * world, 0..images as i64)?;
            let indices = indices.into_iter().skip(rank).step_by(world);
            let indices: Vec<usize> = indices.map(|index| index as usize).collect();
            loaded.indices = indices.chunks(batch).map(<[usize]>::to_vec).collect();
        }
        *self = loaded;
        Ok(())
    }
}

/// The rows in memory of their own. On the CPU a part of a tensor keeps all of it alive, and the embeddings of two crops
/// would those of all the others.
fn alone(rows: &Tensor<2>) -> Tensor<2> {
    let all = Tensor::<1, Int>::arange(0..rows.dims()[0] as i64, &rows.device());
    rows.clone().select(0, all)
}

const FILE: &str = "bank.safetensors";
