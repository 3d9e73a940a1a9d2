"""The convert stage: one Parquet file a split, with the profile beside each image.

Axes: N images of H×W pixels, kept as H*W bytes each, rows of pixels from the top.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.raw.idx import read_idx
from tasks.raw.structure import SPLITS
from tasks.runtime.show import show_table
from tasks.runtime.stages import CONVERT
from tasks.runtime.store import Facts, StageRef
from tasks.runtime.task import stage_task

# Rows a row group, and its bytes, at least one image's: what a reader of one group holds.
ROW_GROUP = 8192
GROUP_BYTES = ROW_GROUP * 28 * 28

COMPRESSION_LEVEL = 3


def schema(profile: pa.Schema, facts: Facts) -> pa.Schema:
    """index, label, image, then the profile's other columns; `idxflow.*` metadata in JSON."""
    height, width = facts["image_shape"]
    index, label, *others = profile
    image = pa.field("image", pa.binary(height * width), nullable=False)
    metadata = {f"idxflow.{name}": json.dumps(facts[name]) for name in sorted(facts)}
    return pa.schema([index, label, image, *others], metadata=metadata)


def image_column(images_BHW: NDArray[np.uint8]) -> pa.FixedSizeBinaryArray:
    """The images as fixed-size binary of H*W bytes over the array's own memory."""
    images_BHW = np.ascontiguousarray(images_BHW)
    num_images, height, width = images_BHW.shape
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(height * width), num_images, [None, pa.py_buffer(images_BHW)]
    )


def write_table(path: Path, images: Path, profile: Path, facts: Facts) -> None:
    """Write one split, a row group at a time: the same inputs give the same bytes."""
    images_NHW = read_idx(images)
    row_group = min(ROW_GROUP, max(1, GROUP_BYTES // images_NHW[0].size))
    with pq.ParquetFile(profile) as source:
        columns = schema(source.schema_arrow, facts)
        with pq.ParquetWriter(
            path,
            columns,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            # Pixels and digests are as good as never twice the same; their bounds say nothing.
            use_dictionary=["label"],
            write_statistics=[name for name in columns.names if name not in ("image", "sha256")],
        ) as writer:
            start = 0
            for batch in source.iter_batches(row_group):
                image = image_column(images_NHW[start : start + len(batch)])
                index, label, *others = batch.columns
                writer.write_batch(
                    pa.record_batch([index, label, image, *others], schema=columns), row_group
                )
                start += len(batch)


def show(ref: StageRef) -> None:
    """Attach the table of files to the task run."""
    files, facts = ref.manifest.files, ref.facts
    rows = [
        {
            "file": f"{split}.parquet",
            "rows": facts["rows"][split],
            "bytes": files[f"{split}.parquet"].num_bytes,
            "sha256": files[f"{split}.parquet"].sha256,
        }
        for split in SPLITS
    ]
    words = f"Parquet files of {facts['dataset']}, {facts['image_shape']} pixels an image."
    show_table("tables", rows, words)


@stage_task(CONVERT, timeout_s=900, show=show)
def convert(folder: Path, raw: StageRef, checked: StageRef, dataset_name: str) -> Facts:
    """Write `train.parquet` and `test.parquet`; their metadata are the facts."""
    facts: Facts = {
        "dataset": dataset_name,
        "num_classes": checked.facts["num_classes"],
        "image_shape": checked.facts["image_shape"],
        "rows": checked.facts["rows"],
        "sha256": raw.facts["sha256"],
    }
    for split, (images, _) in SPLITS.items():
        profile = checked.path / f"{split}.profile.parquet"
        write_table(folder / f"{split}.parquet", raw.path / images, profile, facts)
    return facts
