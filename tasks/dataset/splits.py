"""What differs between the two splits by more than chance: labels, classes, pose, near copies.

Axes: N images of H×W pixels; R rows of a sample, P pixels of each; C classes; O the H+W sums of an
image's rows and columns. Samples are drawn with a fixed seed. Each figure is a lower bound of an
effect's size: chance is taken off, so that few rows give a small figure and no false alarm.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.dataset.profile import SEED, Labelled, kappa, named_by_means, sample

# Below this kappa, labels say nothing about images, and classes of two splits cannot be compared.
LEAST_AGREEMENT = 0.1
# A class with fewer rows in a sample is not compared.
LEAST_ROWS = 5
# From so much on, a split is mirrored; a slant in the other direction is then no turn.
MIRRORED = 0.5
# Test rows that are looked for among the train rows, and how many at a time.
NEAR_ROWS, NEAR_PIECE = 1000, 100
# The difference of two images, by their ink, up to which one is a near copy of the other.
# Two images of MNIST have at least 0.11, of digits8x8 0.09, of Fashion-MNIST 0.024.
NEAR = 0.02
SHIFTS = (slice(None), slice(None)), (slice(1, None), slice(-1)), (slice(-1), slice(1, None))

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Sample = tuple[Floats, Ints]


class Differences(NamedTuple):
    """What was found about two splits.

    `agreement`: kappa of labels and nearest class means, by split. `figures`: the columns of the
    frame that are one number. `near_N`: for each test row the train row that it is a near copy of,
    -1 for none, -2 where it was not looked for.
    """

    agreement: Mapping[str, float]
    figures: Mapping[str, float]
    near_N: Ints


def compare_splits(train: Labelled, test: Labelled) -> Differences:
    """Return the differences of two splits.

    Figures: `swapped`, the largest rise from train to test of the share of two classes' rows that
    are nearest to each other's mean (of the two shares, the mean); `train_noise` and `test_noise`,
    by how much less of a split's rows have their nearest neighbour's label than of the other's;
    `mirrored`, 1 for images mirrored left to right; `turned`, the degrees of a turn.
    """
    named = named_by_means(train, test)
    agreement = {split: kappa(*pair) for split, pair in named.items()}
    generator = np.random.default_rng(SEED)
    drawn = [sample(split, generator.permutation(len(split[1]))) for split in (train, test)]
    figures = {"swapped": _largest_rise(named), **_noise(*drawn), "mirrored": 0.0, "turned": 0.0}
    if min(agreement.values()) >= LEAST_AGREEMENT:
        figures |= _pose(*drawn)
    # The last digits of sums of fractions depend on the machine.
    rounded = {name: round(float(figure), 6) for name, figure in figures.items()}
    return Differences(agreement, rounded, near_copies(train[0], test[0]))


def with_differences(frame: pd.DataFrame, differences: Differences) -> pd.DataFrame:
    """Return a frame of profiles with a column for each figure, `near` and `near_twin`.

    `near` is 1 for a near copy that is no copy, 0 for another row that was looked for, else NaN.
    """
    is_test = frame["split"] == "test"
    near_N = differences.near_N
    is_near = (near_N >= 0) & (frame.loc[is_test, "leaked"] == 0)
    frame = frame.assign(**differences.figures, near=np.nan, near_twin=-1)
    frame.loc[is_test, "near_twin"] = near_N
    frame.loc[is_test, "near"] = np.where(near_N < -1, np.nan, is_near)
    return frame


def _largest_rise(named: Mapping[str, tuple[Ints, Ints]]) -> float:
    """Return the largest rise of two classes' confusion from train to test, two errors off."""
    num_classes = 1 + max(int(each.max()) for pair in named.values() for each in pair)
    shares, variances, enough = [], [], np.ones(num_classes, bool)
    for labels_R, named_R in named.values():
        pairs_R = labels_R * num_classes + named_R
        counts_CC = np.bincount(pairs_R, minlength=num_classes**2).reshape(num_classes, -1)
        rows_C1 = np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
        # The variance of a share of a few rows is not that of 0 or 1.
        likely_CC = (counts_CC + 1) / (rows_C1 + 4)
        shares.append(counts_CC / rows_C1)
        variances.append(likely_CC * (1 - likely_CC) / rows_C1)
        enough &= rows_C1[:, 0] >= LEAST_ROWS
    rises_CC, variance_CC = shares[1] - shares[0], variances[0] + variances[1]
    both_CC = (rises_CC + rises_CC.T) / 2 - np.sqrt(variance_CC + variance_CC.T)
    np.fill_diagonal(both_CC, 0)
    return float(both_CC[enough][:, enough].max(initial=0))


