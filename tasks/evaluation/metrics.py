"""How good a classifier is, from its probabilities: pure numbers, no files, no network.

Axes: N test rows, C classes; rows of a confusion matrix are true classes, columns predicted ones.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from pipeline_config.datasets import Corrections
from tasks.runtime.errors import refuse_not_finite

Metrics = dict[str, Any]

DIGITS = tuple("0123456789")
# The pairs that every tutorial on MNIST names.
CLASSIC_PAIRS = ((4, 9), (3, 5), (2, 7))
NUM_TOP_PAIRS = 10
# Below this a float32 probability has underflowed; its 87.3 nats are the most that a row can lose.
TINY = float(np.finfo(np.float32).tiny)
# What a metrics file keeps of a number: finer than one row in 100,000.
DECIMALS = 6


def measure(
    probabilities_NC: NDArray[np.float32], labels_N: NDArray[np.int64], class_names: Sequence[str]
) -> Metrics:
    """Every figure of one set of rows, as JSON content with floats rounded to DECIMALS.

    Shares are in [0, 1]; `loss` is the mean negative log-likelihood in nats; the macro averages are
    unweighted means over all C classes; a quotient without rows (a class that is never predicted or
    has no test rows) counts as 0. Raises TrainingError for no rows and for probabilities that are
    not numbers.
    """
    refuse_not_finite(
        probabilities_NC,
        "scoring the test split",
        kind="probabilities",
        row="test row",
        without_rows="Choose a split with test rows.",
    )
    num_rows, num_classes = probabilities_NC.shape
    predictions_N = probabilities_NC.argmax(axis=1)
    classes = range(num_classes)
    matrix_CC = confusion_matrix(labels_N, predictions_N, labels=classes)
    scores = precision_recall_fscore_support(
        labels_N, predictions_N, labels=classes, zero_division=0
    )
    num_right = int(np.trace(matrix_CC))
    precision, recall, f1 = (float(np.mean(score)) for score in scores[:3])
    return rounded(
        {
            "num_rows": num_rows,
            "num_wrong": num_rows - num_right,
            "accuracy": num_right / num_rows,
            "accuracy_interval_95": wilson_interval(num_right, num_rows),
            "loss": mean_loss(probabilities_NC, labels_N),
            "macro_precision": precision,
            "macro_recall": recall,
            "macro_f1": f1,
            "per_class": per_class(matrix_CC, scores, class_names),
            "confusion_matrix": matrix_CC.tolist(),
            **confused_pairs(matrix_CC, class_names),
        }
    )


def per_class(
    matrix_CC: NDArray[np.int64], scores: Sequence[NDArray[Any]], class_names: Sequence[str]
) -> list[Metrics]:
    """A row a class; `scores` are precision, recall, F1 and support, (C,) each."""
    columns = [score.tolist() for score in (*scores, np.diagonal(matrix_CC))]
    return [
        {
            "name": name,
            "precision": p,
            "recall": r,
            "recall_interval_95": wilson_interval(right, support) if support else None,
            "f1": f,
            "support": support,
        }
        for name, p, r, f, support, right in zip(class_names, *columns, strict=True)
    ]


def mean_loss(probabilities_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> float:
    """The mean negative log-likelihood in nats; a probability below TINY counts as TINY."""
    of_label_N = probabilities_NC[np.arange(len(labels_N)), labels_N].astype(np.float64)
    return float(-np.log(np.clip(of_label_N, TINY, 1.0)).mean())


def wilson_interval(num_right: int, num_rows: int, level: float = 0.95) -> list[float]:
    """The score interval [low, high] of a share of right answers.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", Journal of
    the American Statistical Association 22:209-212. Unlike the normal interval it stays in [0, 1]
    and is not empty at 0 or 1.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, z2 = num_right / num_rows, z * z
    centre = share + z2 / (2 * num_rows)
    spread = z * (share * (1 - share) / num_rows + z2 / (4 * num_rows**2)) ** 0.5
    scale = 1 + z2 / num_rows
    return [max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)]


def confused_pairs(matrix_CC: NDArray[np.int64], class_names: Sequence[str]) -> Metrics:
    """The pairs of classes most often taken for each other, both directions counted together.

    `top_pairs`: at most NUM_TOP_PAIRS, the most confused first, none with a count of 0.
    `classic_pairs`: 4/9, 3/5 and 2/7 with their ranks among all pairs; empty unless the classes are
    the ten digits. Pairs with equal counts have equal ranks.
    """
    pairs = list(combinations(range(len(matrix_CC)), 2))
    counts = {(a, b): int(matrix_CC[a, b] + matrix_CC[b, a]) for a, b in pairs}
    ordered = sorted(pairs, key=lambda pair: (-counts[pair], pair))

    def row(pair: tuple[int, int]) -> Metrics:
        a, b = pair
        return {
            "first": class_names[a],
            "second": class_names[b],
            "count": counts[pair],
            "first_as_second": int(matrix_CC[a, b]),
            "second_as_first": int(matrix_CC[b, a]),
            "rank": 1 + sum(count > counts[pair] for count in counts.values()),
        }

    classic = CLASSIC_PAIRS if tuple(class_names) == DIGITS else ()
    return {
        "top_pairs": [row(pair) for pair in ordered[:NUM_TOP_PAIRS] if counts[pair]],
        "classic_pairs": [row(pair) for pair in classic],
    }


def corrected_score(
    predictions_N: NDArray[np.int64],
    labels_N: NDArray[np.int64],
    places_N: NDArray[np.int64],
    corrections: Corrections,
) -> Metrics:
    """The accuracy with wrong labels put right and disputed rows left out: a second figure.

    `places_N` are the rows' places in the official test split, negative for training rows that were
    pooled with it, whose labels nobody has corrected. Empty if no row is left.
    """
    right_labels_N = labels_N.copy()
    num_corrected = 0
    for place, label in corrections.labels.items():
        right_labels_N[places_N == place] = label
        num_corrected += int((places_N == place).sum())
    kept_N = ~np.isin(places_N, corrections.disputed)
    num_rows = int(kept_N.sum())
    if num_rows == 0:
        return {}
    num_right = int((predictions_N == right_labels_N)[kept_N].sum())
    return {
        "corrected_accuracy": num_right / num_rows,
        "corrected_interval_95": wilson_interval(num_right, num_rows),
        "corrected_rows": num_rows,
        "corrected_wrong": num_rows - num_right,
        "corrected_labels": num_corrected,
        "corrected_left_out": len(labels_N) - num_rows,
    }


def rounded(content: Metrics) -> Metrics:
    """`content` with every float, however deep, rounded to DECIMALS."""
    found: Metrics = json.loads(
        json.dumps(content), parse_float=lambda text: round(float(text), DECIMALS)
    )
    return found
