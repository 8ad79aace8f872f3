"""Golden numbers for the method: Sinkhorn, one SwAV step, LARC, the schedule, other optimizers.

    python tests/golden/method.py [--check]

Writes method_*.safetensors beside this file; with --check, compares with what is there instead. Needs numpy,
torch and safetensors. What each tensor is: README.md.

Inputs are stored in f32, and everything is computed from those very values in f64. Written from the formulas of
Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments" (NeurIPS 2020), and
You et al., "Large Batch Training of Convolutional Networks" (2017).
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent


def normal(rng, *shape, scale=1.0):
    """Standard normal numbers, rounded to f32."""
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def wide(array):
    """What is computed with: the f32 values, in f64."""
    return torch.from_numpy(np.asarray(array, dtype=np.float64))


def unit_rows(x):
    return x / x.norm(dim=1, keepdim=True)


def one(value):
    return np.array([value], dtype=np.float64)


# --- Sinkhorn -----------------------------------------------------------------------------------------------


def sinkhorn(scores, epsilon, iterations):
    """Codes [B, K] of scores [B, K] (section 3.1): Q is K x B, its total 1."""
    samples, prototypes = scores.shape
    q = torch.exp((scores - scores.max()) / epsilon).T
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / prototypes
        q = q / q.sum(dim=0, keepdim=True) / samples
    return (q * samples).T


def golden_sinkhorn():
    rng = np.random.default_rng(1)
    out = {}
    cases = [
        # samples, prototypes, epsilon, iterations
        (8, 5, 0.05, 3),
        (5, 8, 0.05, 3),
        (32, 24, 0.05, 3),
        (64, 30, 0.03, 3),
        (16, 12, 0.01, 3),
        (16, 12, 1.0, 3),
        (16, 12, 0.05, 0),
        (16, 12, 0.05, 1),
        (16, 12, 0.05, 10),
        (1, 6, 0.05, 3),
        (6, 1, 0.05, 3),
    ]
    for case, (samples, prototypes, epsilon, iterations) in enumerate(cases):
        embeddings = unit_rows(wide(normal(rng, samples, 32)))
        directions = unit_rows(wide(normal(rng, prototypes, 32)))
        scores = (embeddings @ directions.T).numpy().astype(np.float32)
        out[f"{case}.scores"] = scores
        out[f"{case}.codes"] = sinkhorn(wide(scores), epsilon, iterations).numpy()
        out[f"{case}.epsilon"] = one(epsilon)
        out[f"{case}.iterations"] = one(iterations)
    return out


# --- One SwAV step ------------------------------------------------------------------------------------------

BATCH, DIM, PROTOTYPES, QUEUE = 8, 16, 12, 24
TEMPERATURE, EPSILON, ITERATIONS = 0.1, 0.05, 3
ASSIGNING = (0, 1)


def swav_step(rng, crops, queue_rows):
    """Loss and gradients of one step. queue_rows: None, or how many rows of the queue are filled."""
    raw = normal(rng, crops * BATCH, DIM)
    weights = normal(rng, PROTOTYPES, DIM)
    out = {"embeddings_raw": raw, "prototypes_raw": weights}

    queue = None
    if queue_rows is not None:
        queue = np.zeros((len(ASSIGNING), QUEUE, DIM), dtype=np.float32)
        for i in range(len(ASSIGNING)):
            queue[i, :queue_rows] = unit_rows(wide(normal(rng, queue_rows, DIM))).numpy()
        out["queue_before"] = queue
        queue = wide(queue)

    raw = wide(raw).requires_grad_()
    # Normalising the prototypes is done to the parameter before the step: no gradient goes through it.
    prototypes = unit_rows(wide(weights)).requires_grad_()
    embeddings = unit_rows(raw)
    scores = embeddings @ prototypes.T

    def of(crop):
        return slice(crop * BATCH, (crop + 1) * BATCH)

    loss = torch.zeros((), dtype=torch.float64)
    log_p = torch.log_softmax(scores / TEMPERATURE, dim=1)
    for i, crop in enumerate(ASSIGNING):
        with torch.no_grad():
            balanced = scores[of(crop)]
            if queue is not None:
                # Zeros are what the queue starts with: a row of them at the end says it is not yet full.
                if bool((queue[i, -1] != 0).any()):
                    balanced = torch.cat([queue[i] @ prototypes.T, balanced])
                queue[i] = torch.cat([embeddings[of(crop)], queue[i]])[:QUEUE]
            codes = sinkhorn(balanced, EPSILON, ITERATIONS)[-BATCH:]
        out[f"codes.{crop}"] = codes.numpy()
        others = [other for other in range(crops) if other != crop]
        entropies = [-(codes * log_p[of(other)]).sum(dim=1).mean() for other in others]
        loss = loss + sum(entropies) / (crops - 1)
    loss = loss / len(ASSIGNING)
    loss.backward()

    out["prototypes"] = prototypes.detach().numpy()
    out["scores"] = scores.detach().numpy()
    out["loss"] = one(loss.item())
    out["grad_embeddings_raw"] = raw.grad.numpy()
    out["grad_prototypes"] = prototypes.grad.numpy()
    out["crops"] = one(crops)
    if queue is not None:
        out["queue_after"] = queue.numpy()
    return out


def golden_swav():
    rng = np.random.default_rng(2)
    cases = {
        "two": (2, None),
        "two_queue": (2, QUEUE),
        "two_filling": (2, QUEUE - BATCH),
        "four": (4, None),
        "four_queue": (4, QUEUE),
    }
    out = {
        "temperature": one(TEMPERATURE),
        "epsilon": one(EPSILON),
        "iterations": one(ITERATIONS),
        "batch": one(BATCH),
    }
    for name, case in cases.items():
        step = swav_step(rng, *case)
        out.update({f"{name}.{key}": value for key, value in step.items()})
    return out


# --- Optimizers ---------------------------------------------------------------------------------------------

STEPS = 5


def parameters(rng):
    """Named starting values, and the gradients of each step: None where there is none."""
    start = {
        "weight": normal(rng, 4, 3),
        "zero_bias": np.zeros(4, dtype=np.float32),
        "no_gradient": normal(rng, 3),
        "pause": normal(rng, 2, 2),
        "absent": normal(rng, 5),
        "large": normal(rng, 3, 3, scale=100.0),
    }
    gradients = {name: [normal(rng, *p.shape) for _ in range(STEPS)] for name, p in start.items()}
    gradients["no_gradient"] = [np.zeros_like(g) for g in gradients["no_gradient"]]
    gradients["pause"][2] = np.zeros_like(gradients["pause"][2])
    gradients["absent"][2] = None
    gradients["large"] = [(g * np.float32(1e-3)).astype(np.float32) for g in gradients["large"]]
    return start, gradients


def run(start, gradients, make, rates, before=None):
    """Values of every parameter after each step of `make(parameters)`."""
    values = {name: wide(p).requires_grad_() for name, p in start.items()}
    optimizer = make(list(values.values()))
    out = {}
    for step in range(STEPS):
        for name, p in values.items():
            gradient = gradients[name][step]
            p.grad = None if gradient is None else wide(gradient)
            if before is not None and p.grad is not None:
                p.grad = before(p.detach(), p.grad)
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
        for name, p in values.items():
            out[f"after.{step}.{name}"] = p.detach().numpy().copy()
    return out


def larc(trust, decay):
    """Scales a gradient so that its step is a fraction of the parameter's norm."""

    def scaled(p, g):
        p_norm, g_norm = p.norm(), g.norm()
        if p_norm == 0 or g_norm == 0:
            return g
        rate = trust * p_norm / (g_norm + decay * p_norm + 1e-8)
        return (g + decay * p) * rate

    return scaled


