"""The table that later stages read: the pooled rows, training split first, then test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.runtime.store import StageRef

SPLITS = ("train", "test")


def read_labels(table: StageRef) -> NDArray[np.int64]:
    """Return the labels, int64 (N,), of a convert stage's output: N = train + test rows."""
    labels = [pq.read_table(_file(table, split), columns=["label"])["label"] for split in SPLITS]
    return np.concatenate([column.to_numpy() for column in labels]).astype(np.int64)


def read_rows(
    table: StageRef, rows_R: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return (images uint8 (R, H*W), labels int64 (R,)) of some rows of the pooled table.

    Only the row groups that hold them are read, one at a time.
    """
    height, width = table.facts["image_shape"]
    images_RP = np.empty((len(rows_R), height * width), np.uint8)
    labels_R = np.empty(len(rows_R), np.int64)
    start = 0
    for split in SPLITS:
        with pq.ParquetFile(_file(table, split)) as file:
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


def _file(table: StageRef, split: str) -> Path:
    return table.path / f"{split}.parquet"


def pixels(images_B: pa.FixedSizeBinaryArray, num_pixels: int) -> NDArray[np.uint8]:
    """The bytes of an Arrow column as (B, H*W), not copied."""
    _, content = images_B.buffers()
    flat = np.frombuffer(
        content, np.uint8, len(images_B) * num_pixels, images_B.offset * num_pixels
    )
    return flat.reshape(len(images_B), num_pixels)
