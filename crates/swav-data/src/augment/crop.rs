//! Random resized crop: a part of random area and shape, brought to a square.
//!
//! The draw is torchvision's `RandomResizedCrop`: ten tries to fit a rectangle whose area is a random
//! share of the image's and whose aspect ratio is log-uniform on [3/4, 4/3], then a centre crop. The
//! resize is Pillow's bilinear: a triangle filter as wide as the scale asks for when it shrinks
//! (antialiased), in fixed point, rows first, and blind to what lies outside the region.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageView, ResizeAlg, ResizeOptions};

use super::Scratch;
use crate::random::{Draws, below};
use crate::sample::Image;

/// Width over height, from narrow to wide.
const RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
const TRIES: usize = 10;

/// A rectangle inside an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Columns to its left.
    pub left: u32,
    /// Rows above it.
    pub top: u32,
    /// Its width, at least 1.
    pub width: u32,
    /// Its height, at least 1.
    pub height: u32,
}

/// Draws a region that covers a share of the image between `scale[0]` and `scale[1]`. A try takes
/// four draws: area, ratio, row, column.
///
/// # Panics
/// When a side of the image is zero.
pub fn draw(draws: &mut Draws, width: u32, height: u32, scale: [f32; 2]) -> Region {
    assert!(
        width > 0 && height > 0,
        "a crop of {width} × {height} pixels"
    );
    let (image_width, image_height) = (f64::from(width), f64::from(height));
    let [low, high] = scale.map(f64::from);
    for _ in 0..TRIES {
        let area = image_width * image_height * draws.uniform(low, high);
        let ratio = draws.uniform(RATIO[0].ln(), RATIO[1].ln()).exp();
        let (row, column) = (draws.word(), draws.word());
        let w = (area * ratio).sqrt().round_ties_even();
        let h = (area / ratio).sqrt().round_ties_even();
        if (1.0..=image_width).contains(&w) && (1.0..=image_height).contains(&h) {
            let (w, h) = (w as u32, h as u32);
            let (top, left) = (below(row, height - h + 1), below(column, width - w + 1));
            return Region {
                left,
                top,
                width: w,
                height: h,
            };
        }
    }
    let ratio = image_width / image_height;
    let (w, h) = if ratio < RATIO[0] {
        (width, (image_width / RATIO[0]).round_ties_even() as u32)
    } else if ratio > RATIO[1] {
        ((image_height * RATIO[1]).round_ties_even() as u32, height)
    } else {
        (width, height)
    };
    // A sliver rounds to a side of its own; never beyond the image.
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    Region {
        left: (width - w) / 2,
        top: (height - h) / 2,
        width: w,
        height: h,
    }
}

/// Cuts `region` out of `image` and resizes it to `size` × `size`.
///
/// # Panics
/// When `out` is not `size` · `size` · 3 bytes long, or the region is empty or leaves the image.
pub fn apply(image: &Image, region: Region, size: usize, scratch: &mut Scratch, out: &mut [u8]) {
    let Region {
        left,
        top,
        width,
        height,
    } = region;
    let Ok(part) = TypedCroppedImage::new(view(image), left, top, width, height) else {
        panic!(
            "{region:?} leaves an image of {} × {} pixels",
            image.width, image.height
        );
    };
    resize(&part, size, &bilinear(), scratch, out);
}

/// [`apply`], from an image that was decoded at a reduced size: `region` lies in the `whole` one
/// (width and height), and its edges may fall between the pixels of `image`.
///
/// # Panics
/// As [`apply`].
pub fn apply_reduced(
    image: &Image,
    whole: [u32; 2],
    region: Region,
    size: usize,
    scratch: &mut Scratch,
    out: &mut [u8],
) {
    if whole == [image.width, image.height] {
        return apply(image, region, size, scratch, out);
    }
    let scale = scale_of(image, whole);
    let [left, top] = [region.left, region.top].map(|side| f64::from(side) * scale);
    let [width, height] = [region.width, region.height].map(|side| f64::from(side) * scale);
    let options = bilinear().crop(left, top, width, height);
    resize(&view(image), size, &options, scratch, out);
}

/// How large `image` is beside the `whole` one: a power of ½. The sides of a reduced image are rounded
/// up, so their quotient is not it.
fn scale_of(image: &Image, whole: [u32; 2]) -> f64 {
    1.0 / f64::from(whole[0].div_ceil(image.width))
}

/// What evaluation looks at: the short side resized to `resize`, then the `size` × `size` pixels in
/// the centre, as torchvision's `Resize` and `CenterCrop` do. Only the pixels that are kept are
/// computed.
///
/// # Panics
/// When `size` is zero or greater than `resize`, or `out` is not `size` · `size` · 3 bytes long.
pub fn centre(image: &Image, resize_to: usize, size: usize, scratch: &mut Scratch, out: &mut [u8]) {
    let whole = [image.width, image.height];
    centre_reduced(image, whole, resize_to, size, scratch, out);
}

