"""A look at a data set, from its raw files: no Prefect, no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flows.plan import Plan
from pipeline_config.sections import Section
from pipeline_config.settings import settings
from tasks.raw.idx import read_splits
from tasks.raw.sources import obtain
from tasks.runtime.errors import ConfigError
from tasks.runtime.files import built_aside, root_lock
from tasks.runtime.stages import FETCH
from tasks.runtime.store import build

# From no ink to full ink.
SHADES = " .:-=+*#%@"


class View(Section):
    """What a split looks like; `counts` are (class, images of it)."""

    dataset: str
    split: str
    dtype: str
    shape: tuple[int, ...]
    counts: tuple[tuple[str, int], ...]
    index: int
    label: str
    art: str
    grid: str


def look_at(plan: Plan, split: str, index: int) -> View:
    """A view of one split; the raw files are fetched if they are not there yet.

    Writes the grid of samples below the root. Raises ConfigError for an index beyond the split.
    """
    data = plan.dataset
    with root_lock():
        raw = build(FETCH, {"dataset": data}, lambda folder: obtain(data, plan.source, folder))
    images, labels = read_splits(raw.path, data.num_classes, data.title)[split]
    if index >= len(images):
        raise ConfigError(
            f"--index {index}",
            found=f"{len(images)} images in {data.name} {split}",
            expected=f"an index from 0 to {len(images) - 1}",
            remedy="Choose a smaller one.",
        )
    counts = np.bincount(labels, minlength=data.num_classes)
    return View(
        dataset=data.name,
        split=split,
        dtype=str(images.dtype),
        shape=images.shape,
        counts=tuple(zip(data.class_names, counts.tolist(), strict=True)),
        index=index,
        label=data.class_names[int(labels[index])],
        art=ascii_art(images[index]),
        grid=str(_grid(plan, split, images, labels.astype(np.int64))),
    )


def ascii_art(image_HW: NDArray[np.uint8]) -> str:
    """The image as text, two characters a pixel, since characters are twice as tall as wide."""
    shades = np.array(list(SHADES))[image_HW.astype(int) * (len(SHADES) - 1) // 255]
    return "\n".join("".join(2 * shade for shade in row).rstrip() for row in shades)


def _grid(
    plan: Plan, split: str, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64]
) -> Path:
    from tasks.evaluation.image_figures import draw_samples

    folder = settings().root / "show" / f"{plan.dataset.name}-{split}"
    with built_aside(folder) as aside:
        draw_samples(aside / "samples.png", images_NHW, labels_N, plan.dataset.class_names)
    return folder / "samples.png"
