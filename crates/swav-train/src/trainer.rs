//! The loop.
//!
//! Before an epoch the method may look at all images. One step is: the next batch from the loader, one
//! pass of the backbone per resolution, the method's targets and loss, backward, update. Around it:
//! records, kNN accuracy, the collapse monitor, checkpoints, and a clean stop between any two steps.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor};
use swav_data::{Digest, Loader, Source};
use swav_model::Network;

use crate::checkpoint::{self, RunDirectory, RunLock};
use crate::config::{Interval, OnCollapse, Span};
use crate::display::Display;
use crate::eval::read;
use crate::feed::{Fed, Feed, Portions};
use crate::forward::{by_crop, untracked};
use crate::method::{Epoch, Seen, Targets};
use crate::metrics::{KnnRecord, MetricsFile, StepRecord};
use crate::monitor::{OnlineKnn, Verdict, spread};
use crate::pass::{Pass, loader_config};
use crate::plan::Plan;
use crate::report::{self, Report, Subject};
use crate::state::State;
use crate::tensorboard::Events;
use crate::upload::{Normalisation, Uploader};
use crate::{Recipe, Stop, TrainError};

/// Trains by a plan, from a state, into a run directory.
pub struct Trainer {
    plan: Plan,
    run: RunDirectory,
    _lock: RunLock,
    state: State,
    source: Arc<dyn Source>,
    feed: Feed,
    portions: Portions,
    knn: Option<OnlineKnn>,
    device: Device,
    uploader: Uploader,
    metrics: MetricsFile,
    events: Option<Events>,
    report_interval: Interval,
    display: Box<dyn Display>,
    stop: Stop,
    window: Window,
    loss_sum: Option<Tensor<1>>,
    noted: HashSet<usize>,
}

/// How a run ended without an error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// All steps are done.
    Finished {
        /// The last measured kNN accuracy.
        knn: Option<f64>,
    },
    /// The user asked for an end; the state is saved.
    Interrupted,
}

/// What a trainer is made of besides the plan.
pub struct Parts {
    /// The training images.
    pub source: Arc<dyn Source>,
    /// Held-out images for the online kNN.
    pub test: Option<Arc<dyn Source>>,
    /// Where it runs, without gradients; the trainer turns them on.
    pub device: Device,
    /// Where it is shown.
    pub display: Box<dyn Display>,
    /// By whom it is stopped.
    pub stop: Stop,
    /// How often its report is written anew.
    pub report_every: Span,
}

/// What one step leaves to look at. Nothing is read back from the device before it is asked for.
struct Step {
    loss: Tensor<1>,
    targets: Targets,
    embeddings: Tensor<2>,
    lr: f64,
}

/// What came of measuring kNN accuracy.
enum Measured {
    Accuracy(f64),
    Interrupted,
}

/// Time and images since the last record.
struct Window {
    began: Instant,
    waited: Duration,
    images: usize,
}

impl Window {
    fn open(waited: Duration) -> Self {
        Self {
            began: Instant::now(),
            waited,
            images: 0,
        }
    }
}

impl Trainer {
    /// A new run in the empty directory `run`. Where it begins with weights from elsewhere, they are its first checkpoint:
    /// continued, it needs their file no more.
    ///
    /// # Errors
    /// If the data, the directory or the weights cannot be used, or another process trains in the directory.
    pub fn start(
        recipe: Recipe,
        plan: Plan,
        run: RunDirectory,
        parts: Parts,
    ) -> Result<Self, TrainError> {
        let lock = run.lock()?;
        let state = State::first(&plan, &parts.device.clone().autodiff())?;
        recipe.save(&run.recipe())?;
        plan.save(&run.plan())?;
        if plan.init.is_some() {
            run.save(&state, plan.train.keep)?;
        }
        Self::assemble(plan, run, lock, state, parts)
    }

