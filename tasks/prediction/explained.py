"""Draws how the first pictures were read: in grey, their ink, what the model sees, its answer.

Axes: B pictures, H × W pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tasks.evaluation.figures import BLUE, GREY, WIDTH_IN, page
from tasks.prediction.answers import Classifier
from tasks.prediction.inputs import KINDS, PICTURE, kind_of
from tasks.prediction.pictures import path_text, read_picture
from tasks.runtime.errors import ConfigError

NUM_SHOWN, NUM_BARS = 6, 10
# The letters of a file's name and of a class's name.
NUM_TITLE, NUM_NAME = 60, 10
# A picture's row, its tiles, the titles above and the left margin, in inches.
ROW_IN, TILE_IN, HEAD_IN, LEFT_IN = 1.62, 1.22, 0.42, 0.1
TITLES = ("as it came", "its ink", "what the model saw", "probabilities")


def draw_explained(path: Path, files: Iterable[Path], classifier: Classifier) -> None:
    """Draw the first pictures among the files as a PNG. Raises ConfigError if there is none."""
    shown = [*islice((file for file in files if kind_of(file) == PICTURE), NUM_SHOWN)]
    if not shown:
        raise ConfigError(
            "--explain",
            found="no picture among the files",
            expected=f"a PNG or JPEG among {KINDS} files",
            remedy="Leave --explain out: the rows of other files are used as they are.",
        )
    pictures = [read_picture(file, classifier.form) for file in shown]
    images_BHW = np.stack([picture.image_HW for picture in pictures])
    probabilities_BC = classifier.model.probabilities(images_BHW)
    names = classifier.class_names
    height_in = HEAD_IN + ROW_IN * len(shown)
    with page(path, height_in, layout=None) as figure:
        for column, title in enumerate(TITLES):
            x, y = _left_in(column) / WIDTH_IN, 1 - 0.1 / height_in
            figure.text(x, y, title, va="top", fontsize=9, color=GREY)
        rows = zip(shown, pictures, probabilities_BC, strict=True)
        for row, (file, picture, probabilities_C) in enumerate(rows):
            bottom_in = height_in - HEAD_IN - (row + 1) * ROW_IN + 0.12
            for column, image_hw in enumerate((picture.grey_hw, picture.ink_hw, picture.image_HW)):
                if image_hw is not None:
                    ax = _add_axes(figure, _left_in(column), bottom_in, TILE_IN)
                    ax.imshow(image_hw, cmap="gray", vmin=0, vmax=255)
                    ax.set(xticks=[], yticks=[])
            _draw_bars(figure, bottom_in, probabilities_C, names)
            best = names[probabilities_C.argmax()]
            title = (
                f"{_end(path_text(file), NUM_TITLE)}: {best}, {100 * probabilities_C.max():.1f} %"
            )
            y = (bottom_in + TILE_IN + 0.07) / height_in
            figure.text(LEFT_IN / WIDTH_IN, y, title, fontsize=10)


def _left_in(column: int) -> float:
    return LEFT_IN + column * (TILE_IN + 0.24)


def _add_axes(figure: Figure, left_in: float, bottom_in: float, width_in: float) -> Axes:
    """Return new axes, TILE_IN high."""
    width, height = figure.get_size_inches()
    box = (left_in / width, bottom_in / height, width_in / width, TILE_IN / height)
    return figure.add_axes(box, anchor="W")


def _draw_bars(
    figure: Figure, bottom_in: float, probabilities_C: NDArray[np.float32], names: tuple[str, ...]
) -> None:
    """Draw a bar for each of the likeliest classes, in the order of the classes."""
    shown = np.sort(np.argsort(-probabilities_C, kind="stable")[:NUM_BARS])
    label_in = 0.12 * min(6, max(len(names[place]) for place in shown))
    left_in = LEFT_IN + 3 * (TILE_IN + 0.2) + label_in
    ax = _add_axes(figure, left_in, bottom_in, WIDTH_IN - left_in - 0.15)
    ax.barh([_end(names[place], NUM_NAME) for place in shown], probabilities_C[shown], color=BLUE)
    ax.set(xlim=(0, 1), xticks=[])
    ax.invert_yaxis()
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(length=0, labelsize=7)


def _end(text: str, num_letters: int) -> str:
    """Return the end of a long text."""
    return text if len(text) <= num_letters else f"…{text[1 - num_letters :]}"
