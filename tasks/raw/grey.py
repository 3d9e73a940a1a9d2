"""Pictures as grey images: single ones, folders of them by class, and Parquet files with them.

Axes: N pictures of H×W pixels.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tasks.raw.idx import Array
from tasks.raw.parts import Names, Part, files_in, make_part, split_of
from tasks.raw.receive import MAX_BYTES, UNREADABLE, damaged
from tasks.runtime.errors import RawDataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
MAX_PIXELS = 2**24  # of one picture
TILE_PX = 1024
Size = tuple[int, int]


def to_grey(picture: Image.Image) -> Image.Image:
    """Return the picture in grey, upright, transparent parts white, 16 bits scaled to 8.

    Besides the two, memory holds one tile at a time.
    """
    grey = Image.new("L", picture.size)
    wide, tall = picture.size
    for left, top in product(range(0, wide, TILE_PX), range(0, tall, TILE_PX)):
        box = left, top, min(left + TILE_PX, wide), min(top + TILE_PX, tall)
        tile = picture.crop(box)
        if tile.mode.startswith("I"):
            tile = tile.point(lambda level: level * (1 / 256))
        elif tile.has_transparency_data:
            white = Image.new("RGBA", tile.size, "white")
            tile = Image.alpha_composite(white, tile.convert("RGBA"))
        grey.paste(tile.convert("L"), box)
    grey.info = picture.info
    ImageOps.exif_transpose(grey, in_place=True)
    return grey


def read_pictures(
    pictures: Iterable[tuple[Path | io.BytesIO, str]], size: Size | None = None
) -> Array:
    """Return pictures as uint8 (N, H, W), scaled to `size` (height, width) if given.

    Each comes with what errors call it. Raises RawDataError for a damaged or too large picture, and
    for pictures of different sizes.
    """

    def images() -> Iterator[Array]:
        first, left = size, MAX_BYTES
        for source, what in pictures:
            array = _read_picture(source, what, size)
            first, left = first or array.shape, left - array.size
            if array.shape != first:
                found = f"{array.shape[0]}×{array.shape[1]} pixels"
                expected = f"{first[0]}×{first[1]} as the first, or a size to scale to"
                raise RawDataError(what, found=found, expected=expected)
            if left < 0:
                found = f"pictures of more than {MAX_BYTES:,} pixels together"
                raise RawDataError(what, found=found, expected="fewer, or a size to scale to")
            yield array

    return np.stack([*images()])


def _read_picture(source: Path | io.BytesIO, what: str, size: Size | None) -> Array:
    try:
        with Image.open(source, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width}×{picture.height} pixels")
            if picture.mode == "F":
                raise ValueError("pixels that are fractions")
            grey = to_grey(picture)
    except (*UNREADABLE, SyntaxError, Image.DecompressionBombError) as error:
        raise damaged(what, error) from error
    if size is not None:
        grey = grey.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(grey)


def pictures_by_class(path: Path, size: Size | None) -> dict[str, Part]:
    """Return the parts of `class/picture`, or of `train/class/picture` and `test/class/picture`.

    Classes are in the order of their names, and numbers in that of their values.
    """
    folders = [each for each in path.iterdir() if each.is_dir() and each.name[0] != "."]
    splits = {each.name.lower(): each for each in folders}
    if {*splits} == {"train", "test"}:
        found = {split: pictures_by_class(folder, size) for split, folder in splits.items()}
        return {split: part["all"] for split, part in found.items() if part}
    are_numbers = all(each.name.isdecimal() for each in folders)
    folders.sort(key=lambda each: (int(each.name) if are_numbers else 0, each.name))
    pictures, labels = [], []
    for label, folder in enumerate(folders):
        files = [file for file in files_in(folder) if file.suffix.lower() in SUFFIXES]
        pictures += [(file, str(file)) for file in files]
        labels += [label] * len(files)
    if not pictures:
        return {}
    names = (each.name for each in folders)
    return {"all": make_part(read_pictures(pictures, size), np.array(labels), names)}


def pictures_in_parquet(files: list[Path], size: Size | None) -> dict[str, Part]:
    """Return the parts of Parquet files with the columns `image` (bytes) and `label`."""
    found: dict[str, list[Path]] = {}
    for file in (file for file in files if file.suffix.lower() == ".parquet"):
        found.setdefault(split_of(file.name), []).append(file)
    return {split: _parquet_part(of_split, size) for split, of_split in found.items()}


def _parquet_part(files: list[Path], size: Size | None) -> Part:
    """Return the rows of the files of one split, in the order of the files."""
    pictures, labels, names = [], [], set()
    for file in files:
        encoded, labels_N, class_names = _parquet_rows(file)
        for row, content in enumerate(encoded):
            pictures.append((io.BytesIO(content or b""), f"{file}: row {row}"))
        labels.append(labels_N)
        names.add(class_names)
    if len(names) > 1:
        raise RawDataError(files[-1], found="other classes than in the files before it")
    return make_part(read_pictures(pictures, size), np.concatenate(labels), *names)


def _parquet_rows(file: Path) -> tuple[list[bytes | None], NDArray[np.int64], Names]:
    """Return the encoded images, the labels and the class names of a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            rows = table.read(columns=["image.bytes", "label"])
            words = json.loads((table.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        encoded = rows["image"].combine_chunks().field("bytes").to_pylist()
        labels = rows["label"].combine_chunks()
        names = words.get("info", {}).get("features", {}).get("label", {}).get("names")
        values = [] if labels.null_count or not pa.types.is_integer(labels.type) else labels
        labels_N = np.asarray(values, np.int64)
    except (KeyError, AttributeError, *UNREADABLE) as error:
        raise damaged(file, error) from error
    if len(labels_N) < len(encoded) or not ((labels_N >= 0) & (labels_N < 256)).all():
        found = f"labels of type {labels.type}, {labels.null_count} of them missing"
        if len(labels_N):
            found = f"labels from {labels_N.min()} to {labels_N.max()}"
        raise RawDataError(f"{file}: label", found=found, expected="whole numbers from 0 to 255")
    return encoded, labels_N, None if names is None else tuple(map(str, names))
