"""Do the labels fit the images? Asked of the mean image of each class, which takes no training.

Axes: N images of H×W pixels; R rows of a sample, P pixels of each, C classes. All sums are of whole
numbers below 2**53, so that the figures are the same bits on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Images (N, H, W) and their labels (N).
Split = tuple[NDArray[np.uint8], NDArray[np.uint8]]

# A sample says it to within two points, for a twentieth of a second.
MAX_ROWS = 2000
# The longer side of an image is cut down to at most this, by taking every n-th pixel.
MAX_SIDE = 32
SEED = 0


def agreements(train: Split, test: Split) -> dict[str, float]:
    """How far the nearest class mean agrees with the labels, by split: Cohen's kappa.

    The means are those of one half of the training rows; the other half, and the test rows, are
    named by them. Of each a sample is taken.
    """
    chance = np.random.default_rng(SEED)
    rows_N = chance.permutation(len(train[1]))
    half = len(rows_N) // 2
    # A single row is both halves.
    means = _class_means(*_sample(train, rows_N[: half or 1]))
    others = {"train": (train, rows_N[half:]), "test": (test, chance.permutation(len(test[1])))}
    found = {}
    for name, (split, split_rows) in others.items():
        pixels_RP, labels_R = _sample(split, split_rows)
        found[name] = kappa(labels_R, _nearest(pixels_RP, *means))
    return found


def kappa(labels_R: NDArray[np.int64], named_R: NDArray[np.int64]) -> float:
    """1 where both always agree, 0 where they do as often as by chance, less where less often.

    Cohen 1960, "A Coefficient of Agreement for Nominal Scales", Educational and Psychological
    Measurement 20:37-46.
    """
    counts, times = (np.bincount(classes, minlength=256) for classes in (labels_R, named_R))
    by_chance = float(counts @ times) / len(labels_R) ** 2
    agreed = float((labels_R == named_R).mean())
    return 1.0 if by_chance == 1 else (agreed - by_chance) / (1 - by_chance)


def _sample(
    split: Split, rows_N: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pixels (R, P) and labels (R) of up to MAX_ROWS of these rows."""
    images_NHW, labels_N = split
    rows_R = np.sort(rows_N[:MAX_ROWS])
    step = -(-max(images_NHW.shape[1:]) // MAX_SIDE)
    images_RHW = images_NHW[:, ::step, ::step][rows_R]
    return images_RHW.reshape(len(rows_R), -1).astype(np.float64), labels_N[rows_R].astype(np.int64)


def _class_means(
    pixels_RP: NDArray[np.float64], labels_R: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """The classes (C) that have rows, the sums of their pixels (C, P) and their rows (C)."""
    classes_C, counts_C = np.unique(labels_R, return_counts=True)
    is_class_CR = (classes_C[:, None] == labels_R).astype(np.float64)
    return classes_C, is_class_CR @ pixels_RP, counts_C


def _nearest(
    pixels_RP: NDArray[np.float64],
    classes_C: NDArray[np.int64],
    sums_CP: NDArray[np.float64],
    counts_C: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The class whose mean is nearest to each row, by squares: |x - s/n|² without its |x|²."""
    squares_C = (sums_CP * sums_CP).sum(axis=1) / (counts_C * counts_C)
    distance_RC = squares_C - 2 * (pixels_RP @ sums_CP.T) / counts_C
    nearest_R: NDArray[np.int64] = classes_C[distance_RC.argmin(axis=1)]
    return nearest_R
