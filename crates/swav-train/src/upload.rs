//! From the loader's bytes to normalised tensors on the device.

use std::ops::Range;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use swav_data::CropGroup;

/// Mean and standard deviation of each channel, for values in 0–1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    /// Red, green, blue.
    pub mean: [f32; 3],
    /// Red, green, blue.
    pub std: [f32; 3],
}

impl Normalisation {
    /// What the paper's networks are trained with.
    pub const TRAINING: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.228, 0.224, 0.225],
    };

    /// What they are evaluated with; the red channel differs in the third digit.
    pub const EVALUATION: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
}

/// Bytes in a word, for devices that know no bytes.
const WORD: usize = size_of::<u32>();

/// Images on the host, as they travel to a device.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    data: TensorData,
    /// Images.
    rows: usize,
    /// Their side in pixels.
    side: usize,
}

/// Packs images on the host for a device.
///
/// Bytes travel as a tensor of rank 1: Burn pads the rows of a higher rank on CUDA, and a row of an image is a pixel of
/// three bytes. For a device without bytes (WGSL has none) four of them lie in each `u32`.
#[derive(Clone, Debug)]
pub(crate) struct Packer {
    /// Without gradients.
    device: Device,
    /// Whether the device knows bytes.
    bytes: bool,
}

impl Packer {
    fn new(device: &Device) -> Self {
        let device = device.clone().inner();
        Self {
            bytes: device.supports_dtype(DType::U8),
            device,
        }
    }

    /// Packs images of `side` pixels, three bytes each.
    fn images(&self, mut pixels: Vec<u8>, side: usize) -> Packed {
        let rows = pixels.len() / (side * side * 3);
        let data = if self.bytes {
            let length = pixels.len();
            TensorData::new(pixels, [length])
        } else {
            pixels.resize(pixels.len().next_multiple_of(WORD), 0);
            let (words, _) = pixels.as_chunks::<WORD>();
            let words: Vec<u32> = words.iter().map(|&word| u32::from_le_bytes(word)).collect();
            let length = words.len();
            TensorData::new(words, [length])
        };
        Packed { data, rows, side }
    }

    /// Packs those `crops` of a group of `samples` samples, of the samples in `rows` alone, crop-major.
    fn part(
        &self,
        group: &CropGroup,
        samples: usize,
        crops: &[usize],
        rows: Range<usize>,
    ) -> Packed {
        let image = group.size * group.size * 3;
        let mut pixels =
            Vec::with_capacity((crops.len() * rows.len() * image).next_multiple_of(WORD));
        for crop in crops {
            let first = crop * samples;
            let bytes = (first + rows.start) * image..(first + rows.end) * image;
            pixels.extend_from_slice(&group.pixels[bytes]);
        }
        self.images(pixels, group.size)
    }

    /// Packs the crops that `shown` picks, by their place among all crops of an image, of the samples in `rows`: for each
    /// resolution of which there are any, crop-major. `groups` are of `samples` samples.
    pub(crate) fn rows(
        &self,
        groups: &[CropGroup],
        samples: usize,
        rows: Range<usize>,
        shown: impl Fn(usize) -> bool,
    ) -> Vec<Packed> {
        let mut first = 0;
        let mut found = Vec::with_capacity(groups.len());
        for group in groups {
            let crops: Vec<_> = (0..group.count)
                .filter(|crop| shown(first + crop))
                .collect();
            if !crops.is_empty() {
                found.push(self.part(group, samples, &crops, rows.clone()));
            }
            first += group.count;
        }
        found
    }

    /// Moves images to memory that the device can read by itself, where there is such.
    pub(crate) fn stage<'a>(&self, images: impl Iterator<Item = &'a mut Packed>) {
        self.device.staging(images.map(|packed| &mut packed.data));
    }
}

/// Uploads images to a device as bytes and normalises them there.
#[derive(Clone, Debug)]
pub struct Uploader {
    device: Device,
    packer: Packer,
    /// `[1, 3, 1, 1]`: normalised = byte · scale + shift.
    scale: Tensor<4>,
    /// `[1, 3, 1, 1]`.
    shift: Tensor<4>,
    /// How far the bytes of a word lie up in it, `[1, 4]`; none for a device that knows bytes.
    offsets: Option<Tensor<2, Int>>,
}

impl Uploader {
    /// Returns an uploader to `device`, which may have gradients turned on.
    pub fn new(normalisation: &Normalisation, device: &Device) -> Self {
        Self::with(normalisation, device, Packer::new(device))
    }

    fn with(normalisation: &Normalisation, device: &Device, packer: Packer) -> Self {
        let per_channel =
            |values: [f32; 3]| Tensor::<1>::from_floats(values, device).reshape([1, 3, 1, 1]);
        let Normalisation { mean, std } = normalisation;
        let offsets = TensorData::new(vec![0_u32, 8, 16, 24], [1, WORD]);
        Self {
            device: device.clone(),
            scale: per_channel(std.map(|std| 1.0 / (255.0 * std))),
            shift: per_channel([0, 1, 2].map(|c| -mean[c] / std[c])),
            offsets: (!packer.bytes).then(|| Tensor::from_data(offsets, (device, DType::U32))),
            packer,
        }
    }