def inputs(start, gradients):
    out = {f"start.{name}": p for name, p in start.items()}
    for name, steps in gradients.items():
        out.update({f"grad.{step}.{name}": g for step, g in enumerate(steps) if g is not None})
    return out


def golden_larc():
    start, gradients = parameters(np.random.default_rng(3))
    rates = [0.3, 0.6, 4.8, 2.4, 0.0048]
    out = inputs(start, gradients)
    out["rates"] = np.array(rates)
    out["trust"] = one(0.001)
    out["momentum"] = one(0.9)

    def sgd(p):
        return torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0, weight_decay=0)

    # The recipes' decay is too small to be seen in five steps: a larger one shows where it enters.
    for name, decay in [("recipe", 1e-6), ("decay", 0.05)]:
        out[f"{name}.weight_decay"] = one(decay)
        after = run(start, gradients, sgd, rates, before=larc(0.001, decay))
        out.update({f"{name}.{key}": value for key, value in after.items()})
    return out


def golden_optimizers():
    start, gradients = parameters(np.random.default_rng(4))
    rates = [1e-3, 2e-3, 5e-3, 2e-3, 1e-4]
    decay, betas, eps = 0.05, (0.9, 0.999), 1e-8
    out = inputs(start, gradients)
    out["rates"] = np.array(rates)
    out["weight_decay"] = one(decay)
    out["momentum"] = one(0.9)
    out["beta1"], out["beta2"], out["eps"] = one(betas[0]), one(betas[1]), one(eps)
    optimizers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0, weight_decay=decay),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=betas, eps=eps, weight_decay=decay),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, betas=betas, eps=eps, weight_decay=decay),
    }
    for name, make in optimizers.items():
        after = run(start, gradients, make, rates)
        out.update({f"{name}.{key}": value for key, value in after.items()})
    return out


