"""SwAV of lightly (PyTorch, CPU) with the network, crops, batch and rate of `configs/cifar10-slim.toml`.

    cifar_lightly.py TRAIN.tar TEST.tar --epochs 20 [--stop-after 2]

Images are decoded once, into memory. Prints a line of JSON per epoch with the seconds of training so far, and at the
end kNN-200 and linear accuracy of the features (`probe.py`), which are measured untrained too. `--stop-after`
trains the first epochs only, of a schedule of `--epochs`; `--steps` times so many steps, the first ten not counted, and
measures nothing else."""

import argparse
import io
import json
import random
import tarfile
import time

import numpy as np
import torch
import torchvision
from lightly.loss import SwaVLoss
from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
from lightly.transforms.swav_transform import SwaVTransform
from PIL import Image
from torch.nn import functional as F

from probe import judge
from step_torch import slim

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
WARM_UP = 10
BATCH, DIM, PROTOTYPES = 256, 128, 512


def read(path):
    """Images and labels; the first folder is the class."""
    images, names = [], []
    with tarfile.open(path) as archive:
        for member in sorted((m for m in archive if m.isfile()), key=lambda m: m.name):
            images.append(Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB"))
            names.append(member.name.split("/")[-2])
    classes = sorted(set(names))
    return images, torch.tensor([classes.index(name) for name in names])


class Views(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images
        self.transform = SwaVTransform(
            crop_sizes=(32,),
            crop_counts=(2,),
            crop_min_scales=(0.14,),
            crop_max_scales=(1.0,),
            cj_strength=0.5,
            gaussian_blur=0.0,
            normalize={"mean": MEAN, "std": STD},
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index])


@torch.no_grad()
def features(network, images):
    network.eval()
    normalise = torchvision.transforms.Compose(
        [torchvision.transforms.ToTensor(), torchvision.transforms.Normalize(MEAN, STD)]
    )
    parts = [images[i : i + 500] for i in range(0, len(images), 500)]
    rows = torch.cat([network(torch.stack([normalise(image) for image in part])) for part in parts])
    network.train()
    return rows


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("train")
    arguments.add_argument("test")
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--stop-after", type=int)
    arguments.add_argument("--steps", type=int)
    arguments = arguments.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0), random.seed(0), np.random.seed(0)

    (images, labels), (held_out, wanted) = read(arguments.train), read(arguments.test)
    network, width = slim()
    head, prototypes = SwaVProjectionHead(width, width, DIM), SwaVPrototypes(DIM, PROTOTYPES, 0)
    criterion = SwaVLoss()
    parameters = [*network.parameters(), *head.parameters(), *prototypes.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3 * BATCH / 128, weight_decay=1e-6)
    steps = len(images) // BATCH * arguments.epochs
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loader = torch.utils.data.DataLoader(
        Views(images), batch_size=BATCH, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True
    )

    def report(**entries):
        print(json.dumps(entries), flush=True)

    if arguments.steps is None:
        report(epoch=0, **judge(features(network, images), labels, features(network, held_out), wanted))
    seconds = 0.0
    for epoch in range(1, (arguments.stop_after or arguments.epochs) + 1):
        begun, total = time.monotonic(), 0.0
        for step, views in enumerate(loader):
            if step == WARM_UP:
                warm = time.monotonic()
            if step == arguments.steps:
                images_per_s = BATCH * (step - WARM_UP) / (time.monotonic() - warm)
                return report(steps=step, images_per_s=images_per_s)
            with torch.no_grad():
                prototypes.normalize()
            views = views[0] if isinstance(views[0], (list, tuple)) else views
            scores = prototypes(F.normalize(head(network(torch.cat(views[:2]))), dim=1))
            loss = criterion(list(scores.chunk(2)), [])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds += time.monotonic() - begun
        report(epoch=epoch, loss=total / len(loader), seconds=seconds)
    report(epoch=epoch, **judge(features(network, images), labels, features(network, held_out), wanted))


if __name__ == "__main__":
    main()
