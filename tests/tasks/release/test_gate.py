"""The gate's arithmetic: a published interval, the margins' error rate, and what is refused why."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_config.datasets import dataset_names, named_dataset
from pipeline_config.gate import Gate, gate_for
from tasks.release.gate import (
    Scores,
    above_floor,
    compare_scores,
    not_worse,
    on_recent_rows,
    unseen,
)
from tasks.release.margins import loss_margin, paired_interval, recall_margin

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
    return Scores(right_N=right, loss_N=np.full(ROWS, loss), ece=ece, ece_by_chance=0.003)


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


def test_what_is_worse_beyond_doubt_is_refused_whatever_the_margin():
    champion, worse = scores(np.arange(30)), scores(np.arange(60))
    wide = Gate(accuracy_margin=0.5)
    check = not_worse(worse.right_N, champion.right_N, wide)
    assert not check.passed
    assert check.words.startswith("it is worse: ")
    assert not_worse(champion.right_N, champion.right_N, wide).passed


@pytest.mark.parametrize("num_rows", [20, 100, 300, 1_000, 10_000])
@pytest.mark.parametrize("disagreement", [0.0, 0.01, 0.1])
def test_an_equal_model_passes_where_nobody_measured(num_rows, disagreement):
    chance = np.random.default_rng(num_rows)
    passed = 0
    for _ in range(300):
        differs, is_gained = chance.random(num_rows) < disagreement, chance.random(num_rows) < 0.5
        passed += not_worse(~differs | is_gained, ~differs | ~is_gained, Gate()).passed
    assert passed >= 0.93 * 300  # 95 % are expected; four standard errors are 5 points below


def test_a_split_that_cannot_tell_says_so():
    right = np.ones(360, bool)
    other = right.copy()
    other[:6] = False
    words = not_worse(other, right, Gate()).words
    assert "360 rows do not show a loss of up to 3.0 points" in words
    assert not_worse(right[:1], right[:1], Gate()).passed


def test_the_loss_may_rise_by_what_its_rows_do_not_tell():
    chance = np.random.default_rng(0)
    old = scores(np.arange(50))._replace(loss_N=chance.exponential(0.05, ROWS))
    assert loss_margin(old.loss_N, old.loss_N, Gate()) == pytest.approx(0.1 * old.loss_N.mean())
    noisy = old._replace(loss_N=old.loss_N + chance.normal(0, 1, ROWS))
    margin = loss_margin(noisy.loss_N, old.loss_N, Gate())
    assert margin == pytest.approx(0.005 + 2.33 / 100, rel=0.05)


def test_recent_rows_are_asked_when_there_are_enough():
    right = np.ones(500, bool)
    worse = right.copy()
    worse[:60] = False
    assert on_recent_rows(right, right).passed
    check = on_recent_rows(worse, right)
    assert not check.passed
    assert "500 recent rows" in check.words
    assert "the champion's" in check.words
    few = on_recent_rows(worse[:49], right[:49])
    assert few.passed
    assert "49 recent rows are too few" in few.words


def test_floor_and_unseen_rows():
    assert above_floor(0.98, 0.98).passed
    assert not above_floor(0.9799, 0.98).passed
    assert above_floor(0.1, None).passed
    assert unseen(is_pooled=False).passed
    assert "trained on rows of the pinned test set" in unseen(is_pooled=True).words


def test_every_data_set_has_margins_that_fit_it():
    for dataset in map(named_dataset, dataset_names()):
        gate = gate_for(dataset.name)
        assert gate.recall_spread is None or len(gate.recall_spread) == dataset.num_classes
    assert gate_for("somebodys-folder-12345678") == Gate()