    /// Returns what packs images for the device.
    pub(crate) fn packer(&self) -> &Packer {
        &self.packer
    }

    /// Uploads all crops of a group: `[crops·B, 3, S, S]`, crop-major.
    pub fn group(&self, group: &CropGroup) -> Tensor<4> {
        // The loader recycles its buffers, so the tensor takes a copy.
        self.images(self.packer.images(group.pixels.clone(), group.size))
    }

    /// Uploads images: `[N, 3, S, S]`.
    pub(crate) fn images(&self, packed: Packed) -> Tensor<4> {
        let Packed { data, rows, side } = packed;
        let length = rows * side * side * 3;
        let bytes = match &self.offsets {
            None => Tensor::<1, Int>::from_data(data, (&self.device, DType::U8)).float(),
            Some(offsets) => {
                let words = Tensor::<1, Int>::from_data(data, (&self.device, DType::U32));
                let bytes = words
                    .unsqueeze_dim::<2>(1)
                    .bitwise_right_shift(offsets.clone())
                    .bitwise_and_scalar(0xff_i32);
                let bytes = bytes.float().flatten::<1>(0, 1);
                match length.is_multiple_of(WORD) {
                    true => bytes,
                    false => bytes.narrow(0, 0, length),
                }
            }
        };
        let images = bytes.reshape([rows, side, side, 3]);
        images.permute([0, 3, 1, 2]) * self.scale.clone() + self.shift.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(count: usize, samples: usize, size: usize) -> CropGroup {
        let pixels = (0..count * samples * size * size * 3).map(|i| (i * 37 % 256) as u8);
        CropGroup {
            count,
            size,
            pixels: pixels.collect(),
        }
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter().collect()
    }

    fn uploader(device: &Device) -> Uploader {
        Uploader::new(&Normalisation::TRAINING, device)
    }

    #[test]
    fn a_pixel_is_normalised_by_its_channel() {
        let group = group(1, 2, 3);
        let images = uploader(&Device::flex()).group(&group);
        assert_eq!(images.dims(), [2, 3, 3, 3]);
        let images = values(images);
        let Normalisation { mean, std } = Normalisation::TRAINING;
        for (at, &byte) in group.pixels.iter().enumerate() {
            let (pixel, channel) = (at / 3, at % 3);
            let found = images[(pixel / 9 * 3 + channel) * 9 + pixel % 9];
            let expected = (f32::from(byte) / 255.0 - mean[channel]) / std[channel];
            assert!((found - expected).abs() < 1e-5, "{found} for {expected}");
        }
    }

    #[test]
    fn bytes_packed_in_words_are_the_same_images() {
        let device = Device::flex();
        // 2 · 9 · 9 · 3 is no multiple of four.
        for (rows, size) in [(2, 8), (2, 9), (1, 1)] {
            let group = group(1, rows, size);
            let images = |bytes| {
                let device = device.clone();
                let packer = Packer {
                    device: device.clone(),
                    bytes,
                };
                values(Uploader::with(&Normalisation::TRAINING, &device, packer).group(&group))
            };
            assert_eq!(images(true), images(false), "{rows} × {size}");
        }
    }

    #[test]
    fn a_part_holds_its_samples_of_the_crops_that_were_asked_for() {
        let (samples, size) = (4, 2);
        let groups = [group(3, samples, size)];
        let uploader = uploader(&Device::flex());
        let whole = values(uploader.group(&groups[0]));
        let packer = uploader.packer();
        let part = packer
            .rows(&groups, samples, 1..3, |crop| crop != 1)
            .remove(0);
        let part = values(uploader.images(part));
        let image = 3 * size * size;
        let expected = [1, 2, 9, 10].map(|row| &whole[row * image..(row + 1) * image]);
        assert_eq!(part, expected.concat());
    }

    #[test]
    fn crops_are_picked_by_their_place_among_all_of_an_image() {
        let samples = 2;
        let groups = [group(2, samples, 4), group(3, samples, 2)];
        let uploader = uploader(&Device::flex().autodiff());
        let shapes = |shown: &dyn Fn(usize) -> bool| {
            let found = uploader.packer().rows(&groups, samples, 0..1, shown);
            let images = found.into_iter().map(|packed| uploader.images(packed));
            images.map(|images| images.dims()).collect::<Vec<_>>()
        };
        assert_eq!(shapes(&|_| true), [[2, 3, 4, 4], [3, 3, 2, 2]]);
        assert_eq!(shapes(&|crop| crop != 1), [[1, 3, 4, 4], [3, 3, 2, 2]]);
        assert_eq!(shapes(&|crop| crop == 4), [[1, 3, 2, 2]]);
    }
}
