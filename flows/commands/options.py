"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.plan import Choice
from pipeline_config.sections import checked
from tasks.runtime.devices import DeviceChoice
from tasks.runtime.stages import StageName

DatasetOption = Annotated[
    str, typer.Option("--dataset", "-d", help="A data set's name, or a folder with its files.")
]
RecipeOption = Annotated[
    str,
    typer.Option("--recipe", "-r", help="A recipe's name or file; 'default': the data set's own."),
]
DeviceOption = Annotated[DeviceChoice, typer.Option("--device", help="Where to train.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change the recipe: training.epochs=3. May be repeated."),
]
RefreshOption = Annotated[
    StageName | None,
    typer.Option("--refresh-from", help="Run this stage and those behind it again."),
]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", help="A folder to try first for the data set's files."),
]
ClassesOption = Annotated[
    int | None,
    typer.Option("--classes", min=2, max=256, help="How many a folder has.  [default: 10]"),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show Prefect's log too.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]


def choice_of(
    dataset: str,
    recipe: str,
    device: DeviceChoice,
    overrides: list[str] | None,
    refresh_from: StageName | None,
    source: str | None,
    classes: int | None,
    force_promote: str | None = None,
) -> Choice:
    """What was asked for, from the options of a command."""
    asked = {
        "dataset": dataset,
        "recipe": recipe,
        "device": device,
        "overrides": tuple(overrides or ()),
        "refresh_from": refresh_from,
        "source": source,
        "classes": classes,
        "force_promote": force_promote,
    }
    return checked(Choice, asked, "what was asked for")
