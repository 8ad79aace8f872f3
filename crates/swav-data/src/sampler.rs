//! In which order the samples come, and who gets which.
//!
//! An epoch's order is a *keyed permutation* of 0…n: a function from position to sample, computed
//! when asked, so an epoch of a billion images needs no list and any position can be jumped to. It is
//! a Feistel network (Luby and Rackoff, "How to construct pseudorandom permutations", 1988) over the
//! smallest power of two that holds n, with Philox as round function; what falls outside of 0…n is
//! sent through again until it falls inside ("cycle walking": Black and Rogaway, "Ciphers with
//! arbitrary finite domains", 2002), at most twice on average.
//!
//! Of w ranks, rank r takes the positions r, r + w, r + 2w, … of that one order.

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::random::{Domain, epoch_key, halves, philox};

/// The order of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A new permutation in every epoch, without end.
    Shuffled {
        /// What the permutations depend on, beside the epoch.
        seed: u64,
    },
    /// 0, 1, 2, … once.
    Sequential,
}

/// A place in the stream of samples of one rank.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Samples of this rank already delivered in this epoch.
    pub position: u64,
}

/// A permutation of 0…n, by key.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    len: u64,
    key: [u32; 2],
    /// Bits of the two halves; they differ by one when the domain has an odd number of bits.
    bits: [u32; 2],
}

impl Permutation {
    /// The permutation of `len` samples in `epoch`.
    pub fn new(len: u64, seed: u64, epoch: u64) -> Self {
        let total = (u64::BITS - len.saturating_sub(1).leading_zeros()).max(2);
        Self {
            len,
            key: epoch_key(seed, epoch, Domain::Order),
            bits: [total / 2, total.div_ceil(2)],
        }
    }

    /// The sample at `position`.
    ///
    /// # Panics
    /// When `position` is not below the length.
    pub fn at(&self, position: u64) -> u64 {
        assert!(position < self.len, "position {position} of {}", self.len);
        let mut value = position;
        loop {
            value = self.mix(value);
            if value < self.len {
                return value;
            }
        }
    }

    /// The Feistel network over the whole power of two.
    fn mix(&self, value: u64) -> u64 {
        // Four rounds make a pseudorandom permutation when the halves are long. Data sets are small
        // domains, where more rounds are cheap insurance.
        const ROUNDS: u32 = 8;
        let mask = |bits: u32| (1u64 << bits) - 1;
        let [mut left_bits, mut right_bits] = self.bits;
        let (mut left, mut right) = (value >> right_bits, value & mask(right_bits));
        for round in 0..ROUNDS {
            let [low, high] = halves(right);
            let [f0, f1, ..] = philox([round, low, high, right_bits], self.key);
            let mixed = (left ^ (u64::from(f1) << 32 | u64::from(f0))) & mask(left_bits);
            (left, right) = (right, mixed);
            (left_bits, right_bits) = (right_bits, left_bits);
        }
        left << right_bits | right
    }
}

/// The samples of one rank: which sample at which slot of which epoch.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    len: u64,
    order: Order,
    rank: u64,
    world: u64,
    batch: u64,
    drop_last: bool,
    /// Slots of this rank in an epoch, a last incomplete batch included.
    slots: u64,
}

/// The next batch: where it starts and how many slots it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchSlots {
    pub start: Cursor,
    pub len: usize,
    /// Where the batch after it starts.
    pub next: Cursor,
}

impl Sampler {
    pub(crate) fn new(
        len: usize,
        order: Order,
        batch: usize,
        drop_last: bool,
        rank: usize,
        world: usize,
    ) -> Result<Self, DataError> {
        let invalid = |message: String| Err(DataError::Invalid(message));
        if batch == 0 {
            return invalid("batch_size = 0: expected 1 or more".into());
        }
        if rank >= world {
            return invalid(format!("rank {rank} of {world}: ranks count from 0"));
        }
        if len == 0 {
            return invalid("the source has no samples".into());
        }
        let [len, rank, world, batch] = [len, rank, world, batch].map(|number| number as u64);
        let slots = match order {
            // In training all ranks take the same number of steps, or they would wait for one
            // another for ever.
            Order::Shuffled { .. } if drop_last => len / world,
            Order::Shuffled { .. } => len.div_ceil(world),
            // In evaluation every sample comes exactly once.
            Order::Sequential => len.saturating_sub(rank).div_ceil(world),
        };
        if drop_last && slots < batch {
            let share = if world > 1 {
                format!(" for each of {world} ranks")
            } else {
                String::new()
            };
            return invalid(format!(
                "{len} images are {slots}{share}, fewer than a batch of {batch}: an epoch would have no \
                 whole batch; use a smaller batch size or more images"
            ));
        }
        Ok(Self {
            len,
            order,
            rank,
            world,
            batch,
            drop_last,
            slots,
        })
    }

