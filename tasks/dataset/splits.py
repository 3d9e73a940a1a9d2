"""Which rows train, which validate, which test: indices into the pooled rows, and nothing else.

Row i of N is row i of the training split for i below its length, and of the test split after that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline_config.recipe import LastRows, PooledTest, Split, StratifiedFold, StratifiedShare
from pipeline_config.sections import ConfigError
from tasks.runtime.store import StageRef

Rows = NDArray[np.int64]
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Indices:
    """Disjoint int64 indices that together are every row; `validation` may be empty."""

    train: Rows
    validation: Rows
    test: Rows


def split_rows(split: Split, labels_N: NDArray[np.int64], num_train: int) -> Indices:
    """The rows of each part, of which the first `num_train` are the data set's training split.

    Raises ConfigError where a part that the recipe asks for would be empty or out of proportion.
    """
    if isinstance(split.test, PooledTest):
        rest, test = _pooled(split.test, len(labels_N))
    else:
        rest = np.arange(num_train, dtype=np.int64)
        test = np.arange(num_train, len(labels_N), dtype=np.int64)
    if isinstance(split.validation, LastRows):
        train, validation = _last(rest, split.validation.rows)
    elif isinstance(split.validation, StratifiedShare):
        train, validation = _stratified(rest, labels_N[rest], split.validation)
    elif isinstance(split.validation, StratifiedFold):
        train, validation = _fold(rest, labels_N[rest], split.validation)
    else:
        train, validation = rest, rest[:0]
    return Indices(train, validation, test)


def read_split(normalized: StageRef) -> Indices:
    """The indices that a normalize stage wrote."""
    train, validation, test = (np.load(normalized.path / f"{part}.npy") for part in PARTS)
    return Indices(train, validation, test)


def _pooled(test: PooledTest, num_rows: int) -> tuple[Rows, Rows]:
    """(rest, test) as scikit-learn's `train_test_split` shuffles them; the order is kept."""
    from sklearn.model_selection import train_test_split

    num_test = math.ceil(test.share * num_rows)
    if num_test >= num_rows:
        raise ConfigError(
            f"split.test.share = {test.share}",
            found=f"{num_test} of {num_rows} rows for testing",
            expected="a share that leaves rows to train on",
            remedy="Lower split.test.share.",
        )
    rest, tested = train_test_split(
        np.arange(num_rows, dtype=np.int64), test_size=test.share, random_state=test.seed
    )
    return rest, tested


def _last(rest: Rows, rows: int) -> tuple[Rows, Rows]:
    """(train, validation); a recipe's count is refused where it would take most of the rows."""
    if rows > len(rest) / 2:
        raise ConfigError(
            f"split.validation.rows = {rows}",
            found=f"only {len(rest)} rows that are not for testing",
            expected=f"at most {len(rest) // 2}, half of them, so that the model has rows to learn",
            remedy=f"Lower it: --set split.validation.rows={max(1, len(rest) // 10)}. For none: "
            "--set 'split.validation={kind: none}'",
        )
    return rest[:-rows], rest[-rows:]


def _stratified(
    rest: Rows, labels: NDArray[np.int64], validation: StratifiedShare
) -> tuple[Rows, Rows]:
    """(train, validation), ascending: of each class the share, to the nearest row."""
    generator = np.random.default_rng(validation.seed)
    held = np.zeros(len(rest), bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        num_held = round(validation.share * len(places))
        if not 0 < num_held < len(places):
            raise ConfigError(
                f"split.validation.share = {validation.share}",
                found=f"{len(places)} rows of class {label}, {num_held} of them for validation",
                expected="rows of every class to train on and to validate with",
                remedy="Choose a share nearer to 0.5, or the kind none or last.",
            )
        held[generator.permutation(places)[:num_held]] = True
    return np.sort(rest[~held]), np.sort(rest[held])


def _fold(rest: Rows, labels: NDArray[np.int64], validation: StratifiedFold) -> tuple[Rows, Rows]:
    """(train, validation), ascending: each class shuffled, and the rows dealt out in turn.

    So no two folds differ by more than one row, neither as a whole nor in any class.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < validation.folds:
        raise ConfigError(
            f"split.validation.folds = {validation.folds}",
            found=f"{counts.min()} rows of class {classes[counts.argmin()]}",
            expected="a row of every class in each fold",
            remedy="Take fewer folds.",
        )
    shuffled = np.random.default_rng(validation.seed).permutation(len(rest))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held = np.zeros(len(rest), bool)
    held[dealt[validation.fold :: validation.folds]] = True
    return np.sort(rest[~held]), np.sort(rest[held])


def first_of_each_class(labels_N: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """Return `num_rows` rows: the first of each class, then the second, and so on."""
    turn_N = np.zeros(len(labels_N), dtype=np.int64)
    for label in np.unique(labels_N):
        rows = labels_N == label
        turn_N[rows] = np.arange(rows.sum())
    chosen: NDArray[np.int64] = np.lexsort((labels_N, turn_N))[:num_rows]
    return chosen
