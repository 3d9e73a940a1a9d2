"""`idxflow run` and `explain`: the pipeline, and what it would do.

Prefect and torch are imported only where a run really starts.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from flows import console
from flows.commands.options import (
    ClassesOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    RecipeOption,
    RefreshOption,
    SetOption,
    SourceOption,
    VerboseOption,
    choice_of,
)
from flows.explain import explain as explain_plan
from flows.plan import DEFAULT, make_plan
from flows.summary import cached_outcomes, summarize
from pipeline_config.recipe_files import cautions_of
from tasks.runtime.errors import GateRefused

# The exit code of a run in which the gate refused the model.
REFUSED = 3


def run(
    dataset: DatasetOption = "mnist",
    recipe: RecipeOption = DEFAULT,
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    refresh_from: RefreshOption = None,
    source: SourceOption = None,
    classes: ClassesOption = None,
    force_promote: Annotated[
        str | None,
        typer.Option(help="Make the model champion whatever the gate says; the reason, in words."),
    ] = None,
    always: Annotated[
        bool, typer.Option("--always", help="Run the flow even if all is up to date.")
    ] = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run the pipeline: raw IDX files in, a published model and its report out.

    Stages whose inputs did not change are skipped; if nothing changed at all, nothing is started.
    Exit code 3: the model is published, and the gate just refused to make it champion.
    """
    console.log_to_console()
    choice = choice_of(
        dataset, recipe, device, overrides, refresh_from, source, classes, force_promote
    )
    plan = make_plan(choice)
    console.print_cautions(cautions_of(plan.recipe))
    statuses = explain_plan(plan)
    refusal = None
    if always or any(status.state != "hit" for status in statuses):
        from flows.launch import launch

        try:
            summary = launch(choice, statuses, verbose=verbose)
        except GateRefused as refused:
            refusal, summary = refused, refused.result
    else:
        version = str(statuses[-1].key)
        summary = summarize(plan.dataset.name, version, cached_outcomes(statuses))
        console.say("everything is up to date, nothing to run (--always runs the flow regardless)")
    if as_json:
        console.print_json(summary.model_dump(mode="json"))
    else:
        console.print_summary(summary)
    if refusal is not None:
        console.print_error(refusal)
        raise typer.Exit(REFUSED)


def explain(
    dataset: DatasetOption = "mnist",
    recipe: RecipeOption = DEFAULT,
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    refresh_from: RefreshOption = None,
    source: SourceOption = None,
    classes: ClassesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say for each stage whether it would run, and which component of its key changed.

    Nothing is run. hit: found intact; miss: would run; pending: waits for a stage that would.
    """
    choice = choice_of(dataset, recipe, device, overrides, refresh_from, source, classes)
    statuses = explain_plan(make_plan(choice))
    if as_json:
        console.print_json([asdict(status) for status in statuses])
    else:
        console.print_statuses(statuses)
