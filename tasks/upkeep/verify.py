"""Whether bundle, journal and pointer hold what they promise: digests, version, weights, model.

Offline and without Prefect. A bundle may be a copy on another machine: nothing but its folder is
read. What a check finds is a verdict, never an exception.

Axes: N golden images, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline_config.recipe_files import load_recipe
from pipeline_config.sections import Section
from pipeline_config.settings import settings
from tasks.bundle.contents import (
    MODEL,
    ONNX,
    RECIPE,
    VERSION_DIGITS,
    BundleManifest,
    inspect_bundle,
    read_bundle,
    recipe_digest,
)
from tasks.bundle.golden import GOLDEN, Golden, read_golden, said_by
from tasks.release.journal import ADOPTED, champion_of, journal_faults, pointer_fault, read_journal
from tasks.release.versions import published_datasets, published_versions
from tasks.runtime.manifest import MANIFEST

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

# What a check found: whether all is well, and how in words.
Found = tuple[bool, str]


class Check(Section):
    """One thing that was looked at; `subject` is DATASET/VERSION, a data set or a folder.

    What could not be looked at, because what it needs is damaged or not there, is `skipped`.
    """

    subject: str
    what: str
    verdict: Literal["ok", "damaged", "skipped"]
    detail: str


def verify_root() -> list[Check]:
    """Every bundle below the root, intact or not, and every data set's journal and pointer."""
    datasets = published_datasets()
    return verify_bundles(
        [folder for name in datasets for folder in bundle_folders(name)], datasets
    )


def verify_bundles(folders: Iterable[Path], datasets: Iterable[str] = ()) -> list[Check]:
    """The checks of some bundles, then those of `datasets` and of the bundles' own data sets.

    A bundle that does not lie in the registry has no journal.
    """
    folders = [folder.resolve() for folder in folders]
    registered = {folder.parent.name for folder in folders if _is_registered(folder)}
    checks = [check for folder in folders for check in verify_bundle(folder)]
    for dataset in sorted({*datasets, *registered}):
        checks += verify_registry(dataset)
    return checks


def verify_registry(dataset: str) -> list[Check]:
    """The journal's chain, and whether the pointer says what the journal says."""
    return [
        _tried(dataset, "journal", lambda: _journal(dataset)),
        _tried(dataset, "champion", lambda: _champion(dataset)),
    ]


def verify_bundle(folder: Path) -> list[Check]:
    """Every check of the bundle in a folder: manifest, files, recipe, weights, ONNX model."""
    folder = folder.resolve()
    subject = f"{folder.parent.name}/{folder.name}" if _is_registered(folder) else str(folder)
    try:
        manifest, damage = _inspected(folder)
    except OSError as error:
        return [_check(subject, "files", (False, _told(error)))]
    if manifest is None:
        return [_check(subject, "manifest", (False, "; ".join(damage)))]
    of_manifest = [line for line in damage if line.startswith(f"{MANIFEST}:")]
    of_files = [line for line in damage if line not in of_manifest]
    fine = f"its digest holds, and {manifest.version} is the digest of its determinants"
    checks = [_check(subject, "manifest", (not of_manifest, "; ".join(of_manifest) or fine))]
    num_bytes = sum(entry.num_bytes for entry in manifest.files.values())
    fine = f"{len(manifest.files)} files, {num_bytes / 1e6:.1f} MB, every SHA-256 holds"
    checks.append(_check(subject, "files", (not of_files, "; ".join(of_files) or fine)))
    return checks + _model_checks(subject, folder, manifest, of_files)


def _model_checks(
    subject: str, folder: Path, manifest: BundleManifest, damage: list[str]
) -> list[Check]:
    """What recipe, weights and ONNX model say, each where the files that it needs are intact.

    Bytes that are known to be damaged are not fed to any library.
    """
    checks = []
    for what, needs, trial in (
        ("recipe", (RECIPE,), lambda: _recipe(folder, manifest)),
        ("weights", (RECIPE, MODEL, GOLDEN), lambda: _weights(folder)),
        ("ONNX model", (RECIPE, MODEL, GOLDEN, ONNX), lambda: _onnx(folder)),
    ):
        missing = [f"the manifest names no {name}" for name in needs if name not in manifest.files]
        missing += [line for line in damage if line.partition(":")[0] in needs]
        if missing:
            skipped = "; ".join(missing)
            checks.append(Check(subject=subject, what=what, verdict="skipped", detail=skipped))
        else:
            checks.append(_tried(subject, what, trial))
    return checks


