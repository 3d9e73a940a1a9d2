"""Confident learning: which labels are likely wrong, and the table of the suspects.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
Journal of Artificial Intelligence Research 70:1373-1411. The probabilities must be out of sample:
each row is scored by a network that was not trained on it.

Axes: N rows, S suspects, C classes. Rows of a C×C matrix are given labels, columns true ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

SUSPECTS, NOISE, GALLERY = "suspects.parquet", "noise.json", "gallery.png"

Probabilities = NDArray[np.float32] | NDArray[np.float64]
Classes = NDArray[np.int64]


@dataclass(frozen=True)
class LabelErrors:
    """The result of confident learning.

    `threshold_C` is the mean self-confidence of each class (eq. 2), infinite for one without rows.
    `joint_CC` counts the rows of each label that are confidently of each class (eq. 1), and
    `noise_CC` are its shares of each label. `num_errors` is the estimated number of wrong labels.
    `suspects` has a row for each label that is likely wrong, the likeliest first: its rank from 1,
    row, label, suggested label, the probabilities of both, and their difference, the margin.
    """

    threshold_C: NDArray[np.float64]
    joint_CC: Classes
    noise_CC: NDArray[np.float64]
    num_errors: float
    suspects: pa.Table


def find_label_errors(probabilities_NC: Probabilities, labels_N: Classes) -> LabelErrors:
    """Return the label errors, from out-of-sample probabilities, rows summing to one, and labels.

    A row is confidently of the likeliest class that reaches its threshold. A class that the network
    is rarely confident of has a low threshold, so the probabilities need not be calibrated.
    """
    num_classes = probabilities_NC.shape[1]
    threshold_C = np.full(num_classes, np.inf)
    for label in np.unique(labels_N):
        of_class = probabilities_NC[labels_N == label, label].astype(np.float64)
        # A mean of equal numbers may be rounded up, and then no row would reach it.
        threshold_C[label] = min(of_class.mean(), of_class.max())
    reached_NC = probabilities_NC >= threshold_C
    confident_N = np.where(reached_NC, probabilities_NC, -1.0).argmax(axis=1)
    is_confident_N = reached_NC.any(axis=1)
    joint_CC = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint_CC, (labels_N[is_confident_N], confident_N[is_confident_N]), 1)
    noise_CC = joint_CC / np.maximum(joint_CC.sum(axis=1, keepdims=True), 1)
    # Eq. 3: rows that are not confident are distributed like the confident ones of their label.
    counts_C = np.bincount(labels_N, minlength=num_classes)
    return LabelErrors(
        threshold_C=threshold_C,
        joint_CC=joint_CC,
        noise_CC=noise_CC,
        num_errors=float(counts_C @ (1 - noise_CC.diagonal())),
        suspects=_ranked(probabilities_NC, labels_N, confident_N, is_confident_N),
    )


def _ranked(
    probabilities_NC: Probabilities,
    labels_N: Classes,
    confident_N: Classes,
    is_confident_N: NDArray[np.bool_],
) -> pa.Table:
    """Return the rows off the diagonal of the joint, ranked by margin ("prune by noise rate").

    A row whose label is as likely as the suggestion is left out, so that no suspect has the label
    that the network predicts. Equal margins are ordered by self-confidence, then by row.
    """
    every_N = np.arange(len(labels_N))
    given_N = probabilities_NC[every_N, labels_N].astype(np.float64)
    suggested_N = probabilities_NC[every_N, confident_N].astype(np.float64)
    margin_N = suggested_N - given_N
    row_S = np.flatnonzero(is_confident_N & (margin_N > 0))
    row_S = row_S[np.lexsort((row_S, given_N[row_S], -margin_N[row_S]))]
    columns = {
        "rank": np.arange(1, len(row_S) + 1),
        "row": row_S,
        "label": labels_N[row_S],
        "suggested": confident_N[row_S],
        "self_confidence": given_N[row_S],
        "confidence": suggested_N[row_S],
        "margin": margin_N[row_S],
    }
    return pa.table(columns)


def read_suspects(path: Path, limit: int) -> list[dict[str, Any]]:
    """Return the first `limit` rows of the table of suspects."""
    rows: list[dict[str, Any]] = pq.read_table(path).slice(0, limit).to_pylist()
    return rows
