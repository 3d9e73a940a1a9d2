"""The journal of a data set's releases: one line an event, only ever added to.

Each line holds a digest of itself and that of the line before it, so that one that was changed or
taken out is noticed. A line counts when it is whole: a torn last one, left by a crash, is not read
and is cut off next.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

from pipeline_config.base import Record
from pipeline_config.settings import settings
from tasks.release.gate import Judgement
from tasks.runtime.files import digest_holds, digest_of, fsync_path, storage_errors

logger = logging.getLogger(__name__)

# What the first line has in place of a line before it.
NO_LINE = "0" * 64


class Champion(Record):
    """A champion; `since` is the `seq` of the journal's line that first made it so."""

    version: str
    recipe: str
    accuracy: float
    since: int


class Entry(Record):
    """One line of the journal; `champion` is who holds the title after it.

    `gate` is what was judged, None where nothing was; `why` are the words of whoever decided by
    hand; `digest` covers the rest, and `previous` is that of the line before.
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
    previous: str
    digest: str = ""

    def chained(self, previous: str) -> Entry:
        """The entry behind another one, with its digest."""
        linked = self.model_copy(update={"previous": previous})
        rest = linked.model_dump(mode="json", exclude={"digest"})
        return linked.model_copy(update={"digest": digest_of(rest)})

    def line(self) -> bytes:
        """The entry as one line of JSON with sorted keys."""
        return _line(self.model_dump())


def _line(content: Any) -> bytes:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def journal_path(dataset: str) -> Path:
    """The journal's file."""
    return settings().models / dataset / "journal.jsonl"


def _read_lines(dataset: str) -> tuple[list[Entry | None], bytes]:
    """The entry of each line, None for a damaged one; and what is torn at the end."""
    try:
        *lines, torn = journal_path(dataset).read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], b""
    return [_entry(line) for line in lines], torn


@cache
def _entry(line: bytes) -> Entry | None:
    """The entry of a line, None for a damaged one; a run reads its journal several times."""
    try:
        content = json.loads(line)
        is_whole = _line(content) == line + b"\n" and digest_holds(content)
        return Entry.model_validate(content) if is_whole else None
    except (ValueError, AttributeError):
        return None


def read_journal(dataset: str) -> list[Entry]:
    """The valid entries, oldest first; a torn last line and damaged ones do not count."""
    entries = []
    for number, entry in enumerate(_read_lines(dataset)[0], 1):
        if entry is None:
            logger.warning("%s: line %d is damaged and not counted", journal_path(dataset), number)
        else:
            entries.append(entry)
    return entries


def journal_faults(dataset: str) -> list[str]:
    """What is wrong with the journal, in words, a line a fault; [] for one that is whole.

    A line that says `adopted` tells itself that those before it were lost.
    """
    entries, torn = _read_lines(dataset)
    faults: list[str] = []
    before: Entry | None = None
    for number, entry in enumerate(entries, 1):
        if entry is None:
            faults.append(f"line {number} is damaged")
            continue
        if number == 1 or entries[number - 2] is not None:
            if entry.previous != last_digest(before):
                faults.append(f"line {number} does not follow from the line before it")
            elif entry.seq != next_seq(before) and entry.event != "adopted":
                faults.append(f"line {number} has number {entry.seq}, not {next_seq(before)}")
        before = entry
    return faults + (["its last line is torn; the next decision cuts it off"] if torn else [])


def last_digest(last: Entry | None) -> str:
    """What the line behind `last` has to hold."""
    return last.digest if last else NO_LINE


def next_seq(last: Entry | None) -> int:
    """The number of the line behind `last`."""
    return last.seq + 1 if last else 1


def champion_of(entries: list[Entry]) -> Champion | None:
    """The champion that the journal names: its last line decides."""
    return entries[-1].champion if entries else None


def append_line(path: Path, line: bytes) -> None:
    """Append one line to a file and bring it to disk; a torn last line is cut off first."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_first = not path.exists()
        with path.open("ab+", buffering=0) as file:
            file.seek(0)
            whole = file.read().rfind(b"\n") + 1
            try:
                file.truncate(whole)
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(whole)
                raise
        if is_first:
            fsync_path(path.parent)
