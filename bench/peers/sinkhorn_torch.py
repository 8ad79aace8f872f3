"""What others run for the assignment step, in f32: three rounds at epsilon 0.05, from scores to codes.

    sinkhorn_torch.py [--device cpu|cuda] B,K [B,K ...]

One line of JSON for each peer and size, with the median of the times in milliseconds, after a run that takes the memory.
The clock is read when the device is done."""

import argparse
import json
import statistics
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
    uniform = [torch.full((n,), 1 / n, device=scores.device) for n in (samples, prototypes)]
    return ot.sinkhorn(*uniform, -scores, EPSILON, numItermax=ROUNDS, stopThr=0, warn=False)


def median_ms(step, device, runs):
    def done():
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    step()
    times = []
    for _ in range(runs):
        begun = done()
        step()
        times.append((done() - begun) * 1e3)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument("sizes", nargs="+", metavar="B,K")
    args = parser.parse_args()
    if args.device.type == "cuda":
        torch.cuda.set_device(args.device.index or 0)
    runs = 9 if args.device.type == "cpu" else 100
    torch.manual_seed(0)
    unit = lambda rows: torch.nn.functional.normalize(torch.randn(rows, 128, device=args.device), dim=1)
    for size in args.sizes:
        b, k = map(int, size.split(","))
        scores = unit(b) @ unit(k).t()
        for name, peer in (("PyTorch", in_place), ("POT on PyTorch", pot)):
            try:
                row = {"name": name, "b": b, "k": k, "median_ms": median_ms(lambda: peer(scores), args.device, runs)}
            except ImportError:
                continue
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
