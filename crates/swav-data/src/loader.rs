//! Batches, made ahead by threads, in an order that does not depend on them.
//!
//! ```text
//!              ┌ worker ┐
//! sampler ───▶ │ worker │ ───▶ batches in order: [ready][ready][filling] ───▶ next_batch
//!  (slots)     └ worker ┘           ▲                                             │
//!                                   └───────── buffers of dropped batches ◀───────┘
//! ```
//!
//! The unit of work is one *slot*: one sample of one batch; of small crops a few slots together.
//! Workers take slots in order, whoever is free the next, and put the finished crops into the batch
//! that is being filled; a slow image holds up its own batch and no other work. The queue is bounded, so a trainer that is slower than the loader stops it, and buffers
//! travel in a circle, so in the steady state no memory for pixels is taken or returned.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::augment::{Augment, Scratch};
use crate::cache::{self, Cache};
use crate::decode::DEFAULT_MAX_PIXELS;
use crate::error::DataError;
use crate::health::{BadFile, BadKind, HealthReport, allowed};
use crate::multicrop::{CropSpec, View};
use crate::sample::Image;
use crate::sampler::{BatchSlots, Cursor, Order, Sampler};
use crate::source::Source;
use crate::threads::{lock, panic_reason, panic_words, worker_count};
use crate::try_decode::{name_of, try_decode};

/// How a [`Loader`] works.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderConfig {
    /// Samples in a batch of this rank.
    pub batch_size: usize,
    /// What becomes of each image.
    pub view: View,
    /// In which order they come.
    pub order: Order,
    /// Threads; 0 for all cores.
    pub workers: usize,
    /// Batches that may lie ready, beside the one that is being filled.
    pub prefetch: usize,
    /// Whether an incomplete batch at the end of an epoch is left out.
    pub drop_last: bool,
    /// The share of corrupt files that is tolerated, 0 to 1. Images of a kind that is not read do not
    /// count.
    pub corrupt_budget: f64,
    /// Images with more pixels count as corrupt.
    pub max_pixels: u64,
    /// Bytes in which decoded images may be kept: 1 GiB. Only small ones are (up to 128 × 128
    /// pixels), and only when the whole set fits; 0 keeps none.
    pub cache: u64,
    /// Which of the ranks this is, from 0.
    pub rank: usize,
    /// How many ranks share the samples.
    pub world: usize,
    /// What the random draws of the crops depend on, beside epoch, sample and crop.
    pub seed: u64,
}

impl Default for LoaderConfig {
    /// One shuffled rank with batches of 256, seed 0, SwAV's crops, a budget of one percent.
    fn default() -> Self {
        let crops = vec![
            CropSpec {
                count: 2,
                size: 224,
                scale: [0.14, 1.0],
            },
            CropSpec {
                count: 6,
                size: 96,
                scale: [0.05, 0.14],
            },
        ];
        Self {
            batch_size: 256,
            view: View::MultiCrop {
                crops,
                augment: Augment::default(),
            },
            order: Order::Shuffled { seed: 0 },
            workers: 0,
            prefetch: 2,
            drop_last: true,
            corrupt_budget: 0.01,
            max_pixels: DEFAULT_MAX_PIXELS,
            cache: 1 << 30,
            rank: 0,
            world: 1,
            seed: 0,
        }
    }
}

/// One batch on the host. Dropping it hands its buffers back to the loader that made it.
#[derive(Debug)]
pub struct Batch {
    /// The epoch of its samples.
    pub epoch: u64,
    /// Where the next batch starts: what a checkpoint saves to go on after this batch.
    pub cursor: Cursor,
    /// The samples, B indices into the source.
    pub indices: Vec<usize>,
    /// The labels of each, where the source has any.
    pub labels: Vec<Vec<u32>>,
    /// Their crops; neighbours of equal size are one group.
    pub groups: Vec<CropGroup>,
    /// The files without an image that were first met on the way to this batch.
    pub bad: Vec<Arc<BadFile>>,
    pool: Arc<Pool>,
}

/// The crops of one size of a whole batch.
#[derive(Debug)]
pub struct CropGroup {
    /// Crops an image.
    pub count: usize,
    /// Side of a crop in pixels.
    pub size: usize,
    /// `[count · B, size, size, 3]`, 0 to 255, crop-major: crop 0 of all samples, then crop 1 of all
    /// samples, and so on.
    pub pixels: Vec<u8>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.pool.put(mem::take(&mut self.groups));
    }
}