    /// Batches of a whole epoch.
    pub(crate) fn batches(&self) -> u64 {
        match self.drop_last {
            true => self.slots / self.batch,
            false => self.slots.div_ceil(self.batch),
        }
    }

    /// Refuses a cursor that cannot have come from this data set.
    pub(crate) fn check(&self, cursor: Cursor) -> Result<(), DataError> {
        if cursor.position <= self.slots {
            return Ok(());
        }
        Err(DataError::Invalid(format!(
            "cannot resume at sample {} of an epoch that has {}: the data, the batch size or the number \
             of ranks has changed",
            cursor.position, self.slots
        )))
    }

    /// The batch that starts at or after `cursor`; nothing when a sequential pass is over.
    pub(crate) fn batch_from(&self, cursor: Cursor) -> Option<BatchSlots> {
        let start = self.next_start(cursor);
        // A sequential pass is one epoch, so what would start the next is the end.
        if self.order == Order::Sequential && start.position >= self.slots {
            return None;
        }
        let len = self.batch.min(self.slots - start.position);
        let next = self.next_start(Cursor {
            epoch: start.epoch,
            position: start.position + len,
        });
        Some(BatchSlots {
            start,
            len: len as usize,
            next,
        })
    }

    /// The first place at or after `cursor` where a batch can start.
    fn next_start(&self, cursor: Cursor) -> Cursor {
        let least = if self.drop_last { self.batch } else { 1 };
        let left = self.slots.saturating_sub(cursor.position);
        match self.order {
            _ if left >= least => cursor,
            Order::Shuffled { .. } => Cursor {
                epoch: cursor.epoch + 1,
                position: 0,
            },
            Order::Sequential => Cursor {
                epoch: cursor.epoch,
                position: self.slots,
            },
        }
    }

