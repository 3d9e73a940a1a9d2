"""The page that every figure is drawn on, as PNG: the same input, the same bytes.

Figures are made object by object, never through pyplot, so that nothing of them outlives a call.
The colours are Okabe and Ito's, which colour-blind people can tell apart. Every figure is 960
pixels wide, its letters large enough for a telephone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import matplotlib.style
from matplotlib.figure import Figure

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
def page(
    path: Path, height_in: float, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Figure]:
    """A fresh figure in our style and nobody else's; written to `path` at the end."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout=layout)
        yield figure
        figure.savefig(path, format="png", metadata={"Software": None})
