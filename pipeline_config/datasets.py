"""The data sets: four IDX files each, with their digests and sources."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated

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


def named_datasets() -> dict[str, Dataset]:
    """Return every data set of `datasets.yaml`, then those that were created, by name."""
    files = [HERE / "datasets.yaml", *sorted(settings().root.glob(f"data/[!.]*/{DESCRIPTION}"))]
    known: dict[str, Dataset] = {}
    for path in files:
        known |= _catalogue(path, path.stat().st_mtime_ns)
    return known


def named_dataset(name: str) -> Dataset:
    """Return the data set with this name. Raises ConfigError for an unknown one."""
    known = named_datasets()
    if name not in known:
        expected = f"one of {', '.join(known)}, or a folder with the four files"
        remedy = did_you_mean(name, known) + "See `idxflow data`."
        raise ConfigError(name, found="no data set or folder", expected=expected, remedy=remedy)
    return known[name]
