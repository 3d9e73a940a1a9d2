"""The gate: the criteria that a candidate has to meet to become champion.

A candidate is compared with the reference, row by row on the pinned test rows. The reference is the
last champion that was better than the reference before it beyond doubt. So small losses do not add
up from one champion to the next.

Axes: N pinned test rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_config.gate import Gate
from pipeline_config.sections import Record

# Two-sided for accuracy; one-sided, and for all classes together, for recall.
LEVEL = 0.95
# The losses of two seeds of one recipe differ by up to this share: 3 to 17 % (gate.yaml).
SEED_LOSS = 0.1


class Criterion(Record):
    """One figure of a comparison. It passes if `value` is at least `limit`."""

    name: str
    passed: bool
    value: float
    limit: float
    words: str


class Judgement(Record):
    """The gate's judgement of a candidate, which was compared with `reference`.

    `champion` is the one of that day. Without a reference it is the version compared with: earlier
    versions of this project had none. `is_better`: it is better than the reference beyond doubt, or
    there is nothing to compare with.
    """

    test_rows: str
    num_rows: int
    looks: int
    champion: str | None
    reference: str | None = None
    is_better: bool = False
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
    """A model's scores on the pinned rows: which are right, losses in nats, calibration error."""

    right_N: NDArray[np.bool_]
    loss_N: NDArray[np.float64]
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
    """Yield the criteria of a candidate, `new`, against the reference, `old`."""
    yield not_worse(new.right_N, old.right_N, gate)
    loss, before, margin = new.loss_N.mean(), old.loss_N.mean(), loss_margin(new, old, gate)
    words = f"loss {loss:.4f} nats, the reference's {before:.4f}; an increase of up to "
    words += f"{margin:.4f} is allowed"
    yield criterion("loss", float(before - loss), -margin, words)
    room = gate.ece_margin
    if room is None:
        room = by_chance(int(old.right_N.sum()), len(labels_N), LEVEL)
    words = f"calibration error {100 * new.ece:.2f} points, the reference's {100 * old.ece:.2f}, "
    words += f"by chance alone up to {100 * new.ece_by_chance:.2f}; an increase of up to "
    words += f"{100 * room:.2f} over the larger of these is allowed"
    yield criterion("calibration", max(old.ece, new.ece_by_chance) - new.ece, -room, words)
    for label, name in enumerate(class_names):
        is_of = labels_N == label
        if is_of.any():
            found, before = float(new.right_N[is_of].mean()), float(old.right_N[is_of].mean())
            num_right, num_rows = int(old.right_N[is_of].sum()), int(is_of.sum())
            margin = recall_margin(gate, label, num_right, num_rows, len(class_names))
            words = f"recall of {name} {found:.4f}, the reference's {before:.4f}; a decrease of up "
            words += f"to {100 * margin:.2f} points is allowed"
            yield criterion(f"recall of {name}", found - before, -margin, words)


def not_worse(new_N: NDArray[np.bool_], old_N: NDArray[np.bool_], gate: Gate) -> Criterion:
    """Return whether the accuracy is not worse: from which rows are right, before and now.

    The paired interval must reach above 0 and lie above −δ.
    """
    gained, lost, (low, high) = paired_difference(new_N, old_N)
    margin = gate.accuracy_margin
    if margin is None:
        margin = unmeasured_margin(gained + lost, len(new_N))
    words = f"accuracy {new_N.mean():.4f}, the reference's {old_N.mean():.4f}: {gained} rows "
    words += f"gained, {lost} lost; the difference is {100 * low:+.2f} to {100 * high:+.2f} points "
    words += f"(95 %, Tango 1998) and must be above {-100 * margin:.2f}"
    if gate.accuracy_margin is None:
        words += f". {len(new_N):,} rows do not show a loss of up to {100 * margin:.1f} points"
    if high < 0:
        return criterion("accuracy", high, 0.0, f"it is worse: {words}, and reach above 0")
    return criterion("accuracy", low, -margin, words)


def paired_difference(
    new_N: NDArray[np.bool_], old_N: NDArray[np.bool_]
) -> tuple[int, int, tuple[float, float]]:
    """Return the rows gained and lost, and the interval of the difference in accuracy."""
    gained, lost = int((new_N & ~old_N).sum()), int((old_N & ~new_N).sum())
    return gained, lost, paired_interval(gained, lost, len(new_N))


def unmeasured_margin(num_discordant: int, num_rows: int) -> float:
    """Return δ where nobody measured it: an equal model then passes in at least 95 % of cases.

    Of the rows that only one of two equal models predicts correctly, half are gained on average.
    The margin allows the fewest gained rows that McNemar's exact test (1947) does not reject at
    5 %, one-sided.
    """
    from scipy.stats import binom

    gained = int(binom.ppf(1 - LEVEL, num_discordant, 0.5))
    return -paired_interval(gained, num_discordant - gained, num_rows)[0]


def loss_margin(new: Scores, old: Scores, gate: Gate) -> float:
    """Return by how much the mean loss may rise, in nats.

    Where it was not measured, that is SEED_LOSS of the reference's loss, and the mean of the
    differences by row at the level of 99 % (a paired z-test).
    """
    if gate.loss_margin is not None:
        return gate.loss_margin
    difference_N = new.loss_N - old.loss_N
    error = float(difference_N.std()) / sqrt(len(difference_N))
    return SEED_LOSS * float(old.loss_N.mean()) + NormalDist().inv_cdf(0.99) * error


def by_chance(num_right: int, num_rows: int, level: float) -> float:
    """Return by how much the shares of right rows of two equal models differ: q · s · √2.

    s is binomial, with a right and a wrong row added so that it is never 0; q is the normal
    quantile of `level`.
    """
    share = (num_right + 1) / (num_rows + 2)
    return NormalDist().inv_cdf(level) * sqrt(share * (1 - share) / num_rows) * sqrt(2)


def recall_margin(gate: Gate, label: int, num_right: int, num_rows: int, num_classes: int) -> float:
    """Return how far a class's recall may fall: q · s · √2, for two runs of one recipe.

    s is the class's measured standard deviation over seeds, and q Student's quantile for the number
    of seeds; where it was not measured, see `by_chance`, a wider margin. Bonferroni: the level is
    divided among the classes, so all together refuse an equal candidate in at most 5 of 100 cases.
    """
    level = 1 - (1 - LEVEL) / num_classes
    spread = gate.recall_spread
    if spread is None or gate.num_seeds is None or len(spread) != num_classes:
        return by_chance(num_right, num_rows, level)
    from scipy.stats import t as student_t

    # A class with the same recall for every seed may still lose a row.
    s = max(spread[label], 1 / num_rows)
    return float(student_t.ppf(level, gate.num_seeds - 1)) * s * sqrt(2)


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
