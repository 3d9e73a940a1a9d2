"""The published versions, and finding one by the name that a person types."""

from __future__ import annotations

from pathlib import Path

from pipeline_config.datasets import named_datasets
from pipeline_config.sections import did_you_mean, given_path
from pipeline_config.settings import settings
from tasks.release.bundle import bundle_folder
from tasks.release.journal import champion_of, read_journal
from tasks.runtime.errors import ConfigError, ReleaseError
from tasks.runtime.manifest import MANIFEST

CHAMPION = "champion"
DEFAULT_DATASET = "mnist"


def published_datasets() -> list[str]:
    """Return the data sets that have a journal or a bundle, by name."""
    return sorted(path.name for path in settings().models.glob("*") if path.is_dir())


def published_versions(dataset: str) -> list[str]:
    """Return the versions that have a bundle, intact or not, by name."""
    paths = settings().models.joinpath(dataset).glob("[!.]*")
    return sorted(path.name for path in paths if path.is_dir())


def known_dataset(name: str) -> str:
    """Return the name. Raises ConfigError if no data set of that name is published or known."""
    known = {*published_datasets(), *named_datasets()}
    if name not in known:
        raise ConfigError(
            f"--dataset {name}",
            found="a data set that has no models and is not in the catalogue",
            expected=f"one of {', '.join(sorted(known))}",
            remedy=did_you_mean(name, known) + "See `idxflow models`.",
        )
    return name


def find_bundle(text: str, dataset: str | None = None) -> Path:
    """Return the folder of the bundle that `text` names.

    That is `champion` (of `dataset`, by default mnist), a version or the unique beginning of one,
    DATASET/VERSION, or a bundle's folder. Raises ReleaseError if it names none or several.
    """
    if text == CHAMPION:
        dataset = dataset or DEFAULT_DATASET
        champion = champion_of(read_journal(dataset))
        if champion is not None:
            return bundle_folder(dataset, champion.version)
        found, remedy = "no published champion", f"Publish one: `idxflow run --dataset {dataset}`."
        raise ReleaseError(dataset, found=found, expected="a champion", remedy=remedy)
    given = given_path(text)
    if (given / MANIFEST).is_file():
        return given.resolve()
    scope, _, version = text.rpartition("/")
    folders = [
        bundle_folder(name, known)
        for name in published_datasets()
        if (scope or dataset) in (None, name)
        for known in published_versions(name)
        if version and known.startswith(version)
    ]
    if len(folders) != 1:
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in folders)
        raise ReleaseError(
            f"version {text!r}",
            found=names or "no published version and no bundle's folder of that name",
            expected="a version, the beginning of one, DATASET/VERSION, or a bundle's folder",
            remedy="See `idxflow models`.",
        )
    return folders[0]
