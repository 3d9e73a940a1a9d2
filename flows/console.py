"""What a person sees: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.explain import StageStatus
from flows.folds import LabelAudit
from flows.summary import Summary
from pipeline_config.datasets import Dataset
from pipeline_config.recipe import Recipe
from pipeline_config.sections import IdxflowError
from tasks.runtime.errors import GateRefused
from tasks.runtime.show import confidence_in_words

if TYPE_CHECKING:
    from flows.view import View

# No terminal, no colours and no cut lines: what is piped is for a program.
PLAIN_WIDTH = 10_000


def console(*, error: bool = False) -> Console:
    """A console that is plain and wide where no terminal is watching."""
    stream = sys.stderr if error else sys.stdout
    plain = not stream.isatty()
    width = PLAIN_WIDTH if plain else None
    return Console(file=stream, width=width, highlight=False, soft_wrap=plain, emoji=False)


def visible(text: object) -> str:
    """Text in which newlines and all that a terminal acts on are written as escape sequences."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in str(text)
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns; without lines and colours where no terminal is."""
    out = console()
    plain = not out.is_terminal
    grid = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        numeric = column in {"seconds", "classes", "MB", "accuracy", "count", "row"}
        grid.add_column(
            column, justify="right" if numeric else "left", no_wrap=plain, overflow="fold"
        )
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row))
    out.print(grid)


def say(message: str) -> None:
    """Print a line for a person, on standard error."""
    console(error=True).print(visible(message), markup=False)


def print_json(content: Any) -> None:
    """Print one JSON value on standard output."""
    print(json.dumps(content, indent=2, ensure_ascii=False))  # noqa: T201


def print_error(error: IdxflowError) -> None:
    """Print the four parts of an error."""
    head = "[bold yellow]refused[/]" if isinstance(error, GateRefused) else "[bold red]error[/]"
    out = console(error=True)
    out.print(f"{head} {escape(visible(error.what))}")
    out.print(f"  found     {escape(visible(error.found))}")
    out.print(f"  expected  {escape(visible(error.expected))}")
    out.print(f"  → {escape(visible(error.remedy))}")


def print_cautions(cautions: Sequence[str]) -> None:
    """Print each classic mistake that a recipe makes on purpose, on standard error."""
    out = console(error=True)
    for caution in cautions:
        out.print(f"[bold yellow]caution[/] {escape(visible(caution))}")


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
    second = metrics.get("corrected_accuracy")
    out.print(
        f"confidence {confidence_in_words(metrics)}"
        + (f"   with corrected labels {second:.2%}" if second is not None else "")
    )
    line = f"version {summary.version}, {summary.event}: {summary.decision}"
    out.print(visible(line), markup=False)
    out.print(visible(f"report  {summary.report}"), markup=False)
    out.print(visible(f"model   {summary.bundle}/model.safetensors"), markup=False)


def print_datasets(datasets: Iterable[Dataset]) -> None:
    """Print a line for each data set; at a terminal each source has a line of its own."""
    between = "\n" if sys.stdout.isatty() else " "
    table(
        ("name", "what", "classes", "MB", "recipe", "sources"),
        [
            (
                dataset.name,
                dataset.title,
                dataset.num_classes,
                f"{dataset.num_bytes / 1e6:.1f}",
                dataset.default_recipe,
                Text(between.join(dataset.sources)),
            )
            for dataset in datasets
        ],
    )


def print_recipes(recipes: Iterable[Recipe]) -> None:
    """Print a line for each recipe, with what it should score and how long it takes."""
    table(
        ("recipe", "accuracy", "seconds", "on", "competes", "what"),
        [
            (
                recipe.name,
                f"{recipe.expected.accuracy:.2%}" if recipe.expected else "",
                f"{recipe.expected.seconds:.0f}" if recipe.expected else "",
                recipe.expected.dataset if recipe.expected else "",
                "yes" if recipe.competes else "no",
                recipe.description,
            )
            for recipe in recipes
        ],
    )


def print_audit(audit: LabelAudit, suspects: Sequence[Mapping[str, Any]]) -> None:
    """Print the first suspects, how many there are, and where all of it lies."""
    table(
        ("row", "label", "suggested", "confidence", "self-confidence"),
        [
            (
                row["row"],
                row["label"],
                row["suggested"],
                f"{row['confidence']:.2%}",
                f"{row['self_confidence']:.2%}",
            )
            for row in suspects
        ],
    )
    out = console()
    out.print(
        f"\n{audit.num_suspects:,} of {audit.num_rows:,} training labels are suspect; about "
        f"{audit.estimated_errors:,.0f} are estimated to be wrong"
    )
    out.print(f"out-of-fold accuracy {audit.out_of_fold_accuracy:.2%} ({audit.num_folds} folds)")
    for name in ("suspects", "noise", "gallery"):
        out.print(visible(f"{name:<9} {getattr(audit, name)}"), markup=False)


def print_statuses(statuses: Sequence[StageStatus]) -> None:
    """Print what each stage would do; a line for each component of a key that changed."""
    rows: list[tuple[object, ...]] = []
    for status in statuses:
        reason = "changed:" if status.changes else status.reason
        rows.append((status.name, status.state, status.key or "", reason))
        rows += [("", "", "", str(change)) for change in status.changes]
    table(("stage", "state", "key", "why"), rows)


def print_view(view: View) -> None:
    """Print what a data set's split looks like, with one image drawn in characters."""
    out = console()
    head = f"{view.dataset} {view.split}: images {view.dtype} {view.shape}"
    out.print(visible(head), markup=False)
    table(("class", "count"), view.counts)
    out.print(f"\nimage {view.index}, label {visible(view.label)}", markup=False)
    out.print(view.art, markup=False, soft_wrap=True)
    out.print(visible(f"a grid of samples: {view.grid}"), markup=False)
