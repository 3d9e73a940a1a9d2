"""What a run shows: artifacts and events in the Prefect UI, a progress bar at a terminal.

Outside a Prefect run no artifact is created. Prefect is imported only inside one.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

# Advances a bar by an amount and sets the words behind it.
Advance = Callable[[int, str], None]


def in_task_run() -> bool:
    """Return whether this code runs inside a Prefect task."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import TaskRunContext

    return TaskRunContext.get() is not None


def confidence_in_words(metrics: Mapping[str, Any]) -> str:
    """Return whether the confidence is calibrated.

    It is where its error is not larger than chance gives in 95 of 100 test splits.
    """
    error, chance = metrics["ece"], metrics["ece_expected_95"][1]
    fitted = "not calibrated, though a temperature was fitted" if error > chance else "calibrated"
    kind = fitted if metrics["calibrated"] else "uncalibrated"
    points = f"calibration error {100 * error:.2f} points, where chance alone gives up to"
    return f"{kind}: {points} {100 * chance:.2f}"


def show_table(key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Attach a table to this task run. `key` is lower case with dashes."""
    if in_task_run():
        from prefect.artifacts import create_table_artifact

        create_table_artifact(key=key, table=[dict(row) for row in rows], description=description)


def show_markdown(key: str, markdown: str, description: str) -> None:
    """Attach a text to this task run. The UI removes inline styles and `data:` images."""
    if in_task_run():
        from prefect.artifacts import create_markdown_artifact

        create_markdown_artifact(key=key, markdown=markdown, description=description)


def show_image(key: str, path: Path, description: str) -> None:
    """Attach a PNG to this task run, inlined, since a server cannot read our files."""
    if in_task_run():
        from prefect.artifacts import create_image_artifact

        encoded = base64.b64encode(path.read_bytes()).decode()
        url = f"data:image/png;base64,{encoded}"
        create_image_artifact(key=key, image_url=url, description=description)


def emit(name: str, resource: str, payload: Mapping[str, Any]) -> None:
    """Emit a Prefect event about `resource`, for automations."""
    if in_task_run():
        from prefect.events import emit_event

        emit_event(name, resource={"prefect.resource.id": resource}, payload=dict(payload))


class ProgressArtifact:
    """A percentage in the Prefect UI, sent for every quarter of the work."""

    def __init__(self, key: str, description: str) -> None:
        self._id: UUID | None = None
        self._percent = 0
        if in_task_run():
            from prefect.artifacts import create_progress_artifact

            self._id = create_progress_artifact(  # type: ignore[assignment]
                0.0, key=key, description=description
            )

    def show(self, share: float) -> None:
        """Show `share` of the work, 0 to 1, as done."""
        percent = int(100 * share)
        if self._id is not None and percent >= min(self._percent + 25, 100):
            from prefect.artifacts import update_progress_artifact

            self._percent = percent
            update_progress_artifact(self._id, float(percent))


@contextmanager
def progress(title: str, total: int | None, unit: Literal["bytes", "steps"]) -> Iterator[Advance]:
    """Show a progress bar on standard error; yields `advance(amount, words)`.

    `total` is None where it is not known. Without a terminal nothing is printed.
    """
    counts: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn()]
    )
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        *counts,
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(title, total=total, words="")
        yield lambda amount, words: bar.update(task, advance=amount, words=words)
