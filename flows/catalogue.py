"""What is published: each version with its figures, its standing and its history."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from pipeline_config.sections import Section
from tasks.release.bundle import METRICS, BundleManifest, bundle_folder
from tasks.release.journal import Entry, champion_of, read_journal
from tasks.release.pages import page_path
from tasks.release.versions import published_versions
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import sha256_bytes
from tasks.runtime.manifest import MANIFEST, read_regular

logger = logging.getLogger(__name__)


class Version(Section):
    """One published version; `made` is the time of the journal's first line about it, if any."""

    dataset: str
    version: str
    recipe: str
    accuracy: float
    accuracy_interval_95: tuple[float, float]
    num_bytes: int
    made: str | None
    champion: bool
    bundle: str
    report: str


class Shown(Version):
    """A version with all that is known of it."""

    metrics: dict[str, Any]
    provenance: dict[str, Any]
    history: tuple[Entry, ...]


@contextmanager
def as_published(*folders: Path) -> Iterator[None]:
    """Turn what bundles lack of what publish writes into a ReleaseError that names the key."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise ReleaseError(
            " or ".join(map(str, folders)),
            found=f"a manifest or metrics of another form ({type(error).__name__}: {told})",
            expected="what publish writes there",
        ) from error


def read_manifest(folder: Path) -> BundleManifest:
    """A bundle's manifest; raises ReleaseError for one that cannot be read."""
    try:
        return BundleManifest.model_validate_json(read_regular(folder / MANIFEST))
    except (OSError, ValidationError) as error:
        raise ReleaseError(
            str(folder),
            found=f"no readable {MANIFEST}",
            expected="the folder of a published version",
        ) from error


def read_metrics(folder: Path, manifest: BundleManifest) -> dict[str, Any]:
    """A bundle's metrics; raises ReleaseError where they are not those of its manifest."""
    entry, content = manifest.files.get(METRICS), b""
    with suppress(OSError):
        content = read_regular(folder / METRICS)
    if entry is None or sha256_bytes(content) != entry.sha256:
        raise ReleaseError(
            str(folder / METRICS),
            found="other metrics than were published, or none",
            expected="those of its manifest",
        )
    metrics: dict[str, Any] = from_json(content)
    return metrics


def versions_of(dataset: str) -> list[Version]:
    """Every published version of a data set, the most accurate first; damaged ones are told."""
    entries = read_journal(dataset)
    found = []
    for name in published_versions(dataset):
        try:
            folder = bundle_folder(dataset, name)
            manifest = read_manifest(folder)
            with as_published(folder):
                metrics = read_metrics(folder, manifest)
                found.append(version_of(folder, manifest, metrics, entries))
        except ReleaseError as error:
            logger.warning("%s/%s is left out: %s: %s", dataset, name, error.what, error.found)
    return sorted(found, key=lambda version: (-version.accuracy, version.version))


def version_of(
    folder: Path, manifest: BundleManifest, metrics: dict[str, Any], entries: list[Entry]
) -> Version:
    """The version whose bundle lies in a folder; `entries` are the journal's."""
    champion = champion_of(entries)
    low, high = metrics["accuracy_interval_95"]
    return Version(
        dataset=manifest.dataset,
        version=manifest.version,
        recipe=manifest.recipe,
        accuracy=metrics["accuracy"],
        accuracy_interval_95=(low, high),
        num_bytes=sum(entry.num_bytes for entry in manifest.files.values()),
        made=next((entry.time for entry in entries if entry.version == manifest.version), None),
        champion=champion is not None and champion.version == manifest.version,
        bundle=str(folder),
        report=str(page_path(manifest.dataset, manifest.version)),
    )


def shown(folder: Path) -> Shown:
    """All that is known of the version in a folder."""
    manifest = read_manifest(folder)
    metrics, entries = read_metrics(folder, manifest), read_journal(manifest.dataset)
    return Shown(
        **version_of(folder, manifest, metrics, entries).model_dump(),
        metrics=metrics,
        provenance=manifest.provenance,
        history=tuple(entry for entry in entries if entry.version == manifest.version),
    )
