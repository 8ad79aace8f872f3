//! The figures of `docs/scale.md`: what a sample costs in memory, on disk and in time.
//!
//!     cargo run --release --example scale -- DIR [IMAGES]
//!     cargo run --release --example scale -- reads SET [SAMPLES]
//!
//! The first makes a set of small images in DIR (some 2.5 GB for the default of 1,000,000) and removes it. The second
//! reads samples of a set in the order of an epoch, on more and more threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use swav_data::random::{CropKey, Purpose};
use swav_data::{DataError, Format, Permutation, Sample, ShardSize, Source, open, pack};

/// Samples that are all alike, 1000 to a class.
struct Alike {
    len: usize,
    bytes: Vec<u8>,
    classes: Vec<String>,
}

impl Source for Alike {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, _index: usize) -> Result<Sample, DataError> {
        Ok(Sample::Encoded(self.bytes.clone()))
    }

    fn name(&self, index: usize) -> String {
        index.to_string()
    }

    fn relative_path(&self, index: usize) -> Option<PathBuf> {
        let class = &self.classes[index / 1000];
        Some(Path::new(class).join(format!("{class}_{}.jpg", index * 7919 % 100_000)))
    }

    fn label(&self, index: usize) -> Option<u32> {
        Some((index / 1000) as u32)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> String {
        "alike".into()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let root = PathBuf::from(args.next().ok_or("usage: scale DIR [IMAGES]")?);
    if root == Path::new("reads") {
        let set = PathBuf::from(args.next().ok_or("usage: scale reads SET [SAMPLES]")?);
        let source = open(&set, Format::Auto)?;
        let count = args.next().map_or(Ok(source.len()), |text| text.parse())?;
        return random_reads(source.as_ref(), count);
    }
    let len: usize = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    sampler();
    shuffles(len as u64);
    shards(&root.join("scale-shards"), len)?;
    folder(&root.join("scale-folder"), len.min(200_000))
}

fn sampler() {
    for len in [1_000_000u64, 1_000_000_000] {
        let order = Permutation::new(len, 1, 0);
        let count = 2_000_000;
        let begin = Instant::now();
        let sum: u64 = (0..count).map(|at| order.at(at % len) & 1).sum();
        black_box(sum);
        let nanos = begin.elapsed().as_secs_f64() * 1e9 / f64::from(count as u32);
        println!("order of {len:>13}: {nanos:6.0} ns a sample, 24 bytes in all");
    }
}

/// How well a stream is mixed: see `docs/scale.md`.
fn quality(name: &str, order: &[u32], classes: u64) {
    let len = order.len() as f64;
    let pairs = || order.iter().enumerate();
    let moved = pairs().map(|(at, &sample)| (at as f64 - f64::from(sample)).abs());
    let moved = moved.sum::<f64>() / len / len;
    let mean = (len - 1.0) / 2.0;
    let both = pairs().map(|(at, &sample)| (at as f64 - mean) * (f64::from(sample) - mean));
    let rank = both.sum::<f64>() / (len * (len * len - 1.0) / 12.0);
    let per_class = (order.len() as u64 / classes).max(1);
    let batches = order.chunks_exact(4096);
    let count = batches.len() as f64;
    let seen = batches.map(|batch| {
        let mut seen: Vec<u64> = batch.iter().map(|&s| u64::from(s) / per_class).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len() as f64
    });
    let seen = seen.sum::<f64>() / count;
    println!(
        "{name:44} moved {moved:.3}  rank correlation {rank:+.4}  classes in a batch {seen:6.1}"
    );
}

/// The keyed permutation against shards in random order behind a shuffle buffer, on a set that lies
/// class by class.
fn shuffles(len: u64) {
    let classes = 1000;
    let all: Vec<u32> = (0..len as u32).collect();
    quality("as it lies", &all, classes);
    let order = Permutation::new(len, 1, 0);
    let permuted: Vec<u32> = (0..len).map(|at| order.at(at) as u32).collect();
    quality("keyed permutation of all", &permuted, classes);
    let mut draws = CropKey::new(1, 0, 0, 0).draws(Purpose::Crop);
    let mut below = move |count: usize| draws.below(count as u32) as usize;
    let shard = (len / 500).max(1);
    for (open, buffer) in [(1, 1_000), (1, 10_000), (16, 10_000), (1, 100_000)] {
        let shards = Permutation::new(len.div_ceil(shard), 2, 0);
        let mut queue: Vec<std::ops::Range<u64>> = (0..len.div_ceil(shard))
            .map(|at| shards.at(at) * shard)
            .map(|first| first..(first + shard).min(len))
            .collect();
        queue.reverse();
        let mut reading: Vec<std::ops::Range<u64>> = Vec::new();
        let (mut held, mut out) = (Vec::new(), Vec::with_capacity(len as usize));
        loop {
            while reading.len() < open
                && let Some(next) = queue.pop()
            {
                reading.push(next);
            }
            if reading.is_empty() {
                break;
            }
            let place = below(reading.len());
            match reading[place].next() {
                None => drop(reading.swap_remove(place)),
                Some(sample) => held.push(sample as u32),
            }
            if held.len() > buffer {
                let place = below(held.len());
                out.push(held.swap_remove(place));
            }
        }
        while !held.is_empty() {
            let place = below(held.len());
            out.push(held.swap_remove(place));
        }
        let name = format!("{open} shards open of {shard}, buffer of {buffer}");
        quality(&name, &out, classes);
    }
}

fn shards(out: &Path, len: usize) -> Result<(), Box<dyn Error>> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rgb-444.jpg");
    let made = Alike {
        len,
        bytes: fs::read(fixture)?,
        classes: (0..len.div_ceil(1000))
            .map(|i| format!("n{:08}", i * 1013))
            .collect(),
    };
    let begin = Instant::now();
    let packed = pack(&made, out, ShardSize::default(), &mut |_| true)?.ok_or("stopped")?;
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "packed {} images of {} bytes into {} shards, {:.2} GB, in {seconds:.1} s",
        packed.samples,
        made.bytes.len(),
        packed.shards,
        packed.bytes as f64 / 1e9
    );
    drop(made);
    let indexes = || -> Result<Vec<PathBuf>, std::io::Error> {
        let paths: Result<Vec<_>, _> = fs::read_dir(out)?.map(|e| e.map(|e| e.path())).collect();
        Ok(paths?
            .into_iter()
            .filter(|p| p.extension().is_some_and(|e| e == "index"))
            .collect())
    };
    let bytes: u64 = (indexes()?.iter())
        .map(|p| p.metadata().map_or(0, |m| m.len()))
        .sum();
    println!(
        "index on disk: {:.2} bytes a sample",
        bytes as f64 / len as f64
    );
    for index in indexes()? {
        fs::remove_file(index)?;
    }
    for what in ["listed anew", "from the index"] {
        let before = held();
        let begin = Instant::now();
        let source = open(out, Format::Tar)?;
        let seconds = begin.elapsed().as_secs_f64();
        let grown = held() - before;
        println!(
            "opened, {what}: {seconds:.3} s, {:.1} bytes a sample more in memory",
            grown as f64 / len as f64
        );
        if what == "from the index" {
            reads(source.as_ref());
        }
    }
    fs::remove_dir_all(out)?;
    Ok(())
}

