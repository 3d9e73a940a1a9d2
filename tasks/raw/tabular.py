"""The tables that tutorials use instead of IDX: CSV (label, then pixels) and NPZ.

Both become images, N × H × W, and labels, N, all uint8. Nothing is rounded, scaled or cut: what is
not a whole number from 0 to 255 is an error that names the row.
"""

from __future__ import annotations

import csv
import logging
import math
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from tasks.raw.idx import Array, write_idx
from tasks.raw.receive import MAX_BYTES, UNREADABLE, damaged, open_member
from tasks.raw.structure import SPLITS
from tasks.runtime.errors import RawDataError

logger = logging.getLogger(__name__)

ARRAYS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
ROW = "a label and then the pixels of a square image, whole numbers from 0 to 255"
MAX_LINE_BYTES = 1 << 24
# A column costs Arrow and Python 3 KB, however few rows there are.
MAX_SIDE = 256
# No deflated byte unpacks to more (zlib's own figure): what claims to is not there.
DEFLATE_RATIO = 1032


def write_as_idx(path: Path, split: str, folder: Path) -> None:
    """Write the two IDX files of one split (`train`, `test`) of a CSV or an NPZ file."""
    logger.warning("%s: turning its %s rows into IDX files", path.name, split)
    pair = read_csv(path) if path.suffix.lower() == ".csv" else read_npz(path, split)
    for name, array in zip(SPLITS[split], pair, strict=True):
        write_idx(folder / name, array)


def read_csv(path: Path) -> tuple[Array, Array]:
    """Images and labels of a CSV file, with or without a header line.

    Raises RawDataError naming the row (counted from 1, the header included) for a ragged row, for
    what is no whole number from 0 to 255, and for a number of pixels that makes no square.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    first = _first_line(path)
    side = _side(path, len(first) - 1)
    if side > MAX_SIDE:
        raise _fault(path, f"{side}×{side} pixels a row", f"at most {MAX_SIDE}×{MAX_SIDE} in a CSV")
    names = [str(column) for column in range(len(first))]
    has_header = _is_header(first)
    try:
        if _has_x(path, has_header):
            raise pa.ArrowInvalid("a number in hexadecimal")  # which Arrow would read
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
        raise _fault(path, _first_fault(path, len(first), has_header, error), ROW) from error
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
        too_large = path.stat().st_size > MAX_BYTES
        first = next(_rows(path), [])
    except (OSError, csv.Error) as error:
        raise damaged(str(path), error) from error
    if too_large:
        raise _fault(path, "a file that is too large", f"at most {MAX_BYTES:,} bytes")
    return first


def _rows(path: Path) -> Iterator[list[str]]:
    """The rows of a CSV file, one a line as Arrow has them; too long a line comes in pieces."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        while line := file.readline(MAX_LINE_BYTES):
            yield next(csv.reader([line]), [])


def _is_header(first: list[str]) -> bool:
    """Whether a first line names the columns; in doubt it is a row, so that no row gets lost.

    Names are pandas' numbers from 0, or words, or a word or nothing for the label and numbers in
    turn for the pixels.
    """
    label, *pixels = (cell.strip() for cell in first)
    turns = [[str(start + place) for place in range(len(pixels))] for start in (0, 1)]
    if _is_word(label) or not label:
        return pixels in turns or all(map(_is_word, pixels))
    return label == "0" and pixels == turns[1]


def _is_word(cell: str) -> bool:
    """Whether a cell is neither empty nor a number in any notation that Python knows."""
    for number in (float, lambda text: int(text, 0)):
        with suppress(ValueError):
            number(cell)
            return False
    return bool(cell)


def _has_x(path: Path, has_header: bool) -> bool:
    """Whether an x, which no number here has, stands anywhere below the header."""
    with path.open(encoding="latin-1", newline="") as file:
        if has_header:
            file.readline(MAX_LINE_BYTES)
        pieces = iter(lambda: file.read(MAX_LINE_BYTES), "")
        return any("x" in piece or "X" in piece for piece in pieces)


def _is_number(cell: str) -> bool:
    return cell.strip().isascii() and cell.strip().isdigit()


def _first_fault(path: Path, width: int, has_header: bool, error: Exception) -> str:
    """What is wrong with the first row that is; slow, but only a broken file comes here."""
    with suppress(OSError, csv.Error):
        rows = enumerate(_rows(path), start=1)
        for number, row in islice(rows, int(has_header), None):
            if row and len(row) != width:
                return f"{len(row)} columns in row {number}, where the first row has {width}"
            for column, cell in enumerate(row, start=1):
                if not _is_number(cell) or len(cell.strip().lstrip("0")) > 3 or int(cell) > 255:
                    return f"{cell[:40]!r} in row {number}, column {column}"
    return str(error)


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
    """One array as uint8; what its header declares is held against the file before it is read."""
    what, member_name = f"{path}: {name}", f"{name}.npy"
    try:
        with zipfile.ZipFile(path) as archive:
            with open_member(archive, member_name) as member:
                shape, dtype = _npy_header(member)
                there = archive.getinfo(member_name).file_size - member.tell()
            _check_size(what, shape, dtype, there, path.stat().st_size)
            # Not by `np.load`: it takes a file that is no zip at its first byte for something else.
            with open_member(archive, member_name) as member:
                array: Array = np.lib.format.read_array(member, allow_pickle=False)
    except (*UNREADABLE, KeyError) as error:
        raise damaged(what, error) from error
    if array.size and not 0 <= int(array.min()) <= int(array.max()) <= 255:
        raise _fault(what, f"values from {array.min()} to {array.max()}", "integers from 0 to 255")
    return array.astype(np.uint8, copy=False)


def _npy_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type; version 1.0 alone, which NumPy writes for every array of numbers."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise ValueError(f"version {version} of the NPY format")
    try:
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    except Exception as error:
        # NumPy reads the header as Python's parser does, and that raises whatever it likes.
        raise ValueError("a damaged NPY header") from error
    if any(isinstance(size, bool) or not 0 <= size < 2**32 for size in shape):
        raise ValueError("a damaged shape in the NPY header")
    return shape, dtype


def _check_size(
    what: str, shape: tuple[int, ...], dtype: np.dtype[Any], there: int, packed: int
) -> None:
    """Refuse by the header alone what would take memory and then turn out wrong.

    `there` is the size of the data as the archive has it, `packed` that of the whole archive.
    """
    if dtype.kind not in "iu":
        raise _fault(what, f"an array of {dtype}", "integers from 0 to 255")
    declared = math.prod(shape) * dtype.itemsize
    if declared != there:
        raise _fault(what, f"{shape} of {dtype} declared, {there:,} bytes there", "the two alike")
    if there > min(MAX_BYTES, DEFLATE_RATIO * packed):
        raise _fault(what, f"{there:,} bytes", f"at most {MAX_BYTES:,}, and no more than it packs")


def _side(path: Path, num_pixels: int) -> int:
    side = math.isqrt(max(num_pixels, 0))
    if side < 1 or side * side != num_pixels:
        raise _fault(path, f"{max(num_pixels, 0)} pixels a row, which make no square", ROW)
    return side


def _fault(what: Path | str, found: str, expected: str) -> RawDataError:
    return RawDataError(str(what), found=found, expected=expected, remedy="Mend the file.")
