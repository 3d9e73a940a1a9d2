"""The table that later stages read: the pooled rows, training split first, then test."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.runtime.store import StageRef

SPLITS = ("train", "test")


def read_images(table: StageRef) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(images uint8 (N, H*W), labels int64 (N,)) of a convert stage's output, N = train + test.

    The pixels go straight from the Parquet pages into the one array, a row group at a time.
    """
    rows = table.facts["rows"]
    height, width = table.facts["image_shape"]
    num_rows = sum(rows[split] for split in SPLITS)
    images_NP = np.empty((num_rows, height * width), np.uint8)
    labels_N = np.empty(num_rows, np.int64)
    start = 0
    for split in SPLITS:
        with pq.ParquetFile(table.path / f"{split}.parquet") as file:
            for group in range(file.num_row_groups):
                piece = file.read_row_group(group, columns=["image", "label"]).combine_chunks()
                stop = start + len(piece)
                images_NP[start:stop] = pixels(piece["image"].chunk(0), height * width)
                labels_N[start:stop] = piece["label"].to_numpy()
                start = stop
    return images_NP, labels_N


def pixels(images_B: pa.FixedSizeBinaryArray, num_pixels: int) -> NDArray[np.uint8]:
    """The bytes of an Arrow column as (B, H*W), not copied."""
    _, content = images_B.buffers()
    flat = np.frombuffer(
        content, np.uint8, len(images_B) * num_pixels, images_B.offset * num_pixels
    )
    return flat.reshape(len(images_B), num_pixels)
