"""The gate: the criteria that a candidate has to meet to become champion.

A candidate is compared with the reference, row by row on the pinned test rows. The reference is the
last champion that was better than the reference before it beyond doubt. So small losses do not add
up from one champion to the next.

Axes: N pinned test rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_config.gate import Gate
from pipeline_config.sections import Record
from tasks.release.margins import (
    LEVEL,
    by_chance,
    loss_margin,
    paired_difference,
    recall_margin,
    unmeasured_margin,
)

# With fewer recent rows the gate does not ask them.
LEAST_RECENT = 50


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
    loss, before = new.loss_N.mean(), old.loss_N.mean()
    margin = loss_margin(new.loss_N, old.loss_N, gate)
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


def on_recent_rows(new_N: NDArray[np.bool_], champion_N: NDArray[np.bool_]) -> Criterion:
    """Return whether a candidate is not worse than the champion on the recent rows of shards."""
    if len(new_N) < LEAST_RECENT:
        words = f"{len(new_N)} recent rows are too few to tell; the pinned test rows decide"
        return criterion("recent rows", 0.0, 0.0, words)
    check = not_worse(new_N, champion_N, Gate(), "champion")
    words = f"on {len(new_N):,} recent rows: {check.words}"
    return check.model_copy(update={"name": "recent rows", "words": words})


def not_worse(
    new_N: NDArray[np.bool_], old_N: NDArray[np.bool_], gate: Gate, rival: str = "reference"
) -> Criterion:
    """Return whether the accuracy is not worse: from which rows are right, before and now.

    The paired interval must reach above 0 and lie above −δ.
    """
    gained, lost, (low, high) = paired_difference(new_N, old_N)
    margin = gate.accuracy_margin
    if margin is None:
        margin = unmeasured_margin(gained + lost, len(new_N))
    words = f"accuracy {new_N.mean():.4f}, the {rival}'s {old_N.mean():.4f}: {gained} rows "
    words += f"gained, {lost} lost; the difference is {100 * low:+.2f} to {100 * high:+.2f} points "
    words += f"(95 %, Tango 1998) and must be above {-100 * margin:.2f}"
    if gate.accuracy_margin is None:
        words += f". {len(new_N):,} rows do not show a loss of up to {100 * margin:.1f} points"
    if high < 0:
        return criterion("accuracy", high, 0.0, f"it is worse: {words}, and reach above 0")
    return criterion("accuracy", low, -margin, words)
