"""The command line `idxflow`.

Prefect and torch are imported only where something runs, so that a question is answered in
milliseconds. Exit codes: 0 success, 1 an error, in one message, 2 wrong usage, 3 the gate refused a
model, 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

from typer import Exit, Option, Typer

from flows import console
from flows.cli import data, datasets, models, run, station
from pipeline_config.sections import IdxflowError

app = Typer(
    name="idxflow",
    help="Raw IDX files in; a validated data set, a trained MLP, a report and a model out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (run.app, data.app, models.checks, station.app):
    app.add_typer(group)
app.add_typer(models.app, name="models")
app.add_typer(datasets.app, name="data")


@app.callback(invoke_without_command=True)
def _start(is_wanted: Annotated[bool, Option("--version", help="Print it.")] = False) -> None:
    console.log_to_console()
    if is_wanted:
        console.line(f"idxflow {version('idxflow')}")
        raise Exit


def main() -> None:
    """Run the command line. An error of bad input, or of the operating system, is one message."""
    try:
        app()
    except IdxflowError as error:
        console.print_error(error)
    except (OSError, UnicodeEncodeError) as error:
        what, remedy = " ".join(sys.argv[1:]), "Correct the name, the owner or the disk."
        expected = "words in UTF-8, and files and folders that this user may read and write"
        console.print_error(IdxflowError(what, found=str(error), expected=expected, remedy=remedy))
    sys.exit(1)
