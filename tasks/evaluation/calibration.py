"""How honest a classifier's confidence is: pure numbers, no files, no network.

The confidence of a row is the probability of its predicted class. A model is calibrated when, of
all rows with confidence q, a share of q is right.

Axes: N test rows, C classes, B bins of rows, fewest sure first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation.metrics import Metrics, wilson_interval

NUM_BINS = 15
NUM_SIMULATIONS, SEED = 1000, 0
# The shares of the rows, the surest first, that accuracy is told for.
COVERAGES = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.5)


@dataclass(frozen=True)
class Sureness:
    """Rows in the order of their confidence, the least sure first; ties keep the rows' order."""

    confidence_N: NDArray[np.float64]
    right_N: NDArray[np.bool_]

    @property
    def starts_B(self) -> NDArray[np.int64]:
        """Where each bin begins: NUM_BINS of equal mass, their sizes differing by one row at most.

        Fewer than NUM_BINS rows have a bin each.
        """
        num_rows = len(self.right_N)
        bins = np.array_split(np.arange(num_rows), min(NUM_BINS, num_rows))
        return np.array([rows[0] for rows in bins])


def sureness(probabilities_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> Sureness:
    """The confidence of each row and whether it is right, sorted by confidence."""
    confidence_N = probabilities_NC.max(axis=1).astype(np.float64)
    right_N = probabilities_NC.argmax(axis=1) == labels_N
    order_N = np.argsort(confidence_N, kind="stable")
    return Sureness(confidence_N[order_N], right_N[order_N])


def brier_score(probabilities_NC: NDArray[np.float32], labels_N: NDArray[np.int64]) -> float:
    """The mean over the rows of Σ_c (p_c − y_c)², y being 1 for the label and 0 elsewhere.

    The definition of Brier 1950, "Verification of forecasts expressed in terms of probability",
    Monthly Weather Review 78:1-3, eq. 2: from 0 (sure and right) to 2 (sure and wrong).
    """
    exact_NC = probabilities_NC.astype(np.float64)
    of_label_N = exact_NC[np.arange(len(labels_N)), labels_N]
    return float(((exact_NC**2).sum(axis=1) - 2 * of_label_N + 1).mean())


def calibration_error(sure: Sureness) -> float:
    """The expected calibration error: the mean over the bins of |accuracy − mean confidence|.

    Bins are weighted by their rows: Naeini, Cooper and Hauskrecht 2015, "Obtaining well calibrated
    probabilities using Bayesian binning", but with bins of equal mass, split by rank, since at
    equal widths nearly all rows of a good classifier fall into the last bin.
    """
    gaps_B = np.add.reduceat(sure.right_N - sure.confidence_N, sure.starts_B)
    return float(np.abs(gaps_B).sum() / len(sure.right_N))


def error_by_chance(sure: Sureness) -> tuple[float, list[float]]:
    """The calibration error that a perfectly calibrated model of these confidences would show.

    Returns its mean and its 95 % range [low, high] over NUM_SIMULATIONS test splits, in each of
    which a row is right with a probability of its own confidence. A bootstrap of the rows would
    instead add this noise to the noise that is already in the measured error.
    """
    chance = np.random.default_rng(SEED)
    errors = [
        calibration_error(
            Sureness(sure.confidence_N, chance.random(len(sure.right_N)) < sure.confidence_N)
        )
        for _ in range(NUM_SIMULATIONS)
    ]
    low, high = np.quantile(errors, (0.025, 0.975))
    return float(np.mean(errors)), [float(low), float(high)]


def reliability(sure: Sureness) -> list[Metrics]:
    """A row a bin: its rows, mean confidence, accuracy with its interval, and confidence's ends."""
    ends_B = [*sure.starts_B[1:], len(sure.right_N)]
    rows = []
    for start, end in zip(sure.starts_B, ends_B, strict=True):
        confidence, num_right = sure.confidence_N[start:end], int(sure.right_N[start:end].sum())
        rows.append(
            {
                "num_rows": int(end - start),
                "confidence": float(confidence.mean()),
                "accuracy": num_right / int(end - start),
                "accuracy_interval_95": wilson_interval(num_right, int(end - start)),
                "lowest": float(confidence[0]),
                "highest": float(confidence[-1]),
            }
        )
    return rows


def coverage(sure: Sureness) -> list[Metrics]:
    """A row for each of COVERAGES: the accuracy on that share of the rows, the surest ones.

    `confidence` is the lowest confidence among them: the threshold that gives this coverage.
    """
    rows = []
    for share in COVERAGES:
        num_rows = max(1, round(share * len(sure.right_N)))
        num_right = int(sure.right_N[-num_rows:].sum())
        rows.append(
            {
                "coverage": share,
                "num_rows": num_rows,
                "num_wrong": num_rows - num_right,
                "accuracy": num_right / num_rows,
                "accuracy_interval_95": wilson_interval(num_right, num_rows),
                "confidence": float(sure.confidence_N[-num_rows]),
            }
        )
    return rows


def confidence_metrics(
    after_NC: NDArray[np.float32], before_NC: NDArray[np.float32], labels_N: NDArray[np.int64]
) -> Metrics:
    """Every figure of confidence, after and before the logits were divided by the temperature."""
    after, before = sureness(after_NC, labels_N), sureness(before_NC, labels_N)
    expected, interval = error_by_chance(after)
    return {
        "brier": brier_score(after_NC, labels_N),
        "brier_before": brier_score(before_NC, labels_N),
        "ece": calibration_error(after),
        "ece_before": calibration_error(before),
        "ece_expected": expected,
        "ece_expected_95": interval,
        "reliability": reliability(after),
        "reliability_before": reliability(before),
        "coverage": coverage(after),
    }
