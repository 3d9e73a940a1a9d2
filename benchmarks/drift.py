"""How often `monitor` says "drift": falsely, on clean rows, and rightly, on changed ones.

Each data set's own recipe is trained. New images are validation rows, drawn without replacement;
the reference is drawn from the rows that were trained on. digits8x8 holds back half of its
training rows, since two hundred at least are needed.

    python benchmarks/drift.py mnist=FOLDER fashion-mnist=FOLDER digits8x8
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from stages_alone import Rows, measure_each, read_rows

from pipeline_config.drift import drift_limits
from pipeline_config.recipe_files import load_recipe
from tasks.dataset.table import read_rows as rows_of
from tasks.dataset.table import read_split
from tasks.prediction.drift import Answered, Signal, find_drift

SIZES, CLEAN_DRAWS, CHANGED_DRAWS, CHANGED_ROWS = (200, 500, 1000, 2000), 300, 10, 500
SIGNALS = ("auc", "estimated_accuracy", "class_shares")
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def clipped(images: Any) -> Pixels:
    """The images as bytes."""
    return np.clip(np.round(images), 0, 255).astype(np.uint8)


def rotated(degrees: float) -> Callable[[Pixels], Pixels]:
    """A change that turns each image."""
    return lambda images: clipped(
        ndimage.rotate(images.astype(float), degrees, axes=(1, 2), reshape=False, order=1)
    )


def noisy(images: Pixels) -> Pixels:
    """Gaussian noise, σ 20."""
    return clipped(images + np.random.default_rng(0).normal(0, 20, images.shape))


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "none": lambda images: images,
    **{f"rotated {degrees}°": rotated(degrees) for degrees in (5, 10, 15, 25)},
    "20 % darker": lambda images: clipped(images * 0.8),
    "50 % darker": lambda images: clipped(images * 0.5),
    "noise σ 20": noisy,
    "blur σ 1": lambda images: clipped(ndimage.gaussian_filter(images.astype(float), (0, 1, 1))),
    "shifted 1 px": lambda images: np.roll(images, 1, axis=2),
    "shifted 2 px": lambda images: np.roll(images, 2, axis=2),
    "inverted": lambda images: 255 - images,
}


class Monitored:
    """A data set, its trained model, and the rows that were and were not used to train it."""

    def __init__(self, rows: Rows) -> None:
        import torch

        from tasks.model.network import load_network, probabilities

        torch.set_num_threads(1)
        overrides = ("split.validation={kind: stratified, share: 0.5, seed: 0}",)
        small = rows.dataset.name == "digits8x8"
        recipe = load_recipe(rows.dataset.default_recipe, overrides if small else ())
        trained, _ = rows.trained(recipe)
        evaluated = rows.evaluated(recipe, trained)
        self.metrics = json.loads((evaluated.path / "metrics.json").read_bytes())
        self.names = rows.dataset.class_names
        (height, width), classes = rows.table.facts["image_shape"], rows.dataset.num_classes
        path = trained.path / "model.safetensors"
        network = load_network(path, recipe.model, height * width, classes)
        split = read_split(rows.normalized(recipe))

        def part(indices: Any) -> tuple[Answered, Any]:
            images, labels = rows_of(rows.table, indices)
            answers = probabilities(network, images)
            return Answered(images.reshape(-1, height, width), answers), labels

        self.ask = lambda images: probabilities(network, images.reshape(len(images), -1))
        self.reference, _ = part(split.train)
        self.clean, self.labels = part(split.validation)

    def look(
        self, rows: Any, generator: np.random.Generator, change: str = "none"
    ) -> tuple[tuple[Signal, ...], float]:
        """The signals of some validation rows, changed, and the model's true accuracy on them."""
        count = min(drift_limits().max_rows, len(self.reference.images_NHW))
        drawn = generator.choice(len(self.reference.images_NHW), count, replace=False)
        reference = Answered(*(part[drawn] for part in self.reference))
        images = CHANGES[change](self.clean.images_NHW[rows])
        new = Answered(images, self.ask(images))
        right = (new.probabilities_NC.argmax(axis=1) == self.labels[rows]).mean()
        found = find_drift(reference, new, self.metrics, self.names)
        return found[0], float(right)


def measure(name: str, folder: Path | None) -> None:
    """Print the false alarms of a data set, then what is seen of each change."""
    here, generator = Monitored(read_rows(name, folder)), np.random.default_rng(0)
    held = len(here.labels)
    print(f"\n{name}: {CLEAN_DRAWS} clean draws of each size from {held:,} rows", flush=True)
    print("| rows | any alarm | AUC (limit) | estimate (limit) | class shares (limit) |")
    print("|---|---|---|---|---|")
    for size in [size for size in SIZES if size <= 0.75 * held]:
        draws = [generator.choice(held, size, replace=False) for _ in range(CLEAN_DRAWS)]
        found = [here.look(rows, generator)[0] for rows in draws]
        alarms = sum(any(signal.alarms for signal in signals) for signals in found)
        print(f"| {size:,} | {alarms} | {' | '.join(_ranges(found))} |", flush=True)
    size = min(CHANGED_ROWS, held)
    print(f"\n{name}: {CHANGED_DRAWS} draws of {size} rows; alarms in brackets")
    print("| change | seen | AUC | estimate | true accuracy | class shares |")
    print("|---|---|---|---|---|---|")
    ones = np.where(here.labels == 1, 6.0, 1.0)
    for change in [*CHANGES, "1s six times as frequent"]:
        odds = ones / ones.sum() if change not in CHANGES else None
        results = []
        for _ in range(CHANGED_DRAWS):
            count = size if odds is None else min(size, held // 3)
            rows = generator.choice(held, count, replace=False, p=odds)
            results.append(here.look(rows, generator, change if odds is None else "none"))
        _print_change(change, results)


def _ranges(found: list[tuple[Signal, ...]]) -> list[str]:
    """The range of each signal's values, and its mean limit."""
    cells = []
    for place in range(len(SIGNALS)):
        values = [signals[place].value for signals in found]
        limit = np.mean([signals[place].limit for signals in found])
        cells.append(f"{min(values):.3f}–{max(values):.3f} ({limit:.3f})")
    return cells


def _print_change(change: str, results: list[tuple[tuple[Signal, ...], float]]) -> None:
    """Print a row of the table."""
    seen = sum(any(signal.alarms for signal in signals) for signals, _ in results)
    cells = []
    for place in range(len(SIGNALS)):
        value = np.mean([signals[place].value for signals, _ in results])
        cells.append(f"{value:.3f} [{sum(signals[place].alarms for signals, _ in results)}]")
    cells.insert(2, f"{np.mean([right for _, right in results]):.3f}")
    print(f"| {change} | {seen} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    measure_each(sys.argv[1:], measure)
