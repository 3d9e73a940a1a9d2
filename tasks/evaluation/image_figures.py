"""Figures of images: samples, the test rows that the model gets wrong, the suspect labels.

Axes: N images, H and W their height and width in pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.dataset.table import first_of_each_class
from tasks.evaluation.figure_page import WIDTH_IN, page

ROWS, COLUMNS = 3, 5
# The box of a tile's image and the height of a line of its title.
TILE_IN, LINE_IN = 1.08, 0.18


def draw_samples(
    path: Path, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64], names: Sequence[str]
) -> None:
    """Draw up to fifteen images under their labels, the first of each class first."""
    chosen = first_of_each_class(labels_N, ROWS * COLUMNS)
    titles = [names[label] for label in labels_N[chosen]]
    _tiles(path, "Training images and their labels", images_NHW[chosen], titles)


def draw_misclassified(
    path: Path,
    images_NHW: NDArray[np.uint8],
    labels_N: NDArray[np.int64],
    probabilities_NC: NDArray[np.float32],
    names: Sequence[str],
) -> None:
    """At most fifteen wrong answers, titled true vs. predicted, the most confident ones first."""
    predictions_N, confidence_N = probabilities_NC.argmax(axis=1), probabilities_NC.max(axis=1)
    wrong = np.flatnonzero(predictions_N != labels_N)
    chosen = wrong[np.argsort(-confidence_N[wrong], kind="stable")][: ROWS * COLUMNS]
    between = " vs. " if max(map(len, names)) <= 4 else " vs.\n"
    titles = [
        f"{names[true]}{between}{names[predicted]}\n{100 * confidence:.1f} %"
        for true, predicted, confidence in zip(
            labels_N[chosen], predictions_N[chosen], confidence_N[chosen], strict=True
        )
    ]
    title = (
        f"{len(chosen)} of {len(wrong):,} misclassified test images: true vs. predicted,\n"
        "and how sure the model was; the surest first"
        if len(wrong)
        else f"None of the {len(labels_N):,} test images is misclassified"
    )
    _tiles(path, title, images_NHW[chosen], titles)


def draw_suspects(
    path: Path,
    images_NHW: NDArray[np.uint8],
    suspects: Sequence[Mapping[str, Any]],
    title: str,
    names: Sequence[str],
) -> None:
    """Images whose label is suspect, titled given → suggested, with the confidence and the row."""
    between = " → " if max(map(len, names)) <= 4 else " →\n"
    titles = [
        f"{names[suspect['label']]}{between}{names[suspect['suggested']]}\n"
        f"{100 * suspect['confidence']:.1f} %\nrow {suspect['row']}"
        for suspect in suspects
    ]
    _tiles(path, title, images_NHW, titles)


def _tiles(path: Path, title: str, images_NHW: NDArray[np.uint8], titles: Sequence[str]) -> None:
    """Images row by row in a grid, dark ink on white paper, each under its title.

    Everything is placed in inches: a layout engine would take longer than all the drawing.
    """
    height, width = TILE_IN * np.array(images_NHW.shape[1:]) / max(images_NHW.shape[1:])
    above = 0.18 + 0.24 * (1 + title.count("\n"))
    head = 0.08 + LINE_IN * (1 + max((text.count("\n") for text in titles), default=0))
    step = head + height + 0.1
    longest = max((len(line) for text in titles for line in text.split("\n")), default=1)
    height_in = above + step * -(-len(titles) // COLUMNS)
    with page(path, height_in, layout=None) as figure:
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        ax.text(0.1, 0.12, title, va="top", fontsize=11.5)
        for place, (image_HW, text) in enumerate(zip(images_NHW, titles, strict=True)):
            row, column = divmod(place, COLUMNS)
            x, y = (column + 0.5) * WIDTH_IN / COLUMNS, above + row * step + head
            extent = (x - width / 2, x + width / 2, y + height, y)
            ax.imshow(image_HW, vmin=0, vmax=255, extent=extent, aspect="auto")
            size = min(10.0, 150 / longest)
            ax.text(x, y - 0.05, text, ha="center", va="bottom", fontsize=size)
        ax.set(xlim=(0, WIDTH_IN), ylim=(height_in, 0))
