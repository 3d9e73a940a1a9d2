"""The store of stage outputs: one immutable folder a key, whole and verified or not there at all.

A folder `stages/<stage>-<key>/` holds the stage's files and `manifest.json`, which names each file
with its SHA-256, the facts that later stages read, and the components of the key. The manifest is
the truth; whatever Prefect remembers is only a pointer to it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError as PydanticError

from pipeline_config.base import Section
from pipeline_config.settings import settings
from tasks.runtime.files import built_aside, canonical_json, digest_of, locked, sha256_file
from tasks.runtime.keys import Components, components_of, key_of
from tasks.runtime.stages import Stage

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
Facts = dict[str, Any]


class StageRef(Section):
    """A small reference to a stage's output; `digest` covers its files and facts, nothing else."""

    stage: str
    key: str
    digest: str

    @property
    def path(self) -> Path:
        """The folder of the output."""
        return folder_of(self.stage, self.key)

    @property
    def facts(self) -> Facts:
        """What the stage wrote down for those behind it."""
        return self.manifest.facts

    @property
    def manifest(self) -> Manifest:
        """The manifest, as it stands on disk."""
        return Manifest.model_validate_json((self.path / MANIFEST).read_bytes())


class FileEntry(Section):
    """One file of an output."""

    sha256: str
    num_bytes: int


class Clock(Section):
    """When a stage ran and how long it took: outside every digest."""

    started: str
    seconds: float


class Manifest(Section):
    """The truth about one stage output; `digest` covers files and facts, `seal` all of this."""

    stage: str
    key: str
    components: Components
    files: dict[str, FileEntry]
    facts: Facts
    digest: str
    clock: Clock
    seal: str = ""

    def sealed(self) -> Manifest:
        """The manifest with the SHA-256 of all the rest of it as its seal."""
        content = self.model_dump(mode="json", exclude={"seal"})
        return self.model_copy(update={"seal": digest_of(content)})

    @property
    def ref(self) -> StageRef:
        """The reference to hand on."""
        return StageRef(stage=self.stage, key=self.key, digest=self.digest)


@dataclass(frozen=True)
class Outcome:
    """What became of one stage in one run."""

    name: str
    state: Literal["ran", "cached"]
    seconds: float
    key: str
    path: str
    reason: str


@dataclass
class Ledger:
    """The outcomes of one run, in order; a stage told of twice keeps its first outcome."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome unless the stage has one."""
        self.outcomes.setdefault(outcome.name, outcome)


_ledger: ContextVar[Ledger | None] = ContextVar("ledger", default=None)


@contextmanager
def recording() -> Iterator[Ledger]:
    """Collect the outcomes of every stage that runs or is found inside."""
    ledger = Ledger()
    token = _ledger.set(ledger)
    try:
        yield ledger
    finally:
        _ledger.reset(token)


def record(outcome: Outcome) -> None:
    """Say what became of a stage, in the log and to the run that is recording, if one is."""
    logger.info(
        "%-9s %-6s %6.1f s  %s", outcome.name, outcome.state, outcome.seconds, outcome.reason
    )
    ledger = _ledger.get()
    if ledger is not None:
        ledger.add(outcome)


def folder_of(stage: str, key: str) -> Path:
    """Where the output of `stage` with `key` lies, whether or not it is there."""
    return settings().stages / f"{stage}-{key}"


def inspect(folder: Path) -> tuple[Manifest | None, list[str]]:
    """The manifest of an output and its damage, file by file; (None, []) where nothing is there.

    Every file is hashed: an intact output is intact to the bit.
    """
    if not folder.exists():
        return None, []
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        manifest = Manifest.model_validate_json(content)
    except (OSError, PydanticError):
        return None, [f"{MANIFEST}: missing or unreadable"]
    damage = []
    if canonical_json(manifest.sealed().model_dump(mode="json")) != content:
        damage.append(f"{MANIFEST}: changed")
    if folder.name != f"{manifest.stage}-{manifest.key}" or manifest.key != key_of(
        manifest.components
    ):
        damage.append(f"{MANIFEST}: of another key")
    damage += damaged_files(folder, manifest.files)
    return manifest, damage


def damaged_files(folder: Path, files: Mapping[str, FileEntry]) -> list[str]:
    """What differs between a folder and the files that its manifest names, a line a file."""
    damage = []
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            damage.append(f"{name}: missing")
        elif path.stat().st_size != entry.num_bytes:
            damage.append(f"{name}: {path.stat().st_size} bytes instead of {entry.num_bytes}")
        elif sha256_file(path) != entry.sha256:
            damage.append(f"{name}: its SHA-256 changed")
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    return damage + [
        f"{name}: not in the manifest" for name in sorted(present - {*files, MANIFEST})
    ]


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Every file below `folder` but the manifest, by relative path, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): FileEntry(
            sha256=sha256_file(path), num_bytes=path.stat().st_size
        )
        for path in paths
        if path.name != MANIFEST
    }


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
        changes = _changes(stage, components)
        reason = "; ".join(map(str, changes)) or "never run before"
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
                components=found.components,
                files=files,
                facts=facts,
                digest=digest_of(_digested(files, facts)),
                clock=Clock(
                    started=started.isoformat(timespec="seconds"),
                    seconds=round(time.perf_counter() - since, 3),
                ),
            ).sealed()
            (aside / MANIFEST).write_bytes(canonical_json(manifest.model_dump(mode="json")))
    record(found.outcome("ran", since))
    return manifest.ref


def _changes(stage: Stage, components: Components) -> tuple[Change, ...]:
    """What differs from the earlier output that differs least; nothing if there is none.

    Of equally near ones the latest counts.
    """
    earlier: list[tuple[int, float, Components]] = []
    for path in settings().stages.glob(f"{stage.name}-*/{MANIFEST}"):
        try:
            other = json.loads(path.read_bytes())["components"]
        except (OSError, ValueError, KeyError):
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


def _digested(files: Mapping[str, FileEntry], facts: Facts) -> dict[str, Any]:
    return {"files": {name: entry.model_dump() for name, entry in files.items()}, "facts": facts}


def _short(value: object) -> str:
    text = str(value)
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:8] if is_digest else text
