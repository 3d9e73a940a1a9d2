"""Creating a data set with a name of its own from a person's files.

`data/NAME/` holds the four IDX files, and `dataset.yaml` with their digests, so the test split does
not change unseen. Nothing collects that folder.

Axes: N rows, images of H×W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline_config.datasets import (
    DESCRIPTION,
    FILES,
    Dataset,
    dataset_names,
    named_dataset,
    pin_of,
)
from pipeline_config.recipe_files import load_recipe
from pipeline_config.sections import ConfigError, checked
from pipeline_config.settings import settings
from tasks.raw.forms import read_parts
from tasks.raw.grey import Size
from tasks.raw.idx import write_idx
from tasks.raw.parts import Part, with_classes
from tasks.runtime.errors import RawDataError
from tasks.runtime.files import built_aside, locked, sha256_file

# The share of each class that is set aside where the files have no test rows.
TEST_SHARE = 1 / 6
# From this number of training rows on, the default recipe is `fast`, below it `small`.
MANY_ROWS = 10_000


def create_dataset(
    name: str,
    path: Path,
    class_names: Sequence[str] = (),
    recipe: str = "",
    size: Size | None = None,
) -> Dataset:
    """Return the data set made of the files at `path`, written below the root.

    `class_names`, in the order of the labels, and `recipe` take the place of what the files and
    their number of rows say. Training rows are put in the order of their digests, so that a
    validation share of the last rows has all classes. Made again from the same rows, nothing
    changes. Raises ConfigError for a name that is taken, and RawDataError for files that are no
    labelled images.
    """
    with TemporaryDirectory(prefix="idxflow-") as scratch:
        train, test = _split(read_parts(path, Path(scratch), size), class_names, path)
        names = train.class_names or _numbers(train, test)
        content: dict[str, Any] = {
            "title": f"{name}, made of {path.resolve().name}",
            "num_classes": len(names),
            "image_shape": list(train.images_NHW.shape[1:]),
            "class_names": list(names),
            "default_recipe": recipe or ("fast" if len(train.labels_N) >= MANY_ROWS else "small"),
            "sources": [f"folder:data/{name}"],
            "files": {},
        }
        _check(content, name, path)
        folder = Path(scratch, "made")
        folder.mkdir()
        arrays: list[NDArray[Any]] = [*train[:2], *test[:2]]
        for file, array in zip(FILES, arrays, strict=True):
            write_idx(folder / file, np.ascontiguousarray(array.astype(np.uint8)))
            num_bytes = (folder / file).stat().st_size
            content["files"][file] = {
                "num_bytes": num_bytes,
                "sha256": sha256_file(folder / file),
            }
        made = checked(Dataset, {"name": name, **content}, f"data set {name}")
        with locked(f"data-{name}"):
            if name not in dataset_names():
                _write(name, content, folder)
                return made
            known = named_dataset(name)
    differs = known.files != made.files or known.class_names != made.class_names
    if differs or recipe not in ("", known.default_recipe):
        found = "another data set of that name, or the same rows with other classes or recipe"
        raise ConfigError(name, found=found, expected="a name that no data set has")
    return known


def _write(name: str, content: dict[str, Any], folder: Path) -> None:
    """Write the folder of a data set, complete or not at all."""
    with built_aside(settings().root / "data" / name) as aside:
        for file in FILES:
            (aside / file).write_bytes((folder / file).read_bytes())
        described = {**content, "pinned": pin_of(content)}
        text = yaml.safe_dump({name: described}, sort_keys=False, allow_unicode=True)
        (aside / DESCRIPTION).write_text(text, encoding="utf-8")


def _check(content: dict[str, Any], name: str, path: Path) -> None:
    """Raise an error for a name, classes or a recipe that are not possible."""
    load_recipe(str(content["default_recipe"]))
    names = content["class_names"]
    if len({*names}) < len(names):
        raise ConfigError(path, found="a class name twice", expected="a name for each class")
    checked(Dataset, {"name": name, **content}, f"data set {name!r}")


def _numbers(train: Part, test: Part) -> tuple[str, ...]:
    """Return the labels themselves as names."""
    return tuple(str(n) for n in range(max(int(p.labels_N.max()) for p in (train, test)) + 1))


def _split(parts: dict[str, Part], class_names: Sequence[str], path: Path) -> tuple[Part, Part]:
    """Return the training part, in the order of its digests, and the test part.

    Without test rows a share of each class is set aside, by image digest: copies of an image are on
    one side.
    """
    parts = {split: with_classes(part, class_names, path) for split, part in parts.items()}
    if {*parts} == {"train", "test"}:
        train, test = parts["train"], parts["test"]
    elif len(parts) == 1:
        (part,) = parts.values()
        is_test = set_aside(part.images_NHW, part.labels_N)
        few = [
            label for label in np.unique(part.labels_N) if not is_test[part.labels_N == label].any()
        ]
        if few:
            found = f"a single image of the class with label {few[0]}"
            raise RawDataError(path, found=found, expected="two, one of them to test with")
        train, test = _rows(part, ~is_test), _rows(part, is_test)
    else:
        raise RawDataError(path, found=f"the splits {', '.join(parts)}", expected="train and test")
    digests = image_digests(train.images_NHW)
    return _rows(train, np.lexsort((train.labels_N, digests))), test


def _rows(part: Part, rows: NDArray[Any]) -> Part:
    return part._replace(images_NHW=part.images_NHW[rows], labels_N=part.labels_N[rows])


def image_digests(images_NHW: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Return the SHA-256 (N,) of each image's pixels."""
    return np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in images_NHW])


def set_aside(images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows (N,) are for testing: in each class those with the smallest digests."""
    digests = image_digests(images_NHW)
    chosen: list[str] = []
    for label in np.unique(labels_N):
        of_class = np.unique(digests[labels_N == label])
        num_test = max(round(len(of_class) * TEST_SHARE), min(1, len(of_class) - 1))
        chosen += list(of_class[:num_test])
    return np.isin(digests, chosen)
