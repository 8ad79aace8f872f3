//! Some five hundred small files against what Pillow makes of them: the size, and the means of a
//! 4 × 4 grid of each channel, which tell wrong colours, orientations and chroma positions.
//!
//! `tests/golden/decoding.py` made the files and, with Pillow, what is expected of them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use swav_data::{DEFAULT_MAX_PIXELS, Image, Sample, decode};

/// Width, height, and the means, row by row, three channels each.
type Expected = (u32, u32, Vec<f64>);

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

#[test]
fn a_grid_of_files_has_the_colours_that_pillow_gives_them() {
    let (files, expected) = files();
    assert_eq!(files.len(), expected.len());
    assert!(files.len() > 500);
    let mut wrong = Vec::new();
    for (name, bytes) in files {
        let (width, height, theirs) = &expected[&name];
        // JPEG decoders widen chroma planes in ways of their own, which shows most where a picture
        // has few pixels. The others differ by rounding alone.
        let tiny = (*width).min(*height) < 8;
        let limit = match name.split('/').next().unwrap() {
            "jpeg" if tiny => 2.5,
            "jpeg" | "scans" => 1.5,
            _ => 0.5,
        };
        match decode(&Sample::Encoded(bytes), &name, DEFAULT_MAX_PIXELS) {
            Err(error) => wrong.push(error.to_string()),
            Ok(image) if [image.width, image.height] != [*width, *height] => {
                wrong.push(format!("{name}: {} × {}", image.width, image.height));
            }
            Ok(image) => {
                let differences = means(&image).into_iter().zip(theirs);
                let worst = differences.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                if worst > limit {
                    wrong.push(format!("{name}: a mean is off by {worst:.1}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}
