//! The augmentation at work: a few images, and the crops that the network is shown of each.

use image::RgbImage;
use image::imageops::{FilterType, resize};
use serde::Serialize;
use swav_data::augment::Scratch;
use swav_data::{Image, Source, View, decode};

use super::page::encoded;
use super::pictures::jpeg;
use swav_train::Plan;
use swav_train::TrainError;

/// Images that are shown, and crops of each.
const IMAGES: usize = 6;
const CROPS: usize = 12;

/// The longest side of a picture in the page, in pixels.
const SIDE: u32 = 128;

/// Quality of JPEGs, 1–100.
const QUALITY: u8 = 85;

/// An image and its crops.
#[derive(Debug, Serialize)]
pub(super) struct Cropped {
    /// Its row among the images looked at.
    row: usize,
    /// The whole of it, a JPEG.
    whole: String,
    /// Its crops in the first epoch.
    crops: Vec<Crop>,
}

#[derive(Debug, Serialize)]
struct Crop {
    /// Side in pixels, as the network sees it.
    size: usize,
    /// A JPEG, perhaps smaller.
    jpeg: String,
}

/// A few of the rows, where row i is image `indices[i]` of `source`.
pub(super) fn of(
    source: &dyn Source,
    indices: &[usize],
    plan: &Plan,
) -> Result<Vec<Cropped>, TrainError> {
    let view = View::MultiCrop {
        crops: plan.crops.clone(),
        augment: plan.augment.clone(),
    };
    let count = IMAGES.min(indices.len());
    let rows = (0..count).map(|i| (2 * i + 1) * indices.len() / (2 * count));
    let mut scratch = Scratch::default();
    rows.map(|row| {
        let index = indices[row];
        let sample = source.read(index)?;
        let image = decode(&sample, &source.name(index), plan.data.max_pixels)?;
        Ok(Cropped {
            row,
            crops: crops(
                &view,
                &image,
                [plan.train.seed, 0, index as u64],
                &mut scratch,
            ),
            whole: picture(image.width, image.height, image.rgb),
        })
    })
    .collect()
}

fn crops(view: &View, image: &Image, key: [u64; 3], scratch: &mut Scratch) -> Vec<Crop> {
    let mut pixels = vec![0; view.bytes()];
    view.render(image, key, scratch, &mut pixels);
    let mut rest = pixels.as_slice();
    let sizes = view.groups().into_iter();
    let sizes = sizes.flat_map(|(count, size)| std::iter::repeat_n(size, count));
    let mut crop = |size: usize| {
        let (this, others) = rest.split_at(size * size * 3);
        rest = others;
        Crop {
            size,
            jpeg: picture(size as u32, size as u32, this.to_vec()),
        }
    };
    sizes.take(CROPS).map(&mut crop).collect()
}

/// Pixels as a JPEG in base64, no larger than [`SIDE`].
fn picture(width: u32, height: u32, rgb: Vec<u8>) -> String {
    let Some(mut picture) = RgbImage::from_raw(width, height, rgb) else {
        unreachable!("{width} × {height} pixels")
    };
    let longer = width.max(height);
    if longer > SIDE {
        let less = |side: u32| (side * SIDE / longer).max(1);
        picture = resize(&picture, less(width), less(height), FilterType::Triangle);
    }
    encoded(&jpeg(&picture, QUALITY))
}
