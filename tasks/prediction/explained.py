"""Draws how the first pictures were read: in grey, their ink, what the model sees, its answer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.figure import SubFigure

from tasks.evaluation.figures import page
from tasks.prediction.answers import Classifier
from tasks.prediction.inputs import KINDS, PICTURE, kind_of
from tasks.prediction.pictures import path_text, read_picture
from tasks.runtime.errors import ConfigError

NUM_SHOWN, NUM_BARS = 6, 10
# The letters of a file's name and of a class's name.
NUM_TITLE, NUM_NAME = 60, 10
TITLES = ("as it came", "its ink", "what the model saw")


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
    with page(path, 1.9 * len(shown)) as figure:
        parts = figure.subfigures(len(shown), squeeze=False)[:, 0]
        for part, file in zip(parts, shown, strict=True):
            _draw_row(part, file, classifier)


def _draw_row(part: SubFigure, file: Path, classifier: Classifier) -> None:
    names, picture = classifier.class_names, read_picture(file, classifier.form)
    (likely_C,) = classifier.model.probabilities(picture.image_HW[np.newaxis])
    best = f"{names[likely_C.argmax()]}, {100 * likely_C.max():.1f} %"
    part.suptitle(f"{_end(path_text(file), NUM_TITLE)}: {best}", fontsize=10)
    *tiles, bars = part.subplots(1, 4, width_ratios=(2, 2, 2, 3))
    for ax, title, image_hw in zip(tiles, TITLES, picture, strict=True):
        ax.axis("off")
        if image_hw is not None:
            ax.set_title(title, fontsize=9)
            ax.imshow(image_hw, cmap="gray", vmin=0, vmax=255)
    likeliest = np.sort(np.argsort(-likely_C, kind="stable")[:NUM_BARS])
    bars.barh([_end(names[place], NUM_NAME) for place in likeliest], likely_C[likeliest])
    bars.set(xlim=(0, 1), xticks=[])
    bars.invert_yaxis()
    bars.set_title("probabilities", fontsize=9)
    bars.tick_params(length=0, labelsize=7)


def _end(text: str, num_letters: int) -> str:
    """Return the end of a long text."""
    return text if len(text) <= num_letters else f"…{text[1 - num_letters :]}"
