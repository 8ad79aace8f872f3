//! What assigning takes beside its input and its output.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::tensor::{Device, Tensor};
use swav_ot::{
    Implementation, Local, PrototypePotentials, SinkhornConfig, sinkhorn_with, spherical_kmeans,
};

/// Counts what is held, and the most that ever was.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Relaxed) + layout.size();
        MOST.fetch_max(held, Relaxed);
        // SAFETY: the caller guarantees what the trait demands.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller guarantees what the trait demands.
        unsafe { System.dealloc(address, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `step` takes at most, beside what was there before; run twice, since threads and the like are made once.
fn most_of<T>(step: impl Fn() -> T) -> (T, usize) {
    // One at a time, so that nothing else allocates meanwhile.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(|failed| failed.into_inner());
    drop(step());
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    let result = step();
    (result, MOST.load(Relaxed) - before)
}

const FLOAT: usize = size_of::<f32>();

#[test]
fn scratch_stays_below_a_mebibyte_and_some_vectors() {
    let config = SinkhornConfig::default();
    for [sets, samples, prototypes] in [
        [1, 4096, 3000],
        [3, 1024, 3000],
        [1, 500, 20_000],
        [1, 20_000, 100],
    ] {
        let (codes, most) = most_of(|| {
            let scores = Tensor::<3>::zeros([sets, samples, prototypes], &Device::flex());
            sinkhorn_with(scores, &config, Implementation::Fused, &mut Local).unwrap()
        });
        let matrix = codes.shape().num_elements() * FLOAT;
        let scratch = most - 2 * matrix;
        // A few vectors of a number per prototype live at the same time, as tensors and as what they are made of.
        let vectors = 8 * (sets * prototypes + samples) * FLOAT;
        let allowed = (1 << 20) + vectors;
        assert!(
            scratch <= allowed,
            "[{sets}, {samples}, {prototypes}]: {scratch} bytes, {vectors} of them vectors"
        );
    }
}

#[test]
fn sinkhorn_over_blocks_holds_the_scores_of_one_block_however_many_there_are() {
    let (block, prototypes, dim) = (256, 1000, 16);
    let config = SinkhornConfig::default();
    let directions = Tensor::<2>::ones([dim, prototypes], &Device::flex());
    for blocks in [4, 64] {
        let (_, most) = most_of(|| {
            let scores = |_| {
                let embeddings = Tensor::<2>::ones([block, dim], &Device::flex());
                embeddings.matmul(directions.clone())
            };
            PrototypePotentials::of_blocks(blocks, scores, &config, &mut Local).unwrap()
        });
        // The next one is made while the last is still there.
        let allowed = 2 * block * (prototypes + dim) * FLOAT + (1 << 20);
        assert!(most <= allowed, "{blocks} blocks: {most} bytes");
    }
}

#[test]
fn k_means_on_the_cpu_writes_no_scores() {
    let [samples, clusters, dim] = [20_000, 1000, 32];
    let bank = Tensor::<2>::ones([samples, dim], &Device::flex());
    let start = Tensor::<2>::ones([clusters, dim], &Device::flex());
    let (_, most) =
        most_of(|| spherical_kmeans(bank.clone(), start.clone(), 2, &mut Local).unwrap());
    // The assignment, its order, and some copies of the centroids: the scores would be 80 MB.
    let allowed = 24 * samples + 4 * clusters * dim * FLOAT + (1 << 20);
    assert!(most <= allowed, "{most} bytes, {allowed} allowed");
}
