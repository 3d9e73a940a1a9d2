"""The IDX format: reading, writing, and the check that four files make one data set.

An IDX file is big-endian: two zero bytes, one byte for the type, one for the number of dimensions
D, D unsigned 32-bit sizes, then the items in row-major order, and no byte more (LeCun, Cortes and
Burges 1998, the web page of the MNIST database).
"""

from __future__ import annotations

import math
import os
import struct
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

DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
# The format has 255, NumPy 64.
MAX_DIMENSIONS = 64
MAX_HEADER_BYTES = 4 + 4 * MAX_DIMENSIONS

FORMAT = "an IDX file (00 00, type, number of dimensions, sizes, data)"
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
    found, expected = "", FORMAT
    code, num_dimensions = prefix[2:4] if len(prefix) >= 4 else (0, 0)
    offset = 4 + 4 * num_dimensions
    if not prefix:
        found = "an empty file"
    elif prefix.lstrip()[:1] == b"<":
        found = "a web page (HTML) instead of data"
    elif prefix[:2] in PACKED:
        found = PACKED[prefix[:2]]
    elif prefix[:2] != bytes(2)[: len(prefix)]:
        found = f"the wrong magic number {prefix[:4].hex(' ')}"
    elif len(prefix) >= 4 and code not in DTYPES:
        known = ", ".join(f"{known:02x} {dtype.name}" for known, dtype in DTYPES.items())
        found, expected = f"the unknown type {code:02x}", f"one of {known}"
    elif num_dimensions > MAX_DIMENSIONS:
        found, expected = f"{num_dimensions} dimensions", f"at most {MAX_DIMENSIONS}"
    elif len(prefix) < offset:
        found, expected = f"a truncated header of {len(prefix)} bytes", f"{offset} bytes"
    if found:
        raise RawDataError(what, found=found, expected=expected)
    shape = struct.unpack(f">{num_dimensions}I", prefix[4:offset])
    header = Header(DTYPES[code], shape, offset)
    # NumPy multiplies the sizes that are not zero, in 63 bits.
    if math.prod(size or 1 for size in shape) * header.dtype.itemsize >= 2**63:
        found = f"the dimensions {header}, whose product overflows"
        raise RawDataError(what, found=found, expected="under 2^63 bytes")
    return header


def check_size(header: Header, num_bytes: int, what: str) -> None:
    """Raise RawDataError unless a file of `num_bytes` is exactly as long as its header declares."""
    if num_bytes != header.num_bytes:
        is_short = num_bytes < header.num_bytes
        found = f"truncated data: {num_bytes:,} bytes" if is_short else "trailing bytes"
        raise RawDataError(what, found=found, expected=f"{header.num_bytes:,} bytes for {header}")


def read_header(path: Path) -> Header:
    """Return the header of an IDX file; nothing else is read.

    Raises RawDataError for a file that is unreadable, malformed, truncated or too long.
    """
    try:
        with path.open("rb") as file:
            header = parse_header(file.read(MAX_HEADER_BYTES), str(path))
            check_size(header, os.fstat(file.fileno()).st_size, str(path))
    except OSError as error:
        raise RawDataError(path, found=f"an unreadable file ({error.strerror})") from error
    return header


def read_idx(path: Path) -> Array:
    """Return the array of an IDX file: a read-only view of the mapped file, in its byte order.

    Raises RawDataError as `read_header` does.
    """
    header = read_header(path)
    return np.asarray(np.memmap(path, header.dtype, "r", header.offset, header.shape))


def write_idx(path: Path, array: Array) -> None:
    """Write `array`, of any byte order and memory layout, as an IDX file, completely or not at all.

    Raises RawDataError for a type or a size that IDX does not have.
    """
    dtype = array.dtype.newbyteorder(">")
    if dtype not in CODES or any(size >= 2**32 for size in array.shape):
        found = f"an array of {array.dtype} and the shape {array.shape}"
        known = ", ".join(known.name for known in CODES)
        raise RawDataError(path, found=found, expected=f"one of {known}, and sizes under 2^32")
    header = bytes((0, 0, CODES[dtype], array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    write_atomically(path, header + array.astype(dtype, copy=False).tobytes())


def read_splits(folder: Path, num_classes: int, title: str = "") -> dict[str, tuple[Array, Array]]:
    """Return images uint8 (N, H, W) and labels uint8 (N,) of both splits in a folder, mapped.

    The four files have their canonical names; with `title`, errors name a file of `title`. Raises
    RawDataError for a malformed file, swapped files, another type or number of dimensions, no rows,
    unequal counts or image shapes, and labels outside the classes.
    """
    try:
        arrays = {name: read_idx(folder / name) for name in FILES}
        for images, labels in SPLITS.values():
            if fault := _fault(images, arrays[images], labels, arrays[labels], num_classes):
                name, found, expected = fault
                raise RawDataError(folder / name, found=found, expected=expected)
        train, test = (arrays[images].shape[1:] for images, _ in SPLITS.values())
        if train != test:
            found, expected = f"images of {_by(test)}", f"{_by(train)} as in training"
            raise RawDataError(folder / FILES[2], found=found, expected=expected)
    except RawDataError as error:
        error.what = f"{Path(error.what).name} of {title}" if title else error.what
        raise
    return {split: (arrays[images], arrays[labels]) for split, (images, labels) in SPLITS.items()}


def _fault(
    images: str, pixels: Array, labels: str, classes: Array, num_classes: int
) -> tuple[str, str, str] | None:
    """Return the file at fault in one split, what was found and what was expected, or None."""
    if pixels.ndim == 1 and classes.ndim == 3:
        return images, f"labels, and images in {labels}: the files are swapped", "images"
    for name, array, wanted in ((images, pixels, "N×H×W"), (labels, classes, "N")):
        dimensions = wanted.count("×") + 1
        if array.dtype != np.uint8 or array.ndim != dimensions:
            found = f"{_by(array.shape)} {array.dtype.name}, {array.ndim} dimensions"
            return name, found, f"uint8 in {dimensions} dimensions ({wanted}), as MNIST has"
        if not array.size:
            return name, f"no rows or no pixels ({_by(array.shape)})", "at least one row"
    if len(pixels) != len(classes):
        expected = f"{len(pixels):,}, one for each image of {images}"
        return labels, f"{len(classes):,} labels", expected
    outside = classes >= num_classes
    if outside.any():
        row, num_needed = int(outside.argmax()), int(classes.max()) + 1
        found = f"label {classes[row]} in row {row} ({outside.sum():,} rows outside the classes)"
        return labels, found, f"labels from 0 to {num_classes - 1}, or --classes {num_needed}"
    return None


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
