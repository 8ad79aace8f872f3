"""Features of a tar of images in PyTorch, on the CPU in f32: what `cargo xtask bench-embed` measures, with the same network.

    embed_torch.py SET.tar OUT.npy [--arch cifar10-slim] [--size 32]

Images are decoded by workers of a DataLoader, resized and cropped as an evaluation does where they are not of that
size already, and go through the network in batches. Prints one line of JSON: images, seconds from the listing of the archive
to the file of features, without the import of PyTorch, and the peaks of memory of this process and of a worker."""

import argparse
import io
import json
import os
import resource
import tarfile
import time

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from step_torch import backbone

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Archive(torch.utils.data.Dataset):
    """The images of a tar; each worker has a handle of its own."""

    def __init__(self, path, size):
        self.path, self.file = path, None
        with tarfile.open(path) as archive:
            self.members = [(m.offset_data, m.size) for m in archive if m.isfile() and not m.name.startswith(".")]
        steps = [transforms.Resize(size * 256 // 224), transforms.CenterCrop(size)] if size > 32 else []
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self):
        return len(self.members)

    def __getitem__(self, index):
        if self.file is None:
            self.file = open(self.path, "rb")
        offset, size = self.members[index]
        self.file.seek(offset)
        return self.transform(Image.open(io.BytesIO(self.file.read(size))).convert("RGB"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("set")
    parser.add_argument("out")
    parser.add_argument("--arch", default="cifar10-slim")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    network, _ = backbone(args.arch)
    network.eval()

    begun = time.perf_counter()
    images = Archive(args.set, args.size)
    loader = torch.utils.data.DataLoader(images, args.batch, num_workers=cores)
    with torch.inference_mode():
        features = np.concatenate([network(batch).numpy() for batch in loader])
    np.save(args.out, features)
    seconds = time.perf_counter() - begun

    peak = lambda who: resource.getrusage(who).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "name": "PyTorch " + torch.__version__.split("+")[0],
                "images": len(features),
                "seconds": seconds,
                "peak_rss_mib": peak(resource.RUSAGE_SELF),
                "worker_rss_mib": peak(resource.RUSAGE_CHILDREN),
            }
        )
    )


if __name__ == "__main__":
    main()
