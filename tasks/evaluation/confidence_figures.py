"""Figures of confidence (reliability, coverage) and robustness.

Axes: N test rows, B bins of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from tasks.evaluation.calibration import Sureness
from tasks.evaluation.figures import BLUE, DARK, GREY, ORANGE, page
from tasks.evaluation.metrics import Metrics, wilson_interval
from tasks.evaluation.robustness import CHANGES

# Shares that may be marked on an axis, and its upper end.
MARKS, TOP = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999), 0.9999
BAND = "#CFE3F1"
# Bottom, width and height of the two panels: a layout engine would take as long as the drawing.
DIAGRAM_AND_GAPS = ((0.42, 0.785, 0.505), (0.065, 0.785, 0.25))

# Label, colour and marker, and the bins: confidence, accuracy and the bounds of its interval.
Curve: TypeAlias = tuple[str, str, str, NDArray[np.float64]]


def draw_reliability(path: Path, metrics: Metrics) -> None:
    """Draw accuracy against confidence bin by bin, and their difference below.

    With and without the temperature, or once where none was fitted. The axes of the diagram are
    stretched towards 100 %, where a good classifier has nearly all its rows.
    """
    after_4B = _columns(metrics["reliability"])
    curves = [("uncalibrated (T = 1)", BLUE, "o", after_4B)]
    if metrics["calibrated"]:
        before = ("before (T = 1)", ORANGE, "s", _columns(metrics["reliability_before"]))
        curves = [before, (f"after (T = {metrics['temperature']:.2f})", BLUE, "o", after_4B)]
    sizes = sorted({row["num_rows"] for row in metrics["reliability"]})
    of_size = f"{' or '.join(f'{size:,}' for size in sizes)} test image{'s' * (sizes[-1] > 1)}"
    with page(path, 8.4, layout=None) as figure:
        diagram, gaps = (figure.add_axes((0.165, *box)) for box in DIAGRAM_AND_GAPS)
        _draw_diagram(diagram, curves)
        _draw_gaps(gaps, curves)
        diagram.set_title(f"Reliability: {after_4B.shape[1]} bins of {of_size}")
        gaps.set_title("Accuracy minus confidence, bin by bin, with 95 % intervals")
        figure.legend(*diagram.get_legend_handles_labels(), loc="upper left", ncols=2)


def _columns(bins: list[Metrics]) -> NDArray[np.float64]:
    names = ("confidence", "accuracy", "accuracy_interval_95")
    return np.array([np.hstack([row[name] for name in names]) for row in bins]).T


def _draw_diagram(ax: Axes, curves: list[Curve]) -> None:
    """Draw accuracy against confidence on logit axes, with Wilson intervals and the diagonal."""
    lowest = min(bins_4B[:2].min() for *_, bins_4B in curves)
    bottom = max([mark for mark in MARKS[:4] if mark <= 0.8 * lowest], default=MARKS[0])
    ax.plot([bottom, TOP], [bottom, TOP], color=GREY, linestyle="--", linewidth=1)
    for label, color, marker, bins_4B in curves:
        x, y, low, high = np.clip(bins_4B, bottom, TOP)
        ax.vlines(x, low, high, color=color, linewidth=1.2, alpha=0.6)
        ax.plot(x, y, marker, color=color, markersize=6, label=label, clip_on=False)
    marks = [mark for mark in (*MARKS, TOP) if mark >= bottom]
    for axis, name in ((ax.xaxis, "x"), (ax.yaxis, "y")):
        ax.set(**{f"{name}scale": "logit", f"{name}lim": (bottom, TOP)})
        axis.set_minor_locator(NullLocator())
        axis.set_ticks(marks, [*(f"{100 * mark:g}" for mark in marks[:-1]), f"≥{100 * TOP:g}"])
    ax.grid()
    ax.set(xlabel="how sure: mean confidence (%)", ylabel="how often right: accuracy (%)")
    ax.text(0.03, 0.95, "too modest", transform=ax.transAxes, color=GREY, va="top")
    ax.text(0.97, 0.05, "too sure", transform=ax.transAxes, color=GREY, ha="right")


def _draw_gaps(ax: Axes, curves: list[Curve]) -> None:
    """Draw accuracy less confidence in percentage points, with the intervals."""
    width, bins_B = 0.8 / len(curves), np.arange(1, curves[0][3].shape[1] + 1)
    for place, (_, color, _, bins_4B) in enumerate(curves):
        x = bins_B + (place - (len(curves) - 1) / 2) * width
        gaps, low, high = 100 * (bins_4B[1:] - bins_4B[0])
        ax.bar(x, gaps, width, color=color)
        ax.vlines(x, low, high, color=DARK, linewidth=1)
    ax.axhline(0, color=GREY, linewidth=1)
    ax.grid(axis="y")
    ax.set_xticks(bins_B)
    ax.set(xlabel="bin, from the least sure to the surest", ylabel="percentage points")


def draw_coverage(path: Path, sure: Sureness, marked: Metrics) -> None:
    """Draw the accuracy on the most confident rows against their share, with a 95 % Wilson band.

    `marked` is the row of `coverage` that is marked.
    """
    num_rows = len(sure.right_N)
    # At most 400 counts. The left end is left out, where single rows make the curve noisy.
    fewest = max(1, num_rows // 20)
    counts = np.unique(np.linspace(fewest - 1, num_rows - 1, 400).round().astype(np.int64)) + 1
    num_right = np.cumsum(sure.right_N[::-1])[counts - 1]
    shares, accuracy = 100 * counts / num_rows, 100 * num_right / counts
    pairs = zip(num_right.tolist(), counts.tolist(), strict=True)
    bounds = 100 * np.array([wilson_interval(*pair) for pair in pairs])
    with page(path, 4.0, layout=None) as figure:
        ax = figure.add_axes((0.165, 0.14, 0.785, 0.69))
        ax.fill_between(shares, *bounds.T, color=BAND, linewidth=0, label="95 % interval")
        ax.plot(shares, accuracy, color=BLUE, linewidth=2, label="accuracy")
        x, y = 100 * marked["coverage"], 100 * marked["accuracy"]
        ax.plot([x], [y], color=ORANGE, marker="o", markersize=8, linestyle="", clip_on=False)
        ax.set_title(f"On the surest {x:g} % of the test images: {y:.2f} % right")
        ax.set_xlim(min(shares[0], 50), 100)
        ax.set_ylim(top=min(100.0, ax.get_ylim()[1]))
        ax.yaxis.set_major_locator(MaxNLocator(6))
        ax.set(xlabel="share of the test images answered, the surest first (%)")
        ax.set(ylabel="accuracy on them (%)")
        ax.grid()
        figure.legend(*ax.get_legend_handles_labels(), loc="upper left", ncols=2)


def draw_robustness(path: Path, rows: list[Metrics]) -> None:
    """Draw the accuracy on changed validation rows, a panel for each change."""
    clean = 100 * next(row["accuracy"] for row in rows if row["change"] == "none")
    with page(path, 5.0) as figure:
        panels = figure.subplots(2, 4, sharey=True).ravel()
        for ax, (name, (_, unit, strengths)) in zip(panels, CHANGES.items(), strict=True):
            values = [100 * row["accuracy"] for row in rows if row["change"] == name]
            ax.axhline(clean, color=GREY, linestyle="--", linewidth=1)
            ax.plot(range(len(strengths)), values, "o-", color=BLUE, markersize=5)
            ax.set_xticks(range(len(strengths)), [f"{strength:g}" for strength in strengths])
            ax.set_title(name, fontsize=10)
            ax.set_xlabel(unit, fontsize=8)
            ax.set_ylim(0, 104)
            ax.grid(axis="y")
        for ax in panels[::4]:
            ax.set_ylabel("accuracy (%)", fontsize=9)
