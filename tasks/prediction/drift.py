"""Drift: whether new images differ from the training rows, in three signals. Pure functions.

- AUC: can a classifier tell new images from training rows? 0.5 is a guess, 1 is certainty. It also
  sees changes that do no harm.
- Estimated accuracy: the mean of the calibrated top probability. It needs no labels, and is too
  high where the images differ much.
- Class shares: the total variation distance between the shares of predicted classes, 0 to 1.

Axes: N images (R reference rows, M new images) of H×W pixels, C classes, F blocks of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_config.drift import drift_limits

# An image has at most BLOCKS × BLOCKS block means, and its label is one of POOL times as many.
BLOCKS, FOLDS, POOL = 7, 5, 5
DRIFT, NO_DRIFT, TOO_FEW = "drift", "no drift", "too few"

Floats = NDArray[np.float64]


class Answered(NamedTuple):
    """Images uint8 (N, H, W), and the probabilities (N, C) that a model gives them."""

    images_NHW: NDArray[np.uint8]
    probabilities_NC: NDArray[np.float32]

    @property
    def shares_C(self) -> Floats:
        """The share of each predicted class."""
        best_N, num_classes = self.probabilities_NC.argmax(axis=1), self.probabilities_NC.shape[1]
        return np.asarray(np.bincount(best_N, minlength=num_classes) / len(best_N), np.float64)


class Signal(NamedTuple):
    """One signal. `usual` is its value without drift; it alarms beyond `limit`."""

    name: str
    value: float
    usual: float
    limit: float
    alarms: bool
    words: str


def block_means(images_NHW: NDArray[np.uint8]) -> Floats:
    """Return the means (N, F) of blocks of pixels, at most BLOCKS × BLOCKS an image."""
    sums: NDArray[Any] = images_NHW
    for axis, size in enumerate(images_NHW.shape[1:], 1):
        edges = np.linspace(0, size, min(BLOCKS, size) + 1).astype(int)
        widths = np.expand_dims(np.diff(edges), axis=tuple({0, 1, 2} - {axis}))
        sums = np.add.reduceat(sums, edges[:-1], axis=axis, dtype=np.float64) / widths
    return sums.reshape(len(images_NHW), -1)


def unlikeness(reference_RF: Floats, new_MF: Floats) -> tuple[float, Floats]:
    """Return the AUC, and how much each row, the R then the M, looks like a new one.

    Each row is scored by a logistic regression that was fitted on the other folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    is_new_N = np.repeat([0, 1], [len(reference_RF), len(new_MF)])
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000))
    rows_NF = np.concatenate([reference_RF, new_MF])
    scores_N = cross_val_predict(model, rows_NF, is_new_N, cv=folds, method="decision_function")
    return float(roc_auc_score(is_new_N, scores_N)), scores_N


def find_drift(
    reference: Answered, new: Answered, metrics: Mapping[str, Any], names: tuple[str, ...]
) -> tuple[tuple[Signal, ...], Floats]:
    """Return the three signals, and how much each row, the R then the M, looks like a new one.

    There are no signals for fewer than `min_rows` rows. `metrics` are the model's on its test rows.
    Without drift the AUC spreads as the rank-sum statistic does, and a share as a normal variable.
    """
    limits = drift_limits()
    num_reference, num_new = len(reference.images_NHW), len(new.images_NHW)
    if min(num_reference, num_new) < limits.min_rows:
        return (), np.zeros(num_reference + num_new)
    auc, unlike_N = unlikeness(block_means(reference.images_NHW), block_means(new.images_NHW))
    spread = math.sqrt((num_reference + num_new + 1) / (12 * num_reference * num_new))
    limit = 0.5 + limits.auc_margin + limits.deviations * spread
    words = f"a new image and a training image are told apart in {auc:.0%} of pairs"
    told_apart = Signal("auc", auc, 0.5, limit, auc > limit, words)

    confidence_M = new.probabilities_NC.max(axis=1).astype(np.float64)
    value, variance = float(confidence_M.mean()), float(confidence_M.var())
    bins, num_rows = metrics["reliability"], metrics["num_rows"]
    usual = sum(each["confidence"] * each["num_rows"] for each in bins) / num_rows
    spread = math.sqrt(variance * (1 / num_new + 1 / num_rows))
    limit = usual - limits.accuracy_margin - limits.deviations * spread
    words = f"{100 * (value - usual):+.1f} points against the test rows"
    if auc >= limits.estimate_holds_below:
        words += f"; with an AUC of {auc:.2f} the true accuracy may be far lower"
    accuracy = Signal("estimated_accuracy", value, usual, limit, value < limit, words)

    before_C, after_C = reference.shares_C, new.shares_C
    spread_C = np.sqrt(before_C * (1 - before_C) * (1 / num_new + 1 / num_reference))
    # |x| of a normal x has the mean s·√(2/π) and the variance s²·(1 - 2/π).
    chance = float(spread_C.sum()) * math.sqrt(2 / math.pi) / 2
    spread = float(np.linalg.norm(spread_C)) * math.sqrt(1 - 2 / math.pi) / 2
    change_C = abs(after_C - before_C)
    value, limit = change_C.sum() / 2, chance + limits.shares_margin + limits.deviations * spread
    most = int(change_C.argmax())
    words = f"most changed: {names[most]}, {before_C[most]:.1%} → {after_C[most]:.1%}"
    shares = Signal("class_shares", float(value), chance, limit, bool(value > limit), words)
    return (told_apart, accuracy, shares), unlike_N


def verdict_of(signals: tuple[Signal, ...]) -> str:
    """Return DRIFT if a signal alarms, NO_DRIFT if none does, TOO_FEW without signals."""
    return DRIFT if any(each.alarms for each in signals) else NO_DRIFT if signals else TOO_FEW


def worth_labelling(
    training_RHW: NDArray[np.uint8], new: Answered, num_wanted: int
) -> NDArray[np.int64]:
    """Return the indices of at most `num_wanted` new images: uncertain, unlike, and spread out.

    Of POOL times as many with the highest ranks in both, each next one is the farthest from those
    taken (farthest-first traversal).
    """
    from scipy.stats import rankdata

    training_RF, new_MF = block_means(training_RHW), block_means(new.images_NHW)
    new_MF = (new_MF - training_RF.mean(axis=0)) / (training_RF.std(axis=0) + 1)
    uncertain_M, unlike_M = -new.probabilities_NC.max(axis=1), (new_MF**2).sum(axis=1)
    pool = np.argsort(-rankdata(unlike_M) - rankdata(uncertain_M))[: POOL * num_wanted]
    taken, distance = [0], np.full(len(pool), np.inf)
    while len(taken) < min(num_wanted, len(pool)):
        distance = np.minimum(distance, ((new_MF[pool] - new_MF[pool[taken[-1]]]) ** 2).sum(axis=1))
        distance[taken] = -1
        taken.append(int(distance.argmax()))
    return pool[taken]
