"""Small files of many kinds, and what Pillow makes of each, in one archive.

    python tests/golden/decoding.py --out tests/golden/decoding.tar.gz

Needs numpy, Pillow, and the programs cjpeg and jpegtran of libjpeg-turbo. The member `expected.json`
maps each file to [width, height, means], where means are those of a 4 × 4 grid, row by row, three
channels each, of the upright RGB picture, to a tenth. Those under `reduced/` have two more members: the
same means of the picture that Pillow reduces to a half and to a quarter (`Image.reduce`).

Two kinds of file are not Pillow's to judge. Deep greys and floating-point samples, which Pillow clips or
does not open, are held to the picture that they were made of. And a file that swav does not read maps to
a part of the reason that it gives.
"""

import argparse
import gzip
import io
import itertools
import json
import struct
import subprocess
import tarfile
import zlib

import numpy
from PIL import Image, ImageOps

FILES = {}
# The pictures of files that Pillow may clip or not open.
TRUTH = {}
# Of files that are refused: a part of the reason.
REFUSED = {}


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
    "adobe2": adobe(2), "both1": JFIF + adobe(1), "both0-reversed": adobe(0) + JFIF,
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
    size = "<HHI" + {3: "Hxx", 4: "I", 9: "i"}.get(kind, "Bxxx")
    entry = struct.pack(size, 0x112, kind, 1, value)
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
        file = saved(scene(24, 20).convert(mode), "JPEG", quality=quality, progressive=progressive)
        key = f"jpeg/{mode}-{quality}-{progressive}"
        FILES[key] = file
        if mode == "CMYK":
            # The same data taken for YCCK, and without a word about what it is.
            for name in ["none", "jfif", "adobe0", "adobe1", "adobe2"]:
                FILES[f"{key}-{name}"] = marked(file, MARKERS[name])
    samplings = ["1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "3x1", "1x3", "3x2", "2x2,2x1,2x1", "2x2,1x2,1x2", "2x1,1x2,1x1"]
    for size, sampling, progressive in itertools.product([(24, 20), (41, 37)], samplings, [[], ["-progressive"]]):
        picture = saved(scene(*size), "PPM")
        options = ["-quality", "92", "-sample", sampling, *progressive]
        file = subprocess.run(["cjpeg", *options], input=picture, capture_output=True, check=True).stdout
        key = f"jpeg/{size[0]}x{size[1]}-{sampling}{''.join(progressive)}"
        FILES[key] = file
        for name, change in {"optimised": ["-optimize"], "restarts": ["-restart", "1"],
                             "turned": ["-rotate", "90", "-trim"]}.items():
            result = subprocess.run(["jpegtran", *change], input=file, capture_output=True)
            # libjpeg itself refuses some units, turned.
            if result.returncode == 0:
                FILES[f"{key}-{name}"] = result.stdout
        REFUSED[f"{key}-arithmetic"] = "arithmetic coding"
        FILES[f"{key}-arithmetic"] = subprocess.run(
            ["jpegtran", "-arithmetic"], input=file, capture_output=True, check=True).stdout
    samplings = {"444": (1, 1), "422": (2, 1), "440": (1, 2), "420": (2, 2), "411": (4, 1)}
    orders = {"y-cb-cr": [[0], [1], [2]], "y-cbcr": [[0], [1, 2]], "ycb-cr": [[0, 1], [2]],
              "cb-cr-y": [[1], [2], [0]], "ycbcr": [[0, 1, 2]]}
    for size, (s, luma), (o, order), restart in itertools.product(
        [(40, 36), (41, 37), (5, 3)], samplings.items(), orders.items(), [0, 2]
    ):
        file = in_scans(scene(*size), [luma, (1, 1), (1, 1)], order, restart)
        FILES[f"scans/{size[0]}x{size[1]}-{s}-{o}-{restart}"] = file


def chunk(kind, content):
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def reduced():
    """Larger ones, for what decoders at a reduced size make of them."""
    samplings = ["1x1", "2x1", "1x2", "2x2", "4x1", "3x1", "2x2,2x1,2x1", "2x1,1x2,1x1"]
    ways = {"": [], "-restarts": ["-restart", "1"], "-progressive": ["-progressive"], "-grey": ["-grayscale"]}
    for size, sampling, (way, options) in itertools.product([(128, 96), (129, 97)], samplings, ways.items()):
        options = ["-quality", "75", "-optimize", "-sample", sampling, *options]
        picture = saved(scene(*size), "PPM")
        file = subprocess.run(["cjpeg", *options], input=picture, capture_output=True, check=True).stdout
        FILES[f"reduced/{size[0]}-{sampling}{way}"] = file
    for sampling, (name, markers) in itertools.product(["4:4:4", "4:2:0"], MARKERS.items()):
        file = saved(scene(128, 96), "JPEG", subsampling=sampling)
        FILES[f"reduced/{sampling.replace(':', '')}-{name}"] = marked(file, markers)
    for value in range(2, 9):
        FILES[f"reduced/turned-{value}"] = saved(scene(128, 96), "JPEG", exif=b"Exif\0\0" + exif(value, 3))
    FILES["reduced/cmyk"] = saved(scene(128, 96).convert("CMYK"), "JPEG")


def oriented():
    image = scene(24, 20)
    plain = saved(image, "PNG")
    head, tail = plain[:33], plain[33:]
    for value, kind in itertools.product(range(1, 9), [3, 4, 1, 2, 7, 9]):
        block = exif(value, kind)
        FILES[f"jpeg/exif-{value}-{kind}"] = saved(image, "JPEG", exif=b"Exif\0\0" + block)
        FILES[f"png/exif-{value}-{kind}"] = head + chunk(b"eXIf", block) + tail
        FILES[f"png/exif-behind-{value}-{kind}"] = plain[:-12] + chunk(b"eXIf", block) + plain[-12:]
        FILES[f"webp/exif-{value}-{kind}"] = saved(image, "WEBP", lossless=True, exif=block)
        FILES[f"webp/exif-animated-{value}-{kind}"] = saved(
            image, "WEBP", lossless=True, exif=block, save_all=True,
            append_images=[ImageOps.invert(image)])
    for value in range(1, 9):
        FILES[f"jpeg/xmp-{value}"] = saved(image, "JPEG", xmp=XMP % value)
        FILES[f"webp/xmp-{value}"] = saved(image, "WEBP", lossless=True, xmp=XMP % value)
        block = b"Exif\0\0" + exif(value, 3)
        digits = block.hex()
        lines = "\n".join(digits[at : at + 72] for at in range(0, len(digits), 72))
        name, other = b"Raw profile type exif\0", b"Raw profile type APP1\0"
        profile = f"\nexif\n{len(block):8}\n{lines}\n".encode()
        xml, packet = b"XML:com.adobe.xmp\0", XMP % value
        other_way = XMP % (9 - value)
        for key, chunks in {
            "raw-text": [(b"tEXt", name + profile)],
            "raw-packed": [(b"zTXt", name + b"\0" + zlib.compress(profile))],
            "raw-other": [(b"tEXt", other + profile)],
            "raw-and-xmp": [(b"iTXt", xml + b"\0\0\0\0" + other_way), (b"tEXt", name + profile)],
            "exif-and-raw": [(b"tEXt", name + profile), (b"eXIf", exif(9 - value, 3))],
            "xmp": [(b"iTXt", xml + b"\0\0\0\0" + packet)],
            "xmp-packed": [(b"iTXt", xml + b"\1\0en\0x\0" + zlib.compress(packet))],
            "xmp-text": [(b"tEXt", xml + packet)],
            "xmp-twice": [(b"iTXt", xml + b"\0\0\0\0" + text) for text in (other_way, packet)],
        }.items():
            content = b"".join(chunk(*each) for each in chunks)
            FILES[f"png/{key}-{value}"] = head + content + tail
            FILES[f"png/{key}-{value}-behind"] = plain[:-12] + content + plain[-12:]


def packed(rows, bits, order=">"):
    """Rows of numbers as bytes, the first number in the highest bits."""
    if bits > 8:
        return rows.astype(f"{order}u{bits // 8}").tobytes()
    bit = rows[..., None] >> numpy.arange(bits - 1, -1, -1) & 1
    return numpy.packbits(bit.reshape(len(rows), -1).astype("u1"), axis=1).tobytes()


def deep(planes, bits):
    """Numbers of 8 bits as numbers of other depths."""
    return planes >> (8 - bits) if bits < 8 else planes.astype("u4") * {8: 1, 16: 257, 32: 16843009}[bits]


def shown(planes, bits):
    """What those stand for, as 8 bits."""
    planes = deep(planes, bits) * (255 // ((1 << bits) - 1)) if bits < 8 else planes
    return numpy.broadcast_to(planes, (*planes.shape[:2], 3)).astype("u1")


def coloured(image, bits):
    """Indices, and the palette: up to 2 ** bits colours of three channels."""
    image = image.quantize(1 << bits, dither=Image.Dither.NONE)
    colours = numpy.zeros((1 << bits, 3), int)
    found = numpy.array(image.getpalette()).reshape(-1, 3)[: 1 << bits]
    colours[: len(found)] = found
    return numpy.array(image)[..., None].astype(int), colours


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def pngs():
    kinds = [("grey", 0, [1, 2, 4, 8, 16]), ("rgb", 2, [8, 16]), ("palette", 3, [1, 2, 4, 8]),
             ("grey-alpha", 4, [8, 16]), ("rgba", 6, [8, 16])]
    for size, (name, kind, depths), interlaced in itertools.product([(24, 20), (5, 3)], kinds, [0, 1]):
        image, (width, height) = scene(*size), size
        for bits, transparent in itertools.product(depths, [0, 1] if kind < 4 else [0]):
            chunks = b""
            if kind == 3:
                planes, colours = coloured(image, bits)
                chunks = chunk(b"PLTE", colours.astype("u1").tobytes())
            else:
                eight = numpy.array(image.convert({0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}[kind]), int)
                eight = eight.reshape(height, width, -1)
                if kind > 3:
                    eight[..., -1] = numpy.arange(width) * 9
                planes = deep(eight, bits)
            if transparent:
                first = planes[0, 0].astype(">u2").tobytes()
                chunks += chunk(b"tRNS", b"\0\x80" if kind == 3 else first)
            data = b""
            for x, y, across, down in PASSES if interlaced else [(0, 0, 1, 1)]:
                part = planes[y::down, x::across]
                if part.size:
                    rows = packed(part.reshape(len(part), -1), bits)
                    step = len(rows) // len(part)
                    data += b"".join(b"\0" + rows[at : at + step] for at in range(0, len(rows), step))
            header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
            key = f"png/{name}-{bits}-{width}-{'interlaced' if interlaced else 'plain'}"
            key += "-transparent" if transparent else ""
            FILES[key] = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks
                          + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b""))
            if kind == 0 and bits == 16:
                TRUTH[key] = shown(eight, 16)


