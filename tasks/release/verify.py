"""Checks of bundles and of their data sets' records, and of everything below the root (scrub).

Neither Prefect nor a network is needed, and for a bundle nothing but its folder.

Axes: N golden images, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from pipeline_config.recipe_files import load_recipe
from pipeline_config.sections import Section
from pipeline_config.settings import settings
from tasks.dataset.shards import ShardEvent, shards_journal
from tasks.release import bundle, journal
from tasks.release.bundle import GOLDEN, MODEL, ONNX, RECIPE, published_datasets, published_versions
from tasks.release.looks import Look, looks_path, read_looks
from tasks.release.pages import stale_pages
from tasks.runtime.files import locked, root_lock, write_atomically
from tasks.runtime.manifest import MANIFEST, read_chain
from tasks.runtime.store import inspect

REBUILD = "Running its recipe again builds it anew; `idxflow models rollback` undoes a promotion."
RECORD = "The next run of the data set repairs a torn last line and champion.json. A line that was "
RECORD += "changed or removed is lost, unless you have a copy of the file. The others count."


class Check(Section):
    """One check, `skipped` if what it needs is damaged. `remedy` says how damage is repaired."""

    subject: str
    what: str
    verdict: Literal["ok", "damaged", "skipped"]
    detail: str
    remedy: str = ""


class Scrubbed(Section):
    """How much was checked, by kind, and the checks that found damage."""

    looked_at: dict[str, int]
    damage: tuple[Check, ...]


def scrub() -> Scrubbed:
    """Check every stage output, bundle, record, page and checkpoint below the root.

    What a killed command left undone is completed first, and stale pages are written again.
    """
    root = settings()
    with root_lock():
        outputs = sorted(root.stages.glob("[!.]*"))
        checkpoints = sorted(root.checkpoints.glob("[!.]*"))
        datasets, folders = published_datasets(), bundle.published_bundles()
        checks = [*map(_check_output, outputs), *map(_check_checkpoint, checkpoints)]
        checks += [check for folder in folders for check in verify_bundle(folder)]
        for dataset in datasets:
            with locked(bundle.models_lock(dataset)):
                journal.finish(dataset)
                checks += [*verify_records(dataset), *_check_pages(dataset)]
    looked_at = {"stage outputs": len(outputs), "versions": len(folders)}
    looked_at |= {"journals": len(datasets), "checkpoints": len(checkpoints)}
    damage = tuple(check for check in checks if check.verdict == "damaged")
    return Scrubbed(looked_at=looked_at, damage=damage)


def _check_output(path: Path) -> Check:
    manifest, damage = inspect(path)
    stage = manifest.stage if manifest else path.name.partition("-")[0]
    remedy = f"The next run that needs it runs {stage} again."
    return _check(f"stages/{path.name}", "stage output", damage, "every SHA-256 is right", remedy)


def _check_checkpoint(path: Path) -> Check:
    from tasks.model.checkpoint import Checkpoint

    is_damaged = path.is_file() and Checkpoint(path, 0).load() is None
    faults = ["it is not what was saved"] if is_damaged else []
    remedy = "The training starts again from its beginning."
    return _check(f"checkpoints/{path.name}", "checkpoint", faults, "its digest is right", remedy)


def _check_pages(dataset: str) -> Iterator[Check]:
    """Write the pages that are not as they should be, and yield a check for each damaged one."""
    versions = published_versions(dataset)
    for path, content, is_damaged in stale_pages(dataset, journal.read_journal(dataset), versions):
        write_atomically(path, content)
        if is_damaged:
            fault = "missing, changed, or without what is in the journal"
            yield _check(f"{dataset}/{path.name}", "page", [fault], "", "It was written again.")


def verify_bundles(folders: Iterable[Path] | None = None) -> list[Check]:
    """Return the checks of bundles (by default all), and of the records of published ones."""
    found = bundle.published_bundles() if folders is None else [*folders]
    datasets = set(published_datasets() if folders is None else ())
    datasets |= {path.resolve().parent.name for path in found if bundle.is_published(path)}
    checks = [check for folder in found for check in verify_bundle(folder)]
    return checks + [check for dataset in sorted(datasets) for check in verify_records(dataset)]


def verify_records(dataset: str) -> list[Check]:
    """Return the checks of a data set's journals, looks at the test rows, and champion."""
    entries, versions = journal.read_journal(dataset), published_versions(dataset)
    faults = journal.journal_faults(dataset)
    if all(entry.event != journal.ADOPTED for entry in entries):
        unknown = sorted({*versions} - {entry.version for entry in entries})
        faults += [f"no line is about {version}" for version in unknown]
    chained = "lines, each with the digest of the one before"
    num_looks, looks_faults = len(read_looks(dataset)), read_chain(looks_path(dataset), Look)[1]
    champion, fault = journal.champion_of(entries), journal.pointer_fault(dataset, entries)
    if champion and not fault and champion.version not in versions:
        fault = f"the bundle of {champion.version} is gone"
    named = f"{champion.version if champion else 'none'}, in the journal and in champion.json"
    return [
        _check(dataset, "journal", faults, f"{len(entries)} {chained}", RECORD),
        _check(dataset, "looks", looks_faults, f"{num_looks} {chained}", RECORD),
        _check(dataset, "champion", [fault] if fault else [], named, f"{RECORD} {REBUILD}"),
        *_check_shards(dataset, chained),
    ]


