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

from pipeline_config.datasets import DESCRIPTION, FILES, Dataset, named_datasets
from pipeline_config.recipe_files import load_recipe
from pipeline_config.sections import ConfigError, checked
from pipeline_config.settings import settings
from tasks.raw.forms import Part, Size, read_parts
from tasks.raw.idx import write_idx
from tasks.runtime.errors import RawDataError
from tasks.runtime.files import built_aside, sha256_file

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

    `class_names` and `recipe` take the place of what the files and their number of rows say. Made
    again from the same rows, nothing changes. Raises ConfigError for a name that is taken, and
    RawDataError for files that are no labelled images.
    """
    with TemporaryDirectory(prefix="idxflow-") as scratch:
        parts = read_parts(path, Path(scratch), size)
        train, test = _split(parts, path)
        names = tuple(class_names) or train.class_names or _numbers(train, test)
        content: dict[str, Any] = {
            "title": f"{name}, made of {path.name}",
            "num_classes": len(names),
            "image_shape": list(train.images_NHW.shape[1:]),
            "class_names": list(names),
            "default_recipe": recipe or ("fast" if len(train.labels_N) >= MANY_ROWS else "small"),
            "sources": [f"folder:data/{name}"],
        }
        _check(content, name, train, test, path)
        folder = Path(scratch, "made")
        folder.mkdir()
        arrays: list[NDArray[Any]] = [*train[:2], *test[:2]]
        for file, array in zip(FILES, arrays, strict=True):
            write_idx(folder / file, np.ascontiguousarray(array.astype(np.uint8)))
        content["files"] = {
            file: {
                "num_bytes": (folder / file).stat().st_size,
                "sha256": sha256_file(folder / file),
            }
            for file in FILES
        }
        made = checked(Dataset, {"name": name, **content}, f"data set {name}")
        known = named_datasets().get(name)
        if known is not None and known.files != made.files:
            expected = "a name that no data set has"
            raise ConfigError(name, found="another data set of that name", expected=expected)
        if known is None:
            _write(name, content, folder)
    return made


def _write(name: str, content: dict[str, Any], folder: Path) -> None:
    """Write the folder of a data set, complete or not at all."""
    with built_aside(settings().root / "data" / name) as aside:
        for file in FILES:
            (aside / file).write_bytes((folder / file).read_bytes())
        text = yaml.safe_dump({name: content}, sort_keys=False, allow_unicode=True)
        (aside / DESCRIPTION).write_text(text, encoding="utf-8")


def _check(content: dict[str, Any], name: str, train: Part, test: Part, path: Path) -> None:
    """Raise an error for a name, labels, classes or a recipe that are not possible."""
    load_recipe(str(content["default_recipe"]))
    names = content["class_names"]
    if len({*names}) < len(names):
        raise ConfigError(path, found="a class name twice", expected="a name for each class")
    largest = max(int(part.labels_N.max()) for part in (train, test))
    if largest >= len(names):
        found = f"a label {largest} and {len(names)} class names"
        raise RawDataError(path, found=found, expected="a name for each label from 0 on")
    checked(Dataset, {"name": name, **content, "files": {}}, f"data set {name!r}")


def _numbers(train: Part, test: Part) -> tuple[str, ...]:
    """Return the labels themselves as names."""
    return tuple(str(n) for n in range(max(int(p.labels_N.max()) for p in (train, test)) + 1))


def _split(parts: dict[str, Part], path: Path) -> tuple[Part, Part]:
    """Return the training and the test part.

    Without test rows a share of each class is set aside, by image digest: copies of an image are on
    one side.
    """
    if {*parts} == {"train", "test"}:
        return parts["train"], parts["test"]
    (part,) = parts.values() if len(parts) == 1 else (None,)
    if part is None:
        raise RawDataError(path, found=f"the splits {', '.join(parts)}", expected="train and test")
    is_test = set_aside(part.images_NHW, part.labels_N)
    if is_test.all() or not is_test.any():
        found = f"{len(part.labels_N)} rows"
        raise RawDataError(path, found=found, expected="enough rows to set some aside for testing")
    train, test = (
        part._replace(images_NHW=part.images_NHW[rows], labels_N=part.labels_N[rows])
        for rows in (~is_test, is_test)
    )
    return train, test


def set_aside(images_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows (N,) are for testing: in each class those with the smallest digests."""
    digests = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in images_NHW])
    chosen: list[str] = []
    for label in np.unique(labels_N):
        of_class = np.unique(digests[labels_N == label])
        chosen += list(of_class[: round(len(of_class) * TEST_SHARE)])
    return np.isin(digests, chosen)
