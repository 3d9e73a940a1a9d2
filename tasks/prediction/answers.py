"""Classifies the images of files, batch by batch: memory does not grow with their number.

Axes: B images of a batch, C classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline_config.sections import Section, given_path
from pipeline_config.settings import settings
from tasks.prediction.inputs import ImageBatch, files_of, image_batches
from tasks.prediction.pictures import Form
from tasks.release.bundle import ONNX, intact_bundle
from tasks.release.onnx_model import MAX_MODEL_BYTES, OnnxModel, read_model, unusable_model
from tasks.release.registry import CHAMPION, find_bundle
from tasks.runtime.errors import ConfigError
from tasks.runtime.files import replacing
from tasks.runtime.manifest import MANIFEST, read_regular
from tasks.runtime.show import progress

DIGIT_NAMES = tuple("0123456789")
# The columns of the answers, with their Arrow types. `class` is null below the threshold.
ANSWER_COLUMNS = {"source": "string", "index": "int64", "class": "string", "best": "string"}
ANSWER_COLUMNS |= {"probability": "float64", "abstained": "bool"}
NUM_FIRST = 20

Answers = list[dict[str, Any]]


class Request(Section):
    """Files or folders of images, a model, and where to write the answers.

    Below the confidence `threshold` the model abstains. `out` is a .parquet or .json file;
    `explain` is a PNG that shows how the first pictures were read.
    """

    files: Annotated[tuple[str, ...], Field(min_length=1)]
    model: str = CHAMPION
    dataset: str | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    out: str | None = None
    explain: str | None = None


class Predicted(Section):
    """The result of a request: `counts` by class, without abstentions; `first` are answers."""

    model: str
    num_images: int
    num_abstained: int
    threshold: float
    counts: dict[str, int]
    out: str | None
    explain: str | None
    first: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Classifier:
    """A loaded model. `title` is DATASET/VERSION, or the name of its file."""

    title: str
    form: Form
    class_names: tuple[str, ...]
    model: OnnxModel

    def answers(self, batch: ImageBatch, threshold: float) -> Answers:
        """Return one answer for each image."""
        probabilities_BC = self.model.probabilities(batch.images_BHW)
        best_B = [self.class_names[best] for best in probabilities_BC.argmax(axis=1)]
        confidence_B = probabilities_BC.max(axis=1)
        abstained_B = (confidence_B < threshold).tolist()
        class_B = [None if no else best for best, no in zip(best_B, abstained_B, strict=True)]
        rounded_B = [round(confidence, 6) for confidence in confidence_B.tolist()]
        columns = batch.sources, batch.index_B.tolist(), class_B, best_B, rounded_B, abstained_B
        return [dict(zip(ANSWER_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def load_classifier(model: str, dataset: str | None) -> Classifier:
    """Return the model of a bundle that `find_bundle` finds, or of an .onnx file.

    Raises ReleaseError if it is missing, damaged or not one that publish wrote.
    """
    path = given_path(model)
    is_bundle = path.suffix != ".onnx"
    if is_bundle:
        path = find_bundle(model, dataset) / ONNX
    if is_bundle or (path.parent / MANIFEST).is_file():
        intact_bundle(path.parent, path.name)
    try:
        content = read_regular(path.resolve(), MAX_MODEL_BYTES)
    except OSError as error:
        raise unusable_model(str(path), f"no readable file ({error.strerror})") from error
    found = read_model(content, str(path), settings().threads)
    words, names = found.words, found.words.get("class_names")
    texts = (
        tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()
    )
    if [*texts] != names or not len(texts) == len(set(texts)) == found.num_classes:
        raise unusable_model(str(path), f"{found.num_classes} classes, called {str(names)[:200]}")
    title = f"{words.get('dataset', path.name)}/{words.get('version', '')}".rstrip("/")
    form = Form(*found.image_shape, is_digits=texts == DIGIT_NAMES)
    return Classifier(title, form, texts, found)


def predict_files(request: Request) -> Predicted:
    """Classify every image of the request's files, in order; write the answers, all or none.

    Raises ConfigError, ReleaseError or RawDataError for the first thing that is wrong.
    """
    out = _target(request, request.out, [*WRITERS])
    explain = _target(request, request.explain, [".png"])
    classifier = load_classifier(request.model, request.dataset)
    skipped = {path.resolve() for path in (out, explain) if path is not None}
    counts, first = Counter[str | None](), Answers()
    with ExitStack() as stack:
        if explain is not None:
            from tasks.prediction.explained import draw_explained

            aside = stack.enter_context(replacing(explain))
            draw_explained(aside, files_of(request.files, skipped), classifier)
        advance = stack.enter_context(progress("predicting", None, "steps"))

        def answered() -> Iterator[Answers]:
            for batch in image_batches(files_of(request.files, skipped), classifier.form):
                answers = classifier.answers(batch, request.threshold)
                counts.update(answer["class"] for answer in answers)
                first.extend(answers[: NUM_FIRST - len(first)])
                yield answers
                advance(len(answers), "images")

        if out is None:
            for _ in answered():
                pass
        else:
            WRITERS[out.suffix](stack.enter_context(replacing(out)), answered())
    return Predicted(
        model=classifier.title,
        num_images=counts.total(),
        num_abstained=counts[None],
        threshold=request.threshold,
        counts={name: counts[name] for name in classifier.class_names},
        out=request.out,
        explain=request.explain,
        first=tuple(first),
    )


def _target(request: Request, text: str | None, suffixes: list[str]) -> Path | None:
    """Return where to write. Raises ConfigError for another suffix and for an impossible path."""
    if text is None:
        return None
    path = given_path(text)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.suffix not in suffixes:
        found = f"the ending {path.suffix!r}"
    elif path.is_dir():
        found = "a folder of that name"
    elif not folder.is_dir():
        found = f"{folder}, which is no folder"
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

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in ANSWER_COLUMNS.items()])
    options = ParseOptions(explicit_schema=schema)
    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for answers in batches:
            # Through JSON, since Arrow imports pandas to convert Python objects, which takes as
            # long as all the answers to 10,000 images.
            lines = "\n".join(map(json.dumps, answers)).encode()
            writer.write_table(read_json(BytesIO(lines), parse_options=options))


def _write_json(path: Path, batches: Iterable[Answers]) -> None:
    """Write the answers as one JSON list, one line for each."""
    with path.open("w", encoding="utf-8") as file:
        before = "[\n"
        for answer in chain.from_iterable(batches):
            file.write(before + json.dumps(answer, ensure_ascii=False, allow_nan=False))
            before = ",\n"
        file.write("\n]\n")


WRITERS: dict[str, Callable[[Path, Iterable[Answers]], None]] = {
    ".parquet": _write_parquet,
    ".json": _write_json,
}
