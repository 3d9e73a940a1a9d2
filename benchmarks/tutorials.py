"""Six tutorials' recipes over five seeds: what they print beside what ours give.

One printed run against five of ours: it fits where it lies within t₄ · s · √(1 + 1/5) of our mean,
with s the standard deviation over seeds.

    python benchmarks/tutorials.py FOLDER_WITH_RAW_MNIST [RECIPE ...]
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages_alone import Rows, read_mnist, scratch_root

from pipeline_config.recipe_files import load_recipe

SEEDS = range(5)
T4 = 2.776  # Student's t: 95 % two-sided, four degrees of freedom


@dataclass(frozen=True)
class Tutorial:
    """What a tutorial prints: of which metric, at the end, and after single epochs of the curve."""

    recipe: str
    metric: str
    printed: float
    at_least: bool = False
    curve: tuple[float, ...] = ()
    changes: tuple[str, ...] = ()
    note: str = ""


TUTORIALS = (
    Tutorial("keras-blog", "accuracy", 0.938, note="its code's figure: its text prints none"),
    Tutorial("nnfwp", "accuracy", 0.9194),
    Tutorial("selene", "macro_f1", 0.965, curve=(0.911,)),
    Tutorial("dense512", "validation_accuracy", 0.9782),
    Tutorial(
        "digit-classifier",
        "accuracy",
        0.9824,
        curve=(0.9671, 0.9748, 0.9782, 0.9806, 0.9824),
        note="does not follow from its hyperparameters",
    ),
    Tutorial(
        "digit-classifier",
        "accuracy",
        0.9824,
        curve=(0.9671, 0.9748, 0.9782, 0.9806, 0.9824),
        changes=(
            "model.hidden=[512]",
            "model.dropout=0.2",
            "training.optimizer.name=adam",
            "training.optimizer.learning_rate=0.001",
        ),
        note="what would give it: 512 units, dropout 0.2, Adam at 0.001",
    ),
    Tutorial("challenge-985", "accuracy", 0.985, at_least=True),
)


def told(values: list[float]) -> str:
    """Mean ± 95 % interval of the mean, and s."""
    s = statistics.stdev(values)
    return f"{statistics.mean(values):.4f} ± {T4 * s / math.sqrt(len(values)):.4f}  s {s:.4f}"


def verdict(printed: float, values: list[float]) -> str:
    """Whether the printed figure could be another run of ours."""
    mean, s = statistics.mean(values), statistics.stdev(values)
    within = T4 * s * math.sqrt(1 + 1 / len(values))
    return "fits" if abs(printed - mean) <= within else "differs"


def run(mnist: Rows, tutorial: Tutorial) -> None:
    """Train five times and print a line; then untrained scores and curves where they are told."""
    seconds: list[float] = []
    found: list[dict[str, Any]] = []
    for seed in SEEDS:
        recipe = load_recipe(tutorial.recipe, (*tutorial.changes, f"training.seed={seed}"))
        trained, took = mnist.trained(recipe)
        seconds.append(took)
        found.append(mnist.metrics(recipe, trained))
    values = [metrics[tutorial.metric] for metrics in found]
    said = verdict(tutorial.printed, values)
    if tutorial.at_least:
        said = "reached" if statistics.mean(values) >= tutorial.printed else "missed"
    print(
        f"{tutorial.recipe:<17} {tutorial.metric:<20} {tutorial.printed:<7} {told(values)}  "
        f"{said:<8} {statistics.median(seconds):6.1f} s  {tutorial.note}",
        flush=True,
    )
    for name in ("accuracy", f"untrained_{tutorial.metric}", "validation_accuracy"):
        if name != tutorial.metric and found[0].get(name) is not None:
            print(f"    {name}: {told([metrics[name] for metrics in found])}")
    for place, lines in enumerate(zip(*(metrics["test_curve"] for metrics in found), strict=True)):
        values = [line[tutorial.metric] for line in lines]
        printed = tutorial.curve[place] if place < len(tutorial.curve) else None
        theirs = f"   theirs {printed} {verdict(printed, values)}" if printed else ""
        print(f"    epoch {place + 1}: {told(values)}{theirs}")
    best = max(found, key=lambda metrics: metrics["accuracy"])["top_pairs"][:3]
    pairs = ", ".join(f"{pair['first']}/{pair['second']} ({pair['count']})" for pair in best)
    print(f"    most confused, best seed: {pairs}", flush=True)


def main(folder: Path, names: list[str]) -> None:
    """Run the recipes named, or all six."""
    with scratch_root():
        mnist = read_mnist(folder)
        print(
            "recipe            metric               theirs  ours ± 95 %, s over seeds, median time"
        )
        for tutorial in TUTORIALS:
            if not names or tutorial.recipe in names:
                run(mnist, tutorial)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
