"""The command line `idxflow`: its commands, and what an error of bad input looks like.

Prefect and torch are imported only where something really runs, so that a question is answered in
milliseconds. Exit codes: 0 success, 1 an error that is told in one message, 2 wrong usage, 3 the
gate refused a model, 130 Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from flows import console
from flows.commands import audit, look, models, predict, reproduce, run, upkeep, verify
from pipeline_config.sections import IdxflowError

app = typer.Typer(
    name="idxflow",
    help="Raw IDX files in; a validated data set, a trained MLP, a report and a model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS: tuple[tuple[Callable[..., None], str], ...] = (
    (run.run, "idxflow run --dataset mnist --recipe fast --set training.epochs=3"),
    (run.explain, "idxflow explain --set training.optimizer.learning_rate=0.01"),
    (look.show, "idxflow show mnist --split test --index 7"),
    (audit.audit_labels, "idxflow audit-labels mnist --folds 5 --limit 20"),
    (look.datasets, "idxflow datasets --json"),
    (look.recipes, "idxflow recipes fast"),
    (predict.predict, "idxflow predict photo.png --threshold 0.9"),
    (verify.verify, "idxflow verify champion"),
    (reproduce.reproduce, "idxflow reproduce champion"),
    (upkeep.scrub, "idxflow scrub --json"),
    (upkeep.gc, "idxflow gc --keep 3 --dry-run"),
)
for command, example in COMMANDS:
    app.command(epilog=f"Example: {example}")(command)
app.add_typer(models.app, name="models")


def main() -> None:
    """Run the command line; bad input, or a name or disk that fails, is one message and code 1."""
    try:
        app()
    except IdxflowError as error:
        console.print_error(error)
    except (OSError, UnicodeEncodeError) as error:
        told = IdxflowError(
            str(getattr(error, "filename", None) or " ".join(sys.argv[1:])),
            found=getattr(error, "strerror", None) or str(error),
            expected="words in UTF-8, and files and folders that this user may read and write",
            remedy="Mend the name, the owner or the disk, and run the same command again.",
        )
        console.print_error(told)
    sys.exit(1)
