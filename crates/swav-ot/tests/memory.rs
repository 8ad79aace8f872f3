//! What the assignment step takes beside its input and its output.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::tensor::{Device, Tensor};
use swav_ot::{Form, Local, SinkhornConfig, sinkhorn_with};

/// Counts what is held, and the most that ever was.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(held, Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test, so that nothing else allocates meanwhile.
#[test]
fn scratch_stays_below_a_mebibyte_and_some_vectors() {
    let config = SinkhornConfig::default();
    for [sets, samples, prototypes] in [
        [1, 4096, 3000],
        [3, 1024, 3000],
        [1, 500, 20_000],
        [1, 20_000, 100],
    ] {
        let scores = Tensor::<3>::zeros([sets, samples, prototypes], &Device::flex());
        let step = || sinkhorn_with(scores.clone(), &config, Form::Fused, &mut Local).unwrap();
        drop(step()); // the threads, and whatever else is made once

        let before = HELD.load(Relaxed);
        MOST.store(before, Relaxed);
        let codes = step();
        let output = codes.shape().num_elements() * size_of::<f32>();
        let scratch = MOST.load(Relaxed) - before - output;
        // A few vectors of a number per prototype live at the same time, as tensors and as what they are made of.
        let vectors = 8 * (sets * prototypes + samples) * size_of::<f32>();
        let allowed = (1 << 20) + vectors;
        assert!(
            scratch <= allowed,
            "[{sets}, {samples}, {prototypes}]: {scratch} bytes, {vectors} of them vectors"
        );
    }
}
