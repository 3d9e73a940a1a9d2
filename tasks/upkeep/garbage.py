"""What nobody needs any more, found and cleared away.

Kept are: the champion and the last ones before it, at least one, for rollbacks; the latest versions
of each data set; the latest label audits; and every stage output that one of these was made from,
so that its reruns stay hits. Another output is kept for a day, since the run that made it may be
about to go on. Of a data set without a name (a local folder, known by its content) that no run has
decided on for a month, only the champion's bundle is kept. Journals and ledgers are never touched.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline_config.datasets import named_datasets
from pipeline_config.sections import Section
from pipeline_config.settings import settings
from tasks.bundle.contents import BundleManifest, bundle_folder, models_lock
from tasks.release.decision_page import page_path
from tasks.release.journal import Entry, champion_of, read_journal
from tasks.release.record import finish
from tasks.release.versions import published_datasets, published_versions
from tasks.runtime.files import locked, root_lock, storage_errors
from tasks.runtime.manifest import MANIFEST, read_regular
from tasks.runtime.stages import AUDIT
from tasks.runtime.store import Manifest

YOUNG_S = 24 * 3600
ABANDONED = timedelta(days=30)
# An embedded server's database that outgrew this is begun anew.
MAX_DATABASE_BYTES = 100 * 2**20


class Item(Section):
    """Something to clear away: what it is, where, how large, and why nobody needs it."""

    kind: str
    path: str
    num_bytes: int
    why: str


def collect(keep: int, *, dry_run: bool = False) -> list[Item]:
    """Clear away what nobody needs, `keep` versions of each data set apart; returns what it was.

    Waits until no run is using the root. What is gone already is no error; killed half-way, it
    leaves nothing half-there, and the next one goes on.
    """
    with root_lock(exclusive=True):
        for dataset in [] if dry_run else published_datasets():
            with locked(models_lock(dataset)):
                finish(dataset)
        items = list(find_garbage(keep))
        if not dry_run:
            for item in items:
                _remove(Path(item.path))
    return items


def find_garbage(keep: int) -> Iterator[Item]:
    """Everything that may go; see the head of this module for what stays."""
    kept = {name: _kept_versions(name, keep) for name in published_datasets()}
    for dataset, versions in kept.items():
        for version in sorted(set(published_versions(dataset)) - versions):
            # The page first: without its version nothing would lead to it any more.
            yield _item("page", page_path(dataset, version), "its version goes")
            yield _item("version", bundle_folder(dataset, version), f"not among the last {keep}")
    needed = {
        name
        for dataset, versions in kept.items()
        if not _is_abandoned(dataset, read_journal(dataset))
        for version in versions
        for name in _provenance(bundle_folder(dataset, version))
    }
    yield from _unneeded_outputs(needed, keep)
    yield from _leftovers()


def _is_abandoned(dataset: str, entries: list[Entry]) -> bool:
    """Whether a data set without a name has had no decision for a month."""
    if dataset in named_datasets() or not entries:
        return False
    return datetime.now(UTC) - datetime.fromisoformat(entries[-1].time) > ABANDONED


def _kept_versions(dataset: str, keep: int) -> set[str]:
    """Champion, former champions, the `keep` latest, and what the journal does not know yet."""
    entries = read_journal(dataset)
    if _is_abandoned(dataset, entries):
        last = champion_of(entries)
        return {last.version} if last else set()
    kept, before = set(), entries
    for _ in range(1 + max(keep, 1)):
        champion = champion_of(before)
        if champion is not None:
            kept.add(champion.version)
            before = [entry for entry in before if entry.seq < champion.since]
    latest = list(dict.fromkeys(entry.version for entry in reversed(entries)))
    there = published_versions(dataset)
    kept |= set([version for version in latest if version in there][:keep])
    return kept | (set(there) - set(latest))


def _provenance(bundle: Path) -> set[str]:
    """The folder's name and the digest of each stage that a bundle names; none if unreadable."""
    try:
        manifest = BundleManifest.model_validate_json(read_regular(bundle / MANIFEST))
        stages = manifest.provenance["stages"].items()
        return {name for stage, of in stages for name in (f"{stage}-{of['key']}", of["digest"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _outputs() -> dict[Path, Manifest | None]:
    """The manifest of every stage output, None for a damaged one; the latest output first."""
    found: dict[Path, Manifest | None] = {}
    for path in sorted(settings().stages.glob("[!.]*"), key=_age_s):
        found[path] = None
        with suppress(OSError, ValueError):
            found[path] = Manifest.model_validate_json(read_regular(path / MANIFEST))
    return found


def _audited(manifests: list[Manifest], keep: int) -> set[str]:
    """The digests of the `keep` latest label audits and of all that they were made from."""
    waiting = [manifest.digest for manifest in manifests if manifest.stage == AUDIT.name][:keep]
    found: set[str] = set()
    while waiting:
        found.add(digest := waiting.pop())
        for manifest in manifests:
            if manifest.digest == digest:
                inputs = manifest.components.items()
                waiting += [str(value) for name, value in inputs if name.startswith("input ")]
    return found


def _unneeded_outputs(needed: set[str], keep: int) -> Iterator[Item]:
    """Stage outputs, and checkpoints, records and locks, that nothing kept was made from.

    An output is needed by its name or by its digest: another key may have come to the same bytes.
    """
    outputs = _outputs()
    needed = needed | _audited([manifest for manifest in outputs.values() if manifest], keep)
    gone = set()
    for path, manifest in sorted(outputs.items()):
        if {path.name, manifest.digest if manifest else ""} & needed or _is_young(path):
            continue
        gone.add(path.name)
        yield _item("stage output", path, "nothing that is kept was made from it")
    for path in sorted(settings().checkpoints.glob("[!.]*")):
        if not _is_young(path):
            yield _item("checkpoint", path, "nobody went on with this training for a day")
    there = {path.name for path in outputs} - gone
    for path in sorted((settings().root / "prefect" / "results").glob("*-*")):
        if path.name not in there:
            yield _item("record", path, "its stage output is gone")
    there |= {models_lock(dataset) for dataset in published_datasets()} | {"root"}
    for path in sorted(settings().locks.glob("*")):
        if path.stem not in there:
            yield _item("lock", path, "nothing is there that it protects")


def _leftovers() -> Iterator[Item]:
    """What killed runs left: files and folders that were never finished, and databases."""
    root = settings()
    folders = (root.stages, root.checkpoints, *root.models.glob("*/"))
    for folder in (*folders, root.root / "show", root.root / "rejected"):
        for path in sorted(folder.glob(".*")):
            yield _item("leftover", path, "a killed run never finished it")
    for path in sorted((root.root / "rejected").glob("[!.]*")):
        if not _is_young(path):
            yield _item("page", path, "the data set was refused more than a day ago")
    for path in sorted(root.scratch.glob("*")):
        yield _item("leftover", path, "a killed run never cleared it away")
    for path in sorted((root.root / "prefect").glob("embedded-*.db")):
        is_first = path.stem == "embedded-1"
        if not is_first or path.stat().st_size > MAX_DATABASE_BYTES:
            why = "it outgrew its use" if is_first else "no run at the same time needs it now"
            for part in sorted(path.parent.glob(f"{path.stem}.{'db*' if is_first else '*'}")):
                yield _item("database", part, why)


def _is_young(path: Path) -> bool:
    """Whether it was made within a day; also what a clock set back puts into the future."""
    return _age_s(path) < YOUNG_S


def _age_s(path: Path) -> float:
    """The seconds since it was made; without end for what is gone."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return float("inf")


def _item(kind: str, path: Path, why: str) -> Item:
    return Item(kind=kind, path=str(path), num_bytes=_size(path), why=why)


def _size(path: Path) -> int:
    """The bytes of a file or of all files below a folder; 0 for what is gone."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _remove(path: Path) -> None:
    """Remove a file, or a folder by first moving it out of sight, so that no half of it is seen.

    Needs no room: on a full disk this is what is called for.
    """
    with storage_errors(path), suppress(FileNotFoundError):
        if path.is_dir():
            hidden = path.with_name(f".{path.name}.gone")
            shutil.rmtree(hidden, ignore_errors=True)
            path.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        else:
            path.unlink()