/// What a loader holds in memory, in bytes. Each worker has, beside this, the image that it works
/// on, with its file, and the crops of a few slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The pixels of all batches: ready, being filled, delivered and not yet dropped, or waiting to
    /// be used again.
    pub batches: u64,
    /// The most that `batches` comes to while the caller holds one batch at a time.
    pub batches_bound: u64,
    /// Small images kept decoded.
    pub cache: u64,
    /// The most that `cache` comes to.
    pub cache_budget: u64,
}

/// Pixel buffers that wait for their next use.
#[derive(Debug, Default)]
struct Pool {
    free: Mutex<Vec<Vec<CropGroup>>>,
    /// Bytes in all buffers that have been handed out or lie here.
    bytes: AtomicU64,
    /// How many are worth keeping.
    keep: usize,
}

impl Pool {
    fn put(&self, groups: Vec<CropGroup>) {
        let mut free = lock(&self.free);
        if !groups.is_empty() && free.len() < self.keep {
            free.push(groups);
        } else {
            let bytes = groups.iter().map(|group| group.pixels.capacity() as u64);
            self.bytes.fetch_sub(bytes.sum(), Ordering::Relaxed);
        }
    }

    /// Buffers for a batch of `len` samples.
    fn take(&self, view: &View, len: usize) -> Vec<CropGroup> {
        let mut reused = lock(&self.free).pop().unwrap_or_default().into_iter();
        let group = |(count, size): (usize, usize)| {
            let mut pixels = reused.next().map(|group| group.pixels).unwrap_or_default();
            let had = pixels.capacity();
            pixels.resize(count * len * size * size * 3, 0);
            let grown = pixels.capacity() - had;
            self.bytes.fetch_add(grown as u64, Ordering::Relaxed);
            CropGroup {
                count,
                size,
                pixels,
            }
        };
        view.groups().into_iter().map(group).collect()
    }
}

/// A batch while workers fill it.
struct Assembly {
    batch: BatchSlots,
    /// Slots that are not finished.
    missing: AtomicUsize,
    contents: Mutex<Contents>,
}

struct Contents {
    groups: Vec<CropGroup>,
    slots: Vec<FilledSlot>,
}

/// What became of a slot.
#[derive(Default)]
struct FilledSlot {
    /// The sample whose crops lie there; nothing when no good one was found.
    sample: Option<usize>,
    /// Files without an image met on the way.
    bad: Vec<Arc<BadFile>>,
}

/// What workers and consumer share.
struct Shared {
    source: Arc<dyn Source>,
    config: LoaderConfig,
    sampler: Sampler,
    state: Mutex<State>,
    /// Tells the consumer that a batch is complete.
    ready: Condvar,
    /// Tells the workers that there is room for another batch, or that it is over.
    room: Condvar,
    pool: Arc<Pool>,
    /// Files without an image that some worker has met, so that no other decodes them again.
    known_bad: RwLock<HashMap<usize, Arc<BadFile>>>,
    /// How many those are: a look that costs nothing.
    bad_count: AtomicUsize,
    /// Small images, decoded.
    cache: Cache,
    /// Slots that are handed out at once.
    portion: usize,
}

/// Bytes of crops that are worth going to the queue for. Less, and workers would queue for it.
const PORTION_BYTES: usize = 64 << 10;

/// What a worker uses again and again.
struct Worker {
    scratch: Scratch,
    image: Image,
    /// The crops of a portion of slots.
    crops: Vec<u8>,
    filled: Vec<FilledSlot>,
}

struct State {
    /// Batches from the next to be delivered to the one whose slots are being handed out.
    queue: VecDeque<Arc<Assembly>>,
    /// Slots of the last batch of the queue that have been handed out.
    handed: usize,
    /// The batch after those; nothing when a sequential pass has been handed out whole.
    next: Option<BatchSlots>,
    stop: bool,
    /// What a worker said when it died.
    died: Option<String>,
}

