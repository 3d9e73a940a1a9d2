"""The page of a data set's drift, `monitor/DATASET.html`, and the history that it shows.

Axes: N rows, the R training rows and then the M new images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline_config.drift import drift_limits
from pipeline_config.settings import settings
from tasks.prediction.drift import Answered
from tasks.runtime.files import locked, write_atomically
from tasks.runtime.manifest import Line, append_line, read_chain

NUM_LOOKS, NUM_PICTURES = 60, 12
Names = tuple[str, ...]


class MonitorLine(Line):
    """A line of the history, `monitor/DATASET.jsonl`. `source` is empty for what was kept."""

    time: str
    source: str
    dataset: str
    model: str
    verdict: str
    num_images: int
    num_training_rows: int
    signals: tuple[dict[str, Any], ...]


def read_history(dataset: str) -> list[MonitorLine]:
    """Return the history, oldest first, without damaged lines."""
    lines, _ = read_chain(settings().root / "monitor" / f"{dataset}.jsonl", MonitorLine)
    return [line for line in lines if line is not None]


def write_page(
    look: MonitorLine, labelled: str, parts: list[Answered], unlike_N: NDArray[Any], names: Names
) -> Path:
    """Add a look to the history, write the page, and return its path.

    `parts` are training rows and new images, `unlike_N` how much each looks like a new one, `names`
    those of the classes; `labelled` says what labels that came later show.
    """
    from jinja2 import StrictUndefined, Template

    unlike_R, unlike_M = np.split(unlike_N, [len(parts[0].images_NHW)])
    text = Path(__file__).with_name("monitor.html").read_text(encoding="utf-8")
    style: Any = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
    path = settings().root / "monitor" / f"{look.dataset}.html"
    with locked(f"monitor-{look.dataset}"):
        looks = read_history(look.dataset)
        looks.append(append_line(path.with_suffix(".jsonl"), look, looks[-1] if looks else None))
        page = Template(text, autoescape=True, **style).render(
            look=look,
            labelled=labelled,
            looks=[each for each in looks if each.signals][-NUM_LOOKS:],
            min_rows=drift_limits().min_rows,
            typical=_pictures(parts[0], unlike_R, names),
            unlike=_pictures(parts[1], -unlike_M, names),
            shares=[*zip(names, *(part.shares_C for part in parts), strict=True)],
        )
        write_atomically(path, page.encode())
    return path


def _pictures(part: Answered, order_N: NDArray[Any], names: Names) -> list[tuple[str, str]]:
    """Return the images that are lowest in order as data: URLs, each with its answer."""
    from tasks.dataset.profile import picture_of

    rows, best_N = np.argsort(order_N)[:NUM_PICTURES], part.probabilities_NC.argmax(axis=1)
    sure_N = part.probabilities_NC.max(axis=1)
    return [(picture_of(part.images_NHW[n]), f"{names[best_N[n]]}, {sure_N[n]:.0%}") for n in rows]
