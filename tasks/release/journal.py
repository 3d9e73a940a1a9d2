"""The journal of a data set's decisions, what follows from it, and the looks at the test rows.

`journal.jsonl` is a chain (`tasks/runtime/manifest.py`) with a line for each decision. A decision
is appended first; then the pages are written, and last `champion.json`, which repeats the last line
for other programs. So the next command completes what a killed one left. The journal decides,
unless it is shorter than `champion.json` says: then it has lost its end.

The caller of a function that writes holds the data set's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipeline_config.sections import Record
from pipeline_config.settings import settings
from tasks.release.gate import Judgement
from tasks.release.pages import stale_pages
from tasks.runtime.files import canonical_json, write_atomically
from tasks.runtime.manifest import Line, append_line, read_chain, read_regular, read_sealed, sealed

logger = logging.getLogger(__name__)

# The events of a journal. `kept`: not judged, since the recipe does not compete. `adopted`: the
# journal had lost its end, and `champion.json` named this version.
PROMOTED, REFUSED, KEPT = "promoted", "refused", "kept"
FORCED, ROLLED_BACK, ADOPTED = "forced", "rolled back", "adopted"
# It passed the gate and waits for a person; a person promoted it then.
WAITING, APPROVED = "waiting", "approved"
NOT_PROMOTED = (REFUSED, KEPT, WAITING)
# The Prefect event of a new decision.
EVENTS = {
    REFUSED: "idxflow.gate.refused",
    WAITING: "idxflow.promotion.waiting",
    ROLLED_BACK: "idxflow.model.rolled-back",
    **dict.fromkeys((PROMOTED, FORCED, APPROVED), "idxflow.model.promoted"),
}


class Scored(Record):
    """A published version. `accuracy` is on its own test split."""

    version: str
    recipe: str
    accuracy: float


class Candidate(Scored):
    """A version that may become champion; `by_hand`: if it passes, it waits for a person."""

    competes: bool
    by_hand: bool = False


class Champion(Scored):
    """A champion. `since` is the `seq` of the journal's line that first made it champion."""

    since: int


class Entry(Line, Scored):
    """A line of the journal. `champion` is the champion after it, `why` a person's reason.

    `reference` is the version that candidates are compared with after it. Earlier versions of this
    project wrote none, and compared with the champion.
    """

    seq: int
    time: str
    event: str
    champion: Champion | None
    reference: str | None = None
    reason: str
    why: str | None = None
    gate: Judgement | None = None


class Reign(NamedTuple):
    """A champion, and the version that candidates were compared with last."""

    champion: Champion
    reference: str


class Pointer(Record):
    """The content of `champion.json`: the champion, and the journal's last line and its digest."""

    champion: Champion
    reference: str | None = None
    seq: int
    journal: str


def journal_path(dataset: str) -> Path:
    """Return the path of a data set's journal."""
    return settings().models / dataset / "journal.jsonl"


def pointer_path(dataset: str) -> Path:
    """Return the path of a data set's `champion.json`."""
    return settings().models / dataset / "champion.json"


def read_journal(dataset: str) -> list[Entry]:
    """Return the intact entries, oldest first. Damaged lines are skipped with a warning."""
    lines, _ = read_chain(journal_path(dataset), Entry)
    for number, entry in enumerate(lines, 1):
        if entry is None:
            logger.warning("%s: line %d is damaged and skipped", journal_path(dataset), number)
    return [entry for entry in lines if entry is not None]


def journal_faults(dataset: str) -> list[str]:
    """Return what is wrong with the journal, in words; [] for an intact one."""
    return read_chain(journal_path(dataset), Entry)[1]


def champion_of(entries: list[Entry]) -> Champion | None:
    """Return the champion that the last entry names."""
    return entries[-1].champion if entries else None


def champion_age_days(entries: list[Entry]) -> float | None:
    """Return for how many days the champion has been one, or None."""
    champion = champion_of(entries)
    since = [entry.time for entry in entries if champion and entry.seq == champion.since]
    if not since:
        return None
    age = datetime.now(UTC) - datetime.fromisoformat(since[0])
    return round(age.total_seconds() / 86400, 1)


def reference_of(entries: list[Entry]) -> str | None:
    """Return the version that candidates are compared with."""
    return next((each.reference for each in reigns_of(entries)), None)


