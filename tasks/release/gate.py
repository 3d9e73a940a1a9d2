"""The gate: whether a candidate may take the champion's place, with every figure and its limit.

Both are scored on the same pinned rows, so they are compared row by row. Pure numbers and words.

Axes: N pinned test rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pipeline_config.gate import Gate
from pipeline_config.sections import Record

# Two-sided for accuracy; one-sided and shared by all classes for recall.
LEVEL = 0.95
# What the record keeps of a number.
DECIMALS = 6


class Check(Record):
    """One thing that the gate looked at; it passes if `value` is at least `limit`."""

    name: str
    passed: bool
    value: float
    limit: float
    words: str


class Judgement(Record):
    """All that the gate looked at; `test_rows` is the digest of the rows, `num_rows` their number.

    `champion` is the version that the candidate was held against, None where there was none;
    `looks` counts how often the rows had been looked at by then, this look included.
    """

    test_rows: str
    num_rows: int
    looks: int
    champion: str | None
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passes."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """What stood in the way; where nothing did, the first thing that was asked for and met."""
        failed = [check for check in self.checks if not check.passed]
        told = (failed or self.checks)[0].words
        others = [check.name for check in failed[1:]]
        return told + (f"; and not met either: {', '.join(others)}" if others else "")


@dataclass(frozen=True)
class Scores:
    """What a model makes of the pinned rows: which are right, nats, and calibration error.

    `ece_by_chance` is the upper end of what chance alone gives in 95 of 100 cases.
    """

    right_N: NDArray[np.bool_]
    loss: float
    ece: float
    ece_by_chance: float

    @property
    def accuracy(self) -> float:
        """The share of right rows."""
        return float(self.right_N.mean())


def unseen(is_pooled: bool) -> Check:
    """Whether the pinned test rows were kept from the candidate's training."""
    words = (
        "its split pools and divides all rows anew, so it was trained on rows of the pinned test "
        "set, and its score there means nothing"
        if is_pooled
        else "the pinned test rows were kept from its training"
    )
    return _check("unseen test rows", float(not is_pooled), 1.0, words)


def not_compared(champion: str) -> Check:
    """That the champion's own score means nothing, and so nobody is held against it."""
    words = f"champion {champion} was trained on rows of the pinned test set: nothing to compare"
    return _check("champion", 1.0, 1.0, words)


def above_floor(accuracy: float, floor: float | None) -> Check:
    """Whether the recipe's floor for this data set is met."""
    limit = 0.0 if floor is None else floor
    words = "no floor is set" if floor is None else f"{limit:.4f} is the recipe's floor"
    return _check("floor", accuracy, limit, f"accuracy {accuracy:.4f}; {words}")


def compare(
    candidate: Scores,
    champion: Scores,
    labels_N: NDArray[np.int64],
    gate: Gate,
    class_names: Sequence[str],
) -> list[Check]:
    """Every check of a candidate against the champion, accuracy first, then each class's recall."""
    return [
        _accuracy_check(candidate, champion, gate.accuracy_margin),
        _check(
            "loss",
            champion.loss - candidate.loss,
            -gate.loss_margin,
            f"loss {candidate.loss:.4f} nats, the champion's {champion.loss:.4f}; "
            f"up to {gate.loss_margin:.4f} more is borne",
        ),
        _ece_check(candidate, champion, gate.ece_margin),
        *_recall_checks(candidate, champion, labels_N, gate, class_names),
    ]


def _accuracy_check(candidate: Scores, champion: Scores, margin: float) -> Check:
    gained = int((candidate.right_N & ~champion.right_N).sum())
    lost = int((champion.right_N & ~candidate.right_N).sum())
    low, high = paired_interval(gained, lost, len(candidate.right_N))
    return _check(
        "accuracy",
        low,
        -margin,
        f"accuracy {candidate.accuracy:.4f}, the champion's {champion.accuracy:.4f}: {gained} rows "
        f"gained, {lost} lost, a difference of {100 * low:+.2f} to {100 * high:+.2f} points "
        f"(Tango 1998, 95 %), which must lie above {-100 * margin:.2f}",
    )


