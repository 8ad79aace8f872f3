//! Reads and decodes every image of a set before training, to find corrupt, unsupported, duplicate and undersized
//! ones.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::decode::DEFAULT_MAX_PIXELS;
use crate::health::BadKind;
use crate::sample::{Image, Sample};
use crate::source::Source;
use crate::threads::{lock, worker_count};
use crate::try_decode::try_decode_inspecting;

/// What a [`scan`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanConfig {
    /// Images with more pixels are corrupt, as they are to a loader with this limit.
    pub max_pixels: u64,
    /// Images with a side of fewer pixels are too small; 0 for none.
    pub min_size: u32,
    /// Threads; 0 for all cores.
    pub workers: usize,
}

impl Default for ScanConfig {
    fn default() -> Self {
        Self {
            max_pixels: DEFAULT_MAX_PIXELS,
            min_size: 0,
            workers: 0,
        }
    }
}

/// What is the matter with an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// It cannot be read or decoded, for this reason.
    Corrupt(String),
    /// It is an image of a kind that is not read: which, and what to do.
    Unsupported(String),
    /// It has the bytes of an earlier sample, whose index this is.
    Duplicate(usize),
    /// A side is shorter than asked for: width and height.
    Small(u32, u32),
}

/// An image with a problem. An image that is both undersized and a duplicate has two findings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Its index in the source.
    pub index: usize,
    /// What it is.
    pub problem: Problem,
}

/// What a [`scan`] has found, in the order of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanReport {
    /// The findings.
    pub findings: Vec<Finding>,
    /// How many samples the source has.
    pub total: usize,
}

impl ScanReport {
    /// How many samples are corrupt.
    pub fn corrupt(&self) -> usize {
        self.count(|problem| matches!(problem, Problem::Corrupt(_)))
    }

    /// How many samples are images of a kind that is not read.
    pub fn unsupported(&self) -> usize {
        self.count(|problem| matches!(problem, Problem::Unsupported(_)))
    }

    /// How many samples are copies of earlier ones.
    pub fn duplicates(&self) -> usize {
        self.count(|problem| matches!(problem, Problem::Duplicate(_)))
    }

    /// How many samples are too small.
    pub fn small(&self) -> usize {
        self.count(|problem| matches!(problem, Problem::Small(..)))
    }

    fn count(&self, is: impl Fn(&Problem) -> bool) -> usize {
        let findings = self.findings.iter();
        findings.filter(|finding| is(&finding.problem)).count()
    }
}

/// Reads and decodes every sample once, and reports what is corrupt, unsupported, too small, or has the very
/// bytes of an earlier sample. The report does not depend on the number of threads.
///
/// `progress` is called from those threads with the number of samples done so far; when it returns
/// false the scan ends and nothing is returned.
///
/// Memory: 16 bytes a sample, for a hash of its bytes. Where hashes are equal the bytes are read
/// again and compared, so a duplicate is one.
pub fn scan(
    source: &dyn Source,
    config: &ScanConfig,
    progress: &(dyn Fn(usize) -> bool + Sync),
) -> Option<ScanReport> {
    let total = source.len();
    let (next, done, stop) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicBool::new(false),
    );
    let found = Mutex::new((Vec::new(), Vec::new()));
    let work = || {
        let mut image = Image::default();
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= total {
                break;
            }
            let mut hash = None;
            let keep_hash = |sample: &Sample| hash = Some(hash_of(sample));
            let max_pixels = config.max_pixels;
            // Whole: what a loader may pass over is looked at here.
            let size =
                try_decode_inspecting(source, index, max_pixels, &mut image, &|_, _| 1, keep_hash);
            let problem = match size {
                Err(bad) => Some(match bad.kind {
                    BadKind::Corrupt => Problem::Corrupt(bad.reason),
                    BadKind::Unsupported => Problem::Unsupported(bad.reason),
                }),
                Ok([width, height]) if width.min(height) < config.min_size => {
                    Some(Problem::Small(width, height))
                }
                Ok(_) => None,
            };
            let mut found = lock(&found);
            found
                .0
                .extend(problem.map(|problem| Finding { index, problem }));
            found.1.extend(hash.map(|hash| (hash, index)));
            drop(found);
            if !progress(done.fetch_add(1, Ordering::Relaxed) + 1) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..worker_count(config.workers) {
            scope.spawn(work);
        }
    });
    if stop.into_inner() {
        return None;
    }
    let (mut findings, hashes) = std::mem::take(&mut *lock(&found));
    findings.extend(duplicates(source, hashes, &|| progress(total))?);
    findings.sort();
    Some(ScanReport { findings, total })
}

/// Among samples with equal hashes, those with equal bytes. Nothing once `go_on` says no.
fn duplicates(
    source: &dyn Source,
    mut hashes: Vec<(u64, usize)>,
    go_on: &dyn Fn() -> bool,
) -> Option<Vec<Finding>> {
    hashes.sort_unstable();
    let mut found = Vec::new();
    for group in hashes.chunk_by(|one, other| one.0 == other.0) {
        if group.len() < 2 {
            continue;
        }
        // One of each content; as a rule there is one.
        let mut firsts: Vec<(usize, Sample)> = Vec::new();
        for &(_, index) in group {
            if !go_on() {
                return None;
            }
            let read = AssertUnwindSafe(|| source.read(index));
            let Ok(Ok(sample)) = catch_unwind(read) else {
                continue;
            };
            match firsts.iter().find(|(_, first)| *first == sample) {
                Some(&(of, _)) => found.push(Finding {
                    index,
                    problem: Problem::Duplicate(of),
                }),
                None => firsts.push((index, sample)),
            }
        }
    }
    Some(found)
}

fn hash_of(sample: &Sample) -> u64 {
    let mut hasher = DefaultHasher::new();
    match sample {
        Sample::Encoded(bytes) => bytes.hash(&mut hasher),
        Sample::Pixels { width, height, rgb } => (width, height, rgb).hash(&mut hasher),
    }
    hasher.finish()
}
