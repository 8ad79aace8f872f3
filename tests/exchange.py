"""Holds exported weights against what `swav embed` made of the same images.

    exchange.py ARCHITECTURE TORCHVISION.safetensors NETWORK.onnx FEATURES.npy EMBEDDINGS.npy SIZE

Images are those that FEATURES.npy.csv names; they are cropped to SIZE, not resized. The SafeTensors file is loaded
into torchvision's model strictly, but for the classifier; `-` skips it. Prints the largest relative error of each."""

import csv
import json
import sys

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def image(path, size):
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    top, left = ((side - size) // 2 for side in pixels.shape[:2])
    pixels = pixels[top : top + size, left : left + size]
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


def error(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def main():
    architecture, weights, graph, features, embeddings, size = sys.argv[1:]
    with open(features + ".csv", newline="") as file:
        paths = [row["image"] for row in csv.DictReader(file)]
    batch = np.stack([image(path, int(size)) for path in paths])
    features, embeddings = np.load(features), np.load(embeddings)

    onnx.checker.check_model(onnx.load(graph), full_check=True)
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
        model = getattr(torchvision.models, architecture)()
        model.fc = torch.nn.Identity()
        model.load_state_dict(load_file(weights), strict=True)
        with torch.no_grad():
            told["torchvision"] = error(model.eval()(torch.from_numpy(batch)).numpy(), features)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
