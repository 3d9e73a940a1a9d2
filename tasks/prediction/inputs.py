"""Reads files and folders of images, batch by batch, in the form that a model takes.

Axes: B images of a batch, H × W pixels.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_config.sections import given_path
from tasks.prediction.pictures import Box, Form, Picture, path_text, read_picture, unfit
from tasks.raw.idx import GZIP_MAGIC, MAX_HEADER_BYTES, check_size, parse_header
from tasks.raw.receive import UNREADABLE, damaged
from tasks.runtime.errors import RawDataError

# A batch has at most this many images, or pictures, and bytes.
BATCH, PICTURES, BATCH_BYTES = 4096, 256, 2**24
COLUMN = "image"
# The names that are taken from a folder. A file that is named itself may have any name.
KNOWN = re.compile(r"[^.].*(\.(png|jpe?g|parquet)|idx3[-_.]ubyte(\.gz)?)", re.I)
PICTURE, IDX, GZIP, PARQUET, UNFIT = "picture", "idx", "gzip", "parquet", ""
MAGIC = {b"\x89PNG\r\n\x1a\n": PICTURE, b"\xff\xd8\xff": PICTURE, b"PAR1": PARQUET}
MAGIC |= {GZIP_MAGIC: GZIP, b"\x00\x00": IDX}
KINDS = "PNG, JPEG, IDX (also .gz) or Parquet"


class ImageBatch(NamedTuple):
    """Images uint8 (B, H, W), the file of each, its index in that file, and its box in a picture.

    The boxes are left, top, right and bottom in pixels; of rows of other files there are none.
    """

    sources: list[str]
    index_B: NDArray[np.int64]
    images_BHW: NDArray[np.uint8]
    boxes: list[Box] | None = None


def files_of(given: Sequence[str], skipped: Collection[Path] = ()) -> Iterator[Path]:
    """Yield the files among `given`, and below its folders the KNOWN ones that are not `skipped`.

    Raises RawDataError for a path that does not exist and for a folder without such files.
    """
    paths = [given_path(text) for text in given]
    for path in paths:
        if not path.exists():
            raise unfit(path, "no such file or folder", "one that exists")
    for path in paths:
        files = [path]
        if path.is_dir():
            files = [file for file in _below(path) if file.resolve() not in skipped]
        if not files:
            raise unfit(path, f"a folder without {KINDS} files", "at least one")
        yield from files


def _below(folder: Path) -> Iterator[Path]:
    """Yield the KNOWN files below a folder. Links to folders are not followed: they may loop."""
    for path in sorted(folder.iterdir(), key=_natural):
        if not path.is_dir():
            yield from [path] if KNOWN.fullmatch(path.name) else []
        elif not path.name.startswith(".") and not path.is_symlink():
            yield from _below(path)


def _natural(path: Path) -> tuple[list[str | int], str]:
    """Return a key that sorts 2.png before 10.png."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if place % 2 else part.lower() for place, part in enumerate(parts)], path.name


def kind_of(path: Path) -> str:
    """Return PICTURE, IDX, GZIP or PARQUET, by a file's first bytes. Raises RawDataError."""
    if not path.is_file():
        raise unfit(path, "neither a file nor a folder", f"a {KINDS} file")
    with path.open("rb") as file:
        head = file.read(8)
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    raise unfit(path, f"the first bytes {head.hex(' ')}" if head else "an empty file", KINDS)


def image_batches(
    files: Iterator[Path],
    form: Form,
    faults: list[RawDataError] | None = None,
    single: bool = False,
) -> Iterator[ImageBatch]:
    """Yield the images of the files in `form`, in order; of a picture every digit.

    With `single`, several are an error. Raises RawDataError for what is unfit; with `faults` it is
    appended there, and the next files follow.
    """

    def kind(path: Path) -> str:
        with _into(faults):
            return kind_of(path)
        return UNFIT

    for found, group in groupby(files, kind):
        if found == PICTURE:
            while paths := list(islice(group, _fitting(PICTURES, form))):
                pictures = []
                for path in paths:
                    with _into(faults):
                        pictures.append((path_text(path), read_picture(path, form, single=single)))
                if pictures:
                    yield _of_pictures(pictures)
        for path in group if found != UNFIT else ():
            with _into(faults):
                start = 0
                for images in _parquet(path, form) if found == PARQUET else _idx(path, found, form):
                    stop = start + len(images)
                    sources = [path_text(path)] * len(images)
                    yield ImageBatch(sources, np.arange(start, stop), images)
                    start = stop
                if not start:
                    raise unfit(path, "a file of no images", "at least one")


