"""Draws how pictures were read: as they came, their ink, what the model saw, and its answer.

Axes: C classes; h × w pixels of a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tasks.prediction.classifier import Classifier
from tasks.prediction.inputs import KINDS, PICTURE, kind_of
from tasks.prediction.pictures import Form, Picture, path_text, read_picture
from tasks.runtime.errors import ConfigError, RawDataError

# Pictures, bars, the last letters of a file's name, and the first ones of a class's.
NUM_SHOWN, NUM_BARS, NUM_TITLE, NUM_NAME = 6, 10, 60, 10
TITLES = ("as it came", "its ink", "what the model saw")


def draw_explained(path: Path, files: Iterable[Path], classifier: Classifier) -> None:
    """Draw the first pictures among the files as a PNG. Raises ConfigError if there is none."""
    from tasks.evaluation.figures import page

    shown = [*islice(_readable(files, classifier.form), NUM_SHOWN)]
    if not shown:
        found, expected = (
            "no readable picture among the files",
            f"a PNG or JPEG among {KINDS} files",
        )
        remedy = "Leave --explain out: the rows of other files are used as they are."
        raise ConfigError("--explain", found=found, expected=expected, remedy=remedy)
    with page(path, 1.9 * len(shown)) as figure:
        parts = figure.subfigures(len(shown), squeeze=False)[:, 0]
        for part, (file, picture) in zip(parts, shown, strict=True):
            _draw_row(part, file, picture, classifier)


def _readable(files: Iterable[Path], form: Form) -> Iterator[tuple[Path, Picture]]:
    for file in files:
        with suppress(RawDataError):
            if kind_of(file) == PICTURE:
                yield file, read_picture(file, form)


def _draw_row(part: Any, file: Path, picture: Picture, classifier: Classifier) -> None:
    """Draw a picture; of several digits all are named, and the first one's probabilities shown."""
    names, likely_KC = classifier.class_names, classifier.model.probabilities(picture.images_KHW)
    likely_C = likely_KC[0]
    best = ", ".join(f"{names[row.argmax()]} {100 * row.max():.1f} %" for row in likely_KC)
    part.suptitle(f"{path_text(file)[-NUM_TITLE:]}: {best}", fontsize=10)
    shown = picture.grey_hw, picture.ink_hw, np.concatenate(picture.images_KHW, axis=1)
    *tiles, bars = part.subplots(1, 4, width_ratios=(2, 2, 2, 3))
    for ax, title, image_hw in zip(tiles, TITLES, shown, strict=True):
        ax.axis("off")
        if image_hw is not None:
            ax.set_title(title, fontsize=9)
            ax.imshow(image_hw, cmap="gray", vmin=0, vmax=255)
    likeliest = np.sort(np.argsort(-likely_C, kind="stable")[:NUM_BARS])
    bars.barh([names[place][:NUM_NAME] for place in likeliest], likely_C[likeliest])
    bars.set(xlim=(0, 1), xticks=[])
    bars.invert_yaxis()
    bars.set_title("probabilities", fontsize=9)
    bars.tick_params(length=0, labelsize=7)
