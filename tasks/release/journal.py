"""The journal of a data set's releases: one line an event, only ever added to.

A line counts when it is whole: a torn last one, left by a crash, is not read and is cut off next.
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
from tasks.runtime.files import fsync_path, storage_errors

logger = logging.getLogger(__name__)


class Champion(Section):
    """The pointer; `since` is the `seq` of the journal's line that made it champion."""

    version: str
    recipe: str
    accuracy: float
    since: int


class Entry(Section):
    """One line of the journal; `champion` is the pointer as it stands after it."""

    seq: int
    time: str
    event: str
    version: str
    recipe: str
    accuracy: float
    champion: Champion | None
    reason: str

    def line(self) -> bytes:
        """The entry as one line of JSON with sorted keys."""
        text = json.dumps(self.model_dump(), sort_keys=True, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()


def journal_path(dataset: str) -> Path:
    """The journal's file."""
    return settings().models / dataset / "journal.jsonl"


def read_journal(dataset: str) -> list[Entry]:
    """The valid entries, oldest first; a torn last line and damaged ones do not count."""
    try:
        content = journal_path(dataset).read_bytes()
    except FileNotFoundError:
        return []
    entries: list[Entry] = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            entry = Entry.model_validate_json(line)
            is_whole = entry.line() == line + b"\n"
        except ValidationError:
            is_whole = False
        if is_whole:
            entries.append(entry)
        else:
            logger.warning("%s: line %d is damaged and not counted", journal_path(dataset), number)
    return entries


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
