//! Damaged files by the thousand: no panic, no hang, no more memory than the limit allows, and the
//! budget and the report tell of exactly those that are damaged.
//!
//! Each input is a function of its number, so a failure names all that is needed to see it again.
//! `SWAV_FUZZ=1000000` makes more of them than the default of 10,000. Photographs beside the workspace (see
//! CONTRIBUTING.md) are damaged as well where they are present.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // this test uses a part
#[path = "../../../tests/common/requires.rs"]
mod requires;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use requires::shared;
use swav_data::{
    Augment, CropSpec, Cursor, DataError, Format, Image, Loader, LoaderConfig, Order, Problem,
    Sample, ScanConfig, Source, TarSource, View, decode, decode_into, open, scan,
};

/// Counts bytes that are taken and not given back, and the most there have been.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn taken(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every method passes its arguments to the system's allocator and returns what that returns, so the
// contract of `GlobalAlloc` holds as it does for `System`. The counters are atomics and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller guarantees a layout of non-zero size.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller guarantees a layout of non-zero size.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller guarantees that `pointer` came from this allocator, thus from `System`, with `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        taken(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as for `dealloc`; the caller guarantees that `size` is not zero and fits the alignment.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: they share the count of memory.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `work` returns, and the bytes that it had in hand at most.
fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    (result, PEAK.load(Ordering::Relaxed).saturating_sub(before))
}

/// Ends the process with the number of the input when one input takes minutes: a loop without an
/// end would otherwise say nothing at all.
struct Watchdog {
    at: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Watchdog {
    fn start(what: &'static str) -> Self {
        const PATIENCE: usize = 120;
        let (at, over) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let dog = Self {
            at: Arc::clone(&at),
            over: Arc::clone(&over),
        };
        thread::spawn(move || {
            let (mut last, mut waited) = (usize::MAX, 0);
            while !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_secs(1));
                let now = at.load(Ordering::Relaxed);
                waited = if now == last { waited + 1 } else { 0 };
                last = now;
                if waited > PATIENCE {
                    eprintln!("{what} input {now} hangs");
                    std::process::abort();
                }
            }
        });
        dog
    }

    fn at(&self, number: usize) {
        self.at.store(number, Ordering::Relaxed);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// How many inputs of all kinds.
fn inputs() -> usize {
    std::env::var("SWAV_FUZZ").map_or(10_000, |count| count.parse().expect("SWAV_FUZZ: a number"))
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// Numbers that lengths and sizes are compared with.
const EDGES: [u32; 10] = [
    0,
    1,
    2,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
];

/// Damages `bytes` in one to three ways; `other` gives the part that is spliced in.
fn damage(mut bytes: Vec<u8>, other: &[u8], random: &mut Random) -> Vec<u8> {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(8) {
            0 | 1 => {
                for _ in 0..=random.below(16) {
                    let at = random.below(bytes.len());
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << random.below(8);
                    }
                }
            }
            2 => bytes.truncate(at),
            3 => {
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            4 => {
                let end = (at + random.below(600)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let end = (at + random.below(600)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, part);
            }
            6 => {
                let edge = EDGES[random.below(EDGES.len())];
                let (long, short) = (edge.to_be_bytes(), (edge as u16).to_be_bytes());
                let edge = if random.one_in(2) {
                    &long[..]
                } else {
                    &short[..]
                };
                for (to, from) in bytes[at..].iter_mut().zip(edge) {
                    *to = *from;
                }
            }
            _ => {
                let noise = (0..random.below(40)).map(|_| random.next() as u8);
                let noise: Vec<u8> = noise.collect();
                bytes.splice(at..at, noise);
            }
        }
    }
    bytes
}

/// Writes an edge into a length or a size of a segment of a JPEG.
fn damage_jpeg(bytes: &mut [u8], random: &mut Random) {
    let markers: Vec<usize> = (0..bytes.len().saturating_sub(9))
        .filter(|&at| bytes[at] == 0xFF && (0xC0..=0xFE).contains(&bytes[at + 1]))
        .collect();
    if markers.is_empty() {
        return;
    }
    // Behind the marker: its length; in a frame header then a byte, height and width.
    let at = markers[random.below(markers.len())] + [2, 5, 7][random.below(3)];
    let edge = EDGES[random.below(EDGES.len())] as u16;
    bytes[at..at + 2].copy_from_slice(&edge.to_be_bytes());
}

/// Writes an edge into the length or the first numbers of a chunk of a PNG.
fn damage_png(bytes: &mut [u8], random: &mut Random) {
    let mut chunks = vec![];
    let mut at = 8;
    while at + 20 < bytes.len() {
        chunks.push(at);
        let length = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        at = at.saturating_add(12).saturating_add(length as usize);
    }
    if !chunks.is_empty() {
        let at = chunks[random.below(chunks.len())] + [0, 8, 12][random.below(3)];
        let edge = EDGES[random.below(EDGES.len())];
        bytes[at..at + 4].copy_from_slice(&edge.to_be_bytes());
    }
}

/// Makes the checksums right, so that a decoder sees what is behind them.
fn mend_png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        let end = at.saturating_add(8).saturating_add(length);
        if end.saturating_add(4) > bytes.len() {
            return;
        }
        let mut sum = flate2::Crc::new();
        sum.update(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&sum.sum().to_be_bytes());
        at = end + 4;
    }
}

