//! What becomes of an image: several augmented crops, or one plain centre crop.

use serde::{Deserialize, Serialize};

use crate::augment::{self, Augment, Scratch, crop};
use crate::random::{CropKey, Purpose};
use crate::sample::Image;

/// Crops of one kind: how many, how large, and how much of the image they show.
///
/// SwAV's multi-crop (Caron et al., NeurIPS 2020, section 3.2) is two of these: 2 × 224 pixels with
/// scale [0.14, 1], and 6 × 96 with scale [0.05, 0.14].
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct CropSpec {
    /// How many such crops an image gives.
    pub count: usize,
    /// Their side in pixels.
    pub size: usize,
    /// The least and greatest share of the image's area that a crop covers.
    pub scale: [f32; 2],
}

impl CropSpec {
    /// Checks every field.
    ///
    /// # Errors
    /// Names the first field that is out of range, and the range.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=1 << 16).contains(&self.count) {
            return Err(format!("crops.count = {}: expected 1 to 65536", self.count));
        }
        if !(1..=1 << 14).contains(&self.size) {
            return Err(format!(
                "crops.size = {}: expected 1 to 16384 pixels",
                self.size
            ));
        }
        let [low, high] = self.scale;
        if !(low > 0.0 && low <= high && high <= 1.0) {
            return Err(format!(
                "crops.scale = [{low}, {high}]: expected two rising shares of the area, above 0 and \
                 at most 1"
            ));
        }
        Ok(())
    }
}

/// What a loader makes of an image.
#[derive(Clone, Debug, PartialEq)]
pub enum View {
    /// Random crops, for training.
    MultiCrop {
        /// The crops in order. Crops 0 and 1 are the ones whose codes are predicted.
        crops: Vec<CropSpec>,
        /// What happens to each of them.
        augment: Augment,
    },
    /// Short side to `resize` (bilinear, antialiased), then the centre `size` × `size`, for
    /// evaluation. Nothing random.
    Centre {
        /// The short side in pixels.
        resize: usize,
        /// Side of the crop in pixels, at most `resize`.
        size: usize,
    },
}

impl View {
    /// Checks crops and augmentation.
    ///
    /// # Errors
    /// Names the first field that is out of range.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::MultiCrop { crops, augment } => {
                if crops.is_empty() {
                    return Err("crops: at least one is needed".into());
                }
                crops.iter().try_for_each(CropSpec::validate)?;
                augment.validate()
            }
            Self::Centre { resize, size } => {
                if *size == 0 || size > resize || *resize > 1 << 14 {
                    return Err(format!(
                        "centre crop of {size} pixels out of {resize}: expected 1 ≤ size ≤ resize ≤ \
                         16384"
                    ));
                }
                Ok(())
            }
        }
    }

    /// Count and size of each group of crops: neighbours of equal size are one group.
    pub fn groups(&self) -> Vec<(usize, usize)> {
        match self {
            Self::Centre { size, .. } => vec![(1, *size)],
            Self::MultiCrop { crops, .. } => {
                let mut groups: Vec<(usize, usize)> = Vec::new();
                for spec in crops {
                    match groups.last_mut() {
                        Some((count, size)) if *size == spec.size => *count += spec.count,
                        _ => groups.push((spec.count, spec.size)),
                    }
                }
                groups
            }
        }
    }

    /// Bytes of all crops of one image.
    pub fn bytes(&self) -> usize {
        self.groups()
            .iter()
            .map(|(count, size)| count * size * size * 3)
            .sum()
    }

    /// Makes all crops of `image`, one after the other, into `out`.
    ///
    /// What comes out is a function of the pixels, the view and (`seed`, `epoch`, `sample`).
    ///
    /// # Panics
    /// When `out` is not [`bytes`](Self::bytes) long.
    pub fn render(&self, image: &Image, key: [u64; 3], scratch: &mut Scratch, out: &mut [u8]) {
        self.render_reduced(image, [image.width, image.height], key, scratch, out);
    }

    /// [`render`](Self::render), where `image` is a reduced one of the `whole` (width and height).
    pub(crate) fn render_reduced(
        &self,
        image: &Image,
        whole: [u32; 2],
        [seed, epoch, sample]: [u64; 3],
        scratch: &mut Scratch,
        mut out: &mut [u8],
    ) {
        assert_eq!(out.len(), self.bytes(), "room for the crops of one image");
        match self {
            Self::Centre { resize, size } => {
                crop::centre_reduced(image, whole, *resize, *size, scratch, out);
            }
            Self::MultiCrop { crops, augment } => {
                for (number, CropSpec { size, scale, .. }) in each(crops) {
                    let (this, rest) = out.split_at_mut(size * size * 3);
                    let key = CropKey::new(seed, epoch, sample, number);
                    let drawn = augment.draw(&key, whole[0], whole[1], *scale);
                    augment::apply(image, whole, &drawn, *size, scratch, this);
                    out = rest;
                }
            }
        }
    }

    /// The divisor by which an image of `width` × `height` pixels may be decoded smaller without a
    /// crop that shows it: 1, 2 or 4. Every crop still shrinks what it is cut from by [`MARGIN`] or
    /// more, so what the decoder leaves out would have been averaged away.
    pub(crate) fn reduction(
        &self,
        [seed, epoch, sample]: [u64; 3],
        width: u32,
        height: u32,
    ) -> u32 {
        let short = width.min(height) as usize;
        let shrinks = match self {
            Self::Centre { resize, .. } => short / resize,
            Self::MultiCrop { crops, .. } => {
                if crops.iter().any(|spec| short < 2 * MARGIN * spec.size) {
                    return 1;
                }
                let of_crop = |(number, spec): (u32, &CropSpec)| {
                    let key = CropKey::new(seed, epoch, sample, number);
                    let draws = &mut key.draws(Purpose::Crop);
                    let region = crop::draw(draws, width, height, spec.scale);
                    region.width.min(region.height) as usize / spec.size
                };
                each(crops).map(of_crop).min().unwrap_or(1)
            }
        };
        let allowed = |divisor: &u32| shrinks >= *divisor as usize * MARGIN;
        [4, 2].into_iter().find(allowed).unwrap_or(1)
    }
}

