"""Holds the formats of `swav embed` and `swav assign` to each other, in a folder with f.npy, f.parquet, f.safetensors, c.csv
and c.parquet: numpy, pyarrow and safetensors read the same from them."""

import csv

import numpy as np
import pyarrow.parquet
import safetensors.numpy


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def main():
    features, images = np.load("f.npy"), rows("f.npy.csv")
    assert features.dtype == np.float32 and len(features) == len(images), (features.dtype, features.shape)
    table = pyarrow.parquet.read_table("f.parquet")
    assert table.column_names == ["path", "label", "features"], table.column_names
    assert table["path"].to_pylist() == [row["image"] for row in images]
    assert table["label"].to_pylist() == [row["label"] or None for row in images]
    assert (np.stack(table["features"].to_numpy()) == features).all()
    tensors = safetensors.numpy.load_file("f.safetensors")
    assert (tensors["features"] == features).all(), tensors.keys()

    table, clusters = pyarrow.parquet.read_table("c.parquet"), rows("c.csv")
    assert table.column_names == list(clusters[0]), table.column_names
    assert table["path"].to_pylist() == [row["path"] for row in clusters]
    for name in ["cluster", "runner_up"]:
        assert table[name].to_pylist() == [int(row[name]) for row in clusters]
    for name in ["score", "runner_up_score", "entropy"]:
        assert (table[name].to_numpy() == np.float32([row[name] for row in clusters])).all()


if __name__ == "__main__":
    main()
