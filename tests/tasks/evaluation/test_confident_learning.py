"""Confident learning: planted label errors are found, and good labels are not suspected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.evaluation.label_audit import LabelErrors, find_label_errors

seeds = st.integers(0, 2**32 - 1)


def softmax(logits_NC: NDArray[np.float64]) -> NDArray[np.float32]:
    powers_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return (powers_NC / powers_NC.sum(axis=1, keepdims=True)).astype(np.float32)


def network_probabilities(
    truth_N: NDArray[np.int64], num_classes: int, generator: np.random.Generator, sure: float
) -> NDArray[np.float32]:
    """Probabilities of a network that is mostly right about the true labels."""
    logits_NC = generator.normal(size=(len(truth_N), num_classes))
    logits_NC[np.arange(len(truth_N)), truth_N] += sure
    return softmax(logits_NC)


def planted(
    seed: int = 0, share: float = 0.05, sure: float = 7.0
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """(probabilities, given labels, rows whose label is wrong) of 4,000 rows in ten classes."""
    generator = np.random.default_rng(seed)
    truth_N = generator.integers(0, 10, 4000)
    wrong = generator.permutation(4000)[: round(4000 * share)]
    labels_N = truth_N.copy()
    labels_N[wrong] = (truth_N[wrong] + generator.integers(1, 10, len(wrong))) % 10
    return network_probabilities(truth_N, 10, generator, sure), labels_N, np.sort(wrong)


def column(errors: LabelErrors, name: str) -> NDArray[Any]:
    """Return a column of the table of suspects."""
    found: NDArray[Any] = errors.suspects[name].to_numpy()
    return found


@pytest.mark.parametrize("seed", range(3))
def test_planted_errors_are_found_and_ranked_first(seed: int) -> None:
    probabilities_NC, labels_N, wrong = planted(seed)
    errors = find_label_errors(probabilities_NC, labels_N)
    rows = column(errors, "row").tolist()
    num_right = len({*rows} & {*wrong.tolist()})
    assert num_right / len(wrong) > 0.9
    assert num_right / len(rows) > 0.9
    assert errors.num_errors == pytest.approx(len(wrong), rel=0.15)
    assert {*rows[: len(wrong) // 2]} <= {*wrong.tolist()}


def test_almost_nothing_is_suspect_without_noise() -> None:
    probabilities_NC, labels_N, _ = planted(share=0.0)
    errors = find_label_errors(probabilities_NC, labels_N)
    assert len(errors.suspects) <= 4
    assert errors.num_errors <= 4


def test_nothing_is_suspect_when_every_prediction_is_certain_and_right() -> None:
    labels_N = np.arange(30) % 3
    errors = find_label_errors(np.eye(3, dtype=np.float32)[labels_N], labels_N)
    assert len(errors.suspects) == 0
    assert errors.num_errors == 0
    assert np.array_equal(errors.joint_CC, 10 * np.eye(3))


def test_the_suggestion_is_the_true_label() -> None:
    generator = np.random.default_rng(1)
    truth_N = np.arange(600) % 3
    labels_N = truth_N.copy()
    labels_N[:9] = (truth_N[:9] + 1) % 3
    probabilities_NC = network_probabilities(truth_N, 3, generator, 9.0)
    errors = find_label_errors(probabilities_NC, labels_N)
    rows = column(errors, "row")
    assert sorted(rows.tolist()) == list(range(9))
    assert np.array_equal(column(errors, "label"), labels_N[rows])
    assert np.array_equal(column(errors, "suggested"), truth_N[rows])
    assert np.all(np.diff(column(errors, "margin")) <= 0)


def test_a_small_example_by_hand() -> None:
    labels_N = np.array([0, 0, 0, 1, 1])
    probabilities_NC = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [0.2, 0.8]])
    errors = find_label_errors(probabilities_NC, labels_N)
    assert errors.threshold_C == pytest.approx([0.6, 0.7])
    # Row 3 reaches neither threshold.
    assert errors.joint_CC.tolist() == [[2, 1], [0, 1]]
    assert errors.noise_CC == pytest.approx(np.array([[2 / 3, 1 / 3], [0, 1]]))
    assert errors.num_errors == pytest.approx(1.0)
    (suspect,) = errors.suspects.to_pylist()
    assert (suspect["rank"], suspect["row"], suspect["suggested"]) == (1, 2, 1)
    assert suspect["margin"] == pytest.approx(0.8)


def test_the_likeliest_of_several_confident_classes_is_counted() -> None:
    probabilities_NC = np.array([[0.4, 0.5, 0.1], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]])
    errors = find_label_errors(probabilities_NC, np.array([0, 1, 2]))
    assert errors.joint_CC.tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_a_class_without_rows_is_never_suggested() -> None:
    labels_N = np.array([0, 0, 1, 1])
    probabilities_NC = np.array([[0.5, 0, 0.5], [0.1, 0, 0.9], [0, 1, 0], [0, 0.5, 0.5]])
    errors = find_label_errors(probabilities_NC, labels_N)
    assert errors.threshold_C[2] == np.inf
    assert errors.joint_CC[:, 2].tolist() == [0, 0, 0]
    assert errors.noise_CC[2].tolist() == [0, 0, 0]


def test_equal_probabilities_reach_their_own_mean() -> None:
    probabilities_NC = np.full((1001, 10), 0.1, np.float32)
    errors = find_label_errors(probabilities_NC, np.zeros(1001, np.int64))
    assert errors.joint_CC[0, 0] == 1001


@st.composite
def scored(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities and labels that may disagree about anything."""
    generator = np.random.default_rng(draw(seeds))
    num_rows, num_classes = draw(st.integers(1, 80)), draw(st.integers(2, 6))
    logits_NC = draw(st.floats(0.1, 8)) * generator.normal(size=(num_rows, num_classes))
    return softmax(logits_NC), generator.integers(0, num_classes, num_rows)


