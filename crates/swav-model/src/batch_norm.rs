//! Batch normalisation with PyTorch's semantics.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::{
    Content, Devices, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param, ParamId,
};
use burn::tensor::{Device, Tensor};

use crate::Ranks;
use crate::ops::{self, Epilogue};

/// Share of the newest batch in the running statistics.
const MOMENTUM: f64 = 0.1;
/// Added to the variance before its root is taken.
const EPSILON: f64 = 1e-5;

/// Batch normalisation over every axis but the second (Ioffe and Szegedy, 2015).
///
/// ```text
/// y = (x − mean) / √(var + 1e-5) · weight + bias
/// running ← 0.9 running + 0.1 batch
/// ```
///
/// While training, `mean` and `var` are those of the batch, and `var` divides by the number n of
/// values in a channel. The running variance takes the *unbiased* variance instead, n/(n − 1) times
/// as large: that is what PyTorch does, and what weights trained there expect. Burn's own layer
/// keeps the biased one, which on a batch of 16 single pixels is 6 % less.
///
/// The layer trains when its input lives on an autodiff device and the layer has not been frozen
/// ([`Module::freeze`]); otherwise it normalises with the running statistics. That is Burn's rule.
#[derive(Module, Debug)]
pub struct BatchNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    training: Param<Flag>,
    running_mean: RunningStatistic,
    running_var: RunningStatistic,
    #[module(skip)]
    ranks: Ranks,
}

impl BatchNorm {
    /// A layer for `channels` channels: weight 1, bias 0, running mean 0 and variance 1.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(Tensor::ones([channels], device)),
            bias: Param::from_tensor(Tensor::zeros([channels], device)),
            training: Param::from_bool(true),
            running_mean: RunningStatistic::new(Tensor::zeros([channels], device)),
            running_var: RunningStatistic::new(Tensor::ones([channels], device)),
            ranks: Ranks::default(),
        }
    }

    /// Normalises `[N, channels, ...]`; while training, also updates the running statistics.
    ///
    /// # Panics
    /// If the second axis is not `channels`. While training, if a channel holds a single value (one
    /// image whose feature map is a single pixel): it has no variance to speak of. Callers refuse
    /// such a batch before they get here.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.forward_with(x, Epilogue::None)
    }

    /// [`forward`](Self::forward) with an epilogue in the same pass over the map.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), and if a shortcut has another shape than `x`.
    pub fn forward_with<const D: usize>(&self, x: Tensor<D>, epilogue: Epilogue<D>) -> Tensor<D> {
        let shape = x.dims();
        let [channels] = self.weight.dims();
        assert!(
            D >= 2 && shape[1] == channels,
            "batch norm over {channels} channels was given {shape:?}"
        );
        if x.device().is_autodiff() && self.training.is_enabled() {
            self.forward_train(x, epilogue)
        } else {
            self.forward_running(x, epilogue)
        }
    }

    fn forward_running<const D: usize>(&self, x: Tensor<D>, epilogue: Epilogue<D>) -> Tensor<D> {
        let device = x.device();
        ops::batch_norm(
            x,
            self.weight.val(),
            self.bias.val(),
            self.running_mean.value().to_device(&device),
            self.running_var.value().to_device(&device),
            EPSILON,
            epilogue,
        )
    }

    fn forward_train<const D: usize>(&self, x: Tensor<D>, epilogue: Epilogue<D>) -> Tensor<D> {
        let shape = x.dims();
        let values = shape.iter().product::<usize>() / shape[1] * self.ranks.count();
        assert!(
            values > 1,
            "batch norm cannot train on a single value per channel, was given {shape:?}"
        );
        let unbias = values as f64 / (values - 1) as f64;
        let (weight, bias) = (self.weight.val(), self.bias.val());
        let batch = ops::batch_norm_train(x, weight, bias, EPSILON, epilogue, &self.ranks);
        self.running_mean.absorb(batch.mean);
        self.running_var.absorb(batch.variance.mul_scalar(unbias));
        batch.output
    }

    /// From now on, statistics are taken over the images of all `ranks`, each of which has as many.
    pub(crate) fn synchronise(&mut self, ranks: &Ranks) {
        self.ranks = ranks.clone();
    }

    /// The running mean, `[channels]`.
    pub fn running_mean(&self) -> Tensor<1> {
        self.running_mean.value()
    }

    /// The running (unbiased) variance, `[channels]`.
    pub fn running_var(&self) -> Tensor<1> {
        self.running_var.value()
    }
}

/// A running average that the forward pass updates through a shared reference.
///
/// Burn's `RunningState` is not used, for three reasons. It holds the newest update back until the
/// next one, so that a record of a training model misses it. Its clones share one value, so that
/// casting or training a clone changes the original. And it does not restore its id from a record.
/// Here an update is in force when `forward` returns, and a clone is a copy.
#[derive(Debug)]
pub struct RunningStatistic {
    id: ParamId,
    value: Mutex<Tensor<1>>,
}

impl RunningStatistic {
    fn new(value: Tensor<1>) -> Self {
        Self::with_id(ParamId::new(), value)
    }

    fn with_id(id: ParamId, value: Tensor<1>) -> Self {
        Self {
            id,
            value: Mutex::new(value),
        }
    }

    /// The average as of the latest update.
    pub fn value(&self) -> Tensor<1> {
        self.lock().clone()
    }

    fn absorb(&self, batch: Tensor<1>) {
        let mut value = self.lock();
        let batch = batch.detach().to_device(&value.device());
        *value = value
            .clone()
            .mul_scalar(1.0 - MOMENTUM)
            .add(batch.mul_scalar(MOMENTUM))
            .detach();
    }

    fn lock(&self) -> MutexGuard<'_, Tensor<1>> {
        // A tensor is replaced whole, so that a panic elsewhere cannot leave half of one behind.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn into_value(self) -> Tensor<1> {
        self.value
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for RunningStatistic {
    fn clone(&self) -> Self {
        Self::with_id(self.id, self.value())
    }
}

impl Module for RunningStatistic {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.visit_float(&Param::initialized(self.id, self.value()));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let id = self.id;
        let mapped = mapper.map_float(Param::initialized(id, self.into_value()));
        let (id, value, _) = mapped.consume();
        Self::with_id(id, value.set_require_grad(false))
    }

    fn to_device(self, device: &Device) -> Self {
        let id = self.id;
        Self::with_id(id, self.into_value().to_device(device))
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn collect_devices(&self, mut devices: Devices) -> Devices {
        let device = self.lock().device();
        if !devices.contains(&device) {
            devices.push(device);
        }
        devices
    }

    fn materialize(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        Self::with_id(self.id, self.value().without_autodiff())
    }

    fn train(self) -> Self {
        let id = self.id;
        Self::with_id(id, self.into_value().autodiff())
    }
}

impl ModuleDisplayDefault for RunningStatistic {
    fn content(&self, content: Content) -> Option<Content> {
        content
            .add_formatted(&format!("RunningStatistic {:?}", self.lock().dims()))
            .optional()
    }
}

impl ModuleDisplay for RunningStatistic {}
