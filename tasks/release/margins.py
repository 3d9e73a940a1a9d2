"""How far two equal models may differ: the margins of the gate, and the interval of a difference.

Axes: N rows, C classes.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pipeline_config.gate import Gate

# Two-sided for accuracy; one-sided, and for all classes together, for recall.
LEVEL = 0.95
# The losses of two seeds of one recipe differ by up to this share: 3 to 17 % (gate.yaml).
SEED_LOSS = 0.1


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


def loss_margin(new_N: NDArray[np.float64], old_N: NDArray[np.float64], gate: Gate) -> float:
    """Return by how much the mean of the losses, in nats, may rise.

    Where it was not measured, that is SEED_LOSS of the reference's loss, and the mean of the
    differences by row at the level of 99 % (a paired z-test).
    """
    if gate.loss_margin is not None:
        return gate.loss_margin
    difference_N = new_N - old_N
    error = float(difference_N.std()) / sqrt(len(difference_N))
    return SEED_LOSS * float(old_N.mean()) + NormalDist().inv_cdf(0.99) * error


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