/// Writes an edge, or some size, into a header of a tar, and mostly makes its checksum right.
fn damage_tar(bytes: &mut [u8], random: &mut Random) {
    let headers: Vec<usize> = (0..bytes.len() / 512)
        .map(|block| block * 512)
        .filter(|&at| &bytes[at + 257..at + 262] == b"ustar")
        .collect();
    let Some(&at) = headers.get(random.below(headers.len())) else {
        return;
    };
    let header = &mut bytes[at..at + 512];
    match random.below(4) {
        0 => {
            let size = format!("{:011o}", random.next() >> (29 + random.below(35)));
            header[124..135].copy_from_slice(&size.as_bytes()[size.len() - 11..]);
        }
        // Base-256, as sizes of 8 GiB and more are written.
        1 => {
            header[124] = 0x80;
            header[128..136].copy_from_slice(&random.next().to_be_bytes());
        }
        2 => header[156] = b"0123457xgLKSD\0\xFF"[random.below(15)],
        _ => {
            let field = random.below(100);
            header[field] = b"/.\0\xFF\\:"[random.below(6)];
        }
    }
    if !random.one_in(8) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn fixtures(extensions: &[&str]) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    files(&folder, extensions, 20_000)
}

/// Photographs of up to 120 kB, or nothing.
fn photographs() -> Vec<Vec<u8>> {
    shared("data/photos").map_or_else(Vec::new, |photos| files(&photos, &["JPEG"], 120_000))
}

fn files(folder: &Path, extensions: &[&str], most: u64) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let extension = path.extension().unwrap_or_default();
            extensions.iter().any(|known| extension == *known)
                && path.metadata().unwrap().len() <= most
        })
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// No image of more pixels is decoded.
const MAX_PIXELS: u64 = 250_000;

/// What a decoder may have in hand for an image of so many pixels: 16 bytes each, as `decode/formats.rs` allows,
/// which is 16 bits of four channels in two buffers. Beside it the input, some times, and tables.
fn decoding_limit(input: usize) -> usize {
    16 * MAX_PIXELS as usize + 4 * input + (1 << 20)
}

/// Inputs that once failed. 95,944: a palette of one byte, at which the PNG decoder panics.
const KEPT: [usize; 1] = [95_944];