@contextmanager
def _into(faults: list[RawDataError] | None) -> Iterator[None]:
    """Append a RawDataError of the block to the list, if there is one."""
    try:
        yield
    except RawDataError as error:
        if faults is None:
            raise
        faults.append(error)


def _of_pictures(pictures: list[tuple[str, Picture]]) -> ImageBatch:
    """Return every digit of the pictures as a batch."""
    sources = [name for name, picture in pictures for _ in picture.boxes]
    index_B = np.concatenate([np.arange(len(picture.boxes)) for _, picture in pictures])
    images_BHW = np.concatenate([picture.images_KHW for _, picture in pictures])
    return ImageBatch(
        sources, index_B, images_BHW, [box for _, each in pictures for box in each.boxes]
    )


def _fitting(most: int, form: Form) -> int:
    """Return how many images make a batch: `most`, or fewer if they are large."""
    return max(1, min(most, BATCH_BYTES // (form.height * form.width)))


def _idx(path: Path, kind: str, form: Form) -> Iterator[NDArray[np.uint8]]:
    """Yield batches (B, H, W). The file is not mapped, since mapped pages count as memory."""
    name, num_pixels = path_text(path), form.height * form.width
    try:
        with gzip.open(path) if kind == GZIP else path.open("rb") as file:
            header = parse_header(file.read(MAX_HEADER_BYTES), name)
            if header.dtype != np.uint8 or header.shape[1:] != form[:2]:
                raise unfit(path, f"{header}", f"N×{form.height}×{form.width} uint8 images")
            size = file.seek(header.offset)
            while content := file.read(_fitting(BATCH, form) * num_pixels):
                size += len(content)
                if len(content) % num_pixels or size > header.num_bytes:
                    break
                yield np.frombuffer(content, np.uint8).reshape(-1, form.height, form.width)
            check_size(header, size, name)
    except UNREADABLE as error:
        raise damaged(name, error) from error


def _parquet(path: Path, form: Form) -> Iterator[NDArray[np.uint8]]:
    """Yield the column `image` in batches (B, H, W): H·W bytes a row, as convert writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.dataset.table import pixels

    num_pixels = form.height * form.width
    fixed = pa.binary(num_pixels)
    wanted = f"a column {COLUMN!r} of {num_pixels} bytes a row ({form.height}×{form.width})"
    try:
        kinds = {field.name: field.type for field in pq.read_schema(path)}
        if kinds.get(COLUMN) not in (fixed, pa.binary(), pa.large_binary()):
            found = f"{COLUMN}: {kinds[COLUMN]}" if COLUMN in kinds else f"{list(kinds)}"
            raise unfit(path, found, wanted)
        # In a dictionary, a value exists once, however many rows have it.
        with pq.ParquetFile(path, read_dictionary=[COLUMN], buffer_size=2**20) as file:
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            for group, place in product(groups, range(file.metadata.num_columns)):
                chunk = group.column(place)
                most = chunk.num_values * (num_pixels + 8) + BATCH_BYTES
                if chunk.path_in_schema == COLUMN and chunk.total_uncompressed_size > most:
                    raise ValueError("more bytes than its rows need")
            for batch in file.iter_batches(_fitting(BATCH, form), columns=[COLUMN]):
                column = batch.column(0)
                if column.null_count:
                    raise unfit(path, "rows without an image", wanted)
                if pa.types.is_dictionary(column.type):
                    column = column.dictionary.cast(fixed).take(column.indices)
                images = pixels(column.cast(fixed), num_pixels)
                yield images.reshape(-1, form.height, form.width)
    except (pa.ArrowException, OSError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise unfit(path, f"a file that cannot be read so ({detail})", wanted) from error
