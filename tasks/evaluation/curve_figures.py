"""Figures over the epochs: the training as it went, and the test split as it would have seen it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from tasks.evaluation.figure_page import BLUE, GREEN, VERMILION, page

# Above this many epochs a mark for each is a smear.
MAX_MARKED = 40

Line = tuple[str, str, str, str]


def draw_history(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Loss and validation accuracy over the epochs; the loss alone where nothing was validated."""
    validated = history[0]["validation_loss"] is not None
    losses: list[Line] = [("train_loss", BLUE, "o", "training, mean over the epoch")]
    if validated:
        losses.append(("validation_loss", VERMILION, "s", "validation, after the epoch"))
    with page(path, 5.6 if validated else 3.2) as figure:
        panels = list(figure.subplots(1 + validated, 1, squeeze=False, sharex=True).flat)
        _plot(panels[0], history, losses)
        panels[0].set(ylabel="mean loss per image", title="Loss")
        panels[0].legend()
        if validated:
            _plot(panels[1], history, [("validation_accuracy", VERMILION, "s", "")], percent=True)
            panels[1].set(ylabel="accuracy (%)", title="Accuracy on the validation rows")
        panels[-1].set(xlabel="epoch")


def draw_test_curve(path: Path, curve: Sequence[Mapping[str, Any]]) -> None:
    """Accuracy and loss on the test split after each epoch, from the weights that were kept."""
    with page(path, 5.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        _plot(above, curve, [("accuracy", GREEN, "D", "")], percent=True)
        above.set(ylabel="accuracy (%)", title="Accuracy on the test split, looked at afterwards")
        _plot(below, curve, [("loss", GREEN, "D", "")])
        below.set(ylabel="mean loss (nats)", title="Loss on the test split", xlabel="epoch")


def _plot(
    ax: Axes, rows: Sequence[Mapping[str, Any]], lines: Sequence[Line], *, percent: bool = False
) -> None:
    """Lines (name, colour, marker, label) over the rows' epochs; marked where there is room."""
    epochs = [row["epoch"] for row in rows]
    size, unit = 5 if len(epochs) <= MAX_MARKED else 0, 100 if percent else 1
    for name, color, marker, label in lines:
        values = [unit * row[name] for row in rows]
        ax.plot(epochs, values, color=color, marker=marker, markersize=size, label=label)
    ax.grid(axis="y")
    ax.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if percent:
        bottom, top = ax.get_ylim()
        ax.set_ylim(bottom, min(top, 100 + 0.05 * (100 - bottom)))
