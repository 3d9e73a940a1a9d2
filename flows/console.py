"""What a person sees: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.explain import Verdict
from flows.summary import Summary
from pipeline_config.errors import IdxflowError

if TYPE_CHECKING:
    from flows.view import View

# No terminal, no colours and no cut lines: what is piped is for a program.
PLAIN_WIDTH = 10_000


def console(*, error: bool = False) -> Console:
    """A console that is plain and wide where no terminal is watching."""
    stream = sys.stderr if error else sys.stdout
    plain = not stream.isatty()
    return Console(
        file=stream, width=PLAIN_WIDTH if plain else None, highlight=False, soft_wrap=plain
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns; without lines and colours where no terminal is."""
    out = console()
    plain = not out.is_terminal
    grid = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        numeric = column in {"seconds", "classes", "MB", "accuracy", "count"}
        grid.add_column(
            column, justify="right" if numeric else "left", no_wrap=plain, overflow="fold"
        )
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    out.print(grid)


def say(message: str) -> None:
    """Print a line for a person, on standard error."""
    console(error=True).print(message, markup=False)


def print_json(content: Any) -> None:
    """Print one JSON value on standard output."""
    print(json.dumps(content, indent=2, ensure_ascii=False))  # noqa: T201


def print_error(error: IdxflowError) -> None:
    """Print the four parts of an error."""
    out = console(error=True)
    out.print(f"[bold red]error[/] {escape(error.what)}")
    out.print(f"  found     {escape(error.found)}")
    out.print(f"  expected  {escape(error.expected)}")
    out.print(f"  → {escape(error.remedy)}")


class _Telling(logging.Handler):
    """Prints each log line as `say` does, above whatever progress bar is on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def log_to_console() -> None:
    """Show our own log lines, which are few, on standard error."""
    for name in ("tasks", "flows"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _Telling) for handler in logger.handlers):
            logger.addHandler(_Telling())
        logger.setLevel(logging.INFO)


def print_summary(summary: Summary) -> None:
    """Print the stages, the headline figures and the paths of report and model."""
    table(
        ("stage", "state", "seconds"),
        [(row["name"], row["state"], f"{row['seconds']:.1f}") for row in summary.stages],
    )
    metrics, out = summary.metrics, console()
    out.print(
        f"\naccuracy on the test split  {metrics['accuracy']:.2%}   "
        f"macro F1 {metrics['macro_f1']:.4f}   loss {metrics['loss']:.4f} nats"
    )
    validated = metrics["validation_accuracy"]
    known = "no validation rows" if validated is None else f"{validated:.2%}"
    out.print(f"validation {known}   untrained {metrics['untrained_accuracy']:.2%}")
    out.print(f"version {summary.version}: {summary.decision}", markup=False)
    out.print(f"report  {summary.bundle}/report.html", markup=False)
    out.print(f"model   {summary.bundle}/model.safetensors", markup=False)


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print what each stage would do; a line for each component of a key that changed."""
    rows: list[tuple[object, ...]] = []
    for verdict in verdicts:
        reason = "changed:" if verdict.changes else verdict.reason
        rows.append((verdict.name, verdict.state, verdict.key or "", reason))
        rows += [("", "", "", str(change)) for change in verdict.changes]
    table(("stage", "state", "key", "why"), rows)


def print_view(view: View) -> None:
    """Print what a data set's split looks like, with one image drawn in characters."""
    out = console()
    out.print(f"{view.dataset} {view.split}: images {view.dtype} {view.shape}", markup=False)
    table(("class", "count"), view.counts)
    out.print(f"\nimage {view.index}, label {view.label}", markup=False)
    out.print(view.art, markup=False, soft_wrap=True)
    out.print(f"a grid of samples: {view.grid}", markup=False)