/// [`centre`], from an image that was decoded at a reduced size; the `whole` one (width and height)
/// says what is kept.
///
/// # Panics
/// As [`centre`].
pub fn centre_reduced(
    image: &Image,
    whole: [u32; 2],
    resize_to: usize,
    size: usize,
    scratch: &mut Scratch,
    out: &mut [u8],
) {
    assert!(
        (1..=resize_to).contains(&size),
        "a centre of {size} pixels out of {resize_to}"
    );
    let [width, height] = whole.map(u64::from);
    let short = width.min(height);
    // The long side is cut to whole pixels, so the two scales differ a little.
    let resized = [width, height].map(|side| (side * resize_to as u64 / short) as f64);
    let reduced = scale_of(image, whole);
    let sides = whole.map(|side| f64::from(side) * reduced);
    let mut origin = [0.0; 2];
    let mut extent = [0.0; 2];
    for axis in 0..2 {
        let scale = sides[axis] / resized[axis];
        let skipped = ((resized[axis] - size as f64) / 2.0).round_ties_even();
        origin[axis] = skipped * scale;
        // The product may exceed the image by a rounding error.
        extent[axis] = (size as f64 * scale).min(sides[axis] - origin[axis]);
    }
    let options = bilinear().crop(origin[0], origin[1], extent[0], extent[1]);
    resize(&view(image), size, &options, scratch, out);
}

fn bilinear() -> ResizeOptions {
    ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .use_alpha(false)
}

fn view(image: &Image) -> TypedImageRef<'_, U8x3> {
    match TypedImageRef::from_buffer(image.width, image.height, &image.rgb) {
        Ok(view) => view,
        Err(error) => panic!(
            "{} bytes for {} × {} RGB pixels: {error}",
            image.rgb.len(),
            image.width,
            image.height
        ),
    }
}

fn resize(
    source: &impl ImageView<Pixel = U8x3>,
    size: usize,
    options: &ResizeOptions,
    scratch: &mut Scratch,
    out: &mut [u8],
) {
    assert_eq!(
        out.len(),
        size * size * 3,
        "room for {size} × {size} RGB pixels"
    );
    let side = size as u32;
    let target = TypedImage::<U8x3>::from_buffer(side, side, out);
    let done = target
        .map_err(|error| error.to_string())
        .and_then(|mut target| {
            let resized = scratch.resizer.resize_typed(source, &mut target, options);
            resized.map_err(|error| error.to_string())
        });
    if let Err(error) = done {
        panic!(
            "resizing {} × {} to {size}: {error}",
            source.width(),
            source.height()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{CropKey, Purpose};

    fn regions(width: u32, height: u32, scale: [f32; 2]) -> impl Iterator<Item = Region> {
        (0..2000).map(move |sample| {
            let key = CropKey::new(3, 0, sample, 0);
            draw(&mut key.draws(Purpose::Crop), width, height, scale)
        })
    }

    #[test]
    fn areas_and_ratios_stay_in_range_and_fill_it() {
        let (mut smallest, mut largest) = (f64::MAX, 0.0f64);
        for region in regions(500, 375, [0.14, 1.0]) {
            assert!(region.left + region.width <= 500 && region.top + region.height <= 375);
            let share = f64::from(region.width * region.height) / (500.0 * 375.0);
            let ratio = f64::from(region.width) / f64::from(region.height);
            assert!((0.139..=1.0).contains(&share), "{region:?}");
            assert!((0.745..=1.345).contains(&ratio), "{region:?}");
            (smallest, largest) = (smallest.min(share), largest.max(share));
        }
        assert!(smallest < 0.15 && largest > 0.95, "{smallest} to {largest}");
    }

    #[test]
    fn an_image_too_long_for_any_try_gets_the_centre() {
        for region in regions(1000, 10, [0.9, 1.0]) {
            assert_eq!(
                region,
                Region {
                    left: 493,
                    top: 0,
                    width: 13,
                    height: 10
                }
            );
        }
        for region in regions(10, 1000, [0.9, 1.0]) {
            assert_eq!(
                region,
                Region {
                    left: 0,
                    top: 493,
                    width: 10,
                    height: 13
                }
            );
        }
    }

    #[test]
    fn one_pixel_is_enough() {
        for region in regions(1, 1, [0.05, 0.14]) {
            assert_eq!(
                region,
                Region {
                    left: 0,
                    top: 0,
                    width: 1,
                    height: 1
                }
            );
        }
        let image = Image {
            width: 1,
            height: 1,
            rgb: vec![10, 20, 30],
        };
        let mut out = vec![0; 4 * 4 * 3];
        let whole = Region {
            left: 0,
            top: 0,
            width: 1,
            height: 1,
        };
        apply(&image, whole, 4, &mut Scratch::default(), &mut out);
        assert!(out.chunks(3).all(|pixel| pixel == [10, 20, 30]));
    }

    #[test]
    fn pixels_outside_of_the_region_do_not_leak_in() {
        // Black, with a white frame of one pixel around the region.
        let mut rgb = vec![255; 20 * 20 * 3];
        for y in 5..15 {
            rgb[(y * 20 + 5) * 3..(y * 20 + 15) * 3].fill(0);
        }
        let image = Image {
            width: 20,
            height: 20,
            rgb,
        };
        let region = Region {
            left: 5,
            top: 5,
            width: 10,
            height: 10,
        };
        for size in [3, 7, 10, 33] {
            let mut out = vec![1; size * size * 3];
            apply(&image, region, size, &mut Scratch::default(), &mut out);
            assert!(out.iter().all(|&value| value == 0), "size {size}");
        }
    }
}
