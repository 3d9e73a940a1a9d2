"""The IDX format: a reader and a writer for all six types and up to NumPy's 64 dimensions.

Big-endian throughout: two zero bytes, one byte for the type, one for the number of dimensions D, D
unsigned 32-bit sizes, then the items, row-major, and nothing behind them (the page of the MNIST
database, LeCun, Cortes and Burges 1998).
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tasks.runtime.errors import RawDataError
from tasks.runtime.files import write_atomically

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype("u1"),
    0x09: np.dtype("i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_DIMENSIONS = 64
MAX_HEADER_BYTES = 4 + 4 * MAX_DIMENSIONS

FORMAT = "an IDX file (00 00, type, number of dimensions, sizes, data)"
REPLACE = "Replace the file by an intact copy."
GZIP_MAGIC = b"\x1f\x8b"
PACKED = {GZIP_MAGIC: "a gzip file", b"PK": "a zip file"}


@dataclass(frozen=True)
class Header:
    """What the first `offset` bytes of an IDX file declare."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        """The size of the whole file; a Python int, so that nothing overflows."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        """Shape and type as a person writes them: `60000×28×28 uint8`."""
        return f"{'×'.join(map(str, self.shape)) or 'scalar'} {self.dtype.name}"


def parse_header(prefix: bytes, what: str) -> Header:
    """The header in the first bytes of a file; `prefix` holds MAX_HEADER_BYTES or the whole file.

    Raises RawDataError, naming the file `what`, for anything that is not an IDX header.
    """
    if not prefix:
        raise _fault(what, "an empty file")
    if prefix.lstrip()[:1] == b"<":
        raise _fault(what, "a web page (HTML) instead of data")
    if prefix[:2] in PACKED:
        raise _fault(what, PACKED[prefix[:2]], remedy="Unpack it.")
    if prefix[:2] != bytes(2)[: len(prefix)]:
        raise _fault(what, f"the wrong magic number {prefix[:4].hex(' ')}")
    if len(prefix) < 4:
        raise _fault(what, f"a truncated header of {len(prefix)} bytes", "at least 4 bytes")
    code, num_dimensions = prefix[2], prefix[3]
    if code not in DTYPES:
        known = ", ".join(f"{known:02x} {dtype.name}" for known, dtype in DTYPES.items())
        raise _fault(what, f"the unknown type {code:02x}", f"one of {known}")
    if num_dimensions > MAX_DIMENSIONS:
        raise _fault(what, f"{num_dimensions} dimensions", f"at most {MAX_DIMENSIONS}")
    offset = 4 + 4 * num_dimensions
    if len(prefix) < offset:
        raise _fault(
            what,
            f"a truncated header of {len(prefix)} bytes",
            f"{offset} bytes for {num_dimensions} dimensions",
        )
    shape = struct.unpack(f">{num_dimensions}I", prefix[4:offset])
    header = Header(DTYPES[code], shape, offset)
    # NumPy counts an array's items without its empty dimensions, in 63 bits.
    if math.prod(size or 1 for size in shape) * header.dtype.itemsize >= 2**63:
        raise _fault(what, f"the dimensions {header}, whose product overflows", "under 2^63 bytes")
    return header


def read_header(path: Path) -> Header:
    """The header of an IDX file, held against the file's size: nothing else is read.

    Raises RawDataError for a file that is unreadable, malformed, truncated or too long.
    """
    with _opened(path) as file:
        return _checked_header(file, path)


def read_idx(path: Path) -> Array:
    """The array of an IDX file: a read-only view of the mapped file, in the file's byte order.

    Nothing is allocated or copied. Raises RawDataError as `read_header` does.
    """
    with _opened(path) as file:
        header = _checked_header(file, path)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        items = np.frombuffer(mapped, header.dtype, math.prod(header.shape), header.offset)
        return items.reshape(header.shape)


def write_idx(path: Path, array: Array) -> None:
    """Write `array` as an IDX file, whole or not at all; any byte order and memory layout will do.

    Raises RawDataError for a type or a size that IDX does not have.
    """
    dtype = array.dtype.newbyteorder(">")
    if dtype not in CODES:
        known = ", ".join(known.name for known in CODES)
        raise _fault(str(path), f"an array of {array.dtype}", f"one of {known}", "Convert it.")
    if any(size >= 2**32 for size in array.shape):
        raise _fault(str(path), f"the shape {array.shape}", "sizes under 2^32", "Divide it.")
    header = bytes((0, 0, CODES[dtype], array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    write_atomically(path, header + array.astype(dtype, copy=False).tobytes())


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, open for reading; what the operating system refuses becomes a RawDataError."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise _fault(str(path), f"an unreadable file ({error.strerror})", "a readable file") from (
            error
        )


def _checked_header(file: BinaryIO, path: Path) -> Header:
    header = parse_header(file.read(MAX_HEADER_BYTES), str(path))
    found = os.fstat(file.fileno()).st_size
    check_size(header, found, str(path))
    return header


def check_size(header: Header, num_bytes: int, what: str) -> None:
    """Raise RawDataError unless a file of `num_bytes` is exactly what its header declares."""
    declared = f"{header.num_bytes:,} bytes for {header}"
    if num_bytes < header.num_bytes:
        raise _fault(what, f"truncated data: {num_bytes:,} bytes", declared)
    if num_bytes > header.num_bytes:
        raise _fault(what, f"{num_bytes - header.num_bytes:,} trailing bytes", declared)


def _fault(what: str, found: str, expected: str = FORMAT, remedy: str = REPLACE) -> RawDataError:
    return RawDataError(what, found=found, expected=expected, remedy=remedy)
