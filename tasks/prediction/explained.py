"""What became of the first pictures: as they came, their ink, what the model saw, what it thinks.

Axes: B pictures, H×W pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation.figures import BLUE, GREY, WIDTH_IN, page
from tasks.prediction.classifier import Classifier
from tasks.prediction.inputs import KINDS, PICTURE, kind_of
from tasks.prediction.pictures import Picture, name_of, read_picture
from tasks.runtime.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_SHOWN, NUM_BARS = 6, 10
# Letters of a file's name and of a class's.
NUM_TITLE, NUM_NAME = 60, 10
# A picture's row, its tiles, and what is above them, in inches.
ROW_IN, TILE_IN, HEAD_IN, LEFT_IN = 1.62, 1.22, 0.42, 0.1
TITLES = ("as it came", "its ink", "what the model saw", "probabilities")


def draw_explained(path: Path, files: Iterable[Path], classifier: Classifier) -> None:
    """Draw the first pictures among the files as a PNG; raises ConfigError where there is none."""
    shown = [*islice((file for file in files if kind_of(file) == PICTURE), NUM_SHOWN)]
    if not shown:
        raise ConfigError(
            "--explain",
            found="no picture among the files",
            expected=f"a PNG or JPEG among {KINDS} files",
            remedy="Leave --explain out: the rows of other files are taken as they are.",
        )
    pictures = [read_picture(file, classifier.form) for file in shown]
    probabilities_BC = classifier.model.probabilities(
        np.stack([picture.image_HW for picture in pictures])
    )
    height_in = HEAD_IN + ROW_IN * len(shown)
    with page(path, height_in, layout=None) as figure:
        for column, title in enumerate(TITLES):
            x, y = _left_in(column) / WIDTH_IN, 1 - 0.1 / height_in
            figure.text(x, y, title, va="top", fontsize=9, color=GREY)
        for row, (file, picture, probabilities_C) in enumerate(
            zip(shown, pictures, probabilities_BC, strict=True)
        ):
            bottom_in = height_in - HEAD_IN - (row + 1) * ROW_IN + 0.12
            _draw_row(figure, bottom_in, height_in, picture)
            _draw_bars(figure, bottom_in, height_in, probabilities_C, classifier.class_names)
            best = classifier.class_names[probabilities_C.argmax()]
            title = f"{_short(name_of(file))}: {best}, {100 * probabilities_C.max():.1f} %"
            y = (bottom_in + TILE_IN + 0.07) / height_in
            figure.text(LEFT_IN / WIDTH_IN, y, title, fontsize=10)


def _left_in(column: int) -> float:
    return LEFT_IN + column * (TILE_IN + 0.24)


def _draw_row(figure: Figure, bottom_in: float, height_in: float, picture: Picture) -> None:
    """The three images of a picture; where no ink was looked for, nothing stands in its place."""
    for column, image_hw in enumerate((picture.grey_hw, picture.ink_hw, picture.image_HW)):
        if image_hw is None:
            continue
        box = (
            _left_in(column) / WIDTH_IN,
            bottom_in / height_in,
            TILE_IN / WIDTH_IN,
            TILE_IN / height_in,
        )
        ax = figure.add_axes(box, anchor="W")
        ax.imshow(image_hw, cmap="gray", vmin=0, vmax=255)
        ax.set(xticks=[], yticks=[])


def _draw_bars(
    figure: Figure,
    bottom_in: float,
    height_in: float,
    probabilities_C: NDArray[np.float32],
    names: tuple[str, ...],
) -> None:
    """A bar for each of the likeliest classes, in the order of the classes."""
    shown = np.sort(np.argsort(-probabilities_C, kind="stable")[:NUM_BARS])
    left_in = (
        LEFT_IN + 3 * (TILE_IN + 0.2) + 0.12 * min(6, max(len(names[place]) for place in shown))
    )
    width_in = WIDTH_IN - left_in - 0.15
    box = (left_in / WIDTH_IN, bottom_in / height_in, width_in / WIDTH_IN, TILE_IN / height_in)
    ax = figure.add_axes(box)
    ax.barh([_short(names[place], NUM_NAME) for place in shown], probabilities_C[shown], color=BLUE)
    ax.set(xlim=(0, 1), xticks=[])
    ax.invert_yaxis()
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(length=0, labelsize=7)


def _short(text: str, num_letters: int = NUM_TITLE) -> str:
    """The end of a long text."""
    return text if len(text) <= num_letters else f"…{text[1 - num_letters :]}"
