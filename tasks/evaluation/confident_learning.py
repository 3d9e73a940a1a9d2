"""Confident learning: which labels are likely wrong, and the table of the suspects.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
Journal of Artificial Intelligence Research 70:1373-1411. The probabilities must be out of sample:
each row is scored by a network that was not trained on it.

Axes: N rows, R rows of which the network is confident, C classes. Rows of a C×C matrix are given
labels, columns true ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.evaluation.metrics import Labels, Probabilities

SUSPECTS, NOISE, GALLERY = "suspects.parquet", "noise.json", "gallery.png"
# Equal margins are ordered by self-confidence, then by row.
ORDER = [("margin", "descending"), ("self_confidence", "ascending"), ("row", "ascending")]


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
    joint_CC: NDArray[np.int64]
    noise_CC: NDArray[np.float64]
    num_errors: float
    suspects: pa.Table


def find_label_errors(probabilities_NC: Probabilities, labels_N: Labels) -> LabelErrors:
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
    row_R = np.flatnonzero(reached_NC.any(axis=1))
    class_R = np.where(reached_NC, probabilities_NC, -1.0)[row_R].argmax(axis=1)
    label_R = labels_N[row_R]
    joint_CC = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint_CC, (label_R, class_R), 1)
    noise_CC = joint_CC / np.maximum(joint_CC.sum(axis=1, keepdims=True), 1)
    # Eq. 3: rows that are not confident are distributed like the confident ones of their label.
    num_errors = np.bincount(labels_N, minlength=num_classes) @ (1 - noise_CC.diagonal())
    # The rows off the diagonal of the joint, ranked by margin ("prune by noise rate"). One whose
    # label is as likely as the suggestion has no margin, and is left out.
    given_R, suggested_R = (
        probabilities_NC[row_R, each_R].astype(np.float64) for each_R in (label_R, class_R)
    )
    columns = {"row": row_R, "label": label_R, "suggested": class_R, "self_confidence": given_R}
    columns |= {"confidence": suggested_R, "margin": suggested_R - given_R}
    ranked = pa.table(columns).filter(pc.field("margin") > 0).sort_by(ORDER)
    ranked = ranked.add_column(0, "rank", [np.arange(1, len(ranked) + 1)])
    return LabelErrors(threshold_C, joint_CC, noise_CC, float(num_errors), ranked)


def read_suspects(path: Path, limit: int) -> list[dict[str, Any]]:
    """Return the first `limit` rows of the table of suspects."""
    rows: list[dict[str, Any]] = pq.read_table(path).slice(0, limit).to_pylist()
    return rows
