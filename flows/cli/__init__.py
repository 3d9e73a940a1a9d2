"""The command line `idxflow`.

Prefect and torch are imported only where something runs, so that a question is answered in
milliseconds. Exit codes: 0 success, 1 an error, in one message, 2 wrong usage, 3 the gate refused a
model, 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from flows import console
from flows.cli import checks, data, models, predict, run
from pipeline_config.sections import IdxflowError

app = typer.Typer(
    name="idxflow",
    help="Raw IDX files in; a validated data set, a trained MLP, a report and a model out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (run.run, "idxflow run --dataset mnist --recipe fast --set training.epochs=3"),
    (run.explain, "idxflow explain --set training.optimizer.learning_rate=0.01"),
    (data.show, "idxflow show mnist --split test --index 7"),
    (run.audit_labels, "idxflow audit-labels mnist --folds 5 --limit 20"),
    (data.datasets, "idxflow datasets --json"),
    (data.recipes, "idxflow recipes fast"),
    (predict.predict, "idxflow predict photo.png --threshold 0.9"),
    (checks.verify, "idxflow verify champion"),
    (checks.reproduce, "idxflow reproduce champion"),
    (checks.scrub, "idxflow scrub --json"),
    (checks.gc, "idxflow gc --keep 3 --dry-run"),
)
for command, example in COMMANDS:
    app.command(epilog=f"Example: {example}")(command)
app.add_typer(models.app, name="models")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        console.line(f"idxflow {version('idxflow')}")
        raise typer.Exit


@app.callback()
def _options(
    is_wanted: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. An error of bad input, or of the operating system, is one message."""
    try:
        app()
    except IdxflowError as error:
        console.print_error(error)
    except (OSError, UnicodeEncodeError) as error:
        what = getattr(error, "filename", None) or " ".join(sys.argv[1:])
        found = getattr(error, "strerror", None) or str(error)
        expected = "words in UTF-8, and files and folders that this user may read and write"
        remedy = "Correct the name, the owner or the disk, and run the same command again."
        console.print_error(IdxflowError(what, found=found, expected=expected, remedy=remedy))
    sys.exit(1)
