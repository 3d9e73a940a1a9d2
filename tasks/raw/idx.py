"""The IDX format: reading, writing, and the check that four files make one data set.

An IDX file is big-endian: two zero bytes, one byte for the type, one for the number of dimensions
D, D unsigned 32-bit sizes, then the items in row-major order, and no byte more (LeCun, Cortes and
Burges 1998, the web page of the MNIST database).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_config.datasets import FILES
from tasks.runtime.errors import RawDataError
from tasks.runtime.files import write_atomically

Array = np.ndarray[Any, np.dtype[Any]]

# The files of images and of labels of each split.
SPLITS = {"train": FILES[:2], "test": FILES[2:]}

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
DTYPES: dict[int, np.dtype[Any]] = {code: np.dtype(name) for code, name in TYPES.items()}
CODES = {dtype: code for code, dtype in DTYPES.items()}
# The format has 255, NumPy 64.
MAX_DIMENSIONS = 64
MAX_HEADER_BYTES = 4 + 4 * MAX_DIMENSIONS

FORMAT = "an IDX file: 00 00, the type (08, 09, 0b to 0e), up to 64 dimensions, sizes, data"
GZIP_MAGIC = b"\x1f\x8b"
PACKED = {GZIP_MAGIC: "a gzip file that is not unpacked", b"PK": "a zip file"}


@dataclass(frozen=True)
class Header:
    """The content of the first `offset` bytes of an IDX file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        """The size of the whole file, as a Python int, which cannot overflow."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{_by(self.shape) or 'scalar'} {self.dtype.name}"


def parse_header(prefix: bytes, what: str) -> Header:
    """Return the header in the first MAX_HEADER_BYTES of a file, or in all of a shorter file.

    Raises RawDataError about `what` for anything else.
    """
    code, num_dimensions = prefix[2:4] if len(prefix) >= 4 else (0x08, 0)
    offset = 4 + 4 * num_dimensions
    found = ""
    if not prefix:
        found = "an empty file"
    elif prefix.lstrip()[:1] == b"<":
        found = "a web page (HTML) instead of data"
    elif prefix[:2] in PACKED:
        found = PACKED[prefix[:2]]
    elif not bytes(2).startswith(prefix[:2]):
        found = f"the wrong magic number {prefix[:4].hex(' ')}"
    elif code not in DTYPES:
        found = f"the unknown type {code:02x}"
    elif num_dimensions > MAX_DIMENSIONS:
        found = f"{num_dimensions} dimensions"
    elif len(prefix) < offset:
        found = f"a truncated header of {len(prefix)} bytes in place of {offset}"
    if found:
        raise RawDataError(what, found=found, expected=FORMAT)
    header = Header(DTYPES[code], struct.unpack(f">{num_dimensions}I", prefix[4:offset]), offset)
    # NumPy multiplies the sizes that are not zero, in 63 bits.
    if math.prod(size or 1 for size in header.shape) * header.dtype.itemsize >= 2**63:
        raise RawDataError(what, found=f"the dimensions {header}, whose product overflows")
    return header


def check_size(header: Header, num_bytes: int, what: str) -> None:
    """Raise RawDataError unless a file of `num_bytes` is exactly as long as its header declares."""
    if num_bytes != header.num_bytes:
        is_short = num_bytes < header.num_bytes
        found = f"truncated data: {num_bytes:,} bytes" if is_short else "trailing bytes"
        raise RawDataError(what, found=found, expected=f"{header.num_bytes:,} bytes for {header}")


def read_idx(path: Path) -> Array:
    """Return the array of an IDX file: a read-only view of the mapped file, in its byte order.

    Raises RawDataError for a file that is unreadable, malformed, truncated or too long.
    """
    try:
        with path.open("rb") as file:
            header = parse_header(file.read(MAX_HEADER_BYTES), str(path))
            check_size(header, os.fstat(file.fileno()).st_size, str(path))
            return np.asarray(np.memmap(file, header.dtype, "r", header.offset, header.shape))
    except OSError as error:
        raise RawDataError(path, found=f"an unreadable file ({error.strerror})") from error


def write_idx(path: Path, array: Array) -> None:
    """Write `array`, of any byte order and memory layout, as an IDX file, completely or not at all.

    Raises KeyError for a type, and struct.error for a size, that IDX does not have.
    """
    dtype = array.dtype.newbyteorder(">")
    header = bytes((0, 0, CODES[dtype], array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    write_atomically(path, header + array.astype(dtype, copy=False).tobytes())


def read_splits(folder: Path, num_classes: int, title: str = "") -> dict[str, tuple[Array, Array]]:
    """Return images uint8 (N, H, W) and labels uint8 (N,) of both splits in a folder, mapped.

    The four files have their canonical names; with `title`, errors name a file of `title`. Raises
    RawDataError for a malformed file and for files that do not make one data set.
    """
    try:
        arrays = {name: read_idx(folder / name) for name in FILES}
        for images, labels in SPLITS.values():
            if fault := _fault(arrays, images, labels, num_classes):
                name, found, expected = fault
                raise RawDataError(folder / name, found=found, expected=expected)
    except RawDataError as error:
        error.what = f"{Path(error.what).name} of {title}" if title else error.what
        raise
    return {split: (arrays[images], arrays[labels]) for split, (images, labels) in SPLITS.items()}


def _fault(
    arrays: Mapping[str, Array], images: str, labels: str, num_classes: int
) -> tuple[str, str, str] | None:
    """Return the file at fault in one split, what was found and what was expected, or None."""
    pixels, classes = arrays[images], arrays[labels]
    if pixels.ndim == 1 and classes.ndim == 3:
        return images, f"labels, and images in {labels}: the files are swapped", "images"
    for name, wanted in ((images, "N×H×W"), (labels, "N")):
        array = arrays[name]
        if array.dtype != np.uint8 or array.ndim != wanted.count("×") + 1 or not array.size:
            return name, f"{_by(array.shape)} {array.dtype.name}", f"{wanted} uint8, none of them 0"
    if len(pixels) != len(classes):
        expected = f"{len(pixels):,}, one for each image of {images}"
        return labels, f"{len(classes):,} labels", expected
    train_shape = arrays[FILES[0]].shape[1:]
    if pixels.shape[1:] != train_shape:
        return images, f"images of {_by(pixels.shape[1:])}", f"{_by(train_shape)} as in training"
    outside = classes >= num_classes
    if outside.any():
        row, num_needed = int(outside.argmax()), int(classes.max()) + 1
        found = f"label {classes[row]} in row {row} ({outside.sum():,} rows outside the classes)"
        return labels, found, f"labels from 0 to {num_classes - 1}, or --classes {num_needed}"
    return None


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