/// A damaged image, by number.
fn damaged_image(number: usize, jpegs: &[Vec<u8>], pngs: &[Vec<u8>]) -> Vec<u8> {
    let mut random = Random(number as u64);
    let is_png = number.is_multiple_of(2);
    let all = if is_png { pngs } else { jpegs };
    let whole = all[random.below(all.len())].clone();
    let other = &all[random.below(all.len())];
    let mut bytes = whole;
    if random.one_in(2) {
        match is_png {
            true => damage_png(&mut bytes, &mut random),
            false => damage_jpeg(&mut bytes, &mut random),
        }
    }
    if !random.one_in(4) {
        bytes = damage(bytes, other, &mut random);
    }
    if is_png && !random.one_in(4) {
        mend_png(&mut bytes);
    }
    bytes
}

#[test]
fn damaged_images_neither_panic_nor_hang_nor_take_memory() {
    let _alone = alone();
    let mut jpegs = fixtures(&["jpg"]);
    jpegs.extend(photographs());
    let pngs = fixtures(&["png"]);
    let dog = Watchdog::start("image");
    let mut counts = [0; 3];
    let mut most = 0.0f64;
    // The first decoding of each kind sets up tables that stay.
    for bytes in [&jpegs[0], &pngs[0]] {
        let _ = decode(&Sample::Encoded(bytes.clone()), "first", MAX_PIXELS);
    }
    let before = LIVE.load(Ordering::Relaxed);
    // What other images have left behind must not show in one that is decoded over them.
    let mut used = Image::default();
    for number in KEPT.into_iter().chain(0..inputs() - inputs() / 3) {
        dog.at(number);
        let bytes = damaged_image(number, &jpegs, &pngs);
        let limit = decoding_limit(bytes.len());
        let sample = Sample::Encoded(bytes);
        let attempt = std::panic::AssertUnwindSafe(|| decode(&sample, "damaged", MAX_PIXELS));
        let (result, peak) = peak_of(|| std::panic::catch_unwind(attempt));
        let result = result.unwrap_or_else(|_| panic!("input {number} panics"));
        assert!(
            peak <= limit,
            "input {number} takes {peak} bytes of {limit}"
        );
        most = most.max(peak as f64 / limit as f64);
        counts[match result {
            Ok(image) => {
                decode_into(&sample, "damaged", MAX_PIXELS, &mut used).unwrap();
                assert!(used == image, "input {number} shows what was there before");
                let pixels = u64::from(image.width) * u64::from(image.height);
                assert!(pixels <= MAX_PIXELS, "input {number}");
                assert_eq!(image.rgb.len() as u64, 3 * pixels, "input {number}");
                0
            }
            Err(DataError::Decode { file, .. } | DataError::Unsupported { file, .. }) => {
                assert_eq!(file, "damaged");
                1
            }
            Err(DataError::TooLarge { .. }) => 2,
            Err(error) => panic!("input {number}: {error}"),
        }] += 1;
    }
    let grown = LIVE.load(Ordering::Relaxed).saturating_sub(before);
    eprintln!(
        "images: {counts:?} decoded, refused, too large; at most {most:.2} of the memory allowed"
    );
    assert!(grown < 64 << 10, "{grown} bytes were kept");
    assert!(counts.iter().all(|&count| count > 0), "every fate is met");
}

/// A tar of some fixtures, some with long names.
fn tar_of(images: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for i in 0..=random.below(6) {
        let image = &images[random.below(images.len())];
        let mut header = match random.one_in(2) {
            true => tar::Header::new_gnu(),
            false => tar::Header::new_ustar(),
        };
        header.set_size(image.len() as u64);
        let long = if random.one_in(4) {
            "long".repeat(40) + "/"
        } else {
            String::new()
        };
        let name = format!("{}/{long}{i}.jpg", ["cat", "dog"][i % 2]);
        if builder.append_data(&mut header, &name, &image[..]).is_err() {
            // Too long for this kind of header.
            continue;
        }
        if random.one_in(3) {
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            let name = Path::new(&name).with_extension("cls");
            let _ = builder.append_data(&mut header, name, &b"1\n"[..]);
        }
    }
    builder.into_inner().unwrap()
}

