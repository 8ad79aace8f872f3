//! Small images, kept decoded when all of them fit into memory.
//!
//! A 32-pixel JPEG takes ten times longer to read and decode than to augment, and a set of them is
//! small. A large image is the other way round: its file is a tenth of its pixels, and the operating
//! system keeps files anyway. So only small images are kept, and only when the whole set would fit.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sample::Image;

/// The most pixels that a small image has.
const MAX_SMALL_PIXELS: u64 = 128 * 128;

/// What an image takes beside its pixels: the allocator's notes.
const OVERHEAD_BYTES: u64 = 16;

/// What each image of the set takes in the list, whether it is kept or not.
const SLOT_BYTES: u64 = size_of::<OnceLock<Image>>() as u64;

/// Whether an image of this size may be kept.
pub(crate) fn is_small(width: u32, height: u32) -> bool {
    u64::from(width) * u64::from(height) <= MAX_SMALL_PIXELS
}

/// Decoded images by their index, within a budget.
pub(crate) struct Cache {
    len: usize,
    budget: u64,
    used: AtomicU64,
    /// Empty until the first image is kept.
    places: OnceLock<Box<[OnceLock<Image>]>>,
}

impl Cache {
    /// For a set of `len` images, in at most `budget` bytes.
    pub(crate) fn new(len: usize, budget: u64) -> Self {
        Self {
            len,
            budget,
            used: AtomicU64::new(0),
            places: OnceLock::new(),
        }
    }

    /// Image `index`, if it is kept.
    pub(crate) fn get(&self, index: usize) -> Option<&Image> {
        self.places.get()?.get(index)?.get()
    }

    /// Keeps a copy of `image` if it is small and a whole set of its like fits into the budget.
    pub(crate) fn offer(&self, index: usize, image: &Image) {
        let bytes = image.rgb.len() as u64 + OVERHEAD_BYTES;
        let set = (bytes + SLOT_BYTES).saturating_mul(self.len as u64);
        if !is_small(image.width, image.height) || set > self.budget {
            return;
        }
        // Sizes may differ, so the sum is watched as well.
        let room = self.budget - self.list();
        if self.used.fetch_add(bytes, Ordering::Relaxed) + bytes > room {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        let empty = || (0..self.len).map(|_| OnceLock::new()).collect();
        let kept = self
            .places
            .get_or_init(empty)
            .get(index)
            .is_some_and(|place| place.set(image.clone()).is_ok());
        if !kept {
            // Another worker was faster.
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> u64 {
        let list = self.places.get().map_or(0, |_| self.list());
        self.used.load(Ordering::Relaxed) + list
    }

    /// Bytes of the list.
    fn list(&self) -> u64 {
        SLOT_BYTES * self.len as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: u32, height: u32) -> Image {
        Image::new(width, height, vec![7; (width * height * 3) as usize]).unwrap()
    }

    #[test]
    fn small_images_are_kept_once() {
        let cache = Cache::new(10, 100_000);
        assert_eq!(cache.get(3), None);
        cache.offer(3, &image(32, 32));
        cache.offer(3, &image(32, 32));
        assert_eq!(cache.get(3), Some(&image(32, 32)));
        assert_eq!(cache.get(4), None);
        assert_eq!(cache.used(), 3072 + OVERHEAD_BYTES + 10 * SLOT_BYTES);
    }

    #[test]
    fn nothing_is_kept_of_a_set_that_does_not_fit_nor_of_large_images() {
        let cache = Cache::new(1000, 1 << 20);
        cache.offer(0, &image(32, 32));
        assert_eq!((cache.get(0), cache.used()), (None, 0));
        let cache = Cache::new(2, 1 << 30);
        cache.offer(0, &image(300, 200));
        assert_eq!((cache.get(0), cache.used()), (None, 0));
    }

    #[test]
    fn images_of_many_sizes_stay_within_the_budget() {
        let budget = 100 * (SLOT_BYTES + OVERHEAD_BYTES + 30 * 10 * 3);
        let cache = Cache::new(100, budget);
        for index in 0..100 {
            cache.offer(index, &image(1 + index as u32 % 60, 10));
            assert!(cache.used() <= budget);
        }
        assert!(cache.get(0).is_some() && cache.get(59).is_none());
    }
}