def bundle_folders(dataset: str) -> list[Path]:
    """The folder of every bundle of a data set, also of one that lost its manifest."""
    folder = settings().models / dataset
    version = re.compile(rf"[0-9a-f]{{{VERSION_DIGITS}}}")
    found = {path.name for path in folder.iterdir() if version.fullmatch(path.name)}
    return [folder / name for name in sorted({*published_versions(dataset), *found})]


def _is_registered(folder: Path) -> bool:
    return folder.parent.parent == settings().models.resolve()


def _inspected(folder: Path) -> tuple[BundleManifest | None, list[str]]:
    """A bundle that lies in the registry must be the one that its place names."""
    if _is_registered(folder):
        return read_bundle(folder.parent.name, folder.name)
    return inspect_bundle(folder)


def _check(subject: str, what: str, found: Found) -> Check:
    is_well, detail = found
    return Check(subject=subject, what=what, verdict="ok" if is_well else "damaged", detail=detail)


def _tried(subject: str, what: str, trial: Callable[[], Found]) -> Check:
    """The check that a trial comes to; whatever it raises is damage."""
    try:
        found = trial()
    except Exception as error:
        found = False, _told(error)
    return _check(subject, what, found)


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _journal(dataset: str) -> Found:
    faults, entries = journal_faults(dataset), read_journal(dataset)
    if not any(entry.event == ADOPTED for entry in entries):
        told = {entry.version for entry in entries}
        unknown = [name for name in published_versions(dataset) if name not in told]
        faults += [f"no line tells what became of {version}" for version in unknown]
    fine = f"{len(entries)} lines, each with the digest of the one before"
    return not faults, "; ".join(faults) or fine


def _champion(dataset: str) -> Found:
    entries = read_journal(dataset)
    fault = pointer_fault(dataset, entries)
    if fault is not None:
        return False, fault
    champion = champion_of(entries)
    if champion is None:
        return True, "none, in the journal and in the pointer"
    if champion.version not in published_versions(dataset):
        return False, f"the bundle of {champion.version} is gone"
    return True, f"{champion.version}, in the journal and in the pointer"


def _recipe(folder: Path, manifest: BundleManifest) -> Found:
    recipe = load_recipe(str(folder / RECIPE))
    if recipe_digest(recipe) != manifest.determinants.recipe:
        return False, f"{RECIPE} is not the recipe that determined the version"
    return True, f"{recipe.name}, which determined the version"


def _golden_network(folder: Path) -> tuple[Golden, nn.Sequential]:
    """The golden pairs and the network that recipe and weights give."""
    from tasks.model.network import load_network

    golden = read_golden(folder / GOLDEN)
    _, height, width = golden.images_NHW.shape
    recipe = load_recipe(str(folder / RECIPE))
    num_classes = golden.probabilities_NC.shape[1]
    return golden, load_network(folder / MODEL, recipe.model, height * width, num_classes)


def _weights(folder: Path) -> Found:
    golden, network = _golden_network(folder)
    return _held(golden, said_by(network, golden.images_NHW), network)


def _onnx(folder: Path) -> Found:
    from tasks.bundle.onnx_export import onnx_probabilities

    golden, network = _golden_network(folder)
    found = onnx_probabilities((folder / ONNX).read_bytes(), golden.images_NHW)
    return _held(golden, found, network)


def _held(golden: Golden, found_NC: NDArray[np.float32], network: nn.Sequential) -> Found:
    """Probabilities held against the golden ones, within the tolerance of the ONNX export."""
    from tasks.bundle.onnx_export import tolerance_of

    if found_NC.shape != golden.probabilities_NC.shape:
        return False, f"probabilities {found_NC.shape} for golden {golden.probabilities_NC.shape}"
    difference = float(abs(found_NC - golden.probabilities_NC).max())
    tolerance = tolerance_of(network)
    words = (
        f"{len(found_NC)} golden images, probabilities up to {difference:.1e} apart, "
        f"{tolerance:.0e} is borne"
    )
    return difference <= tolerance, words
