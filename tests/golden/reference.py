"""Random SwAV networks as the reference saves them, and what PyTorch makes of images with them.

    reference.py make ARCHITECTURE CHECKPOINT [--layout zip|legacy|plain]
    reference.py features ARCHITECTURE CHECKPOINT IMAGES FEATURES.npy [EMBEDDINGS.npy] [--side PIXELS]
    reference.py golden

`make` draws every weight and every statistic and saves them with the names, the nesting and the company that they have in
the checkpoints of the SwAV authors: `state_dict`, `module.`, `projection_head.*`, `prototypes.weight`, with an optimizer and the
program's arguments beside them. `plain` is a backbone with a classifier, as torchvision publishes it. `features` runs
torchvision's own evaluation on the images of a folder, in the order of their names: short side to SIDE·256/224, the centre
crop of SIDE pixels. `golden` writes `reference_*` beside this script: a tiny network in each layout, a checkpoint that
calls a program when Python loads it, and what the network makes of an image. The networks are made of torchvision's
blocks."""

import argparse
import os
import pathlib

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import transforms
from torchvision.models.resnet import BasicBlock, Bottleneck

import model

# Block, blocks in each stage, factor on all widths, groups, channels of a group.
ARCHITECTURES = {
    "tiny": (BasicBlock, [2, 2, 2, 2], 1 / 64, 1, 64),
    "resnet18": (BasicBlock, [2, 2, 2, 2], 1, 1, 64),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 1, 1, 64),
    "resnet50w2": (Bottleneck, [3, 4, 6, 3], 2, 1, 64),
    "resnext50_32x4d": (Bottleneck, [3, 4, 6, 3], 1, 32, 4),
}
HIDDEN, DIM, PROTOTYPES = 96, 24, 30


class Network(nn.Module):
    def __init__(self, block, blocks, widen, groups, group_width, hidden=HIDDEN, dim=DIM, prototypes=PROTOTYPES):
        super().__init__()
        self.groups, self.group_width = groups, group_width
        self.width = int(64 * widen)
        self.conv1 = nn.Conv2d(3, self.width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, count in enumerate(blocks):
            planes = int(64 * widen) << stage
            layers = [self.block(block, planes, 2 if stage and not i else 1) for i in range(count)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.projection_head = nn.Sequential(
            nn.Linear(self.width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )
        self.prototypes = nn.Linear(dim, prototypes, bias=False)

    def block(self, block, planes, stride):
        inner, outer = self.width, planes * block.expansion
        downsample = None
        if stride != 1 or inner != outer:
            downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
        self.width = outer
        if block is BasicBlock:
            return block(inner, planes, stride, downsample)
        return block(inner, planes, stride, downsample, self.groups, self.group_width)

    def features(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))

    def embeddings(self, features):
        return nn.functional.normalize(self.projection_head(features))


def drawn(architecture, **sizes):
    """A network with every number drawn, so that none can be left out or taken for another unnoticed."""
    torch.manual_seed(sum(architecture.encode()))
    network = Network(*ARCHITECTURES[architecture], **sizes)
    for name, value in network.state_dict().items():
        if name.endswith("running_var") or name.endswith("weight") and value.dim() == 1:
            value.uniform_(0.5, 1.5)
        elif name.endswith("running_mean") or name.endswith("bias"):
            value.normal_(0, 0.1)
        elif name.endswith("num_batches_tracked"):
            value.fill_(17)
    return network.eval()


def make(architecture, path, layout):
    network = drawn(architecture)
    weights = network.state_dict()
    if layout == "plain":
        weights = {name: value for name, value in weights.items() if not name.startswith(("proj", "proto"))}
        weights["fc.weight"], weights["fc.bias"] = torch.randn(10, network.width), torch.randn(10)
        torch.save(weights, path)
        return
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network.projection_head(torch.randn(4, network.width)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 400,
        "arch": architecture,
        "args": argparse.Namespace(temperature=0.1, crops=[224, 96], best=np.float64(1.5)),
        "state_dict": {f"module.{name}": value for name, value in weights.items()},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(checkpoint, path, _use_new_zipfile_serialization=layout == "zip")


def loaded(architecture, path, strict=True):
    saved = torch.load(path, map_location="cpu", weights_only=False)
    saved = saved.get("state_dict", saved)
    network = Network(*ARCHITECTURES[architecture]).eval()
    names = {name.removeprefix("module."): value for name, value in saved.items() if not name.startswith("fc.")}
    network.load_state_dict(names, strict=strict)
    return network


def run(architecture, path, images, features, embeddings, side):
    network = loaded(architecture, path, strict=embeddings is not None)
    seen = transforms.Compose(
        [
            transforms.Resize(round(side * 256 / 224)),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    batch = [seen(Image.open(image).convert("RGB")) for image in sorted(pathlib.Path(images).iterdir())]
    with torch.no_grad():
        made = network.features(torch.stack(batch))
        np.save(features, made.numpy())
        if embeddings:
            np.save(embeddings, network.embeddings(made).numpy())


class Hostile:
    def __reduce__(self):
        return os.system, ("touch reached",)


def golden():
    here = pathlib.Path(__file__).parent
    for layout in "zip", "legacy", "plain":
        make("tiny", here / f"reference_{layout}.pth", layout)
    torch.save({"state_dict": {"conv1.weight": Hostile()}}, here / "reference_hostile.pth")
    network = loaded("tiny", here / "reference_zip.pth").double()
    with torch.no_grad():
        features = network.features(model.image("reference", (2, 3, 64, 64)))
        embeddings = network.embeddings(features)
        made = {"features": features, "embeddings": embeddings, "scores": network.prototypes(embeddings)}
    save_file(made, here / "reference.safetensors")


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("golden")
    making, running = commands.add_parser("make"), commands.add_parser("features")
    for command in making, running:
        command.add_argument("architecture", choices=ARCHITECTURES)
        command.add_argument("checkpoint")
    making.add_argument("--layout", choices=["zip", "legacy", "plain"], default="zip")
    running.add_argument("images")
    running.add_argument("features")
    running.add_argument("embeddings", nargs="?")
    running.add_argument("--side", type=int, default=224)
    args = parser.parse_args()
    if args.command == "golden":
        golden()
    elif args.command == "make":
        make(args.architecture, args.checkpoint, args.layout)
    else:
        run(args.architecture, args.checkpoint, args.images, args.features, args.embeddings, args.side)


if __name__ == "__main__":
    main()