    /// Continues `run` from its newest checkpoint, or from its beginning if there is none, with a plan that gives the same
    /// numbers as the run's own.
    ///
    /// # Errors
    /// If the checkpoint is damaged, the data is not what it was, or another process trains in the directory.
    pub fn resume(
        recipe: Recipe,
        plan: Plan,
        run: RunDirectory,
        parts: Parts,
    ) -> Result<Self, TrainError> {
        let images = parts.source.len();
        if images != plan.data.images {
            return Err(TrainError::Recipe(format!(
                "the run was started on {} images, {} now holds {images}: the same images cannot \
                 be met again; restore them or start a new run",
                plan.data.images,
                plan.data.path.display()
            )));
        }
        let classes = parts.source.classes().len();
        if classes != plan.data.classes {
            return Err(TrainError::Recipe(format!(
                "the run was started with {} classes, now there are {classes}: labels would mean other things; restore \
                 {} or start a new run",
                plan.data.classes,
                plan.data
                    .labels
                    .as_ref()
                    .unwrap_or(&plan.data.path)
                    .display()
            )));
        }
        if let Some(then) = &plan.data.digest {
            let now = Digest::of(parts.source.as_ref());
            let differ = then.differences(&now);
            if !differ.is_empty() {
                return Err(TrainError::Recipe(format!(
                    "{} is not the set that the run was started on: other {}. The same images cannot be met again; restore \
                     them or start a new run",
                    plan.data.path.display(),
                    differ.join(" and ")
                )));
            }
        }
        let lock = run.lock()?;
        run.clean()?;
        if plan != Plan::load(&run.plan())? {
            recipe.save(&run.recipe())?;
            plan.save(&run.plan())?;
        }
        let device = parts.device.clone().autodiff();
        let state = match run.list()?.pop() {
            Some((_, newest)) => checkpoint::load(&newest, &plan, &device)?,
            None => State::first(&plan, &device)?,
        };
        Self::assemble(plan, run, lock, state, parts)
    }

    fn assemble(
        plan: Plan,
        run: RunDirectory,
        lock: RunLock,
        state: State,
        parts: Parts,
    ) -> Result<Self, TrainError> {
        let Parts {
            source,
            test,
            device,
            display,
            stop,
            report_every,
        } = parts;
        let knn = (!plan.train.knn_steps.is_never()).then(|| OnlineKnn::new(source.clone(), test));
        let loader = Loader::new(
            source.clone(),
            loader_config(&plan, plan.crops.clone()),
            state.cursor,
        )?;
        let metrics = MetricsFile::open(&run.metrics(), state.step)?;
        let events = plan.train.tensorboard;
        let events = events.then(|| Events::create(&run.tensorboard(), state.step));
        let device = device.autodiff();
        let uploader = Uploader::new(&Normalisation::TRAINING, &device);
        let crops = 0..plan.crops_per_image();
        let portions = Portions {
            parts: plan.train.accumulate,
            shown: crops.map(|crop| state.method.shows(crop)).collect(),
        };
        Ok(Self {
            feed: Feed::start(loader, portions.clone(), uploader.packer().clone()),
            portions,
            uploader,
            device,
            window: Window::open(Duration::ZERO),
            loss_sum: None,
            noted: HashSet::new(),
            report_interval: Interval::of(report_every, plan.train.steps_per_epoch),
            plan,
            run,
            _lock: lock,
            state,
            source,
            knn,
            metrics,
            events: events.transpose()?,
            display,
            stop,
        })
    }

    /// Trains until the last step, an interruption or an error; whatever ends it, the state is
    /// saved first unless it is no good.
    ///
    /// # Errors
    /// If data, device or disk fail, or training stops itself.
    pub fn run(mut self) -> Result<Outcome, TrainError> {
        self.display.start(&self.plan, self.state.step);
        let outcome = self.steps();
        if let Err(TrainError::Data(_)) = &outcome {
            self.save()?;
        }
        self.display.finish(outcome.as_ref());
        outcome
    }

