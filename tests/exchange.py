"""Holds exported weights to what `swav embed` made of the same images.

    exchange.py ARCHITECTURE TORCHVISION.safetensors NETWORK.onnx FEATURES.npy EMBEDDINGS.npy SIZE [--torch]

Images are those that FEATURES.npy.csv names; they are cropped to SIZE, not resized. onnxruntime runs the graph. The
SafeTensors file goes through torchvision's ResNet written in NumPy, which takes every tensor by torchvision's name and
leaves none over; `-` skips it. With `--torch`, torchvision itself loads the file strictly, and onnx checks the graph.
Prints the largest relative error of each as JSON."""

import csv
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
# Blocks of each stage, and groups of the 3×3 convolutions.
ARCHITECTURES = {"resnet18": ([2, 2, 2, 2], 1), "resnext50_32x4d": ([3, 4, 6, 3], 32)}


class ResNet:
    """torchvision's ResNet in evaluation, in 64-bit floats. Images are [n, channels, height, width]."""

    def __init__(self, architecture, weights):
        self.blocks, self.groups = ARCHITECTURES[architecture]
        self.weights = {name: value.astype(np.float64) for name, value in weights.items()}

    def conv(self, name, x, stride=1, groups=1):
        kernels = self.weights.pop(f"{name}.weight")
        side = kernels.shape[-1]
        x = np.pad(x, [(0, 0), (0, 0), (side // 2, side // 2), (side // 2, side // 2)])
        windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(2, 3))[:, :, ::stride, ::stride]
        parts = zip(np.split(windows, groups, axis=1), np.split(kernels, groups))
        made = [np.tensordot(part, own, ([1, 4, 5], [1, 2, 3])) for part, own in parts]
        return np.concatenate(made, axis=3).transpose(0, 3, 1, 2)

    def norm(self, name, x):
        fields = ["running_mean", "running_var", "weight", "bias"]
        mean, variance, weight, bias = (self.weights.pop(f"{name}.{field}").reshape(-1, 1, 1) for field in fields)
        return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias

    def block(self, name, x, stride):
        shortcut = x
        if f"{name}.downsample.0.weight" in self.weights:
            shortcut = self.norm(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", x, stride))
        if f"{name}.conv3.weight" in self.weights:
            x = np.maximum(self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x)), 0)
            x = np.maximum(self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", x, stride, self.groups)), 0)
            x = self.norm(f"{name}.bn3", self.conv(f"{name}.conv3", x))
        else:
            x = np.maximum(self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, stride)), 0)
            x = self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", x))
        return np.maximum(x + shortcut, 0)

    def features(self, x):
        x = np.maximum(self.norm("bn1", self.conv("conv1", x.astype(np.float64), 2)), 0)
        x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
        x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max((4, 5))
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                x = self.block(f"layer{stage + 1}.{i}", x, 2 if stage and not i else 1)
        left = [name for name in self.weights if not name.endswith("num_batches_tracked")]
        assert not left, f"torchvision has no {left}"
        return x.mean((2, 3))


def with_torch(architecture, weights, graph, batch):
    """Features of torchvision's own network."""
    import onnx
    import torch
    import torchvision

    onnx.checker.check_model(onnx.load(graph), full_check=True)
    model = getattr(torchvision.models, architecture)()
    model.fc = torch.nn.Identity()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=True)
    with torch.no_grad():
        return model.eval()(torch.from_numpy(batch)).numpy()


def image(path, size):
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    top, left = ((side - size) // 2 for side in pixels.shape[:2])
    pixels = pixels[top : top + size, left : left + size]
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


def error(found, wanted):
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def main():
    architecture, weights, graph, features, embeddings, size, *flags = sys.argv[1:]
    with open(features + ".csv", newline="") as file:
        paths = [row["image"] for row in csv.DictReader(file)]
    batch = np.stack([image(path, int(size)) for path in paths])
    features, embeddings = np.load(features), np.load(embeddings)

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    of_graph = session.run(["features", "embeddings"], {"image": batch})
    # Any number of images will do.
    alone = session.run(["features"], {"image": batch[:1]})[0]
    told = {
        "onnx_features": error(of_graph[0], features),
        "onnx_embeddings": error(of_graph[1], embeddings),
        "onnx_alone": error(alone, features[:1]),
    }
    if weights != "-":
        weights = load_file(weights)
        told["numpy"] = error(ResNet(architecture, weights).features(batch), features)
        if "--torch" in flags:
            told["torchvision"] = error(with_torch(architecture, weights, graph, batch), features)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
