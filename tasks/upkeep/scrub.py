"""Everything under the root, checked to the bit: what is damaged, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline_config.sections import Section
from pipeline_config.settings import settings
from tasks.bundle.contents import models_lock
from tasks.release.decision_page import stale_pages
from tasks.release.journal import (
    champion_of,
    journal_faults,
    looks_faults,
    pointer_fault,
    read_journal,
)
from tasks.release.record import finish
from tasks.release.versions import published_datasets, published_versions
from tasks.runtime.files import locked, root_lock, write_atomically
from tasks.runtime.store import inspect
from tasks.upkeep.verify import bundle_folders, verify_bundle

LOST = "nothing brings it back: put the file back from a copy, or leave it; what is whole counts"


class Damage(Section):
    """One thing that is not as it was written, and what the next run does about it."""

    what: str
    found: str
    remedy: str


class Scrubbed(Section):
    """How much was looked at, by kind, and what of it is damaged."""

    looked_at: dict[str, int]
    damage: tuple[Damage, ...]


def scrub() -> Scrubbed:
    """Check every stage output, bundle, journal, pointer, page, ledger and checkpoint."""
    root = settings()
    with root_lock():
        datasets = published_datasets()
        versions = [(name, path.name) for name in datasets for path in bundle_folders(name)]
        outputs = sorted(root.stages.glob("[!.]*"))
        checkpoints = sorted(root.checkpoints.glob("[!.]*"))
        damage = [
            *(each for path in outputs for each in _of_output(path)),
            *(each for version in versions for each in _of_version(*version)),
            *(each for name in datasets for each in _of_registry(name)),
            *(each for path in checkpoints for each in _of_checkpoint(path)),
        ]
    looked_at = {
        "stage outputs": len(outputs),
        "versions": len(versions),
        "journals": len(datasets),
        "checkpoints": len(checkpoints),
    }
    return Scrubbed(looked_at=looked_at, damage=tuple(damage))


def _of_output(path: Path) -> Iterator[Damage]:
    manifest, damage = inspect(path)
    if damage:
        stage = manifest.stage if manifest else path.name.partition("-")[0]
        remedy = f"the next run that needs it runs {stage} again"
        yield Damage(what=f"stages/{path.name}", found="; ".join(damage), remedy=remedy)


def _of_version(dataset: str, version: str) -> Iterator[Damage]:
    folder = settings().models / dataset / version
    bad = [check for check in verify_bundle(folder) if check.verdict == "damaged"]
    if bad:
        found = "; ".join(f"{check.what}: {check.detail}" for check in bad)
        remedy = "the next run that makes this version builds its bundle again"
        yield Damage(what=f"models/{dataset}/{version}", found=found, remedy=remedy)


def _of_registry(dataset: str) -> list[Damage]:
    """What is wrong beside the bundles, once what a killed command left undone is finished."""
    with locked(models_lock(dataset)):
        finish(dataset)
        return list(_beside_the_bundles(dataset))


def _beside_the_bundles(dataset: str) -> Iterator[Damage]:
    for name, faults, remedy in (
        ("journal.jsonl", journal_faults(dataset), LOST),
        ("looks.jsonl", looks_faults(dataset), LOST),
    ):
        if faults:
            yield Damage(what=f"models/{dataset}/{name}", found="; ".join(faults), remedy=remedy)
    entries = read_journal(dataset)
    fault = pointer_fault(dataset, entries)
    if fault:
        remedy = "the next run on this data set brings it in line with the journal"
        yield Damage(what=f"models/{dataset}/champion.json", found=fault, remedy=remedy)
    champion = champion_of(entries)
    if champion and champion.version not in published_versions(dataset):
        remedy = "running its recipe again builds it; `idxflow models rollback` goes back"
        found = "the champion's bundle is gone"
        yield Damage(what=f"models/{dataset}/{champion.version}", found=found, remedy=remedy)
    for path, content in stale_pages(dataset, entries, published_versions(dataset)):
        write_atomically(path, content)
        found = "a page that was missing or did not say what the journal says"
        yield Damage(what=f"models/{dataset}/{path.name}", found=found, remedy="written again")


def _of_checkpoint(path: Path) -> Iterator[Damage]:
    from tasks.model.checkpoint import Checkpoint

    if path.is_file() and Checkpoint(path, 0).load() is None:
        yield Damage(
            what=f"checkpoints/{path.name}",
            found="a file that is not what was saved",
            remedy="that training begins anew",
        )
