"""Files and folders of images as batches of the form that a model takes, one batch at a time.

Axes: B images of a batch, H×W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline_config.datasets import RawFile
from pipeline_config.sections import given_path
from tasks.prediction.pictures import Form, name_of, read_picture
from tasks.raw.idx import GZIP_MAGIC, read_header
from tasks.raw.receive import damaged, receive
from tasks.runtime.errors import RawDataError
from tasks.runtime.files import storage_errors

# Images a batch, of so many bytes; pictures, which take longer, come in smaller ones.
BATCH, PICTURES, BATCH_BYTES = 4096, 256, 2**24
COLUMN = "image"
# What is taken from a folder; a file that is named is known by its first bytes.
KNOWN = re.compile(r"[^.].*(\.(png|jpe?g|parquet)|idx3[-_.]ubyte(\.gz)?)", re.I)
PICTURE, IDX, GZIP, PARQUET = "picture", "idx", "gzip", "parquet"
MAGIC = {
    b"\x89PNG\r\n\x1a\n": PICTURE,
    b"\xff\xd8\xff": PICTURE,
    b"PAR1": PARQUET,
    GZIP_MAGIC: GZIP,
    b"\x00\x00": IDX,
}
KINDS = "PNG, JPEG, IDX (also .gz) or Parquet"


@dataclass(frozen=True)
class Batch:
    """Images uint8 (B, H, W), the file that each is from, and which of that file's it is."""

    sources: list[str]
    index_B: NDArray[np.int64]
    images_BHW: NDArray[np.uint8]


def files_of(given: Sequence[str], skipped: Collection[Path] = ()) -> Iterator[Path]:
    """The files that are named, and those in folders: below them, too, in natural order.

    From folders only KNOWN ones are taken, and none of the resolved paths in `skipped`. Raises
    RawDataError for what is not there, at once, and for a folder in which there is nothing.
    """
    paths = [given_path(text) for text in given]
    for path in paths:
        if not path.exists():
            raise _fault(path, "no such file or folder", "one that is there", "Check the path.")
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = (file for file in _below(path) if file.resolve() not in skipped)
        first = next(found, None)
        if first is None:
            raise _fault(path, f"a folder without {KINDS} files", "at least one", "Check the path.")
        yield first
        yield from found


def _below(folder: Path) -> Iterator[Path]:
    """The known files below a folder; links to folders are not followed, for they may be loops."""
    try:
        paths = sorted(folder.iterdir(), key=_natural)
    except OSError as error:
        raise damaged(name_of(folder), error) from error
    for path in paths:
        if path.is_dir():
            if not path.name.startswith(".") and not path.is_symlink():
                yield from _below(path)
        elif KNOWN.fullmatch(path.name):
            yield path


