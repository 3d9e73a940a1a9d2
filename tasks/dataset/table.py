"""The pooled rows of a data set, and which of them are in each part.

The N pooled rows are those of the training split, of the test split, of the shards that train, and
the recent rows of the shards, one after the other. Images have H×W pixels.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.runtime.store import StageRef

Indices = NDArray[np.int64]


class PartIndices(NamedTuple):
    """Disjoint indices, int64, that together are every row; `validation` may be empty."""

    train: Indices
    validation: Indices
    test: Indices


# The files of the pooled table, in the order of its rows. The last two are there with shards.
FILES_OF_TABLE = ("train", "test", "shards", "recent")


def row_ranges(table: StageRef) -> list[tuple[Path, range]]:
    """Return each file of a convert stage's output with the pooled rows that it holds."""
    counts, start, found = table.facts["rows"], 0, []
    for name in FILES_OF_TABLE:
        if name in counts:
            found.append((table.path / f"{name}.parquet", range(start, start + counts[name])))
            start += counts[name]
    return found


def read_labels(table: StageRef) -> NDArray[np.int64]:
    """Return the labels, int64 (N,), of a convert stage's output."""
    files = [path for path, _ in row_ranges(table)]
    labels = [pq.read_table(file, columns=["label"])["label"].to_numpy() for file in files]
    return np.concatenate(labels).astype(np.int64)


def read_rows(table: StageRef, rows_R: Indices) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return (images uint8 (R, H*W), labels int64 (R,)) of some rows of the pooled table.

    Only the row groups that hold them are read, one at a time.
    """
    height, width = table.facts["image_shape"]
    images_RP = np.empty((len(rows_R), height * width), np.uint8)
    labels_R = np.empty(len(rows_R), np.int64)
    start = 0
    for path, _ in row_ranges(table):
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                places = np.flatnonzero((rows_R >= start) & (rows_R < stop))
                if len(places):
                    piece = file.read_row_group(group, columns=["image", "label"]).combine_chunks()
                    wanted = rows_R[places] - start
                    images_RP[places] = pixels(piece["image"].chunk(0), height * width)[wanted]
                    labels_R[places] = piece["label"].to_numpy()[wanted]
                start = stop
    return images_RP, labels_R


def pixels(images_B: pa.FixedSizeBinaryArray, num_pixels: int) -> NDArray[np.uint8]:
    """Return the bytes of an Arrow column as (B, H*W), not copied."""
    _, content = images_B.buffers()
    start, count = images_B.offset * num_pixels, len(images_B) * num_pixels
    return np.frombuffer(content, np.uint8, count, start).reshape(-1, num_pixels)


def read_split(normalized: StageRef) -> PartIndices:
    """Return the indices that a normalize stage wrote."""
    return PartIndices(*(np.load(normalized.path / f"{part}.npy") for part in PartIndices._fields))


def first_of_each_class(labels_N: NDArray[np.int64], num_rows: int) -> Indices:
    """Return `num_rows` rows: the first of each class, then the second, and so on."""
    by_class = [np.flatnonzero(labels_N == label) for label in np.unique(labels_N)]
    rows = [row for turn in zip_longest(*by_class) for row in turn if row is not None]
    return np.array(rows[:num_rows], np.int64)
