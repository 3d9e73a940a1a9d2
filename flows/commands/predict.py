"""`idxflow predict`: what a published model says about pictures and files of images."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import console
from flows.commands.options import JsonOption
from pipeline_config.sections import checked

if TYPE_CHECKING:
    from tasks.prediction.answers import Predicted


def predict(
    files: Annotated[
        list[str], typer.Argument(help="PNG, JPEG, IDX and Parquet files, or folders of them.")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A version, a bundle's folder or an .onnx file.")
    ] = "champion",
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="Whose champion or version.  [default: mnist]"),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="The confidence below which it abstains.")
    ] = 0.0,
    out: Annotated[
        str | None, typer.Option(help="Write the answers to this .parquet or .json file.")
    ] = None,
    explain: Annotated[
        str | None, typer.Option(help="Draw what became of the first pictures as this PNG.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Classify images: a class and a probability each, or no class below the threshold.

    Photos of digits are brought to MNIST's form first; a grey PNG of the model's size, light on
    dark, is taken as it is.
    """
    asked = {
        "files": files,
        "model": model,
        "dataset": dataset,
        "threshold": threshold,
        "out": out,
        "explain": explain,
    }
    _answer(asked, as_json)


def _answer(asked: dict[str, Any], as_json: bool) -> None:
    if as_json and asked["out"] is None:
        _print_all(asked)
        return
    predicted = _predicted(asked)
    if as_json:
        console.print_json(predicted.model_dump(mode="json", exclude={"first"}))
    else:
        _print(predicted)


def _predicted(asked: dict[str, Any]) -> Predicted:
    from tasks.prediction.answers import Request, predict_files

    return predict_files(checked(Request, asked, "idxflow predict"))


def _print_all(asked: dict[str, Any]) -> None:
    """Print the object with every answer in it; they wait in a file, so that memory is flat."""
    with TemporaryDirectory(prefix="idxflow-") as scratch:
        answers = Path(scratch) / "answers.json"
        predicted = _predicted({**asked, "out": str(answers)})
        head = json.dumps(
            {**predicted.model_dump(mode="json", exclude={"first"}), "out": None},
            indent=2,
            ensure_ascii=False,
        )
        sys.stdout.write(head.removesuffix("\n}") + ',\n  "answers": ')
        with answers.open(encoding="utf-8") as file:
            shutil.copyfileobj(file, sys.stdout)
        sys.stdout.write("}\n")


def _print(predicted: Predicted) -> None:
    """Print the first answers, or where all of them lie and how many images each class got."""
    if predicted.out is None:
        console.table(
            ("source", "row", "class", "best", "probability"),
            [
                (
                    row["source"],
                    row["index"],
                    "–" if row["abstained"] else row["class"],
                    row["best"],
                    f"{row['probability']:.2%}",
                )
                for row in predicted.first
            ],
        )
        more = predicted.num_images - len(predicted.first)
        if more:
            console.say(f"… and {more:,} more; --out FILE.parquet or --json has all of them")
    else:
        console.table(("class", "count"), predicted.counts.items())
    abstained = f"; {predicted.num_abstained:,} below {predicted.threshold:g} without an answer"
    console.say(
        f"{predicted.num_images:,} images, answered by {predicted.model}"
        + (abstained if predicted.threshold else "")
    )
    for place in (predicted.out, predicted.explain):
        if place:
            console.say(f"written: {place}")