def webps():
    for size, lossless, alpha, animated, about in itertools.product(
        [(24, 20), (25, 21), (1, 1), (3, 2), (17, 33)], [0, 1], [0, 1], [0, 1], ["", "exif", "xmp", "both"]
    ):
        picture = scene(*size)
        other = ImageOps.invert(picture)
        if alpha:
            picture.putalpha(200)
            other.putalpha(100)
        options = {"lossless": bool(lossless), "quality": 90, "exact": True}
        if about in ("exif", "both"):
            options["exif"] = exif(6, 3)
        if about in ("xmp", "both"):
            options["xmp"] = XMP % 8
        if animated:
            options |= {"save_all": True, "append_images": [other]}
        key = f"webp/{size[0]}x{size[1]}-{'lossless' if lossless else 'lossy'}"
        key += f"{'-alpha' * alpha}{'-animated' * animated}{'-' * bool(about)}{about}"
        FILES[key] = saved(picture, "WEBP", **options)


def tiff(planes, bits, photometric, *, order="<", big=False, form=1, tile=None, rows=None, planar=False,
         compress=None, predictor=1, fields=()):
    """A TIFF of `planes`, height × width × samples, of numbers of `bits` bits."""
    height, width, samples = planes.shape
    if tile:
        high, wide = tile, tile
        parts = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
    else:
        high, wide = rows or height, width
        parts = [(y, 0) for y in range(0, height, high)]
    content = []
    for channels in [[c] for c in range(samples)] if planar else [list(range(samples))]:
        for y, x in parts:
            part = planes[y : y + high, x : x + wide][..., channels]
            if tile:
                part = numpy.pad(part, ((0, high - part.shape[0]), (0, wide - part.shape[1]), (0, 0)), "edge")
            if predictor == 2:
                part = numpy.concatenate([part[:, :1], numpy.diff(part.astype("i8"), axis=1) % (1 << bits)], 1)
            if form == 3:
                data = part.astype(f"{order}f{bits // 8}").tobytes()
            else:
                data = packed(part.reshape(len(part), -1).astype("i8"), bits, order)
            if compress == "deflate":
                data = zlib.compress(data)
            elif compress == "packbits":
                each = len(data) // len(part)
                lines = [data[at : at + each] for at in range(0, len(data), each)]
                data = b"".join(
                    bytes([len(run) - 1]) + run
                    for line in lines for run in (line[at : at + 100] for at in range(0, each, 100)))
            content.append(data)
    number = {None: 1, "deflate": 8, "packbits": 32773}[compress]
    entries = [(256, 3, [width]), (257, 3, [height]), (258, 3, [bits] * samples), (259, 3, [number]),
               (262, 3, [photometric]), (277, 3, [samples]), (284, 3, [2 if planar else 1]), *fields]
    if form != 1:
        entries.append((339, 3, [form] * samples))
    if predictor != 1:
        entries.append((317, 3, [predictor]))
    lengths = [len(data) for data in content]
    if tile:
        entries += [(322, 3, [tile]), (323, 3, [tile]), (324, 4, None), (325, 4, lengths)]
    else:
        entries += [(273, 4, None), (278, 3, [high]), (279, 4, lengths)]
    word, w = (8, "Q") if big else (4, "I")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42)
    head += struct.pack(f"{order}HHQ", 8, 0, 16) if big else struct.pack(f"{order}I", 8)
    head += struct.pack(f"{order}{'Q' if big else 'H'}", len(entries))
    at = len(head) + len(entries) * (4 + 2 * word) + word
    starts, body = [], b""
    for data in content:
        starts.append(at + len(body))
        body += data + b"\0" * (len(data) % 2)
    directory = b""
    for tag, kind, values in sorted(entries, key=lambda entry: entry[0]):
        values = starts if values is None else values
        value = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(value) > word:
            body, value = body + value, struct.pack(order + w, at + len(body))
        directory += struct.pack(f"{order}HH{w}", tag, kind, len(values)) + value.ljust(word, b"\0")
    return head + directory + b"\0" * word + body


