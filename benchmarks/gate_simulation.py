"""How often the gate errs: equal models refused, worse models let pass, losses that add up.

Sixty seeds of the data set's own recipe are trained. Their answers for the test rows are judged by
the whole gate as built, in place of sixty nights. A model that is worse by some points is one of
them, with as many right answers exchanged for the second most likely class: of the right answers
that are least sure, twice as many as are needed, a half at random.

    python benchmarks/gate_simulation.py mnist=FOLDER digits8x8
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from stages_alone import Rows, measure_each, read_rows

from pipeline_config.gate import Gate, gate_for
from pipeline_config.recipe_files import load_recipe
from tasks.evaluation.calibration import calibration_error, error_by_chance, sureness
from tasks.evaluation.metrics import losses
from tasks.release.gate import Scores, compare_scores
from tasks.release.margins import paired_difference

NUM_SEEDS, NUM_PAIRS, NUM_ORDERS = 60, 400, 20
POINTS = (0.1, 0.2, 0.35, 0.5)
SIZES = (100, 300, 1_000, 10_000)
# Points that a candidate is worse than the one of the night before.
STEPS = (0.0, 0.01, 0.05)


class Model(NamedTuple):
    """One seed's probabilities for the test rows, and the calibration error by chance."""

    probabilities_NC: NDArray[np.float32]
    by_chance: float

    def scores(self, labels_N: NDArray[np.int64]) -> Scores:
        """What the gate reads of it."""
        sure = sureness(self.probabilities_NC, labels_N)
        right_N = self.probabilities_NC.argmax(axis=1) == labels_N
        loss_N = losses(self.probabilities_NC, labels_N)
        return Scores(right_N, loss_N, calibration_error(sure), self.by_chance)

    def on(self, rows: NDArray[np.int64], labels_N: NDArray[np.int64]) -> Model:
        """The model on some of the rows."""
        part_NC = self.probabilities_NC[rows]
        return Model(part_NC, error_by_chance(sureness(part_NC, labels_N[rows]))[1][1])

    def worse(
        self, points: float, labels_N: NDArray[np.int64], chance: np.random.Generator
    ) -> Model:
        """The model with `points` percent points of right answers exchanged."""
        number = round(points / 100 * len(labels_N))
        right = np.flatnonzero(self.probabilities_NC.argmax(axis=1) == labels_N)
        unsure = right[np.argsort(self.probabilities_NC[right].max(axis=1), kind="stable")]
        rows = chance.permutation(unsure[: 2 * number])[:number]
        changed_NC = self.probabilities_NC.copy()
        second, first = np.argsort(changed_NC[rows], axis=1)[:, -2:].T
        changed_NC[rows, first], changed_NC[rows, second] = (
            changed_NC[rows, second],
            changed_NC[rows, first],
        )
        # The confidences are the same, and so is the error by chance.
        return Model(changed_NC, self.by_chance)


def trained(rows: Rows, seed: int) -> tuple[Model, NDArray[np.int64]]:
    """The data set's own recipe with one seed, and the test labels (N,)."""
    recipe = load_recipe(rows.dataset.default_recipe, (f"training.seed={seed}",))
    table = pq.read_table(
        rows.evaluated(recipe, rows.trained(recipe)[0]).path / "probabilities.parquet"
    )
    labels_N = table["label"].to_numpy().astype(np.int64)
    names = [f"p{label}" for label in range(rows.dataset.num_classes)]
    probabilities_NC = np.stack([table[name].to_numpy() for name in names], axis=1)
    return Model(probabilities_NC, 0.0).on(np.arange(len(labels_N)), labels_N), labels_N


def judged(new: Scores, old: Scores, labels_N: NDArray[np.int64], gate: Gate) -> list[str]:
    """The criteria that are not met; all recalls count as one."""
    names = [str(label) for label in range(labels_N.max() + 1)]
    checks = compare_scores(new, old, labels_N, gate, names)
    return sorted({check.name.partition(" ")[0] for check in checks if not check.passed})


def refusals(
    models: Sequence[Model], labels_N: NDArray[np.int64], gate: Gate, num_rows: int, points: float
) -> str:
    """How often the gate refuses a model that is worse by `points`, and by which criterion."""
    chance = np.random.default_rng(0)
    refused = []
    for _ in range(NUM_PAIRS):
        first, second = chance.choice(len(models), 2, replace=False)
        old, new, labels_R = models[first], models[second], labels_N
        if num_rows < len(labels_N):
            rows = chance.choice(len(labels_N), num_rows, replace=False)
            old, new, labels_R = old.on(rows, labels_N), new.on(rows, labels_N), labels_N[rows]
        new = new.worse(points, labels_R, chance)
        refused.append(judged(new.scores(labels_R), old.scores(labels_R), labels_R, gate))
    names = sorted({name for each in refused for name in each})
    words = ", ".join(f"{name} {np.mean([name in each for each in refused]):.1%}" for name in names)
    return f"{np.mean([bool(each) for each in refused]):6.1%}  ({words})"


def nights(
    models: Sequence[Model], labels_N: NDArray[np.int64], gate: Gate, step: float, *, ladder: bool
) -> tuple[float, float]:
    """The points that the last champion has lost, and the share of nights refused.

    `ladder`: candidates are held against the reference, otherwise against the champion of the day.
    """
    lost, refused = [], 0
    for order in range(NUM_ORDERS):
        chance = np.random.default_rng(order)
        seeds = chance.permutation(len(models))
        rival, champion = models[seeds[0]].scores(labels_N), 0.0
        for night, seed in enumerate(seeds[1:], 1):
            new = models[seed].worse(step * night, labels_N, chance).scores(labels_N)
            if judged(new, rival, labels_N, gate):
                refused += 1
                continue
            champion = step * night
            if not ladder or paired_difference(new.right_N, rival.right_N)[2][0] > 0:
                rival = new
        lost.append(champion)
    return float(np.mean(lost)), refused / NUM_ORDERS / (len(models) - 1)


def measure(name: str, folder: Path | None) -> None:
    """Train the seeds of a data set and print what the gate does with them."""
    rows = read_rows(name, folder)
    found = [trained(rows, seed) for seed in range(NUM_SEEDS)]
    models, labels_N, measured = [model for model, _ in found], found[0][1], gate_for(name)
    print(f"\n{name}, {rows.dataset.default_recipe}, {NUM_SEEDS} seeds, {len(labels_N)} test rows")
    print("refused with the measured margins, by points that the candidate is worse:")
    for points in (0.0, *POINTS):
        print(f"  {points:4.2f}  {refusals(models, labels_N, measured, len(labels_N), points)}")
    print("refused where nobody measured, of equal models and of some 2 points worse, by rows:")
    for size in (size for size in SIZES if size <= len(labels_N)):
        for points in (0.0, 2.0):
            words = refusals(models, labels_N, Gate(), size, points)
            print(f"  {size:6,} rows, {points:3.1f} points worse  {words}")
    print(f"{NUM_SEEDS - 1} nights: points lost by the champion, nights refused")
    for step in STEPS:
        for ladder in (False, True):
            lost, share = nights(models, labels_N, measured, step, ladder=ladder)
            rival = "the reference" if ladder else "the champion"
            print(f"  {step:4.2f} a night, against {rival:13}  {lost:5.2f}  {share:6.1%}")


if __name__ == "__main__":
    measure_each(sys.argv[1:], measure)
