"""Writing a decision down: the journal first, then everything that follows from it.

Every function here is called under the lock of the data set's models.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pipeline_config.base import Section
from tasks.release.decision_page import refresh_pages
from tasks.release.gate import Judgement
from tasks.release.journal import (
    Champion,
    Entry,
    append_line,
    journal_path,
    last_digest,
    next_seq,
    read_journal,
)
from tasks.release.pointer import pointer_path, read_pointer, repair_pointer

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


def follow(dataset: str, entries: list[Entry]) -> None:
    """Bring the pointer and the pages in line with the journal."""
    repair_pointer(dataset, entries)
    refresh_pages(dataset, entries)
