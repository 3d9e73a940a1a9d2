"""The store of stage outputs: one immutable folder for each key, complete and verified or absent.

A folder `stages/<stage>-<key>/` holds the stage's files and `manifest.json`, which names each file
with its SHA-256, the facts that later stages read, and the components of the key.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline_config.datasets import Dataset
from pipeline_config.sections import Record, Section
from pipeline_config.settings import settings
from tasks.runtime import manifest as manifests
from tasks.runtime.files import built_aside, canonical_json, digest_of, locked
from tasks.runtime.manifest import MANIFEST, FileEntry, read_regular
from tasks.runtime.show import Outcome, State, record
from tasks.runtime.stages import Change, Components, Stage, changes_between, components_of, key_of

logger = logging.getLogger(__name__)

Facts = dict[str, Any]


class StageRef(Section):
    """A small reference to a stage's output. `digest` covers its files and facts."""

    stage: str
    key: str
    digest: str

    @property
    def path(self) -> Path:
        """The folder of the output."""
        return folder_of(self.stage, self.key)

    @property
    def facts(self) -> Facts:
        """The facts that the stage returned for later stages."""
        return self.manifest.facts

    @property
    def manifest(self) -> Manifest:
        """The manifest, as it is on disk."""
        return Manifest.model_validate_json((self.path / MANIFEST).read_bytes())


class Clock(Record):
    """When a stage ran and for how long. No digest covers it."""

    started: str
    seconds: float


class Manifest(Record):
    """What is in an output's folder, and what the output was made from.

    `digest` covers files and facts. The file also has a `seal`, which covers everything.
    """

    stage: str
    key: str
    dataset: str = ""
    components: Components
    files: dict[str, FileEntry]
    facts: Facts
    digest: str
    clock: Clock

    @property
    def ref(self) -> StageRef:
        """The reference to this output."""
        return StageRef(stage=self.stage, key=self.key, digest=self.digest)


@dataclass(frozen=True)
class Lookup:
    """What the store holds for a stage and its inputs. `ref` is None where none is reused."""

    components: Components
    folder: Path
    ref: StageRef | None
    damage: list[str]
    changes: tuple[Change, ...]
    reason: str

    def outcome(self, state: State, since: float) -> Outcome:
        """Return the stage's outcome; `since` is the perf_counter at its start."""
        name, _, key = self.folder.name.rpartition("-")
        seconds, path = round(time.perf_counter() - since, 3), str(self.folder)
        return Outcome(name, state, seconds, key, path, self.reason, self.changes)


def folder_of(stage: str, key: str) -> Path:
    """Return the folder of an output, which need not exist."""
    return settings().stages / f"{stage}-{key}"


def output_name(aside: Path) -> str:
    """Return the name `<stage>-<key>` of the output that is being built in the folder `aside`."""
    return aside.name


def inspect(folder: Path) -> tuple[Manifest | None, list[str]]:
    """Return an output's manifest and its damage, with every file hashed; (None, []) for none."""
    if not folder.exists():
        return None, []
    try:
        found, is_intact = manifests.read_sealed(read_regular(folder / MANIFEST), "seal")
        manifest = Manifest.model_validate(found)
    except (OSError, ValueError):
        return None, [f"{MANIFEST}: missing or unreadable"]
    damage = [] if is_intact else [f"{MANIFEST}: changed"]
    key = key_of(manifest.components)
    if (folder.name, manifest.key) != (f"{manifest.stage}-{key}", key):
        damage.append(f"{MANIFEST}: of another key")
    return manifest, damage + manifests.damaged_files(folder, manifest.files)


def look(stage: Stage, inputs: Mapping[str, Any], *, refresh: bool = False) -> Lookup:
    """Look up and verify the output for `inputs`; `reason` says why there is none to reuse."""
    components = components_of(stage, inputs)
    folder = folder_of(stage.name, key_of(components))
    manifest, damage = inspect(folder)
    ref, changes, reason = None, tuple[Change, ...](), "found intact"
    if damage:
        reason = "damaged: " + "; ".join(damage)
    elif refresh:
        reason = "refresh was requested"
    elif manifest is not None:
        ref = manifest.ref
    else:
        changes = _changes_since_nearest(stage, components, _dataset_of(inputs))
        more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
        reason = "; ".join(map(str, changes[:3])) + more or "first run of this data set"
    return Lookup(components, folder, ref, damage, changes, reason)


def build(
    stage: Stage,
    inputs: Mapping[str, Any],
    write: Callable[[Path], Facts],
    *,
    refresh: bool = False,
) -> StageRef:
    """Return the output for `inputs`; `write(folder)` makes it unless there is an intact one.

    `write` fills the folder and returns facts for later stages: JSON, no times, no absolute paths.
    One process at a time builds a key.
    """
    started, since = datetime.now(UTC), time.perf_counter()
    key = key_of(components_of(stage, inputs))
    with locked(f"{stage.name}-{key}"):
        found = look(stage, inputs, refresh=refresh)
        if found.ref is not None:
            record(found.outcome("cached", since))
            return found.ref
        if found.damage:
            logger.warning("%s is run again: %s", stage.name, found.reason)
        with built_aside(found.folder) as aside:
            facts, files = write(aside), manifests.list_files(aside)
            covered = {name: entry.model_dump() for name, entry in files.items()}
            seconds = round(time.perf_counter() - since, 3)
            manifest = Manifest(
                stage=stage.name,
                key=key,
                dataset=_dataset_of(inputs),
                components=found.components,
                files=files,
                facts=facts,
                digest=digest_of({"files": covered, "facts": facts}),
                clock=Clock(started=started.isoformat(timespec="seconds"), seconds=seconds),
            )
            content = manifests.sealed(manifest.model_dump(mode="json"), "seal")
            (aside / MANIFEST).write_bytes(canonical_json(content))
    record(found.outcome("ran", since))
    return manifest.ref


def _dataset_of(inputs: Mapping[str, Any]) -> str:
    """Return the name of the data set among a stage's inputs, or in the manifest of one."""
    for value in inputs.values():
        first = value[0] if isinstance(value, tuple) and value else value
        if isinstance(first, Dataset):
            return first.name
        if isinstance(first, StageRef) and (first.path / MANIFEST).is_file():
            return first.manifest.dataset
    return ""


def _changes_since_nearest(
    stage: Stage, components: Components, dataset: str
) -> tuple[Change, ...]:
    """Return the changes since the data set's output that differs least, the latest of equals."""
    changes: dict[tuple[int, float], tuple[Change, ...]] = {}
    for path in settings().stages.glob(f"{stage.name}-*/{MANIFEST}"):
        with suppress(OSError, ValueError):
            manifest = Manifest.model_validate_json(read_regular(path))
            if manifest.dataset == dataset:
                found = changes_between(manifest.components, components)
                changes[len(found), -path.stat().st_mtime] = found
    return changes[min(changes)] if changes else ()
