"""Printing: results on standard output, everything else on standard error.

Every text from a file or a user is made `visible` first.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline_config.sections import IdxflowError
from tasks.runtime.errors import GateRefused

# Without a terminal, lines are not cut: their reader is a program.
PLAIN_WIDTH = 10_000
NUMERIC = {"seconds", "classes", "MB", "accuracy", "count", "row"}
WHOLE = {"version", "recipe", "stage", "state", "key", "made (UTC)", "when (UTC)", "accuracy"}


def console(*, error: bool = False) -> Console:
    """Return a console; without a terminal it is plain and wide."""
    stream = sys.stderr if error else sys.stdout
    plain = not stream.isatty()
    width = PLAIN_WIDTH if plain else None
    return Console(file=stream, width=width, highlight=False, soft_wrap=plain, emoji=False)


def visible(text: object) -> str:
    """Return text whose newlines and control characters are written as escape sequences."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text)
    )


def table(columns: Mapping[str, str], rows: Iterable[Any]) -> None:
    """Print rows under their columns. At a narrow terminal long texts wrap, versions do not.

    A column is a format string over a row's fields, such as `{accuracy:.2%}`; a row is a mapping, a
    model, a dataclass or a sequence (`{0}`).
    """
    out = console()
    plain = not out.is_terminal
    grid = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        justify: Any = "right" if name in NUMERIC else "left"
        grid.add_column(name, justify=justify, no_wrap=plain or name in WHOLE, overflow="fold")
    for row in rows:
        values = row if isinstance(row, Sequence) else ()
        fields = row if isinstance(row, Mapping) else getattr(row, "__dict__", {})
        cells = (form.format(*values, **fields) for form in columns.values())
        grid.add_row(*(Text(visible(cell)) for cell in cells))
    out.print(grid)


def line(text: str = "") -> None:
    """Print a line of a result, on standard output."""
    console().print(visible(text), markup=False, soft_wrap=True)


def say(message: str) -> None:
    """Print a line on standard error."""
    console(error=True).print(visible(message), markup=False)


def print_json(content: Any) -> None:
    """Print one JSON value on standard output; models and dataclasses become objects."""
    print(to_json(content, indent=2).decode())  # noqa: T201


def print_error(error: IdxflowError) -> None:
    """Print the four parts of an error."""
    is_refusal = isinstance(error, GateRefused)
    head = Text("refused" if is_refusal else "error", "bold yellow" if is_refusal else "bold red")
    out = console(error=True)
    out.print(head, Text(visible(error.what)))
    for name, words in (("  found    ", error.found), ("  expected ", error.expected)):
        out.print(name, visible(words), markup=False)
    out.print("  →", visible(error.remedy), markup=False)


def print_cautions(cautions: Sequence[str]) -> None:
    """Print the cautions about a recipe on standard error."""
    for caution in cautions:
        console(error=True).print(Text("caution", "bold yellow"), Text(visible(caution)))


class _Printer(logging.Handler):
    """Prints each log line on standard error, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


def log_to_console() -> None:
    """Print our own log lines on standard error."""
    for name in ("tasks", "flows"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _Printer) for handler in logger.handlers):
            logger.addHandler(_Printer())
        logger.setLevel(logging.INFO)
