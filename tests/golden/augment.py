"""Expected results of the augmentation, computed by Pillow and numpy with fixed draws.

    python tests/golden/augment.py --out tests/golden/augment.safetensors
    python tests/golden/augment.py --photos DIR --out FILE

The first form makes the committed file from images computed here. The second takes the photographs
of a folder; `cargo test -p swav-data` runs it when SWAV_PYTHON names an interpreter that has Pillow and numpy.

torchvision's functions on Pillow images are calls of Pillow. The calls are made here, so that torch is not needed;
torchvision 0.29 gives the same file, byte for byte.

Every step starts from the exact pixels that it is given in the file, so an error does not travel:

    N.image        u8  [h, w, 3]       the image, decoded by Pillow
    N.region       i64 [4]             left, top, width, height of a crop
    N.large, .small u8 [s, s, 3]       that crop, resized by Pillow (bilinear, antialiased)
    N.centre       u8  [c, c, 3]       as torchvision's Resize and CenterCrop; N.sizes i64 [2]: short side, c
    N.amounts      f64 [5]             brightness, contrast, saturation, hue, sigma
    N.flip, .brightness, .contrast, .saturation, .hue, .grey
                   u8  [s, s, 3]       as torchvision's functions of these names on N.small
    N.blur         f32 [s, s, 3]       exact Gaussian of N.small (8 sigma, borders repeated), not rounded
"""

import argparse
import json
import math
import pathlib
import struct

import numpy
from PIL import Image, ImageEnhance

RESIZE, CENTRE = 146, 128


def synthetic(seed):
    """Something like a photograph: smooth shades, an edge, saturated patches, noise."""
    height, width = [(120, 160), (150, 100), (97, 131)][seed]
    rng = numpy.random.default_rng(seed)
    y, x = numpy.mgrid[0:height, 0:width]
    planes = []
    for channel in range(3):
        plane = 110.0 + 40 * channel - 30 * seed
        for _ in range(6):
            fx, fy, phase = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), rng.uniform(0, 6.3)
            plane = plane + rng.uniform(5, 40) * numpy.sin(fx * x + fy * y + phase)
        planes.append(plane)
    image = numpy.stack(planes, axis=2)
    image[(x - y) > width // 2] *= 0.3
    image[10:30, 10:30] = rng.choice([0, 255], 3)
    image[40:60, 20:40] = 128
    image += rng.normal(0, 12, image.shape)
    return Image.fromarray(image.clip(0, 255).astype(numpy.uint8))


def gaussian(image, sigma):
    """The exact Gaussian in double precision, cut at 8 sigma, with the border repeated."""
    radius = max(1, math.ceil(8 * sigma))
    taps = numpy.exp(-0.5 * (numpy.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = numpy.pad(image, pad, mode="edge")
        length = image.shape[axis]
        slices = [numpy.take(padded, range(i, i + length), axis) for i in range(2 * radius + 1)]
        image = sum(weight * part for weight, part in zip(taps, slices))
    return image


def resized(image, short):
    """The image with a short side of that length."""
    width, height = image.size
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    return image.resize(size, Image.Resampling.BILINEAR)


def centre_crop(image, side):
    left, top = (round((length - side) / 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def hue_shifted(image, factor):
    """Hue in HSV of 8 bits, which wraps around."""
    hue, saturation, value = image.convert("HSV").split()
    shifted = numpy.asarray(hue) + numpy.int32(factor * 255).astype(numpy.uint8)
    return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


def expectations(number, image, large, small):
    rng = numpy.random.default_rng(1000 + number)
    width, height = image.size
    w = int(rng.integers(max(1, width // 4), width + 1))
    h = int(rng.integers(max(1, height // 4), height + 1))
    left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    # Through f32: that is what the Rust side takes.
    amounts = [*rng.uniform(0.2, 1.8, 3), rng.uniform(-0.2, 0.2), rng.uniform(0.1, 2.0)]
    brightness, contrast, saturation, hue, sigma = map(float, numpy.float32(amounts))

    region = image.crop((left, top, left + w, top + h))
    crop = lambda size: region.resize((size, size), Image.Resampling.BILINEAR)
    base = crop(small)
    pixels = numpy.asarray(base)
    resize, centre = (RESIZE, CENTRE) if min(image.size) > 200 else (53, 40)
    values = {
        "image": numpy.asarray(image),
        "region": numpy.array([left, top, w, h]),
        "small": pixels,
        "sizes": numpy.array([resize, centre]),
        "centre": numpy.asarray(centre_crop(resized(image, resize), centre)),
        "amounts": numpy.array([brightness, contrast, saturation, hue, sigma]),
        "flip": numpy.asarray(base.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        "brightness": numpy.asarray(ImageEnhance.Brightness(base).enhance(brightness)),
        "contrast": numpy.asarray(ImageEnhance.Contrast(base).enhance(contrast)),
        "saturation": numpy.asarray(ImageEnhance.Color(base).enhance(saturation)),
        "grey": numpy.asarray(base.convert("L").convert("RGB")),
        "hue": numpy.asarray(hue_shifted(base, hue)),
        "blur": gaussian(pixels.astype(float), sigma).astype(numpy.float32),
    }
    if large:
        values["large"] = numpy.asarray(crop(large))
    return {f"{number}.{name}": numpy.ascontiguousarray(value) for name, value in values.items()}


def write_safetensors(path, tensors):
    kinds = {"uint8": "U8", "int64": "I64", "float32": "F32", "float64": "F64"}
    header, offset = {}, 0
    for name, value in tensors.items():
        end = offset + value.nbytes
        header[name] = {"dtype": kinds[value.dtype.name], "shape": value.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(value.tobytes())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", required=True)
    parser.add_argument("--photos")
    arguments = parser.parse_args()
    tensors = {}
    if arguments.photos:
        files = [f for f in sorted(pathlib.Path(arguments.photos).iterdir()) if not f.name.startswith(".")]
        for number, file in enumerate(files):
            tensors |= expectations(number, Image.open(file).convert("RGB"), 224, 96)
    else:
        for number in range(3):
            tensors |= expectations(number, synthetic(number), None, 48)
    write_safetensors(arguments.out, tensors)


if __name__ == "__main__":
    main()
