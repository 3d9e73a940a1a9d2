"""Writing a decision down: the journal first, then everything that follows from it.

Every function here is called under the lock of the data set's models.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from pipeline_config.base import Section
from tasks.release.decision_page import stale_pages
from tasks.release.gate import Judgement
from tasks.release.journal import (
    Champion,
    Entry,
    append_line,
    champion_of,
    journal_path,
    last_digest,
    next_seq,
    read_journal,
)
from tasks.release.pointer import pointer_path, read_pointer, repair_pointer
from tasks.runtime.files import write_atomically

# The events of a journal. `kept`: the candidate was not judged, since its recipe does not compete.
PROMOTED, REFUSED, KEPT = "promoted", "refused", "kept"
FORCED, ROLLED_BACK, ADOPTED = "forced", "rolled back", "adopted"


class Candidate(Section):
    """A published version that asks to become champion; `accuracy` is on its own test split."""

    version: str
    recipe: str
    accuracy: float
    competes: bool


def as_champion(entries: list[Entry], candidate: Candidate) -> Champion:
    """A candidate as the champion that the next line makes it."""
    return Champion(
        version=candidate.version,
        recipe=candidate.recipe,
        accuracy=candidate.accuracy,
        since=next_seq(_last(entries)),
    )


def draft(
    entries: list[Entry],
    subject: Candidate | Champion,
    event: str,
    champion: Champion | None,
    reason: str,
    why: str | None = None,
    gate: Judgement | None = None,
) -> Entry:
    """An entry about `subject` that is not chained to the journal yet; `champion` is after it."""
    return Entry(
        seq=next_seq(_last(entries)),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        event=event,
        version=subject.version,
        recipe=subject.recipe,
        accuracy=subject.accuracy,
        champion=champion,
        reason=reason,
        why=why,
        gate=gate,
        previous="",
    )


def _last(entries: list[Entry]) -> Entry | None:
    return entries[-1] if entries else None


def append(dataset: str, entries: list[Entry], entry: Entry) -> Entry:
    """Chain an entry to the last of the journal's `entries` and append it."""
    chained = entry.chained(last_digest(_last(entries)))
    append_line(journal_path(dataset), chained.line())
    return chained


def mended(dataset: str) -> list[Entry]:
    """The journal; where it lost its last lines, the pointer's champion is adopted in a new one."""
    entries = read_journal(dataset)
    pointer = read_pointer(dataset)
    if pointer is None or pointer.seq < next_seq(_last(entries)):
        return entries
    known = entries[-1].seq if entries else 0
    reason = (
        f"lines {known + 1} to {pointer.seq} of the journal were lost; "
        f"{pointer_path(dataset).name} named this version"
    )
    adopted = draft(entries, pointer.champion, ADOPTED, pointer.champion, reason)
    renumbered = adopted.model_copy(update={"seq": pointer.seq + 1})
    return [*entries, append(dataset, entries, renumbered)]


def follow(dataset: str, entries: list[Entry], *versions: str) -> None:
    """Bring the pages and then the pointer in line with the journal.

    Written are the pages of `versions` and of those that later lines than the pointer's name. The
    pointer moves last: its `seq` is the line up to which all is done.
    """
    pointer = read_pointer(dataset)
    concerned = set(_named_after(pointer.seq if pointer else 0, entries))
    for path, content in stale_pages(dataset, entries, sorted({*versions, *concerned})):
        write_atomically(path, content)
    repair_pointer(dataset, entries)


def _named_after(seq: int, entries: list[Entry]) -> Iterator[str]:
    """The versions whose standing the lines after number `seq` may have changed."""
    for place, entry in enumerate(entries):
        if entry.seq > seq:
            champions = (champion_of(entries[:place]), entry.champion)
            yield entry.version
            yield from (champion.version for champion in champions if champion)


def is_unfinished(dataset: str, entries: list[Entry]) -> bool:
    """Whether the command that wrote the journal's last line was killed before `follow` ended."""
    pointer = read_pointer(dataset)
    if pointer is not None:
        return pointer.seq < next_seq(_last(entries)) - 1
    is_gone = not pointer_path(dataset).exists()
    return bool(entries) and is_gone and champion_of(entries[:-1]) is None


def finish(dataset: str) -> None:
    """Do what a killed command left undone, if anything."""
    entries = read_journal(dataset)
    if is_unfinished(dataset, entries):
        follow(dataset, entries)
