"""Finding a bundle by what a person calls it, and what there is to find."""

from __future__ import annotations

from pathlib import Path

from pipeline_config.datasets import named_datasets
from pipeline_config.sections import did_you_mean, given_path
from pipeline_config.settings import settings
from tasks.bundle.contents import bundle_folder
from tasks.release.journal import champion_of, read_journal
from tasks.runtime.errors import ConfigError, ReleaseError
from tasks.runtime.manifest import MANIFEST

CHAMPION = "champion"
DEFAULT_DATASET = "mnist"


def published_datasets() -> list[str]:
    """The data sets that have a journal or a bundle, by name."""
    return sorted(path.name for path in settings().models.glob("*") if path.is_dir())


def known_dataset(name: str) -> str:
    """The name of a data set that has models or could have; raises ConfigError for another one."""
    known = {*published_datasets(), *named_datasets()}
    if name not in known:
        raise ConfigError(
            f"--dataset {name}",
            found="a data set that has no models and no name in the catalogue",
            expected=f"one of {', '.join(sorted(known))}",
            remedy=did_you_mean(name, known) + "See `idxflow models`.",
        )
    return name


def published_versions(dataset: str) -> list[str]:
    """The versions whose bundle is there, whether or not it is intact, by name."""
    folder = settings().models / dataset
    return sorted(path.parent.name for path in folder.glob(f"[!.]*/{MANIFEST}"))


def find_bundle(text: str, dataset: str | None = None) -> Path:
    """The folder of the bundle that `text` names.

    That is `champion` (of `dataset`, or of mnist), a version or the unique beginning of one,
    DATASET/VERSION, or a bundle's folder. Raises ReleaseError where that is none or several.
    """
    if text == CHAMPION:
        return _champion(dataset or DEFAULT_DATASET)
    given = given_path(text)
    if (given / MANIFEST).is_file():
        return given.resolve()
    scope, _, version = text.rpartition("/")
    wanted = scope or dataset
    found = [
        bundle_folder(name, known)
        for name in published_datasets()
        if wanted in (None, name)
        for known in published_versions(name)
        if version and known.startswith(version)
    ]
    if len(found) != 1:
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in found)
        raise ReleaseError(
            f"version {text!r}",
            found=names or "no published version and no bundle's folder of that name",
            expected="a version, the beginning of one, DATASET/VERSION, or a bundle's folder",
            remedy="See `idxflow models`.",
        )
    return found[0]


def _champion(dataset: str) -> Path:
    champion = champion_of(read_journal(dataset))
    if champion is None:
        raise ReleaseError(
            f"the champion of {dataset}",
            found="no published champion",
            expected="one to work with",
            remedy=f"Publish a model with `idxflow run --dataset {dataset}`; see `idxflow models`.",
        )
    return bundle_folder(dataset, champion.version)
