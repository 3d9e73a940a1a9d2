"""The normalize stage: which rows are for what, and the numbers that scale a pixel.

Axes: N pooled rows, P = H*W pixels. Nothing is scaled here: the two numbers travel inside the model
as its first layer, so that serving cannot do otherwise than training did.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline_config.recipe import PooledTest, Split
from tasks.dataset.splits import PARTS, Rows, split_rows
from tasks.dataset.table import read_labels, read_rows
from tasks.runtime.errors import ValidationError
from tasks.runtime.show import show_table
from tasks.runtime.stages import NORMALIZE
from tasks.runtime.store import Facts, StageRef
from tasks.runtime.task import stage_task

Scaling = Literal["none", "unit", "standard"]

# Pixels a batch of the fit, at least one image's: 6 MB of counters' indices.
BATCH_BYTES = 1024 * 28 * 28


def fit(scaling: Scaling, images_NP: NDArray[np.uint8], train: Rows) -> tuple[float, float]:
    """(mean, std) with x = (pixel - mean) / std; only the rows in `train` are looked at.

    `standard` takes one mean and one std over all pixels, since some pixels never change. Raises
    ValidationError where all training pixels are equal.
    """
    if scaling == "none":
        return 0.0, 1.0
    if scaling == "unit":
        return 0.0, 255.0
    counts = np.zeros(256, np.int64)
    step = max(1, BATCH_BYTES // images_NP.shape[1])
    for start in range(0, len(train), step):
        counts += np.bincount(images_NP[train[start : start + step]].ravel(), minlength=256)
    # Python's whole numbers: exact, whatever the order of the rows and however many there are.
    number, total, squares = (
        sum(level**power * int(count) for level, count in enumerate(counts)) for power in (0, 1, 2)
    )
    spread = number * squares - total * total
    if spread == 0:
        raise ValidationError(
            "the training images",
            found=f"the same grey level {counts.argmax()} in every pixel",
            expected="images that differ, since scaling: standard divides by their spread",
            remedy="Look at them with `idxflow show`; scaling: unit does not divide by it.",
        )
    return total / number, math.sqrt(spread) / number


def show(ref: StageRef) -> None:
    """Attach the number of rows of each part, and the scaling, to the task run."""
    facts = ref.facts
    show_table(
        "normalization",
        [{"part": part, "rows": facts["rows"][part]} for part in PARTS],
        f"Rows of each part; x = (pixel - {facts['mean']:.4f}) / {facts['std']:.4f}, "
        f"scaling {facts['scaling']}, fitted on the training rows.",
    )


@stage_task(NORMALIZE, timeout_s=300, show=show)
def normalize(folder: Path, table: StageRef, split: Split, scaling: Scaling) -> Facts:
    """Write `train.npy`, `validation.npy`, `test.npy` (int64) and return the fitted numbers."""
    indices = split_rows(split, read_labels(table), table.facts["rows"]["train"])
    fitted = indices.train if scaling == "standard" else indices.train[:0]
    images, _ = read_rows(table, fitted)
    mean, std = fit(scaling, images, np.arange(len(images)))
    rows = {part: getattr(indices, part) for part in PARTS}
    for part, indices_of_part in rows.items():
        # To memory first: on a full disk `np.save` loses the end of a file without an error.
        content = io.BytesIO()
        np.save(content, indices_of_part)
        (folder / f"{part}.npy").write_bytes(content.getvalue())
    return {
        "scaling": scaling,
        "mean": mean,
        "std": std,
        "rows": {part: len(indices_of_part) for part, indices_of_part in rows.items()},
        "pooled": isinstance(split.test, PooledTest),
    }