    fn steps(&mut self) -> Result<Outcome, TrainError> {
        let mut knn = None;
        let mut saved = self.state.step;
        if self.knn_is_due() && self.metrics.last_knn() != Some(self.state.step) {
            // A run that was stopped while measuring has saved the step but not the result.
            match self.measure_knn()? {
                Measured::Interrupted => return Ok(Outcome::Interrupted),
                Measured::Accuracy(accuracy) => knn = Some(accuracy),
            }
        }
        if self.plan.train.steps == 0 {
            // An untrained network is a result too: what the others are compared with.
            self.save()?;
            self.report();
        }
        while self.state.step < self.plan.train.steps {
            if self
                .state
                .step
                .is_multiple_of(self.plan.train.steps_per_epoch)
                && !self.before_epoch()?
            {
                if saved != self.state.step {
                    self.save()?;
                }
                return Ok(Outcome::Interrupted);
            }
            let batch = self.next_batch()?;
            let step = self.step(batch);

            let last = self.state.step == self.plan.train.steps;
            if last || self.due(self.plan.train.log_steps) {
                self.record(step)?;
            }
            let mut unmeasured = false;
            if self.knn_is_due() {
                match self.measure_knn()? {
                    Measured::Interrupted => unmeasured = true,
                    Measured::Accuracy(accuracy) => knn = Some(accuracy),
                }
            }
            if last || self.due(self.plan.train.checkpoint_steps) {
                self.save()?;
                saved = self.state.step;
            }
            if last || self.due(self.report_interval) {
                self.report();
            }
            if unmeasured || self.interrupted() && !last {
                if saved != self.state.step {
                    self.save()?;
                }
                return Ok(Outcome::Interrupted);
            }
        }
        Ok(Outcome::Finished { knn })
    }

