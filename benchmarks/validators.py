"""What the validate stage's comparisons of two splits tell: clean subsets and damaged ones.

Prints, by figure, the highest of the clean subsets and the lowest of each damage that it is for,
its bound, and how many clean subsets break any bound.

    python benchmarks/validators.py mnist=FOLDER fashion-mnist=FOLDER digits8x8
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import rotate
from stages_alone import measure_each, read_rows

from pipeline_config.sections import read_yaml
from pipeline_config.settings import CHECKOUT
from tasks.dataset.profile import Labelled, frame_of, profile
from tasks.dataset.splits import compare_splits, with_differences
from tasks.dataset.table import read_rows as rows_of

SIZES, CLEAN_DRAWS, DAMAGED_DRAWS = ((1_000, 200), (5_000, 1_000), (20_000, 4_000)), 100, 5
Array = NDArray[np.uint8]
Change = Callable[[Array], Array]
# The expectation of each column; one about the mean grey level and one about a share are apart.
FIGURES = {
    "swapped": "classes-alike",
    "train_noise": "train-labels-clean",
    "test_noise": "test-labels-clean",
    "mirrored": "not-mirrored",
    "turned": "not-turned",
    "class_ratio": "class-balance",
}
BOUNDS = {"grey": 0.15, "near": 0.01}


def swap(labels: Array) -> Array:
    """Classes 4 and 9 exchanged."""
    return np.array([0, 1, 2, 3, 9, 5, 6, 7, 8, 4], np.uint8)[labels]


def noisy(share: float) -> Change:
    """A share of the labels replaced by other ones."""

    def change(labels: Array) -> Array:
        chance, changed = np.random.default_rng(labels), labels.copy()
        rows = chance.permutation(len(labels))[: int(share * len(labels))]
        changed[rows] = (changed[rows] + chance.integers(1, 10, len(rows))) % 10
        return changed

    return change


def turn(images: Array) -> Array:
    """Images turned by 10°."""
    turned = rotate(images.astype(np.float32), 10, axes=(2, 1), reshape=False, order=1)
    return np.clip(np.round(turned), 0, 255).astype(np.uint8)


def one_bit(images: Array) -> Array:
    """One bit of each image changed."""
    chance, changed = np.random.default_rng(0), images.reshape(len(images), -1).copy()
    places = chance.integers(0, changed.shape[1], len(changed))
    changed[np.arange(len(changed)), places] ^= (1 << chance.integers(0, 8, len(changed))).astype(
        np.uint8
    )
    return changed.reshape(images.shape)


IMAGES: dict[str, tuple[str, Change]] = {
    "mirrored": ("mirrored", lambda images: images[:, :, ::-1]),
    "turned by 10°": ("turned", turn),
    "contrast × 0.75": ("grey", lambda images: (images * 0.75).astype(np.uint8)),
}
LEAKS: dict[str, Change] = {
    "one bit": one_bit,
    "a column": lambda images: np.pad(images, ((0, 0), (0, 0), (1, 0)))[:, :, :-1],
    "a row": lambda images: np.pad(images, ((0, 0), (1, 0), (0, 0)))[:, :-1],
}


def damages(train: Labelled, test: Labelled) -> Iterator[tuple[str, str, Labelled, Labelled]]:
    """The figure that a damage should raise, its name, and the damaged splits."""
    for name, (figure, change) in IMAGES.items():
        yield figure, f"train {name}", (change(train[0]), train[1]), test
        yield figure, f"test {name}", train, (change(test[0]), test[1])
    yield "swapped", "train 4↔9", (train[0], swap(train[1])), test
    yield "swapped", "test 4↔9", train, (test[0], swap(test[1]))
    for share in (0.1, 0.2, 0.5):
        yield "train_noise", f"train {share:.0%}", (train[0], noisy(share)(train[1])), test
        yield "test_noise", f"test {share:.0%}", train, (test[0], noisy(share)(test[1]))
    rows = slice(0, len(test[1]) // 20)
    for name, change in LEAKS.items():
        leaked = (
            np.concatenate([train[0], change(test[0][rows])]),
            np.append(train[1], test[1][rows]),
        )
        yield "near", f"5 % of test in train, {name} off", leaked, test


def figures_of(train: Labelled, test: Labelled) -> dict[str, float]:
    """The figures that expectations have bounds for."""
    found = compare_splits(train, test)
    frame = with_differences(frame_of(profile(*train), profile(*test), found.agreement), found)
    greys = frame.groupby("split")["mean"].mean()
    near = 0 if frame["near"].isna().all() else float(frame["near"].mean())
    grey = abs(greys["test"] / greys["train"] - 1)
    return {**{name: float(frame[name].max()) for name in FIGURES}, "grey": grey, "near": near}


def measure(
    name: str, train: Labelled, test: Labelled, pooled: bool, sizes: tuple[int, int]
) -> None:
    """Print the figures of subsets with so many rows; of `pooled` splits, drawn from both."""
    expectations = read_yaml(CHECKOUT / "tasks/dataset/expectations.yaml")
    bounds = {key: expectations[each]["arguments"]["max_value"] for key, each in FIGURES.items()}
    bounds |= BOUNDS
    clean: list[dict[str, float]] = []
    damaged: dict[tuple[str, str], list[float]] = {}
    chance = np.random.default_rng(0)
    images, labels = (np.concatenate(pair) for pair in zip(train, test, strict=True))
    for draw in range(CLEAN_DRAWS):
        if pooled:
            mixed = chance.permutation(len(labels))
            rows = mixed[: sizes[0]], mixed[sizes[0] : sum(sizes)]
        else:
            first, second = chance.permutation(len(train[1])), chance.permutation(len(test[1]))
            rows = first[: sizes[0]], second[: sizes[1]] + len(train[1])
        splits = [(images[each], labels[each]) for each in rows]
        clean.append(figures_of(splits[0], splits[1]))
        if draw < DAMAGED_DRAWS:
            for figure, damage, *pair in damages(splits[0], splits[1]):
                damaged.setdefault((figure, damage), []).append(figures_of(*pair)[figure])
    alarms = sum(any(each[key] > bound for key, bound in bounds.items()) for each in clean)
    print(f"{name}, {sizes[0]:,} and {sizes[1]:,} rows: {alarms} of {CLEAN_DRAWS} clean ones alarm")
    for key, bound in bounds.items():
        least = (f"{each} {min(found):.2f}" for (k, each), found in damaged.items() if k == key)
        most = max(each[key] for each in clean)
        print(f"  {key}: clean ≤ {most:.3f}, bound {bound}; {', '.join(least)}", flush=True)


def measure_rows(name: str, folder: Path | None) -> None:
    """Measure a data set, at each size that it has rows for; digits8x8 at its own."""
    rows = read_rows(name, folder)
    counts, shape = rows.table.facts["rows"], rows.table.facts["image_shape"]
    pixels, labels = rows_of(rows.table, np.arange(counts["train"] + counts["test"]))
    images, labels = pixels.reshape(-1, *shape), labels.astype(np.uint8)
    cut = counts["train"]
    train, test = (images[:cut], labels[:cut]), (images[cut:], labels[cut:])
    own = len(labels) < 2 * SIZES[1][0]
    for sizes in [(cut, counts["test"])] if own else SIZES:
        measure(name, train, test, own, sizes)


if __name__ == "__main__":
    measure_each(sys.argv[1:], measure_rows)
