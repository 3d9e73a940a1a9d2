"""Figures of confidence: does the model know what it knows?

Axes: N test rows, B bins of them, the least sure first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from tasks.evaluation.calibration import Sureness
from tasks.evaluation.figure_page import BLUE, DARK, GREY, ORANGE, page
from tasks.evaluation.metrics import wilson_interval

# Shares that may be marked on an axis, and the ends that it may have.
MARKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
TOP = 0.9999
BAND = "#CFE3F1"
# Bottom, width and height of the two panels: a layout engine would take as long as the drawing.
DIAGRAM_AND_GAPS = ((0.42, 0.785, 0.505), (0.065, 0.785, 0.25))

Bins = Sequence[dict[str, Any]]


def draw_reliability(path: Path, metrics: dict[str, Any]) -> None:
    """Above, accuracy against confidence bin by bin; below, the difference of the two.

    Before and after the temperature, or once where there is none. The axes of the diagram stretch
    towards 100 %, where a good classifier has nearly all its rows.
    """
    after = metrics["reliability"]
    if metrics["calibrated"]:
        before = ("before (T = 1)", ORANGE, "s", metrics["reliability_before"])
        series = [before, (f"after (T = {metrics['temperature']:.2f})", BLUE, "o", after)]
    else:
        series = [("uncalibrated (T = 1)", BLUE, "o", after)]
    with page(path, 8.4, layout=None) as figure:
        diagram, gaps = (figure.add_axes((0.165, *box)) for box in DIAGRAM_AND_GAPS)
        _draw_diagram(diagram, series)
        _draw_gaps(gaps, series)
        diagram.set_title(f"Reliability: {_sizes(after)}")
        gaps.set_title("Accuracy minus confidence, bin by bin, with 95 % intervals")
        figure.legend(*diagram.get_legend_handles_labels(), loc="upper left", ncols=2)


def _sizes(bins: Bins) -> str:
    few, many = min(row["num_rows"] for row in bins), max(row["num_rows"] for row in bins)
    between = f"{few:,}" if few == many else f"{few:,} or {many:,}"
    return f"{len(bins)} bins of {between} test {'images' if many > 1 else 'image'}"


def _draw_diagram(ax: Axes, series: Sequence[tuple[str, str, str, Bins]]) -> None:
    """Points on the dashed line are as often right as they claim; bars are Wilson's intervals."""
    shares = [
        row[name] for *_, bins in series for row in bins for name in ("accuracy", "confidence")
    ]
    bottom = max(
        [mark for mark in (0.001, *MARKS[1:4]) if mark <= 0.8 * min(shares)], default=0.001
    )
    ax.plot([bottom, TOP], [bottom, TOP], color=GREY, linestyle="--", linewidth=1)
    for label, color, marker, bins in series:
        x, y, low, high = (
            np.clip(values, bottom, TOP)
            for values in (
                [row["confidence"] for row in bins],
                [row["accuracy"] for row in bins],
                [row["accuracy_interval_95"][0] for row in bins],
                [row["accuracy_interval_95"][1] for row in bins],
            )
        )
        ax.vlines(x, low, high, color=color, linewidth=1.2, alpha=0.6)
        ax.plot(
            x, y, color=color, marker=marker, linestyle="", markersize=6, label=label, clip_on=False
        )
    marks = [mark for mark in (*MARKS, TOP) if mark >= bottom]
    for axis, name in ((ax.xaxis, "x"), (ax.yaxis, "y")):
        ax.set(**{f"{name}scale": "logit", f"{name}lim": (bottom, TOP)})
        axis.set_minor_locator(NullLocator())
        axis.set_ticks(marks, [*(f"{100 * mark:g}" for mark in marks[:-1]), f"≥{100 * TOP:g}"])
    ax.grid()
    ax.set(xlabel="how sure: mean confidence (%)", ylabel="how often right: accuracy (%)")
    ax.text(0.03, 0.95, "too modest", transform=ax.transAxes, color=GREY, va="top")
    ax.text(0.97, 0.05, "too sure", transform=ax.transAxes, color=GREY, ha="right")


def _draw_gaps(ax: Axes, series: Sequence[tuple[str, str, str, Bins]]) -> None:
    """Bars in percentage points; a bin below zero is surer than it is right."""
    width = 0.8 / len(series)
    for place, (_, color, _, bins) in enumerate(series):
        offset = (place - (len(series) - 1) / 2) * width
        x = np.arange(1, len(bins) + 1) + offset
        gaps, low, high = (
            [100 * (share - row["confidence"]) for share, row in zip(shares, bins, strict=True)]
            for shares in (
                [row["accuracy"] for row in bins],
                [row["accuracy_interval_95"][0] for row in bins],
                [row["accuracy_interval_95"][1] for row in bins],
            )
        )
        ax.bar(x, gaps, width, color=color)
        ax.vlines(x, low, high, color=DARK, linewidth=1)
    ax.axhline(0, color=GREY, linewidth=1)
    ax.grid(axis="y")
    ax.set_xticks(range(1, len(series[0][3]) + 1))
    ax.set(xlabel="bin, from the least sure to the surest", ylabel="percentage points")


def draw_coverage(path: Path, sure: Sureness, marked: dict[str, Any]) -> None:
    """Accuracy on the surest rows against their share of all; one coverage is marked and named.

    `marked` is a row of `coverage`. The band is Wilson's 95 % interval at each share.
    """
    num_rows = len(sure.right_N)
    counts_N = np.arange(1, num_rows + 1)
    right_N = np.cumsum(sure.right_N[::-1])
    # Single rows at the left end make a noisy start: it is left out.
    shown = _evenly(max(1, num_rows // 20), num_rows)
    shares, accuracy = 100 * counts_N[shown] / num_rows, 100 * right_N[shown] / counts_N[shown]
    bounds = 100 * np.array([wilson_interval(int(right_N[i]), i + 1) for i in shown.tolist()])
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


def _evenly(start: int, stop: int, most: int = 400) -> NDArray[np.int64]:
    """At most `most` whole numbers from start − 1 to stop − 1, evenly spaced, both among them."""
    return np.unique(np.linspace(start - 1, stop - 1, most).round().astype(np.int64))