/// Delivers batches of augmented crops in a fixed order.
///
/// *Which* bytes come in *which* batch is a function of source, configuration and cursor; number of
/// workers, timing and interruptions have no part in it.
///
/// # Corrupt files
/// When a file cannot be read or decoded, in a shuffled order the next good sample of the epoch's
/// order stands in; in a sequential pass the sample is left out and the batch is smaller. Each such
/// file is listed once in [`health`](Loader::health), as soon as the batch that met it is
/// delivered. More corrupt ones than the budget allows end the loading with [`DataError::Budget`], and
/// so does a set in which no file gives an image. An image of a kind that is not read is treated alike
/// but counts against no budget.
///
/// # Threads
/// The loader owns its threads. Dropping it stops them; each finishes the images that it has taken.
pub struct Loader {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    bad: BTreeMap<usize, Arc<BadFile>>,
    /// How many of those are corrupt.
    corrupt: usize,
    waited: Duration,
}

impl Loader {
    /// Starts loading at `start`: [`Cursor::default`], or the cursor of the last batch trained on.
    ///
    /// # Errors
    /// [`DataError::Invalid`] names the setting that has no meaning: among them a data set smaller
    /// than a batch when incomplete batches are left out, and a cursor beyond the end of an epoch.
    pub fn new(
        source: Arc<dyn Source>,
        config: LoaderConfig,
        start: Cursor,
    ) -> Result<Self, DataError> {
        config.view.validate().map_err(DataError::Invalid)?;
        if !(0.0..=1.0).contains(&config.corrupt_budget) {
            let message = format!(
                "corrupt_budget = {}: expected 0 to 1",
                config.corrupt_budget
            );
            return Err(DataError::Invalid(message));
        }
        let sampler = Sampler::new(
            source.len(),
            config.order,
            config.batch_size,
            config.drop_last,
            config.rank,
            config.world,
        )?;
        sampler.check(start)?;
        let workers = worker_count(config.workers);
        let state = State {
            queue: VecDeque::new(),
            handed: 0,
            next: sampler.batch_from(start),
            stop: false,
            died: None,
        };
        // Those in the queue, and a few in the hands of the trainer.
        let pool = Arc::new(Pool {
            keep: config.prefetch + 4,
            ..Pool::default()
        });
        let portion = (PORTION_BYTES / config.view.bytes()).clamp(1, 16);
        let cache = Cache::new(source.len(), config.cache);
        let shared = Arc::new(Shared {
            source,
            config,
            sampler,
            state: Mutex::new(state),
            ready: Condvar::new(),
            room: Condvar::new(),
            pool,
            known_bad: RwLock::default(),
            bad_count: AtomicUsize::new(0),
            cache,
            portion,
        });
        let mut loader = Self {
            shared,
            workers: Vec::new(),
            bad: BTreeMap::new(),
            corrupt: 0,
            waited: Duration::ZERO,
        };
        for number in 0..workers {
            let shared = Arc::clone(&loader.shared);
            let thread = thread::Builder::new()
                .name(format!("swav-data-{number}"))
                .spawn(move || shared.run_worker())
                .map_err(|error| DataError::Invalid(format!("cannot start a worker: {error}")))?;
            loader.workers.push(thread);
        }
        Ok(loader)
    }

