"""`idxflow predict`: a published model's answers for pictures and files of images."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import console
from flows.cli.run import JsonOption
from pipeline_config.sections import checked

ANSWERS = {
    "source": "{source}",
    "row": "{index}",
    "class": "{class}",
    "best": "{best}",
    "probability": "{probability:.2%}",
}

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
        float, typer.Option(min=0, max=1, help="No answer below this confidence.")
    ] = 0.0,
    out: Annotated[
        str | None, typer.Option(help="Write the answers to this .parquet or .json file.")
    ] = None,
    explain: Annotated[
        str | None, typer.Option(help="Draw how the first pictures were read as this PNG.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Classify images: a class and a probability each, or no class below the threshold.

    Photos of digits are brought to MNIST's form first; a grey PNG of the model's size, light on
    dark, is taken as it is.
    """
    asked = {name: value for name, value in locals().items() if name != "as_json"}
    if as_json and out is None:
        _print_all(asked)
        return
    predicted = _predicted(asked)
    if as_json:
        console.print_json(predicted.model_dump(exclude={"first"}))
    else:
        _print(predicted)


def _predicted(asked: dict[str, Any]) -> Predicted:
    from tasks.prediction.answers import Request, predict_files

    return predict_files(checked(Request, asked, "idxflow predict"))


def _print_all(asked: dict[str, Any]) -> None:
    """Print one object with every answer, by way of a file, so that memory stays flat."""
    with TemporaryDirectory(prefix="idxflow-") as scratch:
        answers = Path(scratch) / "answers.json"
        predicted = _predicted({**asked, "out": str(answers)})
        result = {**predicted.model_dump(mode="json", exclude={"first"}), "out": None}
        head = json.dumps(result, indent=2, ensure_ascii=False)
        sys.stdout.write(head.removesuffix("\n}") + ',\n  "answers": ')
        with answers.open(encoding="utf-8") as file:
            shutil.copyfileobj(file, sys.stdout)
        sys.stdout.write("}\n")


def _print(predicted: Predicted) -> None:
    """Print the first answers; or, where they are in a file, how many images each class has."""
    if predicted.out is None:
        rows = [
            {**row, "class": "–" if row["abstained"] else row["class"]} for row in predicted.first
        ]
        console.table(ANSWERS, rows)
        more = predicted.num_images - len(predicted.first)
        if more:
            console.say(f"… and {more:,} more; --out FILE.parquet or --json has all of them")
    else:
        console.table({"class": "{0}", "count": "{1}"}, predicted.counts.items())
    abstained = f"; {predicted.num_abstained:,} below {predicted.threshold:g} without an answer"
    console.say(
        f"{predicted.num_images:,} images, answered by {predicted.model}"
        + (abstained if predicted.threshold else "")
    )
    for place in (predicted.out, predicted.explain):
        if place:
            console.say(f"written: {place}")
