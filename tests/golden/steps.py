"""Golden numbers for whole steps: three of SwAV, DeepCluster-v2 and MoCo-v2 each, from crops to weights.

    python tests/golden/steps.py [--check]

Writes method_steps_{swav,deepcluster,moco}.safetensors beside this file; with --check, compares with what is there instead.
Needs numpy, torch and safetensors. What each tensor is: README.md.

Inputs are stored in f32, and everything is computed from those very values in f64. Written from the formulas of Caron et
al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments" (NeurIPS 2020), sections 3 and 4 and
appendix A; He et al., "Momentum Contrast" (CVPR 2020); You et al., "Large Batch Training of Convolutional Networks" (2017).
"""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from method import larc, normal, one, sinkhorn, unit_rows, wide, write_or_check
from methods import Encoder, kmeans, permuted

BATCH, DIM, STEPS = 8, 8, 3
LARGE, SMALL = 16, 12
TEMPERATURE, DECAY = 0.1, 1e-4


class Network(Encoder):
    """The encoder with heads of prototypes."""

    def __init__(self, heads):
        super().__init__()
        if len(heads) == 1:
            self.prototypes = nn.Linear(DIM, heads[0], bias=False)
        else:
            self.prototypes = nn.Module()
            for i, prototypes in enumerate(heads):
                self.prototypes.add_module(f"prototypes{i}", nn.Linear(DIM, prototypes, bias=False))

    def heads(self):
        return [p for name, p in self.named_parameters() if name.startswith("prototypes")]


def begin(seed, heads):
    """A network, drawn in f32, and what is stored of it."""
    torch.manual_seed(seed)
    network = (Network(heads) if heads else Encoder()).train().double()
    start = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    return network, {f"start.{name}": value.numpy().astype(np.float32) for name, value in start.items()}


def crops(rng, out, step):
    """Two large crops of each image and a small one, crop-major."""
    large, small = normal(rng, 2 * BATCH, 3, LARGE, LARGE), normal(rng, BATCH, 3, SMALL, SMALL)
    out |= {f"{step}.large": large, f"{step}.small": small}
    return wide(large).split(BATCH), wide(small)


def moved(network, out):
    """How far the weights are from where they began, every seventh, by name."""
    weights = sorted(network.named_parameters(), key=lambda pair: pair[0])
    moved = [(new - wide(out[f"start.{name}"])).flatten() for name, new in weights]
    return torch.cat(moved).detach().numpy()[::7].copy()


def golden_swav():
    """In two parts, with prototypes frozen for a step, a queue that is full after two, and LARC."""
    rng = np.random.default_rng(31)
    prototypes, length, epsilon, iterations, parts, rate = 12, 2 * BATCH, 0.05, 3, 2, 0.3
    network, start = begin(31, [prototypes])
    optimizer = torch.optim.SGD(network.parameters(), rate, momentum=0.9)
    scaled = larc(0.001, DECAY)
    out = start | {"rate": one(rate), "decay": one(DECAY), "epsilon": one(epsilon), "temperature": one(TEMPERATURE)}
    queue = [torch.zeros(0, DIM, dtype=torch.float64)] * 2
    for step in range(STEPS):
        large, small = crops(rng, out, step)
        with torch.no_grad():
            (head,) = network.heads()
            head.copy_(unit_rows(head))
        rows = torch.arange(BATCH).chunk(parts)
        groups = [[torch.cat([crop[part] for crop in large]), small[part]] for part in rows]
        # Codes of the whole batch, each part with batch statistics of its own.
        with torch.no_grad():
            silent = copy.deepcopy(network)
            embedded = [silent(group).chunk(3) for group in groups]
            codes = []
            for crop in range(2):
                own = torch.cat([part[crop] for part in embedded])
                full = len(queue[crop]) == length
                balanced = torch.cat([queue[crop], own]) if full else own
                codes.append(sinkhorn(balanced @ head.T, epsilon, iterations)[-BATCH:])
                queue[crop] = torch.cat([own, queue[crop]])[:length]
        optimizer.zero_grad()
        total = 0.0
        for part, group in zip(rows, groups):
            log_p = F.log_softmax(network(group) @ head.T / TEMPERATURE, 1).chunk(3)
            terms = [-(codes[i][part] * log_p[v]).sum(1).mean() for i in range(2) for v in range(3) if v != i]
            loss = sum(terms) / len(terms) / parts
            loss.backward()
            total += loss.item()
        if step == 0:
            head.grad = None
        for p in network.parameters():
            p.grad = None if p.grad is None else scaled(p.detach(), p.grad)
        optimizer.step()
        out |= {f"{step}.loss": one(total), f"{step}.moved": moved(network, out)}
    return out


