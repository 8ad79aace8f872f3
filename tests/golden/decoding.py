"""Small files of many kinds, and what Pillow makes of each, in one archive.

    python tests/golden/decoding.py --out tests/golden/decoding.tar.gz

Needs numpy and Pillow. The member `expected.json` maps each file to [width, height, means], where
means are those of a 4 × 4 grid, row by row, three channels each, of the upright RGB picture.
"""

import argparse
import gzip
import io
import itertools
import json
import struct
import tarfile

import numpy
from PIL import Image, ImageOps

FILES = {}


def scene(width, height):
    """Saturated corners and shades: wrong colours, orientations and chroma positions show."""
    y, x = numpy.mgrid[0:height, 0:width] / max(width, height)
    planes = [230 - 200 * x, 40 + 190 * y, 60 + 150 * x * (1 - y)]
    return Image.fromarray(numpy.stack(planes, 2).clip(0, 255).astype("u1"))


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def segment(marker, payload):
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def segments(jpeg):
    """(marker, payload) up to the first scan, and the rest from there."""
    at, found = 2, []
    while jpeg[at + 1] != 0xDA:
        length = struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        found.append((jpeg[at + 1], jpeg[at + 4 : at + 2 + length]))
        at += 2 + length
    return found, jpeg[at:]


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform):
    return segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def marked(jpeg, markers):
    found, rest = segments(jpeg)
    kept = b"".join(segment(m, p) for m, p in found if m not in (0xE0, 0xEE))
    return b"\xff\xd8" + markers + kept + rest


MARKERS = {
    "none": b"", "jfif": JFIF, "adobe0": adobe(0), "adobe1": adobe(1), "both0": JFIF + adobe(0),
    "both1": JFIF + adobe(1), "both0-reversed": adobe(0) + JFIF,
}