def _noise(train: Sample, test: Sample) -> dict[str, float]:
    """Return by how much neighbours agree less in a split than in the other, 3 errors off.

    Both have as many rows. A wrong label spoils the agreement of its row and of rows beside it.
    """
    rows = min(len(train[1]), len(test[1]))
    generator = np.random.default_rng(SEED)
    shares = []
    for images_NHW, labels_N in (train, test):
        rows_R = generator.permutation(len(labels_N))[:rows]
        pixels_RP, labels_R = images_NHW[rows_R].reshape(rows, -1), labels_N[rows_R]
        distances_RR = (pixels_RP * pixels_RP).sum(axis=1) - 2 * (pixels_RP @ pixels_RP.T)
        np.fill_diagonal(distances_RR, np.inf)
        agreed = (labels_R[distances_RR.argmin(axis=1)] == labels_R).sum()
        shares.append((agreed + 1) / (rows + 2))
    chance = 3 * np.sqrt(sum(share * (1 - share) for share in shares) / rows)
    gap = shares[1] - shares[0]
    return {"train_noise": max(gap - chance, 0), "test_noise": max(-gap - chance, 0)}


def _pose(train: Sample, test: Sample) -> dict[str, float]:
    """Return how far the test images are mirrored (1: wholly), and turned, in degrees.

    A small turn changes a class's mean image along the derivative of that image by the angle.
    """
    means = []
    for images_RHW, labels_R in (train, test):
        is_class_CR = np.arange(256)[:, None] == labels_R
        rows_C11 = np.maximum(is_class_CR.sum(axis=1), 1)[:, None, None]
        means.append(np.tensordot(is_class_CR * 1.0, images_RHW, 1) / rows_C11)
    found = {"mirrored": _amount(means[0][:, :, ::-1] - means[0], train, test)}
    height, width = means[0].shape[1:]
    if min(height, width) > 1 and found["mirrored"] < MIRRORED:
        slope_y, slope_x = np.gradient((means[0] + means[1]) / 2, axis=(1, 2))
        y_HW, x_HW = (
            np.indices((height, width)) - np.array([height - 1, width - 1])[:, None, None] / 2
        )
        turn_CHW = x_HW * slope_y - y_HW * slope_x
        found["turned"] = float(np.degrees(_amount(turn_CHW, train, test)))
    return found


def _amount(change_CHW: Floats, train: Sample, test: Sample) -> float:
    """Return how much of a change of the class means leads from train to test, two errors off."""
    counts, means, variances = [], [], []
    for images_RHW, labels_R in (train, test):
        along_R = np.einsum("rhw,rhw->r", images_RHW, change_CHW[labels_R])
        counts.append(np.bincount(labels_R, minlength=256))
        divisor_C = np.maximum(counts[-1], 1)
        means.append(np.bincount(labels_R, along_R, 256) / divisor_C)
        squares_C = np.bincount(labels_R, (along_R - means[-1][labels_R]) ** 2, 256)
        variances.append(squares_C / divisor_C**2)
    weights_C = counts[0] * counts[1] / np.maximum(counts[0] + counts[1], 1)
    whole = float(weights_C @ (change_CHW**2).sum(axis=(1, 2)))
    amount = abs(weights_C @ (means[1] - means[0]))
    chance = 2 * np.sqrt(weights_C**2 @ (variances[0] + variances[1]))
    return max(float(amount - chance) / whole, 0) if whole else 0.0


def near_copies(train_NHW: NDArray[np.uint8], test_NHW: NDArray[np.uint8]) -> Ints:
    """Return for each test image (N,) the train image that it is a near copy of.

    That is one whose pixels differ by at most NEAR of the ink, at the same place or shifted by a
    pixel; -1 if there is none, -2 if the row is not in the sample of NEAR_ROWS.
    """
    rows_R = np.random.default_rng(SEED).permutation(len(test_NHW))[:NEAR_ROWS]
    found_N = np.full(len(test_NHW), -2)
    train_NO = _outlines(train_NHW)
    squares_N = np.einsum("no,no->n", train_NO, train_NO)
    for start in range(0, len(rows_R), NEAR_PIECE):
        piece_R = rows_R[start : start + NEAR_PIECE]
        distances_RN = squares_N - 2 * (_outlines(test_NHW[piece_R]) @ train_NO.T)
        for row, closest in zip(piece_R, distances_RN.argmin(axis=1), strict=True):
            is_near = _difference(test_NHW[row], train_NHW[closest]) <= NEAR
            found_N[row] = closest if is_near else -1
    return found_N


def _outlines(images_NHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the sums of rows and of columns (N, O), each moved to begin with the first ink."""
    moved = []
    for axis in (2, 1):
        sums = images_NHW.sum(axis=axis, dtype=np.int64).astype(np.float32)
        places = np.arange(sums.shape[1]) + (sums > 255).argmax(axis=1)[:, None]
        inside = places < sums.shape[1]
        moved.append(np.where(inside, np.take_along_axis(sums, places * inside, 1), 0))
    return np.concatenate(moved, axis=1)


def _difference(one_HW: NDArray[np.uint8], other_HW: NDArray[np.uint8]) -> float:
    """Return the least difference by ink, over shifts of a pixel that keep half of the ink."""
    one, other = one_HW.astype(np.int64), other_HW.astype(np.int64)
    least = np.inf
    for (down, up), (right, left) in product(SHIFTS, SHIFTS):
        a, b = one[down, right], other[up, left]
        ink = int(a.sum())
        if 2 * ink >= one.sum():
            least = min(least, float(np.abs(a - b).sum()) / max(ink, 1))
    return least
