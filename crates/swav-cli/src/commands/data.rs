//! `swav data scan` and `swav data pack`

use std::fmt::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use swav_data::{DataError, Problem, ScanConfig, ScanReport, Source};
use swav_train::files::write_atomic;
use swav_train::observe::display::Progress;
use swav_train::{Stop, TrainError};

use super::setup;
use crate::args::{Pack, Scan};
use crate::output::{print, print_json};

/// What `scan --json` prints.
#[derive(Serialize)]
struct Found<'a> {
    images: usize,
    corrupt: usize,
    unsupported: usize,
    duplicates: usize,
    small: usize,
    findings: &'a [Row],
}

/// A line of the table.
#[derive(Serialize)]
struct Row {
    problem: &'static str,
    file: String,
    detail: String,
}

/// How a table is written to a file.
#[derive(Clone, Copy)]
enum Table {
    Tsv,
    Csv,
    Json,
}

impl Table {
    fn of(path: &Path) -> Result<Self, TrainError> {
        let extension = path.extension().map(|found| found.to_ascii_lowercase());
        match extension.as_ref().and_then(|found| found.to_str()) {
            Some("tsv" | "txt") => Ok(Self::Tsv),
            Some("csv") => Ok(Self::Csv),
            Some("json") => Ok(Self::Json),
            _ => Err(TrainError::Recipe(format!(
                "--out {}: expected a name that ends with .tsv, .csv or .json",
                path.display()
            ))),
        }
    }
}

/// Lists the images that are corrupt, unsupported, duplicates or too small.
pub fn data_scan(args: &Scan, stop: &Stop) -> anyhow::Result<()> {
    let table = args.out.as_deref().map(Table::of).transpose()?;
    // Before the work: a wrong path must not cost an hour.
    if let Some(out) = &args.out {
        check_folder(out)?;
    }
    let source = setup::open(&args.path, args.format)?;
    let config = ScanConfig {
        max_pixels: args.max_pixels,
        min_size: args.min_size,
        workers: args.workers,
    };
    let total = source.len();
    let progress = Mutex::new(Progress::new("scanning"));
    let report = swav_data::scan(source.as_ref(), &config, &|done| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.update(done, total);
        !stop.requested()
    });
    drop(progress);
    let report = report.ok_or(TrainError::Interrupted)?;
    let rows = rows(&report, source.as_ref());
    let found = Found {
        images: report.total,
        corrupt: report.corrupt(),
        unsupported: report.unsupported(),
        duplicates: report.duplicates(),
        small: report.small(),
        findings: &rows,
    };
    let summary = format!(
        "{} images: {} corrupt, {} unsupported, {} duplicates, {} too small",
        found.images, found.corrupt, found.unsupported, found.duplicates, found.small
    );
    if let (Some(out), Some(table)) = (&args.out, table) {
        let text = match table {
            Table::Tsv => lines(&rows, '\t', tsv),
            Table::Csv => lines(&rows, ',', csv),
            Table::Json => serde_json::to_string_pretty(&found)? + "\n",
        };
        write_atomic(out, text.as_bytes())?;
    }
    match (args.json, &args.out) {
        (true, _) => print_json(&found)?,
        (false, Some(out)) => print(&format!("{}  {summary}", out.display()))?,
        (false, None) => {
            print(lines(&rows, '\t', tsv).trim_end())?;
            swav_train::observe::display::say(&summary);
        }
    }
    if found.corrupt > 0 {
        let message = format!(
            "{} of {} images in {} are corrupt",
            found.corrupt,
            found.images,
            args.path.display()
        );
        return Err(TrainError::Data(DataError::Invalid(message)).into());
    }
    Ok(())
}

/// Refuses a file whose folder is not there.
fn check_folder(out: &Path) -> Result<(), TrainError> {
    match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(TrainError::Recipe(format!(
                "--out {}: there is no folder {}",
                out.display(),
                folder.display()
            )))
        }
        _ => Ok(()),
    }
}

fn rows(report: &ScanReport, source: &dyn Source) -> Vec<Row> {
    let row = |finding: &swav_data::Finding| {
        let file = source.name(finding.index);
        // Most reasons begin with the file, which has a column of its own.
        let bare = |reason: &str| {
            let reason = reason.strip_prefix(&file).unwrap_or(reason);
            reason.trim_start_matches(": ").to_string()
        };
        let (problem, detail) = match &finding.problem {
            Problem::Corrupt(reason) => ("corrupt", bare(reason)),
            Problem::Unsupported(reason) => ("unsupported", bare(reason)),
            Problem::Duplicate(of) => ("duplicate", source.name(*of)),
            Problem::Small(width, height) => ("small", format!("{width}x{height}")),
        };
        Row {
            problem,
            file,
            detail,
        }
    };
    report.findings.iter().map(row).collect()
}

/// The rows below their headings.
fn lines(rows: &[Row], separator: char, cell: fn(&str) -> String) -> String {
    let mut text = format!("problem{separator}file{separator}detail\n");
    for row in rows {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{}{separator}{}{separator}{}",
            row.problem,
            cell(&row.file),
            cell(&row.detail)
        );
    }
    text
}

/// A cell between tabs: what would break the table is written as an escape.
fn tsv(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\t', "\\t")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

/// A cell between commas, in quotes where need be.
fn csv(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

/// What `pack --json` prints.
#[derive(Serialize)]
struct Packed<'a> {
    out: &'a Path,
    shards: usize,
    images: usize,
    classes: usize,
    bytes: u64,
}

/// Writes the images as tar shards.
pub fn data_pack(args: &Pack, stop: &Stop) -> anyhow::Result<()> {
    let source = setup::open(&args.path, args.format)?;
    let total = source.len();
    let mut progress = Progress::new("packing");
    let packed = swav_data::pack(source.as_ref(), &args.out, args.shard_size, &mut |done| {
        progress.update(done, total);
        !stop.requested()
    });
    drop(progress);
    let packed = packed
        .map_err(|error| match error {
            // It names the folder: usage, no fault of the images.
            DataError::Invalid(message) => TrainError::Recipe(message),
            error => TrainError::Data(error),
        })?
        .ok_or(TrainError::Interrupted)?;
    if args.json {
        return print_json(&Packed {
            out: &args.out,
            shards: packed.shards,
            images: packed.samples,
            classes: source.classes().len(),
            bytes: packed.bytes,
        });
    }
    print(&format!(
        "{}  {} images in {} shards, {:.1} MB",
        args.out.display(),
        packed.samples,
        packed.shards,
        packed.bytes as f64 / 1e6
    ))
}
