"""Golden numbers for the methods that SwAV is compared with: losses, gradients, and the boundary of two epochs.

    python tests/golden/methods.py [--check]

Writes method_{simclr,moco,supervised,deepcluster,sela}.safetensors beside this file; with --check, compares with what is
there instead. Needs numpy, torch and safetensors. What each tensor is: README.md.

Inputs are stored in f32, and everything is computed from those very values in f64. Written from the formulas of
Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments" (NeurIPS 2020), appendices
A.4 and A.8; He et al., "Momentum Contrast" (CVPR 2020); Asano et al., "Self-labelling" (ICLR 2020).
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from model import R18, Backbone
from method import normal, one, sinkhorn, unit_rows, wide, write_or_check

TEMPERATURE = 0.1


def live(array):
    """The f32 values in f64, to be differentiated by."""
    return wide(array).requires_grad_(True)


# --- SimCLR and MoCo ----------------------------------------------------------------------------------------


def golden_simclr():
    rng = np.random.default_rng(11)
    out = {"temperature": one(TEMPERATURE)}
    for case, (crops, batch, dim) in {"two": (2, 6, 8), "five": (5, 4, 8)}.items():
        raw = normal(rng, crops * batch, dim)
        leaf = live(raw)
        z = unit_rows(leaf)
        similarity = z @ z.T / TEMPERATURE
        image = torch.arange(crops * batch) % batch
        total = 0.0
        for i in range(crops * batch):
            negatives = similarity[i, image != image[i]].exp().sum()
            for j in range(crops * batch):
                if j != i and image[j] == image[i]:
                    positive = similarity[i, j].exp()
                    total = total - torch.log(positive / (positive + negatives))
        loss = total / (crops * batch * (crops - 1))
        loss.backward()
        out |= {
            f"{case}.crops": one(crops),
            f"{case}.raw": raw,
            f"{case}.loss": one(loss.item()),
            f"{case}.grad": leaf.grad.numpy(),
        }
    return out


def golden_moco():
    rng = np.random.default_rng(12)
    queries, keys, queue = normal(rng, 12, 8), normal(rng, 6, 8), normal(rng, 20, 8)
    temperature = 0.2
    leaf = live(queries)
    q, k, others = unit_rows(leaf), unit_rows(wide(keys)), unit_rows(wide(queue))
    # Two query crops of six images, crop-major, against one key of each.
    positive = (q * torch.cat([k, k])).sum(1, keepdim=True)
    logits = torch.cat([positive, q @ others.T], 1) / temperature
    loss = F.cross_entropy(logits, torch.zeros(12, dtype=torch.long))
    loss.backward()
    return {
        "temperature": one(temperature),
        "queries": queries,
        "keys": keys,
        "queue": queue,
        "loss": one(loss.item()),
        "grad": leaf.grad.numpy(),
    }


class Encoder(nn.Module):
    """A ResNet-18 of two channels in its first stage, and a head."""

    def __init__(self):
        super().__init__()
        backbone = Backbone(False, R18, width=1 / 32, cifar=True)
        for name, child in backbone.named_children():
            self.add_module(name, child)
        self.backbone = [backbone]  # in a list, so that its names do not appear twice
        self.projection_head = nn.Sequential(
            nn.Linear(backbone.dim, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8)
        )

    def forward(self, groups):
        return F.normalize(self.projection_head(torch.cat([self.backbone[0](x) for x in groups])), dim=1)


def golden_supervised():
    rng = np.random.default_rng(13)
    logits = normal(rng, 3 * 5, 4, scale=2.0)
    leaf = live(logits)
    smoothing = 0.1
    # Image 3 has no label and does not count; image 1 has two.
    labels = [[2], [0, 3], [1], [], [3]]
    wanted = torch.zeros(5, 4, dtype=torch.float64)
    for row, names in zip(wanted, labels):
        for name in names:
            row[name] += 1 / len(names)
    counted = torch.tensor([bool(names) for names in labels])
    losses = [F.cross_entropy(crop[counted], wanted[counted], label_smoothing=smoothing) for crop in leaf.split(5)]
    loss = sum(losses) / len(losses)
    loss.backward()
    return {
        "smoothing": one(smoothing),
        "logits": logits,
        "loss": one(loss.item()),
        "grad": leaf.grad.numpy(),
    }


# --- Methods that label all images before an epoch ----------------------------------------------------------

IMAGES, BATCH, CROPS, DIM = 20, 6, 3, 8
CLUSTERS = [4, 5, 4]
BANKS = 2
SEED = 7


# --- Labels -------------------------------------------------------------------------------------------------


def philox(counter, key):
    """Philox-4x32-10 (Salmon et al., SC 2011)."""
    c, k, word = list(counter), list(key), 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & word, (a >> 32) ^ c[3] ^ k[1], a & word]
        k = [(k[0] + 0x9E3779B9) & word, (k[1] + 0xBB67AE85) & word]
    return c


def permuted(length, seed, epoch, position):
    """Where `position` goes in the keyed permutation that orders the images: eight Feistel rounds, repeated until the
    number is below the length."""
    word = 0xFFFFFFFF
    key = philox([epoch & word, epoch >> 32, 1, 0], [seed & word, seed >> 32])[:2]
    total = max((length - 1).bit_length(), 2)
    value = position
    while True:
        bits = [total // 2, (total + 1) // 2]
        left, right = value >> bits[1], value & ((1 << bits[1]) - 1)
        for turn in range(8):
            f = philox([turn, right & word, right >> 32, bits[1]], key)
            left, right = right, (left ^ (f[1] << 32 | f[0])) & ((1 << bits[0]) - 1)
            bits.reverse()
        value = left << bits[1] | right
        if value < length:
            return value


def kmeans(samples, chosen, iterations):
    centroids = samples[chosen].clone()
    for _ in range(iterations):
        nearest = (samples @ centroids.T).argmax(1)
        for k in range(len(centroids)):
            members = samples[nearest == k]
            if len(members):
                mean = members.mean(0)
                centroids[k] = mean / mean.norm()
    return centroids, (samples @ centroids.T).argmax(1)


def epochs(rng):
    """The images of the batches of three epochs, the first of which only fills the banks, and their raw embeddings."""
    batches = IMAGES // BATCH
    for _ in range(3):
        order = rng.permutation(IMAGES)[: batches * BATCH].reshape(batches, BATCH)
        yield order, normal(rng, batches, CROPS * BATCH, DIM)


def clustering(name, before_epoch):
    """Two epochs of a method whose targets `before_epoch(epoch, banks)` gives: for each head the prototypes [K, D] and the
    targets [N, K] of the rows of the banks."""
    rng = np.random.default_rng({"deepcluster": 14, "sela": 15}[name])
    out = {"temperature": one(TEMPERATURE)}
    (order, raw), *trained = epochs(rng)
    out |= {"fill.indices": order.astype(np.float64), "fill.raw": raw}

    def banks_of(order, raw):
        rows = [unit_rows(torch.cat([wide(b)[c * BATCH : (c + 1) * BATCH] for b in raw])) for c in range(BANKS)]
        return rows, order.reshape(-1)

    banks = banks_of(order, raw)
    for epoch, (order, raw) in enumerate(trained):
        heads = before_epoch(epoch, banks, out)
        row_of = {int(image): row for row, image in enumerate(banks[1])}
        out |= {f"{epoch}.indices": order.astype(np.float64), f"{epoch}.raw": raw}
        losses = []
        for step, images in enumerate(order):
            leaf = live(raw[step])
            z = unit_rows(leaf)
            known = [i for i, image in enumerate(images) if int(image) in row_of]
            total = 0.0
            for prototypes, targets in heads:
                wanted = targets[[row_of[int(images[i])] for i in known]]
                for crop in z.split(BATCH):
                    log_p = F.log_softmax(crop[known] @ prototypes.T / TEMPERATURE, 1)
                    total = total - (wanted * log_p).sum(1).mean()
            loss = total / len(heads) / CROPS
            loss.backward()
            losses.append(loss.item())
            out[f"{epoch}.{step}.grad"] = leaf.grad.numpy()
        out[f"{epoch}.losses"] = np.array(losses)
        banks = banks_of(order, raw)
    return out


def golden_deepcluster():
    def before_epoch(epoch, banks, out):
        heads = []
        for head, clusters in enumerate(CLUSTERS):
            samples = banks[0][head % BANKS]
            draw = epoch * len(CLUSTERS) + head
            chosen = [permuted(len(samples), SEED, draw, k) for k in range(clusters)]
            centroids, nearest = kmeans(samples, chosen, 10)
            out[f"{epoch}.labels.{head}"] = nearest.numpy().astype(np.float64)
            out[f"{epoch}.prototypes.{head}"] = centroids.numpy()
            heads.append((centroids, F.one_hot(nearest, clusters).double()))
        return heads

    return {"seed": one(SEED)} | clustering("deepcluster", before_epoch)


def golden_sela():
    rng = np.random.default_rng(16)
    prototypes = [normal(rng, clusters, DIM) for clusters in CLUSTERS]
    out = {f"prototypes_raw.{head}": values for head, values in enumerate(prototypes)}
    for kind in ("hard", "soft"):

        def before_epoch(epoch, banks, inner):
            heads = []
            for head, clusters in enumerate(CLUSTERS):
                directions = unit_rows(wide(prototypes[head]))
                codes = sinkhorn(banks[0][head % BANKS] @ directions.T, 0.05, 3)
                inner[f"{epoch}.codes.{head}"] = codes.numpy()
                wanted = F.one_hot(codes.argmax(1), clusters).double() if kind == "hard" else codes
                heads.append((directions, wanted))
            return heads

        out |= {f"{kind}.{key}": value for key, value in clustering("sela", before_epoch).items()}
    return out | {"epsilon": one(0.05), "iterations": one(3)}


if __name__ == "__main__":
    write_or_check(
        {
            "simclr": golden_simclr,
            "moco": golden_moco,
            "supervised": golden_supervised,
            "deepcluster": golden_deepcluster,
            "sela": golden_sela,
        },
        __doc__.splitlines()[0],
    )
