"""What others run for the assignment step, on the CPU in f32: three rounds at epsilon 0.05, from scores to codes.

    sinkhorn_torch.py B,K [B,K ...]

One line of JSON for each peer and size, with the median of the times in milliseconds."""

import json
import statistics
import sys
import time

import torch

EPSILON, ROUNDS = 0.05, 3


def in_place(scores):
    """Sinkhorn-Knopp as the paper's appendix has it: the whole matrix is divided in each half of a round."""
    codes = (scores / EPSILON).exp().t()
    prototypes, samples = codes.shape
    codes /= codes.sum()
    for _ in range(ROUNDS):
        codes /= codes.sum(dim=1, keepdim=True) * prototypes
        codes /= codes.sum(dim=0, keepdim=True) * samples
    return (codes * samples).t()


def pot(scores):
    import ot

    samples, prototypes = scores.shape
    uniform = [torch.full((n,), 1 / n) for n in (samples, prototypes)]
    return ot.sinkhorn(*uniform, -scores, EPSILON, numItermax=ROUNDS, stopThr=0, warn=False)


def median_ms(step, runs=9):
    step()
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        step()
        times.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times)


def main():
    torch.manual_seed(0)
    unit = lambda rows: torch.nn.functional.normalize(torch.randn(rows, 128), dim=1)
    for size in sys.argv[1:]:
        b, k = map(int, size.split(","))
        scores = unit(b) @ unit(k).t()
        for name, peer in (("PyTorch", in_place), ("POT on PyTorch", pot)):
            try:
                row = {"name": name, "b": b, "k": k, "median_ms": median_ms(lambda: peer(scores))}
            except ImportError:
                continue
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
