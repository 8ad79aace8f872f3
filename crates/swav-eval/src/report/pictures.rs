//! Thumbnails: the images that are shown, on a few sheets of tiles.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, crop_imm, replace, resize};
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use rayon::prelude::*;
use serde::Serialize;
use swav_data::{Source, decode};

use super::content::Progress;
use super::page::{Packed, encoded};
use swav_train::Plan;
use swav_train::TrainError;

/// Tiles in a row of a sheet, and rows of a sheet.
const ACROSS: usize = 32;
const DOWN: usize = 16;

/// What stands for an image without a tile.
const NONE: u16 = u16::MAX;

/// Quality of JPEGs, 1–100.
const QUALITY: u8 = 72;

/// Sheets of thumbnails.
#[derive(Debug, Serialize)]
pub(super) struct Pictures {
    /// Side of a tile in pixels.
    tile: usize,
    across: usize,
    down: usize,
    /// JPEGs of [`ACROSS`] × [`DOWN`] tiles.
    sheets: Vec<String>,
    /// The tile of each image, or [`NONE`].
    tiles: Packed,
    #[serde(skip)]
    has: Vec<bool>,
    #[serde(skip)]
    count: usize,
}

impl Pictures {
    /// Thumbnails of the rows `wanted`, where row i is image `indices[i]` of `source`. The more there are,
    /// the smaller they are.
    pub(super) fn of(
        source: &dyn Source,
        indices: &[usize],
        wanted: &[usize],
        plan: &Plan,
        tell: &mut Progress<'_>,
    ) -> Result<Self, TrainError> {
        let room = match wanted.len() {
            0..=2_000 => 64,
            2_001..=4_000 => 48,
            _ => 32,
        };
        // Multiples of 8, the side of a JPEG's blocks: tiles do not run into each other.
        let limit = plan.data.max_pixels;
        let first = wanted
            .first()
            .map(|&row| pixels(source, indices[row], limit));
        let (width, height) = first
            .flatten()
            .map_or((room, room), |image| image.dimensions());
        let tile = width.min(height).next_multiple_of(8).clamp(16, room) as usize;
        let mut tiles = vec![NONE; indices.len()];
        let mut sheets = Vec::new();
        for (sheet, rows) in wanted.chunks(ACROSS * DOWN).enumerate() {
            tell("thumbnails", sheet * ACROSS * DOWN, wanted.len())?;
            let thumbnails: Vec<RgbImage> = rows
                .par_iter()
                .map(|&row| thumbnail(pixels(source, indices[row], limit), tile as u32))
                .collect();
            let mut page = RgbImage::new((ACROSS * tile) as u32, (DOWN * tile) as u32);
            for (place, (&row, thumbnail)) in rows.iter().zip(&thumbnails).enumerate() {
                let [x, y] = [place % ACROSS * tile, place / ACROSS * tile];
                replace(&mut page, thumbnail, x as i64, y as i64);
                tiles[row] = (sheet * ACROSS * DOWN + place) as u16;
            }
            sheets.push(encoded(&jpeg(&page, QUALITY)));
        }
        Ok(Self {
            tile,
            across: ACROSS,
            down: DOWN,
            sheets,
            has: tiles.iter().map(|&tile| tile != NONE).collect(),
            tiles: Packed::u16(tiles),
            count: wanted.len(),
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether an image has one.
    pub(super) fn has(&self, row: usize) -> bool {
        self.has[row]
    }
}

/// An image, which was readable a moment ago; nothing if it is no more.
fn pixels(source: &dyn Source, index: usize, max_pixels: u64) -> Option<RgbImage> {
    let sample = source.read(index).ok()?;
    let image = decode(&sample, &source.name(index), max_pixels).ok()?;
    RgbImage::from_raw(image.width, image.height, image.rgb)
}

/// The middle square of an image; grey if there is none.
fn thumbnail(image: Option<RgbImage>, side: u32) -> RgbImage {
    let Some(image) = image else {
        return RgbImage::from_pixel(side, side, image::Rgb([128; 3]));
    };
    let (width, height) = image.dimensions();
    let short = width.min(height);
    let [x, y] = [(width - short) / 2, (height - short) / 2];
    let square = crop_imm(&image, x, y, short, short).to_image();
    resize(&square, side, side, FilterType::Triangle)
}

/// `image` as a JPEG.
pub(super) fn jpeg(image: &RgbImage, quality: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let (width, height) = image.dimensions();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    match encoder.write_image(image, width, height, ExtendedColorType::Rgb8) {
        Ok(()) => bytes.into_inner(),
        Err(error) => unreachable!("a picture of {width} × {height} in memory: {error}"),
    }
}