    /// The next batch; waits for it if need be. In a shuffled order there always is one; a sequential
    /// pass ends with `None`.
    ///
    /// # Errors
    /// [`DataError::Budget`] when this batch brings the number of corrupt files over the budget or no
    /// file gives an image, and again whenever asked after that; [`DataError::Stopped`] when a worker
    /// has died, or the source panics over a label.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, DataError> {
        let mut met = Vec::new();
        loop {
            self.check_budget()?;
            let Some(assembly) = self.wait()? else {
                return Ok(None);
            };
            let BatchSlots { start, next, .. } = assembly.batch;
            let (mut groups, slots) = {
                let mut contents = lock(&assembly.contents);
                (
                    mem::take(&mut contents.groups),
                    mem::take(&mut contents.slots),
                )
            };
            let samples: Vec<Option<usize>> = slots.iter().map(|slot| slot.sample).collect();
            for bad in slots.into_iter().flat_map(|slot| slot.bad) {
                if let Entry::Vacant(place) = self.bad.entry(bad.index) {
                    self.corrupt += usize::from(bad.kind == BadKind::Corrupt);
                    met.push(Arc::clone(&bad));
                    place.insert(bad);
                }
            }
            self.check_budget()?;
            keep_present(&mut groups, &samples);
            let indices: Vec<usize> = samples.into_iter().flatten().collect();
            if indices.is_empty() {
                // A batch of a sequential pass without an image.
                self.shared.pool.put(groups);
                continue;
            }
            let source = &self.shared.source;
            let label = |index: usize| {
                let labels = catch_unwind(AssertUnwindSafe(|| source.labels(index)));
                labels.map_err(|panic| {
                    let (name, words) = (name_of(&**source, index), panic_words(panic.as_ref()));
                    DataError::Stopped(format!("the label of {name}: {words}"))
                })
            };
            let labels = indices.iter().map(|&index| label(index));
            let labels = labels.collect::<Result<_, _>>()?;
            let pool = Arc::clone(&self.shared.pool);
            return Ok(Some(Batch {
                epoch: start.epoch,
                cursor: next,
                indices,
                labels,
                groups,
                bad: met,
                pool,
            }));
        }
    }

    /// Hands the buffers of a batch back. Dropping it does the same.
    pub fn recycle(&self, batch: Batch) {
        drop(batch);
    }

    /// Batches of this rank in a whole epoch.
    pub fn batches_per_epoch(&self) -> u64 {
        self.shared.sampler.batches()
    }

    /// How long [`next_batch`](Self::next_batch) has waited for workers, in all. Close to the time
    /// of training, it says that loading is the bottleneck.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// What the loader holds in memory now.
    pub fn memory(&self) -> Memory {
        let config = &self.shared.config;
        let batch = (config.batch_size * config.view.bytes()) as u64;
        Memory {
            batches: self.shared.pool.bytes.load(Ordering::Relaxed),
            // Those ready, the one being filled, and the caller's.
            batches_bound: batch * (config.prefetch as u64 + 2),
            cache: self.shared.cache.used(),
            cache_budget: config.cache,
        }
    }

    /// The corrupt and unsupported files met in the batches delivered so far: a copy of the whole list.
    /// [`Batch::bad`] has what is new.
    pub fn health(&self) -> HealthReport {
        HealthReport {
            bad: self.bad.values().map(|bad| (**bad).clone()).collect(),
            total: self.shared.source.len(),
            budget: self.shared.config.corrupt_budget,
        }
    }

    fn check_budget(&mut self) -> Result<(), DataError> {
        let none = self.shared.has_no_image();
        if self.corrupt <= self.shared.allowed() && !none {
            return Ok(());
        }
        if none {
            // Workers end their search as soon as this is so, each with a part of the list.
            let known = self.shared.known_bad.read();
            let known = known.unwrap_or_else(PoisonError::into_inner);
            let all = known.iter().map(|(&index, bad)| (index, Arc::clone(bad)));
            self.bad = all.collect();
        }
        Err(DataError::Budget(self.health()))
    }

    /// Takes the first batch of the queue when it is complete.
    fn wait(&mut self) -> Result<Option<Arc<Assembly>>, DataError> {
        let begin = Instant::now();
        let mut state = lock(&self.shared.state);
        let first = loop {
            match state.queue.front() {
                Some(first) if first.missing.load(Ordering::Acquire) == 0 => {
                    break state.queue.pop_front();
                }
                _ if state.died.is_some() => {
                    let words = state.died.clone().unwrap_or_default();
                    return Err(DataError::Stopped(words));
                }
                None if state.next.is_none() => break None,
                _ => state = wait_on(&self.shared.ready, state),
            }
        };
        drop(state);
        self.shared.room.notify_all();
        self.waited += begin.elapsed();
        Ok(first)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.room.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches what its work panics with, and has said so; there is nothing to add here.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Fills slots on a thread of its own. A panic ends the loading: the batch of the worker would never be complete.
    fn run_worker(&self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.fill_slots())) {
            let mut state = lock(&self.state);
            let words = panic_words(panic.as_ref());
            state
                .died
                .get_or_insert_with(|| format!("a worker panicked: {words}"));
            state.stop = true;
            self.ready.notify_all();
            self.room.notify_all();
        }
    }

    /// Fills slots until there are no more.
    fn fill_slots(&self) {
        let bytes = self.config.view.bytes();
        let mut worker = Worker {
            scratch: Scratch::default(),
            image: Image::default(),
            crops: vec![0; bytes * self.portion],
            filled: Vec::with_capacity(self.portion),
        };
        while let Some((assembly, slots)) = self.take_slots() {
            let mut crops = mem::take(&mut worker.crops);
            for (slot, crops) in slots.clone().zip(crops.chunks_exact_mut(bytes)) {
                let place = Cursor {
                    position: assembly.batch.start.position + slot as u64,
                    ..assembly.batch.start
                };
                let filled = self.fill_slot(place, &mut worker, crops);
                worker.filled.push(filled);
            }
            let last = assembly.deliver(slots, &mut worker.filled, &crops, bytes);
            worker.crops = crops;
            if last {
                // Under the lock, so that the consumer is either before its look at the batch or
                // already waiting.
                let _state = lock(&self.state);
                self.ready.notify_all();
            }
        }
    }

    /// The next slots in order, when there is room; nothing when it is over.
    fn take_slots(&self) -> Option<(Arc<Assembly>, Range<usize>)> {
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                return None;
            }
            if let Some(last) = state.queue.back()
                && state.handed < last.batch.len
            {
                let last = Arc::clone(last);
                let from = state.handed;
                state.handed = last.batch.len.min(from + self.portion);
                return Some((last, from..state.handed));
            }
            match state.next {
                None => return None,
                Some(batch) if state.queue.len() <= self.config.prefetch => {
                    state.queue.push_back(Arc::new(Assembly {
                        batch,
                        contents: Mutex::new(Contents {
                            groups: self.pool.take(&self.config.view, batch.len),
                            slots: (0..batch.len).map(|_| FilledSlot::default()).collect(),
                        }),
                        missing: AtomicUsize::new(batch.len),
                    }));
                    state.handed = 0;
                    state.next = self.sampler.batch_from(batch.next);
                }
                Some(_) => state = wait_on(&self.room, state),
            }
        }
    }

    /// How many corrupt files the budget allows.
    fn allowed(&self) -> usize {
        allowed(self.config.corrupt_budget, self.source.len())
    }

    /// Whether every file of the set is known to give no image.
    fn has_no_image(&self) -> bool {
        self.bad_count.load(Ordering::Acquire) == self.source.len()
    }

    /// Finds a good sample for a slot and makes its crops.
    fn fill_slot(&self, place: Cursor, worker: &mut Worker, crops: &mut [u8]) -> FilledSlot {
        let limit = self.allowed();
        let mut filled = FilledSlot::default();
        let mut corrupt = 0;
        for index in self.sampler.candidates(place) {
            match self.crops_of(index, place.epoch, worker, crops) {
                Ok(()) => {
                    filled.sample = Some(index);
                    break;
                }
                Err(bad) => {
                    corrupt += usize::from(bad.kind == BadKind::Corrupt);
                    filled.bad.push(bad);
                }
            }
            // The budget is gone with this slot alone, or there is nothing to be found; there is no use in
            // looking further.
            if corrupt > limit || self.has_no_image() {
                break;
            }
        }
        filled
    }

    /// Makes the crops of one sample.
    fn crops_of(
        &self,
        index: usize,
        epoch: u64,
        worker: &mut Worker,
        crops: &mut [u8],
    ) -> Result<(), Arc<BadFile>> {
        let Worker { scratch, image, .. } = worker;
        let made = match self.cache.get(index) {
            Some(image) => {
                let whole = [image.width, image.height];
                self.render(index, epoch, image, whole, scratch, crops)
            }
            None => {
                if let Some(bad) = self.known_bad(index) {
                    return Err(bad);
                }
                let config = &self.config;
                let key = [config.seed, epoch, index as u64];
                // What may be kept for other epochs is decoded whole, whether or not there is room to keep it.
                let reduction = |width: u32, height: u32| match cache::is_small(width, height) {
                    true => 1,
                    false => config.view.reduction(key, width, height),
                };
                let source = self.source.as_ref();
                try_decode(source, index, config.max_pixels, image, &reduction).and_then(|whole| {
                    self.render(index, epoch, image, whole, scratch, crops)?;
                    // Of a reduced image another epoch may need more.
                    if whole == [image.width, image.height] {
                        self.cache.offer(index, image);
                    }
                    Ok(())
                })
            }
        };
        made.map_err(|bad| {
            let bad = Arc::new(bad);
            let mut known = self
                .known_bad
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            known.insert(index, Arc::clone(&bad));
            self.bad_count.store(known.len(), Ordering::Release);
            bad
        })
    }

    /// What is wrong with sample `index`, if some worker has found that out.
    fn known_bad(&self, index: usize) -> Option<Arc<BadFile>> {
        if self.bad_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let known = self
            .known_bad
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        known.get(&index).cloned()
    }

    /// Makes the crops of a decoded image, which may be a reduced one of the `whole`. A panic (a bug of ours) makes it a bad file, too.
    fn render(
        &self,
        index: usize,
        epoch: u64,
        image: &Image,
        whole: [u32; 2],
        scratch: &mut Scratch,
        crops: &mut [u8],
    ) -> Result<(), BadFile> {
        let key = [self.config.seed, epoch, index as u64];
        let view = &self.config.view;
        let render = AssertUnwindSafe(|| view.render_reduced(image, whole, key, scratch, crops));
        catch_unwind(render).map_err(|panic| {
            // What it left behind may be half done.
            *scratch = Scratch::default();
            BadFile {
                index,
                name: name_of(self.source.as_ref(), index),
                kind: BadKind::Corrupt,
                reason: panic_reason(panic.as_ref()),
            }
        })
    }
}

