"""SwAV's multi-crop as torchvision's users write it: Pillow images, transforms, a DataLoader.

    python loader_torchvision.py FOLDER [WORKERS=2] [CROPS=2x224+6x96] [LIMIT=640]

FOLDER is searched at any depth for JPEG files, of which LIMIT are used. The first group of CROPS
shows 14 to 100 % of an image, every other 5 to 14 %. Prints one line of JSON: source images a second in
the best of three epochs. Wants torch, torchvision and Pillow.
"""

import json
import pathlib
import random
import sys
import time

import torch
import torchvision
from PIL import Image, ImageFilter
from torchvision import transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
BATCH = 32


def specification(text):
    """"2x224+6x96" as (count, size, scale)."""
    for number, part in enumerate(text.split("+")):
        count, size = map(int, part.split("x"))
        yield count, size, (0.14, 1.0) if number == 0 else (0.05, 0.14)


def jpegs(folder, limit):
    kinds = {".jpg", ".jpeg"}
    found = sorted(p for p in pathlib.Path(folder).rglob("*") if p.suffix.lower() in kinds)
    # Spread over the folder, so that not all are of one class.
    return found[:: max(1, len(found) // limit)][:limit]


def blur(image):
    """Half of the crops, with a sigma between 0.1 and 2."""
    if random.random() < 0.5:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
    return image


def pipeline(size, scale):
    return transforms.Compose([
        transforms.RandomResizedCrop(size, scale=scale),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([transforms.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
        transforms.RandomGrayscale(0.2),
        blur,
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ])


class MultiCrop(torch.utils.data.Dataset):
    def __init__(self, files, crops):
        self.files = files
        self.pipelines = [pipeline(size, scale) for count, size, scale in crops for _ in range(count)]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        image = Image.open(self.files[index]).convert("RGB")
        return [make(image) for make in self.pipelines]


def main(folder, workers="2", crops="2x224+6x96", limit="640"):
    torch.set_num_threads(1)
    data = MultiCrop(jpegs(folder, int(limit)), list(specification(crops)))
    loader = torch.utils.data.DataLoader(
        data, BATCH, shuffle=True, drop_last=True, num_workers=int(workers), persistent_workers=True)
    best = 0.0
    # The first epoch also starts the workers and fills the system's file cache.
    for _ in range(3):
        begin, images = time.perf_counter(), 0
        for batch in loader:
            images += len(batch[0])
        best = max(best, images / (time.perf_counter() - begin))
    name = f"torchvision {torchvision.__version__} + Pillow"
    print(json.dumps({"name": name, "images_per_s": round(best, 1)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
