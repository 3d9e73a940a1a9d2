"""`idxflow show`, `datasets` and `recipes`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows import console
from flows.cli.run import JsonOption, with_options
from flows.plan import Choice, Plan, make_plan
from pipeline_config.datasets import named_datasets
from pipeline_config.recipe_files import cautions_of, load_recipe, recipe_file, recipe_names
from pipeline_config.sections import ConfigError
from pipeline_config.settings import settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DATASETS = {
    "name": "{name}",
    "what": "{title}",
    "classes": "{num_classes}",
    "MB": "{MB:.1f}",
    "recipe": "{default_recipe}",
    "sources": "{sources}",
}
RECIPES = {
    "recipe": "{name}",
    "accuracy": "{expected.accuracy:.2%}",
    "seconds": "{expected.seconds:.0f}",
    "on": "{expected.dataset}",
    "competes": "{competes}",
    "what": "{description}",
}
# From no ink to full ink.
SHADES = " .:-=+*#%@"


@with_options("source", "classes")
def show(
    dataset: Annotated[str, typer.Argument(help="A data set's name, or a folder.")],
    choice: Choice,
    split: Annotated[Literal["train", "test"], typer.Option(help="Which rows.")] = "train",
    index: Annotated[int, typer.Option(min=0, help="The image to draw in the terminal.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Look at a data set: counts, a grid of samples, one image.

    Prints dtype, shape, rows per class and the image as text, and writes the grid as PNG.
    """
    from flows.server import prepare_environment

    console.log_to_console()
    prepare_environment()
    plan = make_plan(choice.model_copy(update={"dataset": dataset}))
    data = plan.dataset
    images, labels = _read(plan, split)
    if index >= len(images):
        raise ConfigError(
            f"--index {index}",
            found=f"{len(images)} images in {data.name} {split}",
            expected=f"an index from 0 to {len(images) - 1}",
            remedy="Choose a smaller one.",
        )
    view: dict[str, Any] = {
        "dataset": data.name,
        "split": split,
        "dtype": str(images.dtype),
        "shape": images.shape,
        "counts": list(zip(data.class_names, _counts(labels, data.num_classes), strict=True)),
        "index": index,
        "label": data.class_names[int(labels[index])],
        "art": ascii_art(images[index]),
        "grid": str(_draw_grid(plan, split, images, labels)),
    }
    if as_json:
        return console.print_json(view)
    console.line("{dataset} {split}: images {dtype} {shape}".format(**view))
    console.table({"class": "{0}", "count": "{1}"}, view["counts"])
    console.line()
    console.line("image {index}, label {label}".format(**view))
    for row in view["art"].splitlines():
        console.line(row)
    return console.line(f"a grid of samples: {view['grid']}")


def _read(plan: Plan, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images and labels of a split; the raw files are fetched if they are not there."""
    from tasks.raw.idx import read_splits
    from tasks.raw.sources import obtain
    from tasks.runtime.files import root_lock
    from tasks.runtime.stages import FETCH
    from tasks.runtime.store import build

    data = plan.dataset
    with root_lock():
        raw = build(FETCH, {"dataset": data}, lambda folder: obtain(data, plan.source, folder))
    return read_splits(raw.path, data.num_classes, data.title)[split]


def _counts(labels_N: NDArray[np.uint8], num_classes: int) -> list[int]:
    import numpy as np

    counts: list[int] = np.bincount(labels_N, minlength=num_classes).tolist()
    return counts


def ascii_art(image_HW: NDArray[np.uint8]) -> str:
    """Return the image as text, two characters a pixel, since characters are tall."""
    rows = [[SHADES[int(grey) * (len(SHADES) - 1) // 255] for grey in row] for row in image_HW]
    return "\n".join("".join(2 * shade for shade in row).rstrip() for row in rows)


def _draw_grid(
    plan: Plan, split: str, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.uint8]
) -> Path:
    from tasks.evaluation.figures import draw_samples
    from tasks.runtime.files import built_aside

    folder = settings().root / "show" / f"{plan.dataset.name}-{split}"
    with built_aside(folder) as aside:
        names = plan.dataset.class_names
        draw_samples(aside / "samples.png", images_NHW, labels_N.astype(int), names)
    return folder / "samples.png"


def datasets(as_json: JsonOption = False) -> None:
    """List the data sets that have a name.

    With size, default recipe and sources.
    """
    known = list(named_datasets().values())
    if as_json:
        return console.print_json(known)
    rows = [
        {**vars(each), "MB": each.num_bytes / 1e6, "sources": " ".join(each.sources)}
        for each in known
    ]
    console.table(DATASETS, rows)
    return console.say("Any folder with IDX, CSV or NPZ files is one, too: --dataset FOLDER")


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe whole.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the recipes, or print one.

    With the accuracy that each should reach, and how long it takes.
    """
    known = [load_recipe(each) for each in ([name] if name else recipe_names())]
    if as_json:
        console.print_json(known)
    elif name:
        typer.echo(recipe_file(name).read_text(encoding="utf-8"), nl=False)
        console.print_cautions(cautions_of(known[0]))
    else:
        console.table(RECIPES, known)
