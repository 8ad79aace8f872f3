"""SwAV's multi-crop in the CPU pipeline of NVIDIA DALI.

    python loader_dali.py FOLDER [THREADS=2] [CROPS=2x224+6x96] [LIMIT=640]

Arguments and result are those of loader_torchvision.py. Wants nvidia-dali-cuda120; no GPU is used.
"""

import json
import pathlib
import sys
import time

import nvidia.dali
from nvidia.dali import fn, pipeline_def, types

MEAN = [255 * value for value in (0.485, 0.456, 0.406)]
STD = [255 * value for value in (0.228, 0.224, 0.225)]
BATCH = 32


def specification(text):
    """"2x224+6x96" as (count, size, scale)."""
    for number, part in enumerate(text.split("+")):
        count, size = map(int, part.split("x"))
        yield count, size, (0.14, 1.0) if number == 0 else (0.05, 0.14)


def jpegs(folder, limit):
    kinds = {".jpg", ".jpeg"}
    found = sorted(p for p in pathlib.Path(folder).rglob("*") if p.suffix.lower() in kinds)
    return [str(path) for path in found[:: max(1, len(found) // limit)][:limit]]


@pipeline_def(batch_size=BATCH, device_id=None, seed=1, enable_conditionals=True)
def multicrop(files, crops):
    encoded, _ = fn.readers.file(files=files, random_shuffle=True)
    images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
    results = []
    for count, size, scale in crops:
        for _ in range(count):
            crop = fn.random_resized_crop(images, size=size, random_area=scale, antialias=True)
            jitter = fn.random.coin_flip(probability=0.8)
            grey = fn.random.coin_flip(probability=0.2)
            brightness = 1 + jitter * fn.random.uniform(range=[-0.8, 0.8])
            contrast = 1 + jitter * fn.random.uniform(range=[-0.8, 0.8])
            saturation = 1 + jitter * fn.random.uniform(range=[-0.8, 0.8])
            hue = jitter * fn.random.uniform(range=[-72.0, 72.0])
            crop = fn.color_twist(
                crop, brightness=brightness, contrast=contrast, saturation=saturation * (1 - grey), hue=hue)
            if fn.random.coin_flip(probability=0.5, dtype=types.BOOL):
                crop = fn.gaussian_blur(crop, sigma=fn.random.uniform(range=[0.1, 2.0]))
            else:
                crop = crop
            results.append(fn.crop_mirror_normalize(
                crop, dtype=types.FLOAT, output_layout="CHW", mean=MEAN, std=STD,
                mirror=fn.random.coin_flip(probability=0.5)))
    return tuple(results)


def main(folder, threads="2", crops="2x224+6x96", limit="640"):
    files = jpegs(folder, int(limit))
    pipeline = multicrop(files, [(n, s, list(scale)) for n, s, scale in specification(crops)], num_threads=int(threads))
    pipeline.build()
    best = 0.0
    for _ in range(3):
        begin, images = time.perf_counter(), 0
        for _ in range(max(1, len(files) // BATCH)):
            pipeline.run()
            images += BATCH
        best = max(best, images / (time.perf_counter() - begin))
    print(json.dumps({"name": f"DALI {nvidia.dali.__version__}, CPU", "images_per_s": round(best, 1)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
