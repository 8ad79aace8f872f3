//! `cargo xtask bench-sinkhorn`: scores to codes, in each form, beside what memory allows and what others take.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::example::{self, On};

/// `cargo xtask bench-sinkhorn`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    on: On,
    /// Samples x prototypes, or heads x samples x prototypes.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "256x3000,4096x3000,16384x3000,3x4096x3000",
        value_parser = size
    )]
    sizes: Vec<String>,
    /// Rounds of Sinkhorn-Knopp.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// A Python with torch, and POT if it is to be measured too, for the peers of bench/peers.
    #[arg(long, value_name = "PYTHON")]
    peers: Option<PathBuf>,
    /// Also write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw time against samples to this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

fn size(text: &str) -> Result<String, String> {
    let numbers = text.split('x').map(str::parse::<u32>);
    let numbers: Result<Vec<_>, _> = numbers.collect();
    match numbers {
        Ok(numbers) if matches!(numbers.len(), 2 | 3) && !numbers.contains(&0) => {
            Ok(text.to_string())
        }
        _ => Err("expected 4096x3000 or, with heads, 3x4096x3000".to_string()),
    }
}

/// What is measured, and written with `--json`.
#[derive(Debug, Serialize, Deserialize)]
struct Figures {
    device: String,
    device_name: String,
    bandwidth_gb_s: f64,
    rows: Vec<Row>,
    #[serde(default)]
    peers: Vec<Peer>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    heads: u32,
    b: u32,
    k: u32,
    iterations: u32,
    form: String,
    median_ms: f64,
    min_ms: f64,
    max_ms: f64,
    limit_ms: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Peer {
    name: String,
    b: u32,
    k: u32,
    median_ms: f64,
}

/// Builds, measures, and shows.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut program = args.on.bench("sinkhorn")?;
    program
        .args(["--sizes", &args.sizes.join(",")])
        .args(["--iterations", &args.iterations.to_string()]);
    let mut figures: Figures = example::figure(&mut program, "the benchmark")?;
    if let Some(python) = &args.peers {
        figures.peers = measure_peers(&args.on, python, &figures.rows)?;
    }
    show(&figures);
    if let Some(path) = &args.json {
        example::write_json(path, &figures)?;
    }
    if let Some(path) = &args.plot {
        plot(&figures, path)?;
    }
    Ok(())
}

/// The peers at each size that has one head: on the CPU as they come, and with an allocator that keeps freed memory, as
/// the program's does; on a GPU PyTorch keeps it anyway.
fn measure_peers(on: &On, python: &Path, rows: &[Row]) -> anyhow::Result<Vec<Peer>> {
    ensure!(
        rows.iter().all(|row| row.iterations == 3),
        "the peers make 3 rounds: leave out --iterations to compare"
    );
    let mut peers = run_peers(on, python, rows, &[])?;
    if on.is_cpu() {
        let keeping = [
            ("MALLOC_MMAP_MAX_", "0"),
            ("MALLOC_TRIM_THRESHOLD_", "99999999999"),
        ];
        for peer in run_peers(on, python, rows, &keeping)? {
            let name = format!("{}, memory kept", peer.name);
            peers.push(Peer { name, ..peer });
        }
    }
    Ok(peers)
}

fn run_peers(
    on: &On,
    python: &Path,
    rows: &[Row],
    variables: &[(&str, &str)],
) -> anyhow::Result<Vec<Peer>> {
    let fused = rows
        .iter()
        .filter(|row| row.form == "fused" && row.heads == 1);
    let sizes = fused.map(|row| format!("{},{}", row.b, row.k));
    let mut program = example::peer(python, "sinkhorn_torch.py");
    program
        .args(["--device", &on.of_torch()])
        .args(sizes)
        .envs(variables.iter().copied());
    example::figures(&mut program, "the peers")
}

fn show(figures: &Figures) {
    println!(
        "{} ({}), reading {:.1} GB/s at best",
        figures.device, figures.device_name, figures.bandwidth_gb_s
    );
    println!(
        "{:>17}  {:<27} {:>9} {:>9} {:>9} {:>7} {:>9}",
        "size", "form", "median", "least", "most", "GB/s", "of limit"
    );
    for row in &figures.rows {
        let size = match row.heads {
            1 => format!("{}x{}", row.b, row.k),
            heads => format!("{heads}x{}x{}", row.b, row.k),
        };
        // What has to be moved is the same for every form; who moves more looks slower.
        let rate = figures.bandwidth_gb_s * row.limit_ms / row.median_ms;
        println!(
            "{size:>17}  {:<27} {:>6.2} ms {:>6.2} ms {:>6.2} ms {rate:>7.1} {:>8.2}x",
            row.form,
            row.median_ms,
            row.min_ms,
            row.max_ms,
            row.median_ms / row.limit_ms
        );
        if row.form != "fused" || row.heads != 1 {
            continue;
        }
        for peer in figures
            .peers
            .iter()
            .filter(|peer| (peer.b, peer.k) == (row.b, row.k))
        {
            println!(
                "{:>17}  {:<27} {:>6.2} ms   {:.1} times the fused form",
                "",
                peer.name,
                peer.median_ms,
                peer.median_ms / row.median_ms
            );
        }
    }
}

/// Time against samples of one head, for the number of prototypes that most rows have.
fn plot(figures: &Figures, path: &Path) -> anyhow::Result<()> {
    let one_head = || figures.rows.iter().filter(|row| row.heads == 1);
    let Some(k) = one_head()
        .map(|row| row.k)
        .max_by_key(|k| one_head().filter(|row| row.k == *k).count())
    else {
        bail!("--plot: there is no size with one head to draw");
    };
    let of_form = |form: &str| -> Vec<(f64, f64)> {
        let rows = one_head().filter(|row| row.k == k && row.form == form);
        rows.map(|row| (f64::from(row.b), row.median_ms)).collect()
    };
    let mut lines = vec![
        ("Burn's operations".to_string(), of_form("tensors")),
        ("fused".to_string(), of_form("fused")),
        (
            "reading and writing alone".to_string(),
            one_head()
                .filter(|row| row.k == k && row.form == "fused")
                .map(|row| (f64::from(row.b), row.limit_ms))
                .collect(),
        ),
    ];
    for peer in figures.peers.iter().filter(|peer| peer.k == k) {
        let point = (f64::from(peer.b), peer.median_ms);
        match lines.iter_mut().find(|(name, _)| *name == peer.name) {
            Some((_, points)) => points.push(point),
            None => lines.push((peer.name.clone(), vec![point])),
        }
    }
    draw(&lines, k, &figures.device, path)
        .map_err(|error| anyhow::anyhow!("cannot draw {}: {error}", path.display()))
}

fn draw(
    lines: &[(String, Vec<(f64, f64)>)],
    k: u32,
    device: &str,
    path: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let ends = |of: fn(&(f64, f64)) -> f64| {
        let values = points().map(of);
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        low * 0.8..high * 1.25
    };
    let area = SVGBackend::new(path, (760, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .caption(
            format!("Scores to codes, {k} prototypes, {device}"),
            ("sans-serif", 18),
        )
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(
            ends(|point| point.0).log_scale(),
            ends(|point| point.1).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("samples")
        .y_desc("milliseconds")
        .label_style(("sans-serif", 13))
        .draw()?;
    for (index, (name, points)) in lines.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()?;
    area.present()?;
    Ok(())
}