def reigns_of(entries: list[Entry]) -> Iterator[Reign]:
    """Yield the champion with its reference, then those before it: the targets of rollbacks."""
    while champion := champion_of(entries):
        yield Reign(champion, entries[-1].reference or champion.version)
        entries = [entry for entry in entries if entry.seq < champion.since]


def read_pointer(dataset: str) -> Pointer | None:
    """Return the content of `champion.json`; None for a missing and for a damaged one."""
    try:
        found, is_intact = read_sealed(read_regular(pointer_path(dataset)))
        return Pointer.model_validate(found) if is_intact else None
    except (OSError, ValueError):
        return None


def pointer_fault(dataset: str, entries: list[Entry]) -> str | None:
    """Return how `champion.json` differs from the journal, or None."""
    path, wanted = pointer_path(dataset), _pointer_of(entries)
    if path.exists() == (wanted is not None) and read_pointer(dataset) == wanted:
        return None
    return f"{path.name} {'does not say what the journal says' if path.exists() else 'is missing'}"


def _pointer_of(entries: list[Entry]) -> Pointer | None:
    if champion := champion_of(entries):
        last = entries[-1]
        facts = {"reference": last.reference, "seq": last.seq, "journal": last.digest}
        return Pointer(champion=champion, **facts)
    return None


def write_pointer(dataset: str, entries: list[Entry]) -> None:
    """Write `champion.json` from the journal; without a champion, remove it."""
    path, pointer = pointer_path(dataset), _pointer_of(entries)
    if pointer is None:
        path.unlink(missing_ok=True)
    elif pointer != read_pointer(dataset):
        content = {"version": pointer.champion.version, **pointer.model_dump(mode="json")}
        write_atomically(path, canonical_json(sealed(content)))


def append(
    dataset: str, entries: list[Entry], subject: Candidate | Champion, event: str, **more: Any
) -> None:
    """Append an entry. Unless it is NOT_PROMOTED, its `subject` is champion after it."""
    last, champion = entries[-1] if entries else None, champion_of(entries)
    facts = subject.model_dump(include={"version", "recipe", "accuracy"})
    more = {"seq": last.seq + 1 if last else 1, "reference": reference_of(entries), **more}
    if event not in NOT_PROMOTED:
        since = subject.since if isinstance(subject, Champion) else more["seq"]
        champion = Champion(**facts, since=since)
    time = datetime.now(UTC).isoformat(timespec="seconds")
    entry = Entry(time=time, event=event, champion=champion, **facts, **more)
    entries.append(append_line(journal_path(dataset), entry, last))


def repaired(dataset: str) -> list[Entry]:
    """Return the journal. Where it lost its end, the champion of `champion.json` is adopted."""
    entries, pointer = read_journal(dataset), read_pointer(dataset)
    last = entries[-1].seq if entries else 0
    if pointer is not None and pointer.seq > last:
        lines = f"lines {last + 1} to {pointer.seq} of the journal were lost"
        reason = f"{lines}; {pointer_path(dataset).name} named this version"
        facts = {"reference": pointer.reference, "seq": pointer.seq + 1}
        append(dataset, entries, pointer.champion, ADOPTED, reason=reason, **facts)
    return entries


def follow(dataset: str, entries: list[Entry], *versions: str) -> None:
    """Write the pages of `versions` and of those that new lines concern, then `champion.json`."""
    # New is what follows the line in `champion.json`, since that file is written last.
    pointer, concerned = read_pointer(dataset), {*versions}
    for place, entry in enumerate(entries):
        if pointer is None or entry.seq > pointer.seq:
            champions = (champion_of(entries[:place]), entry.champion)
            concerned |= {each.version for each in (entry, *champions) if each}
    for path, content, _ in stale_pages(dataset, entries, concerned):
        write_atomically(path, content)
    write_pointer(dataset, entries)


def is_unfinished(dataset: str, entries: list[Entry]) -> bool:
    """Return whether the command that wrote the journal's last line was killed after that."""
    if pointer := read_pointer(dataset):
        return bool(entries) and pointer.seq < entries[-1].seq
    had_none = champion_of(entries[:-1]) is None
    return bool(entries) and had_none and not pointer_path(dataset).exists()


def finish(dataset: str) -> None:
    """Complete what a killed command left, if anything."""
    entries = read_journal(dataset)
    if is_unfinished(dataset, entries):
        follow(dataset, entries)
