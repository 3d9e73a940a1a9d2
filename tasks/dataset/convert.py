"""The convert stage: one Parquet file for each split, with the profile beside each image.

The rows of shards have two files of their own: those that train, and the recent rows.

Axes: N images of H×W pixels, kept as H*W bytes each, rows of pixels from the top.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
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
# The share of the shards' images that never trains.
RECENT_SHARE = 0.2


def show_files(ref: StageRef) -> None:
    """Attach the table of files to the task run."""
    facts = ref.facts
    rows = [
        {"file": name, "rows": facts["rows"][name.removesuffix(".parquet")], **entry.model_dump()}
        for name, entry in ref.manifest.files.items()
    ]
    words = f"Parquet files of {facts['dataset']}, {facts['image_shape']} pixels an image."
    show_table("tables", rows, words)


def assemble(shards: Sequence[pa.Table]) -> tuple[pa.Table, pa.Table, int]:
    """Return the rows of admitted shards that train, the recent rows, and how many are left out.

    Each image is there once, in the order of its digest, whatever shard it came in. An image with
    two labels is left out. Recent rows never train: a fixed share of all images, by their digests.
    """
    rows = pa.concat_tables(shards).combine_chunks()
    frame = rows.select(["sha256", "label"]).to_pandas()
    is_clear = frame.groupby("sha256")["label"].transform("nunique") == 1
    place = frame["sha256"][is_clear].drop_duplicates().sort_values(kind="stable")
    is_recent = place.map(lambda digest: int.from_bytes(digest[:4])) < RECENT_SHARE * 2**32
    trained, recent = (rows.take(pa.array(place.index[which])) for which in (~is_recent, is_recent))
    return trained, recent, int((~is_clear).sum())


def _write(table: pa.Table, path: Path, metadata: Mapping[str, str], num_pixels: int) -> None:
    """Write rows with their images as Parquet, in small row groups."""
    index = pa.array(np.arange(len(table)))
    pq.write_table(
        table.set_column(0, "index", index).replace_schema_metadata(metadata),
        path,
        row_group_size=min(ROW_GROUP, max(1, GROUP_BYTES // num_pixels)),
        compression="zstd",
        compression_level=3,
        # Pixels and digests hardly repeat, and their bounds say nothing.
        use_dictionary=["label"],
        write_statistics=[name for name in table.column_names if name not in ("sha256", "image")],
    )


@stage_task(CONVERT, timeout_s=900, show=show_files)
def convert(
    folder: Path,
    raw: StageRef,
    checked: StageRef,
    dataset_name: str,
    shards: tuple[StageRef, ...] = (),
) -> Facts:
    """Write `train.parquet` and `test.parquet`: index, label, image, then the rest of the profile.

    With admitted `shards`, also `shards.parquet` and `recent.parquet`. The metadata are the facts,
    each as JSON under `idxflow.<name>`. The images are not copied.
    """
    facts: Facts = {
        **{name: checked.facts[name] for name in ("num_classes", "image_shape", "rows")},
        "dataset": dataset_name,
        "sha256": raw.facts["sha256"],
    }
    # The files of the created rows are the same with any shards.
    metadata = {f"idxflow.{name}": json.dumps(facts[name]) for name in sorted(facts)}
    more: dict[str, pa.Table] = {}
    if shards:
        tables = [pq.read_table(shard.path / "rows.parquet") for shard in shards]
        more["shards"], more["recent"], left_out = assemble(tables)
        facts["rows"] = {**facts["rows"], **{name: len(rows) for name, rows in more.items()}}
        facts |= {"shards": sorted(shard.facts["shard"] for shard in shards), "left_out": left_out}
    num_pixels = math.prod(facts["image_shape"])
    for split, (name, _) in SPLITS.items():
        images_NHW = read_idx(raw.path / name)
        field = pa.field("image", pa.binary(num_pixels), nullable=False)
        content = [None, pa.py_buffer(np.ascontiguousarray(images_NHW))]
        column = pa.Array.from_buffers(field.type, len(images_NHW), content)
        table = pq.read_table(checked.path / f"{split}.profile.parquet")
        table = table.add_column(2, field, column)
        _write(table, folder / f"{split}.parquet", metadata, num_pixels)
    for split, table in more.items():
        _write(table, folder / f"{split}.parquet", metadata, num_pixels)
    return facts
