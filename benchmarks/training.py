"""`fast` against the `selene` tutorial's whole script: training alone, and a whole cold run.

Both in turn, round by round. The accuracy of `fast` is the mean of ten seeds, whatever the rounds.

    python benchmarks/training.py FOLDER_WITH_RAW_MNIST [ROUNDS]
"""

from __future__ import annotations

import shutil
import statistics
import sys
from pathlib import Path

from flow_overhead import seconds as seconds_of
from side_by_side import in_turn, print_ratios
from stages_alone import read_mnist, scratch_root

from pipeline_config.recipe import Recipe
from pipeline_config.recipe_files import load_recipe
from tasks.runtime.store import StageRef

TUTORIAL = Path(__file__).parent / "tutorial_selene.py"


NUM_SEEDS = 10


def main(folder: Path, rounds: int) -> None:
    """Print medians, ratios and the accuracies."""
    raw = str(folder.resolve())
    run = [sys.executable, "-c", "from flows.cli import main; main()", "run", "--source", raw]
    recipes = iter([load_recipe("fast", (f"training.seed={seed}",)) for seed in range(NUM_SEEDS)])
    made: list[tuple[Recipe, StageRef]] = []
    with scratch_root() as root:
        mnist = read_mnist(folder)
        elsewhere = root / "run"
        seconds_of(run, elsewhere)  # its database's migrations, once

        def train() -> None:
            recipe = next(recipes)
            made.append((recipe, mnist.trained(recipe)[0]))

        def run_cold() -> None:
            seconds_of(run, elsewhere)

        def forget() -> None:
            for name in ("stages", "models"):
                shutil.rmtree(elsewhere / name)

        forget()
        seconds = in_turn(
            {
                "train stage of fast": train,
                "idxflow run, cold": run_cold,
                "selene's whole script": lambda: seconds_of(
                    [sys.executable, str(TUTORIAL), raw], elsewhere
                ),
            },
            rounds,
            after_each=forget,
        )
        while len(made) < NUM_SEEDS:
            train()
        accuracies = [mnist.metrics(*each)["accuracy"] for each in made]
    print_ratios("to a trained model", seconds, ("train stage of fast", "idxflow run, cold"))
    print(
        f"fast: {statistics.mean(accuracies):.4f} on the test split, "
        f"s {statistics.stdev(accuracies):.4f}, "
        f"{min(accuracies):.4f} to {max(accuracies):.4f}, {NUM_SEEDS} seeds"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
