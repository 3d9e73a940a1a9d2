"""The store of stage outputs: one immutable folder for each key, complete and verified or absent.

A folder `stages/<stage>-<key>/` holds the stage's files and `manifest.json`, which names each file
with its SHA-256, the facts that later stages read, and the components of the key. Prefect's record
of an output only points to it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline_config.datasets import Dataset
from pipeline_config.sections import Record, Section
from pipeline_config.settings import settings
from tasks.runtime.files import built_aside, canonical_json, digest_of, locked
from tasks.runtime.keys import Change, Components, changes_between, components_of, key_of
from tasks.runtime.manifest import (
    MANIFEST,
    FileEntry,
    damaged_files,
    list_files,
    read_regular,
    read_sealed,
    sealed,
)
from tasks.runtime.outcomes import Outcome, State, record
from tasks.runtime.stages import Stage

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
    """When a stage ran and for how long: outside every digest."""

    started: str
    seconds: float


class Manifest(Record):
    """What is in an output's folder and what it was made from.

    `digest` covers files and facts. The file has a `seal` besides, which covers everything.
    `dataset` is the name of the data set.
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
    """What the store holds for a stage and its inputs. `ref` is None unless it may be reused."""

    stage: Stage
    components: Components
    key: str
    ref: StageRef | None
    damage: tuple[str, ...]
    changes: tuple[Change, ...]
    reason: str

    @property
    def folder(self) -> Path:
        """Where the output lies or will lie."""
        return folder_of(self.stage.name, self.key)

    def outcome(self, state: State, since: float) -> Outcome:
        """Return the stage's outcome; `since` is the perf_counter at its start."""
        seconds, path = round(time.perf_counter() - since, 3), str(self.folder)
        return Outcome(self.stage.name, state, seconds, self.key, path, self.reason, self.changes)


def folder_of(stage: str, key: str) -> Path:
    """Return the folder of an output, which need not exist."""
    return settings().stages / f"{stage}-{key}"


def output_name(aside: Path) -> str:
    """Return the name `<stage>-<key>` of the output that is being built in the folder `aside`."""
    return aside.name.removeprefix(".").rpartition(".")[0]


def inspect(folder: Path) -> tuple[Manifest | None, list[str]]:
    """Return the manifest of an output and its damage; (None, []) where nothing is there.

    Every file is hashed.
    """
    if not folder.exists():
        return None, []
    try:
        found, is_intact = read_sealed(read_regular(folder / MANIFEST), "seal")
        manifest = Manifest.model_validate(found)
    except (OSError, ValueError):
        return None, [f"{MANIFEST}: missing or unreadable"]
    damage = [] if is_intact else [f"{MANIFEST}: changed"]
    name = f"{manifest.stage}-{key_of(manifest.components)}"
    if folder.name != name or manifest.key != key_of(manifest.components):
        damage.append(f"{MANIFEST}: of another key")
    return manifest, damage + damaged_files(folder, manifest.files)


def look(stage: Stage, inputs: Mapping[str, Any], *, refresh: bool = False) -> Lookup:
    """Look up and verify the output for `inputs`; without a usable one, say why."""
    components = components_of(stage, inputs)
    key = key_of(components)
    manifest, damage = inspect(folder_of(stage.name, key))
    ref, changes, reason = None, tuple[Change, ...](), "found intact"
    if damage:
        reason = "damaged: " + "; ".join(damage)
    elif refresh:
        reason = "refresh was requested"
    elif manifest is not None:
        ref = manifest.ref
    else:
        earlier = _nearest(stage, components, _dataset_of(inputs))
        changes = changes_between(earlier, components) if earlier else ()
        more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
        reason = "; ".join(map(str, changes[:3])) + more or "first run of this data set"
    return Lookup(stage, components, key, ref, tuple(damage), changes, reason)


def build(
    stage: Stage,
    inputs: Mapping[str, Any],
    write: Callable[[Path], Facts],
    *,
    refresh: bool = False,
) -> StageRef:
    """Return the output for `inputs`, made by `write(folder)` unless an intact one is there.

    `write` fills the folder and returns facts for later stages: JSON, no times, no absolute paths.
    Writers of one key wait for each other. A damaged output is replaced, with a warning.
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
            facts = write(aside)
            files = list_files(aside)
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
            content = sealed(manifest.model_dump(mode="json"), "seal")
            (aside / MANIFEST).write_bytes(canonical_json(content))
    record(found.outcome("ran", since))
    return manifest.ref


def _dataset_of(inputs: Mapping[str, Any]) -> str:
    """Return the name of the data set of a stage's inputs, from their manifests if need be."""
    for value in inputs.values():
        first = value[0] if isinstance(value, tuple) and value else value
        if isinstance(first, Dataset):
            return first.name
        if isinstance(first, StageRef) and (first.path / MANIFEST).is_file():
            return first.manifest.dataset
    return ""


def _nearest(stage: Stage, components: Components, dataset: str) -> Components | None:
    """Return the components of the data set's earlier output that differ least, or the latest."""
    earlier: list[tuple[int, float, Components]] = []
    for path in settings().stages.glob(f"{stage.name}-*/{MANIFEST}"):
        try:
            content = json.loads(read_regular(path))
            if content.get("dataset", "") == dataset:
                num_changes = len(changes_between(content["components"], components))
                earlier.append((num_changes, -path.stat().st_mtime, content["components"]))
        except (OSError, ValueError, KeyError):
            continue
    return min(earlier, key=lambda each: each[:2])[2] if earlier else None