def _natural(path: Path) -> tuple[list[str | int], str]:
    """2.png before 10.png."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if place % 2 else part.lower() for place, part in enumerate(parts)], path.name


def kind_of(path: Path) -> str:
    """PICTURE, IDX, GZIP or PARQUET, by the first bytes; raises RawDataError for anything else."""
    if not path.is_file():
        raise _fault(path, "neither a file nor a folder", f"a {KINDS} file")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise damaged(name_of(path), error) from error
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    raise _fault(path, f"the first bytes {head.hex(' ')}" if head else "an empty file", KINDS)


def batches(files: Iterator[Path], form: Form) -> Iterator[Batch]:
    """The images of the files in `form`, in order; memory holds one batch.

    Raises RawDataError, naming the file, for the first one that is damaged or does not fit.
    """
    for kind, group in groupby(files, kind_of):
        if kind == PICTURE:
            while paths := list(islice(group, _fitting(PICTURES, form))):
                images = [read_picture(path, form).image_HW for path in paths]
                yield Batch(
                    [*map(name_of, paths)], np.zeros(len(paths), np.int64), np.stack(images)
                )
            continue
        read = {IDX: _idx, GZIP: _gzip, PARQUET: _parquet}[kind]
        for path in group:
            start = 0
            for images_BHW in read(path, form):
                stop = start + len(images_BHW)
                yield Batch([name_of(path)] * len(images_BHW), np.arange(start, stop), images_BHW)
                start = stop
            if not start:
                raise _fault(path, "a file of no images", "at least one")


def _fitting(most: int, form: Form) -> int:
    """How many images make a batch: `most`, or fewer where they are large."""
    return max(1, min(most, BATCH_BYTES // (form.height * form.width)))


def _idx(path: Path, form: Form, named: Path | None = None) -> Iterator[NDArray[np.uint8]]:
    """Read piece by piece: the pages of a map would count as memory, and a cut file would kill."""
    header = read_header(path)
    num_images, *shape = header.shape or (0,)
    if header.dtype != np.uint8 or shape != [form.height, form.width]:
        raise _fault(named or path, f"{header}", f"N×{form.height}×{form.width} uint8 images")
    with path.open("rb") as file:
        file.seek(header.offset)
        batch = _fitting(BATCH, form)
        for start in range(0, num_images, batch):
            count = min(batch, num_images - start)
            content = file.read(count * form.height * form.width)
            images = np.frombuffer(content, np.uint8)
            if len(images) != count * form.height * form.width:
                raise _fault(named or path, "a file that ends too early", f"{header}")
            yield images.reshape(count, form.height, form.width)


def _gzip(path: Path, form: Form) -> Iterator[NDArray[np.uint8]]:
    """Unpacked into a temporary file, checked to its end, then read as any other."""
    with TemporaryDirectory(prefix="idxflow-") as scratch, storage_errors(Path(scratch)):
        raw, name = Path(scratch) / "images", name_of(path)
        receive(path, name, RawFile(), raw)
        yield from _idx(raw, form, named=path)


def _parquet(path: Path, form: Form) -> Iterator[NDArray[np.uint8]]:
    """The column `image`: binary of H·W bytes, rows of pixels from the top, as convert writes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.dataset.table import pixels

    num_pixels = form.height * form.width
    wanted = f"a column {COLUMN!r} of {num_pixels} bytes a row ({form.height}×{form.width})"
    binary = (pa.types.is_fixed_size_binary, pa.types.is_binary, pa.types.is_large_binary)
    try:
        schema = pq.read_schema(path)
        place = schema.get_field_index(COLUMN)
        if place < 0 or not any(is_kind(schema.field(place).type) for is_kind in binary):
            found = f"{COLUMN}: {schema.field(place).type}" if place >= 0 else schema.names
            raise _fault(path, f"{found}", wanted)
        kind = schema.field(place).type
        is_other = pa.types.is_fixed_size_binary(kind) and kind.byte_width != num_pixels
        # As a dictionary, a value is there once, however many rows name it.
        with pq.ParquetFile(path, read_dictionary=[COLUMN], buffer_size=2**20) as file:
            if is_other or not _is_bounded(file.metadata, num_pixels):
                raise ValueError("values of another size")
            for batch in file.iter_batches(_fitting(BATCH, form), columns=[COLUMN]):
                column = batch.column(0)
                if column.null_count:
                    raise _fault(path, "rows without an image", wanted)
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary.cast(pa.binary(num_pixels)).take(column.indices)
                images = pixels(column.cast(pa.binary(num_pixels)), num_pixels)
                yield images.reshape(-1, form.height, form.width)
    except (pa.ArrowException, OSError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise _fault(path, f"a file that cannot be read so ({told})", wanted) from error


def _is_bounded(metadata: Any, num_pixels: int) -> bool:
    """Whether the images take no more bytes than their rows ask for, with a little for headers."""
    groups = [metadata.row_group(place).to_dict() for place in range(metadata.num_row_groups)]
    return all(
        chunk["total_uncompressed_size"] <= chunk["num_values"] * (num_pixels + 8) + BATCH_BYTES
        for group in groups
        for chunk in group["columns"]
        if chunk["path_in_schema"] == COLUMN
    )


def _fault(
    path: Path, found: str, expected: str, remedy: str = "Replace or leave out this file."
) -> RawDataError:
    return RawDataError(name_of(path), found=found, expected=expected, remedy=remedy)
