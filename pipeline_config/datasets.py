"""The data sets: four IDX files each, with their digests and sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pipeline_config.sections import HERE, ConfigError, Section, checked, did_you_mean, read_yaml
from pipeline_config.settings import settings

# A created data set is described in this file, which has the form of `datasets.yaml`.
DESCRIPTION = "dataset.yaml"
# The names of the four files, in the order that is used everywhere.
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Natural = Annotated[int, Field(ge=0)]


class RawFile(Section):
    """The size in bytes of one IDX file, and its digests, as far as they are published."""

    num_bytes: Annotated[int, Field(ge=4)] | None = None
    sha256: Digest | None = None
    gzip_sha256: Digest | None = None


class Corrections(Section):
    """Known errors of test labels by row: correct `labels`, and rows that are `disputed`."""

    source: str
    labels: dict[Natural, Natural]
    disputed: tuple[Natural, ...]


class Dataset(Section):
    """The description of a data set.

    `image_shape` is (height, width), or None where only the files say. `content` is the digest of a
    local folder's files, and None for a named data set. `corrections` change no file and no
    official score.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
    title: str
    num_classes: Annotated[int, Field(ge=2, le=256)]
    image_shape: tuple[int, int] | None
    class_names: tuple[str, ...]
    default_recipe: str
    sources: tuple[str, ...]
    files: dict[str, RawFile]
    content: Digest | None = None
    corrections: Corrections | None = None

    @property
    def num_bytes(self) -> int:
        """The total size of the raw files, as far as it is known."""
        return sum(file.num_bytes or 0 for file in self.files.values())


@cache
def _catalogue(path: Path, changed_ns: int) -> dict[str, Dataset]:
    """Return the data sets in a file of the form of `datasets.yaml`, by name, in its order."""
    return {
        name: checked(Dataset, {"name": name, **entry}, f"data set {name} in {path}")
        for name, entry in read_yaml(path).items()
    }


@cache
def _created(path: Path, changed_ns: int) -> Dataset:
    """Return the data set of a DESCRIPTION. Raises ConfigError if it is not as it was created."""
    name = path.parent.name
    entry = read_yaml(path).get(name)
    if not isinstance(entry, dict) or entry.pop("pinned", None) != pin_of(entry):
        raise ConfigError(
            path,
            found=f"not what `idxflow data create {name}` wrote",
            expected="its shape, classes and files; title and default_recipe may be changed",
            remedy="Undo the change, or remove the folder and create the data set again.",
        )
    return checked(Dataset, {"name": name, **entry}, f"data set {name} in {path}")


def pin_of(entry: Mapping[str, Any]) -> str:
    """Return the SHA-256 over what is fixed when a data set is created: shape, classes, files."""
    pinned = {name: entry.get(name) for name in ("image_shape", "class_names", "files", "sources")}
    return hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()


def _known() -> dict[str, Path]:
    """Return the file that describes each data set: the catalogue's, then the created ones'."""
    catalogue = HERE / "datasets.yaml"
    files = dict.fromkeys(_catalogue(catalogue, catalogue.stat().st_mtime_ns), catalogue)
    created = sorted(settings().root.glob(f"data/[!.]*/{DESCRIPTION}"))
    return files | {path.parent.name: path for path in created if path.parent.name not in files}


def dataset_names() -> list[str]:
    """Return the names of the data sets: those of `datasets.yaml`, then those that were created."""
    return list(_known())


def named_dataset(name: str) -> Dataset:
    """Return the data set with this name. Raises ConfigError for an unknown or a changed one."""
    known = _known()
    if name not in known:
        expected = f"one of {', '.join(known)}, or a folder with the four files"
        remedy = did_you_mean(name, known) + "See `idxflow data`."
        raise ConfigError(name, found="no data set or folder", expected=expected, remedy=remedy)
    path = known[name]
    changed_ns = path.stat().st_mtime_ns
    is_created = path.name == DESCRIPTION
    return _created(path, changed_ns) if is_created else _catalogue(path, changed_ns)[name]
