//! How fast the loader is, and where its time goes, as one line of JSON. `cargo xtask bench-loader`
//! runs this beside its peers.
//!
//!     loader_speed DATA [THREADS=2] [CROPS=2x224+6x96] [SECONDS=6]
//!
//! The first group of crops shows 14 to 100 % of an image, every other 5 to 14 %. Batches have 32
//! images and 4 lie ready; files come from the operating system's cache after a first pass.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swav_data::augment::{Scratch, blur, colour, crop};
use swav_data::random::CropKey;
use swav_data::{
    Augment, CropSpec, Cursor, DEFAULT_MAX_PIXELS, DataError, Format, Image, Loader, LoaderConfig,
    Source, View, decode, decode_into, open,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let data = arguments.get(1).ok_or("expected images")?;
    let threads: usize = arguments.get(2).map_or(Ok(2), |text| text.parse())?;
    let crops = parse_crops(arguments.get(3).map_or("2x224+6x96", String::as_str))?;
    let seconds: f64 = arguments.get(4).map_or(Ok(6.0), |text| text.parse())?;
    let span = Duration::from_secs_f64(seconds);
    let source = open(Path::new(data), Format::Auto)?;
    eprintln!("{}, {threads} threads", source.describe());

    let config = LoaderConfig {
        batch_size: 32.min(source.len()),
        view: View::MultiCrop {
            crops: crops.clone(),
            augment: Augment::default(),
        },
        workers: threads,
        prefetch: 4,
        ..LoaderConfig::default()
    };
    // First of all, so that the peak is the loader's own.
    let (loading, memory) = loading(&source, &config, span)?;
    let peak = peak_rss_mib();
    let single = LoaderConfig {
        workers: 1,
        ..config
    };
    let (alone, _) = self::loading(&source, &single, span)?;
    let decoding = decoding(source.as_ref(), threads, span)?;
    let stages = stages(source.as_ref(), &crops, span)?;
    let result = json!({
        "threads": threads,
        "images_per_s": round(loading),
        "images_per_s_1_thread": round(alone),
        "decode_only_images_per_s": round(decoding),
        "peak_rss_mib": peak.map(round),
        "memory": memory,
        "stages_ms": stages,
    });
    println!("{result}");
    Ok(())
}

/// "2x224+6x96".
fn parse_crops(text: &str) -> Result<Vec<CropSpec>, Failure> {
    let parse = |(number, part): (usize, &str)| -> Result<CropSpec, Failure> {
        let (count, size) = part
            .split_once('x')
            .ok_or_else(|| format!("--crops {text}: expected COUNTxSIZE+COUNTxSIZE+…"))?;
        Ok(CropSpec {
            count: count.parse()?,
            size: size.parse()?,
            scale: if number == 0 {
                [0.14, 1.0]
            } else {
                [0.05, 0.14]
            },
        })
    };
    text.split('+').enumerate().map(parse).collect()
}

/// Images per second out of the loader, after a pass that fills caches and queue, and what the
/// loader says of its memory.
fn loading(
    source: &Arc<dyn Source>,
    config: &LoaderConfig,
    span: Duration,
) -> Result<(f64, Value), DataError> {
    let mut loader = Loader::new(Arc::clone(source), config.clone(), Cursor::default())?;
    for _ in 0..loader.batches_per_epoch() {
        loader.next_batch()?;
    }
    // What lay ready at the start lies ready at the end.
    let (mut images, begin) = (0, Instant::now());
    while begin.elapsed() < span {
        images += loader.next_batch()?.map_or(0, |batch| batch.indices.len());
    }
    let rate = images as f64 / begin.elapsed().as_secs_f64();
    // A trainer that is slower than the loader finds all batches ready, with one in its own hands: the
    // most memory that there is.
    let held = loader.next_batch()?;
    thread::sleep(Duration::from_secs_f64(1.0).min(span));
    let memory = loader.memory();
    drop(held);
    let mib = |bytes: u64| round(bytes as f64 / f64::from(1 << 20));
    let memory = json!({
        "batches_mib": mib(memory.batches),
        "batches_bound_mib": mib(memory.batches_bound),
        "cache_mib": mib(memory.cache),
        "cache_budget_mib": mib(memory.cache_budget),
    });
    Ok((rate, memory))
}

/// Images per second when every one is read and decoded, and that is all.
fn decoding(source: &dyn Source, threads: usize, span: Duration) -> Result<f64, DataError> {
    let (next, begin) = (AtomicUsize::new(0), Instant::now());
    thread::scope(|scope| {
        let decoder = || -> Result<(), DataError> {
            let mut image = Image::default();
            while begin.elapsed() < span {
                let index = next.fetch_add(1, Ordering::Relaxed) % source.len();
                decode_into(&source.read(index)?, "", DEFAULT_MAX_PIXELS, &mut image)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(decoder)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    Ok(next.into_inner() as f64 / begin.elapsed().as_secs_f64())
}

/// Milliseconds an image that each stage takes, on one thread: what each is given comes from the
/// stages before it, with the draws of a real epoch.
fn stages(source: &dyn Source, crops: &[CropSpec], span: Duration) -> Result<Value, DataError> {
    let augment = Augment::default();
    let mut scratch = Scratch::default();
    let mut out = Vec::new();
    let mut image = Image::default();
    let [
        mut read,
        mut decoded,
        mut cropped,
        mut coloured,
        mut blurred,
    ] = [Duration::ZERO; 5];
    let (mut images, begin) = (0u32, Instant::now());
    let warm_up = decode(&source.read(0)?, "", DEFAULT_MAX_PIXELS)?;
    drop(warm_up);
    while begin.elapsed() < span {
        let index = images as usize % source.len();
        let timer = Instant::now();
        let sample = source.read(index)?;
        read += timer.elapsed();
        let timer = Instant::now();
        decode_into(&sample, "", DEFAULT_MAX_PIXELS, &mut image)?;
        decoded += timer.elapsed();
        let kinds = crops
            .iter()
            .flat_map(|spec| std::iter::repeat_n(spec, spec.count));
        for (number, spec) in kinds.enumerate() {
            let key = CropKey::new(1, 0, u64::from(images), number as u32);
            let drawn = augment.draw(&key, image.width, image.height, spec.scale);
            out.resize(spec.size * spec.size * 3, 0);
            let timer = Instant::now();
            crop::apply(&image, drawn.region, spec.size, &mut scratch, &mut out);
            cropped += timer.elapsed();
            let timer = Instant::now();
            let (flip, shift) = (drawn.flip, drawn.jitter.as_ref());
            colour::apply(&mut out, spec.size, flip, shift, drawn.grey, &mut scratch);
            coloured += timer.elapsed();
            let timer = Instant::now();
            if let Some(sigma) = drawn.blur {
                blur::apply(&mut out, spec.size, sigma, &mut scratch);
            }
            blurred += timer.elapsed();
        }
        images += 1;
    }
    let ms = |sum: Duration| (sum.as_secs_f64() * 1e6 / f64::from(images)).round() / 1e3;
    Ok(json!({
        "read": ms(read),
        "decode": ms(decoded),
        "crops": ms(cropped),
        "colour": ms(coloured),
        "blur": ms(blurred),
    }))
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The most memory this process has held, where the system tells.
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
