"""A whole step of SwAV in eager PyTorch, on the CPU in f32: what `cargo xtask bench-step` measures, with the same
network, crops, codes, loss and optimizer.

    step_torch.py --arch resnet50 --crops 2x96+4x48 --batch 16 --prototypes 3000 --optimizer larc

Prints one line of JSON: images per second and seconds per phase of the median step, and the peak of memory."""

import argparse
import json
import os
import resource
import statistics
import time

import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

TEMPERATURE, EPSILON, ROUNDS = 0.1, 0.05, 3
MOMENTUM, DECAY, TRUST = 0.9, 1e-6, 0.001
PHASES = ("forward", "codes", "loss", "backward", "update")
WARM_UP, LEAST, MOST, SECONDS = 2, 5, 30, 25


def slim():
    """A ResNet-18 of a quarter of the width for images of 32 pixels, as in the recipe cifar10-slim."""
    layers = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    width = 16
    for stage, planes in enumerate((16, 32, 64, 128)):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = None
            if stride != 1 or width != planes:
                shortcut = nn.Sequential(nn.Conv2d(width, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
            layers.append(BasicBlock(width, planes, stride, shortcut))
            width = planes
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width


def backbone(arch):
    if arch == "cifar10-slim":
        return slim()
    network = getattr(torchvision.models, arch)()
    width = network.fc.in_features
    network.fc = nn.Identity()
    return network, width


class Larc(torch.optim.SGD):
    """SGD on gradients that are scaled to the length of their parameter."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                length, slope = parameter.norm(), parameter.grad.norm()
                if length > 0 and slope > 0:
                    parameter.grad.add_(parameter, alpha=DECAY)
                    parameter.grad.mul_(TRUST * length / (slope + DECAY * length + 1e-8))
        super().step()


@torch.no_grad()
def assign(scores, epsilon=EPSILON):
    codes = (scores / epsilon).exp_().t()
    prototypes, samples = codes.shape
    codes /= codes.sum()
    for _ in range(ROUNDS):
        codes /= codes.sum(dim=1, keepdim=True) * prototypes
        codes /= codes.sum(dim=0, keepdim=True) * samples
    return (codes * samples).t()


def swapped(scores, codes):
    """Every crop predicts the codes of those of the first two that it is not."""
    loss = 0.0
    for own, code in enumerate(codes):
        others = [crop for index, crop in enumerate(scores) if index != own]
        terms = [-(code * F.log_softmax(crop / TEMPERATURE, dim=1)).sum(dim=1).mean() for crop in others]
        loss = loss + sum(terms) / len(terms)
    return loss / len(codes)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--crops", default="2x96+4x48")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prototypes", type=int, default=3000)
    parser.add_argument("--optimizer", choices=("adam", "larc"), default="larc")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    body, width = backbone(args.arch)
    hidden = min(width, 2048)
    head = nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 128))
    prototypes = nn.Linear(128, args.prototypes, bias=False)
    parameters = [p for module in (body, head, prototypes) for p in module.parameters()]
    if args.optimizer == "adam":
        optimizer = torch.optim.Adam(parameters, lr=1e-3 * args.batch / 128, weight_decay=DECAY)
    else:
        optimizer = Larc(parameters, lr=0.6 * args.batch / 256, momentum=MOMENTUM)
    groups = [tuple(map(int, group.split("x"))) for group in args.crops.split("+")]
    crops = [torch.randn(count * args.batch, 3, size, size) for count, size in groups]

    steps = []
    begun = time.perf_counter()
    while len(steps) < WARM_UP + LEAST or (
        len(steps) < WARM_UP + MOST and time.perf_counter() - begun < SECONDS
    ):
        times = [time.perf_counter()]
        lap = lambda: times.append(time.perf_counter())
        with torch.no_grad():
            prototypes.weight.copy_(F.normalize(prototypes.weight, dim=1))
        embeddings = F.normalize(head(torch.cat([body(group) for group in crops])), dim=1)
        scores = prototypes(embeddings).split(args.batch)
        lap()
        codes = [assign(scores[crop].detach()) for crop in (0, 1)]
        lap()
        loss = swapped(scores, codes)
        lap()
        optimizer.zero_grad()
        loss.backward()
        lap()
        optimizer.step()
        lap()
        steps.append([after - before for before, after in zip(times, times[1:])])

    steps = steps[WARM_UP:]
    step_s = statistics.median(map(sum, steps))
    figures = {
        "name": "PyTorch " + torch.__version__.split("+")[0],
        "images_per_s": args.batch / step_s,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "phases_s": dict(zip(PHASES, map(statistics.median, zip(*steps)))),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
