"""`idxflow show`, `recipes`, `predict` and `monitor`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
from typer import Argument, Option, Typer, echo

from flows import console
from flows.cli.run import Data, Json, with_options
from flows.plan import Choice, Plan, make_plan
from pipeline_config.recipe_files import cautions_of, load_recipe, recipe_file, recipe_names
from pipeline_config.sections import ConfigError, checked
from pipeline_config.settings import settings
from tasks.release.registry import known_dataset
from tasks.runtime.files import built_aside, root_lock
from tasks.runtime.stages import FETCH
from tasks.runtime.store import build

# From no ink to full ink.
SHADES = np.array(list(" .:-=+*#%@"))

app = Typer()


@app.command(epilog="Example: idxflow show mnist --split test --index 7")
@with_options("source", "classes")
def show(
    dataset: Data,
    choice: Choice,
    split: Annotated[Literal["train", "test"], Option(help="Which rows.")] = "train",
    index: Annotated[int, Option(min=0, help="The image to draw in the terminal.")] = 0,
    as_json: Json = False,
) -> None:
    """Look at a data set: counts, a grid of samples, one image.

    Prints dtype, shape, rows per class and the image as text, and writes the grid as PNG.
    """
    view = _view(make_plan(choice.model_copy(update={"dataset": dataset})), split, index)
    if as_json:
        return console.print_json(view)
    console.line("{dataset} {split}: images {dtype} {shape}".format(**view))
    console.table("class count", view["counts"])
    for row in view["art"].splitlines():
        console.line(row)
    return console.facts("index label grid", view)


def _view(plan: Plan, split: str, index: int) -> dict[str, Any]:
    """Draw the grid of a split, and return what `show` prints. Raw files are fetched if needed."""
    from tasks.evaluation.figures import draw_samples
    from tasks.raw.idx import read_splits
    from tasks.raw.sources import obtain

    data = plan.dataset
    with root_lock():
        raw = build(FETCH, {"dataset": data}, lambda folder: obtain(data, plan.source, folder))
    images, labels = read_splits(raw.path, data.num_classes, data.title)[split]
    if index >= len(images):
        found = f"{len(images)} images in {data.name} {split}"
        raise ConfigError(f"--index {index}", found=found, expected=f"from 0 to {len(images) - 1}")
    folder = settings().root / "show" / f"{data.name}-{split}"
    with built_aside(folder) as aside:
        draw_samples(aside / "samples.png", images, labels.astype(int), data.class_names)
    # Two characters a pixel, since characters are tall.
    art = SHADES[images[index].astype(int) * (len(SHADES) - 1) // 255].repeat(2, axis=1)
    return {
        "dataset": data.name,
        "split": split,
        "dtype": str(images.dtype),
        "shape": images.shape,
        "counts": [(name, int((labels == k).sum())) for k, name in enumerate(data.class_names)],
        "index": index,
        "label": data.class_names[int(labels[index])],
        "art": "\n".join("".join(row).rstrip() for row in art),
        "grid": str(folder / "samples.png"),
    }


@app.command(epilog="Example: idxflow recipes fast")
def recipes(
    name: Annotated[str | None, Argument(help="Print this recipe whole.")] = None,
    as_json: Json = False,
) -> None:
    """List the recipes and what they should score, or print one."""
    known = [load_recipe(each) for each in ([name] if name else recipe_names())]
    if name and not as_json:
        echo(recipe_file(name).read_text(encoding="utf-8"), nl=False)
        return console.print_cautions(cautions_of(known[0]))
    rows = [{**vars(each), **vars(each.expected)} for each in known]
    columns = "name accuracy seconds dataset competes description"
    return console.show(known, as_json, columns, rows)


@app.command(epilog="Example: idxflow predict photo.png --threshold 0.9")
def predict(
    files: Annotated[list[str], Argument(help="PNG, JPEG, IDX and Parquet files, or folders.")],
    model: Annotated[str, Option("-m", "--model", help="Version, bundle or .onnx.")] = "champion",
    dataset: Annotated[str | None, Option("-d", "--dataset", help="Whose model.")] = None,
    threshold: Annotated[float, Option(min=0, max=1, help="No answer below this.")] = 0.0,
    out: Annotated[str | None, Option(help="Write answers to .parquet, .json or .csv.")] = None,
    explain: Annotated[str | None, Option(help="Draw how pictures were read, as PNG.")] = None,
    single: Annotated[bool, Option("--single", help="Several digits are an error.")] = False,
    log: Annotated[bool, Option("--log", help="Keep images and answers for `monitor`.")] = False,
    to_label: Annotated[
        tuple[int, str] | None,
        Option(metavar="N DIR", help="Write the N images worth labelling most as a folder."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Classify images with a published model.

    Each gets a class and a probability; or no class below the threshold, and where it is not like
    the training images; or an error. Photos of digits are brought to MNIST's form first, and each
    digit is answered, from left to right; a grey PNG of the model's size, light on dark, is taken
    as it is.
    """
    from tasks.prediction.answers import Request, predict_files

    given = {name: value for name, value in locals().items() if name in Request.model_fields}
    with TemporaryDirectory(prefix="idxflow-") as scratch:
        # All answers are printed by way of a file, so that memory stays flat.
        answers, is_all = Path(scratch) / "answers.json", as_json and out is None
        given["out"] = str(answers) if is_all else out
        found = predict_files(checked(Request, given, "idxflow predict"))
        content = {**found.model_dump(exclude={"first"}), "out": out}
        if is_all:
            head = json.dumps(content, indent=2, ensure_ascii=False)
            sys.stdout.write(head.removesuffix("\n}") + ',\n  "answers": ')
            with answers.open(encoding="utf-8") as file:
                shutil.copyfileobj(file, sys.stdout)
            sys.stdout.write("}\n")
        elif out is not None:
            console.show(content, as_json, "class count", found.counts.items())
        else:
            console.table("source index class best probability reason", found.first)
            if more := found.num_images - len(found.first):
                console.say(f"… and {more:,} more; --out FILE.parquet or --json has all of them")
    written = "".join(f"; written: {place}" for place in (out, explain) if place)
    if to_label:
        place, name = to_label[1], found.model.partition("/")[0]
        written += f"; fill in {place}/labels.csv, then `idxflow data add {name} {place}`"
    answered = f"{found.num_images:,} images, answered by {found.model}"
    without = f"{found.num_abstained:,} unsure, {found.num_rejected:,} rejected"
    console.say(f"{answered}; {without}, {found.num_errors:,} errors{written}")


@app.command(epilog="Example: idxflow monitor mnist scans/")
def monitor(
    dataset: Annotated[str, Argument(metavar="NAME", help="Whose champion and training rows.")],
    files: Annotated[
        list[str] | None,
        Argument(help="Files or folders of images.  [default: the newest of `predict --log`]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether images differ from the training rows.

    Three signals: can the images be told apart from training rows (auc), does it hurt (estimated
    accuracy, without labels), has the mix of classes changed? A page shows them. Without files, the
    newest images that `predict --log` kept are compared (`max_rows` in pipeline_config/drift.yaml),
    and labels that came later with the answers. Exit code 0 also when drift is seen.
    """
    from tasks.prediction.monitor import monitor as compare_with_training

    found = compare_with_training(known_dataset(dataset), tuple(files or ()))
    console.show(found, as_json, "name value usual limit alarms words", found.signals)
    console.say(f"{found.words}; page: {found.page}" if found.page else found.words)
