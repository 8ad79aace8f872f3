//! More than a thousand small files against what Pillow makes of them: the size, and the means of a
//! 4 × 4 grid of each channel, which tell wrong colours, orientations and chroma positions. Some files are
//! refused; the reasons are part of what is expected.
//!
//! `tests/golden/decoding.py` made the files and, with Pillow, what is expected of them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::{DEFAULT_MAX_PIXELS, decode_reduced};
use crate::error::DataError;
use crate::sample::{Image, Sample};

/// What is expected of a file.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Expected {
    /// Unsupported, with these words in the reason.
    Refused(String),
    /// Width, height, and the means, row by row, three channels each.
    Read(u32, u32, Vec<f64>),
    /// The same, and the means at a half and at a quarter of the size.
    Jpeg(u32, u32, Vec<f64>, Vec<f64>, Vec<f64>),
}

fn files() -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, Expected>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/decoding.tar.gz");
    let packed = flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap());
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(packed).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(name, bytes);
    }
    let expected = files.remove("expected.json").unwrap();
    (files, serde_json::from_slice(&expected).unwrap())
}

fn means(image: &Image) -> Vec<f64> {
    let (width, height) = (image.width as usize, image.height as usize);
    let mut means = Vec::new();
    for (row, column, channel) in (0..48).map(|at| (at / 12, at / 3 % 4, at % 3)) {
        let (top, left) = (row * height / 4, column * width / 4);
        let rows = top..((row + 1) * height / 4).max(top + 1);
        let columns = left..((column + 1) * width / 4).max(left + 1);
        let count = rows.len() * columns.len();
        let at = rows.flat_map(|y| columns.clone().map(move |x| (y * width + x) * 3 + channel));
        let sum: f64 = at.map(|at| f64::from(image.rgb[at])).sum();
        means.push(sum / count as f64);
    }
    means
}

/// Width and height, and the means.
type Picture<'a> = ([u32; 2], &'a [f64]);

/// What is wrong with a file at a `divisor`-th of its size, by the one of the `expected` pictures that has
/// its size.
fn fault(
    name: &str,
    file: &Sample,
    divisor: u32,
    expected: &[Picture<'_>],
    limit: f64,
) -> Option<String> {
    let mut image = Image::default();
    let whole = match decode_reduced(file, name, DEFAULT_MAX_PIXELS, &mut image, &|_, _| divisor) {
        Err(error) => return Some(error.to_string()),
        Ok(whole) => whole,
    };
    let size = [image.width, image.height];
    let Some((_, theirs)) = expected.iter().find(|(expected, _)| *expected == size) else {
        return Some(format!("{name} at 1/{divisor}: {size:?} of {whole:?}"));
    };
    let differences = means(&image).into_iter().zip(*theirs);
    let worst = differences.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    (worst > limit).then(|| format!("{name} at 1/{divisor}: a mean is off by {worst:.1}"))
}

#[test]
fn a_grid_of_files_has_the_colours_that_pillow_gives_them_or_is_refused_by_name() {
    let (files, expected) = files();
    assert_eq!(files.len(), expected.len());
    assert!(files.len() > 1000);
    let mut wrong = Vec::new();
    for (name, bytes) in files {
        let file = Sample::Encoded(bytes);
        let (width, height, theirs) = match &expected[&name] {
            Expected::Read(width, height, means) | Expected::Jpeg(width, height, means, ..) => {
                (*width, *height, means)
            }
            Expected::Refused(part) => {
                let refusal = super::decode(&file, &name, DEFAULT_MAX_PIXELS);
                match refusal {
                    Err(DataError::Unsupported { reason, .. }) if reason.contains(part) => {}
                    other => wrong.push(format!("{name}: {:?}", other.map(|_| "read"))),
                }
                continue;
            }
        };
        // JPEG decoders widen chroma planes in ways of their own, which shows most where a picture has
        // few pixels. The others differ by rounding alone: of five bits Pillow cuts off what does not
        // fit, and it has fewer digits for YCbCr.
        let limit = match name.split('/').next() {
            Some("jpeg") if width.min(height) < 8 => 2.5,
            Some("jpeg" | "scans" | "reduced") => 1.5,
            _ if ["bmp/5", "tiff/ycbcr", "tiff/Pillow-YCbCr"]
                .iter()
                .any(|of| name.starts_with(of)) =>
            {
                1.6
            }
            _ => 0.6,
        };
        wrong.extend(fault(&name, &file, 1, &[([width, height], theirs)], limit));
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn jpeg_at_a_half_or_a_quarter_has_the_colours_of_what_pillow_reduces() {
    let (files, expected) = files();
    let (mut wrong, mut reduced) = (Vec::new(), 0);
    for (name, bytes) in files {
        let Expected::Jpeg(width, height, whole, half, quarter) = &expected[&name] else {
            continue;
        };
        let file = Sample::Encoded(bytes);
        for (divisor, means) in [(2, half), (4, quarter)] {
            let size = [width, height].map(|side| side.div_ceil(divisor));
            // What is not reduced is whole.
            let expected = [(size, &means[..]), ([*width, *height], &whole[..])];
            wrong.extend(fault(&name, &file, divisor, &expected, 3.0));
            let mut image = Image::default();
            let _ = decode_reduced(&file, &name, DEFAULT_MAX_PIXELS, &mut image, &|_, _| {
                divisor
            });
            reduced += usize::from(image.width < *width);
        }
    }
    assert!(reduced > 100, "{reduced}");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_damaged_file_is_read_or_refused_whatever_its_kind() {
    let (files, _) = files();
    let mut draws = crate::random::CropKey::new(2, 0, 0, 0).draws(crate::random::Purpose::Crop);
    for (name, whole) in files.iter().filter(|(name, _)| name.starts_with("tiff/")) {
        for _ in 0..30 {
            let mut damaged = whole.clone();
            for _ in 0..=draws.below(3) {
                // Most of them in the directory.
                let reach = [64, 400, whole.len() as u32][draws.below(3) as usize];
                let at = draws.below(reach.min(whole.len() as u32)) as usize;
                damaged[at] = draws.word() as u8;
            }
            let decoded = super::decode(&Sample::Encoded(damaged), name, 1_000_000);
            if let Ok(image) = decoded {
                let pixels = u64::from(image.width) * u64::from(image.height);
                assert!(pixels <= 1_000_000 && image.rgb.len() as u64 == pixels * 3);
            }
        }
    }
}
