//! Batches: the same bytes whatever the threads, resumed anywhere, and honest about bad files.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use swav_data::{
    Augment, Batch, CropSpec, Cursor, DataError, Finding, Loader, LoaderConfig, Order, Problem,
    Sample, ScanConfig, Source, View, scan,
};

/// Pictures made of their own number; some of them fail.
struct Made {
    len: usize,
    bad: Vec<usize>,
    unsupported: Vec<usize>,
    panics: Vec<usize>,
    read: AtomicUsize,
}

impl Made {
    fn new(len: usize) -> Self {
        Self {
            len,
            bad: vec![],
            unsupported: vec![],
            panics: vec![],
            read: AtomicUsize::new(0),
        }
    }

    fn with_bad(len: usize, bad: &[usize]) -> Self {
        Self {
            bad: bad.to_vec(),
            ..Self::new(len)
        }
    }
}

impl Source for Made {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, index: usize) -> Result<Sample, DataError> {
        self.read.fetch_add(1, Ordering::Relaxed);
        assert!(
            !self.panics.contains(&index),
            "sample {index} upsets the decoder"
        );
        if self.bad.contains(&index) {
            return Ok(Sample::Encoded(b"nonsense".to_vec()));
        }
        if self.unsupported.contains(&index) {
            return Ok(Sample::Encoded(b"\0\0\0\x14ftypheic".to_vec()));
        }
        let (width, height) = (20 + index as u32 % 7, 16 + index as u32 % 5);
        let seeds = 0..width as usize * height as usize * 3;
        let rgb = seeds
            .map(|i| (i * 7 + i * i / 11 + index * 31) as u8)
            .collect();
        Ok(Sample::Pixels { width, height, rgb })
    }

    fn name(&self, index: usize) -> String {
        format!("made-{index}")
    }

    fn label(&self, index: usize) -> Option<u32> {
        Some(index as u32 % 3)
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn describe(&self) -> String {
        "made".into()
    }
}

fn config(batch_size: usize) -> LoaderConfig {
    let crops = vec![
        CropSpec {
            count: 2,
            size: 16,
            scale: [0.14, 1.0],
        },
        CropSpec {
            count: 3,
            size: 8,
            scale: [0.05, 0.14],
        },
    ];
    LoaderConfig {
        batch_size,
        view: View::MultiCrop {
            crops,
            augment: Augment::default(),
        },
        order: Order::Shuffled { seed: 3 },
        workers: 2,
        seed: 3,
        corrupt_budget: 0.0,
        ..LoaderConfig::default()
    }
}

fn sequential(batch_size: usize) -> LoaderConfig {
    LoaderConfig {
        view: View::Centre {
            resize: 10,
            size: 8,
        },
        order: Order::Sequential,
        drop_last: false,
        ..config(batch_size)
    }
}

fn loader(source: Made, config: LoaderConfig) -> Loader {
    Loader::new(Arc::new(source), config, Cursor::default()).unwrap()
}

/// All that a batch says and holds.
type Content = (
    u64,
    Cursor,
    Vec<usize>,
    Vec<Vec<u32>>,
    Vec<(usize, usize, Vec<u8>)>,
);

fn content(batch: &Batch) -> Content {
    let groups = batch
        .groups
        .iter()
        .map(|g| (g.count, g.size, g.pixels.clone()))
        .collect();
    (
        batch.epoch,
        batch.cursor,
        batch.indices.clone(),
        batch.labels.clone(),
        groups,
    )
}

fn next(loader: &mut Loader) -> Content {
    content(&loader.next_batch().unwrap().unwrap())
}

fn take(loader: &mut Loader, count: usize) -> Vec<Content> {
    (0..count).map(|_| next(loader)).collect()
}

fn pass(loader: &mut Loader) -> Vec<Content> {
    std::iter::from_fn(|| loader.next_batch().unwrap().map(|batch| content(&batch))).collect()
}

