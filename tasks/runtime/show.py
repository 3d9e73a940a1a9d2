"""What a run shows: its stages' outcomes, artifacts and events in the Prefect UI, a progress bar.

Artifacts and events are created, and Prefect is imported, only inside a Prefect task run.
"""

from __future__ import annotations

import base64
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import rich.progress
from rich.console import Console

from pipeline_config.settings import settings
from tasks.runtime.stages import Change

logger = logging.getLogger(__name__)

State = Literal["ran", "cached", "hit", "miss", "pending"]
# Advances a bar by an amount, and sets the text after it.
Advance = Callable[[int, str], None]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a stage: in a run `ran` or `cached`, in a look `hit`, `miss` or `pending`.

    A pending stage waits for one that would run, and has no key yet.
    """

    name: str
    state: State
    seconds: float
    key: str | None
    path: str | None
    reason: str
    changes: tuple[Change, ...] = ()


_outcomes: ContextVar[dict[str, Outcome] | None] = ContextVar("outcomes", default=None)


@contextmanager
def recording() -> Iterator[dict[str, Outcome]]:
    """Collect the outcomes of all stages inside, in order; a key keeps its first outcome."""
    outcomes: dict[str, Outcome] = {}
    token = _outcomes.set(outcomes)
    try:
        yield outcomes
    finally:
        _outcomes.reset(token)


def record(each: Outcome) -> None:
    """Log an outcome, and add it to those that are being collected."""
    logger.info("%-9s %-6s %6.1f s  %s", each.name, each.state, each.seconds, each.reason)
    outcomes = _outcomes.get()
    if outcomes is not None:
        outcomes.setdefault(f"{each.name}-{each.key}", each)


def confidence_in_words(metrics: Mapping[str, Any]) -> str:
    """Return a sentence on the calibration, from the metrics of an evaluation.

    A calibration error up to what chance alone gives in 95 of 100 test splits is `calibrated`.
    """
    error, chance = metrics["ece"], metrics["ece_expected_95"][1]
    fitted = "not calibrated, though a temperature was fitted" if error > chance else "calibrated"
    kind = fitted if metrics["calibrated"] else "uncalibrated"
    points = f"calibration error {100 * error:.2f} points, where chance alone gives up to"
    return f"{kind}: {points} {100 * chance:.2f}"


def _in_task_run() -> bool:
    if "prefect" not in sys.modules:
        return False
    from prefect.context import TaskRunContext

    return TaskRunContext.get() is not None


def _create(kind: str, key: str, description: str, **content: Any) -> Any:
    """Attach an artifact to this task run and return its id.

    The data set of the flow run ends the key, in lower case with dashes, so that the UI shows each
    data set's artifacts over time.
    """
    if not _in_task_run():
        return None
    from httpx import HTTPError
    from prefect import artifacts
    from prefect.runtime import flow_run

    dataset = str(flow_run.parameters.get("dataset") or "")
    words = re.findall(r"[a-z0-9]+", f"{key} {dataset[-100:]}".lower())
    create = getattr(artifacts, f"create_{kind}_artifact")
    try:
        return create(key="-".join(words), description=description, **content)
    except HTTPError as error:
        # A new client does not repeat a call that a server which starts again has refused.
        logger.warning("%s is not shown in the UI: %s", key, error)
        return None


def show_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Attach a table to this task run."""
    _create("table", key, description, table=[dict(row) for row in rows])


def show_markdown(key: str, markdown: str, description: str) -> None:
    """Attach a text to this task run. The UI removes inline styles and `data:` images."""
    _create("markdown", key, description, markdown=markdown)


def show_image(key: str, path: Path, description: str) -> None:
    """Attach a PNG to this task run, as a `data:` URL, since the server cannot read our files."""
    if _in_task_run():
        encoded = base64.b64encode(path.read_bytes()).decode()
        _create("image", key, description, image_url=f"data:image/png;base64,{encoded}")


def link_to(page: Path) -> str:
    """Return a Markdown link to a page below the root, or its path where no server has it."""
    url = settings().pages_url
    return f"[{page.name}]({url}/{page.relative_to(settings().root)})" if url else f"`{page}`"


def emit(name: str, resource: str, payload: Mapping[str, Any]) -> None:
    """Emit a Prefect event about `resource`, for automations."""
    if _in_task_run():
        from prefect.events import emit_event

        emit_event(name, resource={"prefect.resource.id": resource}, payload=dict(payload))


class ProgressArtifact:
    """A percentage in the Prefect UI, updated after each quarter of the work."""

    def __init__(self, key: str, description: str) -> None:
        self._id = _create("progress", key, description, progress=0.0)
        self._percent = 0

    def show(self, share: float) -> None:
        """Show `share` of the work, 0 to 1, as done."""
        percent = int(100 * share)
        if self._id is not None and percent >= min(self._percent + 25, 100):
            from prefect.artifacts import update_progress_artifact

            self._percent = percent
            update_progress_artifact(self._id, float(percent))


@contextmanager
def progress(title: str, total: int | None, unit: Literal["bytes", "steps"]) -> Iterator[Advance]:
    """Show a progress bar on standard error, if it is a terminal; yields `advance(amount, words)`.

    `total` is None where it is not known.
    """
    sizes = (rich.progress.DownloadColumn(), rich.progress.TransferSpeedColumn())
    bar = rich.progress.Progress(
        "{task.description}",
        rich.progress.BarColumn(bar_width=24),
        *(sizes if unit == "bytes" else (rich.progress.MofNCompleteColumn(),)),
        rich.progress.TimeRemainingColumn(),
        "{task.fields[words]}",
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(title, total=total, words="")
        yield lambda amount, words: bar.update(task, advance=amount, words=words)
