"""The command line: `idxflow run`, `explain`, `show`, `audit-labels`, `datasets`, `recipes`.

Prefect and torch are imported only where a run really starts, so that a question is answered in
milliseconds. Exit codes: 0 success, 1 an error that is told in one message, 2 wrong usage,
130 Ctrl-C.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from flows import console
from flows.environment import prepare_environment
from flows.explain import explain as explain_plan
from flows.plan import DEFAULT, Choice, make_plan
from flows.summary import cached_outcomes, summarize
from pipeline_config.cautions import cautions_of
from pipeline_config.datasets import named_datasets
from pipeline_config.errors import IdxflowError
from pipeline_config.recipe_files import load_recipe, recipe_file, recipe_names
from tasks.runtime.devices import DeviceChoice
from tasks.runtime.stages import StageName

app = typer.Typer(
    name="idxflow",
    help="Raw IDX files in; a validated data set, a trained MLP, a report and a model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
    typer.Option("--classes", min=2, help="The number of classes of a folder.  [default: 10]"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]


@app.command(epilog="Example: idxflow run --dataset mnist --recipe fast --set training.epochs=3")
def run(
    dataset: DatasetOption = "mnist",
    recipe: RecipeOption = DEFAULT,
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    refresh_from: RefreshOption = None,
    source: SourceOption = None,
    classes: ClassesOption = None,
    always: Annotated[
        bool, typer.Option("--always", help="Run the flow even if all is up to date.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Prefect's log too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the pipeline: raw IDX files in, a published model and its report out.

    Stages whose inputs did not change are skipped; if nothing changed at all, nothing is started.
    """
    console.log_to_console()
    choice = _choice(dataset, recipe, device, overrides, refresh_from, source, classes)
    plan = make_plan(choice)
    console.print_cautions(cautions_of(plan.recipe))
    verdicts = explain_plan(plan)
    if always or any(verdict.state != "hit" for verdict in verdicts):
        from flows.launch import launch

        summary = launch(choice, verdicts, verbose=verbose)
    else:
        version = str(verdicts[-1].key)
        summary = summarize(plan.dataset.name, version, cached_outcomes(verdicts))
        console.say("everything is up to date, nothing to run (--always runs the flow regardless)")
    if as_json:
        console.print_json(summary.model_dump(mode="json"))
    else:
        console.print_summary(summary)


@app.command(epilog="Example: idxflow explain --set training.optimizer.learning_rate=0.01")
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
    choice = _choice(dataset, recipe, device, overrides, refresh_from, source, classes)
    verdicts = explain_plan(make_plan(choice))
    if as_json:
        console.print_json([asdict(verdict) for verdict in verdicts])
    else:
        console.print_verdicts(verdicts)


@app.command(epilog="Example: idxflow show mnist --split test --index 7")
def show(
    dataset: Annotated[str, typer.Argument(help="A data set's name, or a folder with its files.")],
    split: Annotated[Literal["train", "test"], typer.Option(help="Which rows.")] = "train",
    index: Annotated[int, typer.Option(min=0, help="The image to draw in the terminal.")] = 0,
    source: SourceOption = None,
    classes: ClassesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a data set: dtype, shape, counts per class, a grid of samples as PNG, one image."""
    from flows.view import look_at

    console.log_to_console()
    prepare_environment()
    plan = make_plan(Choice(dataset=dataset, source=source, classes=classes))
    view = look_at(plan, split, index)
    if as_json:
        console.print_json(view.model_dump(mode="json"))
    else:
        console.print_view(view)


@app.command(epilog="Example: idxflow audit-labels mnist --folds 5 --limit 20")
def audit_labels(
    dataset: Annotated[str, typer.Argument(help="A data set's name, or a folder with its files.")],
    folds: Annotated[int, typer.Option(min=2, max=100, help="How often to train.")] = 5,
    recipe: RecipeOption = DEFAULT,
    device: DeviceOption = "auto",
    overrides: SetOption = None,
    source: SourceOption = None,
    classes: ClassesOption = None,
    limit: Annotated[int, typer.Option(min=0, help="How many suspects to print.")] = 20,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Prefect's log too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rank the training rows whose label is likely wrong, by confident learning, with a gallery.

    Trains once for each fold, so it takes that many trainings; what is trained is kept.
    """
    from flows.folds import audited, explain_audit, fold_plans, named_suspects, training_ahead

    console.log_to_console()
    choice = _choice(dataset, recipe, device, overrides, None, source, classes)
    plan = make_plan(choice)
    plans = fold_plans(plan, folds)
    console.print_cautions(cautions_of(plans[0].recipe))
    verdicts, found = explain_audit(plans)
    if found is None:
        from flows.launch import launch_audit

        console.say(training_ahead(plan, verdicts))
        result = launch_audit(choice, folds, verdicts, verbose=verbose)
    else:
        result = audited(plan, found, cached_outcomes(verdicts))
    suspects = named_suspects(plan, result, limit)
    if as_json:
        console.print_json({**result.model_dump(mode="json"), "first": suspects})
    else:
        console.print_audit(result, suspects)


@app.command(epilog="Example: idxflow datasets --json")
def datasets(as_json: JsonOption = False) -> None:
    """List the data sets that have a name: size, sources, default recipe."""
    known = named_datasets().values()
    if as_json:
        console.print_json([dataset.model_dump(mode="json") for dataset in known])
        return
    console.print_datasets(known)
    console.say("Any folder with IDX, CSV or NPZ files is a data set too: --dataset FOLDER")


@app.command(epilog="Example: idxflow recipes fast")
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe whole.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the recipes with what they should score and how long they take, or print one."""
    known = [load_recipe(each) for each in ([name] if name else recipe_names())]
    if as_json:
        console.print_json([recipe.model_dump(mode="json") for recipe in known])
    elif name:
        typer.echo(recipe_file(name).read_text(encoding="utf-8"), nl=False)
        console.print_cautions(cautions_of(known[0]))
    else:
        console.print_recipes(known)


def _choice(
    dataset: str,
    recipe: str,
    device: DeviceChoice,
    overrides: list[str] | None,
    refresh_from: StageName | None,
    source: str | None,
    classes: int | None,
) -> Choice:
    return Choice(
        dataset=dataset,
        recipe=recipe,
        device=device,
        overrides=tuple(overrides or ()),
        refresh_from=refresh_from,
        source=source,
        classes=classes,
    )


def main() -> None:
    """Run the command line; an error of bad input is one message and exit code 1."""
    try:
        app()
    except IdxflowError as error:
        console.print_error(error)
        sys.exit(1)
