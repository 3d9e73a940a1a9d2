"""How far two runs of one recipe differ by their seed alone: where the gate's margins come from.

Each data set's own recipe is trained with ten seeds. Printed are the standard deviations over the
seeds, the margins of `pipeline_config/gate.yaml` that follow from them, and how many of the ninety
ordered pairs of seeds the gate refuses with the margins that stand there now.

    python benchmarks/seed_spread.py mnist=FOLDER fashion-mnist=FOLDER digits8x8
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import t as student_t
from stages_alone import Rows, measure_each, read_rows

from pipeline_config.gate import gate_for
from pipeline_config.recipe_files import load_recipe
from tasks.evaluation.calibration import calibration_error, error_by_chance, sureness
from tasks.evaluation.metrics import losses
from tasks.release.gate import Scores, compare_scores
from tasks.release.margins import paired_interval

NUM_SEEDS = 10
LEVEL = 0.95


def scored(rows: Rows, seed: int) -> tuple[Scores, np.ndarray[Any, Any]]:
    """The data set's own recipe with one seed: its scores, and the test labels (N,)."""
    recipe = load_recipe(rows.dataset.default_recipe, (f"training.seed={seed}",))
    trained, _ = rows.trained(recipe)
    table = pq.read_table(rows.evaluated(recipe, trained).path / "probabilities.parquet")
    labels = table["label"].to_numpy().astype(np.int64)
    names = [f"p{label}" for label in range(rows.dataset.num_classes)]
    probabilities = np.stack([table[name].to_numpy() for name in names], axis=1)
    sure = sureness(probabilities, labels)
    scores = Scores(
        right_N=probabilities.argmax(axis=1) == labels,
        loss_N=losses(probabilities, labels),
        ece=calibration_error(sure),
        ece_by_chance=error_by_chance(sure)[1][1],
    )
    return scores, labels


def between_runs(values: Sequence[float]) -> float:
    """How far above one run another may lie, one-sided: t · s · √2."""
    quantile = float(student_t.ppf(LEVEL, len(values) - 1))
    return quantile * statistics.stdev(values) * math.sqrt(2)


def measure(name: str, folder: Path | None) -> None:
    """Train with every seed and print what follows."""
    rows = read_rows(name, folder)
    found = [scored(rows, seed) for seed in range(NUM_SEEDS)]
    runs, labels = [scores for scores, _ in found], found[0][1]
    recalls = [[run.right_N[labels == c].mean() for c in np.unique(labels)] for run in runs]
    spread = np.std(recalls, axis=0, ddof=1)
    lows = [
        paired_interval(int((b & ~a).sum()), int((a & ~b).sum()), len(labels))[0]
        for a, b in permutations([run.right_N for run in runs], 2)
    ]
    accuracies = [run.accuracy for run in runs]
    print(f"\n{name}, {rows.dataset.default_recipe}, {NUM_SEEDS} seeds, {len(labels)} test rows")
    print(f"  accuracy {statistics.mean(accuracies):.4f}, s {statistics.stdev(accuracies):.4f}")
    print(f"  accuracy_margin  {-np.quantile(lows, 1 - LEVEL):.4f}  (of 95 in 100 pairs)")
    print(f"  loss_margin      {between_runs([float(run.loss_N.mean()) for run in runs]):.4f}")
    print(f"  ece_margin       {between_runs([run.ece for run in runs]):.4f}")
    print(f"  recall_spread    [{', '.join(f'{s:.4f}' for s in spread)}]")
    gate, names = gate_for(name), rows.dataset.class_names
    pairs = list(permutations(runs, 2))
    checks = [compare_scores(new, old, labels, gate, names) for new, old in pairs]
    refused = [[check.name for check in each if not check.passed] for each in checks]
    print(f"  refused with the margins as they stand: {sum(map(bool, refused))} of {len(pairs)}")
    for check in sorted({check for each in refused for check in each}):
        print(f"    {check}: {sum(check in each for each in refused)}")


if __name__ == "__main__":
    measure_each(sys.argv[1:], measure)
