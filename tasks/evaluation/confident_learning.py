"""Which labels are likely wrong, by confident learning: pure numbers, no files, no network.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
Journal of Artificial Intelligence Research 70:1373-1411. The probabilities must be out of sample:
no row may be scored by a network that was trained on it.

Axes: N rows, S suspects, C classes; rows of a C×C matrix are given labels, columns true ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32] | NDArray[np.float64]
Classes = NDArray[np.int64]

# Stands for "no class reaches its threshold".
NOBODY = -1


@dataclass(frozen=True)
class Suspects:
    """Rows whose label is likely wrong, the likeliest first.

    `self_confidence_S` is the probability of the given label, `confidence_S` that of the suggested
    one, and `margin_S`, which ranks them, the second less the first: above 0, at most 1.
    """

    row_S: NDArray[np.int64]
    label_S: Classes
    suggested_S: Classes
    self_confidence_S: NDArray[np.float64]
    confidence_S: NDArray[np.float64]

    @property
    def margin_S(self) -> NDArray[np.float64]:
        """How much likelier the suggested label is than the given one."""
        return self.confidence_S - self.self_confidence_S


@dataclass(frozen=True)
class Findings:
    """What confident learning says of a set of labels; `num_errors` is an estimate."""

    threshold_C: NDArray[np.float64]
    joint_CC: Classes
    num_errors: float
    suspects: Suspects


def thresholds(probabilities_NC: Probabilities, labels_N: Classes) -> NDArray[np.float64]:
    """The mean self-confidence of each class, eq. 2: float64 (C,); infinite where it has no rows.

    A class that the network is rarely sure of so has a low threshold: that is why the
    probabilities need not be calibrated.
    """
    threshold_C = np.full(probabilities_NC.shape[1], np.inf)
    for label in np.unique(labels_N):
        of_class = probabilities_NC[labels_N == label, label].astype(np.float64)
        # A mean of equal numbers may be rounded to above them, and then no row would reach it.
        threshold_C[label] = min(of_class.mean(), of_class.max())
    return threshold_C


def confident_classes(probabilities_NC: Probabilities, threshold_C: NDArray[np.float64]) -> Classes:
    """The likeliest class that reaches its threshold, or NOBODY: int64 (N,)."""
    reached_NC = probabilities_NC >= threshold_C
    likeliest_N = np.where(reached_NC, probabilities_NC, -1.0).argmax(axis=1)
    return np.where(reached_NC.any(axis=1), likeliest_N, NOBODY)


def confident_joint(labels_N: Classes, confident_N: Classes, num_classes: int) -> Classes:
    """How many rows of each given label (rows) are confidently of each class (columns), eq. 1."""
    counts_CC = np.zeros((num_classes, num_classes), np.int64)
    sure_N = confident_N != NOBODY
    np.add.at(counts_CC, (labels_N[sure_N], confident_N[sure_N]), 1)
    return counts_CC


def noise_matrix(joint_CC: Classes) -> NDArray[np.float64]:
    """The estimated share of each given label (rows) that is truly of each class (columns).

    Rows sum to one; those of a class without rows are 0.
    """
    rows_C1 = np.maximum(joint_CC.sum(axis=1, keepdims=True), 1)
    shares_CC: NDArray[np.float64] = joint_CC / rows_C1
    return shares_CC


def estimated_errors(joint_CC: Classes, labels_N: Classes) -> float:
    """The estimated number of wrong labels: N times the calibrated joint, eq. 3, off its diagonal.

    The rows that were not confident are shared out like the confident ones of the same label.
    """
    counts_C = np.bincount(labels_N, minlength=len(joint_CC))
    return float(counts_C @ (1 - noise_matrix(joint_CC).diagonal()))


def rank_suspects(
    probabilities_NC: Probabilities, labels_N: Classes, confident_N: Classes
) -> Suspects:
    """The rows off the diagonal of the confident joint, by margin, as "prune by noise rate" ranks.

    A row whose label is as likely as the suggestion is left out, so no suspect's label is the
    network's own answer. Of equal margins the lower self-confidence comes first, then the row.
    """
    every_N = np.arange(len(labels_N))
    given_N = probabilities_NC[every_N, labels_N].astype(np.float64)
    suggested_N = probabilities_NC[every_N, confident_N].astype(np.float64)
    row_S = np.flatnonzero((confident_N != NOBODY) & (suggested_N > given_N))
    margin_S = suggested_N[row_S] - given_N[row_S]
    row_S = row_S[np.lexsort((row_S, given_N[row_S], -margin_S))]
    return Suspects(row_S, labels_N[row_S], confident_N[row_S], given_N[row_S], suggested_N[row_S])


def find_label_errors(probabilities_NC: Probabilities, labels_N: Classes) -> Findings:
    """All of it, from out-of-sample probabilities (N, C), rows summing to one, and given labels."""
    threshold_C = thresholds(probabilities_NC, labels_N)
    confident_N = confident_classes(probabilities_NC, threshold_C)
    joint_CC = confident_joint(labels_N, confident_N, len(threshold_C))
    return Findings(
        threshold_C=threshold_C,
        joint_CC=joint_CC,
        num_errors=estimated_errors(joint_CC, labels_N),
        suspects=rank_suspects(probabilities_NC, labels_N, confident_N),
    )
