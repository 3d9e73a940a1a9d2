"""What a model answers for files of images, batch by batch: memory is flat in their number.

Axes: B images of a batch, C classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline_config.sections import Section, given_path
from tasks.prediction.classifier import Classifier, load_classifier
from tasks.prediction.inputs import Batch, batches, files_of
from tasks.release.versions import CHAMPION
from tasks.runtime.errors import ConfigError
from tasks.runtime.files import replacing
from tasks.runtime.show import progress

Row = dict[str, Any]
Write = Callable[[list[Row]], None]
NUM_FIRST = 20


class Request(Section):
    """What is asked: files or folders of images, a model, and where the answers go.

    `threshold` is the confidence below which the model abstains. `out` is a .parquet or .json file;
    `explain` a PNG that shows what became of the first pictures.
    """

    files: Annotated[tuple[str, ...], Field(min_length=1)]
    model: str = CHAMPION
    dataset: str | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    out: str | None = None
    explain: str | None = None


class Predicted(Section):
    """What came of a request: `counts` by class, less the abstentions; `first` are rows."""

    model: str
    num_images: int
    num_abstained: int
    threshold: float
    counts: dict[str, int]
    out: str | None
    explain: str | None
    first: tuple[Row, ...]


@dataclass
class _Tally:
    """What is kept of answers that have been written."""

    num_images: int
    counts: Counter[str | None]
    first: list[Row]

    def add(self, rows: list[Row]) -> None:
        self.num_images += len(rows)
        self.counts.update(row["class"] for row in rows)
        self.first += rows[: NUM_FIRST - len(self.first)]


def predict_files(request: Request) -> Predicted:
    """Answer for every image of the request's files, in order; what it writes appears whole.

    Raises ConfigError, ReleaseError or RawDataError, the first thing that is wrong by its name;
    then nothing has been written.
    """
    out, explain = _place(request, request.out, WRITERS), _place(request, request.explain, [".png"])
    classifier = load_classifier(request.model, request.dataset)
    written = {path.resolve() for path in (out, explain) if path is not None}
    tally = _Tally(0, Counter(), [])
    with ExitStack() as stack:
        if explain is not None:
            from tasks.prediction.explained import draw_explained

            aside = stack.enter_context(replacing(explain))
            draw_explained(aside, files_of(request.files, written), classifier)
        writes: list[Write] = [tally.add]
        if out is not None:
            aside = stack.enter_context(replacing(out))
            writes.append(stack.enter_context(WRITERS[out.suffix](aside)))
        advance = stack.enter_context(progress("predicting", None, "steps"))
        for batch in batches(files_of(request.files, written), classifier.form):
            rows = answer(classifier, batch, request.threshold)
            for write in writes:
                write(rows)
            advance(len(rows), "images")
    return Predicted(
        model=classifier.title,
        num_images=tally.num_images,
        num_abstained=tally.counts[None],
        threshold=request.threshold,
        counts={name: tally.counts[name] for name in classifier.class_names},
        out=request.out,
        explain=request.explain,
        first=tuple(tally.first),
    )


def answer(classifier: Classifier, batch: Batch, threshold: float) -> list[Row]:
    """A row an image: source, index, class (None below the threshold), best, probability …"""
    probabilities_BC = classifier.model.probabilities(batch.images_BHW)
    best_B, sure_B = probabilities_BC.argmax(axis=1), probabilities_BC.max(axis=1)
    names = [classifier.class_names[best] for best in best_B]
    columns = (batch.sources, batch.index_B.tolist(), names, sure_B.tolist(), sure_B < threshold)
    return [
        {
            "source": source,
            "index": index,
            "class": None if abstained else best,
            "best": best,
            "probability": round(probability, 6),
            "abstained": bool(abstained),
        }
        for source, index, best, probability, abstained in zip(*columns, strict=True)
    ]


def _place(request: Request, text: str | None, suffixes: Iterable[str]) -> Path | None:
    """Where to write; raises ConfigError for another kind of file and for what cannot be one."""
    if text is None:
        return None
    path = given_path(text)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    found = ""
    if path.suffix not in suffixes:
        found = f"the ending {path.suffix!r}"
    elif path.is_dir() or not folder.is_dir():
        found = "a folder of that name" if path.is_dir() else f"{folder}, which is no folder"
    elif path.resolve() in (given_path(file).resolve() for file in request.files):
        found = "a file that is to be read"
    if found:
        raise ConfigError(
            text, found=found, expected=f"a {' or '.join(suffixes)} file", remedy="Name another."
        )
    return path


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    """Write rows as Parquet, a row group a batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.json import ParseOptions, read_json

    kinds = (pa.string(), pa.int64(), pa.string(), pa.string(), pa.float64(), pa.bool_())
    names = ("source", "index", "class", "best", "probability", "abstained")
    schema = pa.schema(zip(names, kinds, strict=True))
    parsed = ParseOptions(explicit_schema=schema)

    def write(rows: list[Row]) -> None:
        # By way of JSON: of Python's own objects Arrow asks whether pandas knows them, and imports
        # it for that, which takes as long as all the answers to 10,000 images.
        lines = "\n".join(map(json.dumps, rows)).encode()
        writer.write_table(read_json(BytesIO(lines), parse_options=parsed))

    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        yield write


@contextmanager
def _json(path: Path) -> Iterator[Write]:
    """Write rows as one JSON list, a line a row."""
    with path.open("w", encoding="utf-8") as file:
        before = "[\n"

        def write(rows: list[Row]) -> None:
            nonlocal before
            for row in rows:
                file.write(before + json.dumps(row, ensure_ascii=False, allow_nan=False))
                before = ",\n"

        yield write
        file.write("\n]\n")


WRITERS: dict[str, Callable[[Path], AbstractContextManager[Write]]] = {
    ".parquet": _parquet,
    ".json": _json,
}
