"""`idxflow show`, `datasets` and `recipes`: looking at what there is."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from flows import console
from flows.commands.options import ClassesOption, JsonOption, SourceOption
from flows.environment import prepare_environment
from flows.plan import Choice, make_plan
from pipeline_config.datasets import named_datasets
from pipeline_config.recipe_files import cautions_of, load_recipe, recipe_file, recipe_names


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


def datasets(as_json: JsonOption = False) -> None:
    """List the data sets that have a name: size, sources, default recipe."""
    known = named_datasets().values()
    if as_json:
        console.print_json([dataset.model_dump(mode="json") for dataset in known])
        return
    console.print_datasets(known)
    console.say("Any folder with IDX, CSV or NPZ files is a data set too: --dataset FOLDER")


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