def in_scans(image, sampling, scans, restart):
    """Baseline JPEG with components in scans of their own, of flat 8 × 8 blocks (DC alone)."""
    planes = numpy.array(image.convert("YCbCr")).astype(float)
    height, width = planes.shape[:2]
    widest, highest = max(h for h, _ in sampling), max(v for _, v in sampling)
    blocks = []
    for plane, (h, v) in enumerate(sampling):
        size = -(-width * h // widest), -(-height * v // highest)
        across, down = -(-size[0] // 8), -(-size[1] // 8)
        small = numpy.array(Image.fromarray(planes[:, :, plane]).resize(size, Image.BOX))
        small = numpy.pad(small, ((0, down * 8 - size[1]), (0, across * 8 - size[0])), "edge")
        means = small.reshape(down, 8, across, 8).mean((1, 3))
        blocks.append(numpy.round((means - 128) * 8 / 4).astype(int))
    # Codes of four bits for sizes 0 to 11, and of one bit for the end of a block.
    tables = segment(0xC4, b"\0" + bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12)))
    tables += segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + b"\0")
    frame = struct.pack(">BHHB", 8, height, width, 3)
    frame += b"".join(bytes([i + 1, h << 4 | v, 0]) for i, (h, v) in enumerate(sampling))
    out = b"\xff\xd8" + JFIF + segment(0xDB, b"\0" + bytes([4] * 64)) + segment(0xC0, frame) + tables
    if restart:
        out += segment(0xDD, struct.pack(">H", restart))
    for scan in scans:
        chosen = b"".join(bytes([i + 1, 0]) for i in scan)
        out += segment(0xDA, bytes([len(scan)]) + chosen + b"\0\x3f\0")
        if len(scan) == 1:
            units = [[(scan[0], *at)] for at in numpy.ndindex(blocks[scan[0]].shape)]
        else:
            down, across = -(-height // (8 * highest)), -(-width // (8 * widest))
            units = [
                [
                    (i, min(y * sampling[i][1] + v, blocks[i].shape[0] - 1),
                     min(x * sampling[i][0] + h, blocks[i].shape[1] - 1))
                    for i in scan for v in range(sampling[i][1]) for h in range(sampling[i][0])
                ]
                for y in range(down) for x in range(across)
            ]
        step = restart or len(units)
        for number, start in enumerate(range(0, len(units), step)):
            if number:
                out += bytes([0xFF, 0xD0 + (number - 1) % 8])
            bits, before = "", dict.fromkeys(scan, 0)
            for plane, y, x in itertools.chain(*units[start : start + step]):
                difference = int(blocks[plane][y, x]) - before[plane]
                before[plane] += difference
                size = abs(difference).bit_length()
                value = difference if difference > 0 else difference + (1 << size) - 1
                bits += f"{size:04b}" + (f"{value:0{size}b}" if size else "") + "0"
            bits += "1" * (-len(bits) % 8)
            data = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
            out += data.replace(b"\xff", b"\xff\0")
    return out + b"\xff\xd9"


def exif(value, kind):
    size = "<HHI" + {3: "HH", 4: "I"}[kind]
    entry = struct.pack(size, 0x112, kind, 1, value, *([0] if kind == 3 else []))
    return b"II*\0\x08\0\0\0\x01\0" + entry + b"\0" * 4


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="%d"/></x:xmpmeta>'


def jpegs():
    for size, sampling, progressive, restart in itertools.product(
        [(24, 20), (25, 21), (5, 3)], ["4:4:4", "4:2:2", "4:2:0"], [0, 1], [0, 1]
    ):
        file = saved(scene(*size), "JPEG", quality=92, subsampling=sampling,
                     progressive=bool(progressive), restart_marker_blocks=restart)
        for name, markers in MARKERS.items():
            key = f"jpeg/{size[0]}x{size[1]}-{sampling.replace(':', '')}-{progressive}{restart}-{name}"
            FILES[key] = marked(file, markers)
    for mode, quality, progressive in itertools.product(["L", "CMYK"], [50, 95], [False, True]):
        image = scene(24, 20).convert(mode)
        FILES[f"jpeg/{mode}-{quality}-{progressive}"] = saved(
            image, "JPEG", quality=quality, progressive=progressive)
    samplings = {"444": (1, 1), "422": (2, 1), "440": (1, 2), "420": (2, 2), "411": (4, 1)}
    orders = {"y-cb-cr": [[0], [1], [2]], "y-cbcr": [[0], [1, 2]], "ycb-cr": [[0, 1], [2]],
              "cb-cr-y": [[1], [2], [0]], "ycbcr": [[0, 1, 2]]}
    for size, (s, luma), (o, order), restart in itertools.product(
        [(40, 36), (41, 37), (5, 3)], samplings.items(), orders.items(), [0, 2]
    ):
        file = in_scans(scene(*size), [luma, (1, 1), (1, 1)], order, restart)
        FILES[f"scans/{size[0]}x{size[1]}-{s}-{o}-{restart}"] = file


def oriented():
    image = scene(24, 20)
    for value, kind in itertools.product(range(1, 9), [3, 4]):
        block = exif(value, kind)
        FILES[f"jpeg/exif-{value}-{kind}"] = saved(image, "JPEG", exif=b"Exif\0\0" + block)
        png = saved(image, "PNG", exif=block)
        FILES[f"png/exif-{value}-{kind}"] = png
        at = png.index(b"eXIf") - 4
        chunk = png[at : at + 12 + len(block)]
        rest = png[:at] + png[at + len(chunk) :]
        FILES[f"png/exif-behind-{value}-{kind}"] = rest[:-12] + chunk + rest[-12:]
        FILES[f"webp/exif-{value}-{kind}"] = saved(image, "WEBP", lossless=True, exif=block)
        FILES[f"webp/exif-animated-{value}-{kind}"] = saved(
            image, "WEBP", lossless=True, exif=block, save_all=True,
            append_images=[ImageOps.invert(image)])
    for value in range(1, 9):
        FILES[f"jpeg/xmp-{value}"] = saved(image, "JPEG", xmp=XMP % value)
        FILES[f"webp/xmp-{value}"] = saved(image, "WEBP", lossless=True, xmp=XMP % value)


def others():
    image = scene(24, 20)
    for mode in ["1", "L", "LA", "P", "RGB", "RGBA"]:
        FILES[f"png/{mode}"] = saved(image.convert(mode), "PNG")
    for lossless, alpha, size in itertools.product([True, False], "AX", [(24, 20), (25, 21), (1, 1)]):
        picture = scene(*size)
        if alpha == "A":
            picture.putalpha(200)
        FILES[f"webp/{lossless}-{alpha}-{size[0]}"] = saved(picture, "WEBP", lossless=lossless)
    for mode in ["1", "L", "RGB", "CMYK"]:
        FILES[f"tiff/{mode}"] = saved(image.convert(mode), "TIFF")
    straight = image.convert("RGBA")
    straight.putalpha(128)
    multiplied = (numpy.array(straight).astype(int) * [128, 128, 128, 255] // 255).astype("u1")
    FILES["tiff/associated"] = saved(
        Image.fromarray(multiplied, "RGBA"), "TIFF", tiffinfo={338: 1})
    for mode in ["1", "L", "P", "RGB"]:
        FILES[f"bmp/{mode}"] = saved(image.convert(mode), "BMP")
    FILES["gif/still"] = saved(image.convert("P"), "GIF")
    FILES["gif/animated"] = saved(
        image.convert("P"), "GIF", save_all=True, append_images=[ImageOps.invert(image)])


def expected(file):
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    pixels, means = numpy.array(image).astype(float), []
    height, width = pixels.shape[:2]
    for row, column in itertools.product(range(4), range(4)):
        top, left = row * height // 4, column * width // 4
        bottom, right = (row + 1) * height // 4, (column + 1) * width // 4
        part = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
        means += [round(mean, 2) for mean in part.mean((0, 1)).tolist()]
    return [width, height, means]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    out = parser.parse_args().out
    jpegs()
    oriented()
    others()
    results = {name: expected(file) for name, file in FILES.items()}
    members = FILES | {"expected.json": json.dumps(results, separators=(",", ":")).encode()}
    with (
        gzip.GzipFile(filename="", fileobj=open(out, "wb"), mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


main()
