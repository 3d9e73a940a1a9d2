"""The gate's arithmetic: a published interval, the margins' error rate, and what is refused why."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_config.datasets import named_datasets
from pipeline_config.settings import Gate, gate_for
from tasks.release.gate import (
    Scores,
    above_floor,
    compare_scores,
    paired_interval,
    recall_margin,
    unseen,
)

NAMES = tuple("0123456789")
ROWS, CLASSES = 10_000, 10
LABELS = np.arange(ROWS) % CLASSES
GATE = Gate(
    accuracy_margin=0.004,
    loss_margin=0.01,
    ece_margin=0.005,
    recall_spread=(0.003,) * CLASSES,
    num_seeds=10,
)


def scores(wrong: np.ndarray, loss: float = 0.05, ece: float = 0.003) -> Scores:
    right = np.ones(ROWS, bool)
    right[wrong] = False
    return Scores(right_N=right, loss=loss, ece=ece, ece_by_chance=0.003)


def failed(candidate: Scores, champion: Scores) -> list[str]:
    checks = list(compare_scores(candidate, champion, LABELS, GATE, NAMES))
    assert len(checks) == 3 + CLASSES
    assert all(check.passed == (check.value >= check.limit) for check in checks)
    return [check.name for check in checks if not check.passed]


@pytest.mark.parametrize(
    ("gained", "lost", "num_rows", "interval"),
    [
        # Airway hyper-responsiveness in Fagerland, Lydersen and Laake 2014, "Recommended tests and
        # confidence intervals for paired binomial proportions", Tango's interval.
        (1, 7, 21, (-0.517, -0.026)),
        # Without a discordant row the bound is z² / (N + z²).
        (0, 0, 100, (-0.0370, 0.0370)),
    ],
)
def test_the_interval_matches_published_examples(gained, lost, num_rows, interval):
    assert paired_interval(gained, lost, num_rows) == pytest.approx(interval, abs=5e-4)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 10_000))
def test_the_interval_holds_the_difference_and_is_symmetric(gained, lost, more):
    num_rows = gained + lost + more
    low, high = paired_interval(gained, lost, num_rows)
    assert -1 <= low <= (gained - lost) / num_rows <= high <= 1
    back = paired_interval(lost, gained, num_rows)
    assert (-back[1], -back[0]) == pytest.approx((low, high), abs=1e-7)


def test_the_interval_has_its_nominal_coverage():
    chance = np.random.default_rng(0)
    share_gained, share_lost, num_rows = 0.006, 0.009, 2000
    rest = 1 - share_gained - share_lost
    draws = chance.multinomial(num_rows, (share_gained, share_lost, rest), size=400)
    intervals = [paired_interval(int(gained), int(lost), num_rows) for gained, lost, _ in draws]
    covered = np.mean([low <= share_gained - share_lost <= high for low, high in intervals])
    assert 0.92 <= covered <= 0.98


def test_an_equal_model_passes_and_a_worse_one_does_not():
    champion = scores(np.arange(0, 600, 3))
    assert failed(scores(np.arange(1, 600, 3)), champion) == []
    worse = np.concatenate([np.arange(0, 600, 3), np.arange(5000, 5060)])
    assert failed(scores(worse), champion) == ["accuracy"]
    assert failed(scores(np.arange(0, 600, 3), loss=0.0605), champion) == ["loss"]
    assert failed(scores(np.arange(0, 600, 3), ece=0.0085), champion) == ["calibration"]
    assert failed(scores(np.arange(0, 600, 3), ece=0.0075), champion) == []


def test_a_loss_in_one_class_is_refused():
    sevens = np.flatnonzero(LABELS == 7)
    others = np.flatnonzero(LABELS != 7)
    champion = scores(others[:100])
    candidate = scores(sevens[:40])
    assert candidate.accuracy > champion.accuracy
    assert failed(candidate, champion) == ["recall of 7"]


def test_ten_criteria_refuse_an_equal_model_as_often_as_one():
    chance = np.random.default_rng(1)
    margin = recall_margin(GATE, 0, 990, 1000, CLASSES)
    falls = chance.normal(0, 0.003 * sqrt(2), size=(20_000, CLASSES))
    known = (falls < -margin).any(axis=1).mean()
    assert known < 0.05, "with s known; Student's quantile pays for measuring it"
    alone = (falls < -recall_margin(GATE, 0, 990, 1000, 1)).any(axis=1).mean()
    assert alone > 0.15, "without the correction ten looks refuse far more often"


def test_a_class_without_measurements_has_the_wider_margin():
    unknown = GATE.model_copy(update={"recall_spread": None, "num_seeds": None})
    assert recall_margin(unknown, 0, 990, 1000, CLASSES) == pytest.approx(
        2.576 * sqrt(2 * 991 / 1002 * 11 / 1002 / 1000), rel=1e-3
    )
    assert recall_margin(unknown, 0, 10, 10, CLASSES) > 0.2
    other = GATE.model_copy(update={"recall_spread": (0.001,) * 3})
    assert recall_margin(other, 0, 990, 1000, CLASSES) == recall_margin(
        unknown, 0, 990, 1000, CLASSES
    )


def test_a_class_without_test_rows_is_not_judged():
    labels = np.where(LABELS == 9, 8, LABELS)
    model = scores(np.arange(50))
    names = [check.name for check in compare_scores(model, model, labels, GATE, NAMES)]
    assert "recall of 9" not in names
    assert len(names) == 3 + 9


def test_floor_and_unseen_rows():
    assert above_floor(0.98, 0.98).passed
    assert not above_floor(0.9799, 0.98).passed
    assert above_floor(0.1, None).passed
    assert unseen(is_pooled=False).passed
    assert "trained on rows of the pinned test set" in unseen(is_pooled=True).words


def test_every_data_set_has_margins_that_fit_it():
    for dataset in named_datasets().values():
        gate = gate_for(dataset.name)
        assert gate.recall_spread is None or len(gate.recall_spread) == dataset.num_classes
    assert gate_for("somebodys-folder-12345678") == gate_for("default")