/// How far a crop must still shrink an image that was decoded at a reduced size.
const MARGIN: usize = 2;

/// All crops with their numbers.
fn each(crops: &[CropSpec]) -> impl Iterator<Item = (u32, &CropSpec)> {
    let kinds = crops
        .iter()
        .flat_map(|spec| std::iter::repeat_n(spec, spec.count));
    (0..).zip(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(count: usize, size: usize) -> CropSpec {
        CropSpec {
            count,
            size,
            scale: [0.1, 1.0],
        }
    }

    #[test]
    fn neighbours_of_one_size_are_one_group() {
        let crops = vec![spec(2, 24), spec(1, 24), spec(4, 16), spec(1, 24)];
        let view = View::MultiCrop {
            crops,
            augment: Augment::default(),
        };
        assert_eq!(view.groups(), [(3, 24), (4, 16), (1, 24)]);
    }

    #[test]
    fn images_are_reduced_as_far_as_their_least_shrunken_crop_allows() {
        let centre = View::Centre {
            resize: 256,
            size: 224,
        };
        let divisor = |width, height| centre.reduction([0; 3], width, height);
        assert_eq!(divisor(500, 375), 1);
        assert_eq!((divisor(1023, 2000), divisor(2000, 1024)), (1, 2));
        assert_eq!((divisor(4000, 3000), divisor(9000, 9000)), (4, 4));

        let crops = |low| {
            vec![CropSpec {
                scale: [low, 1.0],
                ..spec(2, 100)
            }]
        };
        let view = |low| View::MultiCrop {
            crops: crops(low),
            augment: Augment::default(),
        };
        assert_eq!(view(0.9).reduction([0; 3], 399, 3000), 1);
        let mut divisors = [0; 5];
        for sample in 0..300 {
            let key = [1, 2, sample];
            let divisor = view(0.02).reduction(key, 2000, 2000);
            divisors[divisor as usize] += 1;
            for number in 0..2 {
                let mut draws = CropKey::new(1, 2, sample, number).draws(Purpose::Crop);
                let region = crop::draw(&mut draws, 2000, 2000, [0.02, 1.0]);
                assert!(region.width.min(region.height) >= divisor * 200 || divisor == 1);
            }
        }
        assert!(
            divisors[1] > 0 && divisors[2] > 0 && divisors[4] > 0,
            "{divisors:?}"
        );
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            (spec(0, 24), "crops.count"),
            (spec(1, 0), "crops.size"),
            (
                CropSpec {
                    scale: [0.5, 0.2],
                    ..spec(1, 24)
                },
                "crops.scale",
            ),
            (
                CropSpec {
                    scale: [0.0, 0.2],
                    ..spec(1, 24)
                },
                "crops.scale",
            ),
            (
                CropSpec {
                    scale: [f32::NAN, 0.2],
                    ..spec(1, 24)
                },
                "crops.scale",
            ),
        ];
        for (spec, field) in cases {
            let message = spec.validate().unwrap_err();
            assert!(message.starts_with(field), "{message}");
        }
    }
}
