"""`idxflow audit-labels`: which training labels are likely wrong."""

from __future__ import annotations

from typing import Annotated

import typer

from flows import console
from flows.commands.options import (
    ClassesOption,
    DeviceOption,
    JsonOption,
    RecipeOption,
    SetOption,
    SourceOption,
    VerboseOption,
    choice_of,
)
from flows.plan import DEFAULT, make_plan
from flows.summary import cached_outcomes
from pipeline_config.recipe_files import cautions_of


def audit_labels(
    dataset: Annotated[str, typer.Argument(help="A data set's name, or a folder with its files.")],
    folds: Annotated[int, typer.Option(min=2, max=100, help="How often to train.")] = 5,
    recipe: RecipeOption = DEFAULT,
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    source: SourceOption = None,
    classes: ClassesOption = None,
    limit: Annotated[int, typer.Option(min=0, help="How many suspects to print.")] = 20,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rank the training rows whose label is likely wrong, by confident learning, with a gallery.

    Trains once for each fold, so it takes that many trainings; what is trained is kept.
    """
    from flows.folds import audited, explain_audit, fold_plans, named_suspects, training_ahead

    console.log_to_console()
    choice = choice_of(dataset, recipe, device, overrides, None, source, classes)
    plan = make_plan(choice)
    plans = fold_plans(plan, folds)
    console.print_cautions(cautions_of(plans[0].recipe))
    statuses, found = explain_audit(plans)
    if found is None:
        from flows.launch import launch_audit

        console.say(training_ahead(plan, statuses))
        result = launch_audit(choice, folds, statuses, verbose=verbose)
    else:
        result = audited(plan, found, cached_outcomes(statuses))
    suspects = named_suspects(plan, result, limit)
    if as_json:
        console.print_json({**result.model_dump(mode="json"), "first": suspects})
    else:
        console.print_audit(result, suspects)
