"""The published versions: listed, described, and two of them compared."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import from_json

from pipeline_config.sections import read_yaml
from tasks.release.bundle import (
    METRICS,
    PROBABILITIES,
    RECIPE,
    BundleManifest,
    bundle_folder,
    intact_bundle,
    published_versions,
)
from tasks.release.journal import champion_of, read_journal
from tasks.release.pages import page_path
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import sha256_bytes
from tasks.runtime.manifest import MANIFEST, read_regular

logger = logging.getLogger(__name__)

FIGURES = ("accuracy", "macro_f1", "loss", "ece", "brier", "temperature", "validation_accuracy")


@contextmanager
def as_published(*folders: Path) -> Iterator[None]:
    """Turn a missing or malformed part of a manifest or metrics into a ReleaseError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ReleaseError(
            " or ".join(map(str, folders)),
            found=f"a manifest or metrics of another form ({type(error).__name__}: {reason})",
        ) from error


def read_manifest(folder: Path) -> BundleManifest:
    """Return a bundle's manifest. Raises ReleaseError for one that cannot be read."""
    try:
        return BundleManifest.model_validate_json(read_regular(folder / MANIFEST))
    except (OSError, ValidationError) as error:
        expected = "the folder of a published version"
        raise ReleaseError(folder, found=f"no readable {MANIFEST}", expected=expected) from error


def read_metrics(folder: Path, manifest: BundleManifest) -> dict[str, Any]:
    """Return a bundle's metrics. Raises ReleaseError where they are not those of its manifest."""
    entry, content = manifest.files.get(METRICS), b""
    with suppress(OSError):
        content = read_regular(folder / METRICS)
    if entry is None or sha256_bytes(content) != entry.sha256:
        raise ReleaseError(
            folder / METRICS,
            found="no metrics, or others than were published",
            expected="those of its manifest",
        )
    metrics: dict[str, Any] = from_json(content)
    return metrics


def list_versions(dataset: str) -> list[dict[str, Any]]:
    """Return a data set's versions, the most accurate first. A damaged one is left out."""
    found = []
    for name in published_versions(dataset):
        try:
            with as_published(bundle_folder(dataset, name)):
                described = describe(bundle_folder(dataset, name))
            del described["metrics"], described["provenance"]
            found.append(described)
        except ReleaseError as error:
            logger.warning("%s/%s is left out: %s: %s", dataset, name, error.what, error.found)
    return sorted(found, key=lambda each: (-each["accuracy"], each["version"]))


def describe(folder: Path) -> dict[str, Any]:
    """Return what is known of the version in a folder. `made`: when the journal first names it."""
    manifest = read_manifest(folder)
    metrics, entries = read_metrics(folder, manifest), read_journal(manifest.dataset)
    champion, version = champion_of(entries), manifest.version
    times = [entry.time for entry in entries if entry.version == version]
    accuracy, (low, high) = float(metrics["accuracy"]), map(float, metrics["accuracy_interval_95"])
    return {
        "dataset": manifest.dataset,
        "version": version,
        "recipe": manifest.recipe,
        "accuracy": accuracy,
        "accuracy_interval_95": (low, high),
        "num_bytes": sum(entry.num_bytes for entry in manifest.files.values()),
        "made": times[0] if times else None,
        "champion": champion is not None and champion.version == version,
        "bundle": str(folder),
        "report": str(page_path(manifest.dataset, version)),
        "metrics": metrics,
        "provenance": manifest.provenance,
    }


def diff_versions(first: Path, second: Path) -> dict[str, Any]:
    """Return what differs between two bundles; a pair is (first's, second's).

    `gained` are the test rows, counted from the first one, that only the second predicts
    correctly, `lost` those that only the first does; `code` are the modules that differ. Raises
    ReleaseError for versions that were scored on different test rows.
    """
    from tasks.release.gate import paired_interval

    one, two = read_manifest(first), read_manifest(second)
    metrics = read_metrics(first, one), read_metrics(second, two)
    for folder in (first, second):
        intact_bundle(folder, RECIPE, PROBABILITIES)
    before, after = _correct_rows(first), _correct_rows(second)
    if before.keys() != after.keys() or one.dataset != two.dataset:
        raise ReleaseError(
            f"{one.version} and {two.version}",
            found="versions that were scored on different test rows",
            expected="two versions of one data set, both with its official test split",
            remedy="Compare versions of one data set; see `idxflow models`.",
        )
    gained = [row for row in before if after[row] and not before[row]]
    lost = [row for row in before if before[row] and not after[row]]
    classes = zip(metrics[0]["per_class"], metrics[1]["per_class"], strict=True)
    made = one.provenance, two.provenance
    scalars = [{k: v for k, v in each.items() if not isinstance(v, dict)} for each in made]
    return {
        "first": one.version,
        "second": two.version,
        "metrics": {name: (metrics[0][name], metrics[1][name]) for name in FIGURES},
        "recalls": {a["name"]: (a["recall"], b["recall"]) for a, b in classes},
        "gained": gained,
        "lost": lost,
        "difference_95": paired_interval(len(gained), len(lost), len(before)),
        "recipe": differences(*(_leaves(read_yaml(each / RECIPE)) for each in (first, second))),
        "code": list(differences(made[0]["modules"], made[1]["modules"])),
        "libraries": differences(made[0]["libraries"], made[1]["libraries"]),
        "machine": {k: v for k, v in differences(*scalars).items() if k != "code"},
        "data": differences(made[0]["data"], made[1]["data"]),
    }


def _correct_rows(folder: Path) -> dict[int, bool]:
    """Return whether each test row is predicted correctly, from the bundle's probabilities."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, names = folder / PROBABILITIES, ["index", "label", "prediction"]
    try:
        with pq.ParquetFile(path) as file:
            kinds = [file.schema_arrow.field(name).type for name in names]
            num_rows = file.metadata.num_rows
            # A real row takes more than a byte, however it is packed.
            if not all(map(pa.types.is_integer, kinds)) or not 0 < num_rows < path.stat().st_size:
                raise ValueError(f"{num_rows:,} rows of {kinds}")
            columns = file.read(columns=names).to_pydict()
    except (OSError, KeyError, ValueError) as error:
        raise ReleaseError(
            path,
            found="no readable probabilities",
            expected="a row for each test row",
            remedy="Bundles of very large test splits have none; `idxflow verify` finds damage.",
        ) from error
    start = min(columns["index"])
    rows = zip(*(columns[name] for name in names), strict=True)
    return {row - start: label == prediction for row, label, prediction in rows}


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that differ, in order, as pairs."""
    names = dict.fromkeys([*first, *second])
    pairs = {name: (first.get(name), second.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _leaves(content: Any, name: str = "") -> dict[str, str]:
    """Return the leaves of a recipe under their dotted names."""
    if isinstance(content, dict):
        leaves: dict[str, str] = {}
        for key, value in content.items():
            leaves |= _leaves(value, f"{name}.{key}" if name else str(key))
        return leaves
    return {name: yaml.safe_dump(content, default_flow_style=True).removesuffix("...\n").strip()}
