"""The convert stage: one Parquet file for each split, with the profile beside each image.

Axes: N images of H×W pixels, kept as H*W bytes each, rows of pixels from the top.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.raw.idx import SPLITS, read_idx
from tasks.runtime.show import show_table
from tasks.runtime.stages import CONVERT
from tasks.runtime.store import Facts, StageRef
from tasks.runtime.task import stage_task

# A reader holds a row group: at most this many rows, and this many bytes or a single image.
ROW_GROUP = 8192
GROUP_BYTES = ROW_GROUP * 28 * 28

COMPRESSION_LEVEL = 3


def write_table(path: Path, images: Path, profile: Path, facts: Facts) -> None:
    """Write one split, a row group at a time: the same inputs give the same bytes.

    The columns are index, label, image, then the others of the profile. The metadata are `facts`,
    each as JSON under `idxflow.<name>`.
    """
    images_NHW = read_idx(images)
    num_pixels = images_NHW[0].size
    row_group = min(ROW_GROUP, max(1, GROUP_BYTES // num_pixels))
    metadata = {f"idxflow.{name}": json.dumps(facts[name]) for name in sorted(facts)}
    with pq.ParquetFile(profile) as source:
        index, label, *others = source.schema_arrow
        image = pa.field("image", pa.binary(num_pixels), nullable=False)
        schema = pa.schema([index, label, image, *others], metadata=metadata)
        with pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            # Pixels and digests hardly repeat, and their bounds say nothing.
            use_dictionary=["label"],
            write_statistics=[name for name in schema.names if name not in ("image", "sha256")],
        ) as writer:
            start = 0
            for batch in source.iter_batches(row_group):
                content = pa.py_buffer(np.ascontiguousarray(images_NHW[start : start + len(batch)]))
                column = pa.Array.from_buffers(image.type, len(batch), [None, content])
                index, label, *others = batch.columns
                columns = [index, label, column, *others]
                writer.write_batch(pa.record_batch(columns, schema=schema), row_group)
                start += len(batch)


def show_files(ref: StageRef) -> None:
    """Attach the table of files to the task run."""
    facts = ref.facts
    rows = [
        {"file": name, "rows": facts["rows"][name.removesuffix(".parquet")], **entry.model_dump()}
        for name, entry in ref.manifest.files.items()
    ]
    words = f"Parquet files of {facts['dataset']}, {facts['image_shape']} pixels an image."
    show_table("tables", rows, words)


@stage_task(CONVERT, timeout_s=900, show=show_files)
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
