//! Ranks that are threads, and what crosses them.

use std::sync::{Barrier, Mutex};

use burn::tensor::{Tensor, TensorData};
use swav_ot::{Reduce, max_by_sum};

/// What the ranks of a simulated run share.
struct Meeting {
    barrier: Barrier,
    slots: Mutex<Vec<Option<TensorData>>>,
    numbers: Mutex<usize>,
}

/// A collective among threads. The maximum is made of a sum where `sums_only` is set.
pub struct Threads<'a> {
    pub rank: usize,
    world: usize,
    sums_only: bool,
    meeting: &'a Meeting,
}

impl Threads<'_> {
    /// Every rank folds the same tensors in the same order, so all get the same bits.
    fn fold(&self, partial: Tensor<2>, with: fn(Tensor<2>, Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        let device = partial.device();
        *self.meeting.numbers.lock().unwrap() += partial.shape().num_elements();
        self.meeting.slots.lock().unwrap()[self.rank] = Some(partial.into_data());
        self.meeting.barrier.wait();
        let all = self.meeting.slots.lock().unwrap().clone();
        self.meeting.barrier.wait();
        let all = all
            .into_iter()
            .map(|data| Tensor::from_data(data.unwrap(), &device));
        all.reduce(with).unwrap()
    }
}

impl Reduce for Threads<'_> {
    fn sum(&mut self, partial: Tensor<2>) -> Tensor<2> {
        self.fold(partial, |one, other| one + other)
    }

    fn max(&mut self, partial: Tensor<2>) -> Tensor<2> {
        if self.sums_only {
            max_by_sum(partial, self.rank, self.world, |slots| {
                self.fold(slots, |one, other| one + other)
            })
        } else {
            self.fold(partial, |one, other| one.max_pair(other))
        }
    }
}

/// Does `work` on each of `world` ranks at once. Returns what each found, and how many numbers a rank sent.
pub fn on_ranks<T: Send>(
    world: usize,
    sums_only: bool,
    work: impl Fn(&mut Threads<'_>) -> T + Sync,
) -> (Vec<T>, usize) {
    let meeting = Meeting {
        barrier: Barrier::new(world),
        slots: Mutex::new(vec![None; world]),
        numbers: Mutex::new(0),
    };
    let found = std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..world)
            .map(|rank| {
                let mut threads = Threads {
                    rank,
                    world,
                    sums_only,
                    meeting: &meeting,
                };
                let work = &work;
                scope.spawn(move || work(&mut threads))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    (found, meeting.numbers.into_inner().unwrap() / world)
}

/// The samples of each rank, of `samples` that are cut at `cuts`: ranges of their numbers.
pub fn cut(samples: usize, cuts: &[usize]) -> Vec<std::ops::Range<usize>> {
    let mut ends: Vec<usize> = cuts.to_vec();
    ends.sort_unstable();
    ends.push(samples);
    let mut start = 0;
    let ranges = ends.into_iter().map(|end| {
        let range = start..end;
        start = end;
        range
    });
    ranges.collect()
}
