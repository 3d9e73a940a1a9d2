"""Confident learning: planted label errors are found, good labels are left in peace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasks.evaluation.confident_learning import (
    NOBODY,
    confident_classes,
    confident_joint,
    estimated_errors,
    find_label_errors,
    noise_matrix,
    thresholds,
)

seeds = st.integers(0, 2**32 - 1)


def softmax(logits_NC: NDArray[np.float64]) -> NDArray[np.float32]:
    powers_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return (powers_NC / powers_NC.sum(axis=1, keepdims=True)).astype(np.float32)


def a_network_that_knows(
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
    return a_network_that_knows(truth_N, 10, generator, sure), labels_N, np.sort(wrong)


@pytest.mark.parametrize("seed", range(3))
def test_planted_errors_are_found_and_come_first(seed: int) -> None:
    probabilities_NC, labels_N, wrong = planted(seed)
    findings = find_label_errors(probabilities_NC, labels_N)
    found = set(findings.suspects.row_S.tolist())
    right = len(found & set(wrong.tolist()))
    assert right / len(wrong) > 0.9
    assert right / len(found) > 0.9
    assert findings.num_errors == pytest.approx(len(wrong), rel=0.15)
    first = findings.suspects.row_S[: len(wrong) // 2]
    assert set(first.tolist()) <= set(wrong.tolist())


def test_without_noise_almost_nothing_is_suspect() -> None:
    probabilities_NC, labels_N, _ = planted(share=0.0)
    findings = find_label_errors(probabilities_NC, labels_N)
    assert len(findings.suspects.row_S) <= 4
    assert findings.num_errors <= 4


def test_a_network_that_is_never_unsure_of_right_labels_suspects_nobody() -> None:
    labels_N = np.arange(30) % 3
    findings = find_label_errors(np.eye(3, dtype=np.float32)[labels_N], labels_N)
    assert len(findings.suspects.row_S) == 0
    assert findings.num_errors == 0
    assert np.array_equal(findings.joint_CC, 10 * np.eye(3))


def test_the_suggestion_is_the_true_label() -> None:
    generator = np.random.default_rng(1)
    truth_N = np.arange(600) % 3
    labels_N = truth_N.copy()
    labels_N[:9] = (truth_N[:9] + 1) % 3
    probabilities_NC = a_network_that_knows(truth_N, 3, generator, 9.0)
    suspects = find_label_errors(probabilities_NC, labels_N).suspects
    assert sorted(suspects.row_S.tolist()) == list(range(9))
    assert np.array_equal(suspects.label_S, labels_N[suspects.row_S])
    assert np.array_equal(suspects.suggested_S, truth_N[suspects.row_S])
    assert np.all(np.diff(suspects.margin_S) <= 0)


def test_a_small_example_by_hand() -> None:
    labels_N = np.array([0, 0, 0, 1, 1])
    probabilities_NC = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.4, 0.6], [0.2, 0.8]])
    threshold_C = thresholds(probabilities_NC, labels_N)
    assert threshold_C == pytest.approx([0.6, 0.7])
    confident_N = confident_classes(probabilities_NC, threshold_C)
    assert confident_N.tolist() == [0, 0, 1, NOBODY, 1]
    joint_CC = confident_joint(labels_N, confident_N, 2)
    assert joint_CC.tolist() == [[2, 1], [0, 1]]
    assert noise_matrix(joint_CC) == pytest.approx(np.array([[2 / 3, 1 / 3], [0, 1]]))
    assert estimated_errors(joint_CC, labels_N) == pytest.approx(1.0)
    suspects = find_label_errors(probabilities_NC, labels_N).suspects
    assert (suspects.row_S.tolist(), suspects.suggested_S.tolist()) == ([2], [1])
    assert suspects.margin_S == pytest.approx([0.8])


def test_the_likeliest_of_several_confident_classes_counts() -> None:
    confident_N = confident_classes(np.array([[0.4, 0.5, 0.1]]), np.array([0.2, 0.2, 0.2]))
    assert confident_N.tolist() == [1]


def test_a_class_without_rows_is_never_suggested() -> None:
    labels_N = np.array([0, 0, 1, 1])
    probabilities_NC = np.array([[0.5, 0, 0.5], [0.1, 0, 0.9], [0, 1, 0], [0, 0.5, 0.5]])
    findings = find_label_errors(probabilities_NC, labels_N)
    assert findings.threshold_C[2] == np.inf
    assert findings.joint_CC[:, 2].tolist() == [0, 0, 0]
    assert noise_matrix(findings.joint_CC)[2].tolist() == [0, 0, 0]


def test_equal_probabilities_reach_their_own_mean() -> None:
    probabilities_NC = np.full((1001, 10), 0.1, np.float32)
    labels_N = np.zeros(1001, np.int64)
    assert confident_classes(probabilities_NC, thresholds(probabilities_NC, labels_N)).max() == 0


@st.composite
def scored(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities and labels that may disagree about anything."""
    generator = np.random.default_rng(draw(seeds))
    num_rows, num_classes = draw(st.integers(1, 80)), draw(st.integers(2, 6))
    logits_NC = draw(st.floats(0.1, 8)) * generator.normal(size=(num_rows, num_classes))
    return softmax(logits_NC), generator.integers(0, num_classes, num_rows)


@given(scored())
def test_no_suspect_is_labelled_as_the_network_answers(
    case: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    probabilities_NC, labels_N = case
    findings = find_label_errors(probabilities_NC, labels_N)
    suspects = findings.suspects
    assert np.all(probabilities_NC.argmax(axis=1)[suspects.row_S] != labels_N[suspects.row_S])
    assert np.all(suspects.suggested_S != suspects.label_S)
    assert np.all((suspects.margin_S > 0) & (np.diff(suspects.margin_S, prepend=2) <= 0))
    assert len(np.unique(suspects.row_S)) == len(suspects.row_S)
    off_diagonal = findings.joint_CC.sum() - findings.joint_CC.trace()
    assert len(suspects.row_S) <= off_diagonal
    assert 0 <= findings.num_errors <= len(labels_N)
    sums = noise_matrix(findings.joint_CC).sum(axis=1)
    assert np.allclose(sums[np.unique(labels_N)], 1)


@given(scored(), seeds)
def test_the_order_of_the_rows_does_not_matter(
    case: tuple[NDArray[np.float32], NDArray[np.int64]], seed: int
) -> None:
    probabilities_NC, labels_N = case
    order_N = np.random.default_rng(seed).permutation(len(labels_N))
    straight = find_label_errors(probabilities_NC, labels_N)
    shuffled = find_label_errors(probabilities_NC[order_N], labels_N[order_N])
    assert np.array_equal(order_N[shuffled.suspects.row_S], straight.suspects.row_S)
    assert np.array_equal(shuffled.joint_CC, straight.joint_CC)
    assert shuffled.num_errors == straight.num_errors


@given(scored(), seeds)
def test_the_names_of_the_classes_do_not_matter(
    case: tuple[NDArray[np.float32], NDArray[np.int64]], seed: int
) -> None:
    probabilities_NC, labels_N = case
    names_C = np.random.default_rng(seed).permutation(probabilities_NC.shape[1])
    straight = find_label_errors(probabilities_NC, labels_N)
    renamed = find_label_errors(probabilities_NC[:, np.argsort(names_C)], names_C[labels_N])
    assert np.array_equal(renamed.suspects.row_S, straight.suspects.row_S)
    assert np.array_equal(renamed.suspects.suggested_S, names_C[straight.suspects.suggested_S])