#[test]
fn damaged_tars_neither_panic_nor_hang_nor_take_memory() {
    let _alone = alone();
    let mut images = fixtures(&["jpg"]);
    images.extend(photographs().into_iter().take(8));
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("set.tar");
    let dog = Watchdog::start("tar");
    let (mut opened, mut refused, mut unreadable) = (0, 0, 0);
    for number in 0..inputs() / 3 {
        dog.at(number);
        let mut random = Random(number as u64 ^ 0x7A12);
        let mut bytes = tar_of(&images, &mut random);
        let other = tar_of(&images, &mut random);
        if !random.one_in(4) {
            damage_tar(&mut bytes, &mut random);
        }
        if random.one_in(2) {
            bytes = damage(bytes, &other, &mut random);
        }
        fs::write(&path, &bytes).unwrap();
        // A name may be as long as the archive, in several copies; beside it, threads and paths.
        let limit = 8 * bytes.len() + (1 << 20);
        for format in [Format::Auto, Format::Tar, Format::WebDataset] {
            let attempt = std::panic::AssertUnwindSafe(|| open(&path, format));
            let (result, peak) = peak_of(|| std::panic::catch_unwind(attempt));
            let result = result.unwrap_or_else(|_| panic!("input {number} panics as {format}"));
            assert!(
                peak <= limit,
                "input {number} takes {peak} bytes of {limit}"
            );
            let source = match result {
                Ok(source) => source,
                Err(error) => {
                    assert!(
                        error.to_string().contains("set.tar"),
                        "input {number}: {error}"
                    );
                    refused += 1;
                    continue;
                }
            };
            opened += 1;
            for index in 0..source.len() {
                assert!(source.name(index).contains("set.tar:"));
                let label = source.label(index).map(|label| label as usize);
                assert!(label.is_none_or(|label| label < source.classes().len()));
                let (sample, peak) = peak_of(|| source.read(index));
                assert!(
                    peak <= limit,
                    "input {number} reads {peak} bytes of {limit}"
                );
                match sample {
                    Ok(Sample::Encoded(read)) => assert!(read.len() <= bytes.len()),
                    Ok(Sample::Pixels { .. }) => panic!("a tar holds files"),
                    Err(_) => unreadable += 1,
                }
            }
        }
    }
    eprintln!("tars: {opened} opened, {refused} refused, {unreadable} members unreadable");
    assert!(opened > 0 && refused > 0);
}

/// Good images with damaged ones in between.
struct Mixed {
    samples: Vec<Vec<u8>>,
}

impl Source for Mixed {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        Ok(Sample::Encoded(self.samples[index].clone()))
    }

    fn name(&self, index: usize) -> String {
        format!("mixed/{index}")
    }

    fn label(&self, _index: usize) -> Option<u32> {
        None
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn describe(&self) -> String {
        "mixed".into()
    }
}

