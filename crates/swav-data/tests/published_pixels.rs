//! Our transforms beside Pillow's and torchvision's, from the same pixels with the same draws.
//!
//! The committed expectations come from computed images. Photographs are not ours to commit, so the
//! test on them runs `tests/golden/augment.py` itself: it needs `SWAV_PYTHON`, an interpreter with
//! Pillow and numpy, and the photographs in `data/photos` of a folder `shared` beside the workspace,
//! or wherever `SWAV_SHARED` says.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // this test uses a part
#[path = "../../../tests/common/requires.rs"]
mod requires;

use std::path::Path;

use requires::{Python, shared, workspace};
use safetensors::SafeTensors;
use swav_data::augment::{Scratch, blur, crop, flip, grey, jitter};
use swav_data::{Format, Image, Sample, decode, open};

/// Worst and mean difference in 1/255, over all images of a set.
#[derive(Default)]
struct Difference {
    worst: f64,
    sum: f64,
    count: usize,
}

impl Difference {
    fn add(&mut self, ours: &[u8], theirs: &[f64]) {
        assert_eq!(ours.len(), theirs.len());
        for (&ours, &theirs) in ours.iter().zip(theirs) {
            let difference = (f64::from(ours) - theirs).abs();
            self.worst = self.worst.max(difference);
            self.sum += difference;
        }
        self.count += ours.len();
    }

    fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}

/// One image's expectations.
struct Expected<'a> {
    tensors: &'a SafeTensors<'a>,
    number: usize,
}

impl Expected<'_> {
    fn tensor(&self, name: &str) -> Option<safetensors::tensor::TensorView<'_>> {
        self.tensors.tensor(&format!("{}.{name}", self.number)).ok()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.tensor(name).unwrap().data().to_vec()
    }

    fn numbers(&self, name: &str) -> Vec<f64> {
        let tensor = self.tensor(name).unwrap();
        let data = tensor.data();
        match tensor.dtype() {
            safetensors::Dtype::U8 => data.iter().map(|&byte| f64::from(byte)).collect(),
            safetensors::Dtype::F32 => data
                .as_chunks()
                .0
                .iter()
                .map(|&word| f64::from(f32::from_le_bytes(word)))
                .collect(),
            safetensors::Dtype::F64 => data
                .as_chunks()
                .0
                .iter()
                .map(|&word| f64::from_le_bytes(word))
                .collect(),
            _ => data
                .as_chunks()
                .0
                .iter()
                .map(|&word| i64::from_le_bytes(word) as f64)
                .collect(),
        }
    }

    fn image(&self) -> Image {
        let shape = self.tensor("image").unwrap().shape().to_vec();
        Image::new(shape[1] as u32, shape[0] as u32, self.bytes("image")).unwrap()
    }
}

/// Holds every transform against the expectations of every image in `file`, and returns how many
/// images that were.
fn compare(file: &Path) -> usize {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let names = [
        "large",
        "small",
        "centre",
        "flip",
        "brightness",
        "contrast",
        "saturation",
        "grey",
        "hue",
        "blur",
    ];
    let mut differences = names.map(|name| (name, Difference::default()));
    let mut scratch = Scratch::default();
    let mut images = 0;
    loop {
        let expected = Expected {
            tensors: &tensors,
            number: images,
        };
        if expected.tensor("image").is_none() {
            break;
        }
        images += 1;
        let image = expected.image();
        let [left, top, width, height] = expected.numbers("region")[..] else {
            panic!()
        };
        let [left, top, width, height] = [left, top, width, height].map(|side| side as u32);
        let region = crop::Region {
            left,
            top,
            width,
            height,
        };
        let [resize, _] = expected.numbers("sizes")[..] else {
            panic!()
        };
        let small = expected.bytes("small");
        let side = small.len().div_euclid(3).isqrt();
        let amounts = expected.numbers("amounts");
        let [brightness, contrast, saturation, hue, sigma] = amounts[..] else {
            panic!()
        };
        for (name, difference) in &mut differences {
            let Some(tensor) = expected.tensor(name) else {
                continue;
            };
            let size = tensor.shape()[0];
            let mut ours = match *name {
                "large" | "small" | "centre" => vec![0; size * size * 3],
                _ => small.clone(),
            };
            match *name {
                "large" | "small" => crop::apply(&image, region, size, &mut scratch, &mut ours),
                "centre" => crop::centre(&image, resize as usize, size, &mut scratch, &mut ours),
                "flip" => flip::apply(&mut ours, side),
                "brightness" => jitter::brightness(&mut ours, brightness as f32),
                "contrast" => jitter::contrast(&mut ours, contrast as f32),
                "saturation" => jitter::saturation(&mut ours, saturation as f32),
                "grey" => grey::apply(&mut ours),
                "hue" => jitter::hue(&mut ours, hue as f32),
                "blur" => blur::apply(&mut ours, side, sigma as f32, &mut scratch),
                other => unreachable!("{other}"),
            }
            difference.add(&ours, &expected.numbers(name));
        }
    }
    for (name, difference) in &differences {
        println!(
            "{name:<10} worst {:.3}  mean {:.4}",
            difference.worst,
            difference.mean()
        );
    }
    for (name, difference) in &differences {
        // What needs no rounding choice is equal to the bit. Against an unrounded expectation half a
        // level is the best that can be.
        let (worst, mean) = match *name {
            "flip" | "brightness" | "contrast" | "saturation" | "grey" => (0.0, 0.0),
            // One of 255 steps of the hue is six levels of a saturated channel; it is off in a few colours.
            "hue" => (6.0, 0.01),
            "blur" => (1.0, 0.3),
            _ => (2.0, 0.5),
        };
        assert!(
            difference.worst <= worst,
            "{name}: worst {}",
            difference.worst
        );
        assert!(
            difference.mean() <= mean,
            "{name}: mean {}",
            difference.mean()
        );
    }
    images
}

#[test]
fn transforms_agree_with_pillow_and_torchvision_on_computed_images() {
    assert_eq!(
        compare(&workspace().join("tests/golden/augment.safetensors")),
        3
    );
}

#[test]
fn transforms_agree_with_pillow_and_torchvision_on_photographs() {
    let Some(photos) = shared("data/photos") else {
        return;
    };
    let Some(python) = Python::with(&["numpy", "PIL"]) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let words = ["--photos", photos.to_str().unwrap()];
    let words = [&words[..], &["--out", "photos.safetensors"]].concat();
    python.run(folder.path(), "golden/augment.py", &words);
    let out = folder.path().join("photos.safetensors");
    let images = compare(&out);

    // Decoders may differ in how they widen the chroma planes; on the whole they show one picture.
    let source = open(&photos, Format::Flat).unwrap();
    assert_eq!(source.len(), images);
    let bytes = std::fs::read(&out).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut difference = Difference::default();
    for number in 0..images {
        let sample = source.read(number).unwrap();
        assert!(matches!(sample, Sample::Encoded(_)));
        let image = decode(&sample, &source.name(number), u64::MAX).unwrap();
        let expected = Expected {
            tensors: &tensors,
            number,
        };
        difference.add(&image.rgb, &expected.numbers("image"));
    }
    println!(
        "{:<10} worst {:.3}  mean {:.4}",
        "decoding",
        difference.worst,
        difference.mean()
    );
    assert!(
        difference.mean() < 0.5,
        "decoding: mean {}",
        difference.mean()
    );
}
