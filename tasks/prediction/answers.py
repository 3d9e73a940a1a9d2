"""Classifies the images of files, batch by batch: memory does not grow with their number.

Axes: B images of a batch, C classes.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline_config.sections import Section, given_path
from tasks.prediction.classifier import COLUMNS, Answers, Classifier, load_classifier
from tasks.prediction.explained import draw_explained
from tasks.prediction.inputs import files_of, image_batches
from tasks.prediction.labelling import choosing_to_label
from tasks.prediction.served import Keep, logging_answers
from tasks.release.registry import CHAMPION
from tasks.runtime.errors import ConfigError, RawDataError
from tasks.runtime.files import replacing
from tasks.runtime.show import progress

NUM_FIRST = 20


class Request(Section):
    """Images, a model, and where to write answers. Below the confidence `threshold` it abstains.

    `single`: a picture of several digits is an error. `log` keeps images and answers below the
    root. `to_label` is how many images are to be labelled, and the folder for them.
    """

    files: Annotated[tuple[str, ...], Field(min_length=1)]
    model: str = CHAMPION
    dataset: str | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    out: str | None = None
    explain: str | None = None
    single: bool = False
    log: bool = False
    to_label: tuple[Annotated[int, Field(ge=1)], str] | None = None


class Predicted(Section):
    """The result of a request: `counts` by class, and how many have none; `first` are answers."""

    model: str
    num_images: int
    num_abstained: int
    num_rejected: int
    num_errors: int
    threshold: float
    counts: dict[str, int]
    out: str | None
    explain: str | None
    first: tuple[dict[str, Any], ...]


def predict_files(request: Request) -> Predicted:
    """Classify the images in order; write all answers or none.

    What cannot be read is an answer with its error. Raises an IdxflowError if nothing can be.
    """
    out = _target(request, request.out, [*WRITERS])
    explain = _target(request, request.explain, [".png"])
    classifier = load_classifier(request.model, request.dataset)
    skipped = {path.resolve() for path in (out, explain) if path is not None}
    counts, first, faults = Counter[tuple[str, ...]](), Answers(), list[RawDataError]()
    with ExitStack() as stack:
        if explain is not None:
            aside = stack.enter_context(replacing(explain))
            draw_explained(aside, files_of(request.files, skipped), classifier)
        keepers = [stack.enter_context(each) for each in _keepers(request, classifier)]
        advance = stack.enter_context(progress("predicting", None, "steps"))

        def answered() -> Iterator[Answers]:
            files = files_of(request.files, skipped)
            for batch in image_batches(files, classifier.form, faults, request.single):
                likely_BC, strange_B = classifier.outputs(batch.images_BHW)
                for keep in keepers:
                    keep(batch.images_BHW, likely_BC)
                answers = classifier.answers(batch, likely_BC, strange_B, request.threshold)
                yield counted([*answers, *map(_failed, faults)])
            if faults and not counts.total():
                raise faults[0]
            yield counted([*map(_failed, faults)])

        def counted(answers: Answers) -> Answers:
            faults.clear()
            counts.update(_outcome(answer) for answer in answers)
            first.extend(answers[: NUM_FIRST - len(first)])
            advance(len(answers), "images")
            return answers

        if out is not None:
            WRITERS[out.suffix](stack.enter_context(replacing(out)), answered())
        else:
            for _ in answered():
                pass
    given = request.model_dump(include={"threshold", "out", "explain"})
    by_class = {name: counts["class", name] for name in classifier.class_names}
    kinds = {f"num_{name}": counts[(name,)] for name in ("abstained", "rejected", "errors")}
    shown: Any = {"num_images": counts.total(), "counts": by_class, "first": tuple(first)}
    return Predicted(model=classifier.title, **shown, **kinds, **given)


def _failed(error: RawDataError) -> dict[str, Any]:
    """Return the answer for what cannot be read."""
    found: dict[str, Any] = {"abstained": False, "rejected": False}
    reason = f"error: {error.found}, expected {error.expected}"
    found |= {"source": error.what, "index": 0, "reason": reason}
    return {**dict.fromkeys(COLUMNS), **found}


def _outcome(answer: dict[str, Any]) -> tuple[str, ...]:
    """Return the kind of an answer, and its class if it has one."""
    if answer["class"] is not None:
        return "class", answer["class"]
    return (next((kind for kind in ("abstained", "rejected") if answer[kind]), "errors"),)


def _keepers(request: Request, classifier: Classifier) -> Iterator[AbstractContextManager[Keep]]:
    """Yield what takes each batch with its answers, as the request wants it."""
    if request.log:
        yield logging_answers(classifier.bundle, classifier.form)
    if request.to_label:
        yield choosing_to_label(classifier.bundle, *request.to_label)


def _target(request: Request, text: str | None, suffixes: list[str]) -> Path | None:
    """Return where to write. Raises ConfigError for another suffix and for an impossible path."""
    if text is None:
        return None
    path = given_path(text)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.suffix not in suffixes:
        found = f"the ending {path.suffix!r}"
    elif path.is_dir() or not folder.is_dir():
        found = "a folder of that name, or a file in place of its folder"
    elif path.resolve() in (given_path(file).resolve() for file in request.files):
        found = "a file that is to be read"
    else:
        return path
    raise ConfigError(text, found=found, expected=f"a {' or '.join(suffixes)} file")


def _write_parquet(path: Path, batches: Iterable[Answers]) -> None:
    """Write the answers as Parquet, one row group for each batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.json import ParseOptions, read_json

    kinds = {"list": pa.list_(pa.int64())}
    fields = [(name, kinds.get(kind) or pa.type_for_alias(kind)) for name, kind in COLUMNS.items()]
    schema = pa.schema(fields)
    options = ParseOptions(explicit_schema=schema)
    with (
        path.open("wb") as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        for answers in filter(None, batches):
            # Through JSON: to convert Python objects, Arrow imports pandas, which takes 0.3 s.
            lines = "\n".join(map(json.dumps, answers)).encode()
            writer.write_table(read_json(BytesIO(lines), parse_options=options))


def _write_json(path: Path, batches: Iterable[Answers]) -> None:
    """Write the answers as one JSON list, one line for each."""
    with path.open("w", encoding="utf-8") as file:
        for number, answers in enumerate(filter(None, batches)):
            rows = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in answers)
            file.write((",\n" if number else "[\n") + ",\n".join(rows))
        file.write("\n]\n")


def _write_csv(path: Path, batches: Iterable[Answers]) -> None:
    """Write the answers as CSV with a header; a box is four numbers with spaces between."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for answers in batches:
            boxes = (" ".join(map(str, row["box"])) if row["box"] else None for row in answers)
            writer.writerows({**row, "box": box} for row, box in zip(answers, boxes, strict=True))


WRITERS = {".parquet": _write_parquet, ".json": _write_json, ".csv": _write_csv}