def _ece_check(candidate: Scores, champion: Scores, margin: float) -> Check:
    base = max(champion.ece, candidate.ece_by_chance)
    return _check(
        "calibration",
        base - candidate.ece,
        -margin,
        f"calibration error {100 * candidate.ece:.2f} points, the champion's "
        f"{100 * champion.ece:.2f}, by chance alone up to {100 * candidate.ece_by_chance:.2f}; "
        f"up to {100 * margin:.2f} more than the larger of these is borne",
    )


def _recall_checks(
    candidate: Scores,
    champion: Scores,
    labels_N: NDArray[np.int64],
    gate: Gate,
    class_names: Sequence[str],
) -> Iterator[Check]:
    """One a class that has test rows."""
    for label, name in enumerate(class_names):
        of_class = labels_N == label
        if not of_class.any():
            continue
        new, old = candidate.right_N[of_class], champion.right_N[of_class]
        margin = recall_margin(gate, label, int(old.sum()), len(old), len(class_names))
        yield _check(
            f"recall of {name}",
            float(new.mean() - old.mean()),
            -margin,
            f"recall of {name} {new.mean():.4f}, the champion's {old.mean():.4f}; "
            f"a fall of up to {100 * margin:.2f} points is usual between seeds of one recipe",
        )


def _check(name: str, value: float, limit: float, words: str) -> Check:
    return Check(
        name=name,
        passed=value >= limit,
        value=round(value, DECIMALS),
        limit=round(limit, DECIMALS),
        words=words,
    )


def recall_margin(gate: Gate, label: int, num_right: int, num_rows: int, num_classes: int) -> float:
    """How far a class's recall may fall: q · s · √2, the difference of two runs of one recipe.

    s is the class's measured standard deviation over seeds and q Student's quantile for so many of
    them. Where it was not measured, s is binomial at the champion's recall (one right and one wrong
    row added, so that it is never 0) and q the normal quantile: wider, since two runs on the same
    rows agree more than two samples do. Bonferroni: the level is divided among the classes, so
    that all looks together refuse an equal candidate in at most 5 of 100 cases.
    """
    level = 1 - (1 - LEVEL) / num_classes
    spread = gate.recall_spread
    if spread is not None and gate.num_seeds is not None and len(spread) == num_classes:
        from scipy.stats import t as student_t

        # A class that never differed between the seeds may still lose a row.
        s = max(spread[label], 1 / num_rows)
        quantile = float(student_t.ppf(level, gate.num_seeds - 1))
    else:
        share = (num_right + 1) / (num_rows + 2)
        s = sqrt(share * (1 - share) / num_rows)
        quantile = NormalDist().inv_cdf(level)
    return quantile * s * sqrt(2)


def paired_interval(
    gained: int, lost: int, num_rows: int, level: float = LEVEL
) -> tuple[float, float]:
    """The score interval (low, high) of the difference of two accuracies on the same rows.

    `gained` rows are right with the first model alone, `lost` with the second alone; rows on which
    they agree count only in `num_rows`. Tango 1998, "Equivalence test and confidence interval for
    the difference in proportions for the paired-sample design", Statistics in Medicine 17:891-908,
    eq. 9 to 11: all differences that his score test would not reject.
    """
    from scipy.optimize import brentq

    z = NormalDist().inv_cdf((1 + level) / 2)
    found = (gained - lost) / num_rows

    def bound(sign: float, end: float) -> float:
        def beyond(difference: float) -> float:
            return _score(gained, lost, num_rows, difference) - sign * z

        # The score falls from +∞ to −∞; at an end that it does not reach, the end is the bound.
        return float(brentq(beyond, found, end)) if sign * beyond(end) > 0 else end

    almost = 1 - 1e-9
    return bound(1.0, -almost), bound(-1.0, almost)


def _score(gained: int, lost: int, num_rows: int, difference: float) -> float:
    """Tango's test statistic of "the accuracies differ by `difference`", in standard deviations."""
    a = 2 * num_rows
    b = -gained - lost + (2 * num_rows - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    only_second = (sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = num_rows * (2 * only_second + difference * (1 - difference))
    distance = gained - lost - num_rows * difference
    if variance <= 0:
        return 0.0 if distance == 0 else distance * float("inf")
    return distance / sqrt(variance)
