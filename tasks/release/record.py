"""Recording a decision: the journal's line first, then the pages, then `champion.json`.

The caller of each function holds the data set's lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from pipeline_config.sections import Section
from tasks.release.decision_page import stale_pages
from tasks.release.gate import Judgement
from tasks.release.journal import (
    ADOPTED,
    Champion,
    Entry,
    append_entry,
    champion_of,
    next_seq,
    pointer_path,
    read_journal,
    read_pointer,
    write_pointer,
)
from tasks.runtime.files import write_atomically


class Candidate(Section):
    """A published version that may become champion. `accuracy` is on its own test split."""

    version: str
    recipe: str
    accuracy: float
    competes: bool


def as_champion(entries: list[Entry], candidate: Candidate) -> Champion:
    """Return the champion that a candidate becomes in the next line."""
    given = candidate.model_dump(exclude={"competes"})
    return Champion(**given, since=next_seq(entries))


def append(
    dataset: str,
    entries: list[Entry],
    subject: Candidate | Champion,
    event: str,
    champion: Champion | None,
    reason: str,
    why: str | None = None,
    gate: Judgement | None = None,
    seq: int | None = None,
) -> None:
    """Append an entry about `subject`; `champion` is the champion after it."""
    entry = Entry(
        seq=seq or next_seq(entries),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        event=event,
        version=subject.version,
        recipe=subject.recipe,
        accuracy=subject.accuracy,
        champion=champion,
        reason=reason,
        why=why,
        gate=gate,
    )
    append_entry(dataset, entries, entry)


def repaired(dataset: str) -> list[Entry]:
    """Return the journal. Where it lost its end, the champion of `champion.json` is adopted."""
    entries, pointer = read_journal(dataset), read_pointer(dataset)
    if pointer is not None and pointer.seq >= next_seq(entries):
        reason = (
            f"lines {next_seq(entries)} to {pointer.seq} of the journal were lost; "
            f"{pointer_path(dataset).name} named this version"
        )
        champion = pointer.champion
        append(dataset, entries, champion, ADOPTED, champion, reason, seq=pointer.seq + 1)
    return entries


def follow(dataset: str, entries: list[Entry], *versions: str) -> None:
    """Write the pages and then `champion.json` from the journal.

    Written are the pages of `versions`, and of those in lines after the number in `champion.json`.
    That file is written last, so its number is the line up to which everything is done.
    """
    pointer = read_pointer(dataset)
    concerned = {*versions, *_concerned(pointer.seq if pointer else 0, entries)}
    for path, content in stale_pages(dataset, entries, sorted(concerned)):
        write_atomically(path, content)
    write_pointer(dataset, entries)


def _concerned(seq: int, entries: list[Entry]) -> Iterator[str]:
    """Yield the versions whose standing the lines after number `seq` may have changed."""
    for place, entry in enumerate(entries):
        if entry.seq > seq:
            champions = (champion_of(entries[:place]), entry.champion)
            yield entry.version
            yield from (champion.version for champion in champions if champion)


def is_unfinished(dataset: str, entries: list[Entry]) -> bool:
    """Return whether the command that wrote the journal's last line was killed after that."""
    pointer = read_pointer(dataset)
    if pointer is not None:
        return pointer.seq < next_seq(entries) - 1
    is_gone = not pointer_path(dataset).exists()
    return bool(entries) and is_gone and champion_of(entries[:-1]) is None


def finish(dataset: str) -> None:
    """Complete what a killed command left, if anything. The caller holds the lock."""
    entries = read_journal(dataset)
    if is_unfinished(dataset, entries):
        follow(dataset, entries)
