"""Finding and removing what is no longer needed.

Kept are the champion and those before it (at least one, for rollbacks) with their references, the
latest versions of each data set, the latest label audits, and each stage output that one of these
was made from; and every output for a day, since its run may go on. Of a local folder without a
decision for a month, only the champion's bundle is kept, and its reference. Journals and lists of
looks are never removed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from pipeline_config.datasets import dataset_names
from pipeline_config.sections import Section
from pipeline_config.settings import settings
from tasks.release import bundle
from tasks.release.bundle import bundle_folder, published_datasets, published_versions
from tasks.release.journal import finish, read_journal, reigns_of
from tasks.release.pages import page_path
from tasks.runtime.files import locked, root_lock, storage_errors
from tasks.runtime.manifest import MANIFEST, read_regular
from tasks.runtime.stages import AUDIT, STAGES
from tasks.runtime.store import Manifest

YOUNG_S = 24 * 3600
ABANDONED = timedelta(days=30)
# The database of an embedded server that is larger than this is removed.
MAX_DATABASE_BYTES = 100 * 2**20
# What killed runs leave.
UNFINISHED = (
    *("stages/.*", "checkpoints/.*", "models/*/.*", "show/.*", "rejected/.*", "scratch/*"),
    *("data/.*", "incoming/*/.*.gone", "shards/*/.*", "quarantine/*/.*"),
    *("shards/*/*/.*", "quarantine/*/*/.*", "served/*/.*", "monitor/.*"),
)
# What is removed from a certain age on: kind, pattern, seconds, reason.
ANY, WHY = float("-inf"), "a killed run did not finish it"
LEFTOVERS = [("leftover", pattern, ANY, WHY) for pattern in UNFINISHED]
LEFTOVERS += [
    ("checkpoint", "checkpoints/[!.]*", YOUNG_S, "its training was not continued for a day"),
    ("page", "rejected/[!.]*", YOUNG_S, "the data set was refused more than a day ago"),
]


class Item(Section):
    """Something to remove: what it is, where, how large, and why it is not needed."""

    kind: str
    path: str
    num_bytes: int
    why: str


def collect(keep: int, *, dry_run: bool = False) -> list[Item]:
    """Wait until no run uses the root; remove what is not needed and return it."""
    with root_lock(exclusive=True):
        for dataset in [] if dry_run else published_datasets():
            with locked(bundle.models_lock(dataset)):
                finish(dataset)
        items = list(find_garbage(keep))
        for item in [] if dry_run else items:
            _remove(Path(item.path))
    return items


def find_garbage(keep: int) -> Iterator[Item]:
    """Yield everything that may be removed. What is kept is at the top of this module."""
    needed, month_ago = set[str](), datetime.now(UTC) - ABANDONED
    for dataset in published_datasets():
        entries, there = read_journal(dataset), published_versions(dataset)
        last = datetime.fromisoformat(entries[-1].time) if entries else None
        is_abandoned = dataset not in dataset_names() and last and last < month_ago
        num_champions = 1 if is_abandoned else 1 + max(keep, 1)
        reigns = [*islice(reigns_of(entries), num_champions)]
        kept = {name for each in reigns for name in (each.champion.version, each.reference)}
        if not is_abandoned:
            latest = list(dict.fromkeys(entry.version for entry in reversed(entries)))
            kept |= {*[version for version in latest if version in there][:keep]}
            # Versions that are not in the journal, which may have lost lines.
            kept |= {*there} - {*latest}
            for version in kept:
                needed |= _provenance(bundle_folder(dataset, version))
        for version in sorted({*there} - kept):
            # The page first: without its version it would not be found again.
            yield _item("page", page_path(dataset, version), "its version is removed")
            yield _item("version", bundle_folder(dataset, version), f"not among the last {keep}")
    yield from _unneeded_outputs(needed, keep)
    yield from _leftovers(settings().root)


def _leftovers(root: Path) -> Iterator[Item]:
    """Yield what killed runs left, what is a day old, and databases of embedded servers."""
    for kind, pattern, min_age_s, why in LEFTOVERS:
        for path in sorted(root.glob(pattern)):
            if _age_s(path) >= min_age_s:
                yield _item(kind, path, why)
    for path in sorted(root.glob("prefect/embedded-*.db")):
        # All but the first belong to runs at the same time, of which there are none now.
        if path.stem != "embedded-1" or path.stat().st_size > MAX_DATABASE_BYTES:
            for part in sorted(path.parent.glob(f"{path.stem}.*")):
                yield _item("database", part, "it is too large, or of a run that has ended")


def _provenance(folder: Path) -> set[str]:
    """Return the folder's name and the digest of each stage output that a bundle was made from."""
    try:
        manifest = bundle.BundleManifest.model_validate_json(read_regular(folder / MANIFEST))
        stages = manifest.provenance["stages"].items()
        admitted = {f"admit-{key}" for key in manifest.provenance.get("shards", {}).values()}
        return admitted | {
            name for stage, of in stages for name in (f"{stage}-{of['key']}", of["digest"])
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _unneeded_outputs(needed: set[str], keep: int) -> Iterator[Item]:
    """Yield stage outputs, Prefect's records of them, and locks, that nothing kept was made from.

    An output is needed by its name or its digest: another key may have given the same bytes.
    """
    outputs: dict[Path, Manifest | None] = {}
    for path in sorted(settings().stages.glob("[!.]*"), key=_age_s):
        outputs[path] = None
        with suppress(OSError, ValueError):
            outputs[path] = Manifest.model_validate_json(read_regular(path / MANIFEST))
    manifests = [manifest for manifest in outputs.values() if manifest]
    audits = [manifest.digest for manifest in manifests if manifest.stage == AUDIT.name]
    audited = {*audits[:keep]}
    for _ in STAGES:  # a label audit is at most that many stages away from what it was made from
        for manifest in manifests:
            if manifest.digest in audited:
                inputs = manifest.components.items()
                audited |= {str(value) for name, value in inputs if name.startswith("input ")}
    there = {bundle.models_lock(dataset) for dataset in published_datasets()} | {"root"}
    needed |= audited
    for path, made in sorted(outputs.items()):
        if {path.name, made.digest if made else ""} & needed or _age_s(path) < YOUNG_S:
            there.add(path.name)
        else:
            yield _item("stage output", path, "nothing that is kept was made from it")
    for kind, pattern in (("record", "prefect/results/*-*"), ("lock", "locks/*")):
        for path in sorted(settings().root.glob(pattern)):
            if path.stem not in there:
                yield _item(kind, path, "its stage output or data set is gone")


def _age_s(path: Path) -> float:
    return time.time() - path.lstat().st_mtime


def _item(kind: str, path: Path, why: str) -> Item:
    """Return an item with its size in bytes; 0 if it is gone."""
    num_bytes = 0
    with suppress(FileNotFoundError):
        files = (file for file in [path, *path.rglob("*")] if file.is_file())
        num_bytes = sum(file.stat().st_size for file in files)
    return Item(kind=kind, path=str(path), num_bytes=num_bytes, why=why)


def _remove(path: Path) -> None:
    """Remove a path, also on a full disk. A folder is hidden first, so no half of it is seen."""
    with storage_errors(path), suppress(FileNotFoundError):
        if path.is_dir():
            hidden = path.with_name(f".{path.name}.gone")
            shutil.rmtree(hidden, ignore_errors=True)
            path.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            path.unlink()
