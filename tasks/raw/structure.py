"""The four files together: do they make one data set?

Images are N × H × W, uint8; labels are N, uint8, from 0 to `num_classes` - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline_config.datasets import FILES
from tasks.raw.idx import Header, read_header, read_idx
from tasks.runtime.errors import RawDataError

SPLITS = {"train": FILES[:2], "test": FILES[2:]}


@dataclass(frozen=True)
class Structure:
    """What the files agree on: rows by split (`train`, `test`), and (height, width)."""

    rows: dict[str, int]
    image_shape: tuple[int, int]


def check_structure(folder: Path, num_classes: int, title: str | None = None) -> Structure:
    """The structure of the four canonical files in `folder`, copies of those of `title`.

    Raises RawDataError, naming the file, for files that are malformed by themselves, swapped, of
    another type or number of dimensions, empty, of unequal count or image shape, and for labels
    outside the classes.
    """
    try:
        return _structure(folder, num_classes)
    except RawDataError as error:
        if title is not None:
            error.what = f"{Path(error.what).name} of {title}"
        raise


def _structure(folder: Path, num_classes: int) -> Structure:
    headers = {name: read_header(folder / name) for name in FILES}
    for images, labels in SPLITS.values():
        _check_kinds(folder, images, headers[images], labels, headers[labels])
        _check_labels(folder / labels, num_classes)
    train, test = (headers[images].shape[1:] for images, _ in SPLITS.values())
    if train != test:
        raise _fault(
            folder / SPLITS["test"][0], f"images of {_by(test)}", f"{_by(train)} as in training"
        )
    rows = {split: headers[images].shape[0] for split, (images, _) in SPLITS.items()}
    return Structure(rows=rows, image_shape=(train[0], train[1]))


def _check_kinds(folder: Path, images: str, pixels: Header, labels: str, classes: Header) -> None:
    """One split's two headers: their types, dimensions and counts."""
    if len(pixels.shape) == 1 and len(classes.shape) == 3:
        raise _fault(
            folder / images,
            f"labels ({pixels}) here and images ({classes}) in {labels}",
            "images here and labels there",
            "The two files are swapped: exchange their names.",
        )
    for name, header, dimensions in ((images, pixels, 3), (labels, classes, 1)):
        if header.dtype != np.uint8 or len(header.shape) != dimensions:
            wanted = "count × height × width" if dimensions == 3 else "one class a row"
            raise _fault(
                folder / name,
                f"{header}, {len(header.shape)} dimensions",
                f"uint8 in {dimensions} dimensions ({wanted})",
                "Convert it to plain MNIST's layout.",
            )
        if 0 in header.shape:
            raise _fault(folder / name, f"nothing in it ({header})", "at least one row")
    if pixels.shape[0] != classes.shape[0]:
        raise _fault(
            folder / labels,
            f"{classes.shape[0]:,} labels",
            f"{pixels.shape[0]:,}, one for each image of {images}",
            "Take both files from the same place.",
        )


def _check_labels(path: Path, num_classes: int) -> None:
    labels = read_idx(path)
    outside = np.flatnonzero(labels >= num_classes)
    if outside.size:
        first = int(outside[0])
        raise _fault(
            path,
            f"label {labels[first]} in row {first} ({outside.size:,} rows outside the classes)",
            f"labels from 0 to {num_classes - 1}",
            f"Mend the labels, or say --classes {int(labels.max()) + 1} for a folder with more.",
        )


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _fault(
    path: Path, found: str, expected: str, remedy: str = "Replace the file by an intact copy."
) -> RawDataError:
    return RawDataError(str(path), found=found, expected=expected, remedy=remedy)