# --- Learning rate ------------------------------------------------------------------------------------------


def schedule(start, base, final, warmup, total):
    """The learning rate of each iteration: a line with both ends, then half a cosine."""
    rising = np.linspace(start, base, warmup)
    remaining = total - warmup
    falling = [
        final + 0.5 * (base - final) * (1 + math.cos(math.pi * t / remaining)) for t in range(remaining)
    ]
    return np.concatenate([rising, falling])


def golden_schedule():
    cases = [
        # start, base, final, warm-up iterations, all iterations
        (0.3, 4.8, 0.0048, 10, 50),
        (0.0, 0.6, 0.0006, 0, 20),
        (0.0, 1.0, 0.0, 5, 12),
        (0.1, 1.0, 0.01, 1, 6),
        (0.1, 1.0, 0.01, 2, 3),
    ]
    out = {}
    for case, (start, base, final, warmup, total) in enumerate(cases):
        constants = {"start": start, "base": base, "final": final, "warmup": warmup, "total": total}
        out.update({f"{case}.{key}": one(value) for key, value in constants.items()})
        out[f"{case}.rates"] = schedule(start, base, final, warmup, total)
    return out


def write_or_check(files, description):
    """Writes method_NAME.safetensors for each entry; with --check compares with what is there instead."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="compare with the committed files")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    for name, make in files.items():
        path = HERE / f"method_{name}.safetensors"
        tensors = {key: np.ascontiguousarray(value) for key, value in make().items()}
        if not check:
            save_file(tensors, path)
            print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes")
            continue
        committed = load_file(path)
        assert committed.keys() == tensors.keys(), path.name
        worst = max(float(np.abs(committed[key] - tensors[key]).max()) for key in tensors)
        print(f"{path.name}: largest difference {worst:.1e}")
        assert worst < 1e-9, path.name


if __name__ == "__main__":
    write_or_check(
        {
            "sinkhorn": golden_sinkhorn,
            "swav": golden_swav,
            "larc": golden_larc,
            "optimizers": golden_optimizers,
            "schedule": golden_schedule,
        },
        __doc__.splitlines()[0],
    )
