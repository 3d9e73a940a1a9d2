"""The shards of a data set: new labelled rows, and the journal that says which of them train.

A shard is named by its rows, whatever file they came in and in whatever order. Its rows lie in
`shards/DATASET/DIGEST/`, those of a quarantined shard in `quarantine/DATASET/DIGEST/`. The journal
`shards/DATASET/journal.jsonl` is a chain of lines. It decides; a folder at another place than it
says is moved by the next command.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline_config.datasets import FILES
from pipeline_config.sections import ConfigError, Section
from pipeline_config.settings import settings
from tasks.raw.idx import read_idx, write_idx
from tasks.runtime.files import built_aside, locked, write_atomically
from tasks.runtime.manifest import Line, append_line, read_chain

# The files of a shard are named as those of a training split.
IMAGES, LABELS = FILES[:2]
# The events. `released`: a person overruled the quarantine; `retracted`: it trains no longer.
ADMITTED, QUARANTINED = "admitted", "quarantined"
RELEASED, RETRACTED = "released", "retracted"
DIGITS = 16


class ShardEvent(Line):
    """A line of the journal of a data set's shards; `reason` is the finding, or a person's why."""

    time: str
    event: str
    shard: str
    rows: int
    reason: str


class Shard(Section):
    """A shard of a data set. Its digest covers images and labels, in any order of the rows.

    `released`: a person lets it train whatever admission finds.
    """

    dataset: str
    digest: str
    released: bool = False

    @property
    def path(self) -> Path:
        """The folder of its rows."""
        return settings().root / "shards" / self.dataset / self.digest

    @property
    def quarantine(self) -> Path:
        """The folder of its rows while it is quarantined."""
        return settings().root / "quarantine" / self.dataset / self.digest


def shards_journal(dataset: str) -> Path:
    """Return the path of the journal of a data set's shards."""
    return settings().root / "shards" / dataset / "journal.jsonl"


def read_events(dataset: str) -> list[ShardEvent]:
    """Return the events of a data set's shards, oldest first. A damaged line is skipped."""
    lines, _ = read_chain(shards_journal(dataset), ShardEvent)
    return [event for event in lines if event is not None]


def standing(dataset: str) -> dict[str, ShardEvent]:
    """Return the last event of each shard, in the order in which they were judged first."""
    return {event.shard: event for event in read_events(dataset)}


def retracted_shards(dataset: str) -> dict[str, str]:
    """Return the shards that train no longer, with the time of their retraction."""
    known = standing(dataset).items()
    return {name: last.time for name, last in known if last.event == RETRACTED}


def training_shards(dataset: str) -> tuple[Shard, ...]:
    """Return the shards that train: admitted or released, and those that are not judged yet."""
    known = {name: last.event for name, last in standing(dataset).items()}
    folders = sorted(shards_journal(dataset).parent.glob(f"[!.]*/{IMAGES}"))
    known |= {path.parent.name: "" for path in folders if path.parent.name not in known}
    return tuple(
        Shard(dataset=dataset, digest=name, released=event == RELEASED)
        for name, event in known.items()
        if event in (ADMITTED, RELEASED, "")
    )


def arrive(dataset: str, images_NHW: NDArray[np.uint8], labels_N: NDArray[np.uint8]) -> Shard:
    """Return the shard with these rows, written unless it is there. The next run judges it."""
    shard = Shard(dataset=dataset, digest=_digest_of(images_NHW, labels_N))
    with locked(f"shards-{dataset}"):
        if not shard.path.exists() and not shard.quarantine.exists():
            with built_aside(shard.path) as aside:
                write_idx(aside / IMAGES, np.ascontiguousarray(images_NHW))
                write_idx(aside / LABELS, labels_N.astype(np.uint8))
    return shard


def read_shard(shard: Shard) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the images (N, H, W) and labels (N,). Raises ConfigError if they are not its rows."""
    images_NHW, labels_N = read_idx(shard.path / IMAGES), read_idx(shard.path / LABELS)
    if _digest_of(images_NHW, labels_N) != shard.digest:
        remedy = f"Retract it: idxflow data retract {shard.dataset} {shard.digest} --why …"
        expected = "the rows that it is named by"
        raise ConfigError(shard.path, found="other rows", expected=expected, remedy=remedy)
    return images_NHW, labels_N


def decide(
    shard: Shard, event: str, reason: str, rows: int | None = None, page: bytes | None = None
) -> bool:
    """Append an event, unless it changes nothing; return whether it did.

    Admission judges a shard once; its `page` is kept beside the rows. `rows` is their number, by
    default the one known.
    """
    with locked(f"shards-{shard.dataset}"):
        events = read_events(shard.dataset)
        last = next((each for each in reversed(events) if each.shard == shard.digest), None)
        is_judged = last is not None and event in (ADMITTED, QUARANTINED)
        is_new = not is_judged and (last is None or last.event != event)
        if is_new:
            if page is not None:
                write_atomically(shard.path / "report.html", page)
            count = rows if rows is not None else last.rows if last else 0
            time = datetime.now(UTC).isoformat(timespec="seconds")
            facts = {"event": event, "shard": shard.digest, "rows": count, "reason": reason}
            line = ShardEvent(time=time, **facts)
            append_line(shards_journal(shard.dataset), line, events[-1] if events else None)
        place(shard.dataset)
    return is_new


def place(dataset: str) -> None:
    """Move each shard's folder to where the journal says. The caller holds the shards' lock."""
    for name, last in standing(dataset).items():
        shard = Shard(dataset=dataset, digest=name)
        here, there = shard.path, shard.quarantine
        if last.event != QUARANTINED:
            here, there = there, here
        if here.exists() and not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            here.rename(there)


def find_shard(dataset: str, text: str) -> Shard:
    """Return the shard whose digest begins with `text`. Raises ConfigError for none or several."""
    folders = settings().root.glob(f"*/{dataset}/[!.]*/{IMAGES}")
    known = {*standing(dataset), *(path.parent.name for path in folders)}
    names = sorted(name for name in known if text and name.startswith(text))
    if len(names) == 1:
        return Shard(dataset=dataset, digest=names[0])
    found, remedy = ", ".join(names) or "no such shard", f"See `idxflow data history {dataset}`."
    expected = f"one shard of {dataset}"
    raise ConfigError(f"shard {text!r}", found=found, expected=expected, remedy=remedy)


def _digest_of(images_NHW: NDArray[np.uint8], labels_N: NDArray[np.uint8]) -> str:
    """Return the first digits of the SHA-256 over the sorted rows."""
    rows = sorted(
        hashlib.sha256(image.tobytes()).digest() + bytes([label])
        for image, label in zip(images_NHW, labels_N, strict=True)
    )
    shape = repr(images_NHW.shape[1:]).encode()
    return hashlib.sha256(shape + b"".join(rows)).hexdigest()[:DIGITS]