def tiffs():
    image = scene(24, 20)
    rgb = numpy.array(image).astype(int)
    grey = numpy.array(image.convert("L"))[..., None].astype(int)
    ink = numpy.array(image.convert("CMYK")).astype(int)
    ycc = numpy.array(image.convert("YCbCr")).astype(int)
    alpha = numpy.broadcast_to(numpy.arange(100, 148, 2)[:, None], grey.shape)
    more = numpy.broadcast_to(numpy.arange(24)[:, None] * 10, grey.shape)

    def beside(*planes):
        return numpy.concatenate(planes, 2)

    kinds = {}
    for bits in [1, 2, 4, 8, 16]:
        kinds[f"grey-{bits}"] = (deep(grey, bits), bits, 1, {}, shown(grey, bits))
        kinds[f"white-{bits}"] = ((1 << bits) - 1 - deep(grey, bits), bits, 0, {}, shown(grey, bits))
    kinds["grey-32"] = (deep(grey, 32), 32, 1, {}, shown(grey, 8))
    for bits in [1, 2, 4, 8]:
        indices, colours = coloured(image, bits)
        table = {"fields": [(320, 3, (colours.T.flatten() * 257).tolist())]}
        kinds[f"palette-{bits}"] = (indices, bits, 3, table, colours[indices[..., 0]])
    for kind in range(3):
        extra = {"fields": [(338, 3, [kind])]}
        kinds[f"grey-alpha-{kind}"] = (beside(grey * alpha // 255 if kind == 1 else grey, alpha), 8, 1, extra,
                                       shown(grey * alpha // 255 * 255 // alpha if kind == 1 else grey, 8))
        for bits in [8, 16]:
            four = beside(rgb * alpha // 255 if kind == 1 else rgb, alpha)
            kinds[f"rgba-{kind}-{bits}"] = (
                deep(four, bits), bits, 2, extra, rgb * alpha // 255 * 255 // alpha if kind == 1 else rgb)
    kinds["grey-alpha-16"] = (deep(beside(grey, alpha), 16), 16, 1, {"fields": [(338, 3, [2])]}, shown(grey, 8))
    kinds["rgb-8"] = (rgb, 8, 2, {}, rgb)
    kinds["rgb-16"] = (deep(rgb, 16), 16, 2, {}, rgb)
    kinds["rgb-32"] = (deep(rgb, 32), 32, 2, {}, rgb)
    kinds["rgba-unsaid"] = (beside(rgb, alpha), 8, 2, {}, rgb)
    kinds["rgb-and-two"] = (beside(rgb, more, alpha), 8, 2, {"fields": [(338, 3, [0, 0])]}, rgb)
    kinds["cmyk-8"] = (ink, 8, 5, {}, rgb)
    kinds["cmyk-16"] = (deep(ink, 16), 16, 5, {}, rgb)
    kinds["ycbcr"] = (ycc, 8, 6, {"fields": [(530, 3, [1, 1])]}, rgb)
    for bits in [16, 32, 64]:
        kinds[f"grey-float-{bits}"] = (grey / 255, bits, 1, {"form": 3}, shown(grey, 8))
        kinds[f"rgb-float-{bits}"] = (rgb / 255, bits, 2, {"form": 3}, rgb)
    kinds["rgba-float"] = (beside(rgb, alpha) / 255, 32, 2, {"form": 3, "fields": [(338, 3, [2])]}, rgb)
    layouts = {
        "strip": {}, "big-endian": {"order": ">"}, "bigtiff": {"big": True},
        "bigtiff-big-endian": {"big": True, "order": ">"}, "strips": {"rows": 7}, "tiles": {"tile": 16},
        "planar": {"planar": True, "rows": 7}, "planar-tiles": {"planar": True, "tile": 16},
        "planar-fitting": {"planar": True, "tile": 4},
        "deflate": {"compress": "deflate", "rows": 7}, "packbits": {"compress": "packbits"},
        "predictor": {"compress": "deflate", "predictor": 2, "tile": 16}, "turned": {"turned": 6},
        "bigtiff-turned": {"big": True, "turned": 8},
    }
    for (kind, (planes, bits, photometric, options, truth)), (layout, more) in itertools.product(
        kinds.items(), layouts.items()
    ):
        more = dict(more)
        form, turned = options.get("form", 1), more.pop("turned", None)
        if layout == "predictor" and (form == 3 or bits < 8):
            continue
        if layout.startswith("planar") and planes.shape[2] == 1:
            continue
        fields = options.get("fields", []) + ([(274, 3, [turned])] if turned else [])
        key = f"tiff/{kind}-{layout}"
        FILES[key] = tiff(planes, bits, photometric, form=form, fields=fields, **more)
        truth = truth.astype("u1")
        TRUTH[key] = numpy.rot90(truth, {None: 0, 6: -1, 8: 1}[turned])
    for mode, compression in itertools.product(
        ["L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "1"],
        [None, "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "group4"]
    ):
        if compression == "group4" and mode != "1":
            continue
        try:
            FILES[f"tiff/Pillow-{mode}-{compression}"] = saved(
                image.convert(mode), "TIFF", compression=compression)
        except (OSError, KeyError, ValueError):
            continue
    FILES["tiff/grey-12"] = tiff(grey, 8, 1).replace(
        struct.pack("<HHIHH", 258, 3, 1, 8, 0), struct.pack("<HHIHH", 258, 3, 1, 12, 0))
    FILES["tiff/lab"] = saved(Image.merge("LAB", image.split()), "TIFF")
    FILES["tiff/signed"] = tiff(grey, 8, 1, form=2)
    FILES["tiff/reversed"] = tiff(grey, 8, 1, fields=[(266, 3, [2])])
    FILES["tiff/bands"] = tiff(beside(grey, grey, grey), 8, 1, fields=[(338, 3, [0, 0])])
    for kind, reason in {"grey-12": "Gray(12)", "lab": "CIELab", "signed": "signed samples",
                         "reversed": "reverse order", "bands": "num_samples: 3",
                         "Pillow-LA-jpeg": "grey and alpha as JPEG",
                         "rgb-and-two-predictor": "a predictor and",
                         "rgb-and-two-tiles": "samples beside the colours in tiles"}.items():
        REFUSED[f"tiff/{kind}"] = reason
    for name in FILES:
        if name.startswith("tiff/") and name.endswith("planar-tiles"):
            REFUSED[name] = "a plane for each sample in tiles"


def bmp(image, bits, compression=0, top_down=False, masks=b"", data=None, colours=b"", version=40):
    width, height = image.size
    header = struct.pack("<IiiHHIIiiII", version, width, -height if top_down else height, 1, bits,
                         compression, 0, 0, 0, len(colours) // 4, 0)
    header += masks if version == 40 else masks.ljust(version - 40, b"\0")
    start = 14 + len(header) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + colours + data


def run_lengths(indices, bits):
    """Runs of one index, and every third pair of rows as it is."""
    out = b""
    for number, row in enumerate(indices):
        row = row.tolist()
        if number % 3 == 2 and len(row) > 2:
            part = row if bits == 8 else [a << 4 | b for a, b in itertools.zip_longest(row[::2], row[1::2], fillvalue=0)]
            out += bytes([0, len(row), *part]) + b"\0" * (len(part) % 2)
        else:
            for index, run in itertools.groupby(row):
                out += bytes([len(list(run)), index if bits == 8 else index * 17])
        out += b"\0\0"
    return out + b"\0\1"


def bmps():
    for size, top_down in itertools.product([(24, 20), (25, 21), (1, 1)], [False, True]):
        image = scene(*size)
        rgb = numpy.array(image).astype(int)
        step = -1 if not top_down else 1
        end = f"{size[0]}{'-top-down' if top_down else ''}"

        def rows(lines):
            data = [line + b"\0" * (-len(line) % 4) for line in lines]
            return b"".join(data[::step])

        for bits in [1, 4, 8]:
            indices, colours = coloured(image, bits)
            table = b"".join(bytes([b, g, r, 0]) for r, g, b in colours.tolist())
            lines = [packed(line.reshape(1, -1), bits) for line in indices[..., 0]]
            FILES[f"bmp/palette-{bits}-{end}"] = bmp(
                image, bits, data=rows(lines), colours=table, top_down=top_down)
            if bits > 1 and not top_down:
                FILES[f"bmp/runs-{bits}-{end}"] = bmp(
                    image, bits, 1 if bits == 8 else 2, data=run_lengths(indices[::-1, :, 0], bits), colours=table)
        five = rgb >> 3
        for name, compression, masks, value in [
            ("555", 0, b"", five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]),
            ("565", 3, struct.pack("<III", 0xF800, 0x7E0, 0x1F),
             five[..., 0] << 11 | (rgb[..., 1] >> 2) << 5 | five[..., 2]),
        ]:
            FILES[f"bmp/{name}-{end}"] = bmp(
                image, 16, compression, top_down, masks, rows([line.astype("<u2").tobytes() for line in value]))
        value = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        FILES[f"bmp/24-{end}"] = bmp(
            image, 24, 0, top_down, data=rows([line[:, ::-1].astype("u1").tobytes() for line in rgb]))
        lines = rows([(line | 0x80 << 24).astype("<u4").tobytes() for line in value])
        FILES[f"bmp/32-{end}"] = bmp(image, 32, 0, top_down, data=lines)
        masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        FILES[f"bmp/32-masks-{end}"] = bmp(image, 32, 3, top_down, masks, lines, version=56)
        FILES[f"bmp/32-masks-124-{end}"] = bmp(image, 32, 3, top_down, masks, lines, version=124)


def others():
    image = scene(24, 20)
    FILES["gif/still"] = saved(image.convert("P"), "GIF")
    FILES["gif/animated"] = saved(
        image.convert("P"), "GIF", save_all=True, append_images=[ImageOps.invert(image)])


def means(image):
    pixels, means = numpy.array(image).astype(float), []
    height, width = pixels.shape[:2]
    for row, column in itertools.product(range(4), range(4)):
        top, left = row * height // 4, column * width // 4
        bottom, right = (row + 1) * height // 4, (column + 1) * width // 4
        part = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
        means += [round(mean, 1) for mean in part.mean((0, 1)).tolist()]
    return means


def expected(name, file):
    if name in REFUSED:
        return REFUSED[name]
    try:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    except (OSError, SyntaxError, ValueError):
        image = None
    # Of planes of 16 bits Pillow makes stripes.
    clips = image is None or image.mode in ("I", "I;16", "I;16B", "F", "La")
    if clips or "-16-planar" in name:
        image = Image.fromarray(numpy.ascontiguousarray(TRUTH[name]))
    image = image.convert("RGB")
    result = [*image.size, means(image)]
    if name.startswith("reduced/"):
        result += [means(image.reduce(2)), means(image.reduce(4))]
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True)
    out = parser.parse_args().out
    jpegs()
    reduced()
    oriented()
    pngs()
    webps()
    tiffs()
    bmps()
    others()
    results = {}
    for name, file in FILES.items():
        try:
            results[name] = expected(name, file)
        except Exception as error:
            raise SystemExit(f"{name}: {error}")
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
