"""Figures of classes: how well each is recognised, and which is taken for which.

Axes: C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, PowerNorm
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tasks.evaluation.figure_page import BLUE, DARK, GREY, ORANGE, VERMILION, page

ERRORS = LinearSegmentedColormap.from_list("errors", ["#FDEEDF", VERMILION, "#6B2F00"])
RIGHT = ListedColormap(["#D3E4F0"])
# Where an axis of scores may start.
STARTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)
# Above this many classes the cells of a confusion matrix are too small for a number.
MAX_NUMBERED = 26


def draw_per_class(path: Path, per_class: Sequence[Mapping[str, Any]]) -> None:
    """Precision, recall and F1 of each class as bars; the axis says where it starts."""
    kinds = {"precision": BLUE, "recall": ORANGE, "f1": GREY}
    lowest = min(row[kind] for row in per_class for kind in kinds)
    start = max(value for value in STARTS if value == 0 or value < lowest - (1 - lowest) * 0.15)
    positions = np.arange(len(per_class))
    with page(path, 1.2 + (0.4 if len(per_class) <= 15 else 0.3) * len(per_class)) as figure:
        ax = figure.subplots()
        for offset, (kind, color) in zip((-0.27, 0.0, 0.27), kinds.items(), strict=True):
            values = np.array([row[kind] for row in per_class])
            label = "F1 (at the right)" if kind == "f1" else kind
            ax.barh(positions + offset, values - start, 0.25, start, color=color, label=label)
        ax.set(xlim=(start, 1), ylim=(len(per_class) - 0.45, -0.55))
        ax.set_yticks(positions, [row["name"] for row in per_class])
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.set_xlabel(f"score (the axis starts at {start:.2f})" if start else "score")
        # The second axis writes the F1 behind the bars.
        figures = ax.secondary_yaxis("right")
        figures.set_yticks(positions, [f"{row['f1']:.3f}" for row in per_class])
        figures.tick_params(length=0, colors=GREY)
        figures.spines["right"].set_visible(False)
        figure.legend(loc="outside upper center", ncols=3)


def draw_confusion(path: Path, matrix_CC: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """Counts; errors coloured by their share of the true class, right answers in a colour apart.

    Right answers are a hundred times as many: on one scale with them no error would be seen.
    """
    counts_CC = np.array(matrix_CC)
    num_classes, num_rows = len(counts_CC), counts_CC.sum()
    right_CC = np.eye(num_classes, dtype=bool)
    percent_CC = 100 * counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    errors_CC = np.ma.masked_where(right_CC | (counts_CC == 0), percent_CC)
    norm = PowerNorm(0.7, vmin=0, vmax=float(errors_CC.max()) if errors_CC.count() else 1.0)
    numbered = num_classes <= MAX_NUMBERED
    with page(path, 6.4 if numbered else 5.6) as figure:
        ax = figure.subplots()
        ax.imshow(np.ma.masked_where(~right_CC, right_CC), cmap=RIGHT)
        picture = ax.imshow(errors_CC, cmap=ERRORS, norm=norm)
        size = min(10.5, 260 / num_classes)
        fits = max(map(len, names)) * 0.7 * size < 340 / num_classes
        ax.set_xticks(range(num_classes), names, rotation=0 if fits else 90, fontsize=size)
        ax.set_yticks(range(num_classes), names, fontsize=size)
        ax.tick_params(length=0)
        ax.set(xlabel="predicted class", ylabel="true class")
        title = f"Confusion matrix: {num_rows - counts_CC.trace():,} of {num_rows:,} wrong"
        if numbered:
            title += "\nthe darker an error, the larger its share of the true class"
            _number_cells(ax, counts_CC, np.asarray(norm(percent_CC)) * ~right_CC)
        else:
            bar = figure.colorbar(picture, ax=ax, shrink=0.7, aspect=30)
            bar.set_label("errors, % of the true class")
        figure.suptitle(title, x=0.02, ha="left", fontsize=11.5)


def _number_cells(ax: Axes, counts_CC: NDArray[np.int64], shade_CC: NDArray[np.float64]) -> None:
    """Write each count that is not 0 into its cell, in white where the shade (0 to 1) is dark."""
    size = min(10.5, 420 / len(counts_CC) / len(str(counts_CC.max())))
    for row, column in np.argwhere(counts_CC).tolist():
        color = "white" if shade_CC[row, column] > 0.5 else DARK
        text = ax.text(column, row, str(counts_CC[row, column]), color=color, fontsize=size)
        text.set(ha="center", va="center", in_layout=False)
