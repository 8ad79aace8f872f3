//! Ranks that exchange memory of their hosts: what a device holds is read back, exchanged and uploaded again.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use swav_model::{Network, Ranks, SumOverRanks};
use swav_ot::Reduce;

use super::gradients::sum_all;
use super::{Communicator, Traffic, floats, rows_of};

/// Collective operations on the memory of hosts. All ranks make the same calls in the same order, with buffers of the same
/// length, and get the same bits back.
pub trait Engine: Debug + Send + Sync {
    /// Which of the ranks this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn world(&self) -> usize;

    /// Replaces each value by its sum over the ranks.
    fn sum_f32(&self, values: &mut Vec<f32>);

    /// Replaces each value by its sum over the ranks.
    fn sum_f64(&self, values: &mut [f64]);

    /// Replaces each value by the largest over the ranks.
    fn max_f32(&self, values: &mut [f32]);

    /// What all ranks have, one after the other.
    fn gather(&self, own: &[u8]) -> Vec<u8>;

    /// The same on rank 0, nothing on the others.
    fn gather_on_first(&self, own: &[u8]) -> Vec<u8>;

    /// The engine of the group of this rank, where each `size` ranks that follow one another are one.
    fn group(&self, size: usize) -> Arc<dyn Engine>;
}

/// Ranks whose messages an [`Engine`] moves.
#[derive(Debug)]
pub struct Host {
    engine: Arc<dyn Engine>,
    sent: Arc<Sent>,
}

/// What has been sent.
#[derive(Debug, Default)]
struct Sent {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Sent {
    fn count<T>(&self, values: &[T]) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        let bytes = size_of_val(values) as u64;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Host {
    /// The ranks of `engine`.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine,
            sent: Arc::default(),
        }
    }

    /// Exchanges the values of a tensor, which keeps its shape.
    fn exchange(&self, tensor: Tensor<2>, exchange: impl FnOnce(&mut Vec<f32>)) -> Tensor<2> {
        let (device, shape) = (tensor.device(), tensor.shape());
        let mut values = floats(tensor);
        self.sent.count(&values);
        exchange(&mut values);
        Tensor::from_data(TensorData::new(values, shape), &device)
    }

    /// The ranks' rows of `width` values, one rank after the other, in the order of the whole.
    fn interleaved<T: Copy>(&self, ranks: &[T], width: usize) -> Vec<T> {
        let world = self.world();
        let rows = ranks.len() / width.max(1) / world;
        let mut whole = Vec::with_capacity(ranks.len());
        for row in 0..rows {
            for rank in 0..world {
                let at = (rank * rows + row) * width;
                whole.extend_from_slice(&ranks[at..at + width]);
            }
        }
        whole
    }

    fn whole(&self, ranks: &[u8], width: usize, device: &Device) -> Tensor<2> {
        let whole = self.interleaved(&values_of(ranks, f32::from_ne_bytes), width);
        rows_of(whole, width, device)
    }
}

fn bytes_of<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| bytes(value)).collect()
}

fn values_of<T, const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (values, _) = bytes.as_chunks::<N>();
    values.iter().map(|&bytes| value(bytes)).collect()
}

impl Reduce for Host {
    fn sum(&mut self, partial: Tensor<2>) -> Tensor<2> {
        self.exchange(partial, |values| self.engine.sum_f32(values))
    }

    fn max(&mut self, partial: Tensor<2>) -> Tensor<2> {
        self.exchange(partial, |values| self.engine.max_f32(values))
    }
}

impl Communicator for Host {
    fn rank(&self) -> usize {
        self.engine.rank()
    }

    fn world(&self) -> usize {
        self.engine.world()
    }

    fn sum_gradients(
        &mut self,
        network: &Network,
        gradients: GradientsParams,
        loss: Tensor<1>,
    ) -> (GradientsParams, Tensor<1>) {
        let device = loss.device();
        let mut sum = |values: &mut Vec<f32>| {
            self.sent.count(values);
            self.engine.sum_f32(values);
        };
        let mut loss = floats(loss);
        let gradients = sum_all(network, gradients, &mut loss, &mut sum);
        let shape = [loss.len()];
        (
            gradients,
            Tensor::from_data(TensorData::new(loss, shape), &device),
        )
    }

    fn add(&mut self, values: &mut [f64]) {
        self.sent.count(values);
        self.engine.sum_f64(values);
    }

    fn gather(&mut self, rows: Tensor<2>) -> Tensor<2> {
        let ([_, width], device) = (rows.dims(), rows.device());
        let own = bytes_of(&floats(rows), f32::to_ne_bytes);
        self.sent.count(&own);
        self.whole(&self.engine.gather(&own), width, &device)
    }

    fn gather_floats_on_first(&mut self, rows: &[f32], width: usize) -> Vec<f32> {
        let own = bytes_of(rows, f32::to_ne_bytes);
        self.sent.count(&own);
        let all = self.engine.gather_on_first(&own);
        match self.rank() {
            0 => self.interleaved(&values_of(&all, f32::from_ne_bytes), width),
            _ => rows.to_vec(),
        }
    }

    fn gather_integers(&mut self, values: &[i32]) -> Vec<i32> {
        let own = bytes_of(values, i32::to_ne_bytes);
        self.sent.count(&own);
        let all = self.engine.gather(&own);
        self.interleaved(&values_of(&all, i32::from_ne_bytes), 1)
    }

    fn gather_texts(&mut self, text: &str) -> Vec<String> {
        let length = self.engine.gather(&(text.len() as u64).to_ne_bytes());
        let lengths = values_of(&length, u64::from_ne_bytes);
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        let mut own = text.as_bytes().to_vec();
        own.resize(longest, 0);
        self.sent.count(&own);
        let all = self.engine.gather(&own);
        let texts = all.chunks(longest.max(1)).zip(lengths);
        let mut texts: Vec<_> = texts
            .map(|(text, length)| String::from_utf8_lossy(&text[..length as usize]).into_owned())
            .collect();
        texts.resize(self.world(), String::new());
        texts
    }

    fn largest(&mut self, value: u32) -> u32 {
        // Small numbers, which a float holds exactly.
        let mut largest = [value as f32];
        self.sent.count(&largest);
        self.engine.max_f32(&mut largest);
        largest[0] as u32
    }

    fn batch_norm(&self, size: usize) -> Ranks {
        assert!(
            size > 0 && self.world().is_multiple_of(size),
            "groups of {size} of {} ranks",
            self.world()
        );
        if size == 1 {
            return Ranks::default();
        }
        let engine = match size == self.world() {
            true => self.engine.clone(),
            false => self.engine.group(size),
        };
        let sent = self.sent.clone();
        Ranks::new(Arc::new(Statistics { engine, sent }))
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            messages: self.sent.messages.load(Ordering::Relaxed),
            bytes: self.sent.bytes.load(Ordering::Relaxed),
        }
    }
}

/// The ranks of a batch norm.
#[derive(Debug)]
struct Statistics {
    engine: Arc<dyn Engine>,
    sent: Arc<Sent>,
}

impl SumOverRanks for Statistics {
    fn count(&self) -> usize {
        self.engine.world()
    }

    fn sum(&self, values: &mut [f64]) {
        self.sent.count(values);
        self.engine.sum_f64(values);
    }
}
