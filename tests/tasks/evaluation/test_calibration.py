"""Metrics of confidence: by hand, against scikit-learn, and for models of known calibration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from tasks.evaluation.calibration import (
    COVERAGES,
    NUM_BINS,
    Sureness,
    brier_score,
    calibration_error,
    confidence_metrics,
    coverage,
    error_by_chance,
    reliability,
    sureness,
)


def drawn(num_rows, seed=0, num_classes=4, sharpness=2.0):
    """Probabilities, and labels drawn from these very probabilities: perfectly calibrated."""
    chance = np.random.default_rng(seed)
    shares = np.exp(sharpness * chance.normal(size=(num_rows, num_classes)))
    shares = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    sums = shares.astype(np.float64).cumsum(axis=1)[:, :-1]
    return shares, (chance.random((num_rows, 1)) > sums).sum(axis=1)


def test_rows_are_sorted_by_confidence_and_ties_keep_their_order():
    shares = np.array([[0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.7, 0.3]], np.float32)
    found = sureness(shares, np.array([1, 1, 1, 0]))
    np.testing.assert_allclose(found.confidence_N, [0.6, 0.7, 0.9, 0.9], rtol=1e-6)
    assert found.right_N.tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("num_rows", "sizes"),
    [(1, [1]), (7, [1] * 7), (15, [1] * 15), (32, [3, 3, *[2] * 13]), (10_000, [667] * 10)],
)
def test_bins_have_equal_numbers_of_rows(num_rows, sizes):
    sure = Sureness(np.linspace(0.5, 1, num_rows), np.ones(num_rows, bool))
    starts = [*sure.starts_B.tolist(), num_rows]
    found = np.diff(starts)
    assert found[: len(sizes)].tolist() == sizes
    assert (len(found), found.sum()) == (min(NUM_BINS, num_rows), num_rows)
    assert found.max() - found.min() <= 1


def test_calibration_error_by_hand():
    """Thirty rows make fifteen bins of two. The accuracy differs from the confidence in one."""
    confidence = np.array([0.5, 0.5, *[1.0] * 28])
    right = np.ones(30, bool)
    assert calibration_error(Sureness(confidence, right)) == pytest.approx(2 * 0.5 / 30)
    one = right.copy()
    one[0] = False
    assert calibration_error(Sureness(confidence, one)) == 0.0
    assert calibration_error(Sureness(confidence, ~right)) == pytest.approx((2 * 0.5 + 28) / 30)


def test_brier_score_by_hand_and_its_bounds():
    sure = np.array([[1, 0, 0]], np.float32)
    assert brier_score(sure, np.array([0])) == 0
    assert brier_score(sure, np.array([2])) == 2
    even = np.full((1, 2), 0.5, np.float32)
    assert brier_score(even, np.array([1])) == 0.5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 50))
def test_brier_score_equals_that_of_scikit_learn(seed, num_rows):
    shares, labels = drawn(num_rows, seed)
    exact = shares.astype(np.float64)
    exact /= exact.sum(axis=1, keepdims=True)
    theirs = brier_score_loss(labels, exact, labels=range(4), scale_by_half=False)
    assert brier_score(shares, labels) == pytest.approx(theirs, abs=1e-5)


def test_the_error_by_chance_covers_calibrated_models_only():
    inside = 0
    for seed in range(20):
        shares, labels = drawn(1000, seed)
        sure = sureness(shares, labels)
        mean, (low, high) = error_by_chance(sure)
        assert 0 < low < mean < high
        inside += low <= calibration_error(sure) <= high
    assert inside >= 17
    sharp = shares**2 / (shares**2).sum(axis=1, keepdims=True)
    too_sure = sureness(sharp, labels)
    assert calibration_error(too_sure) > error_by_chance(too_sure)[1][1]


def test_the_error_by_chance_shrinks_with_the_rows_and_is_reproducible():
    few, many = (error_by_chance(sureness(*drawn(num_rows)))[0] for num_rows in (200, 5000))
    assert many < few / 3
    again = sureness(*drawn(200))
    assert error_by_chance(again)[0] == few


def test_the_error_by_chance_is_zero_for_a_certain_and_right_model():
    sure = Sureness(np.ones(50), np.ones(50, bool))
    assert calibration_error(sure) == 0
    assert error_by_chance(sure) == (0.0, [0.0, 0.0])


def test_coverage_takes_the_most_confident_rows():
    right = np.array([False] * 10 + [True] * 90)
    rows = coverage(Sureness(np.linspace(0.01, 1, 100), right))
    assert [row["coverage"] for row in rows] == list(COVERAGES)
    assert [row["num_rows"] for row in rows] == [100, 99, 98, 95, 90, 80, 50]
    assert [row["num_wrong"] for row in rows] == [10, 9, 8, 5, 0, 0, 0]
    assert rows[3]["accuracy"] == 90 / 95
    assert rows[3]["confidence"] == pytest.approx(0.06)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_properties_of_any_model(seed, num_rows):
    shares, labels = drawn(num_rows, seed)
    sure = sureness(shares, labels)
    bins = reliability(sure)
    assert sum(row["num_rows"] for row in bins) == num_rows
    gaps = [row["num_rows"] * abs(row["accuracy"] - row["confidence"]) for row in bins]
    assert calibration_error(sure) == pytest.approx(sum(gaps) / num_rows)
    for row in bins:
        assert row["lowest"] <= row["confidence"] + 1e-12
        assert row["confidence"] <= row["highest"] + 1e-12
        low, high = row["accuracy_interval_95"]
        assert low <= row["accuracy"] <= high
    whole = coverage(sure)[0]
    assert (whole["num_rows"], whole["accuracy"]) == (num_rows, sure.right_N.mean())


def test_every_metric_is_given_with_and_without_the_temperature():
    shares, labels = drawn(100)
    before = np.sqrt(shares) / np.sqrt(shares).sum(axis=1, keepdims=True)
    found = confidence_metrics(shares, before, labels)
    assert found["ece"] != found["ece_before"]
    assert found["ece_before"] == calibration_error(sureness(before, labels))
    assert found["brier_before"] == brier_score(before, labels)
    assert len(found["reliability"]) == len(found["reliability_before"]) == NUM_BINS
