"""The data sets: four IDX files each, known by their digests, with the places to get them from."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from pydantic import Field

from pipeline_config.sections import (
    HERE,
    ConfigError,
    Section,
    checked,
    did_you_mean,
    read_yaml,
)

# The four canonical names, in the order in which they are always spoken of.
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

Row = Annotated[int, Field(ge=0)]


class RawFile(Section):
    """One IDX file: its raw size in bytes and the digests that it is held to, where published."""

    num_bytes: Annotated[int, Field(ge=4)] | None = None
    sha256: Digest | None = None
    gzip_sha256: Digest | None = None


class Corrections(Section):
    """What is known to be wrong with test labels, by row of the official test split.

    `labels` are the right labels of wrong ones; `disputed` rows have no label that people agree on.
    """

    source: str
    labels: dict[Row, Annotated[int, Field(ge=0)]]
    disputed: tuple[Row, ...]


class Dataset(Section):
    """What a data set is.

    `image_shape` is (height, width), None where only the files know. `content` is the digest over a
    local folder's files and None for a data set with a name. `corrections` change no file and no
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
        """The size of the raw files together, as far as it is known."""
        return sum(file.num_bytes or 0 for file in self.files.values())


@cache
def named_datasets() -> dict[str, Dataset]:
    """Every data set of `datasets.yaml`, by name, in the file's order."""
    catalogue: dict[str, Any] = read_yaml(HERE / "datasets.yaml")
    return {
        name: checked(Dataset, {"name": name, **entry}, f"data set {name} in datasets.yaml")
        for name, entry in catalogue.items()
    }


def named_dataset(name: str) -> Dataset:
    """The data set called `name`; raises ConfigError for an unknown one."""
    known = named_datasets()
    if name not in known:
        raise ConfigError(
            f"data set {name!r}",
            found="neither a data set's name nor a folder",
            expected=f"one of {', '.join(known)}, or a folder with the four files",
            remedy=did_you_mean(name, known) + "See `idxflow datasets`.",
        )
    return known[name]
