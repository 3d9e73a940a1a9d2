"""The gate: the criteria that a candidate has to meet to become champion.

Candidate and champion are scored on the same pinned test rows, so they are compared row by row.

Axes: N pinned test rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_config.sections import Record
from pipeline_config.settings import Gate

# Two-sided for accuracy; one-sided, and for all classes together, for recall.
LEVEL = 0.95


class Criterion(Record):
    """One figure of a comparison. It passes if `value` is at least `limit`."""

    name: str
    passed: bool
    value: float
    limit: float
    words: str


class Judgement(Record):
    """The gate's judgement of a candidate; `champion` is the version that it was compared with."""

    test_rows: str
    num_rows: int
    looks: int
    champion: str | None
    checks: tuple[Criterion, ...]

    @property
    def passed(self) -> bool:
        """Whether every criterion passes."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """What was not met, in words; if everything was, the first criterion."""
        failed = [check for check in self.checks if not check.passed]
        others = ", ".join(check.name for check in failed[1:])
        return (failed or self.checks)[0].words + (f"; also not met: {others}" if others else "")


class Scores(NamedTuple):
    """A model's scores on the pinned rows: which are right, loss in nats, calibration error."""

    right_N: NDArray[np.bool_]
    loss: float
    ece: float
    ece_by_chance: float

    @property
    def accuracy(self) -> float:
        """The share of right rows."""
        return float(self.right_N.mean())


def criterion(name: str, value: float, limit: float, words: str) -> Criterion:
    """Return the criterion that `value` is at least `limit`."""
    passed, value, limit = value >= limit, round(value, 6), round(limit, 6)
    return Criterion(name=name, passed=passed, value=value, limit=limit, words=words)


def unseen(is_pooled: bool) -> Criterion:
    """Return whether the candidate was trained without the pinned test rows."""
    words = "it was trained without the pinned test rows"
    if is_pooled:
        words = "it was trained on rows of the pinned test set, so its score there means nothing"
    return criterion("unseen test rows", float(not is_pooled), 1.0, words)


def above_floor(accuracy: float, floor: float | None) -> Criterion:
    """Return whether the recipe's floor for this data set is met, if it has one."""
    words = "no floor is set" if floor is None else f"{floor:.4f} is the recipe's floor"
    return criterion("floor", accuracy, floor or 0.0, f"accuracy {accuracy:.4f}; {words}")


def compare_scores(
    new: Scores, old: Scores, labels_N: NDArray[np.int64], gate: Gate, class_names: Sequence[str]
) -> Iterator[Criterion]:
    """Yield the criteria of a candidate, `new`, against the champion, `old`."""
    gained = int((new.right_N & ~old.right_N).sum())
    lost = int((old.right_N & ~new.right_N).sum())
    low, high = paired_interval(gained, lost, len(labels_N))
    words = f"accuracy {new.accuracy:.4f}, the champion's {old.accuracy:.4f}: {gained} rows "
    words += f"gained, {lost} lost; the difference is {100 * low:+.2f} to {100 * high:+.2f} points "
    words += f"(95 %, Tango 1998) and must be above {-100 * gate.accuracy_margin:.2f}"
    yield criterion("accuracy", low, -gate.accuracy_margin, words)
    words = f"loss {new.loss:.4f} nats, the champion's {old.loss:.4f}; an increase of up to "
    words += f"{gate.loss_margin:.4f} is allowed"
    yield criterion("loss", old.loss - new.loss, -gate.loss_margin, words)
    words = f"calibration error {100 * new.ece:.2f} points, the champion's {100 * old.ece:.2f}, by "
    words += f"chance alone up to {100 * new.ece_by_chance:.2f}; an increase of up to "
    words += f"{100 * gate.ece_margin:.2f} over the larger of these is allowed"
    room = max(old.ece, new.ece_by_chance) - new.ece
    yield criterion("calibration", room, -gate.ece_margin, words)
    for label, name in enumerate(class_names):
        is_of = labels_N == label
        if is_of.any():
            found, before = float(new.right_N[is_of].mean()), float(old.right_N[is_of].mean())
            num_right, num_rows = int(old.right_N[is_of].sum()), int(is_of.sum())
            margin = recall_margin(gate, label, num_right, num_rows, len(class_names))
            words = f"recall of {name} {found:.4f}, the champion's {before:.4f}; a decrease of up "
            words += f"to {100 * margin:.2f} points is allowed"
            yield criterion(f"recall of {name}", found - before, -margin, words)


def recall_margin(gate: Gate, label: int, num_right: int, num_rows: int, num_classes: int) -> float:
    """Return how far a class's recall may fall: q · s · √2, for two runs of one recipe.

    s is the class's measured standard deviation over seeds, and q Student's quantile for the number
    of seeds. Where it was not measured, s is binomial at the champion's recall, with a right and a
    wrong row added so that it is never 0, and q is normal: a wider margin. Bonferroni: the level is
    divided among the classes, so all together refuse an equal candidate in at most 5 of 100 cases.
    """
    level = 1 - (1 - LEVEL) / num_classes
    spread = gate.recall_spread
    if spread is not None and gate.num_seeds is not None and len(spread) == num_classes:
        from scipy.stats import t as student_t

        # A class with the same recall for every seed may still lose a row.
        s = max(spread[label], 1 / num_rows)
        quantile = float(student_t.ppf(level, gate.num_seeds - 1))
    else:
        share = (num_right + 1) / (num_rows + 2)
        s = sqrt(share * (1 - share) / num_rows)
        quantile = NormalDist().inv_cdf(level)
    return quantile * s * sqrt(2)


def paired_interval(gained: int, lost: int, num_rows: int) -> tuple[float, float]:
    """Return the score interval (low, high) of the difference of two accuracies on the same rows.

    `gained` rows are right with the first model only, `lost` with the second only. The interval is
    the set of differences that the score test does not reject: Tango 1998, "Equivalence test and
    confidence interval for the difference in proportions for the paired-sample design", Statistics
    in Medicine 17:891-908, eq. 9 to 11.
    """
    from scipy.optimize import brentq

    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    found = (gained - lost) / num_rows

    def bound(sign: float, end: float) -> float:
        def beyond(difference: float) -> float:
            return _score(gained, lost, num_rows, difference) - sign * z

        # The score falls from +∞ to −∞. Where it does not reach ±z, the end is the bound.
        return float(brentq(beyond, found, end)) if sign * beyond(end) > 0 else end

    almost = 1 - 1e-9
    return bound(1.0, -almost), bound(-1.0, almost)


def _score(gained: int, lost: int, num_rows: int, difference: float) -> float:
    """Return Tango's test statistic of a difference, in standard deviations."""
    a = 2 * num_rows
    b = -gained - lost + (2 * num_rows - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    only_second = (sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = num_rows * (2 * only_second + difference * (1 - difference))
    distance = gained - lost - num_rows * difference
    if variance <= 0:
        return 0.0 if distance == 0 else distance * float("inf")
    return distance / sqrt(variance)
