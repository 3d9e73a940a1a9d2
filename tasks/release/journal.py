"""The records of a data set's releases: journal, looks at the test rows, and the champion's file.

`journal.jsonl` has a line for each decision, and `looks.jsonl` one for each scoring of the test
rows: the more often they are looked at, the less the next figure on them proves. Both are chains
(`tasks/runtime/chain.py`). `champion.json` repeats the journal's last line for other programs. The
journal decides, unless it is shorter than `champion.json` says: then it has lost its end.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from pipeline_config.sections import Record
from pipeline_config.settings import settings
from tasks.release.gate import Judgement
from tasks.runtime.chain import Line, append_line, chain_faults, read_chain
from tasks.runtime.files import canonical_json, write_atomically
from tasks.runtime.manifest import read_regular, read_sealed, sealed

logger = logging.getLogger(__name__)

# The events of a journal. `kept`: not judged, since the recipe does not compete. `adopted`: the
# journal had lost its end, and `champion.json` named this version.
PROMOTED, REFUSED, KEPT = "promoted", "refused", "kept"
FORCED, ROLLED_BACK, ADOPTED = "forced", "rolled back", "adopted"


class Champion(Record):
    """A champion. `since` is the `seq` of the journal's line that first made it champion."""

    version: str
    recipe: str
    accuracy: float
    since: int


class Entry(Line):
    """A line of the journal. `champion` is the champion after it.

    `gate` is the judgement, if there was one; `why` is the reason that a person gave.
    """

    seq: int
    time: str
    event: str
    version: str
    recipe: str
    accuracy: float
    champion: Champion | None
    reason: str
    why: str | None = None
    gate: Judgement | None = None


class Pointer(Record):
    """The content of `champion.json`: the champion, and the journal's last line by number, digest.

    The file also has `version` at its top, for other programs.
    """

    champion: Champion
    seq: int
    journal: str


class Look(Line):
    """One scoring of `networks` networks on the test rows, by evaluate, the gate or reproduce.

    `rows` is the digest of the test rows; a `key` is counted once.
    """

    may_lack_digest: ClassVar[bool] = True
    time: str
    by: str
    recipe: str
    version: str
    networks: int
    rows: str
    key: str


def record_path(dataset: str, name: str) -> Path:
    """Return the path of `journal.jsonl`, `looks.jsonl` or `champion.json` of a data set."""
    return settings().models / dataset / name


def journal_path(dataset: str) -> Path:
    """Return the path of a data set's journal."""
    return record_path(dataset, "journal.jsonl")


def read_journal(dataset: str) -> list[Entry]:
    """Return the intact entries, oldest first. Damaged lines are skipped with a warning."""
    lines = read_chain(journal_path(dataset), Entry)
    for number in (number for number, entry in enumerate(lines, 1) if entry is None):
        logger.warning("%s: line %d is damaged and skipped", journal_path(dataset), number)
    return [entry for entry in lines if entry is not None]


def journal_faults(dataset: str) -> list[str]:
    """Return what is wrong with the journal, in words; [] for an intact one.

    An adopted line follows a gap in the numbers, which its reason explains.
    """
    faults = chain_faults(journal_path(dataset), Entry)
    last: int | None = 0
    for number, entry in enumerate(read_chain(journal_path(dataset), Entry), 1):
        if entry and last is not None and entry.seq != last + 1 and entry.event != ADOPTED:
            faults.append(f"line {number} has number {entry.seq}, not {last + 1}")
        last = entry.seq if entry else None
    return faults


def champion_of(entries: list[Entry]) -> Champion | None:
    """Return the champion that the last entry names."""
    return entries[-1].champion if entries else None


def next_seq(entries: list[Entry]) -> int:
    """Return the number of the line behind the last entry."""
    return entries[-1].seq + 1 if entries else 1


def append_entry(dataset: str, entries: list[Entry], entry: Entry) -> None:
    """Append an entry to the journal and to `entries`. The caller holds the data set's lock."""
    last = entries[-1] if entries else None
    entries.append(append_line(journal_path(dataset), entry, last))


def pointer_path(dataset: str) -> Path:
    """Return the path of a data set's `champion.json`."""
    return record_path(dataset, "champion.json")


def read_pointer(dataset: str) -> Pointer | None:
    """Return the content of `champion.json`; None for a missing and for a damaged one."""
    try:
        found, is_intact = read_sealed(read_regular(pointer_path(dataset)))
        return Pointer.model_validate(found) if is_intact else None
    except (OSError, ValueError):
        return None


def _pointer_of(entries: list[Entry]) -> Pointer | None:
    champion = champion_of(entries)
    if champion is None:
        return None
    return Pointer(champion=champion, seq=entries[-1].seq, journal=entries[-1].digest)


def pointer_fault(dataset: str, entries: list[Entry]) -> str | None:
    """Return how `champion.json` differs from the journal, or None."""
    path, wanted = pointer_path(dataset), _pointer_of(entries)
    if not path.exists():
        return None if wanted is None else f"{path.name} is missing"
    is_right = wanted is not None and read_pointer(dataset) == wanted
    return None if is_right else f"{path.name} does not say what the journal says"


def write_pointer(dataset: str, entries: list[Entry]) -> None:
    """Write `champion.json` from the journal; without a champion, remove it."""
    path, pointer = pointer_path(dataset), _pointer_of(entries)
    if pointer is None:
        path.unlink(missing_ok=True)
        return
    content = canonical_json(
        sealed({"version": pointer.champion.version, **pointer.model_dump(mode="json")})
    )
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content)


def read_looks(dataset: str) -> list[Look]:
    """Return every look at the test rows, oldest first. A damaged line is skipped."""
    lines = read_chain(record_path(dataset, "looks.jsonl"), Look)
    return [look for look in lines if look is not None]


def looks_faults(dataset: str) -> list[str]:
    """Return what is wrong with the list of looks, in words; [] for an intact one."""
    return chain_faults(record_path(dataset, "looks.jsonl"), Look)


def count_look(
    dataset: str, by: str, recipe: str, version: str, networks: int, rows: str, key: str
) -> None:
    """Append a look, unless its key is there. The caller holds the data set's lock."""
    looks = read_looks(dataset)
    if any(look.key == key for look in looks):
        return
    time = datetime.now(UTC).isoformat(timespec="seconds")
    look = Look(
        time=time, by=by, recipe=recipe, version=version, networks=networks, rows=rows, key=key
    )
    append_line(record_path(dataset, "looks.jsonl"), look, looks[-1] if looks else None)


def looks_in_words(dataset: str) -> str:
    """Return how often the test rows were scored so far, in a sentence."""
    looks = read_looks(dataset)
    versions, recipes = {look.version for look in looks}, {look.recipe for look in looks}
    return (
        f"Looks at the test rows: {len(looks)}; versions: {len(versions)}; recipes: "
        f"{len(recipes)}; networks scored: {sum(look.networks for look in looks)}."
    )
