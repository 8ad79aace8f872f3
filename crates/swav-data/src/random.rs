//! Random numbers that are looked up, not drawn in turn.
//!
//! A generator with a state gives different numbers when the work is done in a different order. Here
//! every number is a function of *where it is used*: Philox-4×32-10 (Salmon, Moraes, Dror and Shaw,
//! "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a 64-bit key and a 128-bit counter
//! into 128 random bits, and key and counter spell out seed, epoch, sample, crop and purpose:
//!
//! ```text
//! key     = the first 64 bits of philox(key = seed, counter = [epoch, domain])
//! counter = [block, crop << 8 | purpose, sample (low half), sample (high half)]
//! ```
//!
//! Each transform has a [`Purpose`] and with it a stream of its own, so switching one transform off
//! leaves the draws of the others as they were.

/// Philox-4×32-10: 128 random bits from a counter and a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const ROUNDS: usize = 10;
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let wide = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..ROUNDS {
        let (high0, low0) = wide(MULTIPLIERS[0], c0);
        let (high1, low1) = wide(MULTIPLIERS[1], c2);
        (c0, c1, c2, c3) = (high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0);
        (k0, k1) = (k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1]));
    }
    [c0, c1, c2, c3]
}

/// What a stream of draws is for. The numbers are part of the determinism contract: changing one
/// changes what every seed means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Purpose {
    /// Where a random resized crop lies.
    Crop = 1,
    /// Whether a crop is mirrored.
    Flip = 2,
    /// Whether and how the colours change.
    Jitter = 3,
    /// Whether a crop turns grey.
    Grey = 4,
    /// Whether and how far a crop is blurred.
    Blur = 5,
}

/// Keeps the streams of the augmentation apart from the order of the samples.
#[derive(Clone, Copy)]
pub(crate) enum Domain {
    Augment = 0,
    Order = 1,
}

/// The 64-bit key that all numbers of an epoch share.
pub(crate) fn epoch_key(seed: u64, epoch: u64, domain: Domain) -> [u32; 2] {
    let [low, high] = halves(epoch);
    let [k0, k1, ..] = philox([low, high, domain as u32, 0], halves(seed));
    [k0, k1]
}

/// The number below `bound` that 32 random bits stand for.
pub(crate) fn below(word: u32, bound: u32) -> u32 {
    ((u64::from(word) * u64::from(bound)) >> 32) as u32
}

/// Low and high half.
pub(crate) fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

/// All random numbers of one crop: a function of (seed, epoch, sample, crop) and nothing else.
///
/// ```
/// use swav_data::random::{CropKey, Purpose};
///
/// let key = CropKey::new(7, 0, 1234, 2);
/// let sigma = key.draws(Purpose::Blur).uniform(0.1, 2.0);
/// assert_eq!(sigma, key.draws(Purpose::Blur).uniform(0.1, 2.0));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CropKey {
    key: [u32; 2],
    sample: u64,
    crop: u32,
}

impl CropKey {
    /// The key of crop number `crop` (below 2²⁴) of sample `sample` in `epoch`.
    pub fn new(seed: u64, epoch: u64, sample: u64, crop: u32) -> Self {
        Self {
            key: epoch_key(seed, epoch, Domain::Augment),
            sample,
            crop,
        }
    }

    /// The stream of draws for `purpose`, from its beginning.
    pub fn draws(&self, purpose: Purpose) -> Draws {
        let [low, high] = halves(self.sample);
        let counter = [0, (self.crop << 8) | purpose as u32, low, high];
        Draws {
            key: self.key,
            counter,
            words: [0; 4],
            used: 4,
        }
    }
}

/// A stream of draws.
#[derive(Clone, Debug)]
pub struct Draws {
    key: [u32; 2],
    counter: [u32; 4],
    words: [u32; 4],
    used: usize,
}

impl Draws {
    /// 32 random bits.
    pub fn word(&mut self) -> u32 {
        if self.used == self.words.len() {
            self.words = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Uniform on [0, 1), in steps of 2⁻³².
    pub fn unit(&mut self) -> f64 {
        f64::from(self.word()) / 4_294_967_296.0
    }

    /// Uniform on [`low`, `high`).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform on 0, 1, …, `bound` − 1. The bias of multiply-and-shift is below `bound` · 2⁻³².
    ///
    /// # Panics
    /// When `bound` is zero.
    pub fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "a draw below zero has no outcome");
        below(self.word(), bound)
    }

    /// True with `probability`.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < f64::from(probability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_known_answers() {
        // kat_vectors of the Random123 distribution, "philox4x32 10".
        let known = [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in known {
            assert_eq!(philox(counter, key), expected);
        }
    }

    #[test]
    fn every_part_of_the_key_changes_the_draws() {
        let first = |seed, epoch, sample, crop, purpose| {
            CropKey::new(seed, epoch, sample, crop)
                .draws(purpose)
                .word()
        };
        let base = first(1, 2, 3, 4, Purpose::Crop);
        assert_eq!(base, first(1, 2, 3, 4, Purpose::Crop));
        for other in [
            first(2, 2, 3, 4, Purpose::Crop),
            first(1 | 1 << 40, 2, 3, 4, Purpose::Crop),
            first(1, 3, 3, 4, Purpose::Crop),
            first(1, 2, 4, 4, Purpose::Crop),
            first(1, 2, 3 | 1 << 40, 4, Purpose::Crop),
            first(1, 2, 3, 5, Purpose::Crop),
            first(1, 2, 3, 4, Purpose::Flip),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn units_are_uniform_and_below_one() {
        let mut draws = CropKey::new(0, 0, 0, 0).draws(Purpose::Blur);
        let mut bins = [0u32; 16];
        for _ in 0..160_000 {
            let unit = draws.unit();
            assert!((0.0..1.0).contains(&unit));
            bins[(unit * 16.0) as usize] += 1;
        }
        // Standard deviation of a bin: about 97.
        assert!(
            bins.iter().all(|&count| count.abs_diff(10_000) < 500),
            "{bins:?}"
        );
    }

    #[test]
    fn below_reaches_every_outcome_and_no_other() {
        let mut draws = CropKey::new(9, 0, 0, 0).draws(Purpose::Jitter);
        let mut seen = [0u32; 24];
        for _ in 0..24_000 {
            seen[draws.below(24) as usize] += 1;
        }
        assert!(
            seen.iter().all(|&count| count.abs_diff(1000) < 200),
            "{seen:?}"
        );
    }
}
