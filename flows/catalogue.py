"""The published versions: listed, described, and two of them compared."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json

from pipeline_config.sections import ConfigError, read_yaml
from tasks.release import bundle
from tasks.release.journal import champion_of, read_journal
from tasks.release.margins import paired_interval
from tasks.release.pages import MARKUP, page_path
from tasks.runtime.errors import ReleaseError
from tasks.runtime.files import sha256_bytes
from tasks.runtime.manifest import MANIFEST, read_regular

logger = logging.getLogger(__name__)

FIGURES = ("accuracy", "macro_f1", "loss", "ece", "brier", "temperature", "validation_accuracy")
ORIGIN = ("seed", "device", "precision", "threads", "cpu", "libraries", "data")


@contextmanager
def as_published(*folders: Path) -> Iterator[None]:
    """Turn a missing or malformed part of a manifest or metrics into a ReleaseError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        found = f"a manifest or metrics of another form ({reason})"
        raise ReleaseError(" or ".join(map(str, folders)), found=found) from error


def read_manifest(folder: Path) -> bundle.BundleManifest:
    """Return a bundle's manifest. Raises ReleaseError for one that cannot be read."""
    try:
        return bundle.BundleManifest.model_validate_json(read_regular(folder / MANIFEST))
    except (OSError, ValueError) as error:
        raise ReleaseError(folder, found=f"no readable {MANIFEST}") from error


def read_metrics(folder: Path, manifest: bundle.BundleManifest) -> dict[str, Any]:
    """Return a bundle's metrics. Raises ReleaseError where they are not those of its manifest."""
    with suppress(OSError):
        content = read_regular(folder / bundle.METRICS)
        if sha256_bytes(content) == manifest.determinants.metrics:
            metrics: dict[str, Any] = from_json(content)
            return metrics
    raise ReleaseError(folder / bundle.METRICS, found="no metrics, or others than were published")


def list_versions(dataset: str) -> list[dict[str, Any]]:
    """Return a data set's versions, the most accurate first. A damaged one is left out."""
    found = []
    for name in bundle.published_versions(dataset):
        folder = bundle.bundle_folder(dataset, name)
        try:
            with as_published(folder):
                described = describe(folder)
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
    low, high = map(float, metrics["accuracy_interval_95"])
    return {
        **manifest.model_dump(include={"dataset", "version", "recipe", "provenance"}),
        "accuracy": float(metrics["accuracy"]),
        "accuracy_interval_95": (low, high),
        "num_bytes": sum(entry.num_bytes for entry in manifest.files.values()),
        "made": next((entry.time for entry in entries if entry.version == version), None),
        "champion": champion is not None and champion.version == version,
        "bundle": str(folder),
        "report": str(page_path(manifest.dataset, version)),
        "metrics": metrics,
    }


def diff_versions(*folders: Path) -> dict[str, Any]:
    """Return what differs between two bundles; a pair is (first's, second's).

    `gained` are the test rows that only the second predicts correctly, `lost` those that only the
    first does. Raises ConfigError for versions that were scored on different test rows.
    """
    names = bundle.RECIPE, bundle.PROBABILITIES
    one, two = manifests = [bundle.intact_bundle(folder, *names) for folder in folders]
    old, new = map(read_metrics, folders, manifests)
    (rows, before), (others, after) = map(bundle.correct_rows, folders)
    if not np.array_equal(rows, others) or one.dataset != two.dataset:
        what, expected = f"{one.version} and {two.version}", "two versions of one data set"
        raise ConfigError(what, found="scores on different test rows", expected=expected)
    gained, lost = rows[after & ~before].tolist(), rows[before & ~after].tolist()
    classes = zip(old["per_class"], new["per_class"], strict=True)
    made = [each.provenance for each in manifests]
    return {
        "first": one.version,
        "second": two.version,
        "metrics": {name: (old[name], new[name]) for name in FIGURES},
        "recalls": {a["name"]: (a["recall"], b["recall"]) for a, b in classes},
        "gained": gained,
        "lost": lost,
        "difference_95": paired_interval(len(gained), len(lost), len(rows)),
        "recipe": differences(*(read_yaml(folder / bundle.RECIPE) for folder in folders)),
        "origin": differences(*({name: each[name] for name in ORIGIN} for each in made)),
        "code": list(differences(*(each["modules"] for each in made))),
    }


def differences(first: Any, second: Any) -> dict[str, tuple[str | None, str | None]]:
    """Return the leaves of two mappings that differ, in order, as pairs by their dotted names."""
    old, new = dict(_leaves(first)), dict(_leaves(second))
    pairs = {name: (old.get(name), new.get(name)) for name in {**old, **new}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _leaves(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(content)


def diff_in_markdown(found: Mapping[str, Any]) -> list[str]:
    """Return the differences of two versions as lines for a pull request."""
    low, high = (100 * bound for bound in found["difference_95"])
    gained, lost = len(found["gained"]), len(found["lost"])
    lines = [
        f"### Model `{found['first']}` → `{found['second']}`",
        "",
        f"Accuracy differs by {low:+.2f} to {high:+.2f} points (paired, 95 %, Tango 1998): "
        f"of the test rows, {gained} became right and {lost} wrong.",
        "",
    ]
    for title, part in (("figure", "metrics"), ("recall of", "recalls"), ("recipe", "recipe")):
        pairs = {name: pair for name, pair in found[part].items() if pair[0] != pair[1]}
        if pairs:
            lines += [f"| {title} | before | after |", "|---|---|---|"]
            lines += [f"| {name} | {_shown(a)} | {_shown(b)} |" for name, (a, b) in pairs.items()]
            lines += [""]
    origin = ", ".join(f"{name} {a} → {b}" for name, (a, b) in found["origin"].items())
    lines += [f"Machine and data: {origin or 'the same'}."]
    return [*lines, "", f"Code: {', '.join(found['code']) or 'the same'}."]


def _shown(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