#[test]
fn the_report_names_exactly_the_damaged_and_the_budget_counts_them() {
    let _alone = alone();
    let (jpegs, pngs) = (fixtures(&["jpg"]), fixtures(&["png"]));
    let count = (inputs() / 5).min(600);
    let samples: Vec<Vec<u8>> = (0..count)
        .map(|number| match number % 3 {
            0 => damaged_image(number, &jpegs, &pngs),
            _ => jpegs[number % jpegs.len()].clone(),
        })
        .collect();
    let is_bad = |bytes: &Vec<u8>| decode(&Sample::Encoded(bytes.clone()), "", MAX_PIXELS).is_err();
    let bad: BTreeSet<usize> = (0..count)
        .filter(|&index| is_bad(&samples[index]))
        .collect();
    assert!(
        bad.len() > count / 10 && bad.len() < count / 2,
        "{}",
        bad.len()
    );
    let source: Arc<dyn Source> = Arc::new(Mixed { samples });

    let config = ScanConfig {
        max_pixels: MAX_PIXELS,
        ..ScanConfig::default()
    };
    let report = scan(source.as_ref(), &config, &|_| true).unwrap();
    let corrupt = report
        .findings
        .iter()
        .filter_map(|finding| match finding.problem {
            Problem::Corrupt(_) => Some(finding.index),
            _ => None,
        });
    assert_eq!(corrupt.collect::<BTreeSet<_>>(), bad);

    let config = |allowed: usize, workers: usize| LoaderConfig {
        batch_size: 8,
        view: View::MultiCrop {
            crops: vec![CropSpec {
                count: 2,
                size: 8,
                scale: [0.3, 1.0],
            }],
            augment: Augment::default(),
        },
        order: Order::Shuffled { seed: 1 },
        workers,
        drop_last: false,
        corrupt_budget: allowed as f64 / count as f64,
        max_pixels: MAX_PIXELS,
        ..LoaderConfig::default()
    };
    for workers in [1, 5] {
        // A budget that is just enough: an epoch goes by, with good samples alone.
        let config_of = |allowed| config(allowed, workers);
        let mut loader =
            Loader::new(Arc::clone(&source), config_of(bad.len()), Cursor::default()).unwrap();
        for _ in 0..loader.batches_per_epoch() {
            let batch = loader.next_batch().unwrap().unwrap();
            assert!(batch.indices.iter().all(|index| !bad.contains(index)));
        }
        let health = loader.health();
        let listed: BTreeSet<usize> = health.bad.iter().map(|bad| bad.index).collect();
        assert_eq!(listed, bad);
        assert!(!health.exceeded());

        // One less, and the epoch does not end.
        let mut loader = Loader::new(
            Arc::clone(&source),
            config_of(bad.len() - 1),
            Cursor::default(),
        )
        .unwrap();
        let error = (0..loader.batches_per_epoch()).find_map(|_| loader.next_batch().err());
        match error {
            Some(DataError::Budget(report)) => {
                assert!(report.exceeded());
                assert!(report.bad.iter().all(|file| bad.contains(&file.index)));
            }
            other => panic!("expected the budget to end, got {other:?}"),
        }
    }
}

#[test]
fn a_damaged_index_neither_panics_nor_hides_samples() {
    let _alone = alone();
    let images = fixtures(&["jpg"]);
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("set.tar");
    let mut builder = tar::Builder::new(Vec::new());
    for i in 0..1200 {
        let image = &images[i % images.len()];
        let mut header = tar::Header::new_gnu();
        header.set_size(image.len() as u64);
        builder
            .append_data(&mut header, format!("{}/{i}.jpg", i % 7), &image[..])
            .unwrap();
    }
    fs::write(&path, builder.into_inner().unwrap()).unwrap();
    let expected = TarSource::open(&path).unwrap();
    let index = root.path().join("set.tar.index");
    let whole = fs::read(&index).unwrap();
    for number in 0..inputs().min(20_000) / 50 {
        let mut random = Random(number as u64 ^ 0x1DE);
        let mut bytes = damage(whole.clone(), &whole, &mut random);
        if random.one_in(2) && bytes.len() > 4 {
            // With a checksum that is right, what it says is still held against the archive.
            let body = bytes.len() - 4;
            let mut crc = flate2::Crc::new();
            crc.update(&bytes[..body]);
            bytes[body..].copy_from_slice(&crc.sum().to_le_bytes());
        }
        fs::write(&index, &bytes).unwrap();
        let source = TarSource::open(&path).unwrap();
        for at in (0..source.len()).step_by(97) {
            let _ = (source.read(at), source.name(at), source.label(at));
        }
        if !source.notes().is_empty() {
            assert_eq!(source.len(), expected.len());
        }
    }
}
