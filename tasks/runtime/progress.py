"""A progress bar for a person at a terminal; silence for a log file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

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

# Move the bar by an amount and set the words behind it.
Advance = Callable[[int, str], None]


@contextmanager
def progress(title: str, total: int | None, unit: Literal["bytes", "steps"]) -> Iterator[Advance]:
    """Show progress on standard error while the block runs; yields `advance(amount, words)`.

    `total` is None where nobody knows it. Nothing is printed where no person watches.
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
