"""Metrics: by hand, against scikit-learn, and properties of any predictions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss

from pipeline_config.datasets import Corrections
from tasks.evaluation.metrics import (
    TINY,
    confused_pairs,
    corrected_score,
    mean_loss,
    measure,
    wilson_interval,
)
from tasks.runtime.errors import TrainingError
from tasks.runtime.files import canonical_json

DIGITS = tuple("0123456789")


def sure(predictions, num_classes, share=0.9):
    """Return probabilities: `share` for the predicted class, the rest divided evenly."""
    rest = (1 - share) / (num_classes - 1)
    probabilities = np.full((len(predictions), num_classes), rest, np.float32)
    probabilities[np.arange(len(predictions)), predictions] = share
    return probabilities


@st.composite
def scored(draw):
    """Return the probabilities, labels and class names of a small problem."""
    num_classes = draw(st.integers(2, 6))
    classes = st.integers(0, num_classes - 1)
    rows = draw(st.lists(st.tuples(classes, classes, st.floats(0.51, 1)), min_size=1, max_size=40))
    labels = np.array([label for label, _, _ in rows], np.int64)
    parts = [sure([predicted], num_classes, share) for _, predicted, share in rows]
    return np.concatenate(parts), labels, tuple(f"class {i}" for i in range(num_classes))


def test_metrics_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    found = measure(sure([0, 0, 1, 1, 1, 0], 3), labels, ("a", "b", "c"))
    assert found["confusion_matrix"] == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert (found["num_rows"], found["num_wrong"]) == (6, 2)
    assert found["accuracy"] == round(4 / 6, 6)
    assert found["loss"] == pytest.approx(-(4 * math.log(0.9) + 2 * math.log(0.05)) / 6, abs=1e-6)
    a, b, c = found["per_class"]
    assert a == {
        "name": "a",
        "precision": 0.666667,
        "recall": 0.666667,
        "recall_interval_95": [round(bound, 6) for bound in wilson_interval(2, 3)],
        "f1": 0.666667,
        "support": 3,
    }
    assert (b["precision"], b["recall"], b["f1"], b["support"]) == (0.666667, 1.0, 0.8, 2)
    assert (c["precision"], c["recall"], c["f1"], c["support"]) == (0.0, 0.0, 0.0, 1)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 3, abs=1e-6)
    assert found["classic_pairs"] == []


def test_a_class_without_test_rows_is_part_of_the_macro_mean():
    found = measure(sure([0, 1], 3), np.array([0, 1]), ("a", "b", "c"))
    assert found["accuracy"] == 1.0
    assert found["macro_recall"] == 0.666667
    assert found["per_class"][2]["support"] == 0
    assert found["per_class"][2]["recall_interval_95"] is None


def test_pairs_are_counted_in_both_directions_and_ties_share_a_rank():
    matrix = np.zeros((10, 10), np.int64)
    matrix[4, 9], matrix[9, 4], matrix[8, 2], matrix[3, 5] = 3, 2, 6, 5
    found = confused_pairs(matrix, DIGITS)
    assert [(p["first"], p["second"], p["count"], p["rank"]) for p in found["top_pairs"]] == [
        ("2", "8", 6, 1),
        ("3", "5", 5, 2),
        ("4", "9", 5, 2),
    ]
    four_nine, three_five, two_seven = found["classic_pairs"]
    assert (four_nine["first_as_second"], four_nine["second_as_first"]) == (3, 2)
    assert (four_nine["rank"], three_five["rank"], two_seven["rank"]) == (2, 2, 4)
    assert two_seven["count"] == 0


def test_at_most_ten_top_pairs():
    assert len(confused_pairs(np.ones((10, 10), np.int64), DIGITS)["top_pairs"]) == 10


@pytest.mark.parametrize(
    ("num_right", "num_rows", "expected"),
    [
        # Wilson's formula with z = 1.959964, worked out with a pocket calculator.
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (5, 10, (0.2366, 0.7634)),
        (9850, 10000, (0.98243, 0.98720)),
    ],
)
def test_wilson_interval(num_right, num_rows, expected):
    assert wilson_interval(num_right, num_rows) == pytest.approx(expected, abs=5e-5)


def test_an_underflowed_probability_loses_87_nats():
    probabilities = np.array([[1, 0], [1, 0]], np.float32)
    assert mean_loss(probabilities, np.array([0, 1])) == pytest.approx(-math.log(TINY) / 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_probabilities_that_are_not_numbers_are_an_error(bad):
    probabilities = sure([0, 1, 1], 2)
    probabilities[1, 0] = bad
    with pytest.raises(TrainingError, match=r"not numbers for 1 of 3 rows.*learning_rate"):
        measure(probabilities, np.array([0, 1, 1]), ("a", "b"))


def test_no_rows_are_an_error():
    with pytest.raises(TrainingError, match="no test rows"):
        measure(np.empty((0, 2), np.float32), np.empty(0, np.int64), ("a", "b"))


CORRECTIONS = Corrections(source="somebody", labels={1: 2, 7: 0}, disputed=(3, 8))


def test_corrected_labels_are_a_second_score_on_fewer_rows():
    labels = np.array([0, 0, 1, 1, 2])
    found = corrected_score(np.array([0, 2, 0, 1, 2]), labels, np.arange(5), CORRECTIONS)
    assert found == {
        "corrected_accuracy": 3 / 4,
        "corrected_interval_95": wilson_interval(3, 4),
        "corrected_rows": 4,
        "corrected_wrong": 1,
        "corrected_labels": 1,
        "corrected_left_out": 1,
    }
    assert labels.tolist() == [0, 0, 1, 1, 2]


def test_pooled_rows_of_the_official_test_split_are_corrected():
    places = np.array([7, -1, -3, 8, 0])
    found = corrected_score(np.zeros(5, int), np.array([1, 2, 3, 1, 1]), places, CORRECTIONS)
    assert (found["corrected_rows"], found["corrected_wrong"]) == (4, 3)
    assert (found["corrected_labels"], found["corrected_left_out"]) == (1, 1)


def test_disputed_rows_alone_have_no_second_score():
    assert corrected_score(np.array([1]), np.array([1]), np.array([3]), CORRECTIONS) == {}


@settings(max_examples=60, deadline=None)
@given(scored())
def test_properties_of_any_predictions(case):
    probabilities, labels, names = case
    found = measure(probabilities, labels, names)
    matrix = np.array(found["confusion_matrix"])
    assert found["accuracy"] == round(float(np.trace(matrix) / matrix.sum()), 6)
    assert [row["support"] for row in found["per_class"]] == matrix.sum(axis=1).tolist()
    assert found["num_wrong"] == int(matrix.sum() - np.trace(matrix))
    low, high = found["accuracy_interval_95"]
    assert 0 <= low <= found["accuracy"] <= high <= 1
    assert sum(pair["count"] for pair in found["top_pairs"]) <= found["num_wrong"]
    assert json.loads(canonical_json(found)) == found


@settings(max_examples=40, deadline=None)
@given(scored())
def test_metrics_equal_those_of_scikit_learn(case):
    probabilities, labels, names = case
    found = measure(probabilities, labels, names)
    predictions, classes = probabilities.argmax(axis=1), list(range(len(names)))
    macro = f1_score(labels, predictions, labels=classes, average="macro", zero_division=0)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predictions), abs=1e-6)
    assert found["macro_f1"] == pytest.approx(macro, abs=1e-6)
    if (probabilities > 1e-6).all():
        exact = probabilities.astype(np.float64)
        exact /= exact.sum(axis=1, keepdims=True)
        assert found["loss"] == pytest.approx(log_loss(labels, exact, labels=classes), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(scored(), st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(case, seed):
    probabilities, labels, names = case
    order = np.random.default_rng(seed).permutation(len(labels))
    found = measure(probabilities, labels, names)
    shuffled = measure(probabilities[order], labels[order], names)
    assert shuffled.pop("loss") == pytest.approx(found.pop("loss"), abs=2e-6)
    assert shuffled == found