@given(scored())
def test_no_suspect_has_the_label_that_the_network_predicts(
    case: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    probabilities_NC, labels_N = case
    errors = find_label_errors(probabilities_NC, labels_N)
    rows, margins = column(errors, "row"), column(errors, "margin")
    assert np.all(probabilities_NC.argmax(axis=1)[rows] != labels_N[rows])
    assert np.all(column(errors, "suggested") != column(errors, "label"))
    assert np.all((margins > 0) & (np.diff(margins, prepend=2) <= 0))
    assert len(np.unique(rows)) == len(rows)
    assert len(rows) <= errors.joint_CC.sum() - errors.joint_CC.trace()
    assert 0 <= errors.num_errors <= len(labels_N)
    assert np.allclose(errors.noise_CC.sum(axis=1)[np.unique(labels_N)], 1)


@given(scored(), seeds)
def test_the_order_of_the_rows_does_not_matter(
    case: tuple[NDArray[np.float32], NDArray[np.int64]], seed: int
) -> None:
    probabilities_NC, labels_N = case
    order_N = np.random.default_rng(seed).permutation(len(labels_N))
    straight = find_label_errors(probabilities_NC, labels_N)
    shuffled = find_label_errors(probabilities_NC[order_N], labels_N[order_N])
    assert np.array_equal(order_N[column(shuffled, "row")], column(straight, "row"))
    assert np.array_equal(shuffled.joint_CC, straight.joint_CC)
    assert shuffled.num_errors == straight.num_errors


@given(scored(), seeds)
def test_the_order_of_the_classes_does_not_matter(
    case: tuple[NDArray[np.float32], NDArray[np.int64]], seed: int
) -> None:
    probabilities_NC, labels_N = case
    order_C = np.random.default_rng(seed).permutation(probabilities_NC.shape[1])
    straight = find_label_errors(probabilities_NC, labels_N)
    reordered = find_label_errors(probabilities_NC[:, np.argsort(order_C)], order_C[labels_N])
    assert np.array_equal(column(reordered, "row"), column(straight, "row"))
    assert np.array_equal(column(reordered, "suggested"), order_C[column(straight, "suggested")])
