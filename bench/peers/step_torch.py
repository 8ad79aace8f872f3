"""A whole step of SwAV in eager PyTorch: what `cargo xtask bench-step` measures, with the same network, crops, codes, loss
and optimizer.

    step_torch.py --arch resnet50 --crops 2x96+4x48 --batch 16 --prototypes 3000 --optimizer larc
    step_torch.py --device cuda --precision amp tf32 …

In each of the forms that --precision names, one after the other: `f32` as it comes, `f32-last` (channels_last), `tf32` (f32,
with TF32 in convolutions and products, on a GPU) and `amp` (bf16 autocast, channels_last); `f32-compiled` and `amp-compiled` are
`f32-last` and `amp` with the backbone through torch.compile, which needs a C++ compiler. Prints a line of JSON for each: images
per second and seconds per phase of the median step, and the peak of memory, on the CPU that of the process. The clock is read
when the device is done. On a GPU, which works while the next operations are queued, the steps and their phases are timed in runs
of their own."""

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
LEAST, MOST, SECONDS = 5, 30, 25
# On a GPU cuDNN tries its algorithms in the first step.
WARM_UP, BY_PHASE = {"cpu": 2, "cuda": 10}, 5
# The forms that are measured unless they are named.
PRECISIONS = {"cpu": ["f32"], "cuda": ["amp", "tf32"]}
NAMES = {
    "f32": "",
    "f32-last": " channels_last",
    "f32-compiled": " compiled",
    "tf32": " f32 (TF32)",
    "amp": " AMP bf16",
    "amp-compiled": " AMP bf16 compiled",
}


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
    """SGD on gradients that are scaled to the length of their parameter. Nothing is read back from the device."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                length, slope = parameter.norm(), parameter.grad.norm()
                scale = TRUST * length / (slope + DECAY * length + 1e-8)
                parameter.grad.add_(parameter, alpha=DECAY)
                parameter.grad.mul_(torch.where((length > 0) & (slope > 0), scale, 1.0))
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


class Training:
    """Network, optimizer and crops, and one step of them."""

    def __init__(self, args, precision):
        self.device, self.batch = torch.device(args.device), args.batch
        self.amp = precision.startswith("amp")
        fused = True if self.device.type == "cuda" else None
        torch.manual_seed(0)
        self.body, width = backbone(args.arch)
        hidden = min(width, 2048)
        self.head = nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 128)
        )
        self.prototypes = nn.Linear(128, args.prototypes, bias=False)
        layout = torch.contiguous_format if precision in ("f32", "tf32") else torch.channels_last
        for module in (self.body, self.head, self.prototypes):
            module.to(self.device)
        self.body.to(memory_format=layout)
        if precision.endswith("compiled"):
            self.body = torch.compile(self.body, dynamic=False)
        parameters = [p for module in (self.body, self.head, self.prototypes) for p in module.parameters()]
        if args.optimizer == "adam":
            rate = 1e-3 * args.batch / 128
            self.optimizer = torch.optim.Adam(parameters, lr=rate, weight_decay=DECAY, fused=fused)
        else:
            self.optimizer = Larc(parameters, lr=0.6 * args.batch / 256, momentum=MOMENTUM, fused=fused)
        groups = [tuple(map(int, group.split("x"))) for group in args.crops.split("+")]
        self.crops = [
            torch.randn(count * args.batch, 3, size, size, device=self.device).to(memory_format=layout)
            for count, size in groups
        ]

    def done(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self, by_phase):
        """Seconds of each phase of a step, or of the step as a whole."""
        times = [self.done()]
        lap = lambda: times.append(self.done()) if by_phase else None
        with torch.no_grad():
            self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            features = torch.cat([self.body(group) for group in self.crops])
            embeddings = F.normalize(self.head(features).float(), dim=1)
            scores = self.prototypes(embeddings)
        scores = scores.float().split(self.batch)
        lap()
        codes = [assign(scores[crop].detach()) for crop in (0, 1)]
        lap()
        loss = swapped(scores, codes)
        lap()
        self.optimizer.zero_grad()
        loss.backward()
        lap()
        self.optimizer.step()
        times.append(self.done())
        return [after - before for before, after in zip(times, times[1:])]

    def steps(self, least, most, by_phase):
        steps = []
        begun = time.perf_counter()
        while len(steps) < least or len(steps) < most and time.perf_counter() - begun < SECONDS:
            steps.append(self.step(by_phase))
        return steps


def measure(args, precision):
    cpu = args.device == "cpu"
    if not cpu:
        allowed = precision != "f32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cudnn.benchmark = True
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    training = Training(args, precision)
    for _ in range(WARM_UP[training.device.type]):
        training.step(cpu)
    whole = training.steps(LEAST, MOST, cpu)
    by_phase = whole if cpu else training.steps(1, BY_PHASE, True)
    step_s = statistics.median(map(sum, whole))
    figures = {
        "name": "PyTorch " + torch.__version__.split("+")[0] + NAMES[precision],
        "device": args.device if cpu else torch.cuda.get_device_name(),
        "images_per_s": args.batch / step_s,
        "step_s": step_s,
        "phases_s": dict(zip(PHASES, map(statistics.median, zip(*by_phase)))),
    }
    if cpu:
        figures["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    else:
        figures["device_memory_mib"] = torch.cuda.max_memory_reserved() / 2**20
        figures["device_memory_used_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


def arguments(parser, forms):
    """Adds --device and --precision to a parser, parses, makes the device the current one, and fills in what is measured."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("--precision", nargs="+", choices=forms, help="f32 on the CPU, amp and tf32 on a GPU")
    args = parser.parse_args()
    device = torch.device(args.device)
    args.precision = args.precision or PRECISIONS[device.type]
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)
    elif "tf32" in args.precision:
        parser.error("the CPU has no TF32")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return args


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--crops", default="2x96+4x48")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prototypes", type=int, default=3000)
    parser.add_argument("--optimizer", choices=("adam", "larc"), default="larc")
    args = arguments(parser, NAMES)
    for precision in args.precision:
        print(json.dumps(measure(args, precision)), flush=True)


if __name__ == "__main__":
    main()
