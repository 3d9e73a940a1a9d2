"""Printing: results on standard output, everything else on standard error.

Every text from a file or a user is made `visible` first.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import to_json
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline_config.sections import IdxflowError
from tasks.runtime.errors import GateRefused

# How fields are printed, by the end of their names. Shares are percentages.
SHARES = ("accuracy", "accuracy_interval_95", "confidence", "probability")
FORMATS = {"seconds": ".1f", "num_bytes": ",", "count": ",", "time": ".16", "made": ".10"}
FORMATS |= {"free_bytes": ",", "age_days": ".1f"}
# The words for a field whose name is not one.
WORDS = {"accuracy_interval_95": "95 % interval", "num_bytes": "bytes", "num_classes": "classes"}
# Columns that are not wrapped.
WHOLE = {"version", "recipe", "name", "state", "key", "accuracy", "made", "time"}


def console(*, error: bool = False) -> Console:
    """Return a console. Without a terminal it is plain, and cuts no lines: a program reads them."""
    stream = sys.stderr if error else sys.stdout
    plain: Any = {} if stream.isatty() else {"width": 10_000, "soft_wrap": True}
    return Console(file=stream, markup=False, highlight=False, emoji=False, **plain)


def visible(text: object) -> str:
    """Return text whose newlines and control characters are written as escape sequences."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text)
    )


def cell(name: str, value: Any) -> str:
    """Return the value of a field as text, in the format that the field's name has."""
    if isinstance(value, tuple):
        return " ".join(cell(name, part) for part in value)
    if value is None or isinstance(value, bool):
        return {None: "", True: "yes", False: "no"}[value]
    number = ".2%" if name.endswith(SHARES) else ".4f"
    return visible(format(value, FORMATS.get(name, number if isinstance(value, float) else "")))


def table(columns: str, rows: Iterable[Any]) -> None:
    """Print rows. At a narrow terminal long texts wrap, versions do not.

    `columns` are the names of fields. A row is a mapping or a model, or a tuple of its cells.
    """
    out = console()
    plain = not out.is_terminal
    style: Any = {"pad_edge": False, "show_edge": False, "padding": (0, 1, 0, 0)}
    grid = Table(box=None if plain else box.SIMPLE_HEAD, **style)
    names = columns.split()
    for name in names:
        justify: Any = "right" if name in FORMATS else "left"
        whole = plain or name in WHOLE
        grid.add_column(_heading(name), justify=justify, no_wrap=whole, overflow="fold")
    for row in rows:
        fields = dict(zip(names, row, strict=True) if isinstance(row, tuple) else row)
        grid.add_row(*(Text(cell(name, fields[name])) for name in names))
    if grid.rows:
        out.print(grid)
    else:
        say("nothing to list")


def _heading(name: str) -> str:
    return WORDS.get(name, name.replace("_", " "))


def facts(names: str, fields: Mapping[str, Any]) -> None:
    """Print fields, each on a line. Those that are None are left out."""
    for name in names.split():
        if fields[name] is not None:
            line(f"{_heading(name):<20} {cell(name, fields[name])}")


def show(content: Any, as_json: bool, columns: str, rows: Iterable[Any] | None = None) -> None:
    """Print content as JSON; or as a table of `rows`, by default of the content itself."""
    if as_json:
        print_json(content)
    else:
        table(columns, content if rows is None else rows)


def line(text: str) -> None:
    """Print a line of a result, on standard output."""
    console().print(visible(text), soft_wrap=True)


def say(message: str, head: str = "", style: str = "") -> None:
    """Print a line on standard error, perhaps after a coloured head."""
    console(error=True).print(Text.assemble((head, style), visible(message)))


def is_terminal() -> bool:
    """Return whether a person sees what is printed."""
    return sys.stdout.isatty()


def print_json(content: Any) -> None:
    """Print one JSON value on standard output; models and dataclasses become objects."""
    print(to_json(content, indent=2).decode())  # noqa: T201


def print_error(error: IdxflowError) -> None:
    """Print the four parts of an error."""
    is_refusal = isinstance(error, GateRefused)
    say(error.what, *(("refused ", "bold yellow") if is_refusal else ("error ", "bold red")))
    say(error.found, "  found     ")
    say(error.expected, "  expected  ")
    say(error.remedy, "  → ")


def print_cautions(cautions: Iterable[str]) -> None:
    """Print the cautions about a recipe on standard error."""
    for caution in cautions:
        say(caution, "caution ", "bold yellow")


class _Printer(logging.Handler):
    """Prints each log line on standard error, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


PRINTER = _Printer()


def log_to_console() -> None:
    """Print our own log lines on standard error."""
    for name in ("tasks", "flows"):
        logging.getLogger(name).addHandler(PRINTER)
        logging.getLogger(name).setLevel(logging.INFO)
