"""Accuracy of scikit-learn's logistic regression on features: what `swav eval linear` is held against.

    swav embed RUN --data TRAIN --out train.npy
    swav embed RUN --data TEST --out test.npy
    logistic.py train.npy test.npy

Labels are read from the CSV that `swav embed` writes beside each file. Prints one line of JSON."""

import csv
import json
import sys
import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def read(path):
    """Features and the names of their classes."""
    with open(path + ".csv", newline="") as file:
        names = [row["label"] for row in csv.DictReader(file)]
    return np.load(path), np.array(names)


def main():
    (train, train_labels), (test, labels) = map(read, sys.argv[1:3])
    began = time.perf_counter()
    # Scaled, so that it converges; hardly regularised, as the protocol's weight decay of 1e-6.
    model = make_pipeline(StandardScaler(), LogisticRegression(C=100.0, max_iter=2000))
    model.fit(train, train_labels)
    accuracies = {
        "train": model.score(train, train_labels),
        "test": model.score(test, labels),
        "iterations": int(model[-1].n_iter_[0]),
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(accuracies))


if __name__ == "__main__":
    main()
