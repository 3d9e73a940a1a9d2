"""The fitted temperature: equal to a known one, never worse than none, and bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from tasks.model.train import HIGHEST, LOWEST, fit_temperature
from tasks.runtime.errors import TrainingError


def simulated(temperature, num_rows=20_000, num_classes=5, seed=0):
    """Logits that are `temperature` times too large for the labels drawn from their softmax."""
    chance = np.random.default_rng(seed)
    true_NC = 2 * chance.normal(size=(num_rows, num_classes))
    shares_NC = softmax(true_NC, axis=1).cumsum(axis=1)
    labels_N = (chance.random((num_rows, 1)) > shares_NC[:, :-1]).sum(axis=1)
    return (temperature * true_NC).astype(np.float32), labels_N


def mean_nll(logits_NC, labels_N, temperature):
    logs_NC = log_softmax(logits_NC.astype(np.float64) / temperature, axis=1)
    return -logs_NC[np.arange(len(labels_N)), labels_N].mean()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature):
    logits, labels = simulated(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.03)


def test_the_minimum_is_found_and_is_the_same_each_time():
    logits, labels = simulated(1.7, num_rows=500)
    found = fit_temperature(logits, labels)
    assert fit_temperature(logits, labels) == found
    best = mean_nll(logits, labels, found)
    for other in np.geomspace(LOWEST, HIGHEST, 300):
        assert best <= mean_nll(logits, labels, other) + 1e-12


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(2, 5), st.floats(-3, 3))
def test_the_loss_is_never_worse_than_without_a_temperature(seed, num_rows, num_classes, log_scale):
    chance = np.random.default_rng(seed)
    scale = np.exp(log_scale)
    logits = (scale * chance.normal(size=(num_rows, num_classes))).astype(np.float32)
    labels = chance.integers(0, num_classes, num_rows)
    found = fit_temperature(logits, labels)
    if found is None:
        true = logits[np.arange(num_rows), labels]
        assert (true == logits.max(axis=1)).all()
        return
    assert LOWEST <= found <= HIGHEST
    assert mean_nll(logits, labels, found) <= mean_nll(logits, labels, 1.0) + 1e-9


def test_rows_without_an_error_give_no_temperature():
    logits = np.array([[3, 0, 0], [0, 0.1, 0], [5, 5, 0]], np.float32)
    assert fit_temperature(logits, np.array([0, 1, 1])) is None


def test_misleading_logits_give_the_upper_bound():
    logits = np.array([[9, 0], [0, 9]], np.float32)
    assert fit_temperature(logits, np.array([1, 0])) == HIGHEST


def test_a_minimum_below_the_lower_bound_gives_that_bound():
    logits = np.full((1000, 2), [0.01, 0], np.float32)
    assert fit_temperature(logits, np.arange(1000) // 999) == LOWEST


def test_huge_logits_do_not_overflow():
    logits, labels = simulated(1.0, num_rows=200)
    assert fit_temperature(1e30 * logits, labels) == HIGHEST


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_logits_that_are_not_finite_are_an_error(bad):
    with pytest.raises(TrainingError, match="logits that are not finite"):
        fit_temperature(np.array([[1.0, bad]], np.float32), np.array([1]))
