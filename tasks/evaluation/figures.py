"""Figures of classes, epochs and images as PNG: the same input, the same bytes.

Figures are made without pyplot, which keeps state between calls. The colours are Okabe and Ito's,
which colour-blind people can tell apart. Every figure is 960 pixels wide, readable on a telephone.

Axes: N images, H and W their height and width in pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tasks.dataset.table import first_of_each_class
from tasks.evaluation.metrics import Labels, Metrics, Probabilities

WIDTH_IN, DPI = 6.0, 160
BLUE, ORANGE, VERMILION, DARK = "#0072B2", "#E69F00", "#D55E00", "#222222"
GREEN, GREY = "#009E73", "#555555"
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
ERRORS = LinearSegmentedColormap.from_list("errors", ["#FDEEDF", VERMILION, "#6B2F00"])
RIGHT = ListedColormap(["#D3E4F0"])
STARTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)  # of an axis of scores
# With more classes the cells of a confusion matrix are too small for a number; with more epochs
# the marks of a curve touch.
MAX_NUMBERED, MAX_MARKED = 26, 40
NUM_TILES, COLUMNS = 15, 5  # of images
# The box of an image and the height of a line of its title.
TILE_IN, LINE_IN = 1.08, 0.18

Images = NDArray[np.uint8]


@contextmanager
def page(path: Path, height_in: float, layout: Any = "constrained") -> Iterator[Figure]:
    """Yield a new figure in our style alone; it is written to `path` at the end."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout=layout)
        yield figure
        figure.savefig(path, format="png", metadata={"Software": None})


def draw_per_class(path: Path, per_class: list[Metrics]) -> None:
    """Draw precision, recall and F1 of each class as bars. The label of the axis has its start."""
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
    """Draw counts, with errors coloured by their share of the true class.

    The diagonal has a colour of its own: on one scale with it no error would be visible.
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


def draw_history(path: Path, history: list[Metrics]) -> None:
    """Draw loss and validation accuracy over the epochs, or the loss alone without validation."""
    validated = history[0]["validation_loss"] is not None
    training = {"color": BLUE, "marker": "o", "label": "training, mean over the epoch"}
    validation = {"color": VERMILION, "marker": "s", "label": "validation, after the epoch"}
    with page(path, 5.6 if validated else 3.2) as figure:
        panels = figure.subplots(1 + validated, 1, squeeze=False, sharex=True)[:, 0]
        _plot(panels[0], history, "train_loss", **training)
        if validated:
            _plot(panels[0], history, "validation_loss", **validation)
            _plot(panels[1], history, "validation_accuracy", **validation)
            panels[1].set(ylabel="accuracy (%)", title="Accuracy on the validation rows")
        panels[0].set(ylabel="mean loss per image", title="Loss")
        panels[0].legend()
        panels[-1].set(xlabel="epoch")


def draw_test_curve(path: Path, curve: list[Metrics]) -> None:
    """Draw accuracy and loss on the test split after each epoch whose weights were kept."""
    with page(path, 5.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        _plot(above, curve, "accuracy", color=GREEN, marker="D")
        above.set(ylabel="accuracy (%)", title="Accuracy on the test split, looked at afterwards")
        _plot(below, curve, "loss", color=GREEN, marker="D")
        below.set(ylabel="mean loss (nats)", title="Loss on the test split", xlabel="epoch")


def _plot(ax: Axes, rows: list[Metrics], name: str, **line: Any) -> None:
    """Plot a column over the epochs, an accuracy in percent; marked where there is room."""
    epochs, is_percent = [row["epoch"] for row in rows], name.endswith("accuracy")
    values = [(100 if is_percent else 1) * row[name] for row in rows]
    ax.plot(epochs, values, markersize=5 if len(epochs) <= MAX_MARKED else 0, **line)
    ax.grid(visible=True, axis="y")
    ax.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if is_percent:
        bottom, top = ax.get_ylim()
        ax.set_ylim(bottom, min(top, 100 + 0.05 * (100 - bottom)))


def draw_samples(path: Path, images_NHW: Images, labels_N: Labels, names: Sequence[str]) -> None:
    """Draw up to fifteen images under their labels, the first of each class first."""
    chosen = first_of_each_class(labels_N, NUM_TILES)
    titles = [names[label] for label in labels_N[chosen]]
    _draw_tiles(path, "Training images and their labels", images_NHW[chosen], titles)


def draw_misclassified(
    path: Path,
    images_NHW: Images,
    labels_N: Labels,
    probabilities_NC: Probabilities,
    names: Sequence[str],
) -> None:
    """Draw up to fifteen errors, titled true vs. predicted, the most confident ones first."""
    predictions_N, confidence_N = probabilities_NC.argmax(axis=1), probabilities_NC.max(axis=1)
    wrong = np.flatnonzero(predictions_N != labels_N)
    chosen = wrong[np.argsort(-confidence_N[wrong], kind="stable")][:NUM_TILES]
    columns = (labels_N[chosen], predictions_N[chosen], confidence_N[chosen])
    title = f"None of the {len(labels_N):,} test images is misclassified"
    if len(wrong):
        count = f"{len(chosen)} of {len(wrong):,} misclassified test images"
        title = f"{count}: true vs. predicted,\nand how sure the model was; the surest first"
    _draw_tiles(path, title, images_NHW[chosen], _titles(zip(*columns, strict=True), "vs.", names))


def draw_suspects(
    path: Path, images_NHW: Images, suspects: list[Metrics], title: str, names: Sequence[str]
) -> None:
    """Draw images whose label is suspect, titled given → suggested, confidence and row."""
    pairs = [(each["label"], each["suggested"], each["confidence"]) for each in suspects]
    titles = zip(_titles(pairs, "→", names), suspects, strict=True)
    _draw_tiles(path, title, images_NHW, [f"{text}\nrow {each['row']}" for text, each in titles])


def _titles(pairs: Iterable[tuple[int, int, float]], sign: str, names: Sequence[str]) -> list[str]:
    """Return two classes, on one line where all names are short, and the confidence of each."""
    space = " " if max(map(len, names)) <= 4 else "\n"
    return [f"{names[a]} {sign}{space}{names[b]}\n{100 * sure:.1f} %" for a, b, sure in pairs]


def _draw_tiles(path: Path, title: str, images_NHW: Images, titles: Sequence[str]) -> None:
    """Draw images row by row in a grid, dark ink on white paper, each under its title.

    Everything is placed in inches: a layout engine would take longer than all the drawing.
    """
    height, width = TILE_IN * np.array(images_NHW.shape[1:]) / max(images_NHW.shape[1:])
    lines = [line for text in titles for line in text.split("\n")]
    size = min(10.0, 150 / max(map(len, lines), default=1))
    above = 0.18 + 0.24 * (1 + title.count("\n"))
    head = 0.08 + LINE_IN * (1 + max((text.count("\n") for text in titles), default=0))
    step = head + height + 0.1
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
            ax.text(x, y - 0.05, text, ha="center", va="bottom", fontsize=size)
        ax.set(xlim=(0, WIDTH_IN), ylim=(height_in, 0))