    /// Lets the method look at all images; false if the run was interrupted meanwhile.
    fn before_epoch(&mut self) -> Result<bool, TrainError> {
        let train = &self.plan.train;
        let device = self.device.clone().inner();
        let number = self.state.step / train.steps_per_epoch;
        let mut pass = Pass {
            plan: &self.plan,
            source: &self.source,
            epoch: number,
            device: &device,
            stop: &self.stop,
            display: self.display.as_mut(),
        };
        let mut epoch = Epoch {
            number,
            seed: train.seed,
            device: &device,
            pass: &mut |network, crops, sink| pass.run(network, crops, sink),
        };
        let network = self.state.network.clone();
        match self.state.method.before_epoch(&mut epoch, network) {
            Ok(network) => self.state.network = network,
            Err(TrainError::Interrupted) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// One optimizer step over `batch`.
    fn step(&mut self, mut batch: Fed) -> Step {
        let State {
            network,
            optimizer,
            method,
            step,
            ..
        } = &mut self.state;
        let lr = self.plan.optimizer.schedule.at(*step);
        let current = method.before_step(network.clone());

        let samples = batch.indices.len();
        let (parts, uploader) = (self.portions.parts, &self.uploader);
        let mut whole = (parts == 1).then(|| current.forward(batch.take_part(0, uploader)));
        let embeddings = match &whole {
            Some(outputs) => by_crop(std::slice::from_ref(outputs), samples),
            None => {
                // The targets are taken over the whole batch before any part of it is learned from.
                let silent = untracked(&current);
                let outputs: Vec<_> = (0..parts)
                    .map(|part| silent.forward(batch.part(part, uploader)))
                    .collect();
                by_crop(&outputs, samples / parts)
            }
        };
        let targets = method.targets(&Seen {
            step: *step,
            network: &current,
            crop: &|crop| batch.crop(crop, uploader),
            embeddings: &embeddings,
            indices: &batch.indices,
            labels: &batch.labels,
        });

        let mut gradients = GradientsAccumulator::new();
        let mut loss = Tensor::<1>::zeros([1], &self.device.clone().inner());
        for part in 0..parts {
            // Only the part of a batch that is being learned from is on the device.
            let outputs = whole
                .take()
                .unwrap_or_else(|| current.forward(batch.take_part(part, uploader)));
            let rows = self.portions.rows(part, samples);
            let partial = method.loss(&outputs, &targets, rows) / parts as f64;
            loss = loss + partial.clone().inner();
            let partial = GradientsParams::from_grads(partial.backward(), &current);
            gradients.accumulate(&current, partial);
        }

        let mut gradients = gradients.grads();
        for id in method.frozen(*step, &current) {
            gradients.remove::<2>(id);
        }
        *network = optimizer.step(lr, current, gradients);
        *step += 1;
        method.after_step(network, &targets);
        self.state.cursor = batch.cursor;
        self.window.images += samples;
        self.loss_sum = Some(match self.loss_sum.take() {
            Some(sum) => sum + loss.clone(),
            None => loss.clone(),
        });
        Step {
            loss,
            targets,
            embeddings: embeddings[0].clone(),
            lr,
        }
    }

    fn next_batch(&mut self) -> Result<Fed, TrainError> {
        let batch = self.feed.next()?.ok_or_else(|| {
            TrainError::Recipe("the loader ended although training never does".to_string())
        })?;
        for bad in &batch.bad {
            if self.noted.insert(bad.index) {
                self.display.note(&format!("skipped {bad}"));
            }
        }
        Ok(batch)
    }

    /// Whether what happens at this interval is due after the step just done.
    fn due(&self, interval: Interval) -> bool {
        interval.is_due(self.state.step)
    }

    fn epoch(&self) -> f64 {
        self.state.step as f64 / self.plan.train.steps_per_epoch as f64
    }

    fn interrupted(&mut self) -> bool {
        self.stop.requested() || self.display.stop_requested()
    }

    /// Reads the step back from the device, writes it down, and judges it.
    fn record(&mut self, step: Step) -> Result<(), TrainError> {
        self.guard()?;
        let loss = f64::from(read(step.loss)?[0]);
        let metrics = self.state.method.metrics(&step.targets).into_iter();
        let metrics = metrics.map(|metric| (metric.name.to_string(), metric.value));
        let waited = self.feed.waited();
        let seconds = self.window.began.elapsed().as_secs_f64().max(1e-9);
        let record = StepRecord {
            step: self.state.step,
            epoch: self.epoch(),
            loss,
            lr: step.lr,
            images_per_s: self.window.images as f64 / seconds,
            wait_share: ((waited - self.window.waited).as_secs_f64() / seconds).min(1.0),
            spread: spread(&step.embeddings),
            bad_files: self.noted.len(),
            method: metrics.collect(),
        };
        self.metrics.write(&record)?;
        if let Some(events) = &mut self.events {
            events.step(&record)?;
        }
        self.display.step(&record);
        self.window = Window::open(waited);

        let remedies = self.state.method.chance().remedies;
        match self
            .state
            .collapse
            .observe(self.state.step, loss, record.spread)
        {
            Verdict::Healthy => Ok(()),
            Verdict::Warning(sign) => {
                self.display
                    .note(&format!("this may be a collapse: {sign}. {remedies}"));
                Ok(())
            }
            Verdict::Collapsed(sign) if self.plan.train.on_collapse == OnCollapse::Warn => {
                self.display.note(&format!("collapsed: {sign}. {remedies}"));
                Ok(())
            }
            Verdict::Collapsed(sign) => {
                let dump = self.run.dump(&self.state, "collapsed")?;
                Err(TrainError::Stopped(format!(
                    "training stopped at step {}: {sign}. {remedies}. The state is in {}; \
                     train.on_collapse=warn goes on regardless",
                    self.state.step,
                    dump.display()
                )))
            }
        }
    }

    /// Whether kNN accuracy is to be known of the state as it stands.
    fn knn_is_due(&self) -> bool {
        let step = self.state.step;
        let trained = step > 0 || self.plan.train.steps == 0;
        self.knn.is_some()
            && trained
            && (self.due(self.plan.train.knn_steps) || step == self.plan.train.steps)
    }

    fn measure_knn(&mut self) -> Result<Measured, TrainError> {
        let Some(knn) = &self.knn else {
            unreachable!("it is due only where it is planned")
        };
        let network = self.state.network.valid();
        let device = self.device.clone().inner();
        let display = &mut self.display;
        let progress = |done, total| display.progress("kNN", done, total);
        let accuracy = match knn.measure(&network, &self.plan, &device, &self.stop, progress) {
            Err(TrainError::Interrupted) => return Ok(Measured::Interrupted),
            accuracy => accuracy?,
        };
        let record = KnnRecord {
            step: self.state.step,
            epoch: self.epoch(),
            knn: accuracy,
            k: knn.k(),
        };
        self.metrics.write(&record)?;
        if let Some(events) = &mut self.events {
            events.knn(&record)?;
        }
        self.display.knn(&record);
        self.window = Window::open(self.feed.waited());
        Ok(Measured::Accuracy(accuracy))
    }

    fn save(&mut self) -> Result<(), TrainError> {
        self.guard()?;
        self.metrics.sync()?;
        self.run.save(&self.state, self.plan.train.keep)?;
        self.window = Window::open(self.feed.waited());
        Ok(())
    }

    /// Writes the report anew, if there is to be one. A run does not end because its report fails.
    fn report(&mut self) {
        if self.report_interval.is_never() {
            return;
        }
        let network = self.state.network.valid();
        let report = Report {
            plan: &self.plan,
            run: &self.run,
            chance: self.state.method.chance().loss,
            subject: Some(Subject {
                network: &network,
                step: self.state.step,
                source: self.source.clone(),
                images: report::IMAGES_WHILE_TRAINING,
                device: &self.device.clone().inner(),
                stop: &self.stop,
            }),
        };
        let display = &mut self.display;
        let mut progress = |what: &str, done, total| display.progress(what, done, total);
        match report.write(&self.run.report(), &mut progress) {
            // The loop sees for itself that it is to stop.
            Ok(_) | Err(TrainError::Interrupted) => {}
            Err(error) => self.display.note(&format!("no report: {error}")),
        }
        self.window = Window::open(self.feed.waited());
    }

    /// Never goes on, and never saves over a good state, once a number is none any more.
    fn guard(&mut self) -> Result<(), TrainError> {
        let sums = [
            self.loss_sum.take(),
            Some(sum_of_squares(&self.state.network)),
        ];
        for sum in sums.into_iter().flatten() {
            if !read(sum)?[0].is_finite() {
                let dump = self.run.dump(&self.state, "non-finite")?;
                return Err(TrainError::Stopped(format!(
                    "training stopped at step {}: the loss or a weight is no finite number any \
                     more. The state is in {} for a look, the checkpoints before it are good. \
                     Start a new run with a smaller optimizer.lr, a longer optimizer.warmup, or a \
                     larger method.epsilon",
                    self.state.step,
                    dump.display()
                )));
            }
        }
        Ok(())
    }
}

/// The sum of the squares of all weights: finite only if each of them is a number of a size that
/// something can still be computed with.
fn sum_of_squares(network: &Network) -> Tensor<1> {
    #[derive(Default)]
    struct Sum(Option<Tensor<1>>);

    impl ModuleVisitor for Sum {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let sum = param.val().inner().square().sum();
            self.0 = Some(match self.0.take() {
                Some(total) => total + sum,
                None => sum,
            });
        }
    }

    let mut sum = Sum::default();
    network.visit(&mut sum);
    match sum.0 {
        Some(total) => total,
        None => unreachable!("a network has weights"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swav_model::{BackboneConfig, NetworkConfig, Stem};

    fn network(device: &Device) -> Network {
        let config = NetworkConfig {
            backbone: BackboneConfig {
                name: "resnet18".parse().unwrap(),
                width: 0.0625,
                stem: Stem::Imagenet,
            },
            hidden: 8,
            head_norm: true,
            dim: 8,
            prototypes: vec![4],
        };
        config.init(1, device)
    }

    #[test]
    fn one_weight_that_is_no_number_or_absurdly_large_shows_in_the_sum() {
        let device = Device::flex();
        let mut network = network(&device);
        assert!(read(sum_of_squares(&network)).unwrap()[0].is_finite());
        struct Break(f32);
        impl burn::module::ModuleMapper for Break {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|weights| weights * self.0)
            }
        }
        for factor in [1e30, f32::NAN] {
            network.prototypes = network.prototypes.map(&mut Break(factor));
            assert!(!read(sum_of_squares(&network)).unwrap()[0].is_finite());
        }
    }
}
