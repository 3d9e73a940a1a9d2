"""Metrics of a classifier, from its probabilities: pure numbers, no files, no network.

Axes: N test rows, C classes. Rows of a confusion matrix are true classes, columns predicted ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline_config.datasets import Corrections
from tasks.runtime.errors import refuse_not_finite

Metrics = dict[str, Any]
Probabilities = NDArray[np.float32]
Labels = NDArray[np.int64]

PER_CLASS = ("name", "precision", "recall", "recall_interval_95", "f1", "support")
DIGITS = tuple("0123456789")
# The pairs that every tutorial on MNIST names.
CLASSIC_PAIRS = ((4, 9), (3, 5), (2, 7))
NUM_TOP_PAIRS = 10
# A float32 probability below this has underflowed; a row can lose at most its 87.3 nats.
TINY = float(np.finfo(np.float32).tiny)
# Of the numbers in a metrics file: finer than one row in 100,000.
DECIMALS = 6


def measure(probabilities_NC: Probabilities, labels_N: Labels, names: Sequence[str]) -> Metrics:
    """Return the metrics of some rows as JSON content, floats rounded to DECIMALS.

    Shares are in [0, 1]. `loss` is the mean negative log-likelihood in nats. The macro averages are
    unweighted means over all C classes. A quotient without rows (of a class that is never predicted
    or has no test rows) is 0. Raises TrainingError for no rows, NaN and infinity.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    refuse_not_finite(probabilities_NC)
    predictions_N, classes = probabilities_NC.argmax(axis=1), range(len(names))
    matrix_CC = confusion_matrix(labels_N, predictions_N, labels=classes)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels_N, predictions_N, labels=classes, zero_division=0
    )
    right_N = predictions_N == labels_N
    intervals = [
        wilson_interval(right, rows) if rows else None
        for right, rows in zip(matrix_CC.diagonal().tolist(), support.tolist(), strict=True)
    ]
    columns = (precision.tolist(), recall.tolist(), intervals, f1.tolist(), support.tolist())
    rows = zip(names, *columns, strict=True)
    return rounded(
        {
            **accuracy_of(right_N),
            "num_wrong": int((~right_N).sum()),
            "loss": mean_loss(probabilities_NC, labels_N),
            "macro_precision": float(precision.mean()),
            "macro_recall": float(recall.mean()),
            "macro_f1": float(f1.mean()),
            "per_class": [dict(zip(PER_CLASS, row, strict=True)) for row in rows],
            "confusion_matrix": matrix_CC.tolist(),
            **confused_pairs(matrix_CC, names),
        }
    )


def losses(probabilities_NC: Probabilities, labels_N: Labels) -> NDArray[np.float64]:
    """Return the negative log-likelihoods in nats. A probability below TINY counts as TINY."""
    of_label_N = probabilities_NC[np.arange(len(labels_N)), labels_N].astype(np.float64)
    return -np.log(np.clip(of_label_N, TINY, 1.0))


def mean_loss(probabilities_NC: Probabilities, labels_N: Labels) -> float:
    """Return the mean negative log-likelihood in nats."""
    return float(losses(probabilities_NC, labels_N).mean())


def accuracy_of(right_N: NDArray[np.bool_]) -> Metrics:
    """Return the number of rows, the share that is right, and its 95 % interval."""
    num_rows, num_right = len(right_N), int(right_N.sum())
    found: Metrics = {"num_rows": num_rows, "accuracy": num_right / num_rows}
    return found | {"accuracy_interval_95": wilson_interval(num_right, num_rows)}


def wilson_interval(num_right: int, num_rows: int) -> list[float]:
    """Return the 95 % score interval [low, high] of a share of right predictions.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", Journal of
    the American Statistical Association 22:209-212. Unlike the normal interval it stays in [0, 1]
    and is not empty at 0 or 1.
    """
    z = NormalDist().inv_cdf((1 + 0.95) / 2)
    share, z2 = num_right / num_rows, z * z
    centre = share + z2 / (2 * num_rows)
    spread = z * (share * (1 - share) / num_rows + z2 / (4 * num_rows**2)) ** 0.5
    scale = 1 + z2 / num_rows
    return [max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)]


def confused_pairs(matrix_CC: NDArray[np.int64], names: Sequence[str]) -> Metrics:
    """Return the pairs of classes that are confused most often, in either direction.

    `top_pairs`: at most NUM_TOP_PAIRS, the most confused first, none with a count of 0.
    `classic_pairs`: 4/9, 3/5 and 2/7 with their ranks among all pairs; empty unless the classes are
    the ten digits. Pairs with equal counts have equal ranks.
    """
    both_CC = matrix_CC + matrix_CC.T
    counts = {pair: int(both_CC[pair]) for pair in combinations(range(len(both_CC)), 2)}

    def row(pair: tuple[int, int]) -> Metrics:
        a, b = pair
        return {
            "first": names[a],
            "second": names[b],
            "count": counts[pair],
            "first_as_second": int(matrix_CC[a, b]),
            "second_as_first": int(matrix_CC[b, a]),
            "rank": 1 + sum(count > counts[pair] for count in counts.values()),
        }

    top = sorted(filter(counts.get, counts), key=lambda pair: -counts[pair])[:NUM_TOP_PAIRS]
    classic = CLASSIC_PAIRS if tuple(names) == DIGITS else ()
    return {"top_pairs": [row(pair) for pair in top], "classic_pairs": [row(p) for p in classic]}


def corrected_score(
    predictions_N: Labels, labels_N: Labels, places_N: Labels, corrections: Corrections
) -> Metrics:
    """Return the accuracy with wrong labels corrected and disputed rows left out.

    `places_N` are the rows' places in the official test split, negative for training rows that were
    pooled with it, whose labels nobody has corrected. Empty if no row is left.
    """
    labels_N, num_corrected = labels_N.copy(), 0
    for place, label in corrections.labels.items():
        labels_N[places_N == place] = label
        num_corrected += int((places_N == place).sum())
    right_N = (predictions_N == labels_N)[~np.isin(places_N, corrections.disputed)]
    num_rows, num_right = len(right_N), int(right_N.sum())
    if num_rows == 0:
        return {}
    return {
        "corrected_accuracy": num_right / num_rows,
        "corrected_interval_95": wilson_interval(num_right, num_rows),
        "corrected_rows": num_rows,
        "corrected_wrong": num_rows - num_right,
        "corrected_labels": num_corrected,
        "corrected_left_out": len(labels_N) - num_rows,
    }


def rounded(content: Metrics) -> Metrics:
    """Return `content` with every float, however deep, rounded to DECIMALS."""
    found: Metrics = json.loads(
        json.dumps(content), parse_float=lambda text: round(float(text), DECIMALS)
    )
    return found
