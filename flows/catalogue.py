"""What is published: each version with its figures, its standing and its history."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pipeline_config.base import Section
from tasks.bundle.contents import (
    LOOK,
    METRICS,
    BundleManifest,
    Metrics,
    Provenance,
    bundle_folder,
    read_as,
)
from tasks.release.decision_page import page_path
from tasks.release.journal import Entry, champion_of, read_journal
from tasks.release.versions import published_versions
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import sha256_file
from tasks.runtime.manifest import MANIFEST

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


def read_manifest(folder: Path) -> BundleManifest:
    """A bundle's manifest; raises ReleaseError for one that cannot be read or lacks something."""
    manifest = read_as(BundleManifest, folder / MANIFEST)
    read_as(Provenance, folder / MANIFEST, manifest.provenance)
    return manifest


def read_metrics(folder: Path, manifest: BundleManifest) -> dict[str, Any]:
    """A bundle's metrics; raises ReleaseError where they are not whole or not the manifest's."""
    entry, path = manifest.files.get(METRICS), folder / METRICS
    read_as(Metrics, path)
    if entry is None or sha256_file(path) != entry.sha256:
        raise ReleaseError(
            str(path),
            found="other metrics than were published",
            expected="those of its manifest",
            remedy=LOOK,
        )
    metrics: dict[str, Any] = json.loads(path.read_bytes())
    return metrics


def versions_of(dataset: str) -> list[Version]:
    """Every published version of a data set, the most accurate first; damaged ones are told."""
    entries = read_journal(dataset)
    found = []
    for name in published_versions(dataset):
        try:
            folder = bundle_folder(dataset, name)
            manifest = read_manifest(folder)
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
