"""A process of its own that trains on scikit-learn's digits, without any server: prints a digest.

Usage: train_digits.py OVERRIDE …, with IDXFLOW_ROOT in the environment.
"""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

from pipeline_config.recipe_files import load_recipe
from tasks.dataset.normalize import normalize
from tasks.model.train import train
from tasks.runtime.devices import probe
from tasks.runtime.manifest import Facts, StageRef
from tasks.runtime.stages import CONVERT
from tasks.runtime.store import build

NUM_TRAIN = 1437


def write_table(folder) -> Facts:  # type: ignore[no-untyped-def]
    digits = load_digits()
    images, labels = (digits.images * 15).astype(np.uint8), digits.target.astype(np.int64)
    for name, rows in (("train", slice(NUM_TRAIN)), ("test", slice(NUM_TRAIN, None))):
        columns = {
            "label": pa.array(labels[rows], pa.uint8()),
            "image": pa.array([image.tobytes() for image in images[rows]], pa.binary(64)),
        }
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    rows = {"train": NUM_TRAIN, "test": len(labels) - NUM_TRAIN}
    return {"num_classes": 10, "image_shape": [8, 8], "rows": rows}


def main() -> None:
    recipe = load_recipe("small", tuple(sys.argv[1:]))
    nothing = StageRef(stage="fetch", key="0" * 16, digest="0" * 64)
    inputs = {"raw": nothing, "checked": nothing, "dataset_name": "digits"}
    table = build(CONVERT, inputs, write_table)
    normalized = normalize.fn(table, recipe.split, recipe.scaling)
    print("training", flush=True)
    ref = train.fn(table, normalized, recipe.model, recipe.training, probe("cpu"))
    print(ref.digest, flush=True)


if __name__ == "__main__":
    main()
