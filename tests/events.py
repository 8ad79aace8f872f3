"""Holds the event files of a run to its metrics.jsonl: `events.py RUN`.

TensorBoard's own reader must find every number of every line once, with its step, and nothing else."""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

GROUPS = {name: "train" for name in ["loss", "lr", "epoch", "spread", "knn"]}
GROUPS |= {name: "speed" for name in ["images_per_s", "wait_share"]}
# Of the fields of a line, those that are no curve.
NO_CURVE = {"step", "bad_files", "k"}


def wanted(path):
    """Step and value, in 32 bits, of each number by its tag."""
    curves = defaultdict(list)
    for line in path.read_text().splitlines():
        record = json.loads(line)
        # The epoch is a curve of the steps alone.
        names = {"knn"} if "knn" in record else record.keys() - NO_CURVE
        for name in names:
            curves[f"{GROUPS.get(name, 'method')}/{name}"].append((record["step"], np.float32(record[name])))
    return dict(curves)


def main():
    run = Path(sys.argv[1])
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={SCALARS: 0}).Reload()
    found = {
        tag: [(event.step, np.float32(event.value)) for event in events.Scalars(tag)]
        for tag in events.Tags()[SCALARS]
    }
    curves = wanted(run / "metrics.jsonl")
    assert found.keys() == curves.keys(), (sorted(found), sorted(curves))
    for tag, points in curves.items():
        assert found[tag] == points, f"{tag}: {found[tag]} instead of {points}"


if __name__ == "__main__":
    main()
