"""The store of stage outputs: one immutable folder a key, whole and verified or not there at all.

A folder `stages/<stage>-<key>/` holds the stage's files and `manifest.json`, which names each file
with its SHA-256, the facts that later stages read, and the components of the key. The manifest is
the truth; whatever Prefect remembers is only a pointer to it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline_config.datasets import Dataset
from pipeline_config.settings import settings
from tasks.runtime.files import built_aside, canonical_json, digest_of, locked
from tasks.runtime.keys import Components, components_of, key_of
from tasks.runtime.manifest import (
    MANIFEST,
    Clock,
    Facts,
    Manifest,
    StageRef,
    digested,
    folder_of,
    inspect,
    list_files,
    read_regular,
)
from tasks.runtime.outcomes import Outcome, record
from tasks.runtime.stages import Stage

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """One component of a key that is not what it was; digests are shortened to eight digits."""

    component: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.component}: {self.old} → {self.new}"


@dataclass(frozen=True)
class Finding:
    """What the store holds for a stage and its inputs; `ref` is None unless it may be reused."""

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

    def outcome(self, state: Literal["ran", "cached"], since: float) -> Outcome:
        """What to record of the stage; `since` is the perf_counter at its start."""
        seconds = round(time.perf_counter() - since, 3)
        return Outcome(self.stage.name, state, seconds, self.key, str(self.folder), self.reason)


def look(stage: Stage, inputs: Mapping[str, Any], *, refresh: bool = False) -> Finding:
    """What is there for `inputs`, verified to the bit, and if nothing usable is, why."""
    components = components_of(stage, inputs)
    key = key_of(components)
    manifest, damage = inspect(folder_of(stage.name, key))
    changes: tuple[Change, ...] = ()
    ref = None
    if damage:
        reason = "damaged: " + "; ".join(damage)
    elif refresh:
        reason = "asked for"
    elif manifest is not None:
        ref, reason = manifest.ref, "found intact"
    else:
        changes = _changes(stage, components, _dataset_of(inputs))
        reason = _in_words(changes)
    return Finding(stage, components, key, ref, tuple(damage), changes, reason)


def build(
    stage: Stage,
    inputs: Mapping[str, Any],
    write: Callable[[Path], Facts],
    *,
    refresh: bool = False,
) -> StageRef:
    """The output of `stage` for `inputs`, made by `write(folder)` unless it is there and intact.

    `write` fills the folder that it is given and returns facts for later stages (JSON, no times, no
    absolute paths). Writers of one key wait for each other; what appears is whole. A damaged output
    is replaced, saying so.
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
            manifest = Manifest(
                stage=stage.name,
                key=key,
                dataset=_dataset_of(inputs),
                components=found.components,
                files=files,
                facts=facts,
                digest=digest_of(digested(files, facts)),
                clock=Clock(
                    started=started.isoformat(timespec="seconds"),
                    seconds=round(time.perf_counter() - since, 3),
                ),
            ).sealed()
            (aside / MANIFEST).write_bytes(canonical_json(manifest.model_dump(mode="json")))
    record(found.outcome("ran", since))
    return manifest.ref


def _in_words(changes: tuple[Change, ...]) -> str:
    """The changes in one line; many at once mean other data, and three of them say so."""
    if not changes:
        return "first run of this data set"
    more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
    return "; ".join(map(str, changes[:3])) + more


def _dataset_of(inputs: Mapping[str, Any]) -> str:
    """The name of the data set that a stage works on, from its inputs or from their manifests."""
    for value in inputs.values():
        first = value[0] if isinstance(value, tuple) and value else value
        if isinstance(first, Dataset):
            return first.name
        if isinstance(first, StageRef) and (first.path / MANIFEST).is_file():
            return first.manifest.dataset
    return ""


def _changes(stage: Stage, components: Components, dataset: str) -> tuple[Change, ...]:
    """What differs from the data set's earlier output that differs least; nothing without one.

    Of equally near ones the latest counts.
    """
    earlier: list[tuple[int, float, Components]] = []
    for path in settings().stages.glob(f"{stage.name}-*/{MANIFEST}"):
        try:
            told = json.loads(read_regular(path))
            other = told["components"]
        except (OSError, ValueError, KeyError):
            continue
        if told.get("dataset", "") != dataset:
            continue
        names = other.keys() | components.keys()
        distance = sum(other.get(name) != components.get(name) for name in names)
        earlier.append((distance, -path.stat().st_mtime, other))
    if not earlier:
        return ()
    nearest = min(earlier, key=lambda candidate: candidate[:2])[2]
    return tuple(
        Change(name, _short(nearest.get(name, "none")), _short(components.get(name, "none")))
        for name in sorted(nearest.keys() | components.keys())
        if nearest.get(name) != components.get(name)
    )


def _short(value: object) -> str:
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:8] if is_digest else text
