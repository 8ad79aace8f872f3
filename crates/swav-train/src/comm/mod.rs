//! The processes that train one network together.
//!
//! | file | |
//! |---|---|
//! | this | what a run asks of its ranks ([`Communicator`]), and a run of one ([`Local`]) |
//! | `agree.rs` | one outcome for all ranks |
//! | `host.rs` | ranks that exchange memory of their hosts ([`Host`]), whatever moves it ([`Engine`]) |
//! | `gradients.rs` | gradients on their way there and back |
//! | `mpi.rs` | MPI as an engine, with the crate feature `mpi` |
//!
//! # The order of a batch
//! Of W ranks, rank r has the images r, r + W, r + 2W, … of every batch, of each part of a batch, of a queue and of a bank. Row i
//! of what rank r holds is row i·W + r of the whole, whatever W is: this is how [`Communicator::gather`] puts rows together, and
//! how a checkpoint holds them.

mod agree;
mod gradients;
mod host;
#[cfg(feature = "mpi")]
pub mod mpi;

use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use swav_model::{Network, Ranks};
pub use swav_ot::Local;
use swav_ot::Reduce;

pub use agree::{agree, on_first};
pub use host::{Engine, Host};

/// The ranks of a run, each a process with a device and a part of every batch.
///
/// Every rank makes the same calls in the same order, and each gets the same bits back. What crosses the ranks for an
/// assignment is in [`Reduce`].
pub trait Communicator: Reduce + Send {
    /// Which of the ranks this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn world(&self) -> usize;

    /// The sums of the gradients of `network`, and of the loss `[1]`, over the ranks.
    fn sum_gradients(
        &mut self,
        network: &Network,
        gradients: GradientsParams,
        loss: Tensor<1>,
    ) -> (GradientsParams, Tensor<1>);

    /// Sums each value over the ranks.
    fn add(&mut self, values: &mut [f64]);

    /// The rows of all ranks, `[n, d]` of each, in the order of the whole: `[W·n, d]`.
    fn gather(&mut self, rows: Tensor<2>) -> Tensor<2>;

    /// The same, on rank 0 alone; the others keep their own.
    fn gather_on_first(&mut self, rows: Tensor<2>) -> Tensor<2> {
        if self.world() == 1 {
            return rows;
        }
        let ([_, width], device) = (rows.dims(), rows.device());
        let all = self.gather_floats_on_first(&floats(rows), width);
        rows_of(all, width, &device)
    }

    /// Rows of `width` values of all ranks, as many of each, in the order of the whole; on rank 0 alone, the others keep their own.
    fn gather_floats_on_first(&mut self, rows: &[f32], width: usize) -> Vec<f32>;

    /// The numbers of all ranks, as many of each, in the order of the whole.
    fn gather_integers(&mut self, values: &[i32]) -> Vec<i32>;

    /// What each rank has to say, in the order of the ranks.
    fn gather_texts(&mut self, text: &str) -> Vec<String>;

    /// The largest value over the ranks.
    fn largest(&mut self, value: u32) -> u32;

    /// The ranks that batch norm takes its statistics over, in groups of `size`.
    ///
    /// # Panics
    /// If `size` does not divide the number of ranks.
    fn batch_norm(&self, size: usize) -> Ranks;

    /// What this rank has sent so far.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

/// Messages that a rank has sent: calls of a collective operation, with the bytes that this rank put into them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Collective operations.
    pub messages: u64,
    /// Bytes that this rank put in.
    pub bytes: u64,
}

impl Traffic {
    /// What has been sent since `before`, in each of so many steps.
    pub fn since(self, before: Self, steps: u64) -> Self {
        Self {
            messages: (self.messages - before.messages) / steps,
            bytes: (self.bytes - before.bytes) / steps,
        }
    }
}

/// The rows of this rank of a whole, `[W·n, d]`: see [`Communicator::gather`].
pub fn share(rows: Tensor<2>, ranks: &(impl Communicator + ?Sized)) -> Tensor<2> {
    let (world, rank) = (ranks.world(), ranks.rank());
    if world == 1 {
        return rows;
    }
    let own = (rank..rows.dims()[0]).step_by(world);
    let own: Vec<i64> = own.map(|row| row as i64).collect();
    let own = Tensor::<1, Int>::from_data(&own[..], &rows.device());
    rows.select(0, own)
}

/// The values of a tensor, row-major.
fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    match tensor.into_data().convert_dtype(DType::F32).try_into_vec() {
        Ok(values) => values,
        Err(error) => unreachable!("it was converted: {error:?}"),
    }
}

/// Rows of `width` values.
fn rows_of(values: Vec<f32>, width: usize, device: &Device) -> Tensor<2> {
    let shape = [values.len() / width.max(1), width];
    Tensor::from_data(TensorData::new(values, shape), device)
}

impl Communicator for Local {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn sum_gradients(
        &mut self,
        _: &Network,
        gradients: GradientsParams,
        loss: Tensor<1>,
    ) -> (GradientsParams, Tensor<1>) {
        (gradients, loss)
    }

    fn add(&mut self, _: &mut [f64]) {}

    fn gather(&mut self, rows: Tensor<2>) -> Tensor<2> {
        rows
    }

    fn gather_floats_on_first(&mut self, rows: &[f32], _: usize) -> Vec<f32> {
        rows.to_vec()
    }

    fn gather_integers(&mut self, values: &[i32]) -> Vec<i32> {
        values.to_vec()
    }

    fn gather_texts(&mut self, text: &str) -> Vec<String> {
        vec![text.to_string()]
    }

    fn largest(&mut self, value: u32) -> u32 {
        value
    }

    fn batch_norm(&self, _: usize) -> Ranks {
        Ranks::default()
    }
}