fn reads(source: &dyn Source) {
    let len = source.len() as u64;
    let order = Permutation::new(len, 3, 0);
    for (name, threads, shuffled) in [
        ("in order", 1, false),
        ("in the order of an epoch", 1, true),
        ("in the order of an epoch", 2, true),
    ] {
        let share = len.min(400_000) / threads;
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    for at in thread * share..(thread + 1) * share {
                        let index = if shuffled { order.at(at) } else { at };
                        black_box(source.read(index as usize).is_ok());
                    }
                });
            }
        });
        let rate = (share * threads) as f64 / begin.elapsed().as_secs_f64();
        println!("read {name}, {threads} threads, from the page cache: {rate:.0} samples/s");
    }
}

fn random_reads(source: &dyn Source, count: usize) -> Result<(), Box<dyn Error>> {
    let order = Permutation::new(source.len() as u64, 3, 0);
    // Each number of threads reads samples that the others have not.
    let threads = [1, 2, 8, 32];
    let share = count.min(source.len()) / threads.len();
    for (part, threads) in threads.into_iter().enumerate() {
        let (next, bytes) = (AtomicUsize::new(part * share), AtomicUsize::new(0));
        let begin = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= (part + 1) * share {
                            break;
                        }
                        if let Ok(Sample::Encoded(read)) = source.read(order.at(at as u64) as usize)
                        {
                            bytes.fetch_add(read.len(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "{threads:>3} threads: {:7.0} samples/s, {:7.1} MB/s",
            share as f64 / seconds,
            bytes.into_inner() as f64 / 1e6 / seconds
        );
    }
    Ok(())
}

fn folder(out: &Path, len: usize) -> Result<(), Box<dyn Error>> {
    for i in 0..len {
        let class = out.join(format!("n{:08}", i / 1000 * 1013));
        if i % 1000 == 0 {
            fs::create_dir_all(&class)?;
        }
        fs::write(
            class.join(format!(
                "n{:08}_{}.JPEG",
                i / 1000 * 1013,
                i * 7919 % 100_000
            )),
            b"",
        )?;
    }
    let before = held();
    let begin = Instant::now();
    let source = open(out, Format::Auto)?;
    let seconds = begin.elapsed().as_secs_f64();
    let grown = held() - before;
    println!(
        "folder of {} files: opened in {seconds:.2} s, {:.1} bytes a sample more in memory",
        source.len(),
        grown as f64 / len as f64
    );
    fs::remove_dir_all(out)?;
    Ok(())
}

/// Counts the bytes that are held.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every method passes its arguments to the system's allocator and returns what that returns, so the
// contract of `GlobalAlloc` holds as it does for `System`. The counter is an atomic and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller guarantees a layout of non-zero size.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller guarantees that `pointer` came from this allocator, thus from `System`, with `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}