def golden_deepcluster():
    """Two heads whose prototypes are the centroids of an epoch, and SGD."""
    rng = np.random.default_rng(32)
    heads, images, seed, rate = [4, 5], STEPS * BATCH, 9, 0.1
    network, start = begin(32, heads)
    order = rng.permutation(images)
    raw = [normal(rng, images, DIM) for _ in range(2)]
    out = start | {
        "rate": one(rate), "decay": one(DECAY), "temperature": one(TEMPERATURE), "seed": one(seed),
        "bank_indices": order.astype(np.float64), "bank_raw.0": raw[0], "bank_raw.1": raw[1],
    }
    labels = []
    for i, (clusters, head) in enumerate(zip(heads, network.heads())):
        samples = unit_rows(wide(raw[i % 2]))
        chosen = [permuted(images, seed, i, k) for k in range(clusters)]
        centroids, nearest = kmeans(samples, chosen, 10)
        of_image = torch.zeros(images, dtype=torch.long)
        of_image[torch.from_numpy(order)] = nearest
        labels.append(of_image)
        with torch.no_grad():
            head.copy_(centroids)
        head.requires_grad_(False)
    learned = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, rate, momentum=0.9, weight_decay=DECAY)
    batches = rng.permutation(images).reshape(STEPS, BATCH)
    for step, batch in enumerate(batches):
        large, small = crops(rng, out, step)
        out[f"{step}.indices"] = batch.astype(np.float64)
        z = network([torch.cat(large), small]).chunk(3)
        wanted = [of_image[torch.from_numpy(batch)] for of_image in labels]
        losses = [F.cross_entropy(z[v] @ head.T / TEMPERATURE, w) for head, w in zip(network.heads(), wanted) for v in range(3)]
        loss = sum(losses) / len(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        out |= {f"{step}.loss": one(loss.item()), f"{step}.moved": moved(network, out)}
    return out


def golden_moco():
    """Keys in two groups, a queue, a momentum network, and SGD."""
    rng = np.random.default_rng(33)
    length, parts, seed, keep, rate, temperature = 3 * BATCH, 2, 9, 0.9, 0.05, 0.2
    query, start = begin(33, [])
    key = copy.deepcopy(query)
    optimizer = torch.optim.SGD(query.parameters(), rate, momentum=0.9, weight_decay=DECAY)
    raw = normal(rng, length, DIM)
    queue = unit_rows(wide(raw))
    out = start | {
        "rate": one(rate), "decay": one(DECAY), "temperature": one(temperature), "seed": one(seed),
        "momentum": one(keep), "key_groups": one(parts), "queue_raw": raw,
    }
    for step in range(STEPS):
        large, small = crops(rng, out, step)
        order = np.array([permuted(BATCH, seed, step, place) for place in range(BATCH)])
        keys = torch.zeros(BATCH, DIM, dtype=torch.float64)
        with torch.no_grad():
            for part in np.split(order, parts):
                keys[part] = key([large[1][part]])
        q = query([large[0], small])
        positive = (q * torch.cat([keys, keys])).sum(1, keepdim=True)
        logits = torch.cat([positive, q @ queue.T], 1) / temperature
        loss = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue = torch.cat([keys, queue])[:length]
        with torch.no_grad():
            for old, new in zip(key.parameters(), query.parameters()):
                old.mul_(keep).add_(new, alpha=1 - keep)
        out |= {f"{step}.loss": one(loss.item()), f"{step}.moved": moved(query, out)}
        out |= {f"{step}.key_moved": moved(key, out), f"{step}.queue": queue.numpy()}
    return out


if __name__ == "__main__":
    write_or_check(
        {"steps_swav": golden_swav, "steps_deepcluster": golden_deepcluster, "steps_moco": golden_moco},
        __doc__.splitlines()[0],
    )