impl Assembly {
    /// Puts the crops of `slots`, `bytes` each, in their places and empties `filled`; true when they
    /// were the last.
    fn deliver(
        &self,
        slots: Range<usize>,
        filled: &mut Vec<FilledSlot>,
        crops: &[u8],
        bytes: usize,
    ) -> bool {
        let count = slots.len();
        let mut contents = lock(&self.contents);
        let Contents {
            groups,
            slots: places,
        } = &mut *contents;
        let batch = places.len();
        for ((slot, filled), mut crops) in
            slots.zip(filled.drain(..)).zip(crops.chunks_exact(bytes))
        {
            if filled.sample.is_some() {
                for CropGroup {
                    count,
                    size,
                    pixels,
                } in &mut *groups
                {
                    let bytes = *size * *size * 3;
                    for crop in 0..*count {
                        let (this, rest) = crops.split_at(bytes);
                        let at = (crop * batch + slot) * bytes;
                        pixels[at..at + bytes].copy_from_slice(this);
                        crops = rest;
                    }
                }
            }
            places[slot] = filled;
        }
        self.missing.fetch_sub(count, Ordering::AcqRel) == count
    }
}

/// Closes the gaps that missing samples leave in every group.
fn keep_present(groups: &mut [CropGroup], samples: &[Option<usize>]) {
    if samples.iter().all(Option::is_some) {
        return;
    }
    for CropGroup {
        count,
        size,
        pixels,
    } in groups
    {
        let bytes = *size * *size * 3;
        let mut to = 0;
        for crop in 0..*count {
            for (slot, _) in samples
                .iter()
                .enumerate()
                .filter(|(_, sample)| sample.is_some())
            {
                let from = (crop * samples.len() + slot) * bytes;
                pixels.copy_within(from..from + bytes, to);
                to += bytes;
            }
        }
        pixels.truncate(to);
    }
}

