"""Classifies the images of files, batch by batch: memory does not grow with their number.

Axes: B images of a batch, C classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline_config.sections import Section, given_path
from pipeline_config.settings import settings
from tasks.prediction.inputs import KINDS, PICTURE, ImageBatch, files_of, image_batches, kind_of
from tasks.prediction.labelling import choosing_to_label
from tasks.prediction.pictures import Form, path_text, read_picture
from tasks.prediction.served import Keep, logging_answers
from tasks.release.bundle import ONNX, intact_bundle
from tasks.release.onnx_model import MAX_MODEL_BYTES, OnnxModel, read_model, unusable_model
from tasks.release.registry import CHAMPION, find_bundle
from tasks.runtime.errors import ConfigError
from tasks.runtime.files import replacing
from tasks.runtime.manifest import MANIFEST, read_regular
from tasks.runtime.show import progress

DIGIT_NAMES = tuple("0123456789")
# The columns of the answers, with their Arrow types. `class` is null below the threshold.
COLUMNS = {"source": "string", "index": "int64", "class": "string", "best": "string"}
COLUMNS |= {"probability": "float64", "abstained": "bool"}
NUM_FIRST = 20
# In the figure: pictures, bars, the last letters of a file's name, and the first ones of a class's.
NUM_SHOWN, NUM_BARS, NUM_TITLE, NUM_NAME = 6, 10, 60, 10
TITLES = ("as it came", "its ink", "what the model saw")

Answers = list[dict[str, Any]]


class Request(Section):
    """Images, a model, and where to write answers. Below the confidence `threshold` it abstains.

    `log` keeps images and answers below the root. `to_label` is how many images are to be labelled,
    and the folder for them.
    """

    files: Annotated[tuple[str, ...], Field(min_length=1)]
    model: str = CHAMPION
    dataset: str | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    out: str | None = None
    explain: str | None = None
    log: bool = False
    to_label: tuple[Annotated[int, Field(ge=1)], str] | None = None


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


class Classifier(NamedTuple):
    """A loaded model. `title` is DATASET/VERSION, or the name of its file; `bundle` a folder."""

    title: str
    bundle: Path | None
    form: Form
    class_names: tuple[str, ...]
    model: OnnxModel

    def answers(
        self, batch: ImageBatch, probabilities_BC: NDArray[np.float32], threshold: float
    ) -> Answers:
        """Return one answer for each image, by its probabilities (B, C)."""
        best_B = [self.class_names[best] for best in probabilities_BC.argmax(axis=1)]
        confidence_B = probabilities_BC.max(axis=1)
        abstained_B = (confidence_B < threshold).tolist()
        class_B = [None if no else best for best, no in zip(best_B, abstained_B, strict=True)]
        rounded_B = [round(confidence, 6) for confidence in confidence_B.tolist()]
        columns = batch.sources, batch.index_B.tolist(), class_B, best_B, rounded_B, abstained_B
        return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def load_classifier(model: str, dataset: str | None) -> Classifier:
    """Return the model that `find_bundle` finds, or of an .onnx file. Raises ReleaseError."""
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
    texts = tuple(names) if isinstance(names, list) else ()
    are_texts = all(isinstance(name, str) for name in texts)
    if not are_texts or not len(texts) == len(set(texts)) == found.num_classes:
        raise unusable_model(str(path), f"{found.num_classes} classes, called {str(names)[:200]}")
    title = f"{words.get('dataset', path.name)}/{words.get('version', '')}".rstrip("/")
    form = Form(*found.image_shape, is_digits=texts == DIGIT_NAMES)
    return Classifier(title, path.parent if is_bundle else None, form, texts, found)


def predict_files(request: Request) -> Predicted:
    """Classify the images in order; write all answers or none. Raises an IdxflowError."""
    out = _target(request, request.out, [".parquet", ".json"])
    explain = _target(request, request.explain, [".png"])
    classifier = load_classifier(request.model, request.dataset)
    skipped = {path.resolve() for path in (out, explain) if path is not None}
    counts, first = Counter[str | None](), Answers()
    with ExitStack() as stack:
        if explain is not None:
            aside = stack.enter_context(replacing(explain))
            _draw_explained(aside, files_of(request.files, skipped), classifier)
        keepers = [stack.enter_context(each) for each in _keepers(request, classifier)]
        advance = stack.enter_context(progress("predicting", None, "steps"))

        def answered() -> Iterator[Answers]:
            for batch in image_batches(files_of(request.files, skipped), classifier.form):
                probabilities_BC = classifier.model.probabilities(batch.images_BHW)
                for keep in keepers:
                    keep(batch.images_BHW, probabilities_BC)
                answers = classifier.answers(batch, probabilities_BC, request.threshold)
                counts.update(answer["class"] for answer in answers)
                first.extend(answers[: NUM_FIRST - len(first)])
                yield answers
                advance(len(answers), "images")

        if out is not None:
            write = _write_json if out.suffix == ".json" else _write_parquet
            write(stack.enter_context(replacing(out)), answered())
        else:
            for _ in answered():
                pass
    given = request.model_dump(include={"threshold", "out", "explain"})
    by_class = {name: counts[name] for name in classifier.class_names}
    found = {"num_images": counts.total(), "num_abstained": counts[None], "counts": by_class}
    return Predicted(model=classifier.title, first=tuple(first), **found, **given)


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


def _draw_explained(path: Path, files: Iterable[Path], classifier: Classifier) -> None:
    """Draw the first pictures among the files as a PNG. Raises ConfigError if there is none."""
    from tasks.evaluation.figures import page

    shown = [*islice((file for file in files if kind_of(file) == PICTURE), NUM_SHOWN)]
    if not shown:
        found, expected = "no picture among the files", f"a PNG or JPEG among {KINDS} files"
        remedy = "Leave --explain out: the rows of other files are used as they are."
        raise ConfigError("--explain", found=found, expected=expected, remedy=remedy)
    with page(path, 1.9 * len(shown)) as figure:
        parts = figure.subfigures(len(shown), squeeze=False)[:, 0]
        for part, file in zip(parts, shown, strict=True):
            _draw_row(part, file, classifier)


def _draw_row(part: Any, file: Path, classifier: Classifier) -> None:
    names, picture = classifier.class_names, read_picture(file, classifier.form)
    (likely_C,) = classifier.model.probabilities(picture.image_HW[np.newaxis])
    best = f"{names[likely_C.argmax()]}, {100 * likely_C.max():.1f} %"
    part.suptitle(f"{path_text(file)[-NUM_TITLE:]}: {best}", fontsize=10)
    *tiles, bars = part.subplots(1, 4, width_ratios=(2, 2, 2, 3))
    for ax, title, image_hw in zip(tiles, TITLES, picture, strict=True):
        ax.axis("off")
        if image_hw is not None:
            ax.set_title(title, fontsize=9)
            ax.imshow(image_hw, cmap="gray", vmin=0, vmax=255)
    likeliest = np.sort(np.argsort(-likely_C, kind="stable")[:NUM_BARS])
    bars.barh([names[place][:NUM_NAME] for place in likeliest], likely_C[likeliest])
    bars.set(xlim=(0, 1), xticks=[])
    bars.invert_yaxis()
    bars.set_title("probabilities", fontsize=9)
    bars.tick_params(length=0, labelsize=7)


def _write_parquet(path: Path, batches: Iterable[Answers]) -> None:
    """Write the answers as Parquet, one row group for each batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.json import ParseOptions, read_json

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    options = ParseOptions(explicit_schema=schema)
    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for answers in batches:
            # Through JSON: to convert Python objects, Arrow imports pandas, which takes 0.3 s.
            lines = "\n".join(map(json.dumps, answers)).encode()
            writer.write_table(read_json(BytesIO(lines), parse_options=options))


def _write_json(path: Path, batches: Iterable[Answers]) -> None:
    """Write the answers as one JSON list, one line for each."""
    with path.open("w", encoding="utf-8") as file:
        for number, answers in enumerate(batches):
            rows = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in answers)
            file.write((",\n" if number else "[\n") + ",\n".join(rows))
        file.write("\n]\n")
