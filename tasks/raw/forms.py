"""Labelled images in the forms that people have them in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline_config.datasets import FILES
from tasks.raw.folder import folder_files
from tasks.raw.idx import SPLITS, read_idx
from tasks.runtime.errors import RawDataError


class Part(NamedTuple):
    """Labelled rows of one split; `class_names` where the files have them."""

    images_NHW: NDArray[np.uint8]
    labels_N: NDArray[np.uint8]
    class_names: tuple[str, ...] | None


def read_parts(path: Path, scratch: Path) -> dict[str, Part]:
    """Return the parts `train` and `test` of files, or the part `all`.

    Raises RawDataError for what is none of the forms.
    """
    files = [each for each in (path.iterdir() if path.is_dir() else []) if each.is_file()]
    kinds = {
        kind: [each for each in files if re.search(rf"{kind}.*ubyte", each.name)]
        for kind in ("images", "labels")
    }
    if all(len(found) == 1 for found in kinds.values()) and len(files) < 4:
        images_NHW, labels_N = (read_idx(kinds[kind][0]) for kind in ("images", "labels"))
        if len(images_NHW) != len(labels_N):
            found = f"{len(images_NHW)} images and {len(labels_N)} labels"
            raise RawDataError(path, found=found, expected="as many")
        return {"all": Part(images_NHW, labels_N, None)}
    wanted = dict.fromkeys(FILES, 2**40)
    arrays = {name: read_idx(file) for name, file, _ in folder_files(path, wanted, scratch, None)}
    pairs = {split: (arrays[images], arrays[labels]) for split, (images, labels) in SPLITS.items()}
    return {split: Part(*pair, None) for split, pair in pairs.items()}
