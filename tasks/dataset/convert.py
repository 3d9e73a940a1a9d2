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
    """Write `train.parquet` and `test.parquet`: index, label, image, then the rest of the profile.

    The metadata are the facts, each as JSON under `idxflow.<name>`. The images are not copied.
    """
    facts: Facts = {
        **{name: checked.facts[name] for name in ("num_classes", "image_shape", "rows")},
        "dataset": dataset_name,
        "sha256": raw.facts["sha256"],
    }
    metadata = {f"idxflow.{name}": json.dumps(facts[name]) for name in sorted(facts)}
    for split, (name, _) in SPLITS.items():
        images_NHW = read_idx(raw.path / name)
        num_pixels = images_NHW[0].size
        field = pa.field("image", pa.binary(num_pixels), nullable=False)
        content = [None, pa.py_buffer(np.ascontiguousarray(images_NHW))]
        column = pa.Array.from_buffers(field.type, len(images_NHW), content)
        table = pq.read_table(checked.path / f"{split}.profile.parquet")
        pq.write_table(
            table.add_column(2, field, column).replace_schema_metadata(metadata),
            folder / f"{split}.parquet",
            row_group_size=min(ROW_GROUP, max(1, GROUP_BYTES // num_pixels)),
            compression="zstd",
            compression_level=3,
            # Pixels and digests hardly repeat, and their bounds say nothing.
            use_dictionary=["label"],
            write_statistics=[name for name in table.column_names if name != "sha256"],
        )
    return facts
