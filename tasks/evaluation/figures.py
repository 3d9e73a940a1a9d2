"""The five figures of an evaluation, as PNG: the same input, the same bytes.

Figures are made object by object, never through pyplot, so that nothing of them outlives a call.
The colours are Okabe and Ito's, which colour-blind people can tell apart. Every figure is 960
pixels wide, its letters large enough for a telephone.

Axes: N images, H and W their height and width in pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

WIDTH_IN, DPI = 6.0, 160
ROWS, COLUMNS = 3, 5
BLUE, ORANGE, VERMILION, DARK = "#0072B2", "#E69F00", "#D55E00", "#222222"
ERRORS = LinearSegmentedColormap.from_list("errors", ["#FDEEDF", VERMILION, "#6B2F00"])
RIGHT = ListedColormap(["#D3E4F0"])
# The box of a tile's image and the height of a line of its title.
TILE_IN, LINE_IN = 1.08, 0.18
# Where an axis of scores may start.
STARTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)
# Above this many classes the cells of a confusion matrix are too small for a number.
MAX_NUMBERED = 26
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": DARK,
    "text.parse_math": False,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": DARK,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "xtick.color": DARK,
    "ytick.color": DARK,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "legend.frameon": False,
    "image.cmap": "gray_r",
    "image.interpolation": "nearest",
}


@contextmanager
def _page(
    path: Path, height_in: float, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Figure]:
    """A fresh figure in our style and nobody else's; written to `path` at the end."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout=layout)
        yield figure
        figure.savefig(path, format="png", metadata={"Software": None})


def draw_samples(
    path: Path, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64], names: Sequence[str]
) -> None:
    """Fifteen images under their labels: the first of each class, then the second, and so on."""
    turn_N = np.zeros(len(labels_N), dtype=np.int64)
    for label in np.unique(labels_N):
        rows = labels_N == label
        turn_N[rows] = np.arange(rows.sum())
    chosen = np.lexsort((labels_N, turn_N))[: ROWS * COLUMNS]
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
    with _page(path, height_in, layout=None) as figure:
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


def draw_history(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Loss and validation accuracy over the epochs; the loss alone where nothing was validated."""
    epochs = [line["epoch"] for line in history]
    validated = history[0]["validation_loss"] is not None
    with _page(path, 5.6 if validated else 3.2) as figure:
        panels: list[Axes] = list(
            figure.subplots(1 + validated, 1, squeeze=False, sharex=True).flat
        )

        def plot(ax: Axes, name: str, unit: float, color: str, marker: str, label: str) -> None:
            size = 5 if len(epochs) <= 40 else 0
            values = [unit * line[name] for line in history]
            ax.plot(epochs, values, color=color, marker=marker, markersize=size, label=label)

        for ax in panels:
            ax.grid(axis="y")
        panels[-1].set(xlabel="epoch", xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        plot(panels[0], "train_loss", 1, BLUE, "o", "training, mean over the epoch")
        panels[0].set(ylabel="mean loss per image", title="Loss")
        if validated:
            plot(panels[0], "validation_loss", 1, VERMILION, "s", "validation, after the epoch")
            plot(panels[1], "validation_accuracy", 100, VERMILION, "s", "validation")
            bottom, top = panels[1].get_ylim()
            panels[1].set_ylim(bottom, min(top, 100 + 0.05 * (100 - bottom)))
            panels[1].set(ylabel="accuracy (%)", title="Accuracy on the validation rows")
        panels[0].legend()


def draw_per_class(path: Path, per_class: Sequence[Mapping[str, Any]]) -> None:
    """Precision, recall and F1 of each class as bars; the axis says where it starts."""
    kinds = {"precision": BLUE, "recall": ORANGE, "f1": "#555555"}
    lowest = min(row[kind] for row in per_class for kind in kinds)
    start = max(value for value in STARTS if value == 0 or value < lowest - (1 - lowest) * 0.15)
    positions = np.arange(len(per_class))
    with _page(path, 1.2 + (0.4 if len(per_class) <= 15 else 0.3) * len(per_class)) as figure:
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
        figures.tick_params(length=0, colors="#555555")
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
    with _page(path, 6.4 if numbered else 5.6) as figure:
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
