"""Labelled rows of one split, and the names of their classes.

Axes: N rows, images of H×W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.raw.idx import Array
from tasks.raw.receive import UNREADABLE, damaged
from tasks.runtime.errors import RawDataError

SPLIT = re.compile(r"(?<![a-z])(train|test|t10k)(?![a-z])", re.I)
Names = tuple[str, ...] | None


class Part(NamedTuple):
    """Labelled rows of one split; `class_names` where the files have them."""

    images_NHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    class_names: Names


def make_part(images_NHW: Array, labels_N: Array, class_names: Iterable[str] | None = None) -> Part:
    """Return the rows as a part."""
    names = None if class_names is None else tuple(map(str, class_names))
    return Part(images_NHW, labels_N.astype(np.int64), names)


def split_of(name: str) -> str:
    """Return the split in the name of a file or a folder: `train`, `test`, or `all`."""
    match = SPLIT.search(name)
    return "all" if match is None else "train" if match[1].lower() == "train" else "test"


def files_in(path: Path) -> list[Path]:
    """Return the files of a folder, by name, without hidden ones. Raises RawDataError."""
    try:
        return sorted(each for each in path.iterdir() if each.is_file() and each.name[0] != ".")
    except OSError as error:
        raise damaged(path, error) from error


def class_list(path: Path) -> tuple[str, ...]:
    """Return the class names of a text file, one a line. Raises RawDataError for an unreadable one.

    Label 0 is the first class.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UNREADABLE as error:
        raise damaged(path, error) from error
    return tuple(line.strip() for line in lines if line.strip())


def with_classes(part: Part, names: Sequence[str], path: Path) -> Part:
    """Return the part with labels by `names`, its classes in their order; without names, itself.

    A class of the part is found by its name, or if it is a number as the label that it is. Raises
    RawDataError for a class or a label that is not among them.
    """
    if not names:
        return part
    own = part.class_names or ()
    if unknown := [name for name in own if name not in names]:
        if not all(name.isdecimal() for name in own):
            expected = f"the classes {', '.join(names)}"
            raise RawDataError(path, found=f"the class {unknown[0]!r}", expected=expected)
        label_of = [int(name) for name in own]
    else:
        label_of = [names.index(name) for name in own]
    labels_N = np.array(label_of)[part.labels_N] if own else part.labels_N
    if (largest := int(labels_N.max())) >= len(names):
        found = f"a label {largest} and {len(names)} class names"
        raise RawDataError(path, found=found, expected="a name for each label from 0 on")
    return part._replace(labels_N=labels_N, class_names=tuple(names))
