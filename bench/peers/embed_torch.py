"""Features of a tar of images in PyTorch: what `cargo xtask bench-embed` measures, with the same network.

    embed_torch.py SET.tar OUT.npy [--arch cifar10-slim] [--size 32] [--device cpu|cuda] [--precision amp tf32]

Images are decoded by workers of a DataLoader, resized and cropped as an evaluation does where they are not of that size
already, and go through the network in batches: on the CPU in f32; on a GPU with bf16 autocast and channels_last
(`amp`) and in f32 with TF32 (`tf32`), one after the other, from pinned memory and after two batches of warm-up. Prints a
line of JSON for each precision: images, seconds from the listing of the archive to the file of features, without
the import of PyTorch, and the peaks of memory of this process and of a worker, on a GPU also of the device."""

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

from step_torch import NAMES, arguments, backbone

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


def measure(args, precision):
    cores, device, amp = len(os.sched_getaffinity(0)), torch.device(args.device), precision == "amp"
    cuda = device.type == "cuda"
    network, _ = backbone(args.arch)
    layout = torch.channels_last if amp else torch.contiguous_format
    network.to(device).to(memory_format=layout).eval()

    def features(batch):
        batch = batch.to(device, non_blocking=True).to(memory_format=layout)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            return network(batch).float().cpu().numpy()

    with torch.inference_mode():
        if cuda:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "f32"
            torch.backends.cudnn.benchmark = True
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            for _ in range(2):
                features(torch.randn(args.batch, 3, args.size, args.size))
        begun = time.perf_counter()
        images = Archive(args.set, args.size)
        loader = torch.utils.data.DataLoader(images, args.batch, num_workers=cores, pin_memory=cuda)
        rows = np.concatenate([features(batch) for batch in loader])
        np.save(args.out, rows)
        seconds = time.perf_counter() - begun

    peak = lambda who: resource.getrusage(who).ru_maxrss / 1024
    figures = {
        "name": "PyTorch " + torch.__version__.split("+")[0] + NAMES[precision],
        "images": len(rows),
        "seconds": seconds,
        "peak_rss_mib": peak(resource.RUSAGE_SELF),
        "worker_rss_mib": peak(resource.RUSAGE_CHILDREN),
    }
    if cuda:
        figures["device_memory_mib"] = torch.cuda.max_memory_reserved() / 2**20
        figures["device_memory_used_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("set")
    parser.add_argument("out")
    parser.add_argument("--arch", default="cifar10-slim")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    args = arguments(parser, ("f32", "tf32", "amp"))
    for precision in args.precision:
        print(json.dumps(measure(args, precision)), flush=True)


if __name__ == "__main__":
    main()
