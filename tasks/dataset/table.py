"""The pooled rows of a data set: reading them, and dividing them into parts.

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

from pipeline_config.recipe import LastRows, PooledTest, Split, StratifiedFold, StratifiedShare
from pipeline_config.sections import ConfigError
from tasks.runtime.store import StageRef

Indices = NDArray[np.int64]


class PartIndices(NamedTuple):
    """Disjoint indices, int64, that together are every row; `validation` may be empty."""

    train: Indices
    validation: Indices
    test: Indices


PARTS = PartIndices._fields
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
    return PartIndices(*(np.load(normalized.path / f"{part}.npy") for part in PARTS))


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


def first_of_each_class(labels_N: NDArray[np.int64], num_rows: int) -> Indices:
    """Return `num_rows` rows: the first of each class, then the second, and so on."""
    by_class = [np.flatnonzero(labels_N == label) for label in np.unique(labels_N)]
    rows = [row for turn in zip_longest(*by_class) for row in turn if row is not None]
    return np.array(rows[:num_rows], np.int64)
