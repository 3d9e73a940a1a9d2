"""Tables in place of IDX files: CSV (a label, then the pixels) and NPZ.

Both give images uint8 (N, H, W) and labels uint8 (N,). Nothing is rounded, scaled or cut off:
anything but a whole number from 0 to 255 is an error that names the row or the array.
"""

from __future__ import annotations

import csv
import math
import re
import warnings
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import TextIO

import numpy as np

from pipeline_config.datasets import FILES
from tasks.raw.idx import SPLITS, Array, write_idx
from tasks.raw.receive import MAX_BYTES, Source, damaged, open_file
from tasks.runtime.errors import RawDataError

ARRAYS = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test"), "all": ("x", "y")}
ROW = "a label and then the pixels of a square image, whole numbers from 0 to 255"
# A row of 1024×1024 pixels fits.
MAX_LINE_BYTES = 1 << 22


def write_as_idx(path: Path, split: str, folder: Path) -> None:
    """Write the two IDX files of one split (`train`, `test`) of a CSV or an NPZ file."""
    pair = read_csv(path) if path.suffix.lower() == ".csv" else read_npz(path, split)
    for name, array in zip(SPLITS[split], pair, strict=True):
        write_idx(folder / name, array)


def sklearn_digits(scratch: Path, wanted: Collection[str] = FILES) -> Source:
    """Write the digits in scikit-learn: 1,437 and 360 of 8×8 pixels, stratified, grey 0 to 255."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=360, stratify=labels, random_state=0
    )
    arrays = (train_images, train_labels, test_images, test_labels)
    for name, array in zip(FILES, arrays, strict=True):
        if name in wanted:
            write_idx(scratch / name, array)
            yield name, scratch / name, name


def read_csv(path: Path) -> tuple[Array, Array]:
    """Return the images and labels of a CSV file, with or without a header line.

    Raises RawDataError naming the row for a ragged row, for anything but a whole number from 0 to
    255, and for a number of pixels that is not a square.
    """
    row = 0

    def counted(file: TextIO) -> Iterator[str]:
        """Yield the lines; a longer one in pieces, so that they are ragged rows."""
        nonlocal row
        while line := file.readline(MAX_LINE_BYTES):
            row += 1
            yield line

    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            lines = counted(file)
            first = next(lines, "")
            cells = next(csv.reader([first]), []) or [""]
            side = _side(path, len(cells) - 1)
            rows = lines if _is_header(cells) else chain([first], lines)
            with warnings.catch_warnings(action="ignore"):  # of no rows
                table = np.loadtxt(
                    rows, np.uint8, delimiter=",", quotechar='"', comments=None, ndmin=2
                )
        if not len(table):
            raise ValueError("no rows below the header")
    except (OSError, ValueError, csv.Error) as error:
        words = re.sub(r"could not convert string | to uint8| at row \d+|;.*|\.$", "", str(error))
        raise RawDataError(path, found=f"row {row}: {words}"[:200], expected=ROW) from error
    return table[:, 1:].reshape(-1, side, side), table[:, 0]


def _is_header(first: list[str]) -> bool:
    """Return whether a first line names the columns; in doubt it does not, so that no row is lost.

    Names are pandas' numbers from 0, or words, or a word or nothing for the label and numbers in
    turn for the pixels.
    """
    label, *pixels = (cell.strip() for cell in first)
    turns = [[str(start + place) for place in range(len(pixels))] for start in (0, 1)]
    if label == "0":
        return pixels == turns[1]
    is_word = [re.fullmatch(r"[-+.\d]*", cell) is None for cell in (label, *pixels)]
    return (is_word[0] or not label) and (pixels in turns or all(is_word[1:]))


def read_npz(path: Path, split: str) -> tuple[Array, Array]:
    """Return the images and labels of one split (`train`, `test`, `all`) of an NPZ; no pickles.

    Images may be (N, H, W), (N, H, W, 1) or (N, H·W) with H = W; labels (N,) or (N, 1); any
    integers. Raises RawDataError naming the array for anything else and for values outside 0..255.
    """
    images, labels = (_read_array(path, name) for name in ARRAYS[split])
    if images.ndim == 2:
        side = _side(path, images.shape[1])
        images = images.reshape(-1, side, side)
    if images.shape[3:] == (1,):
        images = images[..., 0]
    if labels.shape[1:] == (1,):
        labels = labels[:, 0]
    if images.ndim != 3 or labels.ndim != 1:
        found = f"{split} arrays of {images.shape} and {labels.shape}"
        raise RawDataError(path, found=found, expected="(N, H, W) and (N,)")
    return images, labels


def _read_array(path: Path, name: str) -> Array:
    """Return one array as uint8; only version 1.0 of NPY, which NumPy writes for numbers."""
    what = f"{path}: {name}"
    with open_file(path, f"{name}.npy") as member:
        try:
            if np.lib.format.read_magic(member) != (1, 0):
                raise ValueError("another version of the NPY format than 1.0")
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(member)
            if not all(0 <= size < 2**32 for size in shape):
                raise ValueError("a damaged shape in the NPY header")
            # A view: a header that declares another size cannot allocate memory.
            flat = np.frombuffer(member.read(), dtype)
            array: Array = flat.reshape(shape, order="F" if is_fortran else "C")
        except Exception as error:  # NumPy evaluates the header as Python, which raises many kinds
            raise damaged(what, error) from error
    found = ""
    if dtype.kind not in "iu":
        found = f"an array of {dtype}"
    elif array.size and not 0 <= int(array.min()) <= int(array.max()) <= 255:
        found = f"values from {array.min()} to {array.max()}"
    if found:
        raise RawDataError(what, found=found, expected="integers from 0 to 255")
    return array.astype(np.uint8, copy=False)


def _side(path: Path, num_pixels: int) -> int:
    """Return the side of a square image. Raises RawDataError for any other number of pixels."""
    side = math.isqrt(num_pixels)
    if not side or side * side != num_pixels:
        found = f"{num_pixels} pixels a row, which is not a square number"
        raise RawDataError(path, found=found, expected=ROW)
    return side