def _check_shards(dataset: str, chained: str) -> list[Check]:
    """Return the check of the journal of a data set's shards, if it has any."""
    lines, faults = read_chain(shards_journal(dataset), ShardEvent)
    return [_check(dataset, "shards", faults, f"{len(lines)} {chained}", RECORD)] if lines else []


def verify_bundle(folder: Path) -> list[Check]:
    """Return the checks of the bundle in a folder: manifest, files, recipe, weights, ONNX model."""
    folder = folder.resolve()
    is_published = bundle.is_published(folder)
    subject = f"{folder.parent.name}/{folder.name}" if is_published else str(folder)
    try:
        manifest, damage = bundle.inspect_bundle(folder)
    except OSError as error:
        manifest, damage = None, [str(error)]
    if manifest is None:
        return [_check(subject, "manifest", damage)]
    of_manifest = [line for line in damage if line.startswith(f"{MANIFEST}:")]
    of_files = [line for line in damage if line not in of_manifest]
    version = f"its digest is right, and {manifest.version} is the digest of its determinants"
    megabytes = sum(entry.num_bytes for entry in manifest.files.values()) / 1e6
    files = f"{len(manifest.files)} files, {megabytes:.1f} MB, every SHA-256 is right"
    checks = [_check(subject, "manifest", of_manifest, version)]
    checks += [_check(subject, "files", of_files, files)]
    for what, needs, trial in (
        ("recipe", {RECIPE}, partial(_recipe, folder, manifest.determinants.recipe)),
        ("weights", {RECIPE, MODEL, GOLDEN}, partial(_outputs, folder, MODEL)),
        ("ONNX model", {RECIPE, MODEL, GOLDEN, ONNX}, partial(_outputs, folder, ONNX)),
    ):
        # Damaged bytes are not given to any library.
        lack = [f"the manifest has no {name}" for name in sorted(needs - {*manifest.files})]
        lack += [line for line in of_files if line.partition(":")[0] in needs]
        if lack:
            words = "; ".join(lack)
            checks += [Check(subject=subject, what=what, verdict="skipped", detail=words)]
            continue
        try:
            checks += [_check(subject, what, [], trial())]
        except Exception as error:
            words = " ".join(str(error).split())[:300] or type(error).__name__
            checks += [_check(subject, what, [words])]
    return checks


def _check(
    subject: str, what: str, faults: Sequence[str], fine: str = "", remedy: str = REBUILD
) -> Check:
    """Return the check that found `faults`, or without any the detail `fine`."""
    if not faults:
        return Check(subject=subject, what=what, verdict="ok", detail=fine)
    detail = "; ".join(faults)
    return Check(subject=subject, what=what, verdict="damaged", detail=detail, remedy=remedy)


def _recipe(folder: Path, digest: str) -> str:
    recipe = load_recipe(str(folder / RECIPE))
    if bundle.recipe_digest(recipe) != digest:
        raise ValueError(f"{RECIPE} is not the recipe that determined the version")
    return f"{recipe.name}, which determined the version"


def _outputs(folder: Path, name: str) -> str:
    """Return how far the model in the file `name` is from the golden outputs. Raises if too far."""
    from tasks.model.network import load_network
    from tasks.release.onnx_export import check_outputs
    from tasks.release.onnx_model import read_model

    images_NHW, golden_NC = bundle.read_golden(folder / GOLDEN)
    recipe, sizes = load_recipe(str(folder / RECIPE)), (images_NHW[0].size, golden_NC.shape[1])
    network = load_network(folder / MODEL, recipe.model, *sizes)
    if name == ONNX:
        found_NC = read_model((folder / name).read_bytes(), name).probabilities(images_NHW)
    else:
        found_NC = bundle.golden_output(network, images_NHW)
    return check_outputs(name, found_NC, golden_NC, network)
