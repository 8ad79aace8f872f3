"""What others run to cluster a bank: Lloyd's k-means of scikit-learn on unit vectors, on the CPU in f32.

    kmeans_sklearn.py SAMPLES DIM CENTROIDS ITERATIONS

One line of JSON, with the times of the runs in milliseconds. The centroids are means that are not brought to unit length;
the work is the same: a round assigns every sample and takes the means, and a last pass assigns once more."""

import json
import sys
import time
import warnings

import numpy as np
import sklearn
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

RUNS = 3


def main():
    samples, dim, centroids, iterations = map(int, sys.argv[1:])
    rng = np.random.default_rng(0)
    values = rng.standard_normal((samples, dim), dtype=np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    chosen = rng.choice(samples, centroids, replace=False)
    warnings.simplefilter("ignore", ConvergenceWarning)

    def cluster():
        return KMeans(
            centroids, init=values[chosen], n_init=1, max_iter=iterations, tol=0, algorithm="lloyd", copy_x=False
        ).fit(values)

    KMeans(centroids, init=values[chosen], n_init=1, max_iter=1, tol=0, algorithm="lloyd").fit(values)
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        found = cluster()
        times.append((time.perf_counter() - begun) * 1e3)
    if found.n_iter_ != iterations:
        sys.exit(f"stopped after {found.n_iter_} of {iterations} iterations: take more samples or fewer iterations")
    print(json.dumps({"name": f"scikit-learn {sklearn.__version__}", "times_ms": sorted(times)}))


if __name__ == "__main__":
    main()
