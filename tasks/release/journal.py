"""The journal of a data set's releases: one line an event, only ever added to.

Each line holds the SHA-256 of the one before it, so that a line that was changed or taken out is
noticed. A line counts when it is whole: a torn last one, left by a crash, is not read and is cut
off next.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

from pydantic import ValidationError

from pipeline_config.base import Section
from pipeline_config.settings import settings
from tasks.release.gate import Judgement
from tasks.runtime.files import fsync_path, sha256_bytes, storage_errors

logger = logging.getLogger(__name__)

# What the first line has in place of a line before it.
NO_LINE = "0" * 64


class Champion(Section):
    """A champion; `since` is the `seq` of the journal's line that first made it so."""

    version: str
    recipe: str
    accuracy: float
    since: int


class Entry(Section):
    """One line of the journal; `champion` is who holds the title after it.

    `gate` is what was judged, None where nothing was; `why` are the words of whoever decided by
    hand; `previous` is the SHA-256 of the line before.
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

    def line(self) -> bytes:
        """The entry as one line of JSON with sorted keys."""
        text = json.dumps(self.model_dump(), sort_keys=True, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()

    @property
    def sha256(self) -> str:
        """The SHA-256 of the line."""
        return sha256_bytes(self.line())


def journal_path(dataset: str) -> Path:
    """The journal's file."""
    return settings().models / dataset / "journal.jsonl"


def _read_lines(dataset: str) -> tuple[list[tuple[bytes, Entry | None]], bytes]:
    """Each whole line with its entry, None for a damaged one; and what is torn at the end."""
    try:
        *lines, torn = journal_path(dataset).read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], b""
    return [(line + b"\n", _entry(line)) for line in lines], torn


def _entry(line: bytes) -> Entry | None:
    try:
        entry = Entry.model_validate_json(line)
    except ValidationError:
        return None
    return entry if entry.line() == line + b"\n" else None


def read_journal(dataset: str) -> list[Entry]:
    """The valid entries, oldest first; a torn last line and damaged ones do not count."""
    entries = []
    for number, (_, entry) in enumerate(_read_lines(dataset)[0], 1):
        if entry is None:
            logger.warning("%s: line %d is damaged and not counted", journal_path(dataset), number)
        else:
            entries.append(entry)
    return entries


def journal_faults(dataset: str) -> list[str]:
    """What is wrong with the journal, in words, a line a fault; [] for one that is whole.

    A line that says `adopted` tells itself that those before it were lost.
    """
    lines, torn = _read_lines(dataset)
    faults = []
    previous, seq = NO_LINE, 0
    for number, (line, entry) in enumerate(lines, 1):
        if entry is None:
            faults.append(f"line {number} is damaged")
        else:
            if entry.previous != previous:
                faults.append(f"line {number} does not follow from the line before it")
            if entry.seq != seq + 1 and entry.event != "adopted" and entry.previous == previous:
                faults.append(f"line {number} has number {entry.seq} instead of {seq + 1}")
            seq = entry.seq
        previous = sha256_bytes(line)
    return faults + (["its last line is torn; the next run cuts it off"] if torn else [])


def champion_of(entries: list[Entry]) -> Champion | None:
    """The champion that the journal names: its last line decides."""
    return entries[-1].champion if entries else None


def last_sha256(dataset: str) -> str:
    """The SHA-256 of the last whole line, which the next one has to hold."""
    lines, _ = _read_lines(dataset)
    return sha256_bytes(lines[-1][0]) if lines else NO_LINE


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