fn wait_on<'a, T>(
    condition: &Condvar,
    guard: std::sync::MutexGuard<'a, T>,
) -> std::sync::MutexGuard<'a, T> {
    condition
        .wait(guard)
        .unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    /// Images of one grey.
    struct Grey(usize);

    impl Source for Grey {
        fn len(&self) -> usize {
            self.0
        }

        fn read(&self, _: usize) -> Result<Sample, DataError> {
            let (width, height) = (8, 8);
            let rgb = vec![128; 8 * 8 * 3];
            Ok(Sample::Pixels { width, height, rgb })
        }

        fn name(&self, index: usize) -> String {
            index.to_string()
        }

        fn label(&self, _: usize) -> Option<u32> {
            None
        }

        fn classes(&self) -> &[String] {
            &[]
        }

        fn describe(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn a_loader_that_is_stopped_hands_out_no_more_work() {
        let config = LoaderConfig {
            batch_size: 4,
            view: View::Centre { resize: 8, size: 8 },
            workers: 1,
            prefetch: 1 << 20,
            ..LoaderConfig::default()
        };
        let loader = Loader::new(Arc::new(Grey(64)), config, Cursor::default()).unwrap();
        assert!(loader.shared.take_slots().is_some());
        lock(&loader.shared.state).stop = true;
        assert!(loader.shared.take_slots().is_none());
    }
}
