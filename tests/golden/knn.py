"""kNN accuracy in NumPy, in 64-bit floats: what `swav eval knn` must say of the same features.

    swav embed RUN --data TRAIN --out train.npy
    swav embed RUN --data TEST --out test.npy
    knn.py train.npy test.npy 20,200 0.07,0.1

Labels are read from the CSV that `swav embed` writes beside each file. Prints a JSON list of k, temperature and accuracy."""

import csv
import json
import sys

import numpy as np


def read(path):
    """Unit rows, and the names of their classes."""
    rows = np.load(path).astype(np.float64)
    with open(path + ".csv", newline="") as file:
        names = [row["label"] for row in csv.DictReader(file)]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.array(names)


def knn(bank, bank_labels, queries, labels, ks, temperatures):
    """Right votes of each (k, temperature). Ties are won by the earlier row and by the smaller label."""
    right = {(k, t): 0 for k in ks for t in temperatures}
    for begin in range(0, len(queries), 500):
        similarities = queries[begin : begin + 500] @ bank.T
        order = np.argsort(-similarities, axis=1, kind="stable")[:, : max(ks)]
        for row, wanted, nearest in zip(similarities, labels[begin:], order):
            for k, temperature in right:
                voters = nearest[:k]
                votes = np.bincount(bank_labels[voters], np.exp(row[voters] / temperature))
                right[k, temperature] += int(votes.argmax() == wanted)
    return right


def main():
    (bank, bank_names), (queries, names) = map(read, sys.argv[1:3])
    ks = [int(k) for k in sys.argv[3].split(",")]
    temperatures = [float(t) for t in sys.argv[4].split(",")]
    classes, bank_labels = np.unique(bank_names, return_inverse=True)
    labels = np.searchsorted(classes, names)
    right = knn(bank, bank_labels, queries, labels, ks, temperatures)
    print(json.dumps([{"k": k, "temperature": t, "accuracy": n / len(queries)} for (k, t), n in right.items()]))


if __name__ == "__main__":
    main()