fn refused(source: Made, config: LoaderConfig, start: Cursor) -> String {
    match Loader::new(Arc::new(source), config, start) {
        Err(DataError::Invalid(message)) => message,
        Err(error) => panic!("expected Invalid, got {error:?}"),
        Ok(_) => panic!("expected an error"),
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_with_1_2_and_7_workers() {
    let run = |workers, prefetch| {
        let source = Made::with_bad(41, &[4, 17]);
        let config = LoaderConfig {
            workers,
            prefetch,
            corrupt_budget: 0.1,
            ..config(6)
        };
        take(&mut loader(source, config), 15)
    };
    let one = run(1, 0);
    assert_eq!(one, run(2, 1));
    assert_eq!(one, run(7, 5));
    assert!(one.last().unwrap().0 >= 2, "several epochs");
}

#[test]
fn another_seed_gives_other_crops_and_another_order() {
    let base = take(&mut loader(Made::new(41), config(6)), 3);
    let crops = LoaderConfig {
        seed: 4,
        ..config(6)
    };
    let order = LoaderConfig {
        order: Order::Shuffled { seed: 4 },
        ..config(6)
    };
    let (crops, order) = (
        take(&mut loader(Made::new(41), crops), 3),
        take(&mut loader(Made::new(41), order), 3),
    );
    assert_eq!(base[0].2, crops[0].2);
    assert_ne!(base[0].4, crops[0].4);
    assert_ne!(base[0].2, order[0].2);
}

#[test]
fn every_epoch_has_its_own_order_and_crops_and_all_samples() {
    let mut loader = loader(Made::new(40), config(8));
    assert_eq!(loader.batches_per_epoch(), 5);
    let epochs = [take(&mut loader, 5), take(&mut loader, 5)];
    let order = |epoch: &[Content]| epoch.iter().flat_map(|b| b.2.clone()).collect::<Vec<_>>();
    for (number, epoch) in epochs.iter().enumerate() {
        let mut samples = order(epoch);
        samples.sort();
        assert!(samples.into_iter().eq(0..40));
        assert!(epoch.iter().all(|batch| batch.0 == number as u64));
    }
    assert_ne!(order(&epochs[0]), order(&epochs[1]));
}

#[test]
fn a_sample_has_the_same_crops_wherever_in_the_batch_it_lies() {
    let find = |batch_size: usize| {
        let mut loader = loader(Made::new(24), config(batch_size));
        loop {
            let (epoch, _, indices, _, groups) = next(&mut loader);
            assert_eq!(epoch, 0);
            if let Some(slot) = indices.iter().position(|&index| index == 11) {
                return groups
                    .into_iter()
                    .flat_map(|(count, size, pixels)| {
                        let bytes = size * size * 3;
                        (0..count).flat_map(move |crop| {
                            let at = (crop * batch_size + slot) * bytes;
                            pixels[at..at + bytes].to_vec()
                        })
                    })
                    .collect::<Vec<u8>>();
            }
        }
    };
    assert_eq!(find(4), find(12));
}

#[test]
fn crops_of_one_sample_differ_from_one_another() {
    let (.., groups) = next(&mut loader(Made::new(8), config(4)));
    let (count, size, pixels) = &groups[0];
    let crops: Vec<&[u8]> = pixels.chunks(size * size * 3).collect();
    assert_eq!(crops.len(), count * 4);
    assert_ne!(crops[0], crops[4]);
}

#[test]
fn a_run_resumed_at_any_batch_goes_on_as_if_uninterrupted() {
    for drop_last in [true, false] {
        let config = LoaderConfig {
            drop_last,
            corrupt_budget: 0.2,
            ..config(5)
        };
        let source = || Arc::new(Made::with_bad(23, &[2, 9]));
        let mut whole = Loader::new(source(), config.clone(), Cursor::default()).unwrap();
        let batches = take(&mut whole, 14);
        for cut in 0..10 {
            let cursor = batches[cut].1;
            let mut resumed = Loader::new(source(), config.clone(), cursor).unwrap();
            assert_eq!(
                take(&mut resumed, 4),
                batches[cut + 1..cut + 5],
                "after batch {cut}"
            );
        }
    }
}

#[test]
fn any_position_is_a_place_to_start() {
    let samples = |position: u64| {
        let start = Cursor { epoch: 1, position };
        let mut loader = Loader::new(Arc::new(Made::new(30)), config(5), start).unwrap();
        let mut samples = Vec::new();
        loop {
            let batch = next(&mut loader);
            if batch.0 > 1 {
                return samples;
            }
            samples.extend(batch.2);
        }
    };
    let whole = samples(0);
    for position in 0..30 {
        let rest = samples(position);
        let whole_batches = (30 - position as usize) / 5 * 5;
        assert_eq!(
            rest,
            whole[position as usize..position as usize + whole_batches]
        );
    }
}

#[test]
fn cursors_survive_json() {
    let cursor = next(&mut loader(Made::new(30), config(5))).1;
    let json = serde_json::to_string(&cursor).unwrap();
    assert_eq!(json, r#"{"epoch":0,"position":5}"#);
    assert_eq!(serde_json::from_str::<Cursor>(&json).unwrap(), cursor);
}

#[test]
fn a_sequential_pass_sees_every_sample_once_and_ends() {
    let mut loader = loader(Made::new(23), sequential(5));
    assert_eq!(loader.batches_per_epoch(), 5);
    let batches = pass(&mut loader);
    assert!(batches.iter().flat_map(|batch| batch.2.clone()).eq(0..23));
    assert_eq!(batches[4].2.len(), 3);
    assert_eq!(batches[4].4[0].2.len(), 3 * 8 * 8 * 3);
    assert_eq!(batches[4].3, [20, 21, 22].map(|index| vec![index % 3]));
    assert!(
        loader.next_batch().unwrap().is_none(),
        "and stays at its end"
    );
}

#[test]
fn the_last_batch_of_an_epoch_is_short_or_left_out() {
    let short = LoaderConfig {
        drop_last: false,
        ..config(5)
    };
    let lengths = |config| {
        let batches = take(&mut loader(Made::new(12), config), 4);
        batches
            .iter()
            .map(|batch| (batch.0, batch.2.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(lengths(short), [(0, 5), (0, 5), (0, 2), (1, 5)]);
    assert_eq!(lengths(config(5)), [(0, 5), (0, 5), (1, 5), (1, 5)]);
}

#[test]
fn ranks_together_see_what_one_sees() {
    let whole = take(&mut loader(Made::new(24), config(12)), 2);
    let [first, second] = [0, 1].map(|rank| {
        let config = LoaderConfig {
            rank,
            world: 2,
            ..config(6)
        };
        take(&mut loader(Made::new(24), config), 2)
    });
    for (step, whole) in whole.iter().enumerate() {
        let (a, b) = (&first[step].2, &second[step].2);
        let woven: Vec<usize> = a.iter().zip(b).flat_map(|(&a, &b)| [a, b]).collect();
        assert_eq!(woven, whole.2);
    }
}

#[test]
fn a_bad_file_is_replaced_by_the_next_in_the_order_and_listed_once() {
    let order: Vec<usize> = take(&mut loader(Made::new(20), config(5)), 4)
        .into_iter()
        .flat_map(|b| b.2)
        .collect();
    let source = Made::with_bad(20, &[order[3], order[4], order[19]]);
    let config = LoaderConfig {
        corrupt_budget: 0.2,
        ..config(5)
    };
    let mut loader = loader(source, config);
    let first = next(&mut loader);
    assert_eq!(first.2, [order[0], order[1], order[2], order[5], order[5]]);
    assert_eq!(loader.health().bad.len(), 2);
    let rest = take(&mut loader, 3);
    assert_eq!(rest[2].2[4], order[0], "after the last comes the first");
    take(&mut loader, 8);
    let health = loader.health();
    assert_eq!((health.bad.len(), health.total), (3, 20));
    assert!(
        health.bad[0].reason.contains("not an image"),
        "{}",
        health.bad[0].reason
    );
    assert!(health.bad.is_sorted_by_key(|bad| bad.index));
}

#[test]
fn a_sequential_pass_leaves_bad_files_out() {
    let config = LoaderConfig {
        corrupt_budget: 0.5,
        ..sequential(4)
    };
    let clean = pass(&mut loader(Made::new(14), config.clone()));
    let mut damaged = loader(Made::with_bad(14, &[1, 4, 5, 6, 7, 13]), config);
    let batches = pass(&mut damaged);
    let indices: Vec<_> = batches.iter().map(|batch| batch.2.clone()).collect();
    assert_eq!(indices, [vec![0, 2, 3], vec![8, 9, 10, 11], vec![12]]);
    for batch in &batches {
        for (slot, &index) in batch.2.iter().enumerate() {
            let bytes = 8 * 8 * 3;
            let theirs = &clean[index / 4].4[0].2[index % 4 * bytes..][..bytes];
            assert_eq!(
                &batch.4[0].2[slot * bytes..][..bytes],
                theirs,
                "sample {index}"
            );
        }
        assert_eq!(batch.4[0].2.len(), batch.2.len() * 8 * 8 * 3);
    }
    assert_eq!(damaged.health().bad.len(), 6);
}

#[test]
fn crops_of_a_thinned_sequential_batch_stay_crop_major() {
    let config = LoaderConfig {
        corrupt_budget: 0.5,
        order: Order::Sequential,
        ..config(4)
    };
    let clean = pass(&mut loader(Made::new(4), config.clone()));
    let thinned = pass(&mut loader(Made::with_bad(4, &[1]), config));
    for (clean, thinned) in clean[0].4.iter().zip(&thinned[0].4) {
        let bytes = clean.1 * clean.1 * 3;
        let rows: Vec<&[u8]> = clean.2.chunks(bytes).collect();
        let kept: Vec<u8> = (0..rows.len())
            .filter(|row| row % 4 != 1)
            .flat_map(|row| rows[row].to_vec())
            .collect();
        assert_eq!(thinned.2, kept);
    }
}

#[test]
fn more_bad_files_than_the_budget_end_the_loading_with_their_names() {
    let source = Made::with_bad(40, &[3, 30]);
    let config = LoaderConfig {
        corrupt_budget: 0.025,
        ..config(8)
    };
    let mut loader = loader(source, config);
    let error = loop {
        match loader.next_batch() {
            Ok(batch) => assert_eq!(batch.unwrap().epoch, 0),
            Err(error) => break error,
        }
    };
    let message = error.to_string();
    for part in [
        "made-3:",
        "made-30:",
        "2 of 40",
        "0.025 allows 1",
        "Remove or repair the corrupt files",
        "corrupt_budget",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(
        matches!(loader.next_batch(), Err(DataError::Budget(_))),
        "and it stays ended"
    );
}

#[test]
fn the_budget_ends_at_the_same_batch_with_any_number_of_workers() {
    let run = |workers| {
        let bad: Vec<usize> = (0..60).filter(|i| i % 9 == 0).collect();
        let config = LoaderConfig {
            workers,
            corrupt_budget: 0.07,
            ..config(4)
        };
        let mut loader = loader(Made::with_bad(60, &bad), config);
        let good = std::iter::from_fn(|| loader.next_batch().ok()).count();
        (good, loader.health())
    };
    let one = run(1);
    assert!(one.0 > 0);
    assert_eq!(one, run(7));
}

#[test]
fn nothing_but_bad_files_is_an_error_and_no_endless_search() {
    let all: Vec<usize> = (0..12).collect();
    for budget in [0.0, 0.5, 1.0] {
        for config in [config(4), sequential(4)] {
            let config = LoaderConfig {
                corrupt_budget: budget,
                ..config
            };
            let mut loader = loader(Made::with_bad(12, &all), config);
            assert!(
                matches!(loader.next_batch(), Err(DataError::Budget(_))),
                "budget {budget}"
            );
        }
    }
}

#[test]
fn unsupported_images_are_replaced_and_listed_and_count_against_no_budget() {
    for config in [config(4), sequential(4)] {
        let source = Made {
            unsupported: (0..30).filter(|index| index % 3 == 0).collect(),
            ..Made::with_bad(30, &[7])
        };
        let config = LoaderConfig {
            corrupt_budget: 1.0 / 30.0,
            ..config
        };
        let epochs = match config.order {
            Order::Shuffled { .. } => 3,
            Order::Sequential => 1,
        };
        let mut loader = loader(source, config);
        let mut met = Vec::new();
        for _ in 0..epochs * loader.batches_per_epoch() {
            let Some(batch) = loader.next_batch().unwrap() else {
                break;
            };
            assert!(batch.indices.iter().all(|i| i % 3 != 0 && *i != 7));
            met.extend(batch.bad.iter().map(|bad| (bad.index, bad.kind)));
        }
        let health = loader.health();
        assert_eq!((health.corrupt(), health.unsupported()), (1, 10));
        assert!(!health.exceeded());
        // Each is news to one batch.
        met.sort_by_key(|&(index, _)| index);
        let listed = health.bad.iter().map(|bad| (bad.index, bad.kind));
        assert_eq!(met, listed.collect::<Vec<_>>());
    }
}

#[test]
fn a_set_without_an_image_that_is_read_ends_with_the_names_of_both_kinds() {
    for (bad, budget) in [(vec![], 0.0), (vec![], 1.0), (vec![3, 5], 0.5)] {
        for config in [config(4), sequential(4)] {
            let source = Made {
                unsupported: (0..2000).collect(),
                ..Made::with_bad(2000, &bad)
            };
            let config = LoaderConfig {
                corrupt_budget: budget,
                ..config
            };
            let mut loader = loader(source, config);
            let Err(DataError::Budget(report)) = loader.next_batch() else {
                panic!("expected the budget to end");
            };
            assert_eq!(report.corrupt(), bad.len());
            assert_eq!(report.unsupported(), 2000 - bad.len());
            assert!(report.exceeded());
            let message = report.to_string();
            assert!(message.contains("None of the 2000 files"), "{message}");
            assert!(message.contains("made-2: not supported: HEIC"), "{message}");
            assert!(message.contains(" more\n"), "{message}");
            assert_eq!(message.contains("made-3: cannot be"), !bad.is_empty());
            assert!(matches!(loader.next_batch(), Err(DataError::Budget(_))));
        }
    }
}

#[test]
fn a_report_counts_and_names_both_kinds_apart_and_says_how_to_raise_the_budget() {
    let source = Made {
        unsupported: vec![1],
        ..Made::with_bad(40, &[3, 30])
    };
    let mut loader = loader(source, sequential(40));
    let Err(DataError::Budget(report)) = loader.next_batch() else {
        panic!("expected the budget to end");
    };
    assert_eq!(
        report.to_string().lines().collect::<Vec<_>>(),
        [
            "2 of 40 files are corrupt; data.corrupt_budget = 0 allows 0:",
            "  made-3: cannot be decoded: not an image (it starts with \"nonsense\")",
            "  made-30: cannot be decoded: not an image (it starts with \"nonsense\")",
            "1 of 40 files are images of a kind that is not supported:",
            "  made-1: not supported: HEIC; convert the image to JPEG or PNG",
            "Remove or repair the corrupt files, or raise data.corrupt_budget (in a recipe) or \
             --corrupt-budget (of a command)",
        ]
    );
}

#[test]
fn a_decoder_that_panics_makes_a_bad_file() {
    let source = Made {
        panics: vec![5],
        ..Made::new(20)
    };
    let config = LoaderConfig {
        corrupt_budget: 0.05,
        ..config(5)
    };
    let mut loader = loader(source, config);
    take(&mut loader, 8);
    let health = loader.health();
    assert_eq!(health.bad.len(), 1);
    assert!(
        health.bad[0].reason.contains("panicked: sample 5 upsets"),
        "{}",
        health.bad[0].reason
    );
}

#[test]
fn a_bad_file_is_decoded_once_and_not_in_every_epoch() {
    let source = Arc::new(Made::with_bad(10, &[6]));
    let config = LoaderConfig {
        corrupt_budget: 0.1,
        workers: 1,
        prefetch: 0,
        cache: 0,
        ..config(10)
    };
    let mut loader = Loader::new(source.clone(), config, Cursor::default()).unwrap();
    take(&mut loader, 3);
    drop(loader);
    // Three or four epochs of ten reads (one may have been begun), and one read of the bad file.
    let reads = source.read.load(Ordering::Relaxed);
    assert!((31..=41).contains(&reads), "{reads} reads");
}

#[test]
fn settings_without_a_meaning_are_named() {
    let zero = Cursor::default();
    let too_few = refused(Made::new(7), config(8), zero);
    assert!(
        too_few.contains("7 images") && too_few.contains("batch of 8"),
        "{too_few}"
    );
    let ranks = LoaderConfig {
        rank: 1,
        world: 4,
        ..config(8)
    };
    assert!(refused(Made::new(30), ranks, zero).contains("4 ranks"));
    assert!(
        refused(
            Made::new(9),
            LoaderConfig {
                batch_size: 0,
                ..config(1)
            },
            zero
        )
        .contains("batch_size")
    );
    assert!(
        refused(
            Made::new(9),
            LoaderConfig {
                rank: 1,
                ..config(1)
            },
            zero
        )
        .contains("rank 1 of 1")
    );
    assert!(refused(Made::new(0), config(1), zero).contains("no samples"));
    let budget = LoaderConfig {
        corrupt_budget: 1.5,
        ..config(1)
    };
    assert!(refused(Made::new(9), budget, zero).contains("corrupt_budget"));
    let centre = LoaderConfig {
        view: View::Centre { resize: 8, size: 9 },
        ..config(1)
    };
    assert!(refused(Made::new(9), centre, zero).contains("centre crop"));
    let beyond = refused(
        Made::new(9),
        config(2),
        Cursor {
            epoch: 0,
            position: 10,
        },
    );
    assert!(
        beyond.contains("resume at sample 10") && beyond.contains("changed"),
        "{beyond}"
    );
}

#[test]
fn one_image_in_batches_of_one_trains() {
    let batches = take(&mut loader(Made::new(1), config(1)), 3);
    assert!(batches.iter().all(|batch| batch.2 == [0]));
    assert_ne!(batches[0].4, batches[1].4, "each epoch has its own crops");
}

#[test]
fn fewer_images_than_a_batch_are_fine_when_short_batches_are() {
    let config = LoaderConfig {
        drop_last: false,
        ..config(8)
    };
    assert_eq!(next(&mut loader(Made::new(3), config)).2.len(), 3);
}

#[test]
fn buffers_of_dropped_and_recycled_batches_come_back() {
    let mut loader = loader(
        Made::new(16),
        LoaderConfig {
            workers: 1,
            prefetch: 0,
            ..config(4)
        },
    );
    let mut seen = std::collections::HashSet::new();
    for step in 0..40 {
        let batch = loader.next_batch().unwrap().unwrap();
        seen.insert(batch.groups[0].pixels.as_ptr() as usize);
        if step % 2 == 0 {
            loader.recycle(batch)
        } else {
            drop(batch)
        }
    }
    assert!(seen.len() <= 3, "{} buffers for 40 batches", seen.len());
}

#[test]
fn small_images_are_read_once_and_give_the_same_crops_from_the_cache() {
    let source = Arc::new(Made::new(40));
    let run = |cache| {
        let config = LoaderConfig { cache, ..config(8) };
        let mut loader = Loader::new(source.clone(), config, Cursor::default()).unwrap();
        (take(&mut loader, 20), loader.memory())
    };
    let (cached, memory) = run(1 << 20);
    // Where one epoch ends and the next begins, two workers may have the same image in hand.
    let reads = source.read.swap(0, Ordering::Relaxed);
    assert!((40..50).contains(&reads), "{reads} reads");
    assert!(memory.cache > 40 * 16 * 20 * 3 && memory.cache < memory.cache_budget);
    let (read_anew, memory) = run(1000);
    assert!(source.read.load(Ordering::Relaxed) >= 160);
    assert_eq!((memory.cache, memory.cache_budget), (0, 1000));
    assert_eq!(cached, read_anew);
}

#[test]
fn memory_for_batches_stays_within_the_bound_that_is_told() {
    let config = LoaderConfig {
        workers: 3,
        ..config(6)
    };
    let mut loader = loader(Made::new(50), config);
    let bytes: u64 = 6 * (2 * 16 * 16 + 3 * 8 * 8) * 3;
    for _ in 0..40 {
        let batch = loader.next_batch().unwrap().unwrap();
        let memory = loader.memory();
        assert_eq!(memory.batches_bound, bytes * 4);
        assert!((bytes..=memory.batches_bound).contains(&memory.batches));
        drop(batch);
    }
}

/// One picture, as a file.
struct File(Vec<u8>);

impl Source for File {
    fn len(&self) -> usize {
        1
    }

    fn read(&self, _: usize) -> Result<Sample, DataError> {
        Ok(Sample::Encoded(self.0.clone()))
    }

    fn name(&self, _: usize) -> String {
        "file".into()
    }

    fn label(&self, _: usize) -> Option<u32> {
        None
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn describe(&self) -> String {
        "a file".into()
    }
}

#[test]
fn a_large_photograph_decoded_at_a_fraction_of_its_size_gives_nearly_the_same_crops() {
    // Waves of all lengths and an edge, 1500 × 1100; turned by EXIF in the second round.
    let picture = image::RgbImage::from_fn(1500, 1100, |x, y| {
        let (x, y) = (f64::from(x), f64::from(y));
        let waves = (x * x / 9000.0).sin() * 50.0 + (y * y / 7000.0 + x / 50.0).cos() * 50.0;
        let edge = if x > 900.0 + y / 3.0 { 40.0 } else { 0.0 };
        image::Rgb([90.0, 110.0, 130.0].map(|base| (base + waves + edge) as u8))
    });
    let mut plain = std::io::Cursor::new(Vec::new());
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut plain, 92);
    picture.write_with_encoder(encoder).unwrap();
    let plain = plain.into_inner();
    // A segment that says nothing but "orientation 6", after the start of the image.
    let mut turned = plain[..2].to_vec();
    turned.extend(
        b"\xFF\xE1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
    );
    turned.extend(&plain[2..]);
    for file in [plain, turned] {
        let views = [
            View::Centre {
                resize: 64,
                size: 56,
            },
            View::MultiCrop {
                crops: vec![CropSpec {
                    count: 4,
                    size: 64,
                    scale: [0.3, 1.0],
                }],
                augment: Augment {
                    flip: 0.5,
                    ..Augment::none()
                },
            },
        ];
        let sample = Sample::Encoded(file.clone());
        let image = swav_data::decode(&sample, "file", u64::MAX).unwrap();
        for view in views {
            let config = LoaderConfig {
                view: view.clone(),
                ..config(1)
            };
            let mut loader =
                Loader::new(Arc::new(File(file.clone())), config, Cursor::default()).unwrap();
            let ours = loader.next_batch().unwrap().unwrap();
            let mut exact = vec![0; view.bytes()];
            view.render(&image, [3, 0, 0], &mut Default::default(), &mut exact);
            let differences = ours.groups[0].pixels.iter().zip(&exact);
            let differences = differences.map(|(a, b)| f64::from(a.abs_diff(*b)));
            let mean = differences.clone().sum::<f64>() / exact.len() as f64;
            let worst = differences.fold(0.0, f64::max);
            println!("worst {worst}, mean {mean:.3}");
            assert_ne!(ours.groups[0].pixels, exact, "it was not reduced at all");
            // The worst is where a crop ends beside the edge: a reduced pixel has seen both sides.
            assert!(mean < 1.0 && worst < 24.0, "worst {worst}, mean {mean}");
        }
    }
}

/// Small enough to be kept decoded, and large enough for some epochs' crops to be made of a half: which it is must
/// not depend on what is kept.
#[test]
fn a_kept_image_gives_the_crops_of_one_that_is_read_anew() {
    let picture = image::RgbImage::from_fn(120, 120, |x, y| {
        image::Rgb([(x * 7 + y) as u8, (x ^ y) as u8, (y * 11) as u8])
    });
    let mut file = std::io::Cursor::new(Vec::new());
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 92);
    picture.write_with_encoder(encoder).unwrap();
    let source = Arc::new(File(file.into_inner()));
    let run = |cache| {
        let crops = vec![CropSpec {
            count: 2,
            size: 16,
            scale: [0.3, 1.0],
        }];
        let config = LoaderConfig {
            cache,
            view: View::MultiCrop {
                crops,
                augment: Augment::none(),
            },
            ..config(1)
        };
        let mut loader = Loader::new(source.clone(), config, Cursor::default()).unwrap();
        take(&mut loader, 12)
    };
    assert_eq!(run(1 << 20), run(0));
}

#[test]
fn the_queue_is_bounded() {
    let source = Arc::new(Made::new(1000));
    let config = LoaderConfig {
        prefetch: 2,
        ..config(10)
    };
    let loader = Loader::new(source.clone(), config, Cursor::default()).unwrap();
    let read = || source.read.load(Ordering::Relaxed);
    while read() < 30 {
        std::thread::yield_now();
    }
    // Time for a worker to read more, if it would.
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(read(), 30, "two ready and one filled");
    drop(loader);
}

#[test]
fn dropping_a_loader_at_work_ends_its_threads() {
    let source = Arc::new(Made::new(1000));
    for workers in [1, 4] {
        let config = LoaderConfig {
            workers,
            prefetch: 50,
            ..config(16)
        };
        let mut loader = Loader::new(source.clone(), config, Cursor::default()).unwrap();
        let batch = loader.next_batch().unwrap().unwrap();
        drop(loader);
        // A batch outlives its loader.
        assert_eq!(batch.indices.len(), 16);
    }
    assert_eq!(
        Arc::strong_count(&source),
        1,
        "no thread holds on to the source"
    );
}

#[test]
fn a_scan_finds_every_bad_file() {
    let source = Made {
        panics: vec![7],
        unsupported: vec![11, 12],
        ..Made::with_bad(30, &[3, 29])
    };
    let seen = AtomicUsize::new(0);
    let config = ScanConfig {
        max_pixels: 1_000_000,
        workers: 3,
        ..ScanConfig::default()
    };
    let report = scan(&source, &config, &|done| {
        seen.fetch_max(done, Ordering::Relaxed);
        true
    })
    .unwrap();
    let corrupt = |finding: &&Finding| matches!(finding.problem, Problem::Corrupt(_));
    let bad = report.findings.iter().filter(corrupt);
    assert_eq!(
        bad.map(|finding| finding.index).collect::<Vec<_>>(),
        [3, 7, 29]
    );
    assert_eq!((report.total, seen.into_inner()), (30, 30));
    assert_eq!(report.corrupt(), 3);
    // Two copies of a file: each is unsupported, and the second a duplicate.
    assert_eq!((report.unsupported(), report.duplicates()), (2, 2));
}

#[test]
fn recipes_with_unknown_or_impossible_settings_are_refused() {
    assert_eq!(
        serde_json::from_str::<Augment>("{}").unwrap(),
        Augment::default()
    );
    let partial: Augment = serde_json::from_str(r#"{"jitter": {"hue": 0.1}, "flip": 0}"#).unwrap();
    assert_eq!(
        (partial.jitter.hue, partial.jitter.contrast, partial.flip),
        (0.1, 0.8, 0.0)
    );
    for unknown in [
        r#"{"gray": 1}"#,
        r#"{"jitter": {"colour": 1}}"#,
        r#"{"blur": {"radius": 1}}"#,
    ] {
        assert!(
            serde_json::from_str::<Augment>(unknown).is_err(),
            "{unknown}"
        );
    }
    assert!(serde_json::from_str::<CropSpec>(r#"{"count": 2, "size": 8}"#).is_err());
    for (json, field) in [
        (r#"{"grey": 1.5}"#, "augment.grey"),
        (r#"{"flip": -1}"#, "augment.flip"),
        (
            r#"{"jitter": {"probability": 2}}"#,
            "augment.jitter.probability",
        ),
        (
            r#"{"jitter": {"contrast": -0.1}}"#,
            "augment.jitter.contrast",
        ),
        (r#"{"jitter": {"hue": 0.6}}"#, "augment.jitter.hue"),
        (r#"{"blur": {"sigma": [0, 1]}}"#, "augment.blur.sigma"),
        (r#"{"blur": {"sigma": [2, 1]}}"#, "augment.blur.sigma"),
    ] {
        let message = serde_json::from_str::<Augment>(json)
            .unwrap()
            .validate()
            .unwrap_err();
        assert!(message.starts_with(field), "{message}");
    }
}
