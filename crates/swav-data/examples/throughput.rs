//! Images per second through the loader, and through the decoder alone.
//!
//!     cargo run --release -p swav-data --example throughput -- FOLDER [SECONDS] [WORKERS]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use swav_data::{
    Cursor, DEFAULT_MAX_PIXELS, DataError, Format, Loader, LoaderConfig, decode, open,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let folder = arguments.get(1).ok_or("expected a folder of images")?;
    let seconds = arguments.get(2).map_or(Ok(5), |text| text.parse())?;
    let workers = arguments.get(3).map_or(Ok(2), |text| text.parse())?;
    let limit = Duration::from_secs(seconds);
    let source = open(Path::new(folder), Format::Auto)?;
    println!("{}, {workers} threads", source.describe());

    let (next, begin) = (AtomicUsize::new(0), Instant::now());
    thread::scope(|scope| {
        let decoder = || -> Result<(), DataError> {
            while begin.elapsed() < limit {
                let index = next.fetch_add(1, Ordering::Relaxed) % source.len();
                decode(&source.read(index)?, "", DEFAULT_MAX_PIXELS)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(decoder)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    let rate = next.into_inner() as f64 / begin.elapsed().as_secs_f64();
    println!("decoding alone           {rate:7.1} images/s");

    let config = LoaderConfig {
        batch_size: 32,
        workers,
        ..LoaderConfig::default()
    };
    let mut loader = Loader::new(source, config, Cursor::default())?;
    // Past the first batches, so that the empty queue at the start does not count.
    for _ in 0..4 {
        loader.next_batch()?;
    }
    let (mut images, begin) = (0, Instant::now());
    while begin.elapsed() < limit {
        images += loader.next_batch()?.map_or(0, |batch| batch.indices.len());
    }
    let rate = images as f64 / begin.elapsed().as_secs_f64();
    println!("2 × 224 + 6 × 96 crops   {rate:7.1} images/s");
    Ok(())
}
