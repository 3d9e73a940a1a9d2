"""The tables that tutorials use instead of IDX: CSV (label, then pixels) and NPZ.

Both become images, N × H × W, and labels, N, all uint8. Nothing is rounded, scaled or cut: what is
not a whole number from 0 to 255 is an error that names the row.
"""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tasks.raw.idx import Array
from tasks.raw.receive import MAX_BYTES, UNREADABLE, damaged
from tasks.runtime.errors import RawDataError

ARRAYS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
ROW = "a label and then the pixels of a square image, whole numbers from 0 to 255"
MAX_LINE_BYTES = 1 << 24


def read_csv(path: Path) -> tuple[Array, Array]:
    """Images and labels of a CSV file, with or without a header line.

    Raises RawDataError naming the row (counted from 1, the header included) for a ragged row, for
    what is no whole number from 0 to 255, and for a number of pixels that makes no square.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    first = _first_line(path)
    names = [str(column) for column in range(len(first))]
    side = _side(path, len(first) - 1)
    # Words in front, or pandas' numbers of the columns; else a broken first row would pass for one.
    has_header = not _is_number(first[0]) or first == names
    try:
        table = arrow.read_csv(
            path,
            read_options=arrow.ReadOptions(
                column_names=names, skip_rows=int(has_header), block_size=MAX_LINE_BYTES
            ),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(names, pa.uint8()), null_values=[]
            ),
        )
    except (pa.ArrowInvalid, OSError) as error:
        found = _first_fault(path, len(first), has_header) or str(error)
        raise _fault(path, found, ROW) from error
    if table.num_rows == 0:
        raise _fault(path, "no rows below the header", ROW)
    # A block of rows at a time: a column at a time would walk through all of memory 784 times.
    pixels = np.concatenate(
        [
            np.stack([column.to_numpy() for column in block.columns[1:]], axis=1)
            for block in table.to_batches()
        ]
    )
    return pixels.reshape(-1, side, side), table.column(0).to_numpy()


def _first_line(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            line = file.readline(MAX_LINE_BYTES).decode("utf-8-sig", errors="replace")
            too_large = path.stat().st_size > MAX_BYTES
    except OSError as error:
        raise damaged(str(path), error) from error
    if too_large:
        raise _fault(path, "a file that is too large", f"at most {MAX_BYTES:,} bytes")
    return next(csv.reader([line]), [])


def _is_number(cell: str) -> bool:
    return cell.strip().isascii() and cell.strip().isdigit()


def _first_fault(path: Path, width: int, has_header: bool) -> str | None:
    """What is wrong with the first row that is; slow, but only a broken file comes here."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows: Iterator[tuple[int, list[str]]] = enumerate(csv.reader(file), start=1)
        for number, row in islice(rows, int(has_header), None):
            if row and len(row) != width:
                return f"{len(row)} columns in row {number}, where the first row has {width}"
            for column, cell in enumerate(row, start=1):
                if not _is_number(cell) or int(cell) > 255:
                    return f"{cell[:40]!r} in row {number}, column {column}"
    return None


def arrays_in(path: Path) -> set[str]:
    """The names of the arrays in an NPZ file; raises RawDataError for a file that is no zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except UNREADABLE as error:
        raise damaged(str(path), error) from error


def read_npz(path: Path, split: str) -> tuple[Array, Array]:
    """Images and labels of one split (`train`, `test`) of an NPZ file; nothing is unpickled.

    Images may be N × H × W, N × H × W × 1 or N × H·W (square); labels N or N × 1; any integers.
    Raises RawDataError naming the array for anything else and for values outside 0 to 255.
    """
    images, labels = (_read_array(path, name) for name in ARRAYS[split])
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim == 2:
        side = _side(path, images.shape[1])
        images = images.reshape(-1, side, side)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if images.ndim != 3 or labels.ndim != 1:
        raise _fault(
            path, f"{split} arrays of {images.shape} and {labels.shape}", "(N, H, W) and (N,)"
        )
    return images, labels


def _read_array(path: Path, name: str) -> Array:
    """One array as uint8; its declared size is held against the member's before it is read."""
    what = f"{path}: {name}"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
            shape, dtype = _npy_header(member)
            declared = math.prod(shape) * dtype.itemsize
            size = archive.getinfo(f"{name}.npy").file_size
            if not declared <= size <= MAX_BYTES:
                raise _fault(
                    what, f"{declared:,} bytes declared, {size:,} there", f"under {MAX_BYTES:,}"
                )
        if dtype.kind not in "iu":
            raise _fault(what, f"an array of {dtype}", "integers from 0 to 255")
        with np.load(path, allow_pickle=False) as arrays:
            array: Array = arrays[name]
    except (*UNREADABLE, ValueError, KeyError, zlib.error) as error:
        raise damaged(what, error) from error
    if array.size and not 0 <= int(array.min()) <= int(array.max()) <= 255:
        raise _fault(what, f"values from {array.min()} to {array.max()}", "integers from 0 to 255")
    return array.astype(np.uint8, copy=False)


def _npy_header(member: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"version {version} of the NPY format")
    shape, _, dtype = read[version](member)
    return shape, dtype


def _side(path: Path, num_pixels: int) -> int:
    side = math.isqrt(max(num_pixels, 0))
    if side < 1 or side * side != num_pixels:
        raise _fault(path, f"{max(num_pixels, 0)} pixels a row, which make no square", ROW)
    return side


def _fault(what: Path | str, found: str, expected: str) -> RawDataError:
    return RawDataError(str(what), found=found, expected=expected, remedy="Mend the file.")