    /// The samples for a slot, the first choice first: those after it stand in when it is corrupt.
    /// In a sequential pass nothing stands in.
    pub(crate) fn candidates(&self, slot: Cursor) -> impl Iterator<Item = usize> + use<> {
        // Beyond the end (the last slots of uneven ranks) the order starts again.
        let first = self.rank + slot.position * self.world;
        let (len, order) = (self.len, self.order);
        let (count, permutation) = match order {
            Order::Shuffled { seed } => (len, Some(Permutation::new(len, seed, slot.epoch))),
            Order::Sequential => (1, None),
        };
        (0..count).map(move |step| {
            let position = (first + step) % len;
            permutation.map_or(position, |order| order.at(position)) as usize
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_permutation_whatever_its_length() {
        for len in (1..130).chain([255, 256, 257, 1000, 4096, 4097]) {
            let order = Permutation::new(len, 5, 2);
            let mut seen = vec![false; len as usize];
            for position in 0..len {
                let sample = order.at(position) as usize;
                assert!(!seen[sample], "{sample} twice among {len}");
                seen[sample] = true;
            }
        }
    }

    #[test]
    fn every_sample_comes_everywhere_about_equally_often() {
        // 8 samples, 8000 orders: each (position, sample) pair about 1000 times, deviation 30.
        for len in [5u64, 8] {
            let mut counts = vec![vec![0u32; len as usize]; len as usize];
            for epoch in 0..1000 * len {
                let order = Permutation::new(len, 11, epoch);
                for position in 0..len {
                    counts[position as usize][order.at(position) as usize] += 1;
                }
            }
            for row in &counts {
                assert!(
                    row.iter().all(|&count| count.abs_diff(1000) < 150),
                    "{counts:?}"
                );
            }
        }
    }

    #[test]
    fn neighbours_in_the_folder_are_no_neighbours_in_the_order() {
        let len = 10_000;
        let order = Permutation::new(len, 0, 0);
        let samples: Vec<u64> = (0..len).map(|position| order.at(position)).collect();
        let close = samples
            .windows(2)
            .filter(|pair| pair[0].abs_diff(pair[1]) <= 10)
            .count();
        // 2 · 10 / 10,000 of the pairs by chance: about 20.
        assert!(close < 45, "{close} close pairs");
        let fixed = samples
            .iter()
            .enumerate()
            .filter(|&(i, &s)| i as u64 == s)
            .count();
        assert!(fixed < 8, "{fixed} samples in their own place");
    }

    #[test]
    fn a_billion_samples_need_no_list() {
        let order = Permutation::new(1_000_000_007, 1, 1);
        assert!((0..1000).all(|position| order.at(position) < 1_000_000_007));
    }

    #[test]
    fn ranks_share_out_an_epoch() {
        let (len, world) = (103, 4);
        let mut seen = vec![0; len];
        for rank in 0..world {
            let sampler = Sampler::new(len, Order::Sequential, 10, false, rank, world).unwrap();
            let mut cursor = Cursor::default();
            while let Some(batch) = sampler.batch_from(cursor) {
                for slot in 0..batch.len as u64 {
                    let place = Cursor {
                        position: batch.start.position + slot,
                        ..batch.start
                    };
                    seen[sampler.candidates(place).next().unwrap()] += 1;
                }
                cursor = batch.next;
            }
        }
        assert!(seen.iter().all(|&count| count == 1), "{seen:?}");
    }

    #[test]
    fn shuffled_ranks_take_equally_many_steps() {
        for drop_last in [false, true] {
            let batches = |rank| {
                let order = Order::Shuffled { seed: 0 };
                Sampler::new(103, order, 5, drop_last, rank, 4)
                    .unwrap()
                    .batches()
            };
            assert!((0..4).all(|rank| batches(rank) == batches(0)));
        }
    }

    /// Epoch and sample of the slots of a batch, first choices.
    fn samples(sampler: &Sampler, batch: BatchSlots) -> Vec<(u64, usize)> {
        let slots = 0..batch.len as u64;
        slots
            .map(|slot| {
                let place = Cursor {
                    position: batch.start.position + slot,
                    ..batch.start
                };
                (place.epoch, sampler.candidates(place).next().unwrap())
            })
            .collect()
    }

    proptest::proptest! {
        #[test]
        fn ranks_partition_every_shuffled_epoch(
            len in 1usize..400,
            world in 1usize..9,
            batch in 1usize..20,
            drop_last: bool,
            seed: u64,
            epoch in 0u64..5,
        ) {
            let order = Order::Shuffled { seed };
            let mut seen = vec![0; len];
            let mut batches = Vec::new();
            for rank in 0..world {
                let made = Sampler::new(len, order, batch, drop_last, rank, world);
                let Ok(sampler) = made else {
                    // Too few for a batch of each rank: refused for all alike.
                    proptest::prop_assert!(drop_last && len / world < batch);
                    return Ok(());
                };
                batches.push(sampler.batches());
                let mut cursor = Cursor { epoch, position: 0 };
                while cursor.epoch == epoch {
                    let batch = sampler.batch_from(cursor).unwrap();
                    for (at, sample) in samples(&sampler, batch) {
                        proptest::prop_assert_eq!(at, epoch);
                        seen[sample] += 1;
                    }
                    cursor = batch.next;
                }
            }
            proptest::prop_assert!(batches.iter().all(|&count| count == batches[0]));
            let total: usize = seen.iter().sum();
            if drop_last {
                // None twice; left out is less than a batch of each rank and one each.
                proptest::prop_assert!(seen.iter().all(|&count| count <= 1));
                proptest::prop_assert!(len - total < world * batch + world);
            } else {
                // None left out; twice only what fills up the last slots of uneven ranks.
                proptest::prop_assert!(seen.iter().all(|&count| count >= 1));
                proptest::prop_assert!(total - len < world);
            }
        }

        #[test]
        fn a_resume_at_any_cursor_gives_the_same_order(
            len in 1usize..300,
            world in 1usize..5,
            rank in 0usize..5,
            batch in 1usize..20,
            drop_last: bool,
            shuffled: bool,
            seed: u64,
            at in 0usize..60,
        ) {
            let order = if shuffled { Order::Shuffled { seed } } else { Order::Sequential };
            let made = Sampler::new(len, order, batch, drop_last, rank, world);
            let Ok(sampler) = made else {
                return Ok(());
            };
            let run = |start: Cursor| {
                let first = sampler.batch_from(start);
                std::iter::successors(first, |batch| sampler.batch_from(batch.next))
            };
            // As if never stopped, and stopped after any batch.
            let whole: Vec<BatchSlots> = run(Cursor::default()).take(80).collect();
            let Some(stopped) = whole.get(at) else {
                return Ok(());
            };
            sampler.check(stopped.next).unwrap();
            let rest: Vec<BatchSlots> = run(stopped.next).take(20).collect();
            let expected: Vec<BatchSlots> = run(Cursor::default()).skip(at + 1).take(20).collect();
            proptest::prop_assert_eq!(&rest, &expected);
            for (one, other) in rest.iter().zip(&expected) {
                proptest::prop_assert_eq!(samples(&sampler, *one), samples(&sampler, *other));
            }
            // Stopped within a batch: the samples at the same slots are the same.
            let inner = Cursor {
                position: stopped.start.position + stopped.len as u64 / 2,
                ..stopped.start
            };
            let shifted = samples(&sampler, BatchSlots {
                start: inner,
                len: stopped.len - stopped.len / 2,
                next: stopped.next,
            });
            proptest::prop_assert_eq!(&shifted[..], &samples(&sampler, *stopped)[stopped.len / 2..]);
        }
    }
}
