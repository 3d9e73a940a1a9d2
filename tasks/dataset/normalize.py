"""The normalize stage: the rows of each part, and the two numbers that scale a pixel.

Axes: R training rows, P = H*W pixels. Nothing is scaled here: the model has the numbers in its
first layer, so that serving scales as training did.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline_config.recipe import PooledTest, Split
from tasks.dataset.table import read_rows, split_with_shards
from tasks.runtime.errors import ValidationError
from tasks.runtime.show import show_table
from tasks.runtime.stages import NORMALIZE
from tasks.runtime.store import Facts, StageRef
from tasks.runtime.task import stage_task

Scaling = Literal["none", "unit", "standard"]

# Pixels that are counted at a time, at least one image: bincount takes 8 bytes for each.
PIECE_BYTES = 1024 * 28 * 28


def fit(scaling: Scaling, images_RP: NDArray[np.uint8]) -> tuple[float, float]:
    """Return (mean, std) of training images, for x = (pixel - mean) / std.

    `standard` is over all pixels. Raises ValidationError where they are equal.
    """
    if scaling == "none":
        return 0.0, 1.0
    if scaling == "unit":
        return 0.0, 255.0
    counts = np.zeros(256, np.int64)
    step = max(1, PIECE_BYTES // images_RP.shape[1])
    for start in range(0, len(images_RP), step):
        counts += np.bincount(images_RP[start : start + step].ravel(), minlength=256)
    # Whole numbers are exact: the order of the rows does not matter. Python's do not overflow.
    number, total, squares = (int(counts @ np.arange(256) ** power) for power in (0, 1, 2))
    spread = number * squares - total * total
    if spread == 0:
        raise ValidationError(
            "the training images",
            found=f"the same grey level {counts.argmax()} in every pixel",
            expected="images that differ",
            remedy="Look at them with `idxflow show`; scaling: unit takes any images.",
        )
    return total / number, math.sqrt(spread) / number


def show_scaling(ref: StageRef) -> None:
    """Attach the number of rows of each part, and the scaling, to the task run."""
    facts = ref.facts
    rows = [{"part": part, "rows": count} for part, count in facts["rows"].items()]
    scale = f"x = (pixel - {facts['mean']:.4f}) / {facts['std']:.4f}, scaling {facts['scaling']}"
    show_table("normalization", rows, f"Rows of each part; {scale}, fitted on the training rows.")


@stage_task(NORMALIZE, timeout_s=300, show=show_scaling)
def normalize(folder: Path, table: StageRef, split: Split, scaling: Scaling) -> Facts:
    """Write `train.npy`, `validation.npy`, `test.npy` (int64) and return the fitted numbers."""
    indices = split_with_shards(split, table)
    images, _ = read_rows(table, indices.train if scaling == "standard" else indices.train[:0])
    mean, std = fit(scaling, images)
    for part, rows in indices._asdict().items():
        # Not to the file: on a full disk `np.save` loses the end of a file without an error.
        content = io.BytesIO()
        np.save(content, rows)
        (folder / f"{part}.npy").write_bytes(content.getvalue())
    return {
        "scaling": scaling,
        "mean": mean,
        "std": std,
        "rows": {part: len(rows) for part, rows in indices._asdict().items()},
        "pooled": isinstance(split.test, PooledTest),
    }
