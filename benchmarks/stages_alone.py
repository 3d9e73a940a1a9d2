"""The pipeline's stages as plain functions: no server, no flow, in a root that goes again."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.server import prepare_environment
from pipeline_config.datasets import Dataset, named_dataset
from pipeline_config.recipe import Recipe
from tasks.runtime.devices import probe
from tasks.runtime.store import StageRef


@contextmanager
def scratch_root() -> Iterator[Path]:
    """A temporary IDXFLOW_ROOT, set before Prefect is imported."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IDXFLOW_ROOT"] = folder
        prepare_environment()
        yield Path(folder)


@dataclass(frozen=True)
class Rows:
    """A data set, fetched, validated and converted."""

    dataset: Dataset
    table: StageRef

    def normalized(self, recipe: Recipe) -> StageRef:
        """The rows of a recipe's split, and its scaling."""
        from tasks.dataset.normalize import normalize

        return normalize.fn(self.table, recipe.split, recipe.scaling)

    def trained(self, recipe: Recipe) -> tuple[StageRef, float]:
        """The weights of a recipe, and the seconds that the train stage took."""
        from tasks.model.train import train

        normalized = self.normalized(recipe)
        started = time.perf_counter()
        ref = train.fn(self.table, normalized, recipe.model, recipe.training, probe("cpu"))
        return ref, time.perf_counter() - started

    def metrics(self, recipe: Recipe, trained: StageRef) -> dict[str, Any]:
        """What the evaluate stage finds."""
        ref = self.evaluated(recipe, trained)
        found: dict[str, Any] = json.loads((ref.path / "metrics.json").read_bytes())
        return found

    def evaluated(self, recipe: Recipe, trained: StageRef) -> StageRef:
        """The evaluate stage's output."""
        from tasks.evaluation.evaluate import evaluate

        return evaluate.fn(
            self.table,
            self.normalized(recipe),
            trained,
            recipe.model,
            self.dataset.class_names,
            self.dataset.corrections,
        )


def read_mnist(folder: Path) -> Rows:
    """MNIST from the raw files in `folder`, ready for training."""
    return read_rows("mnist", folder)


def read_rows(name: str, folder: Path | None) -> Rows:
    """A named data set, from the raw files in `folder` or from its sources."""
    from tasks.dataset.convert import convert
    from tasks.dataset.validate import validate
    from tasks.raw.fetch import fetch

    dataset = named_dataset(name)
    raw = fetch.fn(dataset, None if folder is None else str(folder.resolve()))
    checked = validate.fn(raw, dataset.num_classes)
    return Rows(dataset, convert.fn(raw, checked, dataset.name))


def measure_each(wanted: Sequence[str], measure: Callable[[str, Path | None], None]) -> None:
    """Measure each data set named, with the folder of its raw files where one is given."""
    with scratch_root():
        for word in wanted:
            name, _, folder = word.partition("=")
            measure(name, Path(folder) if folder else None)
