"""kNN-200 and linear accuracy of features: the judge of `cifar_lightly.py`, for features of any origin.

    swav embed RUN --data cifar10-train.tar --out train.npy
    swav embed RUN --data cifar10-test.tar --out test.npy
    probe.py train.npy test.npy

Labels are read from the CSV that `swav embed` writes beside each file. Prints one line of JSON."""

import csv
import json
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def knn(bank, bank_labels, queries, labels, k=200, temperature=0.1):
    """Share of the queries whose k nearest neighbours by cosine, weighted by exp(similarity/T), vote for the label."""
    bank, queries = F.normalize(bank), F.normalize(queries)
    right = 0
    for part, wanted in zip(queries.split(500), labels.split(500)):
        nearest, index = (part @ bank.T).topk(k)
        votes = torch.zeros(len(part), int(bank_labels.max()) + 1)
        votes.scatter_add_(1, bank_labels[index], (nearest / temperature).exp())
        right += (votes.argmax(1) == wanted).sum().item()
    return right / len(queries)


def linear(train, train_labels, test, labels, epochs=30, batch=1000, rate=1e-2):
    """Accuracy of one linear layer on standardised features, trained with Adam."""
    torch.manual_seed(0)
    mean, std = train.mean(0), train.std(0) + 1e-6
    train, test = (train - mean) / std, (test - mean) / std
    layer = nn.Linear(train.shape[1], int(train_labels.max()) + 1)
    optimizer = torch.optim.Adam(layer.parameters(), rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(train)).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(layer(train[rows]), train_labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return (layer(test).argmax(1) == labels).float().mean().item()


def judge(train, train_labels, test, labels):
    """Both accuracies."""
    return {
        "knn_200": knn(train, train_labels, test, labels),
        "linear": linear(train, train_labels, test, labels),
    }


def read(path):
    """Features and the names of their classes."""
    with open(path + ".csv", newline="") as file:
        names = [row["label"] for row in csv.DictReader(file)]
    return torch.from_numpy(np.load(path)), names


def main():
    torch.set_num_threads(2)
    (train, train_names), (test, test_names) = map(read, sys.argv[1:3])
    classes = {name: i for i, name in enumerate(sorted(set(train_names)))}
    labels = [torch.tensor([classes[name] for name in names]) for names in (train_names, test_names)]
    print(json.dumps(judge(train, labels[0], test, labels[1])))


if __name__ == "__main__":
    main()
