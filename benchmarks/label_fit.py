"""How well labels fit images within a shard: what the admit stage can tell.

Kappa of the labels and the nearest class means of the other half of the shard, by that of as many
created training rows: lowest and highest of the draws.

    python benchmarks/label_fit.py mnist=FOLDER fashion-mnist=FOLDER digits8x8
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import rotate
from stages_alone import measure_each, read_rows

from tasks.dataset.profile import agreements
from tasks.dataset.table import read_rows as rows_of

SIZES, NUM_DRAWS = (80, 100, 200, 500, 2_000), 100
NOISE = (0.2, 0.3, 0.5, 1.0)
Array = NDArray[np.uint8]


def fit(images: Array, labels: Array) -> float:
    """Kappa of the labels of one half of the rows and the class means of the other."""
    return agreements((images, labels), (images, labels))["train"]


def measure(name: str, images: Array, labels: Array) -> None:
    """Print the range of each kind of shard, by number of rows."""
    chance = np.random.default_rng(0)
    for size in (size for size in SIZES if 2 * size <= len(labels)):
        found: dict[str, list[float]] = {}
        created = np.sort(np.random.default_rng(0).permutation(len(labels))[:size])
        expected = fit(images[created], labels[created])
        for _ in range(NUM_DRAWS):
            rows = chance.permutation(len(labels))[:size]
            turned = rotate(images[rows], 20, axes=(2, 1), reshape=False, order=1)
            shards = {"clean": (images[rows], labels[rows]), "20°": (turned, labels[rows])}
            for share in NOISE:
                wrong, changed = chance.permutation(size)[: int(share * size)], labels[rows].copy()
                changed[wrong] = chance.permutation(changed[wrong])
                shards[f"{share:.0%} shuffled"] = (images[rows], changed)
            for kind, shard in shards.items():
                found.setdefault(kind, []).append(fit(*shard) / expected)
        words = (f"{kind} {min(values):.2f} to {max(values):.2f}" for kind, values in found.items())
        print(f"{name}, {size:,} rows: {'; '.join(words)}", flush=True)


def measure_rows(name: str, folder: Path | None) -> None:
    """Measure the training rows of a data set."""
    rows = read_rows(name, folder)
    counts, shape = rows.table.facts["rows"], rows.table.facts["image_shape"]
    pixels, labels = rows_of(rows.table, np.arange(counts["train"]))
    measure(name, pixels.reshape(-1, *shape), labels.astype(np.uint8))


if __name__ == "__main__":
    measure_each(sys.argv[1:], measure_rows)
