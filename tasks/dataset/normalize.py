"""The normalize stage: the rows of each part, and the two numbers that scale a pixel.

Axes: N pooled rows, R training rows, P = H*W pixels. Nothing is scaled here: the model has the
numbers in its first layer, so that serving scales as training did.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline_config.recipe import LastRows, PooledTest, Split, StratifiedFold, StratifiedShare
from tasks.dataset.table import Indices, PartIndices, read_labels, read_rows, row_ranges
from tasks.runtime.errors import ConfigError, ValidationError
from tasks.runtime.show import show_table
from tasks.runtime.stages import NORMALIZE
from tasks.runtime.store import Facts, StageRef
from tasks.runtime.task import stage_task

Scaling = Literal["none", "unit", "standard"]

# Pixels that are counted at a time, at least one image: bincount takes 8 bytes for each.
PIECE_BYTES = 1024 * 28 * 28


def split_with_shards(split: Split, table: StageRef) -> PartIndices:
    """Return the rows of each part of a table. The rows of shards are added to those that train.

    Validation and test rows are created ones. Raises ConfigError as `split_rows`, and for shards in
    a split that mixes training and test rows.
    """
    (_, train), (_, test), *more = row_ranges(table)
    parts = split_rows(split, read_labels(table)[: test.stop], train.stop)
    if not more:
        return parts
    if isinstance(split.test, PooledTest):
        what, found = "split.test.kind = pooled", "a data set with shards"
        raise ConfigError(what, found=found, expected="kind official, or no shards")
    return parts._replace(train=np.concatenate([parts.train, np.array(more[0][1], np.int64)]))


def split_rows(split: Split, labels_N: NDArray[np.int64], num_train: int) -> PartIndices:
    """Return the rows of each part; the first `num_train` are the data set's training split.

    Raises ConfigError where a part of the recipe would be empty or out of proportion.
    """
    rows = np.arange(len(labels_N), dtype=np.int64)
    rest, test = rows[:num_train], rows[num_train:]
    if isinstance(split.test, PooledTest):
        rest, test = _pooled(rows, split.test)
    validation = split.validation
    if isinstance(validation, StratifiedShare):
        held = _stratified(labels_N[rest], validation)
    elif isinstance(validation, StratifiedFold):
        held = _fold(labels_N[rest], validation)
    else:
        num_held = validation.rows if isinstance(validation, LastRows) else 0
        if num_held > len(rest) / 2:
            raise ConfigError(
                f"split.validation.rows = {num_held}",
                found=f"only {len(rest)} rows that are not for testing",
                expected=f"at most {len(rest) // 2}, half of them",
                remedy=f"Lower it: --set split.validation.rows={max(1, len(rest) // 10)}. "
                "For none: --set 'split.validation={kind: none}'",
            )
        stop = len(rest) - num_held
        return PartIndices(rest[:stop], rest[stop:], test)
    return PartIndices(np.sort(rest[~held]), np.sort(rest[held]), test)


def _pooled(rows: Indices, test: PooledTest) -> tuple[Indices, Indices]:
    """Return (rest, test) in the order of scikit-learn's `train_test_split`."""
    from sklearn.model_selection import train_test_split

    try:
        rest, tested = train_test_split(rows, test_size=test.share, random_state=test.seed)
    except ValueError as error:
        what, found = f"split.test.share = {test.share}", f"{len(rows)} rows, none left to train on"
        raise ConfigError(what, found=found, expected="a smaller share") from error
    return rest, tested


def _stratified(labels: NDArray[np.int64], validation: StratifiedShare) -> NDArray[np.bool_]:
    """Return whether each row is for validation: of each class the share, to the nearest row."""
    generator = np.random.default_rng(validation.seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        num_held = round(validation.share * len(places))
        if not 0 < num_held < len(places):
            raise ConfigError(
                f"split.validation.share = {validation.share}",
                found=f"{len(places)} rows of class {label}, {num_held} of them for validation",
                expected="rows of every class to train on and to validate with",
            )
        held[generator.permutation(places)[:num_held]] = True
    return held


def _fold(labels: NDArray[np.int64], validation: StratifiedFold) -> NDArray[np.bool_]:
    """Return whether each row is for validation: each class is shuffled and dealt in turn.

    No two folds differ by more than one row, neither in total nor in any class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < validation.folds:
        what = f"split.validation.folds = {validation.folds}"
        found = f"{counts.min()} rows of class {classes[counts.argmin()]}"
        raise ConfigError(what, found=found, expected="a row of every class in each fold")
    shuffled = np.random.default_rng(validation.seed).permutation(len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held = np.zeros(len(labels), bool)
    held[dealt[validation.fold :: validation.folds]] = True
    return held


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
