"""Calibration of a classifier's confidence: pure numbers, no files, no network.

The confidence of a row is the probability of its predicted class. A model is calibrated when, of
all rows with confidence q, a share of q is right.

Axes: N test rows, C classes, B bins of rows, least confident first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation.metrics import Labels, Metrics, Probabilities, accuracy_of, mean_loss

NUM_BINS = 15
NUM_SIMULATIONS, SEED = 1000, 0
# The shares of the rows, the most confident ones, whose accuracy is reported.
COVERAGES = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.5)


@dataclass(frozen=True)
class Sureness:
    """Rows sorted by confidence, the least confident first. Ties keep the rows' order."""

    confidence_N: NDArray[np.float64]
    right_N: NDArray[np.bool_]

    @property
    def starts_B(self) -> NDArray[np.int64]:
        """The first row of each of NUM_BINS bins (or one a row) of equal size, to within a row."""
        num_rows = len(self.right_N)
        bins = np.array_split(np.arange(num_rows), min(NUM_BINS, num_rows))
        return np.array([rows[0] for rows in bins])


def sureness(probabilities_NC: Probabilities, labels_N: Labels) -> Sureness:
    """Return the confidence of each row and whether it is right, sorted by confidence."""
    confidence_N = probabilities_NC.max(axis=1).astype(np.float64)
    right_N = probabilities_NC.argmax(axis=1) == labels_N
    order_N = np.argsort(confidence_N, kind="stable")
    return Sureness(confidence_N[order_N], right_N[order_N])


def brier_score(probabilities_NC: Probabilities, labels_N: Labels) -> float:
    """Return the mean over the rows of Σ_c (p_c − y_c)², y being 1 for the label and 0 elsewhere.

    Brier 1950, "Verification of forecasts expressed in terms of probability", Monthly Weather
    Review 78:1-3, eq. 2: from 0 (certain and right) to 2 (certain and wrong).
    """
    exact_NC = probabilities_NC.astype(np.float64)
    of_label_N = exact_NC[np.arange(len(labels_N)), labels_N]
    return float(((exact_NC**2).sum(axis=1) - 2 * of_label_N + 1).mean())


def calibration_error(sure: Sureness) -> float:
    """Return the expected calibration error: Σ_b |accuracy_b − confidence_b|·N_b / N over the bins.

    Naeini, Cooper and Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian
    binning". The bins here have equal numbers of rows: with equal widths, nearly all rows of a good
    classifier are in the last bin.
    """
    gaps_B = np.add.reduceat(sure.right_N - sure.confidence_N, sure.starts_B)
    return float(np.abs(gaps_B).sum() / len(sure.right_N))


def error_by_chance(sure: Sureness) -> tuple[float, list[float]]:
    """Return the calibration error of a perfectly calibrated model with these confidences.

    It is the mean and the 95 % range [low, high] over NUM_SIMULATIONS test splits, in which a row
    is right with a probability of its own confidence. A bootstrap of the rows would instead add
    this noise to the noise of the measured error.
    """
    generator, confidence_N, errors = np.random.default_rng(SEED), sure.confidence_N, []
    for _ in range(NUM_SIMULATIONS):
        right_N = generator.random(len(confidence_N)) < confidence_N
        errors.append(calibration_error(Sureness(confidence_N, right_N)))
    low, high = np.quantile(errors, (0.025, 0.975)).tolist()
    return float(np.mean(errors)), [low, high]


def reliability(sure: Sureness) -> list[Metrics]:
    """Return the accuracy, and the mean, lowest and highest confidence, of each bin."""
    columns = (np.split(column, sure.starts_B[1:]) for column in (sure.confidence_N, sure.right_N))
    rows = []
    for confidence, right in zip(*columns, strict=True):
        bounds = {"lowest": float(confidence[0]), "highest": float(confidence[-1])}
        rows.append({"confidence": float(confidence.mean())} | bounds | accuracy_of(right))
    return rows


def coverage(sure: Sureness) -> list[Metrics]:
    """Return, for each of COVERAGES, the accuracy on that share of the rows, the most confident.

    `confidence` is the lowest confidence among them: the threshold that gives this coverage.
    """
    rows = []
    for share in COVERAGES:
        first = len(sure.right_N) - max(1, round(share * len(sure.right_N)))
        confidence, right = float(sure.confidence_N[first]), sure.right_N[first:]
        found = {"coverage": share, "confidence": confidence, "num_wrong": int((~right).sum())}
        rows.append(found | accuracy_of(right))
    return rows


def confidence_metrics(
    after_NC: Probabilities, before_NC: Probabilities, labels_N: Labels
) -> Metrics:
    """Return the metrics of confidence, with and without the temperature (`_before`)."""
    after = sureness(after_NC, labels_N)
    expected, interval = error_by_chance(after)
    found = {"ece_expected": expected, "ece_expected_95": interval, "coverage": coverage(after)}
    for suffix, probabilities_NC in {"": after_NC, "_before": before_NC}.items():
        sure = sureness(probabilities_NC, labels_N)
        found[f"loss{suffix}"] = mean_loss(probabilities_NC, labels_N)
        found[f"brier{suffix}"] = brier_score(probabilities_NC, labels_N)
        found[f"ece{suffix}"] = calibration_error(sure)
        found[f"reliability{suffix}"] = reliability(sure)
    return found
